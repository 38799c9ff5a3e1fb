"""Faster and Mask R-CNN: torchvision's keys and counts, its order of operations by hand calculation, and both hands."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from against_torch import assert_refused, random
from against_torchvision import golden
from torch import nn

from byhand import models
from byhand.errors import NonFiniteLoss, SettingsError, ShapeError, TargetError
from byhand.models import DETECTORS, detection_nms, mask_head
from byhand.models.detection_images import DetectionTransform, ImageBatch, moved_boxes
from byhand.models.detector_backbones import mobilenet_pyramid
from byhand.models.detector_layers import DetectorLayers
from byhand.models.frozen_norm import FrozenBatchNorm2d, freeze_norms
from byhand.models.region_proposal import AnchorGenerator, ProposalRules, RegionProposalNetwork, RPNHead
from byhand.models.roi_heads import DetectionRules, FastRCNNPredictor, RoIHeads, RoIPooler, TwoMLPHead
from byhand.models.weights import heads_of, take_weights
from byhand.nn import by_hand
from byhand.ops.suppression import batched_nms
from byhand.proof import prove

# Parameters as torchvision publishes them with its weights.
PUBLISHED = {
    "fasterrcnn_resnet50_fpn": 41_755_286,
    "fasterrcnn_mobilenet_v3_large_fpn": 19_386_354,
    "fasterrcnn_mobilenet_v3_large_320_fpn": 19_386_354,
    "maskrcnn_resnet50_fpn": 44_401_393,
}
TINY = {"min_size": 64, "max_size": 64}


def on_meta(name, **options):
    with torch.device("meta"):
        return models.build(name, **options)


def seeded(name="fasterrcnn_small", seed=0, **options):
    """The network of that name for tiny images in float64, with its own generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = models.build(name, **{**TINY, "width": 8, **options}).double()
    model.generator = torch.Generator().manual_seed(seed)
    return model


def scene(dtype=torch.float64):
    """Two images of 64 × 64 and their targets: bright squares on noise, two in the first and one in the second."""
    images, targets = [], []
    for i, boxes in enumerate([[[8, 10, 30, 34], [36, 30, 60, 56]], [[20, 12, 44, 40]]]):
        image, masks = 0.1 * random(3, 64, 64, dtype=dtype, seed=i).abs(), torch.zeros(len(boxes), 64, 64)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
            image[:, y1:y2, x1:x2] += 0.6
            mask[y1:y2, x1:x2] = 1
        images.append(image)
        labels = torch.arange(len(boxes)) + 1
        targets.append({"boxes": torch.tensor(boxes, dtype=dtype), "labels": labels, "masks": masks.byte()})
    return images, targets


# Names, shapes and counts


def body_keys(name, prefix):
    """The shapes of torchvision's classifier without its head and its counts of batches, under the detector's names."""
    keys = {key.removeprefix(prefix): shape for key, shape in golden(name)["keys"].items() if key.startswith(prefix)}
    kept = {key: shape for key, shape in keys.items() if not key.startswith(("fc.", "classifier."))}
    return {f"backbone.body.{k}": shape for k, shape in kept.items() if not k.endswith("num_batches_tracked")}


def layer(name, *weight):
    """A weight and its bias; a transposed convolution has its outputs second, which are as many as the inputs here."""
    return {f"{name}.weight": list(weight), f"{name}.bias": [weight[0]]}


def torchvisions_keys(name):
    """Written out after torchvision's modules."""
    mobile = "mobilenet" in name
    keys = body_keys("mobilenet_v3_large", "features.") if mobile else body_keys("resnet50", "")
    widths, anchors = ((160, 960), 15) if mobile else ((256, 512, 1024, 2048), 3)
    for i, width in enumerate(widths):
        keys |= layer(f"backbone.fpn.inner_blocks.{i}.0", 256, width, 1, 1)
    for i in range(len(widths)):
        keys |= layer(f"backbone.fpn.layer_blocks.{i}.0", 256, 256, 3, 3)
    keys |= layer("rpn.head.conv.0.0", 256, 256, 3, 3)
    keys |= layer("rpn.head.cls_logits", anchors, 256, 1, 1)
    keys |= layer("rpn.head.bbox_pred", 4 * anchors, 256, 1, 1)
    keys |= layer("roi_heads.box_head.fc6", 1024, 256 * 7 * 7)
    keys |= layer("roi_heads.box_head.fc7", 1024, 1024)
    keys |= layer("roi_heads.box_predictor.cls_score", 91, 1024)
    keys |= layer("roi_heads.box_predictor.bbox_pred", 364, 1024)
    if name.startswith("mask"):
        for i in range(4):
            keys |= layer(f"roi_heads.mask_head.{i}.0", 256, 256, 3, 3)
        keys |= layer("roi_heads.mask_predictor.conv5_mask", 256, 256, 2, 2)
        keys |= layer("roi_heads.mask_predictor.mask_fcn_logits", 91, 256, 1, 1)
    return keys


