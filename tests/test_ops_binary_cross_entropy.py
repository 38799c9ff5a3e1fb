"""Binary cross-entropy from logits against torch's, and at logits whose exp would overflow."""

import pytest
import torch
import torch.nn.functional as F
from against_torch import assert_agree, assert_refused, random

from byhand import ops
from byhand.errors import SettingsError, ShapeError
from byhand.nn import functional


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_and_both_gradients_are_torchs(reduction, dtype):
    z, t = random(3, 4, dtype=dtype), random(3, 4, dtype=dtype, seed=1).sigmoid()
    assert_agree(
        lambda z, t: functional.binary_cross_entropy_with_logits(z, t, reduction=reduction),
        lambda z, t: F.binary_cross_entropy_with_logits(z, t, reduction=reduction),
        z,
        t,
        finite_differences=dtype == torch.float64,
    )


def test_large_logits_neither_overflow_nor_lose_their_gradient():
    z = torch.tensor([1000.0, -1000.0, 1000.0, -1000.0], requires_grad=True)
    loss = ops.binary_cross_entropy_with_logits(z, torch.tensor([1.0, 0.0, 0.0, 1.0]), reduction="none")
    assert loss.tolist() == [0, 0, 1000, 1000]
    loss.sum().backward()
    assert z.grad.tolist() == [0, 0, 1, -1]


def test_what_has_no_formula_and_what_does_not_fit_is_refused():
    x = torch.zeros(2)
    loss = ops.binary_cross_entropy_with_logits
    assert_refused(SettingsError, lambda: loss(x, x, weight=x), "weight=", "multiply")
    assert_refused(SettingsError, lambda: loss(x, x, pos_weight=x), "pos_weight=", "multiply")
    assert_refused(ShapeError, lambda: loss(x, torch.zeros(2, 1)), (2,), (2, 1))
