"""Batch, layer, group and local response normalisation by hand, against torch and the papers' formulas."""

import math

import pytest
import torch
import torch.nn.functional as F
from against_torch import LAYOUTS, assert_agree, assert_refused, assert_within_precision, drawn, laid_out, random
from hypothesis import given
from hypothesis import strategies as st

from byhand import ops
from byhand.errors import SettingsError, ShapeError
from byhand.ops import normalisation
from byhand.ops.layout import batch_innermost, is_batch_innermost
from byhand.ops.tape import Tape

dtypes = st.sampled_from([torch.float32, torch.float64])
layouts = st.sampled_from([*LAYOUTS, "batch innermost", "channels last"])
blocks = st.sampled_from([1, 10, 1 << 18])  # every example its own, some at once, all at once
shapes = st.one_of(
    st.tuples(st.integers(1, 5), st.integers(1, 4)),
    st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5)),
    st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 2)),
)
# Where a channel has two values that are nearly equal, 1/σ makes their rounding hundreds of times larger.
LOOSE = {torch.float32: 2e-3, torch.float64: 1e-10}


def placed(x, layout):
    """``laid_out``, with the two orders of images besides."""
    if layout == "batch innermost":
        return batch_innermost(x) if x.ndim == 4 else x
    if layout == "channels last":
        return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
    return laid_out(x, layout)


def affine_of(draw, shape, dtype):
    """γ and β, one of them, or none."""
    given = draw(st.sampled_from(["both", "weight", "none"]))
    weight, bias = random(*shape, dtype=dtype, seed=1), random(*shape, dtype=dtype, seed=2)
    return {"both": (weight, bias), "weight": (weight,), "none": ()}[given]


def refuses(reference, *arguments, **settings):
    try:
        reference(*arguments, **settings)
    except (RuntimeError, ValueError):
        return True
    return False


# Batch normalisation


@drawn
@given(shape=shapes, dtype=dtypes, layout=layouts, block=blocks, data=st.data())
def test_batch_norm_matches_torch_in_training_and_evaluation(shape, dtype, layout, block, data):
    x = placed(3 * random(*shape, dtype=dtype) + 1, layout)
    affine = affine_of(data.draw, shape[1:2], dtype)
    settings = {"training": data.draw(st.booleans()), "eps": data.draw(st.sampled_from([1e-5, 0.1]))}
    settings["momentum"] = data.draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    running = random(shape[1], dtype=dtype, seed=3), random(shape[1], dtype=dtype, seed=4).abs() + 0.1
    if settings["training"] and data.draw(st.booleans()):
        running = None, None
    after = []

    def by(function):
        def call(x, *affine):
            own = [None if value is None else value.clone() for value in running]
            after.append(own)
            return function(x, *own, *affine, **settings)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(normalisation, "BLOCK", block)
        if refuses(by(F.batch_norm), x, *affine):
            assert_refused(ShapeError, lambda: by(ops.batch_norm)(x, *affine), shape)
            return
        after.clear()
        assert_agree(by(ops.batch_norm), by(F.batch_norm), x, *affine, tolerance=LOOSE[dtype])
    torch.testing.assert_close(*after, rtol=LOOSE[dtype], atol=LOOSE[dtype])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 4), (2, 2, 3, 2)], ids=str)
def test_batch_norm_gradients_match_finite_differences(shape, training):
    C = shape[1]
    mean, var = random(C, seed=3), random(C, seed=4).abs() + 0.5

    def by(function):
        return lambda x, weight, bias: function(x, mean.clone(), var.clone(), weight, bias, training)

    inputs = random(*shape), random(C, seed=1), random(C, seed=2)
    assert_agree(by(ops.batch_norm), by(F.batch_norm), *inputs, finite_differences=True)


def test_two_values_become_minus_one_and_one_and_their_unbiased_variance_is_tracked():
    x = torch.tensor([[1.0], [3.0]], dtype=torch.float64)  # mean 2, biased variance 1, unbiased 2
    mean, var = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    y = ops.batch_norm(x, mean, var, training=True, momentum=0.25, eps=1e-12)
    torch.testing.assert_close(y, torch.tensor([[-1.0], [1.0]], dtype=torch.float64))
    assert mean.item() == pytest.approx(0.25 * 2)
    assert var.item() == pytest.approx(0.75 * 1 + 0.25 * 2)