@pytest.mark.parametrize("name", PUBLISHED)
def test_keys_shapes_and_counts_are_torchvisions(name):
    model = on_meta(name)
    found = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert list(found.items()) == list(torchvisions_keys(name).items())  # in its order too
    assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED[name]


def test_thresholds_and_sizes_of_the_presets_are_torchvisions():
    resnet, mobile = on_meta("fasterrcnn_resnet50_fpn"), on_meta("fasterrcnn_mobilenet_v3_large_320_fpn")
    assert (resnet.transform.min_size, resnet.transform.max_size) == ((800,), 1333)
    assert (mobile.transform.min_size, mobile.transform.max_size) == ((320,), 640)
    assert resnet.rpn.rules == ProposalRules(2000, 1000, 2000, 1000, 0.7, 0.7, 0.3, 256, 0.5, 0.0)
    assert mobile.rpn.rules == ProposalRules(2000, 150, 2000, 150, 0.7, 0.7, 0.3, 256, 0.5, 0.05)
    assert resnet.roi_heads.rules == DetectionRules(0.05, 0.5, 100, 0.5, 0.5, 512, 0.25)
    assert resnet.rpn.anchor_generator.sizes == ((32,), (64,), (128,), (256,), (512,))
    assert mobile.rpn.anchor_generator.num_anchors_per_location() == [15] * 3
    norms = [m for model in (resnet, mobile) for m in model.modules() if isinstance(m, FrozenBatchNorm2d)]
    assert {m.eps for m in norms} == {0.0, 1e-5}
    learning = {
        name.split(".")[2] for name, p in resnet.backbone.body.named_parameters("backbone.body") if p.requires_grad
    }
    assert learning == {"layer2", "layer3", "layer4"}
    assert min(int(n.split(".")[0]) for n, p in mobile.backbone.body.named_parameters() if p.requires_grad) == 7


def test_a_detector_that_learns_from_nothing_has_normalisation_that_learns():
    model = on_meta("fasterrcnn_mobilenet_v3_large_fpn", frozen_norm=False, num_classes=4)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert {m.eps for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-5}
    assert not any(isinstance(m, FrozenBatchNorm2d) for m in model.modules())


def test_every_detector_is_found_by_its_name_and_by_its_constructors():
    for entry in DETECTORS:
        assert callable(getattr(models, entry.name))
    model = on_meta("fasterrcnn_resnet50_c4", num_classes=5, box_score_thresh=0.3)
    assert model.num_classes == 5
    assert model.roi_heads.rules.score_thresh == 0.3
    assert model.rpn.head.conv[0][0].in_channels == 1024
    assert [key for key in model.state_dict() if key.startswith("roi_heads.box_head.layer4.2.conv3")]
    assert 1.5e6 < sum(p.numel() for p in on_meta("fasterrcnn_small").parameters()) < 2.5e6


def test_names_of_older_torchvisions_load_and_counts_of_batches_are_passed_over():
    model, other = seeded("maskrcnn_small", num_classes=3), seeded("maskrcnn_small", 1, num_classes=3)
    old = {}
    for key, value in other.state_dict().items():
        key = key.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        if "fpn" in key:
            key = key.replace(".0.weight", ".weight").replace(".0.bias", ".bias")
        for i in range(2):
            key = key.replace(f"mask_head.{i}.0.", f"mask_head.mask_fcn{i + 1}.")
        old[key] = value
    assert "backbone.fpn.layer_blocks.1.weight" in old
    assert "roi_heads.mask_head.mask_fcn2.bias" in old
    model.load_state_dict(old)
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in model.state_dict().items())
    assert take_weights(seeded("maskrcnn_small", num_classes=3), old).num_loaded == len(old)
    norm = FrozenBatchNorm2d(2)
    norm.load_state_dict({**nn.BatchNorm2d(2).state_dict(), "weight": torch.tensor([3.0, 4.0])})
    assert norm.weight.tolist() == [3, 4]


