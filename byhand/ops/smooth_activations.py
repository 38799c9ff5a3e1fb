"""Activations of the mobile networks and after: clipped lines, and gates x · g(x) that are smooth or nearly so."""

import math

import torch
from torch import Tensor

from byhand.errors import SettingsError
from byhand.ops.precision import wide
from byhand.ops.tape import operation


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """min(max(x, min_val), max_val), any shape; the slope is 1 strictly between the two and 0 elsewhere, as in torch.

    Raises SettingsError where ``min_val`` is larger than ``max_val``.
    """
    if min_val > max_val:
        raise SettingsError(f"min_val={min_val} must not be larger than max_val={max_val}; exchange them")
    return _hardtanh(input, min_val, max_val)


def relu6(input: Tensor) -> Tensor:
    """min(max(x, 0), 6), any shape; the slope at 0 and at 6 is 0, as in torch. A NaN stays a NaN.

    Bounded, so that numbers of few bits hold it. Source: Howard et al., MobileNets (2017), in the authors' own code;
    Sandler et al., MobileNetV2 (2018), section 3.
    """
    return _hardtanh(input, 0.0, 6.0)


def hardtanh_forward(x: Tensor, low: float, high: float):
    y = x.clamp(low, high)
    return y, (y, low, high)


def hardtanh_backward(needed, grad: Tensor, y: Tensor, low: float, high: float):
    if _takes_numbers(grad):
        gate = torch.ne(y, low, out=torch.empty_like(y)).mul_(grad)
        return gate.mul_(torch.ne(y, high, out=torch.empty_like(y))), None, None
    return torch.where((y <= low) | (y >= high), 0, grad), None, None


_hardtanh = operation(hardtanh_forward, hardtanh_backward)


# Torch multiplies the gradient by 1/6 rounded to float32, in float64 too: 3e-8 more than a sixth. So do we, as the two
# hands are compared to 1e-9.
SIXTH = 0.16666667163372040


def hardsigmoid(input: Tensor) -> Tensor:
    """min(max(x + 3, 0), 6) / 6, any shape; the slope is 1/6 strictly between −3 and 3 and 0 elsewhere, as in torch.

    The sigmoid of three straight lines. Source: Howard et al., Searching for MobileNetV3 (2019), section 5.2.
    """
    return _hardsigmoid(input)


def hardsigmoid_forward(x: Tensor):
    return (x + 3).clamp_(0, 6).div_(6), (x,)


def hardsigmoid_backward(needed, grad: Tensor, x: Tensor):
    # From x, not from the output: just below 3 the output has rounded to 1 already.
    if _takes_numbers(grad):
        return (x.abs().lt_(3).mul_(grad).mul_(SIXTH),)
    return (torch.where(x.abs() < 3, grad * SIXTH, 0),)


_hardsigmoid = operation(hardsigmoid_forward, hardsigmoid_backward)


def hardswish(input: Tensor) -> Tensor:
    """x · min(max(x + 3, 0), 6) / 6, any shape; the slope is 0 up to −3, x/3 + 1/2 in between, 1 from 3 on.

    The slope jumps at both ends; at −3 and 3 themselves it is that of the straight side, as in torch since 2.8.
    Source: Howard et al., Searching for MobileNetV3 (2019), section 5.2.
    """
    return _hardswish(input)


def hardswish_forward(x: Tensor):
    return (x + 3).clamp_(0, 6).mul_(x).div_(6), (x,)


def hardswish_backward(needed, grad: Tensor, x: Tensor):
    if _takes_numbers(grad):
        # x/3 + 1/2 at the ends is −1/2 and 3/2: half too little, and half too much.
        slope, beyond = x.clamp(-3, 3).div_(3).add_(0.5), torch.empty_like(x)
        slope.add_(torch.le(x, -3, out=beyond), alpha=0.5)
        return (slope.sub_(torch.ge(x, 3, out=beyond), alpha=0.5).mul_(grad),)
    between = torch.where(x >= 3, grad, grad * (x / 3 + 0.5))
    return (torch.where(x <= -3, 0, between),)


_hardswish = operation(hardswish_forward, hardswish_backward)


def silu(input: Tensor) -> Tensor:
    """x σ(x), any shape; the slope is σ (1 + x (1 − σ)). Also named Swish.

    Source: Hendrycks & Gimpel, Gaussian Error Linear Units (2016), section 2; Elfwing et al., Sigmoid-Weighted Linear
    Units for Neural Network Function Approximation in Reinforcement Learning (2018), equations 5 and 6.
    """
    return _silu(input)


def silu_forward(x: Tensor):
    exact = x.to(wide(x))
    gate = _logistic(exact)
    return (exact * gate).to(x.dtype), (x, gate)


def silu_backward(needed, grad: Tensor, x: Tensor, gate: Tensor):
    return ((1 - gate).mul_(x).add_(1).mul_(gate).mul_(grad).to(grad.dtype),)


