"""Normalisation: activations brought to mean 0 and deviation 1, or damped by their neighbours' squares.

One formula serves the first three; they differ in the axes S over which mean μ and biased variance σ² are taken:

    x̂ = (x − μ) / √(σ² + ε),   y = γ x̂ + β,
    ∂L/∂x = (h − mean_S h − x̂ mean_S (h x̂)) / √(σ² + ε)   with h = γ g, g = ∂L/∂y,
    ∂L/∂γ = Σ g x̂,   ∂L/∂β = Σ g.

The two means in ∂L/∂x are what comes back through μ and σ²; where those are constants (batch normalisation in
evaluation) they are missing. Statistics of float16 and bfloat16 are taken in float32.
"""

import math
from collections.abc import Iterable, Sequence
from numbers import Integral

import torch
from torch import Tensor

from byhand.errors import SettingsError, ShapeError
from byhand.ops.layout import batch_innermost, is_batch_innermost
from byhand.ops.precision import wide
from byhand.ops.tape import operation

BLOCK = 1 << 18  # numbers that go through at once: 1 MB of float32, which the next pass finds in the cache


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """y = γ (x − μ) / √(σ² + ε) + β channel by channel, (B, C, ...) -> the same; S is all axes but the channels'.

    In training μ and σ² are those of the batch, σ² divided by the count n, and the running ones move in place:
    running ← (1 − momentum) · running + momentum · batch, there with σ² divided by n − 1. In evaluation the running
    ones are taken, as constants. This is torch's convention for ``momentum``; the paper leaves the average open.
    ``weight`` γ, ``bias`` β and the running statistics are (C,). The layout in memory stays (``byhand.ops.layout``).

    Raises ShapeError where a shape does not fit or a channel has a single value in training, SettingsError for an
    ``eps`` out of range or an evaluation without running statistics. Source: Ioffe & Szegedy (2015), Batch
    Normalization, algorithm 1 and its gradients in section 3, algorithm 2 for evaluation.
    """
    if input.ndim < 2:
        raise ShapeError(f"input has shape {tuple(input.shape)}; batch normalisation takes (B, C) or (B, C, ...)")
    given = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    _check_channels(input, given)
    if eps < 0 or (training and eps == 0):
        raise SettingsError(f"eps={eps} must be above 0 in training, and not below 0 in evaluation; torch takes 1e-05")
    if training:
        count = len(input) * input.shape[2:].numel()
        if count == 1:
            raise ShapeError(
                f"input {tuple(input.shape)} has one value a channel, which has no variance to train with; use a batch "
                "of at least 2, a larger image, or eval()"
            )
        mean, var = _statistics(input.detach())
        if count:
            _track(running_mean, mean, momentum)
            _track(running_var, var * (count / (count - 1)), momentum)
    elif running_mean is None or running_var is None:
        missing = "running_mean" if running_mean is None else "running_var"
        raise SettingsError(
            f"{missing}=None, but evaluation needs both running statistics; give them, or take those of the batch by "
            "training=True"
        )
    else:
        mean, var = running_mean.detach(), running_var.detach()
    return _batch_norm(input, weight, bias, mean, var, training, eps)


def batch_norm_forward(x: Tensor, weight, bias, mean: Tensor, var: Tensor, training: bool, eps: float):
    # As y = x · scale + shift it takes one pass; what that loses where |μ| is far above σ, torch loses too.
    dtype, turned = wide(x), _is_turned(x)
    mean, inverse = mean.to(dtype), 1 / (var.to(dtype) + eps).sqrt()
    scale = inverse if weight is None else inverse * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    images = _by_channel(x, turned)
    y = torch.empty_like(images)
    for part, out in _blocks(images, y):
        if out.dtype is dtype:
            torch.mul(part, scale[:, None], out=out).add_(shift[:, None])
        else:
            out.copy_((part * scale[:, None]).add_(shift[:, None]))
    bias_dtype = None if bias is None else bias.dtype
    return _as_images(y, x.shape, turned), (x, weight, mean, inverse, training, bias_dtype)