def test_weights_of_other_classes_leave_the_heads_new():
    model = seeded("maskrcnn_small", num_classes=3)
    before = copy.deepcopy(model.state_dict())
    loaded = take_weights(model, seeded("maskrcnn_small", 1, num_classes=5).state_dict())
    assert (loaded.classes_in_file, loaded.num_classes) == (5, 3)
    heads = {"box_predictor.cls_score", "box_predictor.bbox_pred", "mask_predictor.mask_fcn_logits"}
    assert set(loaded.head) == {f"roi_heads.{name}" for name in heads} == set(heads_of(model))
    for key, value in model.state_dict().items():
        kept = torch.equal(value, before[key])
        assert kept == any(head in key for head in heads) or not value.numel() or (value == value.flatten()[0]).all()


# The frozen normalisation


def test_a_frozen_normalisation_is_its_formula_in_both_hands_and_has_nothing_to_learn():
    norm = FrozenBatchNorm2d(3, eps=0.1).double()
    for i, key in enumerate(("weight", "bias", "running_mean", "running_var")):
        setattr(norm, key, random(3, seed=i).abs() + 0.5)
    x = random(2, 3, 4, 5, seed=9).requires_grad_()
    w, b, mean, var = (getattr(norm, key)[:, None, None] for key in ("weight", "bias", "running_mean", "running_var"))
    expected = (x - mean) / (var + 0.1).sqrt() * w + b
    for hand in (norm.train(), by_hand(norm)):
        torch.testing.assert_close(hand(x), expected, rtol=1e-12, atol=1e-12)
        (grad,) = torch.autograd.grad(hand(x).sum(), x)
        torch.testing.assert_close(grad, (w / (var + 0.1).sqrt()).expand_as(x), rtol=1e-12, atol=1e-12)
    assert not list(norm.parameters())
    assert list(norm.state_dict()) == ["weight", "bias", "running_mean", "running_var"]


def test_freezing_keeps_the_values_and_the_outputs():
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Sequential(nn.BatchNorm2d(2), nn.ReLU())).double()
    net(random(4, 1, 3, 3))  # moves the running statistics
    frozen = copy.deepcopy(net)
    freeze_norms(frozen)
    assert isinstance(frozen[1][0], FrozenBatchNorm2d)
    x = random(2, 1, 3, 3, seed=1)
    torch.testing.assert_close(frozen.train()(x), net.eval()(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("load", [nn.Module.load_state_dict, take_weights])
@pytest.mark.parametrize("eps", [0.0, 1e-5, 1e-3])
def test_weights_of_a_normalisation_that_learned_load_as_the_same_function_whatever_the_epsilon(load, eps):
    learned = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)).double()
    learned[1].running_var.copy_(torch.tensor([1e-5, 0.002]))  # small, so that ε counts
    frozen = copy.deepcopy(learned)
    freeze_norms(frozen, eps)
    load(frozen, learned.state_dict())
    x = random(2, 1, 3, 3)
    if eps <= 1e-5:
        torch.testing.assert_close(frozen(x), learned.eval()(x), rtol=1e-12, atol=1e-12)
    else:  # σ² would have to fall below 0
        assert frozen[1].running_var.tolist() == learned[1].running_var.tolist()
    again = copy.deepcopy(frozen)
    load(again, frozen.state_dict())
    assert torch.equal(again(x), frozen(x))


# Images on their way in


@pytest.mark.parametrize(
    ("size", "expected"),
    [((480, 640), (800, 1066)), ((640, 480), (1066, 800)), ((1000, 3000), (444, 1333)), ((800, 1200), (800, 1200))],
)
def test_images_are_resized_to_whole_pixels_below_within_both_bounds(size, expected):
    assert DetectionTransform().size_for(*size, None) == expected


def test_a_strip_of_8000_pixels_keeps_one_row():
    height, width = DetectionTransform().size_for(1, 8000, None)
    assert height == 1
    assert width in (1332, 1333)  # 8000 · (1333 / 8000) as it is rounded


def test_pixels_are_normalised_resized_and_padded_at_the_right_and_below():
    transform = DetectionTransform(40, 60)
    images = [random(3, 20, 27, seed=0).float().abs(), random(3, 30, 20, seed=1).float().abs()]
    batch, _ = transform(images)
    assert batch.image_sizes == [(40, 54), (60, 40)]
    assert batch.tensors.shape == (2, 3, 64, 64)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    for x, image, (h, w) in zip(batch.tensors, images, batch.image_sizes, strict=True):
        normal = (image - mean[:, None, None]) / std[:, None, None]
        wanted = F.interpolate(
            normal[None],
            scale_factor=h / image.shape[1],
            mode="bilinear",
            align_corners=False,
            recompute_scale_factor=True,
        )[0]
        torch.testing.assert_close(x[:, :h, :w], wanted, rtol=1e-6, atol=1e-6)
        assert not x[:, h:].any()
        assert not x[:, :, w:].any()


