"""Max, average and adaptive average pooling by hand, against torch."""

import inspect
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from against_torch import LAYOUTS, assert_agree, assert_refused, assert_within_precision, drawn, laid_out, random
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from byhand import ops
from byhand.errors import SettingsError, ShapeError
from byhand.nn import functional

dtypes = st.sampled_from([torch.float32, torch.float64])
layouts = st.sampled_from(LAYOUTS)


def pool(function, **settings):
    return lambda x: function(x, **settings)


@st.composite
def poolings(draw, with_dilation):
    """Shapes and settings; many of them fit, some do not, and then torch decides.

    The image is at least as large as the dilation, else a window may step over all of it from padding to padding.
    """
    dilation = (1, 1)
    kernel = tuple(draw(st.integers(1, 4)) for _ in range(2))
    settings = {
        "kernel_size": kernel,
        "stride": draw(st.sampled_from([None, (1, 1), (2, 3), (3, 2), (5, 5)])),
        "padding": tuple(draw(st.integers(0, k // 2)) for k in kernel),
        "ceil_mode": draw(st.booleans()),
    }
    if with_dilation:
        settings["dilation"] = dilation = tuple(draw(st.integers(1, 3)) for _ in range(2))
    leading = draw(st.sampled_from([(2,), (0, 2), (2, 3)]))
    return (*leading, *(draw(st.integers(d, 9)) for d in dilation)), settings


def assert_agree_or_fail_alike(mine, reference, x, settings):
    try:
        reference(x, **settings)
    except (RuntimeError, ValueError):
        with pytest.raises((SettingsError, ShapeError)):
            mine(x, **settings)
        return
    assert_agree(pool(mine, **settings), pool(reference, **settings), x)


@drawn
@given(case=poolings(with_dilation=True), dtype=dtypes, layout=layouts)
def test_max_pool2d_matches_torch(case, dtype, layout):
    shape, settings = case
    assert_agree_or_fail_alike(ops.max_pool2d, F.max_pool2d, laid_out(random(*shape, dtype=dtype), layout), settings)


@drawn
@given(case=poolings(with_dilation=True), values=st.sampled_from(["ties", "-inf", "nan"]), seed=st.integers(0, 5))
def test_max_pool2d_takes_the_same_pixel_as_torch_among_ties_infinities_and_nan(case, values, seed):
    shape, settings = case
    x = random(*shape, seed=seed).sign()  # only −1 and 1: nearly every window has a tie
    if values != "ties":
        x[random(*shape, seed=seed + 1) > 0.3] = float(values)
    try:
        expected, where = F.max_pool2d(x, **settings, return_indices=True)
    except (RuntimeError, ValueError):
        return
    value, index = ops.max_pool2d(x, **settings, return_indices=True)
    torch.testing.assert_close(value, expected, rtol=0, atol=0, equal_nan=True)
    assert index.dtype is torch.int64
    assert torch.equal(index, where)
    assert_agree(pool(ops.max_pool2d, **settings), pool(F.max_pool2d, **settings), x)


def test_a_window_of_minus_infinity_at_the_border_points_at_a_pixel_and_not_at_the_padding():
    x = torch.full((1, 1, 3, 3), -math.inf, dtype=torch.float64)
    _, index = ops.max_pool2d(x, 2, 2, 1, return_indices=True)
    assert index.flatten().tolist() == [0, 1, 3, 4]
    assert_agree(pool(ops.max_pool2d, kernel_size=2, padding=1), pool(F.max_pool2d, kernel_size=2, padding=1), x)


def test_max_pool2d_of_the_chapters_example():
    X = torch.tensor([[0.0, 1, 2], [3, 4, 5], [6, 7, 8]])[None]
    assert ops.max_pool2d(X, 2, 1).tolist() == [[[4, 5], [7, 8]]]
    assert ops.avg_pool2d(X, 2, 1).tolist() == [[[2, 3], [5, 6]]]


def test_max_pool2d_of_whole_numbers_matches_torch():
    x = torch.arange(-18, 18).reshape(1, 1, 6, 6)
    assert torch.equal(ops.max_pool2d(x, 3, 2, 1), F.max_pool2d(x, 3, 2, 1))


@drawn
@given(
    case=poolings(with_dilation=False),
    dtype=dtypes,
    layout=layouts,
    count_include_pad=st.booleans(),
    divisor_override=st.sampled_from([None, None, 1, 3]),
)
def test_avg_pool2d_matches_torch(case, dtype, layout, count_include_pad, divisor_override):
    shape, settings = case
    settings |= {"count_include_pad": count_include_pad, "divisor_override": divisor_override}
    assert_agree_or_fail_alike(ops.avg_pool2d, F.avg_pool2d, laid_out(random(*shape, dtype=dtype), layout), settings)


@drawn
@given(
    shape=st.sampled_from([(2,), (0, 2), (2, 3)]),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    output_size=st.one_of(st.integers(1, 6), st.tuples(*[st.one_of(st.none(), st.integers(1, 6))] * 2)),
    dtype=dtypes,
    layout=layouts,
)
def test_adaptive_avg_pool2d_matches_torch(shape, size, output_size, dtype, layout):
    x = laid_out(random(*shape, *size, dtype=dtype), layout)
    assert_agree(lambda x: ops.adaptive_avg_pool2d(x, output_size), lambda x: F.adaptive_avg_pool2d(x, output_size), x)


@pytest.mark.parametrize(
    ("mine", "reference", "settings"),
    [
        (ops.max_pool2d, F.max_pool2d, {"kernel_size": 3, "stride": 2, "padding": 1}),
        (ops.max_pool2d, F.max_pool2d, {"kernel_size": 2, "stride": 1, "dilation": 2, "ceil_mode": True}),
        (ops.avg_pool2d, F.avg_pool2d, {"kernel_size": (3, 2), "stride": 2, "padding": 1, "ceil_mode": True}),
        (ops.avg_pool2d, F.avg_pool2d, {"kernel_size": 3, "stride": 1, "padding": 1, "count_include_pad": False}),
        (ops.adaptive_avg_pool2d, F.adaptive_avg_pool2d, {"output_size": (3, 2)}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_pooling_gradients_match_finite_differences(mine, reference, settings):
    assert_agree(pool(mine, **settings), pool(reference, **settings), random(2, 2, 5, 5), finite_differences=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_pooling_in_half_precision_is_right_within_its_roundings(dtype):
    x = random(2, 3, 6, 6, dtype=dtype)
    for name, settings in {
        "max_pool2d": {"kernel_size": 2},
        "avg_pool2d": {"kernel_size": 3, "padding": 1},
        "adaptive_avg_pool2d": {"output_size": 4},
    }.items():
        assert_within_precision(pool(getattr(ops, name), **settings), pool(getattr(F, name), **settings), x)


def test_infinities_and_nan_spread_through_averages_as_in_torch():
    x = random(1, 1, 6, 6)
    x[0, 0, 0, 0], x[0, 0, 3, 3], x[0, 0, 5, 0] = math.inf, math.nan, -math.inf
    assert_agree(pool(ops.avg_pool2d, kernel_size=2), pool(F.avg_pool2d, kernel_size=2), x)
    assert_agree(pool(ops.adaptive_avg_pool2d, output_size=4), pool(F.adaptive_avg_pool2d, output_size=4), x)


def test_a_nan_in_one_window_does_not_reach_the_next_one():
    # the window's sum goes down its columns first; what is shared between windows must not carry the NaN along
    x = torch.zeros(1, 1, 4, 4)
    x[0, 0, 1, 1] = math.nan
    assert ops.avg_pool2d(x, 2).isnan().tolist() == F.avg_pool2d(x, 2).isnan().tolist()


def test_pooling_takes_numbers_of_numpy_and_torchs_empty_stride():
    x = random(1, 2, 6, 6)
    assert torch.equal(ops.max_pool2d(x, np.int64(2), stride=[]), F.max_pool2d(x, 2))
    assert torch.allclose(ops.avg_pool2d(x, [2, 3], stride=(2,)), F.avg_pool2d(x, [2, 3], stride=(2,)))


def test_pooling_refuses_what_torch_refuses():
    x = torch.zeros(1, 2, 4, 4)
    cases = [
        (SettingsError, {"kernel_size": 2, "padding": 2}, ["padding=2", "kernel_size=2"]),
        (SettingsError, {"kernel_size": 0}, ["kernel_size=0"]),
        (SettingsError, {"kernel_size": 2.5}, ["kernel_size=2.5"]),
        (SettingsError, {"kernel_size": (2, 2, 2)}, ["kernel_size=(2, 2, 2)"]),
        (SettingsError, {"kernel_size": 2, "stride": 0}, ["stride=0"]),
        (SettingsError, {"kernel_size": 2, "padding": -1}, ["padding=-1"]),
        (ShapeError, {"kernel_size": 5}, ["kernel_size=5", "4 pixels"]),
        (ShapeError, {"kernel_size": 2, "input": torch.zeros(4, 4)}, [(4, 4)]),
        (ShapeError, {"kernel_size": 2, "input": torch.zeros(2, 0, 4)}, []),
    ]
    for mine, reference in ((ops.max_pool2d, F.max_pool2d), (ops.avg_pool2d, F.avg_pool2d)):
        for kind, change, values in cases:
            arguments = {"input": x, **change}
            assert_refused(kind, lambda f=mine, a=arguments: f(**a), *values)
            with pytest.raises((RuntimeError, ValueError, TypeError, IndexError)):
                reference(**arguments)
    assert_refused(SettingsError, lambda: ops.max_pool2d(x, 2, dilation=0), "dilation=0")
    # a window over the pixels −1 and 1 of an image that has only pixel 0
    narrow = torch.zeros(1, 1, 1)
    assert_refused(ShapeError, lambda: ops.max_pool2d(narrow, 2, padding=1, dilation=2), "dilation=2", "padding=1")
    assert_refused(SettingsError, lambda: ops.avg_pool2d(x, 2, divisor_override=0), "divisor_override=0")
    assert_refused(SettingsError, lambda: ops.adaptive_avg_pool2d(x, (2, -1)), (2, -1))
    assert_refused(SettingsError, lambda: ops.adaptive_avg_pool2d(x, (2, 2, 2)), (2, 2, 2))
    assert_refused(SettingsError, lambda: ops.adaptive_avg_pool2d(x, 2.5), 2.5)
    assert_refused(ShapeError, lambda: ops.adaptive_avg_pool2d(torch.zeros(4), 2), (4,))


@pytest.mark.parametrize("name", ["max_pool2d", "avg_pool2d", "adaptive_avg_pool2d"])
def test_pooling_has_the_arguments_and_defaults_of_torchs_layers(name):
    layer = {"max_pool2d": nn.MaxPool2d, "avg_pool2d": nn.AvgPool2d, "adaptive_avg_pool2d": nn.AdaptiveAvgPool2d}[name]
    theirs = inspect.signature(layer).parameters
    mine = {key: p for key, p in inspect.signature(getattr(ops, name)).parameters.items() if key != "input"}
    assert set(mine) == set(theirs)
    assert {key: p.default for key, p in mine.items()} == {key: p.default for key, p in theirs.items()}


def test_max_pool2d_with_indices_returns_both_by_default():
    x = random(2, 4, 4)
    for got, want in zip(functional.max_pool2d_with_indices(x, 2), F.max_pool2d_with_indices(x, 2), strict=True):
        assert torch.equal(got, want)