def batch_norm_backward(needed, grad: Tensor, x: Tensor, weight, mean: Tensor, inverse: Tensor, training, bias_dtype):
    dtype, turned = mean.dtype, _is_turned(x)
    images, grads = _by_channel(x, turned), _by_channel(grad, turned)
    count = max(x.shape[0] * x.shape[2:].numel(), 1)
    total, along = torch.zeros_like(mean), torch.zeros_like(mean)  # Σ g and Σ g (x − μ)
    if training or needed[1] or needed[2]:
        for part, g in _blocks(images, grads):
            g = g.to(dtype)
            total += g.sum((0, 2))
            along += (part - mean[:, None]).mul_(g).sum((0, 2))
    d_input = None
    if needed[0]:
        scale = inverse if weight is None else inverse * weight
        # ∂L/∂x = scale · g + slope · (x − μ) − scale · mean g, the last two as slope · x + shift
        slope = -scale * inverse * inverse * along / count
        shift = -slope * mean - scale * total / count
        d_images = torch.empty_like(images)
        for part, g, out in _blocks(images, grads, d_images):
            work = out if out.dtype is dtype else torch.empty_like(out, dtype=dtype)
            if training:
                torch.mul(part, slope[:, None], out=work).add_(shift[:, None])
                work.addcmul_(g.to(dtype), scale[:, None])
            else:
                torch.mul(g, scale[:, None], out=work)
            if work is not out:
                out.copy_(work)
        d_input = _as_images(d_images, x.shape, turned)
    d_weight = (along * inverse).to(weight.dtype) if needed[1] else None
    return d_input, d_weight, total.to(bias_dtype) if needed[2] else None, None, None, None, None


_batch_norm = operation(batch_norm_forward, batch_norm_backward)