def test_boxes_and_masks_move_with_their_image_and_boxes_back():
    boxes = torch.tensor([[2.0, 4.0, 10.0, 20.0]])
    masks = torch.zeros(1, 20, 40)
    masks[0, 4:, 2:10] = 1
    target = {"boxes": boxes, "labels": torch.tensor([1]), "masks": masks}
    batch, (moved,) = DetectionTransform(40, 80)([torch.zeros(3, 20, 40)], [target])
    assert moved["boxes"].tolist() == [[4, 8, 20, 40]]
    assert moved["masks"].shape == (1, 40, 80)
    assert moved["masks"].sum() == 32 * 16
    assert moved["masks"][0, 8:, 4:20].all()
    assert moved_boxes(moved["boxes"], batch.image_sizes[0], (20, 40)).tolist() == boxes.tolist()
    assert target["boxes"] is boxes


def test_several_sizes_are_drawn_in_training_and_the_last_is_taken_in_evaluation():
    transform, generator = DetectionTransform((32, 64), 200), torch.Generator().manual_seed(0)
    image = [torch.zeros(3, 16, 16)]
    drawn = {transform(image, generator=generator)[0].image_sizes[0] for _ in range(20)}
    assert drawn == {(32, 32), (64, 64)}
    assert transform.eval()(image)[0].image_sizes == [(64, 64)]


# Proposals


class Given(nn.Module):
    """A head that gives what it was given."""

    def __init__(self, *outputs):
        super().__init__()
        self.outputs = outputs

    def forward(self, x):
        return self.outputs


PAIR = AnchorGenerator(((32,),), ((1.0,),))  # on a map of 1 × 2 for an image of 32 × 64: around (0, 0) and (32, 0)
MAP = {"0": torch.zeros(1, 1, 1, 2)}
BATCH = ImageBatch(torch.zeros(1, 3, 32, 64), [(32, 64)])


def test_anchors_lie_row_by_row_around_multiples_of_the_stride():
    anchors = AnchorGenerator(((32,),), ((0.5, 1.0, 2.0),))((64, 64), [torch.zeros(1, 1, 2, 2)])
    around = [[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]]  # 32 √2 = 45.25, 32 / √2 = 22.63
    moves = [[x, y, x, y] for y in (0, 32) for x in (0, 32)]
    assert anchors.tolist() == [[a + b for a, b in zip(box, m, strict=True)] for m in moves for box in around]


def proposals_of(logits, offsets, **rules):
    head = Given([torch.tensor(logits).view(1, 1, 1, 2)], [torch.tensor(offsets).t().reshape(1, 4, 1, 2)])
    return RegionProposalNetwork(PAIR, head, ProposalRules(**rules))(BATCH, MAP)[0][0].tolist()


def test_proposals_are_moved_clipped_and_sorted():
    still = [[0.0] * 4, [0.0] * 4]
    assert proposals_of([0.0, 1.0], still) == [[16, 0, 48, 16], [0, 0, 16, 16]]
    assert proposals_of([1.0, 0.0], still, pre_nms_top_n_test=1) == [[0, 0, 16, 16]]
    assert proposals_of([1.0, 0.0], still, post_nms_top_n_test=1) == [[0, 0, 16, 16]]
    moved = proposals_of([0.0, 1.0], [[0.0] * 4, [0.5, 0.25, math.log(0.5), 0.0]])
    assert moved[0] == pytest.approx([40, 0, 56, 24])  # (48, 8) is the middle, 16 × 32 the size


def test_proposals_without_size_without_chance_and_below_a_better_one_are_left_out():
    still = [[0.0] * 4, [0.0] * 4]
    assert proposals_of([0.0, 1.0], [[-1.0, 0.0, 0.0, 0.0], [0.0] * 4]) == [[16, 0, 48, 16]]  # −48..−16 is outside
    assert proposals_of([0.0, 1.0], still, score_thresh=0.6) == [[16, 0, 48, 16]]  # σ(0) = 0.5, σ(1) = 0.73
    assert proposals_of([0.0, 1.0], [[1.0, 0.0, 0.0, 0.0], [0.0] * 4]) == [[16, 0, 48, 16]]  # the same box twice


