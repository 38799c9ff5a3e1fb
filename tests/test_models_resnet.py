"""ResNets: torchvision's keys, counts and logits, the papers' tables, and a second way to write the forward down."""

import math

import pytest
import torch
import torch.nn.functional as F
from against_torch import assert_refused, random
from against_torchvision import assert_is_torchvisions, weights
from torch import nn

from byhand.errors import SettingsError, ShapeError
from byhand.models import resnet, resnet_cifar
from byhand.models.cost import layer_table, total
from byhand.models.resnet import BasicBlock, Bottleneck
from byhand.models.resnet_cifar import Block, PreActBlock, PreActBottleneck, PreActCifarResNet, identity_shortcut

# Parameters, and 10⁹ multiply-adds of one image of 224 × 224, as torchvision publishes them with its weights.
PUBLISHED = {
    "resnet18": (11_689_512, 1.814),
    "resnet34": (21_797_672, 3.664),
    "resnet50": (25_557_032, 4.089),
    "resnet101": (44_549_160, 7.801),
    "resnet152": (60_192_808, 11.514),
    "resnext50_32x4d": (25_028_904, 4.23),
    "resnext101_32x8d": (88_791_336, 16.414),
    "wide_resnet50_2": (68_883_240, 11.398),
    "wide_resnet101_2": (126_886_696, 22.753),
}
# Million parameters in table 6 of He et al. (2016a); those of the pre-activation networks of the same depth are equal.
TABLE_6 = {20: 0.27, 32: 0.46, 44: 0.66, 56: 0.85, 110: 1.7}
CIFAR = [f"{form}resnet{depth}" for form in ("", "preact_") for depth in TABLE_6] + ["preact_resnet164"]
LAYERS = {nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.Identity, nn.Linear}


