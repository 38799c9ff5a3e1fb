"""The linear layer, the hypercomplex weight and flatten by hand, against torch."""

import pytest
import torch
import torch.nn.functional as F
from against_torch import LAYOUTS, assert_agree, assert_refused, assert_within_precision, drawn, laid_out, random
from hypothesis import given
from hypothesis import strategies as st

from byhand import ops
from byhand.errors import ShapeError

dtypes = st.sampled_from([torch.float32, torch.float64])
layouts = st.sampled_from(LAYOUTS)


@drawn
@given(
    leading=st.lists(st.integers(0, 4), max_size=3),
    num_in=st.integers(1, 6),
    num_out=st.integers(1, 5),
    with_bias=st.booleans(),
    dtype=dtypes,
    layout=layouts,
    weight_layout=layouts,
)
def test_linear_matches_torch_for_any_leading_shape(leading, num_in, num_out, with_bias, dtype, layout, weight_layout):
    x = laid_out(random(*leading, num_in, dtype=dtype, seed=1), layout)
    weight = laid_out(random(num_out, num_in, dtype=dtype, seed=2), weight_layout)
    bias = (random(num_out, dtype=dtype, seed=3),) if with_bias else ()
    assert_agree(ops.linear, F.linear, x, weight, *bias)


@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 4, 3)])
def test_linear_gradients_match_finite_differences(shape):
    assert_agree(ops.linear, F.linear, random(*shape), random(2, 3, seed=1), random(2, seed=2), finite_differences=True)


@pytest.mark.parametrize(("num_in", "num_out"), [(0, 3), (3, 0)])
def test_linear_without_inputs_or_outputs_matches_torch(num_in, num_out):
    assert_agree(ops.linear, F.linear, random(2, 4, num_in), random(num_out, num_in), random(num_out, seed=1))


