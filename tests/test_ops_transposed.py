"""Transposed convolution by hand, against torch."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from against_torch import LAYOUTS, assert_agree, assert_refused, assert_within_precision, drawn, laid_out, random
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from byhand import nn as hand_nn
from byhand import ops, prove
from byhand.errors import SettingsError, ShapeError
from byhand.nn import by_hand, by_library
from byhand.ops.layout import batch_innermost

dtypes = st.sampled_from([torch.float32, torch.float64])
layouts = st.sampled_from(LAYOUTS)


def conv(function, **settings):
    return lambda *tensors: function(*tensors, **settings)


@st.composite
def transposed_convolutions(draw):
    """Shapes and settings that leave at least one pixel of the output."""
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    C, per_group = groups * draw(st.integers(1, 2)), draw(st.integers(1, 2))
    kernel, stride, padding, dilation, more, image = [], [], [], [], [], []
    for _ in range(2):
        k, d, s = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 4))
        op = draw(st.integers(0, max(s, d) - 1))
        n = draw(st.integers(1, 4))
        full = (n - 1) * s + d * (k - 1) + 1 + op
        kernel.append(k)
        stride.append(s)
        dilation.append(d)
        more.append(op)
        image.append(n)
        padding.append(draw(st.integers(0, min(3, (full - 1) // 2))))
    batch = draw(st.sampled_from([(), (0,), (1,), (3,), (16,)]))
    return {
        "input": (*batch, C, *image),
        "weight": (C, per_group, *kernel),
        "settings": {
            "stride": tuple(stride),
            "padding": tuple(padding),
            "output_padding": tuple(more),
            "groups": groups,
            "dilation": tuple(dilation),
        },
    }


@drawn
@given(case=transposed_convolutions(), with_bias=st.booleans(), dtype=dtypes, layout=layouts, weight_layout=layouts)
def test_it_matches_torch_over_strides_paddings_dilations_and_groups(case, with_bias, dtype, layout, weight_layout):
    x = laid_out(random(*case["input"], dtype=dtype), layout)
    weight = laid_out(random(*case["weight"], dtype=dtype, seed=1), weight_layout)
    num_out = case["weight"][1] * case["settings"]["groups"]
    bias = (random(num_out, dtype=dtype, seed=2),) if with_bias else ()
    settings = case["settings"]
    assert_agree(conv(ops.conv_transpose2d, **settings), conv(F.conv_transpose2d, **settings), x, weight, *bias)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"stride": 2, "padding": 1, "output_padding": 1},
        {"dilation": 2, "padding": (2, 1), "output_padding": (1, 0)},
        {"groups": 2, "stride": (1, 3)},
    ],
    ids=str,
)
def test_gradients_match_finite_differences(settings):
    num_out = 2 * settings.get("groups", 1)
    inputs = random(2, 4, 3, 2), random(4, 2, 2, 3, seed=1), random(num_out, seed=2)
    mine, theirs = conv(ops.conv_transpose2d, **settings), conv(F.conv_transpose2d, **settings)
    assert_agree(mine, theirs, *inputs, finite_differences=True)


@drawn
@given(
    k=st.integers(1, 4),
    s=st.integers(1, 3),
    p=st.integers(0, 2),
    d=st.integers(1, 2),
    size=st.integers(5, 9),
    groups=st.sampled_from([1, 2]),
)
def test_it_is_the_gradient_of_a_convolution_by_its_input(k, s, p, d, size, groups):
    # Dumoulin & Visin (2016), section 4.1, with the size that the stride has swallowed given back
    if d * (k - 1) + 1 > size + 2 * p:
        return
    x, weight = random(2, 4, size, size).requires_grad_(), random(6, 4 // groups, k, k, seed=1)
    y = F.conv2d(x, weight, stride=s, padding=p, dilation=d, groups=groups)
    g = random(*y.shape, seed=2)
    (wanted,) = torch.autograd.grad(y, x, g)
    swallowed = (size + 2 * p - d * (k - 1) - 1) % s
    got = ops.conv_transpose2d(g, weight, None, s, p, swallowed, groups, d)
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


def test_the_guides_own_sizes():
    # Dumoulin & Visin (2016), figures 4.1, 4.3 and 4.5: 2 to 4, 5 to 5 and 2 to 5 pixels
    for n, k, s, p, size in [(2, 3, 1, 0, 4), (5, 3, 1, 1, 5), (2, 3, 2, 0, 5)]:
        assert ops.conv_transpose2d(torch.ones(1, 1, n, n), torch.ones(1, 1, k, k), None, s, p).shape[2:] == (
            size,
            size,
        )


def test_one_pixel_writes_the_kernel_and_neighbours_add_up():
    kernel = torch.tensor([[1.0, 2.0], [3.0, 4.0]])[None, None]
    assert ops.conv_transpose2d(torch.tensor([[[[2.0]]]]), kernel)[0, 0].tolist() == [[2, 4], [6, 8]]
    assert ops.conv_transpose2d(torch.ones(1, 1, 1, 2), kernel)[0, 0].tolist() == [[1, 3, 2], [3, 7, 4]]


def test_memory_in_any_order_gives_the_same():
    weight, settings = random(3, 2, 3, 3, seed=1), {"stride": 2, "padding": 1}
    mine, theirs = conv(ops.conv_transpose2d, **settings), conv(F.conv_transpose2d, **settings)
    for x in (
        batch_innermost(random(16, 3, 4, 5)),
        random(2, 3, 4, 5).to(memory_format=torch.channels_last),
        random(1, 3, 4, 5).expand(3, 3, 4, 5),
    ):
        assert_agree(mine, theirs, x, weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_half_precision_it_is_right_within_its_roundings(dtype):
    inputs = random(2, 3, 4, 4, dtype=dtype), random(3, 4, 2, 2, dtype=dtype, seed=1), random(4, dtype=dtype, seed=2)
    assert_within_precision(ops.conv_transpose2d, F.conv_transpose2d, *inputs)


def test_the_output_may_be_changed_in_place_as_with_torch():
    def added(function):
        def f(x, weight):
            y = function(x, weight, padding=1)
            y += 1
            return y * y

        return f

    assert_agree(added(ops.conv_transpose2d), added(F.conv_transpose2d), random(2, 3, 4, 4), random(3, 2, 3, 3, seed=1))


def test_what_does_not_fit_is_refused():
    x, weight = torch.zeros(1, 3, 4, 4), torch.zeros(3, 2, 3, 3)
    cases = [
        (ShapeError, {"input": torch.zeros(4, 4)}, [(4, 4)]),
        (ShapeError, {"weight": torch.zeros(3, 3)}, [(3, 3)]),
        (ShapeError, {"input": torch.zeros(1, 2, 4, 4)}, [(1, 2, 4, 4), (3, 2, 3, 3)]),
        (ShapeError, {"groups": 2}, ["groups=2", "in_channels=3"]),
        (ShapeError, {"groups": 0}, ["groups=0"]),
        (ShapeError, {"bias": torch.zeros(3)}, [(3,), "2 output channels"]),
        (ShapeError, {"padding": 3}, ["0 x 0", "(3, 3)"]),
        (SettingsError, {"stride": 0}, ["stride=0"]),
        (SettingsError, {"padding": -1}, ["padding=-1"]),
        (SettingsError, {"dilation": 0}, ["dilation=0"]),
        (SettingsError, {"output_padding": -1}, ["output_padding=-1"]),
        (SettingsError, {"output_padding": 1}, ["output_padding=1", "stride=(1, 1)"]),
        (SettingsError, {"output_padding": (1, 2), "stride": 2}, ["output_padding=(1, 2)"]),
    ]
    for kind, change, values in cases:
        arguments = {"input": x, "weight": weight, **change}
        assert_refused(kind, lambda a=arguments: ops.conv_transpose2d(**a), *values)


def test_it_has_the_names_and_defaults_of_torch():
    mine = {name: p.default for name, p in inspect.signature(ops.conv_transpose2d).parameters.items()}
    empty = inspect.Parameter.empty
    wanted = {"input": empty, "weight": empty, "bias": None, "stride": 1, "padding": 0, "output_padding": 0}
    assert mine == {**wanted, "groups": 1, "dilation": 1}


# The layer


def both(*args, **kwargs):
    layers = []
    for place in (hand_nn, nn):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(4)
            layers.append(place.ConvTranspose2d(*args, **kwargs))
    return layers


LAYERS = [
    ((4, 6, 3), {}),
    ((4, 6, (2, 3)), {"stride": 2, "padding": (0, 1), "output_padding": 1, "groups": 2, "bias": False}),
    ((4, 2, 3), {"dilation": (1, 2), "output_padding": (0, 1), "dtype": torch.float64}),
]


@pytest.mark.parametrize(("args", "kwargs"), LAYERS, ids=str)
def test_the_layer_has_torchs_arguments_weights_text_and_results(args, kwargs):
    mine, theirs = both(*args, **kwargs)
    assert repr(mine) == repr(theirs)
    assert list(mine.state_dict()) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        assert torch.equal(mine.state_dict()[key], value)
    x = random(3, 4, 4, 5)
    torch.testing.assert_close(mine.double()(x), theirs.double()(x), rtol=1e-12, atol=1e-12)
    parameters = [inspect.signature(kind).parameters.values() for kind in (type(mine), type(theirs))]
    assert [(p.name, p.default) for p in parameters[0]] == [(p.name, p.default) for p in parameters[1]]


def test_the_wanted_size_is_chosen_as_in_torch():
    mine, theirs = both(2, 3, 3, stride=3, padding=1)
    x = random(2, 2, 4, 5, dtype=torch.float32)
    for size in [(10, 13), [12, 15], (11, 14), (2, 3, 11, 13)]:
        torch.testing.assert_close(mine(x, output_size=size), theirs(x, output_size=size))
    for size in [(9, 13), (13, 13), (10, 16), (10,), (1, 10, 13)]:
        assert_refused(ShapeError, lambda s=size: mine(x, output_size=s), "(10, 13)", "(12, 15)")
        with pytest.raises(ValueError):
            theirs(x, output_size=size)


def test_impossible_settings_are_refused_when_the_layer_is_built():
    for call, *values in [
        (lambda: hand_nn.ConvTranspose2d(3, 4, 3, groups=2), "groups=2", "in_channels=3"),
        (lambda: hand_nn.ConvTranspose2d(4, 3, 3, groups=2), "groups=2", "out_channels=3"),
        (lambda: hand_nn.ConvTranspose2d(3, 4, 0), "kernel_size=0"),
        (lambda: hand_nn.ConvTranspose2d(3, 4, 3, padding=-1), "padding=-1"),
        (lambda: hand_nn.ConvTranspose2d(3, 4, 3, padding_mode="reflect"), "reflect"),
    ]:
        assert_refused(SettingsError, call, *values)


class Own(nn.Module):
    """One's own code that calls the function, in both spellings."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 3, 2, 2))

    def forward(self, x):
        x = F.conv_transpose2d(x, self.weight, stride=2)
        return torch.conv_transpose2d(x, self.weight.transpose(0, 1), padding=1)


@pytest.mark.parametrize("batch", [3, 16])
def test_an_encoder_and_decoder_is_proven(batch):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(2, 4, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.ConvTranspose2d(4, 2, 3, stride=2, padding=1, output_padding=1),
            nn.GELU(),
            Own(),
            nn.ConvTranspose2d(2, 2, (2, 3), groups=2, bias=False, dilation=2),
        )
    proof = prove(model, random(batch, 2, 6, 5))
    assert proof.passed, proof.verdict
    assert repr(by_library(by_hand(model))) == repr(model)