def test_proposals_are_those_of_a_slow_loop_over_two_levels():
    generator = AnchorGenerator(((12, 20), (40, 56)), ((0.5, 1.0, 2.0),) * 2)
    maps = {"0": torch.zeros(1, 1, 4, 4).double(), "1": torch.zeros(1, 1, 2, 2).double()}
    logits = [random(1, 6, 4, 4, seed=0), random(1, 6, 2, 2, seed=1)]
    offsets = [random(1, 24, 4, 4, seed=2) / 4, random(1, 24, 2, 2, seed=3) / 4]
    images = ImageBatch(torch.zeros(1, 3, 64, 64), [(60, 50)])
    rules = ProposalRules(pre_nms_top_n_test=30, post_nms_top_n_test=20, nms_thresh=0.5)
    found = RegionProposalNetwork(generator, Given(logits, offsets), rules)(images, maps)[0][0]

    candidates = []
    for level, (sizes, side) in enumerate(zip(generator.sizes, (4, 2), strict=True)):
        here = []
        for i in range(side):
            for j in range(side):
                for a, (ratio, size) in enumerate((r, s) for r in (0.5, 1.0, 2.0) for s in sizes):
                    half_w, half_h = round(size / math.sqrt(ratio) / 2), round(size * math.sqrt(ratio) / 2)
                    dx, dy, dw, dh = (float(offsets[level][0, 4 * a + k, i, j]) for k in range(4))
                    x, y = 64 // side * j + dx * 2 * half_w, 64 // side * i + dy * 2 * half_h
                    w, h = math.exp(dw) * half_w, math.exp(dh) * half_h
                    box = [
                        min(max(x - w, 0), 50),
                        min(max(y - h, 0), 60),
                        min(max(x + w, 0), 50),
                        min(max(y + h, 0), 60),
                    ]
                    here.append((float(logits[level][0, a, i, j]), level, box))
        candidates += sorted(here, reverse=True)[:30]
    kept = []
    for _, level, box in sorted(candidates, reverse=True):
        if min(box[2] - box[0], box[3] - box[1]) >= 1e-3 and all(
            level != other or iou(box, best) <= 0.5 for other, best in kept
        ):
            kept.append((level, box))
    assert len(kept) > 10
    wanted = torch.tensor([box for _, box in kept[:20]], dtype=torch.float64)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def iou(a, b):
    inter = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def test_the_losses_of_proposals_are_those_of_a_hand_calculation():
    head = Given([torch.zeros(1, 1, 1, 2)], [torch.zeros(1, 4, 1, 2)])
    rpn = RegionProposalNetwork(PAIR, head, ProposalRules())
    # A tenth of the first anchor's width to the right: IoU 0.82; 0.05 with the second, which is background.
    target = {"boxes": torch.tensor([[-12.8, -16.0, 19.2, 16.0]])}
    _, losses = rpn(BATCH, MAP, [target], torch.Generator().manual_seed(0))
    assert losses["loss_objectness"].item() == pytest.approx(math.log(2))
    assert losses["loss_rpn_box_reg"].item() == pytest.approx(0.5 * 0.1**2 * 9 / 2, rel=1e-4)  # of two drawn anchors
    _, losses = rpn(BATCH, MAP, [{"boxes": torch.zeros(0, 4)}], torch.Generator().manual_seed(0))
    assert losses["loss_objectness"].item() == pytest.approx(math.log(2))
    assert losses["loss_rpn_box_reg"].item() == 0


# Detections


def heads_with(class_bias, offset_bias, **rules):
    """Second stage whose logits and offsets are the biases, whatever it sees."""
    predictor = FastRCNNPredictor(1, len(class_bias))
    for linear, bias in ((predictor.cls_score, class_bias), (predictor.bbox_pred, offset_bias)):
        nn.init.zeros_(linear.weight)
        linear.bias.data = torch.tensor(bias)
    head = nn.Sequential(nn.Flatten(), nn.Linear(1, 1))
    return RoIHeads(RoIPooler(1), head, predictor, DetectionRules(**rules))


WIDE = ImageBatch(torch.zeros(1, 3, 32, 64), [(32, 60)])
FEATURES = {"0": torch.zeros(1, 1, 8, 16)}
APART = [torch.tensor([[0.0, 0.0, 20.0, 20.0], [30.0, 0.0, 50.0, 20.0]])]
CHANCES = [math.log(0.5), math.log(0.3), math.log(0.2)]


def test_every_class_but_the_background_is_a_detection_of_each_proposal():
    (found,), losses = heads_with(CHANCES, [0.0] * 12)(WIDE, FEATURES, APART)
    assert not losses
    assert found["labels"].tolist() == [1, 1, 2, 2]
    assert found["scores"].tolist() == pytest.approx([0.3, 0.3, 0.2, 0.2])
    assert found["boxes"].tolist() == [*APART[0].tolist()] * 2
    (found,), _ = heads_with(CHANCES, [0.0] * 12, detections_per_img=3)(WIDE, FEATURES, APART)
    assert found["labels"].tolist() == [1, 1, 2]
    (found,), _ = heads_with(CHANCES, [0.0] * 12, score_thresh=0.25)(WIDE, FEATURES, APART)
    assert found["labels"].tolist() == [1, 1]


