"""The losses of regression and of classification by hand, against torch and scikit-learn."""

import importlib
import inspect
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from against_torch import LAYOUTS, assert_agree, assert_refused, assert_within_precision, drawn, laid_out, random
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.linear_model import HuberRegressor, LogisticRegression
from threadpoolctl import threadpool_limits

from byhand import ops, optim
from byhand.errors import SettingsError, ShapeError, TargetError

REGRESSION = {
    "mse_loss": (ops.mse_loss, F.mse_loss),
    "l1_loss": (ops.l1_loss, F.l1_loss),
    "huber_loss": (ops.huber_loss, F.huber_loss),
    "smooth_l1_loss": (ops.smooth_l1_loss, F.smooth_l1_loss),
}
dtypes = st.sampled_from([torch.float32, torch.float64])
layouts = st.sampled_from(LAYOUTS)
reductions = st.sampled_from(["none", "mean", "sum"])


def with_settings(pair, *fixed, **settings):
    """Both functions with the same settings; tensors to differentiate come as positional arguments."""
    return tuple(lambda *tensors, f=f: f(*tensors, *fixed, **settings) for f in pair)


def labels(*shape, num_classes, seed=0):
    return torch.randint(num_classes, shape, generator=torch.Generator().manual_seed(seed))


# Regression


@pytest.mark.parametrize("name", REGRESSION)
@drawn
@given(
    shape=st.lists(st.integers(0, 4), min_size=1, max_size=3),
    reduction=reductions,
    dtype=dtypes,
    layout=layouts,
    threshold=st.sampled_from([0.1, 1.0, 2.5]),
)
def test_regression_losses_match_torch_in_both_gradients(name, shape, reduction, dtype, layout, threshold):
    settings = {"huber_loss": {"delta": threshold}, "smooth_l1_loss": {"beta": threshold}}.get(name, {})
    predictions, targets = random(*shape, dtype=dtype) * 2, random(*shape, dtype=dtype, seed=1)
    mine, reference = with_settings(REGRESSION[name], reduction=reduction, **settings)
    assert_agree(mine, reference, laid_out(predictions, layout), laid_out(targets, "transposed"))


@pytest.mark.parametrize("name", REGRESSION)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_regression_gradients_match_finite_differences(name, reduction):
    mine, reference = with_settings(REGRESSION[name], reduction=reduction)
    assert_agree(mine, reference, random(3, 4), random(3, 4, seed=1), finite_differences=True)


@pytest.mark.parametrize("name", REGRESSION)
def test_regression_losses_treat_zero_the_threshold_infinities_and_nan_as_torch_does(name):
    errors = torch.tensor([0.0, -0.0, 1.0, -1.0, 1e-30, 1e30, -1e30, math.inf, -math.inf, math.nan])
    mine, reference = with_settings(REGRESSION[name], reduction="none")
    assert_agree(mine, reference, errors, torch.zeros_like(errors))


@pytest.mark.parametrize("name", REGRESSION)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_regression_losses_in_half_precision_are_right_within_their_roundings(name, dtype):
    mine, reference = with_settings(REGRESSION[name], reduction="none")
    assert_within_precision(mine, reference, random(20, dtype=dtype), random(20, dtype=dtype, seed=1))


@pytest.mark.parametrize("name", REGRESSION)
def test_regression_losses_spread_unequal_shapes_with_a_warning_as_torch_does(name):
    predictions, targets = random(4, 1), random(4, seed=1)
    mine, reference = REGRESSION[name]
    with pytest.warns(UserWarning, match="one shape"):
        spread = mine(predictions, targets)
    with pytest.warns(UserWarning, match="same size"):
        expected = reference(predictions, targets)
    torch.testing.assert_close(spread, expected)


def test_smooth_l1_with_beta_zero_is_the_absolute_error():
    assert_agree(*with_settings(REGRESSION["smooth_l1_loss"], beta=0.0), random(5), random(5, seed=1))


def test_the_sources_squared_loss_is_half_the_square_and_its_gradient_the_error():
    y_hat, y = random(5, 1).requires_grad_(), random(5, seed=1)
    loss = ops.squared_loss(y_hat, y)
    torch.testing.assert_close(loss, (y_hat - y.reshape(5, 1)) ** 2 / 2)
    ops.squared_loss(y_hat, y, reduction="sum").backward()
    torch.testing.assert_close(y_hat.grad, (y_hat - y.reshape(5, 1)).detach())
    assert_agree(
        lambda a, b: ops.squared_loss(a, b, "mean"),
        lambda a, b: F.mse_loss(a, b.reshape(5, 1)) / 2,
        y_hat,
        y,
        finite_differences=True,
    )


