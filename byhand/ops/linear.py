"""The fully connected layer: an affine map of the last axis."""

from torch import Tensor

from byhand.errors import ShapeError
from byhand.ops.tape import operation


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """y = x Wᵀ + b over the last axis, (..., in) -> (..., out).

    ``weight`` is (out, in), ``bias`` (out,). With g = ∂L/∂y, summed over all leading axes:
    ∂L/∂x = g W, ∂L/∂W = gᵀ x, ∂L/∂b = Σ g (Dive into Deep Learning, section 3.1).

    Raises ShapeError where the last axis of the input is not ``in``, or the bias is not ``out`` long.
    """
    if weight.ndim != 2:
        raise ShapeError(f"weight has shape {tuple(weight.shape)}; a linear layer takes (out_features, in_features)")
    if input.ndim == 0 or input.shape[-1] != weight.shape[1]:
        raise ShapeError(
            f"input has shape {tuple(input.shape)}, but a weight of shape {tuple(weight.shape)} takes "
            f"{weight.shape[1]} features on the last axis; flatten or transpose the input first"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ShapeError(
            f"bias has shape {tuple(bias.shape)}; a weight of {tuple(weight.shape)} takes ({len(weight)},)"
        )
    return _linear(input, weight, bias)


def linear_forward(x: Tensor, weight: Tensor, bias: Tensor | None):
    y = _rows(x) @ weight.T  # leading axes folded: one matrix product
    if bias is not None:
        y += bias
    return y if x.ndim == 2 else y.view(*x.shape[:-1], len(weight)), (x, weight)


def linear_backward(needed, grad: Tensor, x: Tensor, weight: Tensor):
    g = _rows(grad)
    return (
        (g @ weight).view(x.shape) if needed[0] else None,
        g.T @ _rows(x) if needed[1] else None,
        g.sum(0) if needed[2] else None,
    )


_linear = operation(linear_forward, linear_backward)


def _rows(x: Tensor) -> Tensor:
    if x.ndim == 2:
        return x
    return x.reshape(x.shape[:-1].numel(), x.shape[-1])  # a count, not −1: one axis may be empty