def test_detections_move_by_the_offsets_of_their_class_are_clipped_and_suppressed_within_it():
    # class 1: a tenth of a width to the right with the weight 10; class 2: twice as high with the weight 5
    offsets = [0.0] * 4 + [1.0, 0.0, 0.0, 0.0] + [0.0, 0.0, 0.0, 5 * math.log(2)]
    (found,), _ = heads_with(CHANCES, offsets)(WIDE, FEATURES, APART)
    wanted = [[2, 0, 22, 20], [32, 0, 52, 20], [0, 0, 20, 30], [30, 0, 50, 30]]
    torch.testing.assert_close(found["boxes"], torch.tensor(wanted, dtype=torch.float32), rtol=1e-5, atol=1e-5)
    twice = [torch.cat([APART[0], APART[0] + torch.tensor([1.0, 0.0, 1.0, 0.0])])]  # IoU 19 / 21
    (found,), _ = heads_with(CHANCES, [0.0] * 12)(WIDE, FEATURES, twice)
    assert len(found["boxes"]) == 4
    # pushed to the right by 40 widths: nothing of it is left in the image
    gone = heads_with(CHANCES, [0.0] * 4 + [400.0, 0.0, 0.0, 0.0] + [0.0] * 4)
    assert gone(WIDE, FEATURES, APART)[0][0]["labels"].tolist() == [2, 2]


def test_the_losses_of_detections_are_those_of_a_hand_calculation():
    heads = heads_with([0.0] * 3, [0.0] * 12)
    # The proposal lies 0.2 pixels beside the object, dx = 10 · 0.2 / 20; the object itself is the second proposal.
    proposals = [torch.tensor([[0.2, 0.0, 20.2, 20.0]])]
    target = {"boxes": torch.tensor([[0.0, 0.0, 20.0, 20.0]]), "labels": torch.tensor([2])}
    with torch.no_grad():
        found, losses = heads(WIDE, FEATURES, proposals, [target], torch.Generator().manual_seed(0))
    assert found == []
    assert losses["loss_classifier"].item() == pytest.approx(math.log(3))
    assert losses["loss_box_reg"].item() == pytest.approx(0.5 * 0.1**2 * 9 / 2, rel=1e-3)


def test_the_mask_loss_is_that_of_a_hand_calculation():
    logits = torch.zeros(1, 3, 2, 2)
    logits[0, 1] = torch.tensor([[2.0, -1.0], [0.5, 3.0]])
    logits[0, 2] = 50.0  # another class is not asked
    mask = torch.zeros(2, 8, 8)
    mask[1, :4, :4] = 1
    box = torch.tensor([[0.0, 0.0, 7.0, 7.0]])
    loss = mask_head.mask_loss(logits, [box], [mask], [torch.tensor([1])], torch.tensor([1]))
    # Bins of 3.5 × 3.5 with 4 × 4 samples: at 0.44, 1.31, 2.19 and 3.06 in the first, the last between pixels 3 and 4.
    # The first sample of the second bin lies at 3.94 and takes the rest of pixel 3.
    share = torch.tensor([(3 + 0.9375) / 4, 0.0625 / 4])
    wanted = share[:, None] * share
    torch.testing.assert_close(loss, F.binary_cross_entropy_with_logits(logits[0, 1], wanted), rtol=1e-5, atol=1e-6)


def test_few_boxes_are_suppressed_with_classes_shifted_apart_as_torchvision_rounds_them():
    # The first two are of one class, with an IoU just above a half; beyond 72,000 pixels the 0.9999 rounds to 1.
    boxes = torch.tensor([[0.0, 0.0, 3.0, 1.0], [0.9999, 0.0, 4.0, 1.0], [700.0, 700.0, 800.0, 800.0]])
    scores, classes = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([90, 90, 1])
    assert batched_nms(boxes, scores, classes, 0.5).tolist() == [0, 2]
    assert detection_nms.nms_by_class(boxes, scores, classes, 0.5).tolist() == [0, 1, 2]
    corners = torch.arange(1000.0)[:, None] * 900 + 1000
    many = torch.cat([boxes, torch.cat([corners, corners, corners + 9, corners + 9], 1)])
    kept = detection_nms.nms_by_class(many, torch.linspace(0.9, 0.1, 1003), torch.arange(1003).clamp(90), 0.5)
    assert 1 not in kept.tolist()
    assert len(kept) == 1002


# Whole networks