def test_regression_losses_refuse_what_does_not_fit():
    a, b = torch.zeros(2, 3), torch.zeros(4)
    for mine, _ in REGRESSION.values():
        assert_refused(ShapeError, lambda mine=mine: mine(a, b), (2, 3), (4,))
        assert_refused(SettingsError, lambda mine=mine: mine(a, a, reduction="average"), "average")
    assert_refused(ShapeError, lambda: ops.squared_loss(a, b), (2, 3), (4,))
    for delta in (0.0, -1.0, math.nan):
        assert_refused(SettingsError, lambda delta=delta: ops.huber_loss(a, a, delta=delta), delta)
    for beta in (-0.5, math.nan):
        assert_refused(SettingsError, lambda beta=beta: ops.smooth_l1_loss(a, a, beta=beta), beta)


def test_huber_loss_minimised_is_scikit_learns_huber_regression():
    # scikit-learn minimises Σ (1 + H(e/σ)) σ + α |w|² over w, c and σ, where H is twice our loss with δ = ε. For its
    # own σ the minimum over w and c is therefore that of Huber's loss with δ = ε σ.
    X, noise = random(200, 3), random(200, seed=1)
    y = X @ torch.tensor([1.1, -4.5, 1.4], dtype=torch.float64) + 1.2 + 0.1 * noise
    y[::10] += 20  # outliers, which least squares would follow
    referee = HuberRegressor(epsilon=1.35, alpha=0.0, tol=1e-10, max_iter=1000).fit(X.numpy(), y.numpy())
    w, c = torch.zeros(1, 3, dtype=torch.float64).requires_grad_(), torch.zeros(1, dtype=torch.float64).requires_grad_()
    optimizer = torch.optim.LBFGS([w, c], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = ops.huber_loss(ops.linear(X, w, c)[:, 0], y, delta=1.35 * float(referee.scale_), reduction="sum")
        loss.backward()
        return loss

    optimizer.step(closure)
    np.testing.assert_allclose(w.detach().numpy()[0], referee.coef_, atol=1e-5)
    np.testing.assert_allclose(c.item(), referee.intercept_, atol=1e-5)


# Classification

shapes_of_logits = st.tuples(st.integers(0, 4), st.integers(1, 5), st.lists(st.integers(1, 3), max_size=2))


@drawn
@given(
    shape=shapes_of_logits,
    reduction=reductions,
    dtype=dtypes,
    layout=layouts,
    smoothing=st.sampled_from([0.0, 0.1, 1.0]),
    weighted=st.booleans(),
    share_ignored=st.sampled_from([0.0, 0.4]),
    ignore_index=st.sampled_from([-100, 0, 2]),
    scale=st.sampled_from([1.0, 50.0]),
    seed=st.integers(0, 3),
)
def test_cross_entropy_of_labels_matches_torch(
    shape, reduction, dtype, layout, smoothing, weighted, share_ignored, ignore_index, scale, seed
):
    B, C, rest = shape
    logits = laid_out(random(B, C, *rest, dtype=dtype, seed=seed) * scale, layout)
    target = labels(B, *rest, num_classes=C, seed=seed)
    target[torch.rand(target.shape, generator=torch.Generator().manual_seed(seed)) < share_ignored] = ignore_index
    settings = {
        "weight": random(C, dtype=dtype, seed=9).abs() if weighted else None,
        "ignore_index": ignore_index,
        "reduction": reduction,
        "label_smoothing": smoothing,
    }
    mine, reference = with_settings((ops.cross_entropy, F.cross_entropy), target, **settings)
    assert_agree(mine, reference, logits, tolerance=1e-4 if dtype is torch.float32 else None)


@drawn
@given(
    shape=shapes_of_logits,
    reduction=reductions,
    dtype=dtypes,
    layout=layouts,
    smoothing=st.sampled_from([0.0, 0.1, 1.0]),
    weighted=st.booleans(),
)
def test_cross_entropy_of_distributions_matches_torch_in_both_gradients(
    shape, reduction, dtype, layout, smoothing, weighted
):
    B, C, rest = shape
    logits = laid_out(random(B, C, *rest, dtype=dtype), layout)
    target = torch.softmax(random(B, C, *rest, dtype=dtype, seed=1), 1)
    weight = random(C, dtype=dtype, seed=9).abs() if weighted else None
    mine, reference = with_settings(
        (ops.cross_entropy, F.cross_entropy), weight=weight, reduction=reduction, label_smoothing=smoothing
    )
    assert_agree(mine, reference, logits, target)


@drawn
@given(shape=shapes_of_logits, reduction=reductions, dtype=dtypes, layout=layouts, weighted=st.booleans())
def test_nll_loss_matches_torch(shape, reduction, dtype, layout, weighted):
    B, C, rest = shape
    log_p = laid_out(torch.log_softmax(random(B, C, *rest, dtype=dtype), 1), layout)
    target = labels(B, *rest, num_classes=C)
    target.flatten()[::3] = -100
    weight = random(C, dtype=dtype, seed=9).abs() if weighted else None
    mine, reference = with_settings((ops.nll_loss, F.nll_loss), target, weight=weight, reduction=reduction)
    assert_agree(mine, lambda log_p: reference(log_p.contiguous()), log_p)  # torch's own way back takes nothing else


@pytest.mark.parametrize("function", ["cross_entropy", "nll_loss"])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_a_single_row_of_logits_takes_a_single_label(function, reduction):
    pair = getattr(ops, function), getattr(F, function)
    assert_agree(*with_settings(pair, torch.tensor(2), reduction=reduction), random(4))
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    assert_agree(*with_settings(pair, torch.tensor(2), weight=weight, reduction=reduction), random(4))


def test_a_single_row_of_logits_takes_a_single_distribution():
    y = torch.softmax(random(4, seed=1), 0)
    for reduction in ("none", "mean", "sum"):
        assert_agree(*with_settings((ops.cross_entropy, F.cross_entropy), reduction=reduction), random(4), y)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_gradients_match_finite_differences(smoothing):
    target = torch.tensor([[0, 2], [1, -100], [2, 2]])
    weight = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    pair = ops.cross_entropy, F.cross_entropy
    mine, reference = with_settings(pair, target, weight=weight, label_smoothing=smoothing)
    assert_agree(mine, reference, random(3, 3, 2), finite_differences=True)
    y = torch.softmax(random(3, 4, seed=1), 1)
    mine, reference = with_settings(pair, label_smoothing=smoothing)
    assert_agree(mine, reference, random(3, 4), y, finite_differences=True)


def test_the_gradient_of_cross_entropy_is_softmax_minus_one_hot():
    logits, target = random(6, 5).requires_grad_(), labels(6, num_classes=5)
    ops.cross_entropy(logits, target, reduction="sum").backward()
    torch.testing.assert_close(logits.grad, torch.softmax(logits.detach(), 1) - F.one_hot(target, 5))


def test_cross_entropy_of_a_hand_calculation():
    # p = (1/8, 2/8, 5/8); the surprise of the label 2 is log 8/5
    loss = ops.cross_entropy(torch.tensor([[1.0, 2.0, 5.0]], dtype=torch.float64).log(), torch.tensor([2]))
    assert loss.item() == pytest.approx(math.log(8 / 5), rel=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_of_ten_thousand_give_finite_losses_and_gradients(dtype):
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, -1e4], [1e4, 1e4, 1e4]], dtype=dtype)
    pair = ops.cross_entropy, F.cross_entropy
    for target in (torch.tensor([0, 1, 2]), torch.tensor([1, 0, 0])):
        for smoothing in (0.0, 0.1):
            assert_agree(*with_settings(pair, target, label_smoothing=smoothing), logits)
        x = logits.clone().requires_grad_()
        ops.cross_entropy(x, target).backward()
        assert torch.isfinite(x.grad).all()
    y = torch.tensor([[0.2, 0.3, 0.5], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]], dtype=dtype)
    for smoothing in (0.0, 0.1, 1.0):
        assert_agree(*with_settings(pair, label_smoothing=smoothing), logits, y)