def made(name, seed=0, **options):
    """The network of that name, the same one for the same seed."""
    constructor = getattr(resnet_cifar if name in CIFAR else resnet, name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return constructor(**options)


def on_meta(name, **options):
    """The same without memory and without time."""
    with torch.device("meta"):
        return getattr(resnet_cifar if name in CIFAR else resnet, name)(**options)


def num_parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def blocks(model, kind):
    return [module for module in model.modules() if isinstance(module, kind)]


# As torchvision's


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_keys_counts_and_logits_are_torchvisions(name):
    assert_is_torchvisions(made(name), name)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_multiply_adds_are_the_published_ones(name):
    whole = total(layer_table(on_meta(name), (3, 224, 224)))
    parameters, multiply_adds = PUBLISHED[name]
    assert whole.parameters == parameters
    assert round(whole.multiply_adds / 1e9, 3) == multiply_adds


@pytest.mark.parametrize(
    ("name", "depths"),
    [
        ("resnet34", (3, 4, 6, 3)),
        ("resnet101", (3, 4, 23, 3)),
        ("resnet152", (3, 8, 36, 3)),
        ("resnext50_32x4d", (3, 4, 6, 3)),
        ("resnext101_32x8d", (3, 4, 23, 3)),
        ("wide_resnet50_2", (3, 4, 6, 3)),
        ("wide_resnet101_2", (3, 4, 23, 3)),
    ],
)
def test_the_keys_of_the_others_follow_torchvisions_pattern_in_order(name, depths):
    convolutions = 2 if name == "resnet34" else 3

    def norm(prefix):
        return [f"{prefix}.{key}" for key in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]

    expected = ["conv1.weight", *norm("bn1")]
    for i, depth in enumerate(depths, start=1):
        for j in range(depth):
            block = f"layer{i}.{j}"
            for k in range(1, convolutions + 1):
                expected += [f"{block}.conv{k}.weight", *norm(f"{block}.bn{k}")]
            if j == 0 and (i > 1 or convolutions == 3):
                expected += [f"{block}.downsample.0.weight", *norm(f"{block}.downsample.1")]
    assert list(on_meta(name).state_dict()) == [*expected, "fc.weight", "fc.bias"]


def test_groups_and_widths_of_a_block_are_the_papers():
    def shapes(name, block):
        layers = on_meta(name).get_submodule(block).children()
        return [tuple(layer.weight.shape) for layer in layers if isinstance(layer, nn.Conv2d)]

    assert shapes("resnet50", "layer1.1") == [(64, 256, 1, 1), (64, 64, 3, 3), (256, 64, 1, 1)]
    assert shapes("resnext50_32x4d", "layer1.1") == [(128, 256, 1, 1), (128, 4, 3, 3), (256, 128, 1, 1)]
    assert shapes("resnext101_32x8d", "layer4.1") == [(2048, 2048, 1, 1), (2048, 64, 3, 3), (2048, 2048, 1, 1)]
    assert shapes("wide_resnet50_2", "layer1.1") == [(128, 256, 1, 1), (128, 128, 3, 3), (256, 128, 1, 1)]
    assert {conv.groups for conv in blocks(on_meta("resnext50_32x4d"), nn.Conv2d)} == {1, 32}


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_maps_have_the_sizes_of_table_1(name):
    rows = {row.name: row.output_shape for row in layer_table(on_meta(name), (3, 224, 224))}
    expansion = 1 if name == "resnet18" else 4
    last = "bn2" if name == "resnet18" else "bn3"
    assert rows["conv1"] == (64, 112, 112)
    assert rows["maxpool"] == (64, 56, 56)
    for i, (channels, size) in enumerate([(64, 56), (128, 28), (256, 14), (512, 7)], start=1):
        assert rows[f"layer{i}.1.{last}"] == (channels * expansion, size, size)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet20", "preact_resnet20"])
def test_convolutions_start_with_the_variance_that_keeps_the_gradients_and_the_rest_at_1_and_0(name):
    model = made(name)
    for conv in blocks(model, nn.Conv2d):
        std = math.sqrt(2 / (conv.out_channels * conv.kernel_size[0] * conv.kernel_size[1]))
        weight = conv.weight.detach()
        spread = 4 / math.sqrt(weight.numel())  # the mean and std of n draws are within 4 / √n and 4 / √2n of theirs
        assert float(weight.std()) == pytest.approx(std, rel=spread)
        assert abs(float(weight.mean())) < spread * std
        assert conv.bias is None
    for norm in blocks(model, nn.BatchNorm2d):
        assert bool((norm.weight == 1).all())
        assert bool((norm.bias == 0).all())
    bound = 1 / math.sqrt(model.fc.in_features)  # torch's own, as in torchvision
    assert 0.9 * bound < float(model.fc.weight.detach().abs().max()) <= bound


@pytest.mark.parametrize("name", [*PUBLISHED, *CIFAR])
def test_every_network_is_made_of_torchs_layers_and_of_one_seed(name):
    assert {type(m) for m in on_meta(name).modules() if not list(m.children())} <= LAYERS
    if name in ("resnet18", "resnet20", "preact_resnet20"):
        first, again, other = (made(name, seed, width=0.25).state_dict() for seed in (1, 1, 2))
        assert all(torch.equal(first[key], again[key]) for key in first)
        assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


# Options


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2"])
@pytest.mark.parametrize("size", [28, 32, 64])
def test_the_small_stem_keeps_an_eighth_of_the_side(name, size):
    model = on_meta(name, small=True, in_channels=1, num_classes=10)
    rows = layer_table(model, (1, size, size))
    shapes = {row.name: row.output_shape for row in rows}
    assert tuple(model.conv1.weight.shape) == (64, 1, 3, 3)
    assert shapes["conv1"] == shapes["maxpool"] == (64, size, size)
    assert shapes["layer4.0.bn2"][1:] == (math.ceil(size / 8),) * 2
    assert shapes["fc"] == (10,)
    assert "MaxPool2d" not in {row.kind for row in rows}


@pytest.mark.parametrize("size", [28, 32, 64])
def test_small_networks_run_on_small_images(size):
    model = made("resnet18", small=True, width=0.25, num_classes=10).eval()
    with torch.no_grad():
        logits = model(random(2, 3, size, size, dtype=torch.float32))
    assert logits.shape == (2, 10)
    assert bool(logits.isfinite().all())


def test_width_multiplies_the_channels_of_every_stage():
    model = on_meta("resnet50", width=0.5)
    assert [model.conv1.out_channels, model.layer1[0].conv2.out_channels] == [32, 32]
    assert [model.layer4[0].conv2.out_channels, model.fc.in_features] == [256, 1024]
    assert on_meta("resnext50_32x4d", width=0.1).layer1[0].conv2.out_channels == 32  # one channel a group at least
    assert on_meta("resnet20", width=2).fc.in_features == 128  # Wide ResNet's k
    assert on_meta("preact_resnet164", width=0.5).fc.in_features == 128


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {"small": True, "width": 0.25}),
        ("resnet18", {"width": 0.25}),
        ("resnet50", {"small": True, "width": 0.125}),
        ("resnext50_32x4d", {"small": True, "width": 0.25}),
        ("wide_resnet50_2", {"small": True, "width": 0.125}),
        ("resnet20", {}),
        ("preact_resnet20", {}),
        ("preact_resnet164", {"width": 0.5}),
    ],
)
def test_the_way_back_reaches_every_parameter(name, options):
    model = made(name, num_classes=5, **options).train()
    F.cross_entropy(model(random(4, 3, 32, 32, dtype=torch.float32)), torch.arange(4)).backward()
    unreached = [key for key, p in model.named_parameters() if p.grad is None or not bool((p.grad != 0).any())]
    assert not unreached
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "kind"),
    [("resnet18", BasicBlock), ("resnet50", Bottleneck), ("resnet20", Block)],
)
def test_with_zero_init_residual_every_block_starts_as_the_identity(name, kind):
    model = made(name, width=0.25, zero_init_residual=True).train()
    for block in blocks(model, kind):
        x = random(2, block.conv1.in_channels, 6, 6, dtype=torch.float32).relu()  # what comes before is a ReLU
        if kind is Block:
            expected = identity_shortcut(x, block.channels, block.stride)
        else:
            expected = x if block.downsample is None else block.downsample(x).relu()
        assert torch.equal(block(x), expected)
    F.cross_entropy(model(random(4, 3, 32, 32, dtype=torch.float32)), torch.arange(4)).backward()
    last = [block.bn3 if kind is Bottleneck else block.bn2 for block in blocks(model, kind)]
    assert all(bool((norm.weight.grad != 0).any()) for norm in last)  # a 0 that can leave 0
    usual = made(name, width=0.25).train().layer1[1]
    x = random(2, usual.conv1.in_channels, 6, 6, dtype=torch.float32).relu()
    assert not torch.equal(usual(x), x)


