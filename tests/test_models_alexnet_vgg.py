"""AlexNet and VGG: torchvision's keys and logits, published sizes and costs, the paper's formulas, small images."""

import copy

import pytest
import torch
from against_torch import assert_refused, random
from against_torchvision import assert_is_torchvisions
from torch import nn

from byhand.errors import SettingsError, ShapeError
from byhand.models import alexnets as alexnet_file
from byhand.models import vgg as vgg_file
from byhand.models.alexnets import alexnet, alexnet2012, scaled
from byhand.models.cost import layer_table, total
from byhand.models.vgg import vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn

ALEXNETS = (alexnet, alexnet2012)
VGGS = (vgg11, vgg13, vgg16, vgg19, vgg11_bn, vgg13_bn, vgg16_bn, vgg19_bn)
NETWORKS = (*ALEXNETS, *VGGS)
named = pytest.mark.parametrize("constructor", NETWORKS, ids=lambda constructor: constructor.__name__)


def unborn(constructor, **options):
    """The network on the meta device: shapes without numbers, in no time and no memory."""
    with torch.device("meta"):
        return constructor(**options)


def kinds(layers):
    return [type(layer).__name__ for layer in layers]


@pytest.mark.parametrize("constructor", [alexnet, vgg11, vgg11_bn], ids=lambda constructor: constructor.__name__)
def test_keys_shapes_and_logits_are_torchvisions(constructor):
    assert_is_torchvisions(constructor(), constructor.__name__)