def test_a_step_of_training_and_its_detections_are_equal_in_both_hands():
    library = seeded("maskrcnn_small", num_classes=3, rpn_pre_nms_top_n_train=50, rpn_pre_nms_top_n_test=20)
    hand = by_hand(copy.deepcopy(library))
    images, targets = scene()
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
    assert list(theirs[0]) == ["loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"]
    for a, b in zip(mine[:3], theirs[:3], strict=True):
        assert a.keys() == b.keys()
        for key in b:
            torch.testing.assert_close(a[key], b[key], rtol=1e-9, atol=1e-9, msg=lambda text, key=key: f"{key}: {text}")
    assert all(bool((grad != 0).any()) for grad in theirs[1].values())
    for a, b in zip(mine[3], theirs[3], strict=True):
        assert len(b["boxes"]) > 0
        for key in ("boxes", "scores", "masks"):
            torch.testing.assert_close(a[key], b[key], rtol=1e-9, atol=1e-9)
        assert torch.equal(a["labels"], b["labels"])


def test_backbone_and_heads_of_torchvisions_kind_are_equal_in_both_hands():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = mobilenet_pyramid(None, frozen_norm=True).double()
        rpn, head, predictor = (
            RPNHead(256, 15).double(),
            TwoMLPHead(256 * 9, 8).double(),
            FastRCNNPredictor(8, 3).double(),
        )
    with torch.no_grad():
        maps, by_hands = (model(random(1, 3, 64, 96)) for model in (backbone, by_hand(backbone)))
        assert {name: tuple(y.shape[1:]) for name, y in maps.items()} == {
            "0": (256, 2, 3),
            "1": (256, 2, 3),
            "pool": (256, 1, 2),
        }
        pairs = [*zip(by_hands.values(), maps.values(), strict=True)]
        for mine, theirs in zip(by_hand(rpn)(list(maps.values())), rpn(list(maps.values())), strict=True):
            pairs += zip(mine, theirs, strict=True)
        vectors = head(random(2, 256, 3, 3))
        pairs.append((by_hand(head)(random(2, 256, 3, 3)), vectors))
        pairs += zip(by_hand(predictor)(vectors), predictor(vectors), strict=True)
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


def test_the_proof_covers_every_layer_of_a_detector():
    proof = prove(DetectorLayers(seeded("maskrcnn_small", num_classes=3, width=2)), random(2, 3, 32, 32))
    assert proof.passed, proof.verdict
    proven = {check.name for check in proof.layers}
    assert {"backbone.body.conv1", "rpn_head.bbox_pred", "roi_heads.box_head.fc6"} <= proven
    assert "roi_heads.mask_predictor.conv5_mask" in proven


def test_the_same_seed_draws_the_same_losses_and_another_seed_others():
    model, (images, targets) = seeded(num_classes=3), scene()
    model.eval()
    found = []
    for seed in (1, 1, 2):
        model.generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            found.append({key: float(value) for key, value in model(images, targets, losses=True).items()})
    assert found[0] == found[1] != found[2]


def test_losses_of_validation_leave_the_network_as_it_is():
    model, (images, targets) = seeded(num_classes=3).eval(), scene()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    losses = model(images, targets, losses=True)
    assert set(losses) == {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    assert not model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert isinstance(model(images, targets), list)


def test_a_few_steps_lower_the_loss():
    model, (images, targets) = seeded(num_classes=3).float(), scene(torch.float32)
    optimizer, totals = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9), []
    for _ in range(8):
        total = sum(model(images, targets).values())
        totals.append(total.item())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert totals[-1] < 0.8 * totals[0]


def test_an_image_without_objects_teaches_background_alone():
    model, (images, _) = seeded("maskrcnn_small", num_classes=3), scene()
    none = {"boxes": torch.zeros(0, 4).double(), "labels": torch.zeros(0).long(), "masks": torch.zeros(0, 64, 64)}
    losses = model(images, [none, none])
    assert losses["loss_box_reg"].item() == losses["loss_rpn_box_reg"].item() == losses["loss_mask"].item() == 0
    assert 0 < losses["loss_classifier"].item() < math.inf
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_without_any_proposal_there_are_no_detections_and_without_objects_no_second_loss():
    model, (images, _) = seeded("maskrcnn_small", num_classes=3, rpn_score_thresh=1.0).eval(), scene()
    for found in model([images[0], images[1][:, :40]]):
        assert found["boxes"].shape == (0, 4)
        assert found["scores"].shape == found["labels"].shape == (0,)
        assert found["masks"].shape[:2] == (0, 1)
    none = {"boxes": torch.zeros(0, 4).double(), "labels": torch.zeros(0).long(), "masks": torch.zeros(0, 64, 64)}
    losses = model(images[:1], [none], losses=True)
    assert losses["loss_classifier"].item() == losses["loss_mask"].item() == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (7, 5)])
