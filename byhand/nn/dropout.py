"""Dropout as a layer."""

from torch import Tensor
from torch.nn import Module

from byhand import ops
from byhand.errors import SettingsError


class Dropout(Module):
    """While training, sets each element to 0 with probability ``p`` and divides the rest by 1 − p."""

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise SettingsError(f"dropout probability has to be between 0 and 1, but got {p}")
        self.p, self.inplace = p, inplace

    def forward(self, input: Tensor) -> Tensor:
        return ops.dropout(input, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"
