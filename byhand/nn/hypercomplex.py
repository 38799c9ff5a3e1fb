"""The parametrised hypercomplex layer, in both hands; torch has none."""

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from byhand import ops
from byhand.errors import SettingsError
from byhand.nn import init


class PHMLinear(Module):
    """A linear layer of d·q/n + n³ weights in place of d·q: y = x Wᵀ + b, W = Σᵢ Aᵢ ⊗ Sᵢ, (..., d) -> (..., q).

    ``rules`` A are n matrices of n × n, ``blocks`` S n matrices of q/n × d/n; n divides d and q. W is drawn from
    U(−1/√d, 1/√d) at the start: rule i begins as a shift by i places, so that each block of W is one of the S and the
    layer starts as spread as a full one.

    Raises SettingsError where n does not divide both. Source: Zhang et al. (2021), section 3.1.
    """

    def __init__(self, in_features: int, out_features: int, n: int, bias: bool = True, device=None, dtype=None) -> None:
        super().__init__()
        if n < 1 or in_features % n or out_features % n:
            raise SettingsError(f"n={n} must divide in_features={in_features} and out_features={out_features}")
        self.in_features, self.out_features, self.n = in_features, out_features, n
        self.rules = Parameter(torch.empty(n, n, n, device=device, dtype=dtype))
        self.blocks = Parameter(torch.empty(n, out_features // n, in_features // n, device=device, dtype=dtype))
        self.bias: Parameter | None
        self.register_parameter(
            "bias", Parameter(torch.empty(out_features, device=device, dtype=dtype)) if bias else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        with torch.no_grad():
            eye = torch.eye(self.n, device=self.rules.device, dtype=self.rules.dtype)
            self.rules.copy_(torch.stack([eye.roll(i, 1) for i in range(self.n)]))
        bound = self.in_features**-0.5
        init.uniform_(self.blocks, -bound, bound)
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor) -> Tensor:
        return ops.linear(input, ops.hypercomplex_weight(self.rules, self.blocks), self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, n={self.n}"


class LibraryPHMLinear(Module):
    """The same layer from torch's own pieces: torch.kron, a matrix product, and autograd's gradients."""

    def __init__(self, in_features: int, out_features: int, n: int, bias: bool = True, device=None, dtype=None) -> None:
        super().__init__()
        twin = PHMLinear(in_features, out_features, n, bias, device, dtype)
        self.in_features, self.out_features, self.n = in_features, out_features, n
        self.rules, self.blocks = twin.rules, twin.blocks
        self.bias: Parameter | None
        self.register_parameter("bias", twin.bias)

    def forward(self, input: Tensor) -> Tensor:
        weight = torch.stack([torch.kron(A, S) for A, S in zip(self.rules, self.blocks, strict=True)]).sum(0)
        y = input @ weight.T
        return y if self.bias is None else y + self.bias

    extra_repr = PHMLinear.extra_repr