@pytest.mark.parametrize(
    ("constructor", "parameters", "billions"),
    [  # the tables of torchvision's documentation, which calls a multiply-add a FLOP; 2012: see the next test
        (alexnet, 61_100_840, 0.71),
        (vgg11, 132_863_336, 7.61),
        (vgg13, 133_047_848, 11.31),
        (vgg16, 138_357_544, 15.47),
        (vgg19, 143_667_240, 19.63),
        (vgg11_bn, 132_868_840, 7.61),
        (vgg13_bn, 133_053_736, 11.31),
        (vgg16_bn, 138_365_992, 15.47),
        (vgg19_bn, 143_678_248, 19.63),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_parameters_and_multiply_adds_are_torchvisions_published_ones(constructor, parameters, billions):
    whole = total(layer_table(unborn(constructor), (3, 224, 224)))
    assert whole.parameters == parameters
    assert round(whole.multiply_adds / 1e9, 2) == billions


def test_alexnet_of_2012_has_the_neurons_and_parameters_of_its_paper():
    model = unborn(alexnet2012)
    rows = [row for row in layer_table(model, (3, 224, 224)) if row.parameters]
    neurons = [torch.Size(row.output_shape).numel() for row in rows]
    # Section 3.5 counts 253,440 in the first layer; its own 55 × 55 × 96 of Figure 2 are 290,400.
    assert neurons == [290_400, 186_624, 64_896, 64_896, 43_264, 4096, 4096, 1000]
    assert sum(p.numel() for p in model.parameters()) == 60_965_224  # "60 million parameters"
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items() if value.ndim == 4}
    assert list(shapes.values()) == [  # "256 kernels of size 5 × 5 × 48" and so on, section 3.5
        (96, 3, 11, 11),
        (256, 48, 5, 5),
        (384, 256, 3, 3),
        (384, 192, 3, 3),
        (256, 192, 3, 3),
    ]


def test_response_normalisation_is_the_formula_of_the_paper():
    modules = alexnet2012(small=True, width=0.1).modules()
    layers = [layer for layer in modules if isinstance(layer, nn.LocalResponseNorm)]
    assert len(layers) == 2
    a = 20 * random(2, 7, 3, 3)
    expected = torch.empty_like(a)
    for i in range(7):
        neighbours = a[:, max(0, i - 2) : i + 3]  # n = 5 of them, fewer at the first and last map
        expected[:, i] = a[:, i] / (2 + 1e-4 * (neighbours**2).sum(1)) ** 0.75
    for layer in layers:
        torch.testing.assert_close(layer(a), expected, rtol=1e-12, atol=1e-12)


def test_dropout_stands_before_the_linear_layers_in_torchvisions_and_after_them_in_the_papers():
    before = ["Dropout", "Linear", "ReLU", "Dropout", "Linear", "ReLU", "Linear"]
    after = ["Linear", "ReLU", "Dropout", "Linear", "ReLU", "Dropout", "Linear"]
    for small in (False, True):
        assert kinds(unborn(alexnet, small=small).classifier) == before
        assert kinds(unborn(alexnet2012, small=small).classifier) == after
    assert kinds(unborn(vgg16).classifier) == after  # VGG's section 3.1: after the first two, as in the paper of 2012


@named
def test_dropout_is_a_half_unless_given(constructor):
    for share in (0.5, 0.25):
        options = {} if share == 0.5 else {"dropout": share}
        found = {layer.p for layer in unborn(constructor, **options).modules() if isinstance(layer, nn.Dropout)}
        assert found == {share}


def test_alexnet_of_2012_starts_as_its_section_5_says():
    model = alexnet2012(num_classes=10)
    weights = [value for key, value in model.state_dict().items() if key.endswith("weight")]
    biases = [value for key, value in model.state_dict().items() if key.endswith("bias")]
    for weight in weights:
        assert abs(float(weight.std()) - 0.01) < 2e-4
        assert abs(float(weight.mean())) < 2e-4
    assert [set(bias.tolist()) for bias in biases] == [{0}, {1}, {0}, {1}, {1}, {1}, {1}, {0}]


def test_vgg_starts_as_torchvisions():
    for model in (vgg19(small=True), vgg11_bn(small=True, num_classes=1000)):
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                wanted = (2 / (9 * layer.out_channels)) ** 0.5
                assert abs(float(layer.weight.detach().std()) / wanted - 1) < 0.1
            if isinstance(layer, nn.Linear):
                assert abs(float(layer.weight.detach().std()) / 0.01 - 1) < 0.1
            if isinstance(layer, nn.Conv2d | nn.Linear):
                assert not layer.bias.any()


@pytest.mark.parametrize(
    ("constructor", "letter", "millions", "convolutions"),
    [  # Simonyan & Zisserman, Tables 1 and 2
        (vgg11, "A", 133, [64, 128, 256, 256, 512, 512, 512, 512]),
        (vgg13, "B", 133, [64, 64, 128, 128, 256, 256, 512, 512, 512, 512]),
        (vgg16, "D", 138, [64, 64, 128, 128, *[256] * 3, *[512] * 6]),
        (vgg19, "E", 144, [64, 64, 128, 128, *[256] * 4, *[512] * 8]),
    ],
    ids=["A", "B", "D", "E"],
)
def test_vgg_has_the_columns_of_its_paper(constructor, letter, millions, convolutions):
    model = unborn(constructor)
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in layers] == convolutions
    assert all(layer.kernel_size == (3, 3) and layer.padding == (1, 1) for layer in layers)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == millions
    pools = [row.output_shape for row in layer_table(model, (3, 224, 224)) if row.kind == "MaxPool2d"]
    assert pools == [(64, 112, 112), (128, 56, 56), (256, 28, 28), (512, 14, 14), (512, 7, 7)]
    assert f"Configuration {letter}," in constructor.__doc__


@pytest.mark.parametrize("plain", [vgg11, vgg13, vgg16, vgg19], ids=lambda constructor: constructor.__name__)
def test_batch_normalisation_follows_each_convolution_of_vgg_and_changes_nothing_else(plain):
    with_bn = getattr(vgg_file, f"{plain.__name__}_bn")
    for small in (False, True):
        layers = kinds(unborn(with_bn, small=small).features)
        expected = []
        for kind in kinds(unborn(plain, small=small).features):
            expected += ["Conv2d", "BatchNorm2d"] if kind == "Conv2d" else [kind]
        assert layers == expected


@named
@pytest.mark.parametrize("size", [28, 32, 64])
def test_a_small_network_takes_small_images_and_every_parameter_learns(constructor, size):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = constructor(num_classes=10, in_channels=1, small=True, width=0.25)
        logits = model(random(4, 1, size, size, dtype=torch.float32))
    assert logits.shape == (4, 10)
    assert torch.isfinite(logits).all()
    nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


@named
def test_a_small_network_of_full_width_is_a_small_one(constructor):
    model = unborn(constructor, num_classes=10, small=True)
    whole = total(layer_table(model, (3, 32, 32)))
    assert whole.parameters < 25e6
    assert whole.multiply_adds < 0.5e9


