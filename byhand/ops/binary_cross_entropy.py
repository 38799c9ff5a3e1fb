"""Cross-entropy of yes and no, from logits: an object or none, a pixel inside of it or not."""

import torch
from torch import Tensor

from byhand.errors import SettingsError, ShapeError
from byhand.ops.losses import reduce
from byhand.ops.tape import operation


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """l = −t log σ(z) − (1 − t) log(1 − σ(z)) of logits z and targets t in 0..1 of the same shape, its mean by default.

    Computed as max(z, 0) − z t + log(1 + exp(−|z|)), in which no exp can overflow; **∂l/∂z = σ(z) − t**, ∂l/∂t = −z.

    Raises ShapeError for shapes that differ, SettingsError for weights, which have no formula here.
    """
    if weight is not None or pos_weight is not None:
        raise SettingsError(
            "weight= and pos_weight= of binary cross-entropy have no twin by hand; multiply the losses of "
            "reduction='none'"
        )
    if input.shape != target.shape:
        raise ShapeError(f"logits {tuple(input.shape)} and targets {tuple(target.shape)} must have one shape")
    return reduce(_binary_cross_entropy(input, target), reduction)


def binary_cross_entropy_forward(z: Tensor, t: Tensor):
    e = torch.exp(-z.abs())
    return z.clamp(min=0) - z * t + (1 + e).log(), (z, t, e)


def binary_cross_entropy_backward(needed, grad: Tensor, z: Tensor, t: Tensor, e: Tensor):
    sigma = torch.where(z >= 0, 1, e) / (1 + e)
    return grad * (sigma - t) if needed[0] else None, -grad * z if needed[1] else None


_binary_cross_entropy = operation(binary_cross_entropy_forward, binary_cross_entropy_backward)