_silu = operation(silu_forward, silu_backward)


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """x Φ(x), any shape, Φ the distribution function of the standard normal; the slope is Φ(x) + x φ(x).

    ``approximate="tanh"`` is x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2, within 5e-4 of it.

    Raises SettingsError for another approximation.
    Source: Hendrycks & Gimpel, Gaussian Error Linear Units (2016), section 2.
    """
    if approximate not in ("none", "tanh"):
        raise SettingsError(f"approximate={approximate!r} must be 'none' or 'tanh'")
    return _gelu(input) if approximate == "none" else _gelu_tanh(input)


def gelu_forward(x: Tensor):
    exact = x.to(wide(x))
    share = normal_distribution(exact)
    return (exact * share).to(x.dtype), (x, share)


def gelu_backward(needed, grad: Tensor, x: Tensor, share: Tensor):
    exact = x.to(wide(x))
    density = (exact * exact).mul_(-0.5).exp_().mul_(1 / math.sqrt(2 * math.pi))
    return (density.mul_(exact).add_(share).mul_(grad).to(grad.dtype),)


_gelu = operation(gelu_forward, gelu_backward)

# (1 + tanh u) / 2 = σ(2u), and 2u = x (SLOPE + CUBE x²).
SLOPE = 2 * math.sqrt(2 / math.pi)
CUBE = 0.044715 * SLOPE


def gelu_tanh_forward(x: Tensor):
    exact = x.to(wide(x))
    gate = _logistic((exact * exact).mul_(CUBE).add_(SLOPE).mul_(exact))
    return (exact * gate).to(x.dtype), (x, gate)


def gelu_tanh_backward(needed, grad: Tensor, x: Tensor, gate: Tensor):
    exact = x.to(wide(x))
    inner = (exact * exact).mul_(3 * CUBE).add_(SLOPE).mul_(exact)
    return ((1 - gate).mul_(inner).add_(1).mul_(gate).mul_(grad).to(grad.dtype),)


_gelu_tanh = operation(gelu_tanh_forward, gelu_tanh_backward)

# Rational approximations, the highest power first: erf(s) = s ERF(s²) for |s| ≤ 0.46875, and beyond that up to 4
# erfc(z) = exp(−z²) ERFC(z), each to sixteen digits. Source: Cody, Rational Chebyshev Approximations for the Error
# Function (1969), as in his CALERF.
NEAR = 0.46875
ERF = (
    (1.85777706184603153e-1, 3.16112374387056560, 1.13864154151050156e2, 3.77485237685302021e2, 3.20937758913846947e3),
    (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3),
)
ERFC = (
    (
        2.15311535474403846e-8,
        5.64188496988670089e-1,
        8.88314979438837594,
        6.61191906371416295e1,
        2.98635138197400131e2,
        8.81952221241769090e2,
        1.71204761263407058e3,
        2.05107837782607147e3,
        1.23033935479799725e3,
    ),
    (
        1.0,
        1.57449261107098347e1,
        1.17693950891312499e2,
        5.37181101862009858e2,
        1.62138957456669019e3,
        3.29079923573345963e3,
        4.36261909014324716e3,
        3.43936767414372164e3,
        1.23033935480374942e3,
    ),
)


def normal_distribution(x: Tensor) -> Tensor:
    """Φ(x) = (1 + erf(x/√2)) / 2, any shape: the share of the standard normal distribution below x."""
    s = x * math.sqrt(0.5)
    z = s.abs()
    # Beyond 4 the quotient is a little off, but of a tail of 1e-8 and less; at 10 exp() has made an end of it.
    beyond = (z * z).neg_().exp_().mul_(_quotient(z.clamp(max=10), ERFC)).mul_(0.5)  # the share beyond |x|
    near = _quotient(s * s, ERF).mul_(s).mul_(0.5).add_(0.5)
    return torch.where(z <= NEAR, near, torch.where(s < 0, beyond, 1 - beyond))


def _quotient(x: Tensor, coefficients: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
    """One polynomial over another, both by Horner's rule."""
    numerator, denominator = (torch.full_like(x, powers[0]) for powers in coefficients)
    for above, below in zip(coefficients[0][1:], coefficients[1][1:], strict=True):
        numerator.mul_(x).add_(above)
        denominator.mul_(x).add_(below)
    return numerator.div_(denominator)


def _logistic(x: Tensor) -> Tensor:
    """1 / (1 + e⁻ˣ). Where e⁻ˣ overflows to infinity the quotient is the 0 that it should be."""
    return x.neg().exp_().add_(1).reciprocal_()


def _takes_numbers(grad: Tensor) -> bool:
    """Whether a gate may be multiplied with, as 1 or 0, which a CPU does much sooner than it chooses by a mask.

    Not where a gradient is infinite: times a closed gate it would be NaN.
    """
    return grad.device.type == "cpu" and math.isfinite(float(grad.sum()))
