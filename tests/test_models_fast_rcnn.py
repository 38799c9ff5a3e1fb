"""Fast R-CNN: its loss and its pooling from torch's pieces, the paper's count, its proposals, and both hands."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from against_torch import assert_refused, random
from torch import nn

from byhand import models, ops
from byhand.errors import SettingsError, ShapeError, TargetError
from byhand.models.detection_images import ImageBatch
from byhand.models.detector_layers import DetectorLayers
from byhand.models.fast_rcnn import FastRCNN
from byhand.models.proposals import SelectiveSearch
from byhand.models.roi_heads import RoIMaxPooler
from byhand.nn import by_hand
from byhand.proof import prove


class Boxes(nn.Module):
    """Stands where selective search does: the same boxes in every image."""

    def __init__(self, *boxes):
        super().__init__()
        self.boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)

    def forward(self, image):
        return self.boxes


class Looking(nn.Module):
    """A backbone that hands on the image in half its size: the largest of 2 × 2 pixels."""

    out_channels = 3

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return {"0": F.max_pool2d(x * self.scale, 2)}


class Saying(nn.Module):
    """A predictor that says the same of every box: these logits, and offsets of no size but those given."""

    def __init__(self, logits, offsets=None):
        super().__init__()
        self.cls_score, self.bbox_pred = nn.Linear(1, len(logits)), nn.Linear(1, 4 * len(logits))
        with torch.no_grad():
            self.cls_score.weight.zero_()
            self.bbox_pred.weight.zero_()
            self.cls_score.bias.copy_(torch.tensor(logits))
            self.bbox_pred.bias.copy_(torch.tensor(offsets or [0.0] * 4 * len(logits)))

    def forward(self, x):
        one = x.flatten(1)[:, :1]
        return self.cls_score(one), self.bbox_pred(one)


def seeded(seed=0, **options):
    """The small network for tiny images in float64, with its own generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        given = {"num_classes": 3, "width": 8, "min_size": 64, "max_size": 64}
        model = models.build("fastrcnn_small", **given | options).double()
    model.generator = torch.Generator().manual_seed(seed)
    return model


def plain(predictor, proposals, size=64, **options):
    """A detector whose every part is known: images keep their size and colours, its backbone has nothing to learn."""
    given = {"min_size": size, "max_size": size, "image_mean": (0, 0, 0), "image_std": (1, 1, 1)}
    return FastRCNN(
        Looking(), 3, proposals=proposals, box_head=nn.Identity(), box_predictor=predictor, **given | options
    )


def scene(dtype=torch.float64):
    """Two images of 64 × 64 and their targets: squares of one colour on a dark ground with soft noise."""
    images, targets = [], []
    for i, boxes in enumerate([[[8, 10, 30, 34], [36, 30, 60, 56]], [[20, 12, 44, 40]]]):
        image = 0.1 + 0.02 * random(3, 64, 64, dtype=dtype, seed=i)
        for k, (x1, y1, x2, y2) in enumerate(boxes):
            image[k, y1:y2, x1:x2] += 0.7
        images.append(image.clamp(0, 1))
        targets.append({"boxes": torch.tensor(boxes, dtype=dtype), "labels": torch.arange(len(boxes)) + 1})
    return images, targets


# Proposals


def test_proposals_are_selective_searchs_of_the_image_in_bytes():
    image = scene(torch.float32)[0][0]
    pixels = (image * 255).round().to(torch.uint8)
    found = SelectiveSearch()(image)
    assert torch.equal(found, ops.selective_search(pixels))
    assert len(found) > 10
    assert torch.equal(SelectiveSearch(limit=7)(image), found[:7])
    few = SelectiveSearch(scales=(100.0,), min_size=40)(image)
    assert torch.equal(few, ops.selective_search(pixels, scales=(100.0,), min_size=40))
    assert list(SelectiveSearch().state_dict()) == list(SelectiveSearch().parameters()) == []


