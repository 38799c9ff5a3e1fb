"""The layers of byhand.nn stand where torch.nn's stood: arguments, initial weights, state dicts, errors."""

import inspect
import math

import pytest
import torch
import torch.nn.functional as F
from against_torch import assert_refused, random, value_and_gradients
from torch import nn as library

from byhand import nn, ops, optim
from byhand.errors import SettingsError, ShapeError

NOT_IN_TORCH = ("PHMLinear", "StochasticDepth")
NAMES = [name for name in nn.__all__ if isinstance(getattr(nn, name), type) and name not in NOT_IN_TORCH]
OWN = [name for name in NAMES if getattr(nn, name) is not getattr(library, name)]

# A layer by its name with arguments and an input; what is not named here is a loss.
LAYERS = {
    "Linear": [((3, 5), {}), ((3, 5), {"bias": False}), ((3, 5), {"dtype": torch.float64})],
    "Conv2d": [
        ((2, 4, 3), {}),
        ((2, 4, (1, 3)), {"stride": 2, "padding": (0, 1), "dilation": (1, 2), "groups": 2, "bias": False}),
        ((2, 4, 3), {"padding": "same", "padding_mode": "reflect"}),
        ((2, 4, 3), {"padding": 1, "padding_mode": "circular", "dtype": torch.float64}),
    ],
    "ConvTranspose2d": [
        ((2, 4, 3), {}),
        ((2, 4, (1, 3)), {"stride": 2, "padding": (0, 1), "output_padding": 1, "groups": 2, "bias": False}),
    ],
    "MaxPool2d": [((2,), {}), (((3, 2),), {"stride": 1, "padding": 1, "dilation": 2, "ceil_mode": True})],
    "AvgPool2d": [((2,), {}), ((3, 2), {"padding": 1, "count_include_pad": False, "divisor_override": 5})],
    "AdaptiveAvgPool2d": [((2,), {}), (((1, None),), {})],
    "BatchNorm2d": [((2,), {}), ((2, 1e-3, None), {}), ((2,), {"affine": False, "track_running_stats": False})],
    "LayerNorm": [((6,), {}), (((7, 6),), {"bias": False}), (((2, 7, 6), 1e-3, False), {})],
    "GroupNorm": [((2, 2), {}), ((1, 2, 1e-3), {"bias": False}), ((1, 2), {"affine": False})],
    "LocalResponseNorm": [((3,), {}), ((2, 0.5, 0.6, 2.0), {})],
    "Flatten": [((), {}), ((), {"start_dim": 2}), ((0, 1), {})],
    "Dropout": [((), {}), ((0.2,), {})],
    "ReLU": [((), {}), ((True,), {})],
    "LeakyReLU": [((), {}), ((0.3,), {})],
    "ReLU6": [((), {}), ((True,), {})],
    "Hardsigmoid": [((), {})],
    "Hardswish": [((), {})],
    "SiLU": [((), {}), ((True,), {})],
    "GELU": [((), {}), (("tanh",), {})],
    "Sigmoid": [((), {})],
    "Tanh": [((), {})],
    "Softmax": [((1,), {})],
    "LogSoftmax": [((), {"dim": -1})],
}
CASES = [(name, args, kwargs) for name, cases in LAYERS.items() for args, kwargs in cases]
LOSSES = [name for name in OWN if name.endswith("Loss")]


def not_compiled(name):
    return inspect.isfunction(getattr(F, name)) and not name.startswith("max_pool2d")


def both(name, args=(), kwargs=None):
    pair = []
    for place in (nn, library):
        torch.manual_seed(4)
        pair.append(getattr(place, name)(*args, **(kwargs or {})))
    return pair


@pytest.fixture(autouse=True)
def _own_seed():
    with torch.random.fork_rng(devices=[]):
        yield


def test_every_layer_of_this_file_and_of_the_package_is_tested():
    elsewhere = {"Sequential", "BatchNorm1d"}  # in test_ops_stage.py and test_nn_normalisation.py
    assert set(OWN) == set(LAYERS) | set(LOSSES) | elsewhere


@pytest.mark.parametrize("name", sorted(set(OWN) - {"Sequential"}))
def test_a_layer_takes_the_arguments_of_torch_with_their_defaults(name):
    mine, theirs = (inspect.signature(getattr(place, name)).parameters for place in (nn, library))
    assert [(p.name, p.default, p.kind) for p in mine.values()] == [
        (p.name, p.default, p.kind) for p in theirs.values()
    ]


# The others are compiled functions of torch that tell no signature, or choose between two at run time.
@pytest.mark.parametrize("name", [n for n in nn.functional.__all__ if not_compiled(n)])
def test_a_function_takes_the_arguments_of_torch_with_their_defaults(name):
    mine, theirs = (inspect.signature(getattr(place, name)).parameters for place in (nn.functional, F))
    assert [(p.name, p.default) for p in mine.values()] == [(p.name, p.default) for p in theirs.values()]