@pytest.mark.parametrize("block", [1, 100, 1 << 18])
def test_a_mean_far_from_zero_leaves_the_variance_its_digits(monkeypatch, block):
    # mean(x²) − mean(x)² would be 1e8 − 1e8 here, where float32 counts in steps of 8
    monkeypatch.setattr(normalisation, "BLOCK", block)
    x = (random(64, 3, 5, 5) + 1e4).float()
    var = torch.zeros(3)
    ops.batch_norm(x, None, var, training=True, momentum=1.0)
    torch.testing.assert_close(var.double(), x.double().var((0, 2, 3)), rtol=1e-4, atol=0)


def test_a_channel_that_is_constant_stays_finite_in_value_and_gradient():
    x = torch.full((4, 2, 3, 3), 5.0, dtype=torch.float64)
    x[:, 1] = random(4, 3, 3)
    for reference in (ops.batch_norm, F.batch_norm):
        assert reference(x, None, None, training=True).isfinite().all()

    def by(function):
        return lambda x: function(x, None, None, training=True)

    assert_agree(by(ops.batch_norm), by(F.batch_norm), x, tolerance=1e-8)


@pytest.mark.parametrize("training", [True, False])
def test_a_nan_spoils_its_own_channel_alone(training):
    x = random(4, 3, 2, 2)
    x[1, 2, 0, 0] = math.nan
    running = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    y = ops.batch_norm(x, *running, training=training)
    expected = F.batch_norm(x, torch.zeros_like(running[0]), torch.ones_like(running[1]), training=training)
    assert torch.equal(y.isnan(), expected.isnan())
    assert running[0].isnan().tolist() == [False, False, training]


@pytest.mark.parametrize("layout", ["contiguous", "batch innermost", "channels last"])
@pytest.mark.parametrize("training", [True, False])
def test_the_layout_in_memory_stays_in_value_and_gradient(layout, training):
    x = placed(random(16, 4, 5, 6), layout).requires_grad_()
    running = random(4, seed=1), random(4, seed=2).abs()
    y = ops.batch_norm(x, *running, training=training)
    assert y.stride() == x.stride()
    # a gradient comes in any layout, also spread out from one number
    spread = torch.ones(1, dtype=x.dtype).expand(y.shape)
    for grad in (random(16, 4, 5, 6), batch_innermost(random(16, 4, 5, 6)), spread):
        (got,) = torch.autograd.grad(y, x, grad, retain_graph=True)
        assert got.stride() == x.stride()
        expected = F.batch_norm(x, *(value.clone() for value in running), training=training)
        if training:
            (want,) = torch.autograd.grad(expected, x, grad)
            torch.testing.assert_close(got, want)
    for other in (ops.layer_norm(x, (4, 5, 6)), ops.group_norm(x, 2), ops.local_response_norm(x, 3)):
        assert other.stride() == x.stride()
        (got,) = torch.autograd.grad(other, x, torch.ones_like(other))
        assert got.stride() == x.stride()


def test_an_empty_batch_gives_nothing_and_leaves_the_running_statistics():
    mean, var = torch.ones(3), torch.full((3,), 2.0)
    x = torch.zeros(0, 3, 2, 2, requires_grad=True)
    y = ops.batch_norm(x, mean, var, training=True)
    y.sum().backward()
    assert y.shape == x.grad.shape == (0, 3, 2, 2)
    assert mean.tolist() == [1.0] * 3
    assert var.tolist() == [2.0] * 3


def test_running_statistics_may_be_given_singly_in_training():
    x, mean = random(4, 3), torch.zeros(3, dtype=torch.float64)
    ops.batch_norm(x, mean, None, training=True, momentum=1.0)
    torch.testing.assert_close(mean, x.mean(0))
    assert_refused(SettingsError, lambda: ops.batch_norm(x, mean, None), "running_var=None", "training=True")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", ["contiguous", "batch innermost"])
