"""From maps to vectors, as a layer."""

from torch import Tensor
from torch.nn import Module

from byhand import ops


class Flatten(Module):
    """The axes from ``start_dim`` to ``end_dim`` as one, (B, C, H, W) -> (B, C·H·W)."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, input: Tensor) -> Tensor:
        return ops.flatten(input, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"
