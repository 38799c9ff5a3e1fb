"""Stochastic depth by hand, against the formula written out and against its library twin."""

import math

import pytest
import torch
from against_torch import LAYOUTS, assert_agree, assert_refused, drawn, laid_out, random
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from byhand import nn as hand_nn
from byhand import ops, prove
from byhand.errors import SettingsError
from byhand.nn import by_hand, by_library
from byhand.nn.stochastic_depth import LibraryStochasticDepth
from byhand.ops.layout import batch_innermost


@pytest.fixture(autouse=True)
def _own_seed():
    with torch.random.fork_rng(devices=[]):
        yield


def seeded(function):
    def f(x):
        torch.manual_seed(23)
        return function(x)

    return f


def direct(p, mode):
    """x · m / (1 − p) with torchvision's draw: an empty tensor, filled by bernoulli_ of what survives."""

    def f(x):
        m = torch.empty([len(x)] + [1] * (x.ndim - 1) if mode == "row" else [1] * x.ndim, dtype=x.dtype)
        m.bernoulli_(1 - p)
        return x * m / (1 - p) if p < 1 else x * m

    return f


@drawn
@given(
    shape=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    p=st.sampled_from([0.1, 0.5, 0.9, 1.0]),
    mode=st.sampled_from(["batch", "row"]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    layout=st.sampled_from(LAYOUTS),
)
def test_both_modes_match_a_direct_computation_from_the_same_generator(shape, p, mode, dtype, layout):
    x = laid_out(random(*shape, dtype=dtype), layout)
    assert_agree(seeded(lambda x: ops.stochastic_depth(x, p, mode)), seeded(direct(p, mode)), x)
    after = torch.get_rng_state()
    seeded(direct(p, mode))(x)
    assert torch.equal(torch.get_rng_state(), after)  # the next draw is the same too


@pytest.mark.parametrize("mode", ["batch", "row"])
def test_gradients_match_finite_differences(mode):
    mine = seeded(lambda x: ops.stochastic_depth(x, 0.4, mode))
    assert_agree(mine, seeded(direct(0.4, mode)), random(5, 2, 3), finite_differences=True)


@pytest.mark.parametrize("mode", ["batch", "row"])
def test_a_batch_with_the_examples_innermost_in_memory_gives_the_same(mode):
    x = batch_innermost(random(16, 3, 4, 5))
    assert_agree(seeded(lambda x: ops.stochastic_depth(x, 0.4, mode)), seeded(direct(0.4, mode)), x)


def test_rows_live_or_die_alone_and_a_batch_together():
    torch.manual_seed(0)
    x = torch.ones(64, 3, 2, dtype=torch.float64)
    rows = ops.stochastic_depth(x, 0.25, "row")
    assert all(len(row.unique()) == 1 for row in rows)
    assert set(rows.unique().tolist()) == {0.0, 1 / 0.75}
    batches = [ops.stochastic_depth(x, 0.25, "batch").unique().tolist() for _ in range(40)]
    assert sorted(map(tuple, {tuple(batch) for batch in batches})) == [(0.0,), (1 / 0.75,)]


@pytest.mark.parametrize("mode", ["batch", "row"])
def test_the_mean_is_kept(mode):
    torch.manual_seed(0)
    draws = 20_000
    if mode == "row":
        mean = ops.stochastic_depth(torch.ones(draws, 1, dtype=torch.float64), 0.3, mode).mean()
    else:
        one = torch.ones(1, dtype=torch.float64)
        mean = torch.stack([ops.stochastic_depth(one, 0.3, mode) for _ in range(draws)]).mean()
    deviation = math.sqrt(0.3 * 0.7 / draws) / 0.7
    assert abs(mean.item() - 1) < 5 * deviation


def test_in_evaluation_and_at_p_zero_it_is_the_identity_and_draws_nothing():
    x = random(4, 5)
    before = torch.get_rng_state()
    assert ops.stochastic_depth(x, 0.5, "row", training=False) is x
    assert ops.stochastic_depth(x, 0.0, "batch") is x
    for kind in (hand_nn.StochasticDepth, LibraryStochasticDepth):
        assert kind(0.5, "row").eval()(x) is x
        assert kind(0.0, "batch")(x) is x
    assert torch.equal(torch.get_rng_state(), before)


def test_with_p_one_nothing_is_left_and_no_gradient():
    for mode in ("batch", "row"):
        x = random(4, 5).requires_grad_()
        ops.stochastic_depth(x, 1.0, mode).sum().backward()
        assert not x.grad.any()


@pytest.mark.parametrize("p", [-0.1, 1.5, math.nan])
def test_a_probability_outside_zero_to_one_is_refused(p):
    for call in (
        lambda: ops.stochastic_depth(torch.zeros(3), p, "row"),
        lambda: ops.stochastic_depth(torch.zeros(3), p, "row", training=False),
        lambda: hand_nn.StochasticDepth(p, "row"),
        lambda: LibraryStochasticDepth(p, "row"),
    ):
        assert_refused(SettingsError, call, p)


def test_another_mode_is_refused():
    for call in (
        lambda: ops.stochastic_depth(torch.zeros(3), 0.5, "column"),
        lambda: hand_nn.StochasticDepth(0.5, "column"),
        lambda: LibraryStochasticDepth(0.5, "column"),
    ):
        assert_refused(SettingsError, call, "column", "row")


class Residual(nn.Module):
    """A block that is passed by at random, with an identity beside it."""

    def __init__(self, p, mode):
        super().__init__()
        self.conv, self.depth = nn.Conv2d(3, 3, 3, padding=1), LibraryStochasticDepth(p, mode)

    def forward(self, x):
        return x + self.depth(self.conv(x))


@pytest.mark.parametrize("mode", ["batch", "row"])
@pytest.mark.parametrize("batch", [5, 16])
def test_a_residual_network_with_it_is_proven(mode, batch):
    torch.manual_seed(0)
    model = nn.Sequential(Residual(0.3, mode), nn.ReLU(), Residual(0.5, mode), nn.Flatten(), nn.Linear(3 * 25, 4))
    proof = prove(model, random(batch, 3, 5, 5))
    assert proof.passed, proof.verdict
    hand = by_hand(model)
    assert type(hand[0].depth) is hand_nn.StochasticDepth
    assert (hand[0].depth.p, hand[0].depth.mode) == (0.3, mode)
    assert type(by_library(hand)[0].depth) is LibraryStochasticDepth


def test_both_hands_introduce_themselves_as_torchvisions_does():
    assert repr(hand_nn.StochasticDepth(0.2, "row")) == "StochasticDepth(p=0.2, mode=row)"
    assert repr(LibraryStochasticDepth(0.2, "row")) == "LibraryStochasticDepth(p=0.2, mode=row)"
