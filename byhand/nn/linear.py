"""The fully connected layer."""

import math

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from byhand import ops
from byhand.nn import init


class Linear(Module):
    """y = x Wᵀ + b over the last axis, (..., in_features) -> (..., out_features).

    As torch.nn.Linear: ``weight`` (out, in) and ``bias`` (out,), both drawn from U(−k, k), k = 1/√in_features.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, device=None, dtype=None) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = Parameter(torch.empty(out_features, in_features, device=device, dtype=dtype))
        self.bias: Parameter | None
        self.register_parameter(
            "bias", Parameter(torch.empty(out_features, device=device, dtype=dtype)) if bias else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        reset_uniform(self.weight, self.bias)

    def forward(self, input: Tensor) -> Tensor:
        return ops.linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def reset_uniform(weight: Tensor, bias: Tensor | None) -> None:
    """Draw a weight and its bias from U(−k, k), k = 1/√fan_in; torch writes it as Kaiming's bound with slope √5."""
    init.kaiming_uniform_(weight, a=math.sqrt(5))
    if bias is not None:
        fan_in, _ = init.fans(weight)
        bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
        init.uniform_(bias, -bound, bound)