@pytest.fixture
def searched(monkeypatch):
    """The images that were really searched, by their shape."""
    shapes = []

    def search(image, *settings):
        shapes.append(tuple(image.shape[1:]))
        return ops.selective_search(image, *settings)

    monkeypatch.setattr("byhand.models.proposals.selective_search", search)
    return shapes


def test_an_image_is_searched_once_and_its_boxes_cannot_be_spoilt(searched):
    search, (first, second) = SelectiveSearch(), scene(torch.float32)[0]
    found = search(first)
    wanted = found.clone()
    found += 1
    assert torch.equal(search(first), wanted)
    assert torch.equal(search(first.clone().double()), wanted)
    assert len(searched) == 1
    search(second)
    search(first.flip(2))  # mirrored it is another image, remembered for itself
    search(first.flip(2))
    assert len(searched) == 3
    search(first[:, :32].reshape(3, 64, 32))  # the same bytes as of 32 × 64, in another shape
    search(first[:, :32])
    assert searched[3:] == [(64, 32), (32, 64)]


def test_copies_share_the_memory_which_has_an_end(searched):
    images = scene(torch.float32)[0]
    model = seeded(proposals=SelectiveSearch(remember=1)).float().eval()
    model(images[:1])
    for other in (copy.deepcopy(model), by_hand(model)):
        other(images[:1])
        assert other.proposals.memory is model.proposals.memory
    assert len(searched) == 1
    for _ in range(2):  # beyond the one that is remembered
        model(images[1:])
    assert len(searched) == 3
    model.proposals.recalls = False
    model(images[:1])
    assert len(searched) == 4