def test_half_precision_takes_its_statistics_in_float32(dtype, layout):
    # 4,096 values of about 30: their sum is beyond float16, their squares far beyond
    x = placed(random(64, 2, 8, 8, dtype=dtype) + 30, layout)
    weight, bias = random(2, dtype=dtype, seed=1), random(2, dtype=dtype, seed=2)
    assert_within_precision(
        lambda *t: ops.batch_norm(t[0], None, None, *t[1:], training=True),
        lambda *t: F.batch_norm(t[0], None, None, *t[1:], training=True),
        x,
        weight,
        bias,
        roundings=3,
    )
    var = torch.ones(2)
    ops.batch_norm(x, torch.zeros(2), var, training=True, momentum=1.0)
    torch.testing.assert_close(var, x.float().var((0, 2, 3)), rtol=1e-4, atol=0)
    for shape, call in {
        (2, 8, 8): lambda module: lambda x, w, b: module.layer_norm(x, (2, 8, 8), w, b),
        (2,): lambda module: lambda x, w, b: module.group_norm(x, 1, w, b),
    }.items():
        affine = random(*shape, dtype=dtype, seed=1), random(*shape, dtype=dtype, seed=2)
        assert_within_precision(call(ops), call(F), x, *affine, roundings=3)
    assert_within_precision(lambda x: ops.local_response_norm(x, 2), lambda x: F.local_response_norm(x, 2), x / 30)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("training", [True, False])
def test_half_precision_gradients_are_right_within_their_roundings_and_keep_each_dtype(dtype, training):
    x, grad = random(16, 3, 4, 4, dtype=dtype), random(16, 3, 4, 4, dtype=dtype, seed=5)
    affine = random(3, dtype=torch.float32, seed=1), random(3, dtype=torch.float32, seed=2)
    running = torch.zeros(3), torch.ones(3)
    for function, reference in [
        (
            lambda x, w, b: ops.batch_norm(x, *running, w, b, training),
            lambda x, w, b: F.batch_norm(x, torch.zeros(3).double(), torch.ones(3).double(), w, b, training),
        ),
        (lambda x, w, b: ops.group_norm(x, 1, w, b), lambda x, w, b: F.group_norm(x, 1, w, b)),
    ]:
        inputs = [t.clone().requires_grad_() for t in (x, *affine)]
        got = torch.autograd.grad(function(*inputs), inputs, grad)
        exact = [t.double().requires_grad_() for t in (x, *affine)]
        want = torch.autograd.grad(reference(*(t * 1 for t in exact)), exact, grad.double())
        for a, b, t in zip(got, want, inputs, strict=True):
            assert a.dtype is t.dtype
            limit = 4 * torch.finfo(t.dtype).eps if t.dtype is dtype else 1e-3
            torch.testing.assert_close(a.double(), b.double(), rtol=limit, atol=limit * float(b.abs().max()))


@pytest.mark.parametrize("training", [True, False])
def test_gradients_on_our_own_tape_are_those_of_autograd(training):
    x, weight, bias = (random(*shape).requires_grad_() for shape in ((16, 3, 4, 4), (3,), (3,)))
    running = random(3, seed=1), random(3, seed=2).abs()

    def loss():
        y = ops.batch_norm(x, *(value.clone() for value in running), weight, bias, training)
        y = ops.group_norm(y, 3, weight)
        y = ops.layer_norm(y, (4, 4))
        return ops.l2_penalty(ops.local_response_norm(y, 3, alpha=0.5))

    wanted = torch.autograd.grad(loss(), (x, weight, bias))
    with Tape([x, weight, bias]) as tape:
        value = loss()
    for got, want in zip(tape.gradients(value), wanted, strict=True):
        torch.testing.assert_close(got, want)


def test_only_the_gradients_that_somebody_needs_are_computed():
    x, weight = random(4, 3), random(3, seed=1).requires_grad_()
    y = ops.batch_norm(x, None, None, weight, training=True)
    y.sum().backward()
    assert weight.grad is not None
    mean = random(3, seed=3).requires_grad_()  # running statistics take no gradient, whatever they ask for
    assert not ops.batch_norm(x, mean, mean.abs(), training=False).requires_grad


# Layer and group normalisation


