"""MobileNet V1, V2, V3 and LeNet-5 with batch normalisation: against torchvision, the papers' tables, and formulas."""

from itertools import pairwise

import pytest
import torch
from against_torch import assert_refused
from against_torchvision import assert_is_torchvisions, images, weights
from torch import nn
from torch.nn import functional as F

from byhand.errors import SettingsError, ShapeError, UnknownName
from byhand.models.cost import layer_table, total
from byhand.models.lenet import lenet5
from byhand.models.lenet_bn import lenet5_bn
from byhand.models.mobile_v1 import make_divisible, mobilenet_v1
from byhand.models.mobile_v2 import mobilenet_v2
from byhand.models.mobile_v3 import mobilenet_v3_large, mobilenet_v3_small

MOBILENETS = (mobilenet_v1, mobilenet_v2, mobilenet_v3_small, mobilenet_v3_large)


def named(function):
    return function.__name__


def cost(constructor, size=224, **options):
    """Parameters and multiply-adds, without memory or time."""
    with torch.device("meta"):
        whole = total(layer_table(constructor(**options), (options.get("in_channels", 3), size, size)))
    return whole.parameters, whole.multiply_adds


def seeded(constructor, **options):
    """The network with weights that depend on names and shapes only, in evaluation mode."""
    model = constructor(**options).eval()
    model.load_state_dict(weights(model.state_dict()))
    return model


# against torchvision


@pytest.mark.parametrize("constructor", [mobilenet_v2, mobilenet_v3_large], ids=named)
def test_keys_shapes_counts_and_logits_are_torchvisions(constructor):
    assert_is_torchvisions(constructor(), constructor.__name__)


