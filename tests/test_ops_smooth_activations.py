"""ReLU6, hard-tanh, hard-sigmoid, hard-swish, SiLU and GELU by hand, against torch."""

import math

import pytest
import torch
import torch.nn.functional as F
from against_torch import (
    LAYOUTS,
    assert_agree,
    assert_refused,
    assert_within_precision,
    drawn,
    laid_out,
    random,
    value_and_gradients,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from byhand import nn as hand_nn
from byhand import ops, prove
from byhand.errors import SettingsError
from byhand.nn import by_hand
from byhand.nn.hands import FUNCTIONS
from byhand.ops.layout import batch_innermost
from byhand.ops.smooth_activations import normal_distribution

PIECEWISE = {
    "relu6": (ops.relu6, F.relu6),
    "hardtanh": (ops.hardtanh, F.hardtanh),
    "hardtanh_-0.3_2": (lambda x: ops.hardtanh(x, -0.3, 2.0), lambda x: F.hardtanh(x, -0.3, 2.0)),
    "hardsigmoid": (ops.hardsigmoid, F.hardsigmoid),
    "hardswish": (ops.hardswish, F.hardswish),
}
SMOOTH = {
    "silu": (ops.silu, F.silu),
    "gelu": (ops.gelu, F.gelu),
    "gelu_tanh": (lambda x: ops.gelu(x, "tanh"), lambda x: F.gelu(x, approximate="tanh")),
}
ACTIVATIONS = PIECEWISE | SMOOTH
KINKS = {
    "relu6": (0, 6),
    "hardtanh": (-1, 1),
    "hardtanh_-0.3_2": (-0.3, 2),
    "hardsigmoid": (-3, 3),
    "hardswish": (-3, 3),
}

dtypes = st.sampled_from([torch.float32, torch.float64])
layouts = st.sampled_from(LAYOUTS)
shapes = st.lists(st.integers(0, 5), min_size=1, max_size=4)


@pytest.mark.parametrize("name", ACTIVATIONS)
@drawn
@given(shape=shapes, dtype=dtypes, layout=layouts, scale=st.sampled_from([0.01, 1.0, 5.0, 30.0]))
def test_activations_match_torch(name, shape, dtype, layout, scale):
    assert_agree(*ACTIVATIONS[name], laid_out(random(*shape, dtype=dtype) * scale, layout))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gradients_match_finite_differences(name):
    assert_agree(*ACTIVATIONS[name], random(3, 4) * 2.5, finite_differences=True)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_batch_with_the_examples_innermost_in_memory_gives_the_same_and_stays_so(name):
    x = batch_innermost(random(16, 3, 4, 5) * 3)
    assert_agree(*ACTIVATIONS[name], x)
    assert ACTIVATIONS[name][0](x).permute(2, 3, 1, 0).is_contiguous()


@pytest.mark.parametrize("name", PIECEWISE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("copies", [1, 64], ids=["scalar", "vector"])  # torch has a loop for each
def test_the_slopes_at_the_kinks_and_beside_them_are_torchs(name, dtype, copies):
    x = torch.tensor(KINKS[name], dtype=dtype)
    inf = torch.tensor(math.inf, dtype=dtype)
    x = torch.cat([x, torch.nextafter(x, inf), torch.nextafter(x, -inf), x + 1, x - 1]).repeat_interleave(copies)
    (mine,), (theirs,) = (value_and_gradients(f, (x,))[1] for f in PIECEWISE[name])
    torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=0)


def test_the_slopes_at_the_kinks_are_those_of_the_straight_sides():
    def slopes(function, *places):
        x = torch.tensor(places, dtype=torch.float64, requires_grad=True)
        function(x).sum().backward()
        return x.grad.tolist()

    assert slopes(ops.relu6, -1, 0, 3, 6, 7) == [0, 0, 1, 0, 0]
    assert slopes(ops.hardsigmoid, -4, -3, 0, 3, 4) == pytest.approx([0, 0, 1 / 6, 0, 0], rel=1e-7, abs=0)
    assert slopes(ops.hardswish, -4, -3, 0, 3, 4) == [0, 0, 1 / 2, 1, 1]


@pytest.mark.parametrize("name", PIECEWISE)
def test_a_flat_side_stops_an_infinite_gradient(name):
    x = torch.tensor([KINKS[name][0] - 1.0, (KINKS[name][0] + KINKS[name][1]) / 2], requires_grad=True)
    PIECEWISE[name][0](x).backward(torch.tensor([math.inf, math.inf]))
    assert x.grad.tolist() == [0, math.inf]


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ten_thousand_either_way_gives_torchs_value_and_slope_and_nothing_overflows(name, dtype):
    x = torch.tensor([1e4, -1e4, 100.0, -100.0, 20.0, -20.0, 1e-30, -1e-30, 0.0, -0.0], dtype=dtype)
    value, (gradient,) = value_and_gradients(ACTIVATIONS[name][0], (x,))
    assert torch.isfinite(value).all()
    assert torch.isfinite(gradient).all()
    assert_agree(*ACTIVATIONS[name], x)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_nan_stays_a_nan_and_touches_no_other(name, dtype):
    x = torch.tensor([1.0, math.nan, -1.0], dtype=dtype)
    y = ACTIVATIONS[name][0](x)
    assert y.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_activations_in_half_precision_are_right_within_their_roundings(name, dtype):
    assert_within_precision(*ACTIVATIONS[name], random(6, 10, dtype=dtype) * 3)
    x = random(6, 10, dtype=dtype).requires_grad_()
    ACTIVATIONS[name][0](x).sum().backward()
    assert x.grad.dtype == dtype


def test_the_distribution_function_is_that_of_the_c_library_to_fifteen_digits():
    x = torch.cat([torch.linspace(-9, 9, 4001, dtype=torch.float64), torch.tensor([0.0, 1e-300, -1e-300, 40, -40])])
    exact = torch.tensor([0.5 * math.erfc(-v / math.sqrt(2)) for v in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(normal_distribution(x), exact, rtol=0, atol=1e-15)
    below = (x > -5.6) & (x < 0)  # where the approximation was made for, also the small shares have their digits
    torch.testing.assert_close(normal_distribution(x)[below], exact[below], rtol=1e-13, atol=0)
    assert normal_distribution(torch.zeros(1)).item() == 0.5
    assert normal_distribution(torch.tensor([-1e30, 1e30])).tolist() == [0, 1]


def test_the_published_values_of_the_hard_gates():
    x = torch.tensor([-4.0, -3.0, -1.5, 0.0, 1.5, 3.0, 4.0], dtype=torch.float64)
    assert ops.hardsigmoid(x).tolist() == [0, 0, 0.25, 0.5, 0.75, 1, 1]
    assert ops.hardswish(x).tolist() == [0, 0, -0.375, 0, 1.125, 3, 4]
    assert ops.relu6(2 * x).tolist() == [0, 0, 0, 0, 3, 6, 6]


def test_settings_out_of_range_are_refused():
    assert_refused(SettingsError, lambda: ops.gelu(torch.zeros(2), "erf"), "erf")
    assert_refused(SettingsError, lambda: ops.hardtanh(torch.zeros(2), 1.0, -1.0), 1.0, -1.0)


CALLS = {
    "F.relu6": lambda x: F.relu6(x, inplace=True),
    "F.hardtanh": lambda x: F.hardtanh(x, -0.5, 0.5),
    "F.hardsigmoid": lambda x: F.hardsigmoid(x),
    "F.hardswish": lambda x: F.hardswish(x),
    "F.silu": lambda x: F.silu(x, inplace=True),
    "F.gelu": lambda x: F.gelu(x),
    "F.gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
}


class Calls(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.name, self.linear = name, nn.Linear(4, 4)

    def forward(self, x):
        return CALLS[self.name](self.linear(x) * 1)


@pytest.mark.parametrize("name", CALLS)
def test_a_functional_call_in_own_code_is_proven(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Calls(name)
    proof = prove(model, random(5, 4) * 4)
    assert proof.passed, proof.verdict
    assert len(proof.layers) == 2


@pytest.mark.parametrize("name", ["relu6", "hardtanh", "hardsigmoid", "hardswish", "silu", "gelu"])
def test_torchs_function_has_its_twin_in_the_table(name):
    assert FUNCTIONS[getattr(F, name)] is getattr(hand_nn.functional, name)


@pytest.mark.parametrize("layer", [nn.ReLU6, nn.Hardsigmoid, nn.Hardswish, nn.SiLU, nn.GELU])
def test_a_network_with_the_layer_is_proven(layer):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), layer(), nn.Conv2d(2, 3, 3, padding=1), layer(), nn.Flatten())
        model.append(nn.Linear(3 * 8 * 8, 4))
    proof = prove(model, random(16, 2, 8, 6) * 4)
    assert proof.passed, proof.verdict
    assert type(by_hand(model)[1]) is getattr(hand_nn, layer.__name__)


def test_layers_keep_their_settings_on_the_way_there_and_back():
    for layer in (nn.ReLU6(inplace=True), nn.SiLU(inplace=True), nn.GELU(approximate="tanh")):
        assert repr(hand_nn.by_library(by_hand(layer))) == repr(by_hand(layer)) == repr(layer)
