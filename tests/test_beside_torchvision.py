"""Networks, detectors and operators beside the real torchvision: skipped where that cannot be imported.

``tests/golden`` holds what nine of its networks give; this needs no record. torchvision does not import beside a CPU
build of torch from PyPI.
"""

import itertools

import pytest
import torch
from torch import nn

import byhand
from byhand import by_hand, ops

try:
    import torchvision
    from torchvision.models import detection
    from torchvision.models.detection import _utils as detection_utils
    from torchvision.models.detection import anchor_utils, image_list, roi_heads
except Exception as error:  # of many kinds: a missing package, a library, an operator
    pytest.skip(f"torchvision cannot be imported: {error}", allow_module_level=True)

CLASSIFIERS = [network.name for network in byhand.models.NETWORKS if hasattr(torchvision.models, network.name)]
DETECTORS = ("fasterrcnn_resnet50_fpn", "fasterrcnn_mobilenet_v3_large_fpn", "maskrcnn_resnet50_fpn")


def relative(mine: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((mine - theirs).abs().max() / theirs.abs().max())


def entries(model: nn.Module) -> list[tuple[str, torch.Size]]:
    return [(key, value.shape) for key, value in model.state_dict().items()]


def with_statistics(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """The model with running statistics that are not 0 and 1."""
    for key, value in model.state_dict().items():
        if key.endswith("running_mean"):
            value.copy_(0.1 * torch.randn(value.shape, generator=generator))
        elif key.endswith("running_var"):
            value.copy_(0.7 + 0.6 * torch.rand(value.shape, generator=generator))
    return model


def test_all_networks_that_both_have_are_compared():
    assert len(CLASSIFIERS) == 26


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_has_torchvisions_keys_and_gives_its_logits_in_both_hands(name):
    generator = torch.Generator().manual_seed(0)
    options = {"init_weights": True} if name == "googlenet" else {}
    theirs = with_statistics(getattr(torchvision.models, name)(weights=None, **options), generator).eval()
    mine = getattr(byhand.models, name)().eval()
    assert entries(mine) == entries(theirs)
    mine.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 96, 96, generator=generator)
    with torch.no_grad():
        logits = theirs(x)
        assert relative(mine(x), logits) < 1e-4
        assert relative(by_hand(mine)(x), logits) < 1e-4
        assert relative(by_hand(theirs)(x), logits) < 1e-4  # their own code runs by hand too


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_in_training_has_torchvisions_losses_where_all_samples_learn(name):
    torch.manual_seed(0)
    all_learn = {f"{part}_{what}" for part in ("rpn", "box") for what in ("batch_size_per_image", "positive_fraction")}
    options = {option: 1.0 if "fraction" in option else 10**6 for option in all_learn}
    options |= {"num_classes": 5, "min_size": 160, "max_size": 240}
    theirs = getattr(detection, name)(weights=None, weights_backbone=None, **options).train()
    mine = getattr(byhand.models, name)(frozen_norm=False, **options).train()
    assert entries(mine) == entries(theirs)
    mine.load_state_dict(theirs.state_dict())
    images, targets = [], []
    for H, W in ((150, 200), (180, 120)):
        boxes = torch.tensor([[0.1, 0.2, 0.5, 0.6], [0.3, 0.1, 0.9, 0.8], [0.6, 0.6, 0.9, 0.9]]) * torch.tensor(
            [W, H] * 2
        )
        masks = torch.zeros(3, H, W, dtype=torch.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
            mask[y1:y2, x1:x2] = 1
        images.append(torch.rand(3, H, W))
        targets.append(
            {"boxes": boxes, "labels": torch.tensor([1, 4, 2])} | ({"masks": masks} if "mask" in name else {})
        )
    mine_lost, theirs_lost = mine(images, targets), theirs(images, targets)
    assert mine_lost.keys() == theirs_lost.keys()
    for key, loss in theirs_lost.items():
        torch.testing.assert_close(mine_lost[key], loss, rtol=1e-4, atol=1e-6)


def calibrated(name: str, images: list[torch.Tensor], num_classes: int) -> nn.Module:
    """torchvision's detector with batch normalisation of these images' statistics and scores that differ."""
    torch.manual_seed(0)
    model = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=num_classes)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean of all that it sees
    with torch.no_grad():
        model.eval().backbone.train()
        model.backbone(model.transform(images)[0].tensors)
        model.eval()
        predictor, found = model.roi_heads.box_predictor, []
        for layer, scale in (
            (model.rpn.head.cls_logits, 0.05),
            (model.rpn.head.bbox_pred, 0.02),
            (predictor.bbox_pred, 0.02),
        ):
            layer.weight.normal_(0, scale)
        handle = predictor.cls_score.register_forward_hook(lambda module, args, logits: found.append(logits))
        model(images)
        handle.remove()
        predictor.cls_score.weight *= 2 / found[0].std(0).mean()
    return model


@pytest.mark.parametrize("norms", ["frozen", "learned"])
@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_finds_what_torchvisions_finds_with_the_same_weights(name, norms, monkeypatch):
    generator = torch.Generator().manual_seed(1)
    images = [torch.rand(3, 12, 16, generator=generator), torch.rand(3, 10, 13, generator=generator)]
    images = [
        nn.functional.interpolate(image[None], scale_factor=20, mode="bicubic")[0].clamp(0, 1) for image in images
    ]
    theirs = calibrated(name, images, num_classes=6)
    content = theirs.state_dict()
    if norms == "frozen":  # as published weights are loaded
        content = {key: value for key, value in content.items() if not key.endswith("num_batches_tracked")}
        kind = {"fasterrcnn_resnet50_fpn": "FasterRCNN_ResNet50_FPN", "maskrcnn_resnet50_fpn": "MaskRCNN_ResNet50_FPN"}
        weights = getattr(detection, f"{kind.get(name, 'FasterRCNN_MobileNet_V3_Large_FPN')}_Weights").COCO_V1
        monkeypatch.setitem(weights.meta, "categories", [""] * 6)
        monkeypatch.setattr(type(weights), "get_state_dict", lambda *_, **__: content)
        theirs = getattr(detection, name)(weights=weights).eval()
    mine = getattr(byhand.models, name)(num_classes=6).eval()
    mine.load_state_dict(content)
    with torch.no_grad():
        expected = theirs(images)
        for found in (mine(images), by_hand(mine)(images)):
            for one, other in zip(found, expected, strict=True):
                assert_same_objects(one, other)


def assert_same_objects(mine: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    """The same objects, in whatever order those come whose scores are equal up to rounding."""
    assert len(theirs["boxes"]) > 10
    assert len(mine["boxes"]) == len(theirs["boxes"])
    apart = (mine["boxes"][:, None] - theirs["boxes"]).abs().amax(2)
    apart[mine["labels"][:, None] != theirs["labels"]] = torch.inf
    least, which = apart.min(0)
    last = theirs["scores"][-1] + 1e-3  # among those at the end another may have been taken
    assert bool(((least < 0.1) | (theirs["scores"] < last)).all())
    close = least < 0.1
    assert float((mine["scores"][which] - theirs["scores"])[close].abs().max()) < 1e-3
    if "masks" in theirs:
        difference = (mine["masks"][which][close] - theirs["masks"][close]).abs()
        assert float((difference > 1e-2).float().mean()) < 1e-4  # pixels at the edge of a rounded box


def random_boxes(number: int, size: float, generator: torch.Generator) -> torch.Tensor:
    corner = torch.rand(number, 2, generator=generator) * size
    return torch.cat([corner, corner + 1 + torch.rand(number, 2, generator=generator) * size / 4], 1)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("number", [0, 1, 300, 5000])
def test_nms_keeps_the_boxes_that_torchvision_keeps(number, threshold):
    generator = torch.Generator().manual_seed(number)
    boxes, scores = random_boxes(number, 300, generator), torch.rand(number, generator=generator)
    assert torch.equal(ops.nms(boxes, scores, threshold), torchvision.ops.nms(boxes, scores, threshold))


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sampling_ratio", [-1, 0, 1, 2, 3])
def test_regions_are_pooled_and_aligned_as_in_torchvision(sampling_ratio, aligned):
    generator = torch.Generator().manual_seed(0)
    x, boxes = torch.randn(2, 3, 20, 25, generator=generator), random_boxes(40, 300, generator)
    rois = torch.cat([torch.randint(0, 2, (40, 1), generator=generator), boxes - 20], 1)  # some reach beyond the map
    values, gradients = [], []
    for library in (ops, torchvision.ops):
        leaf = x.clone().requires_grad_()
        values.append(library.roi_align(leaf, rois, (5, 7), 1 / 16, sampling_ratio, aligned))
        values[-1].square().sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*values, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)
    assert torch.equal(ops.roi_pool(x, rois, (5, 7), 1 / 16), torchvision.ops.roi_pool(x, rois, (5, 7), 1 / 16))


@pytest.mark.parametrize("seed", range(5))
def test_operations_on_boxes_are_those_of_torchvision(seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = (random_boxes(number, 100, generator) - 10 for number in (50, 60))
    for name in ("box_iou", "generalized_box_iou"):
        torch.testing.assert_close(getattr(ops, name)(a, b), getattr(torchvision.ops, name)(a, b))
    for before, after in itertools.product(("xyxy", "xywh", "cxcywh"), repeat=2):
        torch.testing.assert_close(
            ops.box_convert(a, before, after), torchvision.ops.box_convert(a, before, after), msg=f"{before} {after}"
        )
    torch.testing.assert_close(ops.box_area(a), torchvision.ops.box_area(a))
    assert torch.equal(ops.clip_boxes_to_image(a, (70, 40)), torchvision.ops.clip_boxes_to_image(a, (70, 40)))
    assert torch.equal(ops.remove_small_boxes(a, 9.0), torchvision.ops.remove_small_boxes(a, 9.0))
    classes, scores = torch.randint(0, 4, (60,), generator=generator), torch.rand(60, generator=generator)
    assert torch.equal(ops.batched_nms(b, scores, classes, 0.3), torchvision.ops.batched_nms(b, scores, classes, 0.3))


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_offsets_and_matches_are_those_of_torchvision(weights):
    generator = torch.Generator().manual_seed(0)
    truth, proposals = random_boxes(80, 200, generator), random_boxes(80, 200, generator)
    coder = detection_utils.BoxCoder(weights)
    torch.testing.assert_close(
        ops.encode_boxes(truth, proposals, weights), coder.encode_single(truth, proposals), rtol=1e-4, atol=1e-4
    )
    offsets = 8 * torch.randn(80, 4 * 3, generator=generator)  # some reach the clamp
    torch.testing.assert_close(
        ops.decode_boxes(offsets, proposals, weights), coder.decode_single(offsets, proposals), rtol=1e-4, atol=1e-3
    )
    iou = ops.box_iou(truth[:6], proposals)
    for high, low, best_too in ((0.7, 0.3, True), (0.5, 0.5, False)):
        matcher = detection_utils.Matcher(high, low, best_too)
        assert torch.equal(ops.match_boxes(iou, high, low, best_too), matcher(iou))


@pytest.mark.parametrize("levels", [1, 2, 4])
@pytest.mark.parametrize("sampling_ratio", [-1, 2])
def test_regions_on_a_pyramid_are_those_of_torchvision(levels, sampling_ratio):
    generator = torch.Generator().manual_seed(0)
    maps = {str(k): torch.randn(2, 3, 64 >> k, 80 >> k, generator=generator) for k in range(levels)}
    boxes, sizes = [random_boxes(number, 250, generator) for number in (20, 1)], [(256, 320), (200, 310)]
    pooler = torchvision.ops.MultiScaleRoIAlign(list(maps), 7, sampling_ratio)
    mine = ops.multiscale_roi_align(maps, boxes, (7, 7), sampling_ratio, sizes)
    torch.testing.assert_close(mine, pooler(maps, boxes, sizes), rtol=1e-4, atol=1e-5)


def test_anchors_and_pasted_masks_are_those_of_torchvision():
    generator = torch.Generator().manual_seed(0)
    sizes, ratios, grids = ((16, 32), (64,)), ((0.5, 1.0, 2.0), (1.0,)), [(7, 9), (3, 4)]
    images = image_list.ImageList(torch.zeros(1, 3, 113, 150), [(113, 150)])
    expected = anchor_utils.AnchorGenerator(sizes, ratios)(images, [torch.zeros(1, 1, *grid) for grid in grids])[0]
    assert torch.equal(ops.anchor_boxes(sizes, ratios, (113, 150), grids), expected)
    masks, boxes = (
        torch.rand(30, 1, 28, 28, generator=generator),
        random_boxes(30, 60, generator) - 5,
    )  # all touch the image, as they must there
    torch.testing.assert_close(
        ops.paste_masks_in_image(masks, boxes, (70, 80)), roi_heads.paste_masks_in_image(masks, boxes, (70, 80))
    )