@drawn
@given(shape=shapes, dtype=dtypes, layout=layouts, data=st.data())
def test_layer_norm_matches_torch(shape, dtype, layout, data):
    x = placed(random(*shape, dtype=dtype), layout)
    axes = shape[data.draw(st.integers(0, len(shape) - 1)) :]
    affine, eps = affine_of(data.draw, axes, dtype), data.draw(st.sampled_from([1e-5, 0.1]))

    def by(function):
        return lambda x, *affine: function(x, axes, *affine, eps=eps)

    assert_agree(by(ops.layer_norm), by(F.layer_norm), x, *affine, tolerance=LOOSE[dtype])


@drawn
@given(shape=shapes, groups=st.integers(1, 3), dtype=dtypes, layout=layouts, data=st.data())
def test_group_norm_matches_torch(shape, groups, dtype, layout, data):
    shape = (shape[0], groups * shape[1], *shape[2:])
    x, affine = placed(random(*shape, dtype=dtype), layout), affine_of(data.draw, shape[1:2], dtype)
    eps = data.draw(st.sampled_from([1e-5, 0.1]))

    def by(function):
        return lambda x, *affine: function(x, groups, *affine, eps=eps)

    if refuses(by(F.group_norm), x, *affine):
        assert_refused(ShapeError, lambda: by(ops.group_norm)(x, *affine), shape, f"num_groups={groups}")
        return
    assert_agree(by(ops.group_norm), by(F.group_norm), x, *affine, tolerance=LOOSE[dtype])


def test_layer_and_group_norm_gradients_match_finite_differences():
    x, weight, bias = random(2, 4, 3), random(4, 3, seed=1), random(4, 3, seed=2)
    layer = [lambda x, w, b, f=f: f(x, (4, 3), w, b) for f in (ops.layer_norm, F.layer_norm)]
    assert_agree(*layer, x, weight, bias, finite_differences=True)
    group = [lambda x, w, b, f=f: f(x, 2, w, b) for f in (ops.group_norm, F.group_norm)]
    assert_agree(*group, x, weight[:, 0], bias[:, 0], finite_differences=True)


def test_one_group_is_layer_norm_and_as_many_as_channels_is_instance_norm():
    x = random(3, 6, 4, 5)
    torch.testing.assert_close(ops.group_norm(x, 1), F.layer_norm(x, (6, 4, 5)))
    torch.testing.assert_close(ops.group_norm(x, 6), F.instance_norm(x))


def test_layer_norm_takes_one_number_for_one_axis():
    x = random(3, 6)
    assert torch.equal(ops.layer_norm(x, 6), ops.layer_norm(x, [6]))


# Local response normalisation


@drawn
@given(
    shape=shapes,
    size=st.integers(1, 7),
    alpha=st.sampled_from([1e-4, 0.5]),
    beta=st.sampled_from([0.75, 0.5, 2.0]),
    k=st.sampled_from([1.0, 2.0]),
    dtype=dtypes,
    layout=layouts,
)
def test_local_response_norm_matches_torch(shape, size, alpha, beta, k, dtype, layout):
    x = placed(random(*shape, dtype=dtype), layout)
    if len(shape) < 3:
        assert refuses(F.local_response_norm, x, size)
        assert_refused(ShapeError, lambda: ops.local_response_norm(x, size), shape)
        return

    def by(function):
        return lambda x: function(x, size, alpha, beta, k)

    # torch's own wants images that it can view
    assert_agree(by(ops.local_response_norm), lambda x: by(F.local_response_norm)(x.contiguous()), x)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_local_response_norm_gradients_match_finite_differences(size):
    both = [lambda x, f=f: f(x, size, 0.5, 0.75, 2.0) for f in (ops.local_response_norm, F.local_response_norm)]
    assert_agree(*both, random(2, 4, 3), finite_differences=True)