def test_a_large_image_is_searched_in_a_smaller_size(searched):
    image = F.interpolate(scene(torch.float32)[0][0][None], size=(64, 256), mode="nearest")[0]
    found = SelectiveSearch(longest=128)(image)
    assert searched == [(32, 128)]
    small = F.interpolate(image[None], size=(32, 128), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(found, 2 * ops.selective_search((small * 255).round().to(torch.uint8)))
    assert found[0].tolist() == [0, 0, 256, 64]
    assert SelectiveSearch(longest=20)(torch.rand(3, 1, 300, generator=torch.Generator().manual_seed(0))).shape[1] == 4


def test_what_cannot_be_searched_is_refused():
    assert_refused(ShapeError, lambda: SelectiveSearch()(torch.zeros(1, 8, 8)), (1, 8, 8))
    assert_refused(ShapeError, lambda: SelectiveSearch()(torch.zeros(3, 8, 8, dtype=torch.uint8)), "uint8")
    assert_refused(SettingsError, lambda: SelectiveSearch(limit=0), "limit=0")


# Pooling


def pooled_by_hand(x, box, size, scale):
    """One box on a map (C, H, W), bin by bin; corners rounded, both counted."""
    x1, y1, x2, y2 = (math.floor(value * scale + 0.5) for value in box)
    height, width = max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1)
    y = torch.zeros(len(x), size, size, dtype=x.dtype)
    for p in range(size):
        for q in range(size):
            rows = slice(max(y1 + p * height // size, 0), max(y1 - (-(p + 1) * height // size), 0))
            columns = slice(max(x1 + q * width // size, 0), max(x1 - (-(q + 1) * width // size), 0))
            part = x[:, rows, columns]
            if part.numel():
                y[:, p, q] = part.amax((1, 2))
    return y


def test_features_are_pooled_on_the_one_map_bin_by_bin():
    x, boxes = random(2, 4, 8, 16), [[3.0, 5.0, 60.0, 30.0], [0.0, 0.0, 8.0, 8.0], [100.0, 20.0, 128.0, 64.0]]
    given = [torch.tensor(boxes[:2]), torch.tensor(boxes[2:])]
    found = RoIMaxPooler(3)({"0": x}, given, (64, 128))  # a map of stride 8
    assert found.shape == (3, 4, 3, 3)
    for k, box in enumerate(boxes):
        assert torch.equal(found[k], pooled_by_hand(x[k // 2], box, 3, 1 / 8))
    assert_refused(ShapeError, lambda: RoIMaxPooler(3)({"0": x, "1": x}, given, (64, 128)), "0, 1")


# Losses


def test_the_losses_are_equations_1_to_3_from_torchs_pieces():
    image, truth = random(3, 64, 64).abs(), [[10.0, 10.0, 40.0, 40.0]]
    near, far = [12.0, 12.0, 42.0, 38.0], [30.0, 30.0, 60.0, 60.0]  # IoU 0.72, and 100 / 1700 = 0.06: not drawn
    half = [10.0, 10.0, 40.0, 22.0]  # IoU 0.4: background
    model = plain(Saying([0.1, 0.3, -0.2], [0.2] * 12), Boxes(near, far, half)).double()
    target = {"boxes": torch.tensor(truth, dtype=torch.float64), "labels": torch.tensor([2])}
    model.generator = torch.Generator().manual_seed(0)
    losses = model([image], [target])
    logits = torch.tensor([[0.1, 0.3, -0.2]] * 3)
    kinds = torch.tensor([2, 0, 2])  # near, half, and the object itself
    assert losses["loss_classifier"].item() == pytest.approx(F.cross_entropy(logits, kinds).item())
    # of the two with the object: how the middle moves in sides of the proposal, ten times, and the logarithm of the
    # sides' quotients, five times
    w, h = 30.0, 26.0
    wanted = torch.tensor(
        [[10 * (25 - 27) / w, 10 * (25 - 25) / h, 5 * math.log(30 / w), 5 * math.log(30 / h)], [0.0] * 4]
    )
    box_loss = F.smooth_l1_loss(torch.full((2, 4), 0.2), wanted, beta=1.0, reduction="sum") / 3
    assert losses["loss_box_reg"].item() == pytest.approx(box_loss.item(), rel=1e-6)
    assert set(losses) == {"loss_classifier", "loss_box_reg"}


def test_a_quarter_of_64_boxes_has_an_object_and_the_others_overlap_one():
    boxes = [[10.0, 10.0, 40.0 + k / 10, 40.0] for k in range(40)]  # IoU 1 to 0.88
    boxes += [[10.0, 10.0, 40.0, 18.0 + k / 20] for k in range(60)]  # 0.27 to 0.37
    boxes += [[50.0, 50.0, 60.0 + k / 20, 60.0] for k in range(60)]  # 0
    model = plain(Saying([0.0] * 3), Boxes())
    target = {"boxes": torch.tensor([[10.0, 10.0, 40.0, 40.0]]), "labels": torch.tensor([1])}
    rules = model.roi_heads.rules
    assert (rules.batch_size_per_image, rules.positive_fraction) == (64, 0.25)
    assert (rules.fg_iou_thresh, rules.bg_iou_thresh, rules.bg_iou_least) == (0.5, 0.5, 0.1)
    drawn = model.roi_heads.samples([torch.tensor(boxes)], [target], torch.Generator().manual_seed(0))[0]
    assert int((drawn.labels == 1).sum()) == 16
    assert int((drawn.labels == 0).sum()) == 48
    overlap = ops.box_iou(drawn.boxes[drawn.labels == 0], target["boxes"])
    assert overlap.min() >= 0.1
    # without objects there is nothing to overlap, and every box teaches background
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    drawn = model.roi_heads.samples([torch.tensor(boxes)], [empty], torch.Generator().manual_seed(0))[0]
    assert drawn.labels.tolist() == [0] * 64


# Detections


def test_detections_of_crafted_weights_are_the_proposals_that_they_move():
    # class 1 with 0.7, moved by a tenth of its width to the right; class 2 with 0.2, twice as high
    offsets = [0.0] * 4 + [1.0, 0.0, 0.0, 0.0] + [0.0, 0.0, 0.0, 5 * math.log(2)]
    logits = [math.log(p) for p in (0.1, 0.7, 0.2)]
    model = plain(Saying(logits, offsets), Boxes([0, 0, 20, 20], [40, 20, 60, 40], [42, 20, 62, 40])).eval()
    (found,) = model([torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))])
    # of the two that overlap the first stays
    wanted = [[2, 0, 22, 20], [42, 20, 62, 40], [0, 0, 20, 30], [40, 10, 60, 50]]
    torch.testing.assert_close(found["boxes"], torch.tensor(wanted, dtype=torch.float32), rtol=1e-5, atol=1e-5)
    assert found["labels"].tolist() == [1, 1, 2, 2]
    assert found["scores"].tolist() == pytest.approx([0.7, 0.7, 0.2, 0.2])


def test_proposals_move_with_an_image_that_is_enlarged_and_detections_back():
    logits = [0.0, 5.0, -50.0]
    model = plain(Saying(logits), Boxes([4, 2, 20, 30]), size=96).eval()
    found = model([torch.rand(3, 32, 48, generator=torch.Generator().manual_seed(i)) for i in range(2)])
    for one in found:
        torch.testing.assert_close(one["boxes"], torch.tensor([[4.0, 2, 20, 30]]))


@pytest.mark.parametrize("proposals", [None, Boxes()])
def test_without_anything_to_see_there_are_no_detections_and_losses_are_finite(proposals):
    """An image of one colour is one proposal, or none where another source gives none."""
    chosen = {} if proposals is None else {"proposals": proposals}
    model, image = seeded(box_score_thresh=0.99, **chosen), torch.full((3, 40, 50), 0.5, dtype=torch.float64)
    empty = {"boxes": torch.zeros(0, 4, dtype=torch.float64), "labels": torch.zeros(0, dtype=torch.int64)}
    losses = model([image], [empty])
    total = sum(losses.values())
    total.backward()
    assert torch.isfinite(total)
    assert (total == 0) == (proposals is not None)
    assert losses["loss_box_reg"] == 0
    learned = [p.grad for p in model.backbone.parameters()]
    assert all(grad is not None and torch.isfinite(grad).all() for grad in learned)
    (found,) = model.eval()([image])
    assert found["boxes"].shape == (0, 4)
    assert found["labels"].shape == found["scores"].shape == (0,)


def test_a_few_steps_lower_the_loss_and_validation_changes_nothing():
    model, (images, targets) = seeded().float(), scene(torch.float32)
    optimizer, totals = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9), []
    for _ in range(8):
        total = sum(model(images, targets).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(float(total.detach()))
    assert totals[-1] < 0.7 * totals[0]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert set(model.eval()(images, targets, losses=True)) == {"loss_classifier", "loss_box_reg"}
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


# Both hands


def test_the_proof_covers_every_layer():
    proof = prove(DetectorLayers(seeded(width=2)), random(2, 3, 64, 64))
    assert proof.passed, proof.verdict
    proven = {check.name for check in proof.layers}
    assert {"backbone.body.conv1", "backbone.body.layer2.0.conv2", "roi_heads.box_head.fc6"} <= proven
    assert "roi_heads.box_predictor.bbox_pred" in proven
    assert not any("rpn" in name for name in proven)


def test_a_step_of_training_and_its_detections_are_equal_in_both_hands():
    library, (images, targets) = seeded(), scene()
    hand = by_hand(copy.deepcopy(library))
    sides = []
    for model in (hand, library):
        model.generator = torch.Generator().manual_seed(3)
        losses = model(images, targets)
        sum(losses.values()).backward()
        grads = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
        with torch.no_grad():
            detections = model.eval()(images)
        sides.append((losses, grads, dict(model.named_buffers()), detections))
    mine, theirs = sides
    for a, b in zip(mine[:3], theirs[:3], strict=True):
        assert a.keys() == b.keys()
        for key in b:
            torch.testing.assert_close(a[key], b[key], rtol=1e-9, atol=1e-9, msg=lambda text, key=key: f"{key}: {text}")
    assert all(bool((grad != 0).any()) for grad in theirs[1].values())
    for a, b in zip(mine[3], theirs[3], strict=True):
        assert len(b["boxes"]) > 0
        torch.testing.assert_close(a["boxes"], b["boxes"], rtol=1e-9, atol=1e-9)
        assert torch.equal(a["labels"], b["labels"])


# The paper's network


def test_vgg16s_version_is_the_papers():
    with torch.device("meta"):
        model = models.build("fastrcnn_vgg16")
    found = {key: list(value.shape) for key, value in model.state_dict().items()}
    convolutions = [
        [64, 3], [64, 64], [128, 64], [128, 128], [256, 128], [256, 256], [256, 256],
        [512, 256], [512, 512], [512, 512], [512, 512], [512, 512], [512, 512],
    ]  # fmt: skip
    shapes = [shape for key, shape in found.items() if key.startswith("backbone.body") and key.endswith("weight")]
    assert shapes == [[*pair, 3, 3] for pair in convolutions]
    assert found["roi_heads.box_head.fc6.weight"] == [4096, 512 * 7 * 7]
    # 14,714,688 of the convolutions, as of every VGG-16; 138,357,544 − 4,097,000 with its two hidden layers; and
    # (4096 + 1) · (21 + 84) of the two heads
    counts = [sum(p.numel() for p in part.parameters()) for part in (model.backbone, model)]
    assert counts == [14_714_688, 138_357_544 - 4_097_000 + 4097 * 105]
    assert counts[1] == 134_690_729
    assert model.num_classes == 21
    assert (model.transform.min_size, model.transform.max_size) == ((600,), 1000)
    maps = model.backbone(torch.zeros(1, 3, 96, 64, device="meta"))
    assert {name: tuple(x.shape) for name, x in maps.items()} == {"0": (1, 512, 6, 4)}
    with torch.device("meta"):
        some = models.build("fastrcnn_vgg16", trainable_backbone_layers=3)
    learning = [key for key, p in some.backbone.body.named_parameters() if p.requires_grad]
    assert learning[0] == "10.weight"  # conv3_1


def test_the_small_one_is_small_and_looks_at_one_map_of_stride_8():
    with torch.device("meta"):
        model = models.build("fastrcnn")
    assert 1.9e6 < sum(p.numel() for p in model.parameters()) < 2.1e6
    maps = model.backbone(torch.zeros(1, 3, 64, 96, device="meta"))
    assert [tuple(x.shape) for x in maps.values()] == [(1, 128, 8, 12)]


def test_what_does_not_fit_is_refused_in_one_line():
    for options, values in (
        ({"num_classes": 1}, ["num_classes=1"]),
        ({"rpn_score_thresh": 0.1}, ["rpn_score_thresh", "box_nms_thresh"]),
        ({"box_bg_iou_least": 0.6}, ["box_bg_iou_least=0.6", "box_bg_iou_thresh=0.5"]),
        ({"box_bg_iou_least": 2}, ["box_bg_iou_least=2"]),
    ):
        assert_refused(SettingsError, lambda options=options: models.build("fastrcnn_small", **options), *values)
    model, (images, targets) = seeded(), scene()
    assert_refused(ShapeError, lambda: model([]), "empty")
    assert_refused(ShapeError, lambda: model([images[0][:1]], targets[:1]), "1 channels")
    assert_refused(TargetError, lambda: model(images), "no targets")
    batch = ImageBatch(torch.zeros(1, 3, 64, 64), [(64, 64)])
    assert model.roi_heads.detections(batch, {"0": torch.zeros(1, 32, 8, 8)}, [torch.zeros(0, 4)])[0][
        "labels"
    ].shape == (0,)
