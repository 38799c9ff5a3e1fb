"""Initialisation by hand, against torch.nn.init and the bounds of the papers."""

import math

import pytest
import torch
from torch import nn

from byhand.errors import ByhandError
from byhand.nn import init

SHAPES = [(4, 7), (6, 3, 5, 5), (8, 1, 3), (2, 3, 1, 2, 2), (1, 1)]
CASES = [
    ("uniform_", {}),
    ("uniform_", {"a": -0.3, "b": 0.1}),
    ("normal_", {}),
    ("normal_", {"mean": 1.5, "std": 0.01}),
    ("constant_", {"val": 0.25}),
    ("ones_", {}),
    ("zeros_", {}),
    ("xavier_uniform_", {}),
    ("xavier_uniform_", {"gain": 5 / 3}),
    ("xavier_normal_", {}),
    ("xavier_normal_", {"gain": 0.5}),
    ("kaiming_uniform_", {}),
    ("kaiming_uniform_", {"a": math.sqrt(5)}),
    ("kaiming_uniform_", {"mode": "fan_out", "nonlinearity": "relu"}),
    ("kaiming_uniform_", {"mode": "FAN_OUT", "nonlinearity": "selu"}),
    ("kaiming_normal_", {}),
    ("kaiming_normal_", {"a": 0.2, "mode": "fan_out"}),
    ("kaiming_normal_", {"nonlinearity": "tanh"}),
]
RANDOM = [case for case in CASES if case[0] not in ("constant_", "ones_", "zeros_")]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_the_same_seed_gives_torchs_values_bit_for_bit(name, options, dtype, shape):
    mine, theirs = (nn.Parameter(torch.full(shape, 9.0, dtype=dtype)) for _ in range(2))
    torch.manual_seed(5)
    result = getattr(init, name)(mine, **options)
    torch.manual_seed(5)
    getattr(nn.init, name)(theirs, **options)
    assert torch.equal(mine, theirs)
    assert not torch.equal(mine, torch.full_like(mine, 9.0))
    assert result is mine
    assert mine.requires_grad
    assert mine.grad_fn is None


@pytest.mark.parametrize(("name", "options"), RANDOM, ids=str)
def test_a_generator_is_used_and_the_global_one_left_alone(name, options):
    before = torch.get_rng_state()
    mine, theirs = torch.empty(5, 4), torch.empty(5, 4)
    getattr(init, name)(mine, **options, generator=torch.Generator().manual_seed(11))
    getattr(nn.init, name)(theirs, **options, generator=torch.Generator().manual_seed(11))
    assert torch.equal(mine, theirs)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_bounds_are_those_of_the_papers():
    generator = torch.Generator().manual_seed(0)
    weight = torch.empty(400, 100, 3, 3, dtype=torch.float64)  # fan in 900, fan out 3600, 360,000 draws
    glorot = math.sqrt(6 / (900 + 3600))  # Glorot & Bengio (2010), eq. 16
    init.xavier_uniform_(weight, generator=generator)
    assert glorot * 0.9999 < weight.abs().max() <= glorot
    init.kaiming_uniform_(weight, nonlinearity="relu", generator=generator)
    assert math.sqrt(6 / 900) * 0.9999 < weight.abs().max() <= math.sqrt(6 / 900)
    init.xavier_normal_(weight, generator=generator)
    assert weight.std().item() == pytest.approx(math.sqrt(2 / 4500), rel=0.01)
    init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)
    assert 900 * weight.var().item() / 2 == pytest.approx(1, rel=0.02)  # He et al. (2015), eq. 10
    init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu", generator=generator)
    assert 3600 * weight.var().item() / 2 == pytest.approx(1, rel=0.02)  # eq. 14


def test_the_fans_of_a_linear_layer_and_of_a_convolution_with_groups():
    assert init.fans(nn.Linear(7, 4).weight) == (7, 4)
    assert init.fans(nn.Conv2d(8, 12, (3, 5), groups=4).weight) == (2 * 15, 12 * 15)


@pytest.mark.parametrize(
    ("nonlinearity", "param"),
    [
        ("linear", None),
        ("conv1d", None),
        ("conv2d", None),
        ("conv3d", None),
        ("conv_transpose1d", None),
        ("conv_transpose2d", None),
        ("conv_transpose3d", None),
        ("sigmoid", None),
        ("tanh", None),
        ("relu", None),
        ("selu", None),
        ("leaky_relu", None),
        ("leaky_relu", 0.2),
        ("leaky_relu", 2),
    ],
)
def test_the_gain_is_torchs(nonlinearity, param):
    assert init.calculate_gain(nonlinearity, param) == nn.init.calculate_gain(nonlinearity, param)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("calculate_gain", ("mish",)),
        ("calculate_gain", ("leaky_relu", "0.1")),
        ("calculate_gain", ("leaky_relu", True)),
        ("xavier_uniform_", (torch.empty(3),)),
        ("xavier_normal_", (torch.empty(()),)),
        ("kaiming_uniform_", (torch.empty(3),)),
        ("kaiming_normal_", (torch.empty(3, 4), 0, "fan_sideways")),
        ("kaiming_normal_", (torch.empty(3, 4), 0, "fan_in", "mish")),
    ],
    ids=str,
)
def test_what_torch_refuses_with_a_value_error_is_refused_in_one_line(name, arguments):
    with pytest.raises(ValueError):
        getattr(nn.init, name)(*arguments)
    with pytest.raises(ByhandError) as error:
        getattr(init, name)(*arguments)
    assert isinstance(error.value, ValueError)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["kaiming_uniform_", "kaiming_normal_"])
def test_an_empty_weight_comes_back_with_torchs_warning(name):
    weight = torch.empty(0, 3)
    with pytest.warns(UserWarning, match="zero-element"):
        assert getattr(init, name)(weight) is weight