def layer_norm(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """y = γ (x − μ) / √(σ² + ε) + β; S is the last axes, those of ``normalized_shape``: each example has its own μ, σ².

    (..., *normalized_shape) -> the same; ``weight`` γ and ``bias`` β have ``normalized_shape``. Training and evaluation
    are alike. Raises ShapeError where the shapes do not fit. Source: Ba et al. (2016), Layer Normalization, eq. 4.
    """
    shape = tuple(normalized_shape) if isinstance(normalized_shape, Iterable) else (normalized_shape,)
    if not shape or tuple(input.shape[-len(shape) :]) != shape:
        raise ShapeError(
            f"input has shape {tuple(input.shape)}, but normalized_shape={shape} must be its last axes, at least one"
        )
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ShapeError(f"{name} has shape {tuple(tensor.shape)}, but must have normalized_shape={shape}")
    return _layer_norm(input, weight, bias, tuple(range(-len(shape), 0)), eps)


def layer_norm_forward(x: Tensor, weight: Tensor | None, bias: Tensor | None, axes: tuple[int, ...], eps: float):
    whole = x.to(wide(x))
    mean = whole.mean(axes, keepdim=True)
    y = whole - mean
    inverse = 1 / ((y * y).mean(axes, keepdim=True) + eps).sqrt()
    y *= inverse
    if weight is not None:
        y *= weight
    if bias is not None:
        y += bias
    return y.to(x.dtype), (x, weight, mean, inverse, axes, None if bias is None else bias.dtype)


def layer_norm_backward(needed, grad: Tensor, x: Tensor, weight, mean: Tensor, inverse: Tensor, axes, bias_dtype):
    h, shape = grad.to(mean.dtype), x.shape[-len(axes) :]
    normal = (x - mean).mul_(inverse)
    product = h * normal
    d_input = None
    d_weight = product.sum_to_size(shape).to(weight.dtype) if needed[1] else None
    d_bias = h.sum_to_size(shape).to(bias_dtype) if needed[2] else None
    if needed[0]:
        if weight is not None:
            h, product = h * weight, product * weight
        normal.mul_(product.mean(axes, keepdim=True))
        d_input = torch.sub(h, normal, out=normal)  # laid out as x is, whatever the gradient came in
        d_input = d_input.sub_(h.mean(axes, keepdim=True)).mul_(inverse).to(x.dtype)
    return d_input, d_weight, d_bias, None, None


_layer_norm = operation(layer_norm_forward, layer_norm_backward)


def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """y = γ (x − μ) / √(σ² + ε) + β, (B, C, ...) -> the same; S is a group of C / num_groups channels of one example.

    ``weight`` γ and ``bias`` β are (C,). One group is layer normalisation but for γ and β, C groups are instance
    normalisation. Raises SettingsError where the groups do not divide the channels, ShapeError where shapes do not fit
    or, as in torch, there is a single value a group in the whole batch. Source: Wu & He (2018), section 3.1, eq. 7.
    """
    if input.ndim < 2:
        raise ShapeError(f"input has shape {tuple(input.shape)}; group normalisation takes (B, C) or (B, C, ...)")
    B, C, *rest = input.shape
    if num_groups < 1 or C % num_groups:
        raise SettingsError(f"num_groups={num_groups} must divide the {C} channels of an input {tuple(input.shape)}")
    _check_channels(input, {"weight": weight, "bias": bias})
    if B * (C // num_groups) * math.prod(rest) == 1:
        raise ShapeError(
            f"input {tuple(input.shape)} has one value a group with num_groups={num_groups}, which has no variance; "
            "use fewer groups or a larger image"
        )
    return _group_norm(input, weight, bias, num_groups, eps)


def group_norm_forward(x: Tensor, weight: Tensor | None, bias: Tensor | None, num_groups: int, eps: float):
    # Sums over the places first, (B, C); the groups are then made of those few numbers, in any layout.
    turned = _is_turned(x)
    images = _by_channel(x, turned).to(wide(x))
    count = max(x[:1].numel() // num_groups, 1)
    mean = _group_sums(_place_sums(images, turned), num_groups) / count
    deviation = images - _at_places(mean, turned)
    var = _group_sums(_place_sums(deviation.mul_(deviation), turned), num_groups) / count
    inverse = 1 / (var + eps).sqrt()
    scale = inverse if weight is None else inverse * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    y = (images * _at_places(scale, turned)).add_(_at_places(shift, turned)).to(x.dtype)
    bias_dtype = None if bias is None else bias.dtype
    return _as_images(y, x.shape, turned), (x, weight, mean, inverse, num_groups, count, bias_dtype)


def group_norm_backward(needed, grad: Tensor, x: Tensor, weight, mean, inverse, num_groups, count, bias_dtype):
    turned, dtype = _is_turned(x), mean.dtype
    images, g = _by_channel(x, turned).to(dtype), _by_channel(grad, turned).to(dtype)
    total = _place_sums(g, turned)  # Σ g and Σ g x̂, (B, C)
    along = _place_sums((images - _at_places(mean, turned)).mul_(g), turned) * inverse
    d_input = None
    d_weight = along.sum(0).to(weight.dtype) if needed[1] else None
    d_bias = total.sum(0).to(bias_dtype) if needed[2] else None
    if needed[0]:
        if weight is not None:
            total, along = total * weight, along * weight
        # ∂L/∂x = scale · g + slope · x + shift, as in batch normalisation
        scale = inverse if weight is None else inverse * weight
        slope = -inverse * inverse * _group_sums(along, num_groups) / count
        shift = -slope * mean - inverse * _group_sums(total, num_groups) / count
        d_images = (images * _at_places(slope, turned)).add_(_at_places(shift, turned))
        d_images.addcmul_(g, _at_places(scale, turned))
        d_input = _as_images(d_images.to(x.dtype), x.shape, turned)
    return d_input, d_weight, d_bias, None, None


_group_norm = operation(group_norm_forward, group_norm_backward)


def _place_sums(x: Tensor, turned: bool) -> Tensor:
    """Σ over the places of each channel of each example, (B, C), of what ``_by_channel`` gives."""
    return x.sum(0).t() if turned else x.sum(2)


def _at_places(x: Tensor, turned: bool) -> Tensor:
    """One number for each channel of each example, (B, C), to be spread over the places."""
    return x.t().contiguous() if turned else x[:, :, None]


def _group_sums(x: Tensor, num_groups: int) -> Tensor:
    """For each of (B, C) the sum over all channels of its group."""
    B, C = x.shape
    sums = x.reshape(B, num_groups, C // num_groups).sum(2, keepdim=True)
    return sums.expand(B, num_groups, C // num_groups).reshape(B, C)


def local_response_norm(input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """y = x / s^β with s_c = k + α/n Σ x²_c′ over the n = ``size`` channels c − ⌊n/2⌋ … c + ⌊(n−1)/2⌋, (B, C, ...).

    With g = ∂L/∂y: ∂L/∂x_j = g_j s_j^(−β) − 2 α β / n · x_j Σ_c g_c x_c s_c^(−β−1), c over the channels whose sum has
    x_j in it. Channels beyond the first and the last count as 0.

    This is torch's definition. That of the source, Krizhevsky et al. (2012), section 3.3, does not divide α by n, and
    an even n there reaches n/2 channels to both sides: its k = 2, n = 5, α = 10⁻⁴, β = 0.75 are k=2, size=5,
    alpha=5e-4, beta=0.75 here.

    Raises ShapeError for fewer than three axes, SettingsError for a ``size`` below 1.
    """
    if not isinstance(size, Integral) or size < 1:
        raise SettingsError(f"size={size!r} must be a whole number of channels, at least 1")
    if input.ndim < 3:
        raise ShapeError(f"input has shape {tuple(input.shape)}; local response normalisation takes (B, C, ...)")
    if not input.numel():
        return input
    return _local_response_norm(input, size, alpha, beta, k)


def local_response_norm_forward(x: Tensor, size: int, alpha: float, beta: float, k: float):
    exact = x.to(wide(x))
    s = _sum_of_neighbours(exact * exact, size // 2, (size - 1) // 2).mul_(alpha / size).add_(k)
    scale = s.pow(-beta)
    return (exact * scale).to(x.dtype), (x, s, scale, size, alpha, beta)


def local_response_norm_backward(needed, grad: Tensor, x: Tensor, s: Tensor, scale: Tensor, size, alpha, beta):
    g, exact = grad.to(s.dtype), x.to(s.dtype)
    d_input = scale * g  # laid out as x is
    # whose sum has x_j in it: the window turned over
    shared = _sum_of_neighbours((d_input * exact).div_(s), (size - 1) // 2, size // 2)
    d_input.addcmul_(exact, shared, value=-2 * alpha * beta / size)
    return d_input.to(x.dtype), None, None, None, None


_local_response_norm = operation(local_response_norm_forward, local_response_norm_backward)


def _sum_of_neighbours(x: Tensor, before: int, after: int) -> Tensor:
    """Σ x_c′ over the channels c − before … c + after that there are, a new tensor."""
    total, furthest = x.clone(), x.shape[1] - 1
    for step in range(1, min(before, furthest) + 1):
        total[:, step:] += x[:, :-step]
    for step in range(1, min(after, furthest) + 1):
        total[:, :-step] += x[:, step:]
    return total


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel, (B, C, ...) -> (C,) both, in one pass through memory.

    Each block yields its own mean and sum of squared deviations while it is in the cache. Blocks of n and m numbers
    whose means differ by δ have together δ² n m / (n + m) more (Chan, Golub & LeVeque 1979, eq. 2.1): unlike in
    mean(x²) − mean(x)², nothing is lost where the mean is far from 0.
    """
    dtype = wide(x)
    mean, squares = x.new_zeros(x.shape[1], dtype=dtype), x.new_zeros(x.shape[1], dtype=dtype)
    m = 0
    for (part,) in _blocks(_by_channel(x, _is_turned(x))):
        n = part.shape[0] * part.shape[2]
        if n == 0:
            continue
        part = part.to(dtype)
        own = part.sum((0, 2)) / n
        deviation = part - own[:, None]
        squares += deviation.mul_(deviation).sum((0, 2))
        if m:
            step = own - mean
            squares += step * step * (n * m / (n + m))
            mean += step * (n / (n + m))
        else:
            mean = own
        m += n
    return mean, squares / max(m, 1)


def _track(running: Tensor | None, value: Tensor, momentum: float) -> None:
    if running is not None:
        running.detach().mul_(1 - momentum).add_(value, alpha=momentum)


def _is_turned(x: Tensor) -> bool:
    return x.ndim == 4 and is_batch_innermost(x)


def _by_channel(x: Tensor, turned: bool) -> Tensor:
    """(B, C, ...) with the channels in the middle of three axes: (H·W, C, B) if turned, else (B, C, places)."""
    B, C, *rest = x.shape
    if turned:
        return batch_innermost(x).permute(2, 3, 1, 0).reshape(math.prod(rest), C, B)
    return x.reshape(B, C, math.prod(rest))


def _as_images(y: Tensor, shape: torch.Size, turned: bool) -> Tensor:
    """What ``_by_channel`` took apart, in its shape again."""
    if not turned:
        return y.view(shape)
    B, C, H, W = shape
    return y.view(H, W, C, B).permute(3, 2, 0, 1)


def _blocks(*tensors: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """Tensors of one shape (n, C, m) cut alike along n; a GPU has no use for blocks."""
    n, C, m = tensors[0].shape
    step = max(BLOCK // max(C * m, 1), 1) if tensors[0].device.type == "cpu" else max(n, 1)
    return zip(*(tensor.split(step) for tensor in tensors), strict=True)


def _check_channels(input: Tensor, given: dict[str, Tensor | None]) -> None:
    C = input.shape[1]
    for name, tensor in given.items():
        if tensor is not None and tuple(tensor.shape) != (C,):
            raise ShapeError(
                f"{name} has shape {tuple(tensor.shape)}, but input {tuple(input.shape)} has {C} channels on axis 1; "
                f"give {name} the shape ({C},)"
            )