def test_the_paper_of_2012_does_not_divide_alpha_by_the_number_of_channels():
    # Krizhevsky et al., section 3.3: b_i = a_i / (k + α Σ a_j²)^β, j from max(0, i − n/2) to min(N − 1, i + n/2)
    k, n, alpha, beta, N = 2, 5, 1e-4, 0.75, 8
    a = 40 * random(1, N, 1)
    b = []
    for i in range(N):
        seen = range(max(0, i - n // 2), min(N - 1, i + n // 2) + 1)
        b.append(float(a[0, i, 0]) / (k + alpha * sum(float(a[0, j, 0]) ** 2 for j in seen)) ** beta)
    assert ops.local_response_norm(a, n, alpha=n * alpha, beta=beta, k=k).flatten().tolist() == pytest.approx(b)
    assert ops.local_response_norm(a, n, alpha=alpha, beta=beta, k=k).flatten().tolist() != pytest.approx(b)


def test_local_response_norm_of_nothing_is_nothing():
    assert ops.local_response_norm(torch.zeros(0, 3, 2), 2).shape == (0, 3, 2)


# Refusals


def test_one_value_a_channel_in_training_says_which_shape_and_what_to_do():
    for shape in ((1, 3), (1, 3, 1), (1, 3, 1, 1)):
        x = torch.zeros(shape)
        assert_refused(
            ShapeError, lambda x=x: ops.batch_norm(x, None, None, training=True), shape, "at least 2", "eval()"
        )
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            F.batch_norm(x, None, None, training=True)
        ops.batch_norm(x, torch.zeros(3), torch.ones(3))  # evaluation takes it


def test_what_does_not_fit_is_refused_as_by_torch():
    x, three = torch.zeros(2, 4, 5, 5), torch.ones(3)
    four = torch.ones(4)
    cases = [
        (ShapeError, "batch_norm", (torch.zeros(3), None, None, None, None, True), [(3,)]),
        (ShapeError, "batch_norm", (x, three, four), ["running_mean", (3,), (2, 4, 5, 5), "4 channels"]),
        (ShapeError, "batch_norm", (x, four, three), ["running_var", (3,)]),
        (ShapeError, "batch_norm", (x, four, four, three), ["weight", (3,)]),
        (ShapeError, "batch_norm", (x, four, four, four, three), ["bias", (3,)]),
        (SettingsError, "batch_norm", (x, None, None), ["running_mean=None"]),
        (SettingsError, "batch_norm", (x, None, None, None, None, True, 0.1, 0.0), ["eps=0.0"]),
        (SettingsError, "batch_norm", (x, four, four, None, None, False, 0.1, -1.0), ["eps=-1.0"]),
        (ShapeError, "layer_norm", (x, (4, 5)), [(2, 4, 5, 5), (4, 5)]),
        (ShapeError, "layer_norm", (x, (1, 2, 4, 5, 5)), [(1, 2, 4, 5, 5)]),
        (ShapeError, "layer_norm", (x, ()), ["at least one"]),
        (ShapeError, "layer_norm", (x, (5,), three), ["weight", (3,), (5,)]),
        (ShapeError, "layer_norm", (x, (5,), None, three), ["bias", (3,), (5,)]),
        (ShapeError, "group_norm", (torch.zeros(4), 2), [(4,)]),
        (SettingsError, "group_norm", (x, 3), ["num_groups=3", "4 channels"]),
        (ShapeError, "group_norm", (x, 2, three), ["weight", (3,)]),
        (ShapeError, "group_norm", (torch.zeros(1, 4), 4), [(1, 4), "num_groups=4"]),
        (ShapeError, "local_response_norm", (torch.zeros(2, 3), 2), [(2, 3)]),
        (SettingsError, "local_response_norm", (x, 0), ["size=0"]),
        (SettingsError, "local_response_norm", (x, 2.5), ["size=2.5"]),
    ]
    for kind, name, arguments, values in cases:
        assert_refused(kind, lambda name=name, arguments=arguments: getattr(ops, name)(*arguments), *values)
        with pytest.raises((RuntimeError, ValueError, TypeError, IndexError)):
            getattr(F, name)(*arguments)
    assert_refused(SettingsError, lambda: ops.group_norm(x, 0), "num_groups=0")


def test_the_helper_that_lays_images_out_does_so():
    x = random(16, 4, 5, 6)
    assert is_batch_innermost(placed(x, "batch innermost"))
    assert placed(x, "channels last").stride(1) == 1