def test_linear_in_the_chapters_words_is_x_times_w_transposed_plus_b():
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    weight, bias = torch.tensor([[10.0, 1.0], [0.0, -1.0], [1.0, 1.0]]), torch.tensor([0.0, 0.5, -3.0])
    assert ops.linear(x, weight, bias).tolist() == [[12.0, -1.5, 0.0], [34.0, -3.5, 4.0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_linear_in_half_precision_is_right_within_its_roundings(dtype):
    inputs = random(5, 16, dtype=dtype), random(7, 16, dtype=dtype, seed=1), random(7, dtype=dtype, seed=2)
    assert_within_precision(ops.linear, F.linear, *inputs)


def test_linear_computes_no_gradient_that_nobody_asked_for():
    x, weight = random(4, 3), random(2, 3, seed=1).requires_grad_()
    ops.linear(x, weight).sum().backward()
    torch.testing.assert_close(weight.grad, x.sum(0).expand(2, 3))
    assert x.grad is None
    assert not ops.linear(x, weight.detach()).requires_grad


def test_the_output_of_linear_may_be_changed_in_place_as_with_torch():
    def added(linear):
        def f(x, weight, bias):
            y = linear(x, weight, bias)
            y += 1
            return y * y

        return f

    assert_agree(added(ops.linear), added(F.linear), random(2, 5, 3), random(4, 3, seed=1), random(4, seed=2))


def test_a_tensor_changed_between_the_way_forth_and_back_is_an_error_not_a_wrong_gradient():
    x, weight = random(4, 3), random(2, 3, seed=1).requires_grad_()
    y = ops.linear(x, weight).sum()
    x.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


def test_a_second_derivative_is_an_error_and_not_a_zero():
    # the way back is a formula of numbers, which autograd cannot follow a second time
    w = random(1, 3).requires_grad_()
    y = ops.linear(random(2, 3, seed=1), w)
    (slope,) = torch.autograd.grad((y * y).sum(), w, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def test_linear_refuses_shapes_that_do_not_fit():
    x, weight = torch.zeros(4, 3), torch.zeros(2, 5)
    assert_refused(ShapeError, lambda: ops.linear(x, weight), (4, 3), (2, 5))
    assert_refused(ShapeError, lambda: ops.linear(torch.tensor(1.0), weight), (2, 5))
    assert_refused(ShapeError, lambda: ops.linear(torch.zeros(4, 5), weight, torch.zeros(3)), (3,), (2, 5))
    assert_refused(ShapeError, lambda: ops.linear(torch.zeros(4, 5), torch.zeros(5)), (5,))
    with pytest.raises(RuntimeError):  # whoever caught torch's error catches ours
        ops.linear(x, weight)


@drawn
@given(n=st.integers(1, 4), p=st.integers(1, 3), r=st.integers(1, 3), dtype=dtypes, layout=layouts)
def test_hypercomplex_weight_is_the_sum_of_torchs_kronecker_products(n, p, r, dtype, layout):
    rules, blocks = random(n, n, n, dtype=dtype), random(n, p, r, dtype=dtype, seed=1)

    def kronecker(A, S):  # torch.kron itself takes no transposed matrices
        return torch.stack([torch.kron(A[i].contiguous(), S[i].contiguous()) for i in range(n)]).sum(0)

    assert_agree(
        ops.hypercomplex_weight,
        kronecker,
        laid_out(rules, layout),
        laid_out(blocks, layout),
        finite_differences=dtype is torch.float64 and layout == "contiguous",
    )


def test_hypercomplex_weight_with_hamiltons_rules_multiplies_quaternions():
    # column q of rule u holds the product u · q of two units, from i² = j² = k² = ijk = −1
    one = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    i = [[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 0, -1], [0, 0, 1, 0]]
    j = [[0, 0, -1, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0, -1, 0, 0]]
    k = [[0, 0, 0, -1], [0, 0, -1, 0], [0, 1, 0, 0], [1, 0, 0, 0]]
    rules = torch.tensor([one, i, j, k], dtype=torch.float64)
    p, q = (torch.tensor(v, dtype=torch.float64) for v in ([1, 2, 3, 4], [5, 6, 7, 8]))
    # (1 + 2i + 3j + 4k)(5 + 6i + 7j + 8k) = −60 + 12i + 30j + 24k
    assert (ops.hypercomplex_weight(rules, p.reshape(4, 1, 1)) @ q).tolist() == [-60, 12, 30, 24]


def test_hypercomplex_weight_refuses_shapes_that_do_not_fit():
    assert_refused(ShapeError, lambda: ops.hypercomplex_weight(torch.zeros(2, 3, 2), torch.zeros(2, 1, 1)), (2, 3, 2))
    assert_refused(ShapeError, lambda: ops.hypercomplex_weight(torch.zeros(2, 2, 2), torch.zeros(3, 1, 1)), (3, 1, 1))
    assert_refused(ShapeError, lambda: ops.hypercomplex_weight(torch.tensor(1.0), torch.zeros(3, 1, 1)), ())


@drawn
@given(
    shape=st.lists(st.integers(0, 3), max_size=4),
    start=st.integers(-4, 3),
    end=st.integers(-4, 3),
    layout=layouts,
)
def test_flatten_matches_torch_or_fails_where_torch_fails(shape, start, end, layout):
    x = random(*shape)
    x = laid_out(x, layout) if shape else x
    try:
        torch.flatten(x, start, end)
    except (RuntimeError, IndexError) as error:
        with pytest.raises(type(error)):
            ops.flatten(x, start, end)
        return
    assert_agree(lambda x: ops.flatten(x, start, end), lambda x: torch.flatten(x, start, end), x)


def test_the_output_of_flatten_may_be_changed_in_place_as_with_torch():
    def doubled(flatten):
        def f(x):
            y = flatten(x * 1, 1)
            y *= 2
            return y

        return f

    assert_agree(doubled(ops.flatten), doubled(torch.flatten), random(2, 3, 2))