def test_infinities_and_nan_in_the_logits_do_what_they_do_in_torch():
    inf, nan = math.inf, math.nan
    logits = torch.tensor([[0.0, -inf, 1.0], [0.0, -inf, 1.0], [nan, 0.0, 1.0], [0.0, inf, 1.0], [nan, 0.0, 0.0]])
    target = torch.tensor([0, 1, 1, 1, -100])
    assert_agree(*with_settings((ops.cross_entropy, F.cross_entropy), target, reduction="none"), logits)


@pytest.mark.parametrize("function", ["cross_entropy", "nll_loss"])
def test_where_no_label_counts_the_mean_is_nan_and_the_sum_zero(function):
    pair = getattr(ops, function), getattr(F, function)
    ignored = torch.full((3,), -100)
    for reduction in ("mean", "sum", "none"):
        assert_agree(*with_settings(pair, ignored, reduction=reduction), random(3, 4))
    assert getattr(ops, function)(random(3, 4), ignored).isnan()
    assert getattr(ops, function)(random(3, 4), ignored, reduction="sum") == 0
    assert getattr(ops, function)(random(2, 4), torch.tensor([0, 0]), torch.zeros(4)).isnan()


@pytest.mark.parametrize("function", ["cross_entropy", "nll_loss"])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_labels_of_one_byte_are_labels_and_no_mask(function, reduction):
    target = torch.tensor([0, 156, 255], dtype=torch.uint8)  # 156 is what −100 becomes in a byte
    pair = getattr(ops, function), getattr(F, function)
    for weight in (None, random(256).abs()):
        assert_agree(*with_settings(pair, target, weight=weight, reduction=reduction), random(3, 256))


