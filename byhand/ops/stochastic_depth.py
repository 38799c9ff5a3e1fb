"""Stochastic depth: while training, a residual branch is left out at random."""

import torch
from torch import Tensor

from byhand.errors import SettingsError
from byhand.ops.tape import operation

MODES = ("batch", "row")


def stochastic_depth(input: Tensor, p: float, mode: str, training: bool = True) -> Tensor:
    """x · m / (1 − p), m being 0 with probability p, else 1; in evaluation x itself. Any shape, the batch first.

    ``mode="row"`` draws one m for each example, ``"batch"`` one for all of them. What is multiplied is the output of a
    residual branch, so that an example whose m is 0 passes by the block on its identity. The draws come from torch's
    default generator in the way of torchvision's ``stochastic_depth``: one seed, one m in both hands.

    Raises SettingsError where p lies outside 0..1, and for another mode. Source: Huang et al., Deep Networks with
    Stochastic Depth (2016), equations 2 and 5; they multiply by 1 − p in evaluation, where torchvision divides while
    training, which keeps the mean and leaves evaluation alone.
    """
    if not 0 <= p <= 1:
        raise SettingsError(f"drop probability has to be between 0 and 1, but got p={p}")
    if mode not in MODES:
        raise SettingsError(f"mode={mode!r} must be 'batch' (one draw for all) or 'row' (one for each example)")
    if not training or p == 0:
        return input
    return _stochastic_depth(input, p, mode)


def stochastic_depth_forward(x: Tensor, p: float, mode: str):
    shape = [len(x) if mode == "row" else 1] + [1] * (x.ndim - 1) if x.ndim else []
    scale = torch.empty(shape, dtype=x.dtype, device=x.device).bernoulli_(1 - p)
    if p < 1:
        scale.div_(1 - p)
    return x * scale, (scale,)


def stochastic_depth_backward(needed, grad: Tensor, scale: Tensor):
    return grad * scale, None, None


_stochastic_depth = operation(stochastic_depth_forward, stochastic_depth_backward)