@pytest.mark.parametrize("name", ["preact_resnet20", "preact_resnet164"])
def test_with_zero_init_residual_blocks_before_activation_are_the_identity_and_still_learn(name):
    model = made(name, zero_init_residual=True).train()
    found = blocks(model, PreActBlock | PreActBottleneck)
    for block in [*model.layer1[1:], *model.layer3[1:]]:  # the first of the network activates its x
        x = random(2, block.bn1.num_features, 6, 6, dtype=torch.float32)
        assert torch.equal(block(x), x)
    F.cross_entropy(model(random(4, 3, 8, 8, dtype=torch.float32)), torch.arange(4)).backward()
    last = [block.conv2 if isinstance(block, PreActBlock) else block.conv3 for block in found]
    assert all(bool((conv.weight.grad != 0).any()) for conv in last)


# CIFAR


@pytest.mark.parametrize("depth", TABLE_6)
def test_parameters_for_cifar_are_those_of_table_6(depth):
    # Sums by hand: a convolution of 3×3, in × out × 9; normalisation, 2 × out; the linear layer, 64 × 10 + 10.
    n = (depth - 2) // 6
    stages = 2 * n * 16 * 16 * 9 + 16 * 32 * 9 + (2 * n - 1) * 32 * 32 * 9 + 32 * 64 * 9 + (2 * n - 1) * 64 * 64 * 9
    norms = 2 * 16 + 2 * 2 * n * (16 + 32 + 64)
    by_hand = 3 * 16 * 9 + stages + norms + 650
    for name in (f"resnet{depth}", f"preact_resnet{depth}"):
        assert num_parameters(on_meta(name)) == by_hand
    assert round(by_hand / 1e6, 1 if depth == 110 else 2) == TABLE_6[depth]


def test_resnet20_has_269_722_parameters_and_costs_41_million_multiply_adds():
    whole = total(layer_table(on_meta("resnet20"), (3, 32, 32)))
    assert whole.parameters == 269_722
    at_32, at_16, at_8 = 3 * 16 * 9 + 6 * 16 * 16 * 9, 16 * 32 * 9 + 5 * 32 * 32 * 9, 32 * 64 * 9 + 5 * 64 * 64 * 9
    assert whole.multiply_adds == at_32 * 32**2 + at_16 * 16**2 + at_8 * 8**2 + 640
    assert round(whole.multiply_adds / 1e6) == 41