def test_images_of_any_size_are_looked_at(size):
    with torch.no_grad():
        (found,) = seeded("maskrcnn_small", num_classes=3, rpn_pre_nms_top_n_test=5).eval()([random(3, *size).abs()])
    assert found["masks"].shape == (len(found["boxes"]), 1, *size)
    assert found["boxes"].numel() == 0 or found["boxes"].max() <= max(size) + 1e-4


# What is refused


def test_images_that_a_detector_cannot_look_at_are_refused_in_one_line():
    model = seeded(num_classes=3).eval()
    assert_refused(ShapeError, lambda: model([random(4, 8, 8)]), "image 0", 4, "image[:3]")
    assert_refused(ShapeError, lambda: model([random(3, 8, 8), random(1, 8, 8)]), "image 1", "image.expand(3, -1, -1)")
    assert_refused(ShapeError, lambda: model([random(8, 8, 3)]), "image 0", "permute")
    assert_refused(ShapeError, lambda: model([torch.zeros(3, 8, 8, dtype=torch.uint8)]), "uint8", "/ 255")
    assert_refused(ShapeError, lambda: model([random(8, 8)]), (8, 8), "(3, height, width)")
    assert_refused(ShapeError, lambda: model([random(3, 0, 8)]), (3, 0, 8))
    assert_refused(ShapeError, lambda: model([]), "empty")


def test_targets_that_a_detector_cannot_learn_from_are_refused_in_one_line():
    model, (images, targets) = seeded("maskrcnn_small", num_classes=3), scene()

    def refused(*values, **changed):
        wrong = [targets[0], {key: value for key, value in {**targets[1], **changed}.items() if value is not None}]
        assert_refused(TargetError, lambda: model(images, wrong), "image 1", *values)

    refused("'masks'", masks=None)
    refused("'labels'", labels=None)
    refused("box 0", "x1 < x2", boxes=torch.tensor([[44.0, 12.0, 20.0, 40.0]]))
    refused("box 0", "nan", boxes=torch.tensor([[math.nan, 12.0, 20.0, 40.0]]))
    refused((4,), "(N, 4)", boxes=torch.tensor([20.0, 12.0, 44.0, 40.0]))
    refused("0 is the background", "1..2", labels=torch.tensor([0]))
    refused("from 3 to 3", "num_classes=3", labels=torch.tensor([3]))
    refused((1, 9, 9), (1, 64, 64), masks=torch.zeros(1, 9, 9))
    assert_refused(TargetError, lambda: model(images), "no targets", 2)
    assert_refused(TargetError, lambda: model(images, targets[:1]), "1 targets", 2)


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("rpn.head.bbox_pred", "offsets of image 0 hold nan (2 of 2 images do)"),
        ("rpn.head.cls_logits", "objectness of image 0"),
        ("roi_heads.box_predictor.bbox_pred", "offsets of proposal 0"),
        ("roi_heads.box_predictor.cls_score", "class logits of proposal 0"),
    ],
)
def test_offsets_and_logits_that_are_not_finite_are_named_in_training_and_in_evaluation(path, named):
    model, (images, targets) = seeded(num_classes=3), scene()
    model.get_submodule(path).bias.data[-1] = math.nan
    assert_refused(NonFiniteLoss, lambda: model(images, targets), named, f"from {path}")
    assert_refused(NonFiniteLoss, lambda: model.eval()(images), named, f"from {path}")


def test_arguments_out_of_range_and_unknown_ones_are_refused_in_one_line():
    def refused(*values, **options):
        assert_refused(SettingsError, lambda: on_meta("fasterrcnn_small", **options), *values)

    refused("'rpn_nms_thres'", "rpn_nms_thresh", rpn_nms_thres=0.5)
    refused("rpn_nms_thresh=1.5", rpn_nms_thresh=1.5)
    refused("box_detections_per_img=0", box_detections_per_img=0)
    refused("box_bg_iou_thresh=0.6", "box_fg_iou_thresh=0.5", box_bg_iou_thresh=0.6)
    refused("num_classes=1", "background", num_classes=1)
    refused("min_size=0", min_size=0)
    refused("image_std=(1.0, 0.0, 1.0)", image_mean=(0.0, 0.0, 0.0), image_std=(1.0, 0.0, 1.0))
    assert_refused(
        SettingsError,
        lambda: on_meta("fasterrcnn_resnet50_fpn", trainable_backbone_layers=6),
        "trainable_backbone_layers=6",
        "0..5",
    )
