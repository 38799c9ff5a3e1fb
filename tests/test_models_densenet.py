"""DenseNets: torchvision's keys, counts and logits, the paper's table, and a second way to write the forward down."""

import math

import pytest
import torch
import torch.nn.functional as F
from against_torch import assert_refused, random
from against_torchvision import assert_is_torchvisions, weights
from torch import nn

from byhand.errors import SettingsError, ShapeError
from byhand.models import densenet
from byhand.models.cost import layer_table, total
from byhand.models.densenet import DenseLayer, DenseNet, transition

# Parameters, and 10⁹ multiply-adds of one image of 224 × 224, as torchvision publishes them with its weights.
PUBLISHED = {
    "densenet121": (7_978_856, 2.834),
    "densenet161": (28_681_000, 7.728),
    "densenet169": (14_149_480, 3.36),
    "densenet201": (20_013_928, 4.291),
}
DEPTHS = {
    "densenet121": (6, 12, 24, 16),
    "densenet161": (6, 12, 36, 24),
    "densenet169": (6, 12, 32, 32),
    "densenet201": (6, 12, 48, 32),
}
LAYERS = {nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Linear}


def made(name, seed=0, **options):
    """The network of that name, the same one for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return getattr(densenet, name)(**options)


def on_meta(name, **options):
    """The same without memory and without time."""
    with torch.device("meta"):
        return getattr(densenet, name)(**options)


def layers_of(model, kind):
    return [module for module in model.modules() if isinstance(module, kind)]


# As torchvision's


def test_keys_counts_and_logits_are_torchvisions():
    assert_is_torchvisions(made("densenet121"), "densenet121")


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_multiply_adds_are_the_published_ones(name):
    whole = total(layer_table(on_meta(name), (3, 224, 224)))
    parameters, multiply_adds = PUBLISHED[name]
    assert whole.parameters == parameters
    assert round(whole.multiply_adds / 1e9, 3) == multiply_adds


@pytest.mark.parametrize("name", PUBLISHED)
def test_keys_follow_torchvisions_pattern_in_order(name):
    def norm(prefix):
        return [f"{prefix}.{key}" for key in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]

    expected = ["features.conv0.weight", *norm("features.norm0")]
    for i, depth in enumerate(DEPTHS[name], start=1):
        for j in range(1, depth + 1):
            layer = f"features.denseblock{i}.denselayer{j}"
            expected += [*norm(f"{layer}.norm1"), f"{layer}.conv1.weight", *norm(f"{layer}.norm2")]
            expected += [f"{layer}.conv2.weight"]
        if i < 4:
            expected += [*norm(f"features.transition{i}.norm"), f"features.transition{i}.conv.weight"]
    expected += [*norm("features.norm5"), "classifier.weight", "classifier.bias"]
    assert list(on_meta(name).state_dict()) == expected


def test_maps_have_the_sizes_of_table_1():
    shapes = {row.name: row.output_shape for row in layer_table(on_meta("densenet121"), (3, 224, 224))}
    assert shapes["features.conv0"] == (64, 112, 112)
    assert shapes["features.pool0"] == (64, 56, 56)
    assert shapes["features.transition1.pool"] == (128, 28, 28)
    assert shapes["features.transition2.pool"] == (256, 14, 14)
    assert shapes["features.transition3.pool"] == (512, 7, 7)
    assert shapes["features.norm5"] == (1024, 7, 7)
    assert shapes["classifier"] == (1000,)


def test_convolutions_start_with_the_variance_that_keeps_the_signal_and_the_rest_at_1_and_0():
    model = made("densenet121")
    for conv in layers_of(model, nn.Conv2d):
        fan_in = conv.in_channels * conv.kernel_size[0] * conv.kernel_size[1]
        assert float(conv.weight.detach().std()) == pytest.approx(math.sqrt(2 / fan_in), rel=0.05)
        assert conv.bias is None
    for norm in layers_of(model, nn.BatchNorm2d):
        assert bool((norm.weight == 1).all())
        assert bool((norm.bias == 0).all())
    assert bool((model.classifier.bias == 0).all())
    assert (
        0 < float(model.classifier.weight.detach().abs().max()) <= 1 / math.sqrt(1024)
    )  # torch's own, as in torchvision


@pytest.mark.parametrize("name", [*PUBLISHED, "densenet_cifar"])
def test_every_network_is_made_of_torchs_layers(name):
    assert {type(m) for m in on_meta(name).modules() if not list(m.children())} <= LAYERS


def test_the_same_seed_builds_the_same_network():
    first, again, other = (made("densenet_cifar", seed, depth=22).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["features.conv0.weight"], other["features.conv0.weight"])


# CIFAR


def test_densenet_bc_for_cifar_has_769_162_parameters():
    # A sum by hand: a layer on C maps has 2C + 48C + 96 + 9 · 48 · 12, a transition 2C + C²/2.
    expected, channels = 3 * 24 * 9, 24
    for block in range(3):
        for _ in range(16):
            expected += 2 * channels + 48 * channels + 96 + 9 * 48 * 12
            channels += 12
        if block < 2:
            expected += 2 * channels + channels * channels // 2
            channels //= 2
    assert channels == 342
    expected += 2 * channels + 10 * channels + 10
    assert sum(p.numel() for p in on_meta("densenet_cifar").parameters()) == expected == 769_162


@pytest.mark.parametrize(("depth", "growth_rate", "millions"), [(100, 12, 0.8), (250, 24, 15.3), (190, 40, 25.6)])
def test_parameters_for_cifar_are_those_of_table_2(depth, growth_rate, millions):
    model = on_meta("densenet_cifar", depth=depth, growth_rate=growth_rate)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == millions
    assert model.features.conv0.out_channels == 2 * growth_rate


def test_the_depth_of_a_densenet_is_the_number_of_its_layers_with_weights():
    for name in PUBLISHED:
        assert len(layers_of(on_meta(name), nn.Conv2d | nn.Linear)) == int(name.removeprefix("densenet"))
    assert len(layers_of(on_meta("densenet_cifar", depth=40), nn.Conv2d | nn.Linear)) == 40


def norm_relu(state, x, name):
    keys = ("running_mean", "running_var", "weight", "bias")
    return F.relu(F.batch_norm(x, *(state[f"{name}.{key}"] for key in keys)))


def densenet_written_again(state, x, depths):
    """Section 3 of the paper as functions of a state dict, in evaluation; a block keeps the list of its maps."""
    x = F.conv2d(x, state["features.conv0.weight"], padding=1)
    for i, depth in enumerate(depths, start=1):
        maps = [x]
        for j in range(1, depth + 1):
            name = f"features.denseblock{i}.denselayer{j}"
            y = F.conv2d(norm_relu(state, torch.cat(maps, 1), f"{name}.norm1"), state[f"{name}.conv1.weight"])
            y = F.conv2d(norm_relu(state, y, f"{name}.norm2"), state[f"{name}.conv2.weight"], padding=1)
            maps.append(y)
        x = torch.cat(maps, 1)
        if i < len(depths):
            name = f"features.transition{i}"
            x = F.avg_pool2d(F.conv2d(norm_relu(state, x, f"{name}.norm"), state[f"{name}.conv.weight"]), 2)
    x = norm_relu(state, x, "features.norm5").mean((2, 3))
    return F.linear(x, state["classifier.weight"], state["classifier.bias"])


@pytest.mark.parametrize(
    ("build", "depths", "sizes"),
    [
        (lambda: made("densenet_cifar", depth=22), (3, 3, 3), (32, 28, 9)),
        (lambda: DenseNet(4, (2, 1, 3, 2), 8, num_classes=5, small=True), (2, 1, 3, 2), (32, 28, 11)),
    ],
    ids=["three blocks", "four blocks, small"],
)
def test_logits_of_small_networks_are_those_of_the_papers_formulas(build, depths, sizes):
    model = build()
    model.load_state_dict(weights(model.state_dict()))
    model = model.double().eval()
    for size in sizes:
        x = random(2, 3, size, size)
        with torch.no_grad():
            expected = densenet_written_again(model.state_dict(), x, depths)
            torch.testing.assert_close(model(x), expected, rtol=1e-10, atol=1e-10)


# Options


def test_a_layer_passes_its_input_on_and_adds_its_own_maps_behind():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = DenseLayer(5, 3).train()
    x = random(2, 5, 6, 7, dtype=torch.float32)
    y = layer(x)
    assert y.shape == (2, 8, 6, 7)
    assert torch.equal(y[:, :5], x)
    assert layer.conv1.out_channels == 12  # 4k
    assert transition(9)(random(2, 9, 7, 6, dtype=torch.float32)).shape == (2, 4, 3, 3)


@pytest.mark.parametrize("size", [28, 32, 64])
def test_the_small_stem_is_one_convolution_that_keeps_the_size(size):
    model = on_meta("densenet121", small=True, in_channels=1, num_classes=10)
    shapes = {row.name: row.output_shape for row in layer_table(model, (1, size, size))}
    assert tuple(model.features.conv0.weight.shape) == (64, 1, 3, 3)
    assert shapes["features.conv0"] == (64, size, size)
    assert shapes["features.norm5"] == (1024, size // 8, size // 8)
    assert shapes["classifier"] == (10,)
    assert not {"features.norm0", "features.relu0", "features.pool0"} & set(shapes)


@pytest.mark.parametrize("size", [28, 32, 64])
@pytest.mark.parametrize(
    ("name", "options"),
    [("densenet121", {"small": True, "width": 0.125, "num_classes": 10}), ("densenet_cifar", {"depth": 22})],
)
def test_small_networks_run_on_small_images(name, options, size):
    model = made(name, **options).eval()
    with torch.no_grad():
        logits = model(random(2, 3, size, size, dtype=torch.float32))
    assert logits.shape == (2, 10)
    assert bool(logits.isfinite().all())


def test_width_multiplies_the_growth_rate_and_the_first_maps():
    model = on_meta("densenet121", width=0.5)
    assert model.features.conv0.out_channels == 32
    assert model.features.denseblock1.denselayer1.conv2.out_channels == 16
    assert model.classifier.in_features == 512
    assert on_meta("densenet161", width=0.25).features.denseblock1.denselayer1.conv2.out_channels == 12


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("densenet121", {"small": True, "width": 0.125}),
        ("densenet121", {"width": 0.125}),
        ("densenet_cifar", {"depth": 22, "drop_rate": 0.2}),
    ],
)
def test_the_way_back_reaches_every_parameter(name, options):
    model = made(name, num_classes=5, **options).train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        logits = model(random(4, 3, 32, 32, dtype=torch.float32))
    F.cross_entropy(logits, torch.arange(4)).backward()
    unreached = [key for key, p in model.named_parameters() if p.grad is None or not bool((p.grad != 0).any())]
    assert not unreached
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())


def test_dropout_stands_after_each_dense_layer_only_where_it_is_asked_for():
    assert not layers_of(on_meta("densenet121"), nn.Dropout)
    found = layers_of(on_meta("densenet121", drop_rate=0.2), nn.Dropout)
    assert len(found) == 6 + 12 + 24 + 16
    assert {layer.p for layer in found} == {0.2}
    assert list(on_meta("densenet121", drop_rate=0.2).state_dict()) == list(on_meta("densenet121").state_dict())
    layer = DenseLayer(4, 3, drop_rate=1.0).train()
    x = random(2, 4, 5, 5, dtype=torch.float32)
    assert torch.equal(layer(x), torch.cat([x, torch.zeros(2, 3, 5, 5)], 1))
    assert bool((layer.eval()(x)[:, 4:] != 0).any())


# Bad input


@pytest.mark.parametrize(
    ("name", "options", "smallest"),
    [
        ("densenet121", {"width": 0.125}, 29),  # as in torchvision's weights: "min_size": (29, 29)
        ("densenet121", {"width": 0.125, "small": True}, 8),
        ("densenet_cifar", {"depth": 10}, 4),
    ],
)
def test_images_that_do_not_fit_are_refused_in_one_line_with_the_smallest_that_do(name, options, smallest):
    model = made(name, **options).eval()
    less = smallest - 1
    assert_refused(
        ShapeError, lambda: model(torch.zeros(2, 3, 64, less)), f"64 × {less}", f"{smallest} × {smallest} and larger"
    )
    with torch.no_grad():
        assert bool(model(torch.ones(2, 3, smallest, smallest)).isfinite().all())
        assert model(torch.ones(0, 3, 32, 32)).shape == (0, model.classifier.out_features)
    with pytest.raises(RuntimeError, match="too small"):
        model.features(torch.zeros(2, 3, less, less))  # torch's own, without our check
    assert_refused(ShapeError, lambda: model(torch.zeros(2, 1, 32, 32)), "1 channels", "in_channels=1", "for 3")
    assert_refused(ShapeError, lambda: model(torch.zeros(3, 32, 32)), "(3, 32, 32)", "(B, 3, H, W)")
    assert_refused(ShapeError, lambda: layer_table(model, (3, less, less)), f"{less} × {less}")


@pytest.mark.parametrize(
    ("name", "options", "side"),
    [
        ("densenet121", {"width": 0.125}, 61),
        ("densenet121", {"width": 0.125, "small": True}, 16),
        ("densenet_cifar", {"depth": 10}, 8),
    ],
)
def test_one_image_alone_is_refused_in_training_exactly_where_torch_cannot_normalise_it(name, options, side):
    model = made(name, **options).train()
    assert model(torch.ones(1, 3, side, model.smallest)).isfinite().all()
    assert model(torch.ones(2, 3, model.smallest, model.smallest)).isfinite().all()
    too_small = torch.ones(1, 3, side - 1, side - 1)
    assert_refused(ShapeError, lambda: model(too_small), f"{side - 1} × {side - 1}", f"side of {side} pixels")
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model.features(too_small)  # without our check
    for norm in layers_of(model, nn.BatchNorm2d):
        norm.eval()
    assert model(too_small).isfinite().all()  # with its statistics frozen, it needs none of this image


def test_settings_that_are_none_are_refused():
    for depth in (4, 20, 99, 22.0, "22"):
        assert_refused(SettingsError, lambda d=depth: on_meta("densenet_cifar", depth=d), f"depth={depth!r}", "6n + 4")
    assert_refused(SettingsError, lambda: on_meta("densenet_cifar", growth_rate=0), "growth_rate=0")
    for name in ("densenet121", "densenet_cifar"):
        assert_refused(SettingsError, lambda name=name: on_meta(name, num_classes=0), "num_classes=0")
        assert_refused(SettingsError, lambda name=name: on_meta(name, in_channels=0), "in_channels=0")
        for rate in (-0.1, 1.5, math.nan):
            assert_refused(SettingsError, lambda n=name, r=rate: on_meta(n, drop_rate=r), f"drop_rate={rate}")
    assert_refused(SettingsError, lambda: on_meta("densenet201", width=0), "width=0")