def test_preact_resnet164_has_1_7_million_parameters():
    assert num_parameters(on_meta("preact_resnet164")) == 1_703_258
    weighted = [m for m in on_meta("preact_resnet164").modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(weighted) - 3 == 164  # three 1×1 convolutions stand in shortcuts


@pytest.mark.parametrize("name", CIFAR)
def test_the_depth_in_the_name_is_the_number_of_layers_with_weights(name):
    weighted = [
        key for key, m in on_meta(name).named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and "project" not in key
    ]
    assert len(weighted) == int(name.rpartition("resnet")[2])


@pytest.mark.parametrize("size", [(6, 6), (7, 5), (1, 1)])
def test_the_shortcut_keeps_every_second_pixel_and_adds_maps_of_zeros(size):
    x = random(2, 3, *size)
    y = identity_shortcut(x, 8, 2)
    torch.testing.assert_close(y, F.pad(F.avg_pool2d(x, 1, 2), (0, 0, 0, 0, 0, 5)), rtol=0, atol=0)
    assert identity_shortcut(x, 3, 1) is x


def norm(state, x, name):
    keys = ("running_mean", "running_var", "weight", "bias")
    return F.batch_norm(x, *(state[f"{name}.{key}"] for key in keys))


def shapes_of_a_stage(n):
    """(name of a block, stride) of 3 stages of n blocks."""
    return [(f"layer{i}.{j}", 2 if i > 1 and j == 0 else 1) for i in (1, 2, 3) for j in range(n)]


def resnet_written_again(state, x, n):
    """Section 4.2 of He et al. (2016a) as functions of a state dict, in evaluation."""
    x = F.relu(norm(state, F.conv2d(x, state["conv1.weight"], padding=1), "bn1"))
    for name, stride in shapes_of_a_stage(n):
        y = F.conv2d(x, state[f"{name}.conv1.weight"], stride=stride, padding=1)
        y = F.conv2d(F.relu(norm(state, y, f"{name}.bn1")), state[f"{name}.conv2.weight"], padding=1)
        if stride == 2:
            x = F.pad(F.avg_pool2d(x, 1, 2), (0, 0, 0, 0, 0, x.shape[1]))
        x = F.relu(norm(state, y, f"{name}.bn2") + x)
    return F.linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"])


def preact_resnet_written_again(state, x, n):
    """The same before activation, figure 4e of He et al. (2016b) and its appendix."""
    x = F.conv2d(x, state["conv1.weight"], padding=1)
    for i, (name, stride) in enumerate(shapes_of_a_stage(n)):
        active = F.relu(norm(state, x, f"{name}.bn1"))
        if i == 0:
            x = active
        y = F.conv2d(active, state[f"{name}.conv1.weight"], stride=stride, padding=1)
        y = F.conv2d(F.relu(norm(state, y, f"{name}.bn2")), state[f"{name}.conv2.weight"], padding=1)
        if stride == 2:
            x = F.pad(F.avg_pool2d(x, 1, 2), (0, 0, 0, 0, 0, x.shape[1]))
        x = x + y
    return F.linear(F.relu(norm(state, x, "bn")).mean((2, 3)), state["fc.weight"], state["fc.bias"])


def preact_bottlenecks_written_again(state, x, n):
    """The authors' ResNet-164: a projection of the activated x where the shape changes, stride at the first 1×1."""
    x = F.conv2d(x, state["conv1.weight"], padding=1)
    for name, stride in shapes_of_a_stage(n):
        active = F.relu(norm(state, x, f"{name}.bn1"))
        y = F.conv2d(active, state[f"{name}.conv1.weight"], stride=stride)
        y = F.conv2d(F.relu(norm(state, y, f"{name}.bn2")), state[f"{name}.conv2.weight"], padding=1)
        y = F.conv2d(F.relu(norm(state, y, f"{name}.bn3")), state[f"{name}.conv3.weight"])
        if name.endswith(".0"):
            x = F.conv2d(active, state[f"{name}.project.weight"], stride=stride)
        x = x + y
    return F.linear(F.relu(norm(state, x, "bn")).mean((2, 3)), state["fc.weight"], state["fc.bias"])


@pytest.mark.parametrize(
    ("model", "again", "n"),
    [
        (lambda: made("resnet20"), resnet_written_again, 3),
        (lambda: made("resnet32", width=0.5), resnet_written_again, 5),
        (lambda: made("preact_resnet20"), preact_resnet_written_again, 3),
        (lambda: PreActCifarResNet(20, bottleneck=True), preact_bottlenecks_written_again, 2),
    ],
    ids=["resnet20", "resnet32 of half the width", "preact_resnet20", "preact of bottlenecks"],
)
def test_logits_for_cifar_are_those_of_the_papers_formulas(model, again, n):
    model = model()
    model.load_state_dict(weights(model.state_dict()))
    model = model.double().eval()
    for size in (32, 28, 9):
        x = random(2, 3, size, size)
        with torch.no_grad():
            torch.testing.assert_close(model(x), again(model.state_dict(), x, n), rtol=1e-10, atol=1e-10)


def test_a_plain_network_is_the_same_layers_in_a_chain_without_shortcuts():
    plain, residual = made("resnet32", shortcut=False), made("resnet32")
    assert {key: value.shape for key, value in plain.state_dict().items()} == {
        key: value.shape for key, value in residual.state_dict().items()
    }
    plain.load_state_dict(weights(plain.state_dict()))
    plain = plain.double().eval()
    state = plain.state_dict()
    x = random(2, 3, 28, 28)
    y = F.relu(norm(state, F.conv2d(x, state["conv1.weight"], padding=1), "bn1"))
    for name, stride in shapes_of_a_stage(5):
        y = F.relu(norm(state, F.conv2d(y, state[f"{name}.conv1.weight"], stride=stride, padding=1), f"{name}.bn1"))
        y = F.relu(norm(state, F.conv2d(y, state[f"{name}.conv2.weight"], padding=1), f"{name}.bn2"))
    with torch.no_grad():
        expected = F.linear(y.mean((2, 3)), state["fc.weight"], state["fc.bias"])
        torch.testing.assert_close(plain(x), expected, rtol=1e-10, atol=1e-10)
    with pytest.raises(SettingsError, match="shortcut=True"):
        made("resnet20", shortcut=False, zero_init_residual=True)


# Bad input


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet20", "preact_resnet20"])
def test_images_that_do_not_fit_are_refused_in_one_line(name):
    model = made(name, width=0.25).eval()
    assert_refused(ShapeError, lambda: model(torch.zeros(2, 1, 32, 32)), "1 channels", "in_channels=1", "for 3")
    assert_refused(ShapeError, lambda: model(torch.zeros(3, 32, 32)), "(3, 32, 32)", "(B, 3, H, W)")
    assert_refused(ShapeError, lambda: model(torch.zeros(2, 3, 0, 5)), "0 × 5", "1 × 1")
    assert_refused(ShapeError, lambda: layer_table(model, (1, 32, 32)), "in_channels=1")
    with torch.no_grad():
        assert bool(model(torch.ones(1, 3, 1, 1)).isfinite().all())  # the smallest that it names
        assert model(torch.ones(2, 3, 33, 57)).shape == (2, model.fc.out_features)
        assert model(torch.ones(0, 3, 32, 32)).shape == (0, model.fc.out_features)


@pytest.mark.parametrize(
    ("name", "options", "side"),
    [
        ("resnet18", {}, 33),
        ("resnet50", {"small": True}, 9),
        ("resnet20", {}, 5),
        ("preact_resnet20", {}, 5),
    ],
)
def test_one_image_alone_is_refused_in_training_exactly_where_torch_cannot_normalise_it(name, options, side):
    model = made(name, width=0.125, **options).train()
    assert model(torch.ones(1, 3, side, 1)).isfinite().all()
    assert model(torch.ones(2, 3, 1, 1)).isfinite().all()
    too_small = torch.ones(1, 3, side - 1, side - 1)
    assert_refused(ShapeError, lambda: model(too_small), f"{side - 1} × {side - 1}", f"side of {side} pixels", "2")
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        nn.Sequential(*list(model.children())[:-2])(too_small)  # without our check
    for norm in blocks(model, nn.BatchNorm2d):
        norm.eval()
    assert model(too_small).isfinite().all()  # with its statistics frozen, it needs none of this image


@pytest.mark.parametrize("width", [0, -1, math.inf, math.nan, "wide", True])
def test_a_width_that_is_none_is_refused(width):
    assert_refused(SettingsError, lambda: on_meta("resnet18", width=width), f"width={width!r}")
    assert_refused(SettingsError, lambda: on_meta("resnet20", width=width), f"width={width!r}")


def test_impossible_counts_and_depths_are_refused():
    for name in ("resnet50", "resnet20", "preact_resnet164"):
        assert_refused(SettingsError, lambda name=name: on_meta(name, num_classes=0), "num_classes=0")
        assert_refused(SettingsError, lambda name=name: on_meta(name, in_channels=-1), "in_channels=-1")
    for depth in (2, 18, 21, 20.0, "20"):
        assert_refused(SettingsError, lambda d=depth: resnet_cifar.CifarResNet(d), f"depth={depth!r}", "6n + 2")
        assert_refused(SettingsError, lambda d=depth: PreActCifarResNet(d), f"depth={depth!r}", "8, 14, 20")
    assert_refused(SettingsError, lambda: PreActCifarResNet(163, bottleneck=True), "depth=163", "9n + 2", "11, 20, 29")
