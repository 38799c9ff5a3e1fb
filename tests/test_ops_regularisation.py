"""Dropout and the L2 penalty by hand, against torch."""

import math

import pytest
import torch
import torch.nn.functional as F
from against_torch import LAYOUTS, assert_agree, assert_refused, drawn, laid_out, random
from hypothesis import given
from hypothesis import strategies as st

from byhand import ops
from byhand.errors import SettingsError


def seeded(function, *settings):
    def f(x):
        torch.manual_seed(17)
        return function(x, *settings)

    return f


@drawn
@given(
    shape=st.lists(st.integers(0, 6), min_size=1, max_size=3),
    p=st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    layout=st.sampled_from(LAYOUTS),
)
def test_dropout_draws_torchs_mask_from_the_same_seed(shape, p, dtype, layout):
    x = laid_out(random(*shape, dtype=dtype), layout)
    with torch.random.fork_rng(devices=[]):
        assert_agree(seeded(ops.dropout, p), seeded(F.dropout, p), x, tolerance=1e-6)
        after = torch.get_rng_state()
        seeded(F.dropout, p)(x.clone().requires_grad_())
        assert torch.equal(torch.get_rng_state(), after)  # the next draw is the same too


def test_dropout_gradients_match_finite_differences():
    with torch.random.fork_rng(devices=[]):
        assert_agree(seeded(ops.dropout, 0.3), seeded(F.dropout, 0.3), random(4, 5), finite_differences=True)


def test_dropout_keeps_the_mean_and_drops_the_share_p():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        y = ops.dropout(torch.ones(200_000, dtype=torch.float64), 0.3)
    kept = (y != 0).double().mean().item()
    deviation = math.sqrt(0.3 * 0.7 / 200_000)
    assert abs(kept - 0.7) < 5 * deviation
    assert abs(y.mean().item() - 1) < 5 * deviation / 0.7
    assert set(y.unique().tolist()) == {0.0, 1 / 0.7}


def test_dropout_is_the_identity_in_evaluation_and_at_p_zero_and_draws_nothing():
    x = random(4, 5)
    before = torch.get_rng_state()
    assert torch.equal(ops.dropout(x, 0.5, training=False), x)
    assert torch.equal(ops.dropout(x, 0.0), x)
    assert torch.equal(torch.get_rng_state(), before)


def test_dropout_with_p_one_leaves_nothing_and_gives_no_gradient():
    x = random(4, 5).requires_grad_()
    y = ops.dropout(x, 1.0)
    y.sum().backward()
    assert not y.any()
    assert not x.grad.any()


@pytest.mark.parametrize("p", [-0.1, 1.5, math.nan])
def test_dropout_refuses_a_probability_outside_zero_to_one(p):
    assert_refused(SettingsError, lambda: ops.dropout(torch.zeros(3), p), p)
    assert_refused(SettingsError, lambda: ops.dropout(torch.zeros(3), p, training=False), p)


@drawn
@given(shape=st.lists(st.integers(0, 4), max_size=3))
def test_the_l2_penalty_is_half_the_squared_norm_and_its_gradient_the_weight(shape):
    assert_agree(ops.l2_penalty, lambda w: w.pow(2).sum() / 2, random(*shape))
    w = random(*shape).requires_grad_()
    ops.l2_penalty(w).backward()
    assert torch.equal(w.grad, w.detach())


def test_the_penalty_decays_a_weight_as_the_optimizers_weight_decay_does():
    ours, theirs = (random(3, 2).requires_grad_() for _ in range(2))
    (0.01 * ops.l2_penalty(ours)).backward()
    ours.data -= 0.5 * ours.grad
    theirs.grad = torch.zeros_like(theirs)
    torch.optim.SGD([theirs], lr=0.5, weight_decay=0.01).step()
    torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=0)
