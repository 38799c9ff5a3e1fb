"""Stochastic depth as a layer, in both hands; torch.nn has none, torchvision.ops does."""

import torch
from torch import Tensor
from torch.nn import Module

from byhand import ops
from byhand.errors import SettingsError
from byhand.ops.stochastic_depth import MODES


class StochasticDepth(Module):
    """While training, sets a residual branch to 0 with probability ``p`` and divides it by 1 − p otherwise.

    ``mode`` is "row", each example for itself, or "batch", all of them together. Arguments and text as those of
    torchvision.ops.StochasticDepth.

    Raises SettingsError where p lies outside 0..1, and for another mode. Source: Huang et al. (2016), section 3.
    """

    def __init__(self, p: float, mode: str) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise SettingsError(f"drop probability has to be between 0 and 1, but got p={p}")
        if mode not in MODES:
            raise SettingsError(f"mode={mode!r} must be one of {', '.join(MODES)}")
        self.p, self.mode = p, mode

    def forward(self, input: Tensor) -> Tensor:
        return ops.stochastic_depth(input, self.p, self.mode, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}, mode={self.mode}"


class LibraryStochasticDepth(Module):
    """The same layer from torch's own pieces, with autograd's gradient."""

    def __init__(self, p: float, mode: str) -> None:
        super().__init__()
        twin = StochasticDepth(p, mode)
        self.p, self.mode = twin.p, twin.mode

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return input
        shape = [1 if i or self.mode == "batch" else size for i, size in enumerate(input.shape)]
        noise = torch.empty(shape, dtype=input.dtype, device=input.device).bernoulli_(1 - self.p)
        return input * (noise if self.p == 1 else noise / (1 - self.p))

    extra_repr = StochasticDepth.extra_repr