@named
def test_classes_channels_and_sizes_are_free(constructor):
    model = unborn(constructor, num_classes=7, in_channels=5).eval()
    assert model(torch.empty(2, 5, 96, 130, device="meta")).shape == (2, 7)
    assert model(torch.empty(0, 5, 224, 224, device="meta")).shape == (0, 7)
    # each half of the paper's first maps has in_channels / groups, so any count of channels goes
    assert next(model.parameters()).shape[1] == 5


@named
def test_the_smallest_image_is_the_smallest_that_torch_can_take(constructor):
    for small, smallest in ((False, 32 if constructor in VGGS else 63), (True, 1 if constructor in VGGS else 15)):
        model = unborn(constructor, small=small).eval()
        assert model(torch.empty(2, 3, smallest, smallest + 1, device="meta")).shape == (2, 1000)
        if smallest > 1:
            too_small = torch.empty(2, 3, smallest, smallest - 1, device="meta")
            with pytest.raises(RuntimeError, match="utput size is too small"):
                nn.Sequential.forward(model, too_small)
            wanted = (constructor.__name__, f"{smallest} × {smallest}", smallest - 1)
            assert_refused(ShapeError, lambda model=model, x=too_small: model(x), *wanted)


@named
def test_images_of_other_channels_or_without_a_batch_axis_are_refused(constructor):
    model = unborn(constructor)
    for channels in (1, 4):
        x = torch.empty(2, channels, 224, 224, device="meta")
        assert_refused(ShapeError, lambda x=x: model(x), "in_channels=3", f"in_channels={channels}", "224")
    assert_refused(ShapeError, lambda: model(torch.empty(3, 224, 224, device="meta")), "(3, 224, 224)", "x[None]")
    assert_refused(ShapeError, lambda: model(torch.empty(2, 3, device="meta")), "(2, 3)")


@named
def test_impossible_options_are_refused(constructor):
    for option in ("num_classes", "in_channels"):
        for value in (0, -1, 2.5):
            assert_refused(SettingsError, lambda o=option, v=value: constructor(**{o: v}), f"{option}={value}")
    for value in (-0.1, 1.5, float("nan"), "half"):
        assert_refused(SettingsError, lambda v=value: constructor(dropout=v), f"dropout={value!r}")
    for value in (0, -1, float("nan"), float("inf"), "2"):
        assert_refused(SettingsError, lambda v=value: constructor(width=v), f"width={value!r}")


def test_width_scales_every_layer_to_even_channels():
    assert [scaled(64, width) for width in (1, 1.0, 0.5, 0.25, 0.1, 1e-9, 2)] == [64, 64, 32, 16, 6, 2, 128]
    assert [scaled(channels, 0.3) for channels in (64, 96, 192, 256)] == [20, 28, 58, 76]
    for constructor in NETWORKS:
        full, half = (unborn(constructor, small=True, width=width) for width in (1, 0.5))
        for wide, narrow in zip(full.modules(), half.modules(), strict=True):
            if isinstance(wide, nn.Conv2d):
                assert narrow.out_channels == wide.out_channels // 2
        sizes = [sum(p.numel() for p in model.features.parameters()) for model in (full, half)]
        assert sizes[0] / sizes[1] > 3.8


def test_a_network_can_be_copied_and_a_slice_of_it_is_its_layers_alone():
    model = alexnet(num_classes=3, in_channels=1, small=True, width=0.1).eval()
    x = random(2, 1, 28, 28, dtype=torch.float32)
    torch.testing.assert_close(copy.deepcopy(model)(x), model(x), rtol=0, atol=0)
    assert isinstance(model[:2], alexnet_file.ImageSequence)
    assert model[:2](x).shape == (2, scaled(256, 0.1), 2, 2)
    assert model[1:2](torch.zeros(4, 5, 7, 7)).shape == (4, 5, 2, 2)


def test_one_small_image_is_refused_in_the_training_of_a_small_vgg_with_normalisation():
    model = vgg11_bn(num_classes=3, small=True, width=0.1).train()
    assert model(torch.randn(1, 3, 17, 4)).isfinite().all()
    x = torch.randn(1, 3, 16, 16)
    assert_refused(ShapeError, lambda: model(x), "one value a channel", "a side of 17 pixels")
    assert model.eval()(x).isfinite().all()
    assert vgg11(num_classes=3, small=True, width=0.1).train()(x).isfinite().all()