@pytest.mark.parametrize(
    ("constructor", "parameters"),
    # torchvision's documentation of its weights gives num_params
    [(mobilenet_v2, 3_504_872), (mobilenet_v3_small, 2_542_856), (mobilenet_v3_large, 5_483_032)],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_parameter_counts_are_torchvisions(constructor, parameters):
    assert cost(constructor, size=32)[0] == parameters


def test_the_small_v3_has_torchvisions_names_and_the_papers_widths():
    shapes = {key: tuple(value.shape) for key, value in mobilenet_v3_small().state_dict().items()}
    # Table 2, row by row: the projection's outputs, and the depthwise kernels of what was expanded
    projections = {1: 16, 2: 24, 3: 24, 4: 40, 5: 40, 6: 40, 7: 48, 8: 48, 9: 96, 10: 96, 11: 96}
    expanded = {1: 16, 2: 72, 3: 88, 4: 96, 5: 240, 6: 240, 7: 120, 8: 144, 9: 288, 10: 576, 11: 576}
    for block, channels in projections.items():
        last = max(int(key.split(".")[3]) for key in shapes if key.startswith(f"features.{block}.block."))
        assert shapes[f"features.{block}.block.{last}.0.weight"][:2] == (channels, expanded[block])
    assert shapes["features.0.0.weight"] == (16, 3, 3, 3)
    assert shapes["features.1.block.0.0.weight"] == (16, 1, 3, 3)  # nothing to expand
    assert shapes["features.1.block.1.fc1.weight"] == (8, 16, 1, 1)
    assert shapes["features.4.block.1.0.weight"] == (96, 1, 5, 5)
    assert shapes["features.4.block.2.fc1.weight"] == (24, 96, 1, 1)
    assert shapes["features.4.block.2.fc2.bias"] == (96,)
    assert shapes["features.12.0.weight"] == (576, 96, 1, 1)
    assert shapes["classifier.0.weight"] == (1024, 576)
    assert shapes["classifier.3.weight"] == (1000, 1024)
    squeezing = {int(key.split(".")[1]) for key in shapes if "fc1" in key}
    assert squeezing == {1, 4, 5, 6, 7, 8, 9, 10, 11}


def test_only_v3_normalises_with_constants_of_its_own():
    for constructor, constants in (
        (mobilenet_v1, (1e-5, 0.1)),
        (mobilenet_v2, (1e-5, 0.1)),
        (mobilenet_v3_small, (0.001, 0.01)),
    ):
        found = {(m.eps, m.momentum) for m in constructor(width_mult=0.25).modules() if isinstance(m, nn.BatchNorm2d)}
        assert found == {constants}


# against the papers' tables


@pytest.mark.parametrize(
    ("width_mult", "million_multiply_adds", "million_parameters"),
    [(1.0, 569, 4.2), (0.75, 325, 2.6), (0.5, 149, 1.3), (0.25, 41, 0.5)],
)
def test_v1_costs_what_table_6_says_for_each_width(width_mult, million_multiply_adds, million_parameters):
    parameters, multiply_adds = cost(mobilenet_v1, width_mult=width_mult)
    assert abs(multiply_adds / 1e6 - million_multiply_adds) < 1  # the table rounds some up and some down
    assert round(parameters / 1e6, 1) == million_parameters


@pytest.mark.parametrize(("size", "million_multiply_adds"), [(224, 569), (192, 418), (160, 290), (128, 186)])
def test_v1_costs_what_table_7_says_for_each_resolution(size, million_multiply_adds):
    fed_smaller, reduced_inside = cost(mobilenet_v1, size), cost(mobilenet_v1, resolution_mult=size / 224)
    assert abs(fed_smaller[1] / 1e6 - million_multiply_adds) < 1
    assert reduced_inside == fed_smaller


def test_v1_has_the_parameters_of_a_count_by_hand():
    widths = [32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024]
    by_hand = 27 * 32 + 2 * 32 + 1024 * 1000 + 1000
    for before, after in pairwise(widths):
        by_hand += 9 * before + 2 * before + before * after + 2 * after
    assert cost(mobilenet_v1)[0] == by_hand == 4_231_976


@pytest.mark.parametrize(
    ("width_mult", "million_multiply_adds", "million_parameters"),
    # the authors' table of published weights, tensorflow/models, research/slim/nets/mobilenet
    [(1.4, 582, 6.06), (1.0, 300, 3.47), (0.75, 209, 2.61), (0.5, 97, 1.95), (0.35, 59, 1.66)],
)
def test_v2_costs_what_its_authors_say_for_each_width(width_mult, million_multiply_adds, million_parameters):
    parameters, multiply_adds = cost(mobilenet_v2, width_mult=width_mult)
    assert multiply_adds / 1e6 == pytest.approx(million_multiply_adds, rel=0.01)
    assert parameters / 1e6 == pytest.approx(million_parameters, rel=0.015)  # they count some statistics otherwise


@pytest.mark.parametrize(
    ("constructor", "million_multiply_adds"), [(mobilenet_v3_large, 219), (mobilenet_v3_small, 56)]
)
def test_v3_costs_what_tables_3_and_4_say(constructor, million_multiply_adds):
    assert cost(constructor)[1] / 1e6 == pytest.approx(million_multiply_adds, rel=0.02)


@pytest.mark.parametrize(
    ("channels", "rounded"),
    [(32, 32), (44.8, 48), (11.2, 16), (8.4, 8), (5.6, 8), (1, 8), (18, 24), (20, 24), (12, 16), (25.2, 24)],
)
def test_widths_are_multiples_of_eight_and_never_under_nine_tenths(channels, rounded):
    assert make_divisible(channels) == rounded


# against formulas


def test_v1_is_table_1_written_out_with_functions():
    model = seeded(mobilenet_v1, num_classes=7).double()
    state, x = model.state_dict(), images(64).double()

    def layer(x, name, **convolution):
        x = F.conv2d(x, state[f"{name}.0.weight"], **convolution)
        parts = (state[f"{name}.1.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.relu(F.batch_norm(x, *parts))

    y = layer(x, "features.0", stride=2, padding=1)
    for i, stride in enumerate([1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1], start=1):
        y = layer(y, f"features.{i}.depthwise", stride=stride, padding=1, groups=y.shape[1])
        y = layer(y, f"features.{i}.pointwise")
    assert y.shape == (2, 1024, 2, 2)
    logits = F.linear(y.mean((2, 3)), state["classifier.1.weight"], state["classifier.1.bias"])
    torch.testing.assert_close(model(x), logits, rtol=1e-10, atol=1e-10)


def test_half_a_resolution_is_the_mean_of_every_four_pixels():
    whole = seeded(mobilenet_v1, num_classes=3, width_mult=0.25)
    half = seeded(mobilenet_v1, num_classes=3, width_mult=0.25, resolution_mult=0.5)
    x = images(64)
    torch.testing.assert_close(half(x), whole(F.avg_pool2d(x, 2)))
    assert half(images(1)).shape == (2, 3)  # never less than a pixel


def test_a_block_adds_its_input_where_the_shapes_agree_and_nowhere_else():
    for constructor, residual in ((mobilenet_v2, 10), (mobilenet_v3_large, 10), (mobilenet_v3_small, 6)):
        model = constructor().eval()
        blocks = [m for m in model.features if hasattr(m, "is_residual")]
        assert sum(block.is_residual for block in blocks) == residual  # counted in the papers' tables
        for block in blocks:
            layers = list(getattr(block, "conv" if constructor is mobilenet_v2 else "block"))
            nn.init.zeros_((layers[-1] if constructor is mobilenet_v2 else layers[-1][1]).weight)
            x = images(8, channels=next(m for m in block.modules() if isinstance(m, nn.Conv2d)).in_channels)
            y = block(x)
            assert torch.equal(y, x) if block.is_residual else not y.any()


# for small images, other channels, other classes


@pytest.mark.parametrize("constructor", MOBILENETS, ids=named)
@pytest.mark.parametrize(("size", "side"), [(28, 4), (32, 4), (64, 8)])
def test_the_small_stem_leaves_an_eighth_of_the_sides(constructor, size, side):
    model = seeded(constructor, num_classes=10, in_channels=1, small=True, width_mult=0.25)
    x = images(size, channels=1)
    assert model.features(x).shape[2:] == (side, side)
    y = model(x)
    assert y.shape == (2, 10)
    assert y.isfinite().all()
    usual = seeded(constructor, num_classes=10, in_channels=1, width_mult=0.25)
    assert usual.features(x).shape[2:] == (-(-size // 32), -(-size // 32))
    assert {key: value.shape for key, value in usual.state_dict().items()} == {
        key: value.shape for key, value in model.state_dict().items()
    }


@pytest.mark.parametrize("constructor", MOBILENETS, ids=named)
def test_any_size_down_to_one_pixel_is_taken(constructor):
    model = seeded(constructor, num_classes=4, width_mult=0.25)
    for height, width in ((1, 1), (33, 20), (96, 128)):
        assert model(images(128)[:, :, :height, :width]).shape == (2, 4)
    assert model(images(32)[:0]).shape == (0, 4)


@pytest.mark.parametrize("small", [False, True], ids=["usual", "small"])
@pytest.mark.parametrize("constructor", [*MOBILENETS, lenet5_bn], ids=named)
def test_the_gradient_reaches_every_parameter(constructor, small):
    torch.manual_seed(0)
    options = {} if constructor is lenet5_bn else {"width_mult": 0.25, "dropout": 0.0}
    model = constructor(num_classes=5, in_channels=3, small=small, **options).train()
    nn.functional.cross_entropy(model(images(32, batch=8)), torch.arange(8) % 5).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # before a normalisation over the batch a bias changes nothing, and its gradient is rounding
        assert parameter.grad.any() or (name.endswith("bias") and constructor is lenet5_bn), name


@pytest.mark.parametrize("constructor", MOBILENETS, ids=named)
def test_dropout_is_the_one_that_was_asked_for(constructor):
    assert [m.p for m in constructor(width_mult=0.25, dropout=0.4).modules() if isinstance(m, nn.Dropout)] == [0.4]


@pytest.mark.parametrize("constructor", MOBILENETS, ids=named)
def test_an_input_that_does_not_fit_is_refused_with_what_is_expected(constructor):
    model = constructor(width_mult=0.25).eval()
    name = type(model).__name__
    expected = (name, "(batch, 3, height, width)")
    assert_refused(ShapeError, lambda: model(torch.zeros(2, 1, 32, 32)), "(2, 1, 32, 32)", "in_channels=1", *expected)
    assert_refused(ShapeError, lambda: model(torch.zeros(3, 32, 32)), "(3, 32, 32)", *expected)
    assert_refused(ShapeError, lambda: model(torch.zeros(2, 3, 0, 32)), "(2, 3, 0, 32)", "at least 1", *expected)
    assert_refused(ShapeError, lambda: model(torch.zeros(2, 3, 32, 0)), "(2, 3, 32, 0)", *expected)


@pytest.mark.parametrize("small", [False, True], ids=["usual", "small"])
@pytest.mark.parametrize("constructor", MOBILENETS, ids=named)
def test_training_on_one_image_needs_more_than_one_pixel_in_the_end(constructor, small):
    model = constructor(width_mult=0.25, small=small).train()
    side = 8 if small else 32
    x = images(side, batch=1)
    assert_refused(ShapeError, lambda: model(x), f"{side} × {side}", "at least 2", f"at least {side + 1}", "eval()")
    assert model(images(side + 1, batch=1)).shape == (1, 1000)
    assert model(images(side)).shape == (2, 1000)
    for module in model.modules():  # as in fine-tuning with frozen statistics
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    assert model(x).shape == (1, 1000)


@pytest.mark.parametrize("constructor", MOBILENETS, ids=named)
def test_impossible_options_are_refused_in_one_line(constructor):
    for option in ("num_classes", "in_channels"):
        for value in (0, -1, 2.5):
            assert_refused(SettingsError, lambda o=option, v=value: constructor(**{o: v}), f"{option}={value}")
    for value in (0, -0.5, float("nan"), float("inf"), "half"):
        assert_refused(SettingsError, lambda v=value: constructor(width_mult=v), f"width_mult={value!r}")
    for value in (-0.1, 1.5, float("nan")):
        assert_refused(SettingsError, lambda v=value: constructor(dropout=v), f"dropout={value}")


def test_v1_reduces_images_and_never_enlarges_them():
    for value in (0, -1, 1.5, float("nan")):
        assert_refused(SettingsError, lambda v=value: mobilenet_v1(resolution_mult=v), f"resolution_mult={value}")


# LeNet-5 with batch normalisation


@pytest.mark.parametrize(("activation", "kind"), [("relu", "ReLU"), ("sigmoid", "Sigmoid"), ("tanh", "Tanh")])
def test_lenet5_bn_normalises_before_each_activation(activation, kind):
    layers = [type(m).__name__ for m in lenet5_bn(activation=activation).modules() if not list(m.children())]
    assert layers == [
        *["Conv2d", "BatchNorm2d", kind, "AvgPool2d"] * 2,
        "Flatten",
        *["Linear", "BatchNorm1d", kind] * 2,
        "Linear",
    ]


def test_lenet5_bn_has_lenet5s_parameters_and_two_for_each_channel():
    count = sum(p.numel() for p in lenet5_bn().parameters())
    assert count == sum(p.numel() for p in lenet5().parameters()) + 2 * (6 + 16 + 120 + 84) == 62_158


def test_the_books_form_takes_28_px_without_padding():
    # D2L 7.5: Conv2d(1, 6, 5), Conv2d(6, 16, 5), Linear(16 * 4 * 4, 120), Linear(120, 84), Linear(84, 10)
    book = lenet5_bn(activation="sigmoid", image_size=28)
    by_hand = (25 + 1) * 6 + (6 * 25 + 1) * 16 + (256 + 1) * 120 + (120 + 1) * 84 + (84 + 1) * 10
    assert sum(p.numel() for p in book.parameters()) == by_hand + 2 * (6 + 16 + 120 + 84) == 44_878
    assert book(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_lenet5_bn_folds_into_lenet5():
    normalised = seeded(lenet5_bn).double()
    plain, rest = lenet5().double(), iter(normalised.modules())
    with torch.no_grad():
        for layer in (m for m in plain.modules() if isinstance(m, (nn.Conv2d, nn.Linear))):
            source = next(m for m in rest if isinstance(m, (nn.Conv2d, nn.Linear)))
            layer.weight.copy_(source.weight)
            layer.bias.copy_(source.bias)
            if layer.weight.shape[0] != 10:
                norm = next(m for m in rest if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)))
                factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
                layer.weight.mul_(factor.reshape(-1, *[1] * (layer.weight.ndim - 1)))
                layer.bias.copy_((source.bias - norm.running_mean) * factor + norm.bias)
        x = images(32, batch=4, channels=1).double()
        torch.testing.assert_close(normalised(x), plain(x), rtol=1e-10, atol=1e-10)


def test_lenet5_bn_small_takes_images_of_any_size_and_is_the_same_at_32():
    usual, small = seeded(lenet5_bn), seeded(lenet5_bn, small=True)
    x = images(32, channels=1)
    torch.testing.assert_close(small(x), usual(x))
    for height, width in ((28, 28), (32, 40), (64, 64)):
        assert small(images(64, channels=1)[:, :, :height, :width]).shape == (2, 10)


def test_lenet5_bn_refuses_what_cannot_be_built():
    assert_refused(SettingsError, lambda: lenet5_bn(num_classes=0), "num_classes=0")
    assert_refused(SettingsError, lambda: lenet5_bn(in_channels=0), "in_channels=0")
    assert_refused(SettingsError, lambda: lenet5_bn(image_size=15), "image_size=15", "at least 16")
    assert_refused(UnknownName, lambda: lenet5_bn(activation="rleu"), "'rleu'", "did you mean 'relu'")
    assert lenet5_bn(image_size=16)(torch.zeros(2, 1, 16, 16)).shape == (2, 10)