@pytest.mark.parametrize(("name", "args", "kwargs"), CASES, ids=str)
def test_a_layer_starts_with_torchs_weights_from_the_same_seed(name, args, kwargs):
    mine, theirs = both(name, args, kwargs)
    assert list(mine.state_dict()) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        assert mine.state_dict()[key].dtype is value.dtype
        assert torch.equal(mine.state_dict()[key], value)
    assert all(isinstance(p, torch.nn.Parameter) and p.requires_grad for p in mine.parameters())


@pytest.mark.parametrize(("name", "args", "kwargs"), CASES, ids=str)
def test_a_layer_computes_what_torchs_computes(name, args, kwargs):
    mine, theirs = (layer.double() for layer in both(name, args, kwargs))
    x = random(4, 2, 7, 3 if name == "Linear" else 6)
    outcomes = []
    for layer in (mine, theirs):
        torch.manual_seed(1)
        outcomes.append(value_and_gradients(lambda x, layer=layer: layer(x * 1), (x,)))
    torch.testing.assert_close(outcomes[0], outcomes[1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(mine.eval()(x.clone()), theirs.eval()(x.clone()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "args", "kwargs"), CASES, ids=str)
def test_state_dicts_load_both_ways(name, args, kwargs):
    mine, theirs = both(name, args, kwargs)
    for parameter in theirs.parameters():
        parameter.data.add_(1)
    assert str(mine.load_state_dict(theirs.state_dict())) == "<All keys matched successfully>"
    assert all(torch.equal(p, q) for p, q in zip(mine.parameters(), theirs.parameters(), strict=True))
    for parameter in mine.parameters():
        parameter.data.mul_(2)
    assert str(theirs.load_state_dict(mine.state_dict())) == "<All keys matched successfully>"
    assert all(torch.equal(p, q) for p, q in zip(mine.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize(("name", "args", "kwargs"), CASES, ids=str)
def test_a_layer_introduces_itself_as_torchs_does(name, args, kwargs):
    mine, theirs = both(name, args, kwargs)
    assert repr(mine) == repr(theirs)


@pytest.mark.parametrize("name", ["Linear", "Conv2d"])
def test_drawing_the_weights_anew_gives_torchs(name):
    mine, theirs = both(name, *LAYERS[name][0])
    for layer in (mine, theirs):
        torch.manual_seed(9)
        layer.reset_parameters()
    assert torch.equal(mine.weight, theirs.weight)
    assert torch.equal(mine.bias, theirs.bias)


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_layers_without_inputs_or_outputs_are_built_as_in_torch():
    for args in ((3, 0), (0, 3)):
        mine, theirs = both("Linear", args)
        assert mine(torch.ones(2, args[0])).shape == theirs(torch.ones(2, args[0])).shape
        assert torch.equal(mine.bias, theirs.bias)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_computes_what_torchs_computes(name):
    weight = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    settings = {
        "CrossEntropyLoss": [{}, {"weight": weight, "ignore_index": 1, "label_smoothing": 0.1}, {"reduction": "sum"}],
        "NLLLoss": [{}, {"weight": weight, "ignore_index": 1}, {"reduction": "none"}],
        "HuberLoss": [{}, {"delta": 0.3, "reduction": "sum"}],
        "SmoothL1Loss": [{}, {"beta": 0.3, "reduction": "none"}],
    }.get(name, [{}, {"reduction": "sum"}, {"reduction": "none"}])
    target = torch.tensor([0, 1, 2, 2]) if name in ("CrossEntropyLoss", "NLLLoss") else random(4, 3, seed=1)
    for kwargs in settings:
        mine, theirs = both(name, (), kwargs)
        assert list(mine.state_dict()) == list(theirs.state_dict())
        assert repr(mine) == repr(theirs)
        outcomes = [value_and_gradients(lambda x, f=f: f(x, target), (random(4, 3),)) for f in (mine, theirs)]
        torch.testing.assert_close(*outcomes, rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore:size_average and reduce")
@pytest.mark.parametrize("name", [n for n in LOSSES if n != "HuberLoss"])
@pytest.mark.parametrize("old", [{"size_average": False}, {"reduce": False}, {"size_average": True, "reduce": True}])
def test_torchs_two_oldest_arguments_still_choose_the_reduction(name, old):
    mine, theirs = both(name, (), old)
    assert mine.reduction == theirs.reduction


def test_containers_are_torchs_own():
    for name in set(NAMES) - set(OWN) - {"Sequential"}:
        assert getattr(nn, name) is getattr(library, name)
    assert issubclass(nn.Sequential, library.Sequential)  # the one that joins what its layers compute
    assert {"Module", "ModuleList", "ModuleDict", "Parameter", "Identity"} <= set(NAMES) - set(OWN)


def test_a_layer_of_torch_without_a_twin_is_an_error_that_says_what_there_is():
    for name in ("LSTM", "Mish", "utils"):
        with pytest.raises(AttributeError, match=rf"torch\.nn\.{name} has no twin by hand yet.*Linear") as caught:
            getattr(nn, name)
        assert "\n" not in str(caught.value)
    with pytest.raises(AttributeError, match="no attribute 'Lineear'"):
        nn.Lineear  # noqa: B018
    assert not hasattr(nn, "__path_of_nothing__")


def test_impossible_settings_are_refused_when_the_layer_is_built():
    for call, *values in [
        (lambda: nn.Conv2d(3, 4, 3, groups=2), "groups=2", "in_channels=3"),
        (lambda: nn.Conv2d(3, 4, 0), "kernel_size=0"),
        (lambda: nn.Conv2d(3, 4, 3, stride=0), "stride=0"),
        (lambda: nn.Conv2d(3, 4, 3, padding=-1), "padding=-1"),
        (lambda: nn.Conv2d(3, 4, 3, padding="half"), "half"),
        (lambda: nn.Conv2d(3, 4, 3, padding="same", stride=2), "same"),
        (lambda: nn.Conv2d(3, 4, 3, padding_mode="mirror"), "mirror"),
        (lambda: nn.Dropout(1.5), 1.5),
        (lambda: nn.Dropout(math.nan), "nan"),
        (lambda: nn.CrossEntropyLoss(label_smoothing=2.0), 2.0),
        (lambda: nn.PHMLinear(6, 4, 3), "n=3", "out_features=4"),
        (lambda: nn.PHMLinear(6, 4, 0), "n=0"),
    ]:
        assert_refused(SettingsError, call, *values)


def test_an_input_that_does_not_fit_a_layer_is_refused_in_one_line():
    assert_refused(ShapeError, lambda: nn.Linear(3, 2)(torch.zeros(4, 5)), (4, 5), (2, 3))
    assert_refused(ShapeError, lambda: nn.Conv2d(1, 2, 5)(torch.zeros(1, 1, 4, 4)), "(5, 5)", 4)
    assert_refused(ShapeError, lambda: nn.Conv2d(3, 2, 3)(torch.zeros(1, 1, 4, 4)), (1, 1, 4, 4), 3)


# The hypercomplex layer, which torch does not have


@pytest.mark.parametrize(("d", "q", "n"), [(6, 4, 2), (8, 4, 4), (5, 3, 1), (9, 6, 3)])
def test_the_hypercomplex_layer_has_dq_over_n_plus_n_cubed_weights(d, q, n):
    layer = nn.PHMLinear(d, q, n)
    assert sum(p.numel() for p in layer.parameters()) == d * q // n + n**3 + q
    assert [name for name, _ in nn.PHMLinear(d, q, n, bias=False).named_parameters()] == ["rules", "blocks"]


@pytest.mark.parametrize(("d", "q", "n"), [(6, 4, 2), (8, 4, 4), (5, 3, 1)])
def test_the_hypercomplex_layer_is_linear_in_the_sum_of_torchs_kronecker_products(d, q, n):
    layer = nn.PHMLinear(d, q, n).double()
    torch.nn.init.normal_(layer.rules)
    weight = sum(torch.kron(layer.rules[i], layer.blocks[i]) for i in range(n))
    x = random(5, 2, d)
    torch.testing.assert_close(layer(x), F.linear(x, weight, layer.bias))


def test_the_hypercomplex_layer_starts_as_spread_as_a_full_one():
    torch.manual_seed(0)
    layer = nn.PHMLinear(300, 200, 4)
    weight = ops.hypercomplex_weight(layer.rules, layer.blocks)
    bound = 300**-0.5
    assert weight.abs().max() <= bound
    # a uniform distribution over ±bound has the standard deviation bound / √3; 15,000 blocks are drawn
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert layer.bias.abs().max() <= bound


# A script in the book's manner, with one import changed


def script(nn, optim):
    class LeNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(1, 6, kernel_size=5, padding=2)
            self.conv2 = nn.Conv2d(6, 16, kernel_size=5)
            self.pool = nn.AvgPool2d(kernel_size=2, stride=2)
            self.flatten, self.act, self.drop = nn.Flatten(), nn.Sigmoid(), nn.Dropout(0.1)
            self.dense = nn.Sequential(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10))

        def forward(self, X):
            X = self.pool(self.act(self.conv1(X)))
            X = self.pool(self.act(self.conv2(X)))
            return self.dense(self.drop(self.flatten(X)))

    torch.manual_seed(0)
    net, loss = LeNet(), nn.CrossEntropyLoss()
    for p in net.parameters():
        if p.ndim > 1:
            nn.init.xavier_uniform_(p)
    trainer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    X, y = random(4, 1, 28, 28, dtype=torch.float32), torch.tensor([3, 1, 4, 1])
    losses = []
    for _ in range(3):
        trainer.zero_grad()
        l = loss(net(X), y)  # noqa: E741
        l.backward()
        trainer.step()
        losses.append(l.item())
    return losses, net


def test_a_script_of_the_book_trains_alike_after_its_import_changed():
    mine, by_hand = script(nn, optim)
    theirs, by_library = script(library, torch.optim)
    assert mine == pytest.approx(theirs, rel=1e-5)
    for (key, p), q in zip(by_hand.named_parameters(), by_library.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}")
    assert mine[2] != mine[0]