def test_class_weights_of_single_precision_serve_logits_of_double():
    weight = torch.tensor([0.5, 2.0, 1.0])
    mine = ops.cross_entropy(random(4, 3), torch.tensor([0, 1, 2, 1]), weight)
    torch.testing.assert_close(mine, F.cross_entropy(random(4, 3), torch.tensor([0, 1, 2, 1]), weight.double()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_cross_entropy_in_half_precision_is_right_within_its_roundings(dtype):
    mine, reference = with_settings((ops.cross_entropy, F.cross_entropy), labels(8, num_classes=10), reduction="none")
    assert_within_precision(mine, reference, random(8, 10, dtype=dtype))


@pytest.mark.parametrize("function", [ops.cross_entropy, ops.nll_loss])
def test_classification_losses_refuse_labels_and_shapes_that_do_not_fit(function):
    logits = random(2, 3)
    assert_refused(TargetError, lambda: function(logits, torch.tensor([0, 3])), 3, "0..2")
    assert_refused(TargetError, lambda: function(logits, torch.tensor([0, -1])), -1, "0..2")
    assert_refused(TargetError, lambda: function(logits, torch.tensor([True, False])), "bool")
    assert_refused(ShapeError, lambda: function(logits, torch.tensor([0, 1, 2])), (3,), (2, 3))
    assert_refused(ShapeError, lambda: function(torch.tensor(1.0), torch.tensor(0)), "(B, C, ...)")
    assert_refused(ShapeError, lambda: function(logits, torch.tensor([0, 1]), torch.ones(4)), (4,), 3)
    assert_refused(SettingsError, lambda: function(logits, torch.tensor([0, 1]), reduction="avg"), "avg")
    with pytest.raises(IndexError):  # whoever caught torch's error catches ours
        function(logits, torch.tensor([0, 3]))


def test_cross_entropy_refuses_impossible_settings_and_distributions():
    logits, y = random(2, 3), torch.full((2, 3), 1 / 3)
    for smoothing in (-0.1, 1.5, math.nan):
        assert_refused(
            SettingsError, lambda s=smoothing: ops.cross_entropy(logits, y, label_smoothing=s), f"={smoothing}"
        )
    assert_refused(ShapeError, lambda: ops.cross_entropy(logits, y[:1]), (1, 3), (2, 3))
    assert_refused(SettingsError, lambda: ops.cross_entropy(logits, y, ignore_index=1), "ignore_index=1")
    assert_refused(TargetError, lambda: ops.nll_loss(logits, y), "float32")


def test_on_an_accelerator_no_label_is_read():
    # "meta" tensors have shapes and no numbers: what runs on them reads no label.
    for rows in ((), (2,), (0,)):
        logits = torch.empty(*rows, 3, device="meta")
        loss = ops.cross_entropy(logits, torch.empty(rows, dtype=torch.int64, device="meta"))
        assert loss.shape == ()


@pytest.mark.parametrize("function", [ops.cross_entropy, ops.nll_loss])
def test_where_labels_are_not_read_one_out_of_range_makes_the_loss_nan(function, monkeypatch):
    monkeypatch.setattr(importlib.import_module("byhand.ops.cross_entropy"), "_may_be_read", lambda target: False)
    logits = random(3, 4)
    for wrong in (4, -1):
        losses = function(logits, torch.tensor([0, wrong, 3]), reduction="none")
        assert losses.isnan().tolist() == [False, True, False]
        assert function(logits, torch.tensor([0, wrong, 3])).isnan()
    ignored = function(logits, torch.tensor([0, -100, 3]))
    torch.testing.assert_close(ignored, getattr(F, function.__name__)(logits, torch.tensor([0, -100, 3])))


@drawn
@given(shape=st.lists(st.integers(1, 4), max_size=3), num_classes=st.sampled_from([-1, 5, 7]))
def test_one_hot_matches_torch(shape, num_classes):
    target = labels(*shape, num_classes=5)
    mine = ops.one_hot(target, num_classes)
    assert torch.equal(mine, F.one_hot(target, num_classes))
    assert mine.dtype is torch.int64


def test_one_hot_of_bytes_and_of_an_empty_tensor_with_known_classes():
    assert ops.one_hot(torch.tensor([0, 200], dtype=torch.uint8), 201)[1, 200] == 1
    assert ops.one_hot(torch.zeros(0, dtype=torch.int64), 3).shape == (0, 3)


def test_one_hot_refuses_labels_out_of_range():
    assert_refused(TargetError, lambda: ops.one_hot(torch.tensor([0, 3]), 3), 3, "0..2")
    assert_refused(TargetError, lambda: ops.one_hot(torch.tensor([-1])), -1)
    assert_refused(TargetError, lambda: ops.one_hot(torch.tensor([0.0]), 3), "float32")
    assert_refused(TargetError, lambda: ops.one_hot(torch.zeros(0, dtype=torch.int64)), "num_classes")


def test_cross_entropy_with_an_l2_penalty_minimised_is_scikit_learns_logistic_regression():
    # scikit-learn minimises Σ cross-entropy + 1/(2C) |W|², the intercept free; here C = 1, on its own digits.
    X, y = load_digits(return_X_y=True)
    X, y = X[:600] / 16, y[:600]
    with threadpool_limits(1):
        referee = LogisticRegression(C=1.0, tol=1e-8, max_iter=2000).fit(X, y)
    inputs, target = torch.from_numpy(X), torch.from_numpy(y)
    W = torch.zeros(10, 64, dtype=torch.float64, requires_grad=True)
    b = torch.zeros(10, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [W, b], max_iter=400, tolerance_grad=1e-9, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def objective(W, b):
        return ops.cross_entropy(ops.linear(inputs, W, b), target, reduction="sum") + ops.l2_penalty(W)

    def closure():
        optimizer.zero_grad()
        loss = objective(W, b)
        loss.backward()
        return loss

    optimizer.step(closure)
    theirs = objective(torch.from_numpy(referee.coef_), torch.from_numpy(referee.intercept_)).item()
    assert objective(W, b).item() == pytest.approx(theirs, rel=1e-8)
    # The penalty makes the minimum unique in W; the intercepts may all shift together.
    np.testing.assert_allclose(W.detach().numpy(), referee.coef_, atol=1e-4)
    probabilities = ops.softmax(ops.linear(inputs, W, b), 1).detach().numpy()
    np.testing.assert_allclose(probabilities, referee.predict_proba(X), atol=1e-5)


def test_sgd_by_hand_comes_down_to_the_minimum_that_scikit_learn_finds():
    X, y = load_digits(n_class=3, return_X_y=True)
    X = X / 16
    with threadpool_limits(1):
        referee = LogisticRegression(C=0.01, tol=1e-9, max_iter=2000).fit(X, y)
    inputs, target = torch.from_numpy(X), torch.from_numpy(y)
    W = torch.zeros(3, 64, dtype=torch.float64, requires_grad=True)
    b = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    # the mean over N rows in place of the sum: the penalty 1/(2C) |W|² becomes a weight decay of 1/(C N)
    decayed = {"params": [W], "weight_decay": 1 / (0.01 * len(X))}
    optimizer = optim.SGD([decayed, {"params": [b]}], lr=0.5, momentum=0.9)
    for _ in range(600):
        optimizer.zero_grad()
        ops.cross_entropy(ops.linear(inputs, W, b), target).backward()
        optimizer.step()
    np.testing.assert_allclose(W.detach().numpy(), referee.coef_, atol=1e-5)


@pytest.mark.parametrize("name", [*REGRESSION, "cross_entropy", "nll_loss"])
def test_losses_have_the_defaults_of_torch(name):
    theirs = inspect.signature(getattr(F, name)).parameters
    for parameter in inspect.signature(getattr(ops, name)).parameters.values():
        assert parameter.default == theirs[parameter.name].default
