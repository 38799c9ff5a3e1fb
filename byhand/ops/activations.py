"""Elementwise non-linearities; Dive into Deep Learning, section 4.1."""

import math

import torch
from torch import Tensor

from byhand.ops.tape import operation


def sigmoid(input: Tensor) -> Tensor:
    """σ(x) = 1 / (1 + e⁻ˣ), any shape; σ′ = σ (1 − σ)."""
    return _sigmoid(input)


def sigmoid_forward(x: Tensor):
    e = torch.exp(-x.abs())  # never above 1, so neither tail overflows
    y = torch.where(x >= 0, 1 / (1 + e), e / (1 + e))
    return y, (y,)


def sigmoid_backward(needed, grad: Tensor, y: Tensor):
    return (grad * y * (1 - y),)


_sigmoid = operation(sigmoid_forward, sigmoid_backward)


def tanh(input: Tensor) -> Tensor:
    """tanh x = (eˣ − e⁻ˣ) / (eˣ + e⁻ˣ), any shape; tanh′ = 1 − tanh²."""
    return _tanh(input)


def tanh_forward(x: Tensor):
    # With t = e^(−2|x|) − 1, tanh |x| = −t / (t + 2): no overflow, and no digits lost where x is near 0.
    t = torch.expm1(-2 * x.abs())
    y = torch.sign(x) * (-t / (t + 2))
    return y, (y,)


def tanh_backward(needed, grad: Tensor, y: Tensor):
    return (grad * (1 - y * y),)


_tanh = operation(tanh_forward, tanh_backward)


def relu(input: Tensor) -> Tensor:
    """max(x, 0), any shape; the slope at 0 is 0, as in torch. A NaN stays a NaN."""
    return _relu(input)


def relu_forward(x: Tensor):
    y = x.clamp(min=0)
    return y, (y,)


def relu_backward(needed, grad: Tensor, y: Tensor):
    return (gate_(y, grad),)


def gate_(y: Tensor, grad: Tensor) -> Tensor:
    """The gradient where the ReLU's output is not 0, else 0, as a new tensor; ``grad`` may have to be broadcast."""
    if grad.device.type == "cpu" and math.isfinite(float(grad.sum())):
        # The gate as numbers, 1 or 0: choosing by a mask takes ten times as long. A NaN leaves it open, as in torch.
        return torch.ne(y, 0, out=torch.empty_like(y)).mul_(grad)
    # Chosen, not multiplied: an infinite gradient times a closed gate would be NaN.
    return torch.where(y <= 0, 0, grad)


_relu = operation(relu_forward, relu_backward)


def leaky_relu(input: Tensor, negative_slope: float = 0.01) -> Tensor:
    """x where x > 0, else ``negative_slope`` · x, any shape (Maas et al. 2013)."""
    return _leaky_relu(input, negative_slope)


def leaky_relu_forward(x: Tensor, negative_slope: float):
    return torch.where(x > 0, x, x * negative_slope), (x, negative_slope)


def leaky_relu_backward(needed, grad: Tensor, x: Tensor, negative_slope: float):
    return torch.where(x > 0, grad, grad * negative_slope), None


_leaky_relu = operation(leaky_relu_forward, leaky_relu_backward)
