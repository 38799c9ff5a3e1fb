"""Sigmoid, tanh, ReLU, leaky ReLU, softmax and log-softmax by hand, against torch."""

import math

import pytest
import torch
import torch.nn.functional as F
from against_torch import LAYOUTS, assert_agree, assert_within_precision, drawn, laid_out, random, value_and_gradients
from hypothesis import given
from hypothesis import strategies as st

from byhand import ops

ELEMENTWISE = {
    "sigmoid": (ops.sigmoid, torch.sigmoid),
    "tanh": (ops.tanh, torch.tanh),
    "relu": (ops.relu, torch.relu),
    "leaky_relu": (ops.leaky_relu, F.leaky_relu),
    "leaky_relu_0.3": (lambda x: ops.leaky_relu(x, 0.3), lambda x: F.leaky_relu(x, 0.3)),
    "leaky_relu_-0.5": (lambda x: ops.leaky_relu(x, -0.5), lambda x: F.leaky_relu(x, -0.5)),
}
NORMALISING = {"softmax": (ops.softmax, torch.softmax), "log_softmax": (ops.log_softmax, torch.log_softmax)}
SPECIAL = [0.0, -0.0, 1e-30, -1e-30, 1e-5, -1e-5, 20.0, -20.0, 1e4, -1e4, 1e30, -1e30, math.inf, -math.inf, math.nan]

dtypes = st.sampled_from([torch.float32, torch.float64])
layouts = st.sampled_from(LAYOUTS)
shapes = st.lists(st.integers(0, 5), min_size=1, max_size=4)


@pytest.mark.parametrize("name", ELEMENTWISE)
@drawn
@given(shape=shapes, dtype=dtypes, layout=layouts, scale=st.sampled_from([0.01, 1.0, 30.0]))
def test_elementwise_activations_match_torch(name, shape, dtype, layout, scale):
    assert_agree(*ELEMENTWISE[name], laid_out(random(*shape, dtype=dtype) * scale, layout))


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_gradients_match_finite_differences(name):
    assert_agree(*ELEMENTWISE[name], random(3, 4), finite_differences=True)


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_elementwise_activations_treat_zeros_infinities_and_nan_as_torch_does(name, dtype):
    assert_agree(*ELEMENTWISE[name], torch.tensor(SPECIAL, dtype=dtype))


def test_small_inputs_keep_all_their_digits_in_tanh_and_sigmoid():
    x = torch.logspace(-300, 2, 400, dtype=torch.float64)
    x = torch.cat([-x, x])
    torch.testing.assert_close(ops.tanh(x), torch.tanh(x), rtol=1e-15, atol=0)
    torch.testing.assert_close(ops.sigmoid(x), torch.sigmoid(x), rtol=1e-15, atol=0)


def test_the_slope_of_relu_at_zero_is_zero_and_a_closed_gate_stops_an_infinite_gradient():
    x = torch.tensor([0.0, -1.0, 1.0], requires_grad=True)
    ops.relu(x).backward(torch.tensor([5.0, math.inf, math.inf]))
    assert x.grad.tolist() == [0.0, 0.0, math.inf]


@pytest.mark.parametrize("name", [*ELEMENTWISE, *NORMALISING])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_activations_in_half_precision_are_right_within_their_roundings(name, dtype):
    if name in ELEMENTWISE:
        mine, reference = ELEMENTWISE[name]
    else:
        mine, reference = (lambda x, f=f: f(x, -1) for f in NORMALISING[name])
    assert_within_precision(mine, reference, random(6, 10, dtype=dtype))


@pytest.mark.parametrize("name", NORMALISING)
@drawn
@given(shape=shapes, dtype=dtypes, layout=layouts, data=st.data(), scale=st.sampled_from([1.0, 100.0]))
def test_softmax_and_its_logarithm_match_torch_along_any_axis(name, shape, dtype, layout, data, scale):
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    mine, reference = (lambda x, f=f: f(x, dim) for f in NORMALISING[name])
    assert_agree(mine, reference, laid_out(random(*shape, dtype=dtype) * scale, layout), tolerance=3e-5)


@pytest.mark.parametrize("name", NORMALISING)
def test_softmax_gradients_match_finite_differences(name):
    mine, reference = (lambda x, f=f: f(x, 1) for f in NORMALISING[name])
    assert_agree(mine, reference, random(3, 4, 2), finite_differences=True)


@pytest.mark.parametrize("name", NORMALISING)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_of_ten_thousand_give_no_nan_in_value_or_gradient(name, dtype):
    logits = torch.tensor([[1e4, -1e4, 0.0], [1e4, 1e4, 1e4], [-1e4, -1e4, -1e4 + 1]], dtype=dtype)
    mine, reference = (lambda x, f=f: f(x, 1) for f in NORMALISING[name])
    value, (gradient,) = value_and_gradients(mine, (logits,))
    assert torch.isfinite(value).all()
    assert torch.isfinite(gradient).all()
    assert_agree(mine, reference, logits)


@pytest.mark.parametrize("name", NORMALISING)
def test_softmax_treats_infinities_and_nan_as_torch_does(name):
    inf, nan = math.inf, math.nan
    logits = torch.tensor([[0.0, -inf, 1.0], [inf, 0.0, 1.0], [-inf, -inf, -inf], [nan, 0.0, 1.0], [inf, inf, -inf]])
    mine, reference = (lambda x, f=f: f(x, 1) for f in NORMALISING[name])
    assert_agree(mine, reference, logits)


@pytest.mark.parametrize("name", NORMALISING)
@pytest.mark.parametrize("ndim", range(5))
@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
def test_softmax_without_dim_takes_the_axis_that_torch_takes(name, ndim):
    mine = NORMALISING[name][0]
    assert_agree(lambda x: mine(x), getattr(F, name), random(*(2, 3, 4, 2)[:ndim]))


@pytest.mark.parametrize("name", NORMALISING)
def test_softmax_over_an_axis_that_is_not_there_is_torchs_error(name):
    with pytest.raises(IndexError):
        NORMALISING[name][0](random(2, 3), 2)


def test_softmax_of_ones_is_uniform_and_of_log_counts_the_shares():
    assert ops.softmax(torch.zeros(1, 4), 1).tolist() == [[0.25] * 4]
    shares = ops.softmax(torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64).log(), 0)
    torch.testing.assert_close(shares, torch.tensor([1, 2, 5], dtype=torch.float64) / 8)
