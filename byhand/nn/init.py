"""torch.nn.init's names, by hand: each fills a tensor in place and gives it back.

Random values are drawn by the tensor's own uniform_ and normal_, so the same seed gives the same weights as torch's.
"""

import math
import warnings

import torch
from torch import Generator, Tensor

from byhand.errors import SettingsError, ShapeError

_GAINS = {
    "linear": 1.0,
    "conv1d": 1.0,
    "conv2d": 1.0,
    "conv3d": 1.0,
    "conv_transpose1d": 1.0,
    "conv_transpose2d": 1.0,
    "conv_transpose3d": 1.0,
    "sigmoid": 1.0,
    "tanh": 5 / 3,
    "relu": math.sqrt(2),
    "selu": 3 / 4,  # found by trial (pytorch/pytorch pull request 50664)
}


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor by which a layer's weights must be larger so that its activation keeps the variance.

    1 for linear layers and the sigmoid, 5/3 for tanh, √2 for ReLU, √(2 / (1 + a²)) for leaky ReLU with negative slope
    a = `param` (0.01 unless given), 3/4 for SELU.

    Raises SettingsError for another nonlinearity, and for a slope that is not a number.
    Source: He et al. (2015), Delving Deep into Rectifiers, eqs. 10 and 15; the other values are torch's.
    """
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else param
        if isinstance(slope, bool) or not isinstance(slope, int | float):
            raise SettingsError(f"param={param!r} must be a number, the negative slope of the leaky ReLU")
        return math.sqrt(2 / (1 + slope**2))
    if nonlinearity not in _GAINS:
        raise SettingsError(f"nonlinearity={nonlinearity!r} has no known gain; known: leaky_relu, {', '.join(_GAINS)}")
    return _GAINS[nonlinearity]


def fans(weight: Tensor) -> tuple[int, int]:
    """(fan_in, fan_out): how many inputs meet in one output, and how many outputs one input reaches.

    (out, in) of a linear layer gives (in, out); (out, in, kh, kw) of a convolution gives (in·kh·kw, out·kh·kw), where
    `in` counts the channels of one group.

    Raises ShapeError for a tensor of fewer than two dimensions.
    """
    if weight.dim() < 2:
        raise ShapeError(
            f"a tensor of shape {tuple(weight.shape)} has no fan in and fan out; give a weight (out, in, ...) "
            "of at least 2 dimensions"
        )
    num_out, num_in, *kernel = weight.shape
    return num_in * math.prod(kernel), num_out * math.prod(kernel)


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Generator | None = None) -> Tensor:
    """`tensor`, filled from the uniform distribution over [a, b)."""
    with torch.no_grad():
        return tensor.uniform_(a, b, generator=generator)


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None) -> Tensor:
    """`tensor`, filled from the normal distribution with this mean and standard deviation."""
    with torch.no_grad():
        return tensor.normal_(mean, std, generator=generator)


def constant_(tensor: Tensor, val: float) -> Tensor:
    """`tensor`, filled with `val`."""
    with torch.no_grad():
        return tensor.fill_(val)


def ones_(tensor: Tensor) -> Tensor:
    """`tensor`, filled with 1."""
    return constant_(tensor, 1.0)


def zeros_(tensor: Tensor) -> Tensor:
    """`tensor`, filled with 0."""
    return constant_(tensor, 0.0)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """`tensor`, filled from U(−a, a) with a = gain · √(6 / (fan_in + fan_out)).

    Variance gain² · 2 / (fan_in + fan_out): between what keeps the forward and the backward signal.
    Source: Glorot & Bengio (2010), Understanding the difficulty of training deep feedforward neural networks, eq. 16.
    """
    bound = math.sqrt(3) * _xavier_std(tensor, gain)  # U(−a, a) has the standard deviation a / √3
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """`tensor`, filled from N(0, std²) with std = gain · √(2 / (fan_in + fan_out)).

    Source: Glorot & Bengio (2010), eq. 12; they draw from the uniform distribution of eq. 16, of the same variance.
    """
    return normal_(tensor, 0.0, _xavier_std(tensor, gain), generator)


def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """`tensor`, filled from U(−bound, bound) with bound = gain · √(3 / fan).

    `a` is the negative slope of a leaky ReLU, `mode` the fan: "fan_in" keeps the variance of the forward signal (eq.
    10), "fan_out" that of the gradients (eq. 14). An empty tensor comes back as it is, with a warning. Source: He et
    al. (2015), Delving Deep into Rectifiers, section 2.2, where the distribution is normal.
    """
    if _is_empty(tensor):
        return tensor
    bound = math.sqrt(3) * _kaiming_std(tensor, a, mode, nonlinearity)  # U(−a, a) has the standard deviation a / √3
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """`tensor`, filled from N(0, std²) with std = gain / √fan; arguments as of `kaiming_uniform_`.

    Source: He et al. (2015), Delving Deep into Rectifiers, eq. 10 ("fan_in": fan · std² / 2 = 1 for ReLU), eq. 14
    ("fan_out").
    """
    if _is_empty(tensor):
        return tensor
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity), generator)


def _xavier_std(tensor: Tensor, gain: float) -> float:
    return gain * math.sqrt(2 / sum(fans(tensor)))


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode.lower() not in ("fan_in", "fan_out"):
        raise SettingsError(f"mode={mode!r} must be 'fan_in' or 'fan_out'")
    fan_in, fan_out = fans(tensor)
    return calculate_gain(nonlinearity, a) / math.sqrt(fan_in if mode.lower() == "fan_in" else fan_out)


def _is_empty(tensor: Tensor) -> bool:
    if tensor.numel() > 0:
        return False
    warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=3)
    return True
