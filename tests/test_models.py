"""The networks: shapes, parameter counts, forms, and both hands over one data flow."""

import inspect

import pytest
import torch
from against_torch import assert_refused
from torch import nn

from byhand import models
from byhand.errors import SettingsError, UnknownName
from byhand.models import FIRST, NETWORKS, build, network
from byhand.nn import by_hand
from byhand.nn.hands import LAYERS

ENTRIES = {entry.name: entry for entry in FIRST}


def kinds(model):
    return [type(m).__name__ for m in model.modules() if not list(m.children())]


def test_the_networks_of_the_first_chapters_are_there():
    assert {"linear-regression", "softmax-regression", "mlp", "lenet5"} <= set(ENTRIES)
    assert len({entry.name for entry in NETWORKS}) == len(NETWORKS)
    assert all(entry.title and entry.source for entry in NETWORKS)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("linear-regression", 4), ("softmax-regression", 7_850), ("mlp", 235_146), ("lenet5", 61_706)],
)
def test_parameter_counts_are_the_sources(name, parameters):
    assert sum(p.numel() for p in build(name).parameters()) == parameters


@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_a_network_takes_batches_of_its_input_shape_in_both_hands(name, batch):
    model = build(name).double().eval()
    x = torch.randn(batch, *ENTRIES[name].input_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = model(x)
    assert y.shape[0] == batch
    assert y.ndim == 2
    torch.testing.assert_close(by_hand(model)(x), y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ENTRIES)
def test_a_network_is_written_with_torchs_layers_only(name):
    known = {nn.Sequential, *(library for library, _ in LAYERS)}
    assert {type(module) for module in build(name).modules()} <= known


@pytest.mark.parametrize("name", ENTRIES)
def test_the_same_seed_builds_the_same_network(name):
    with torch.random.fork_rng(devices=[]):
        states = []
        for _ in range(2):
            torch.manual_seed(5)
            states.append(build(name).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_lenet5_is_the_sources_by_default_and_the_papers_by_option():
    source = ["Conv2d", "ReLU", "AvgPool2d", "Conv2d", "ReLU", "AvgPool2d", "Flatten"]
    assert kinds(build("lenet5")) == [*source, "Linear", "ReLU", "Linear", "ReLU", "Linear"]
    for activation, kind in {"sigmoid": "Sigmoid", "tanh": "Tanh"}.items():
        found = kinds(build("lenet5", activation=activation))
        assert found.count(kind) == 4
        assert "ReLU" not in found
    assert build("lenet5", in_channels=3, num_classes=7)(torch.zeros(1, 3, 32, 32)).shape == (1, 7)
    shapes = {key: tuple(value.shape) for key, value in build("lenet5").state_dict().items()}
    assert shapes["features.0.weight"] == (6, 1, 5, 5)
    assert shapes["features.3.weight"] == (16, 6, 5, 5)
    assert [shapes[f"classifier.{i}.weight"] for i in (1, 3, 5)] == [(120, 400), (84, 120), (10, 84)]


def test_the_perceptron_takes_any_widths_activation_and_dropout():
    assert kinds(build("mlp")) == ["Flatten", "Linear", "ReLU", "Linear", "ReLU", "Linear"]
    assert kinds(build("mlp", widths=(5, 3))) == ["Flatten", "Linear"]
    deep = build("mlp", widths=[8, 7, 6, 5, 4], activation="tanh", dropout=0.25)
    assert kinds(deep) == ["Flatten", *["Linear", "Tanh", "Dropout"] * 3, "Linear"]
    assert {m.p for m in deep.modules() if isinstance(m, nn.Dropout)} == {0.25}
    assert deep(torch.zeros(2, 2, 4)).shape == (2, 4)
    assert build("mlp", num_classes=26)(torch.zeros(1, 784)).shape == (1, 26)


def test_regressions_are_one_linear_layer():
    assert kinds(build("linear-regression", in_features=5, out_features=2)) == ["Linear"]
    assert build("linear-regression", in_features=5, out_features=2)(torch.zeros(4, 5)).shape == (4, 2)
    assert kinds(build("softmax-regression")) == ["Flatten", "Linear"]  # the softmax stands in the loss
    assert build("softmax-regression", in_features=64, num_classes=3)(torch.zeros(4, 1, 8, 8)).shape == (4, 3)


def test_constructors_are_found_by_their_own_names():
    assert isinstance(models.lenet5(num_classes=3), nn.Module)
    assert models.mlp(widths=(4, 2))(torch.zeros(1, 4)).shape == (1, 2)
    with pytest.raises(AttributeError, match="no attribute 'lenet6'"):
        models.lenet6  # noqa: B018


def test_unknown_names_and_impossible_options_are_refused_in_one_line():
    assert_refused(UnknownName, lambda: network("lenet"), "'lenet'", "did you mean 'lenet5'")
    assert_refused(UnknownName, lambda: build("zzz"), "'zzz'", "alexnet, alexnet2012")
    assert_refused(UnknownName, lambda: build("mlp", activation="rleu"), "'rleu'", "did you mean 'relu'")
    assert_refused(SettingsError, lambda: build("lenet5", depth=3), "depth", "num_classes")
    for widths in [(784,), (), (784, 0, 10), (784, 2.5, 10), (784, -1)]:
        assert_refused(SettingsError, lambda w=widths: build("mlp", widths=w), "widths=")
    for name, option in {"mlp": "num_classes", "lenet5": "num_classes", "softmax-regression": "num_classes"}.items():
        for value in (0, -1, 2.5):
            assert_refused(SettingsError, lambda n=name, o=option, v=value: build(n, **{o: v}), value)
    assert_refused(SettingsError, lambda: build("lenet5", in_channels=0), "in_channels=0")
    assert_refused(SettingsError, lambda: build("linear-regression", in_features=0), "in_features=0")
    assert_refused(SettingsError, lambda: build("linear-regression", out_features=-2), "out_features=-2")
    assert_refused(SettingsError, lambda: build("softmax-regression", in_features=0), "in_features=0")
    for p in (-0.1, 1.5, float("nan")):
        assert_refused(SettingsError, lambda p=p: build("mlp", dropout=p), f"dropout={p}")


@pytest.mark.parametrize("entry", NETWORKS, ids=lambda entry: entry.name)
def test_a_network_is_called_by_the_name_of_its_function_and_is_built_of_torchs_layers(entry):
    function = getattr(models, entry.constructor.split(":")[1])
    assert inspect.isfunction(function)  # not the file of that name
    if entry in FIRST:
        return
    with torch.device("meta"):
        model = function(num_classes=7, in_channels=2)
    leaves = {type(module) for module in model.modules() if not list(module.children())}
    assert all(leaf.__module__.startswith(("torch.nn", "byhand.models")) for leaf in leaves)
    shapes = [tuple(parameter.shape) for parameter in model.parameters()]
    assert any(shape[0] == 7 for shape in shapes)
    assert shapes[0][1] == 2


@pytest.mark.parametrize("entry", NETWORKS[4:], ids=lambda entry: entry.name)
@pytest.mark.parametrize("size", [28, 32, 64])
def test_every_modern_network_takes_small_images_classes_and_channels(entry, size):
    with torch.device("meta"):
        options = {"image_size": size} if entry.name == "lenet5-bn" else {}
        model = entry.build(num_classes=7, in_channels=1, small=True, **options)
        assert model.eval()(torch.empty(2, 1, size, size)).shape == (2, 7)


@pytest.mark.parametrize("name", ["resnet20", "preact_resnet164", "densenet_cifar"])
def test_a_network_for_small_images_alone_has_no_other_form(name):
    with pytest.raises(SettingsError, match="small=False: this network is made for images of 28 to 64 pixels"):
        build(name, small=False)
