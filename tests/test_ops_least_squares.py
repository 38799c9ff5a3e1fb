"""The closed form of linear regression, against numpy, torch.linalg, scikit-learn and exact solutions."""

import math

import numpy as np
import pytest
import torch
from against_torch import LAYOUTS, assert_agree, assert_refused, drawn, laid_out, random
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression

from byhand import ops
from byhand.errors import ShapeError
from byhand.ops import RankDeficient


@drawn
@given(
    d=st.integers(1, 5),
    more=st.integers(0, 6),
    targets=st.sampled_from([(), (1,), (3,)]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    layout=st.sampled_from(LAYOUTS),
    seed=st.integers(0, 9),
)
def test_least_squares_matches_torch_and_numpy(d, more, targets, dtype, layout, seed):
    # a diagonal of 3 keeps the columns well apart, whatever is drawn
    X = laid_out(random(d + more, d, dtype=dtype, seed=seed) + 3 * torch.eye(d + more, d, dtype=dtype), layout)
    y = random(d + more, *targets, dtype=dtype, seed=seed + 1)
    w = ops.least_squares(X, y)
    limit = 1e-10 if dtype is torch.float64 else 2e-4
    columns = y if y.ndim == 2 else y[:, None]
    torch.testing.assert_close(w.reshape(d, -1), torch.linalg.lstsq(X, columns).solution, rtol=limit, atol=limit)
    np.testing.assert_allclose(w.numpy(), np.linalg.lstsq(X.numpy(), y.numpy())[0], rtol=limit, atol=limit)
    assert w.shape == (d, *targets)
    assert w.dtype is dtype


def test_least_squares_with_a_column_of_ones_is_scikit_learns_linear_regression():
    X = random(50, 3)
    y = X @ torch.tensor([1.1, -4.5, 1.4], dtype=torch.float64) + 1.1919810 + 0.01 * random(50, seed=1)
    w = ops.least_squares(torch.cat([X, torch.ones(50, 1, dtype=torch.float64)], 1), y)
    referee = LinearRegression().fit(X.numpy(), y.numpy())
    np.testing.assert_allclose(w.numpy(), [*referee.coef_, referee.intercept_], rtol=1e-12)


def test_least_squares_of_a_hand_calculation():
    # the line through (0, 1), (1, 2), (2, 4): slope 3/2, intercept 5/6
    X = torch.tensor([[0.0, 1], [1, 1], [2, 1]], dtype=torch.float64)
    w = ops.least_squares(X, torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64))
    np.testing.assert_allclose(w.numpy(), [3 / 2, 5 / 6], rtol=1e-14)


@pytest.mark.parametrize("targets", [(), (2,)])
def test_gradients_of_least_squares_match_torch_and_finite_differences(targets):
    def reference(X, y):
        return torch.linalg.solve(X.T @ X, X.T @ y)  # the textbook's formula, differentiated by autograd

    assert_agree(ops.least_squares, reference, random(6, 3), random(6, *targets, seed=1), finite_differences=True)


@pytest.mark.parametrize("degree", [6, 9, 12])
def test_an_ill_conditioned_vandermonde_matrix_keeps_the_digits_that_the_condition_leaves(degree):
    t = torch.linspace(0, 1, 40, dtype=torch.float64)
    X = torch.stack([t**k for k in range(degree + 1)], 1)
    exact = torch.ones(degree + 1, dtype=torch.float64)
    condition = float(torch.linalg.cond(X))
    assert condition > 1e4  # squared, as XᵀX would have it, nothing would be left at degree 12
    error = (ops.least_squares(X, X @ exact) - exact).abs().max().item()
    assert error < 50 * condition * 2.2e-16


@pytest.mark.parametrize("scale", [1e-200, 1e-20, 1e20, 1e200])
def test_the_units_of_x_and_y_do_not_matter(scale):
    X, y = random(8, 3), random(8, seed=1)
    w = ops.least_squares(X, y)
    torch.testing.assert_close(ops.least_squares(X * scale, y * scale), w, rtol=1e-9, atol=0)
    mixed = X * torch.tensor([1.0, 1e-5, 1e5], dtype=torch.float64)
    expected = w / torch.tensor([1.0, 1e-5, 1e5], dtype=torch.float64)
    torch.testing.assert_close(ops.least_squares(mixed, y), expected, rtol=1e-9, atol=0)


def dependent(kind):
    X = random(7, 4)
    if kind == "equal columns":
        X[:, 3] = X[:, 1]
    elif kind == "a sum of columns":
        X[:, 2] = 2 * X[:, 0] - X[:, 1]
    elif kind == "a column of zeros":
        X[:, 0] = 0
    elif kind == "fewer rows than columns":
        X = X[:3]
    elif kind == "one row":
        X = X[:1]
    elif kind == "rank one":
        X = X[:, :1] @ X[:1]
    elif kind == "zeros":
        X = torch.zeros_like(X)
    return X


RANKS = {
    "equal columns": 3,
    "a sum of columns": 3,
    "a column of zeros": 3,
    "fewer rows than columns": 3,
    "one row": 1,
    "rank one": 1,
    "zeros": 0,
}


@pytest.mark.parametrize("kind", RANKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dependent_columns_are_refused_with_the_rank_and_an_offer(kind, dtype):
    X = dependent(kind).to(dtype)
    y = random(len(X), dtype=dtype, seed=1)
    assert_refused(
        RankDeficient, lambda: ops.least_squares(X, y), f"rank {RANKS[kind]}", tuple(X.shape), "minimum_norm=True"
    )
    assert issubclass(RankDeficient, ShapeError)


@pytest.mark.parametrize("kind", [*RANKS, "full rank"])
@pytest.mark.parametrize("targets", [(), (2,)])
def test_the_offered_minimum_norm_answer_is_the_pseudoinverses(kind, targets):
    X = dependent(kind)
    y = random(len(X), *targets, seed=1)
    w = ops.least_squares(X, y, minimum_norm=True)
    torch.testing.assert_close(w, torch.linalg.pinv(X) @ y, rtol=1e-10, atol=1e-10)
    assert not w.requires_grad


def test_least_squares_changes_neither_of_its_arguments():
    X, y = random(5, 2), random(5, seed=1)
    ops.least_squares(X, y)
    ops.least_squares(X, y, minimum_norm=True)
    assert torch.equal(X, random(5, 2))
    assert torch.equal(y, random(5, seed=1))


def test_least_squares_refuses_shapes_and_values_that_have_no_answer():
    X, y = random(5, 2), random(5)
    assert_refused(ShapeError, lambda: ops.least_squares(X, y[:4]), (5, 2), (4,))
    assert_refused(ShapeError, lambda: ops.least_squares(y, y), (5,))
    assert_refused(ShapeError, lambda: ops.least_squares(X[:0], y[:0]), (0, 2))
    assert_refused(ShapeError, lambda: ops.least_squares(X, torch.zeros(5, 1, 1)), (5, 1, 1))
    assert_refused(ShapeError, lambda: ops.least_squares(torch.ones(3, 2, dtype=torch.int64), y[:3]), "int64")
    assert_refused(ShapeError, lambda: ops.least_squares(X.float(), y), "float32", "float64")
    for value in (math.nan, math.inf):
        assert_refused(ShapeError, lambda v=value: ops.least_squares(X, torch.full((5,), v, dtype=X.dtype)), "NaN")
