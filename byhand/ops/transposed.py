"""Transposed convolution: a convolution's way back, as a layer that makes images larger."""

from torch import Tensor

from byhand.errors import SettingsError, ShapeError
from byhand.ops.columns import fold, windows
from byhand.ops.convolution import Pair, pair
from byhand.ops.layout import sum_by_channel
from byhand.ops.tape import operation


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    output_padding: Pair = 0,
    groups: int = 1,
    dilation: Pair = 1,
) -> Tensor:
    """y[b, o, i·s + u·d − p, j·s + v·d − p] += w[c, o, u, v] x[b, c, i, j] for all c, u, v, i, j, and bias[o] added.

    (B, C, H, W) and (C, O/groups, kH, kW) -> (B, O, H', W'), H' = (H − 1) s − 2 p + d (kH − 1) + output_padding + 1;
    a single image (C, H, W) gives (O, H', W').

    It is what a convolution with these settings hands back as the gradient of its input: where the convolution takes
    columns = windows(x) and W · columns, here columns = Wᵀ · x are computed and added up where windows would have been
    cut. So its own way back is that convolution: ∂L/∂x = W · windows(g), ∂L/∂W = x · windows(g)ᵀ. A stride of s
    leaves several sizes that the convolution would have made H of; ``output_padding`` chooses among them.

    Raises ShapeError where channels or groups do not fit or nothing is left of the output, SettingsError for an
    output padding that is not smaller than stride or dilation.
    Source: Zeiler et al., Deconvolutional Networks (2010); Dumoulin & Visin, A Guide to Convolution Arithmetic for
    Deep Learning (2016), chapter 4.
    """
    if input.ndim == 3:
        return conv_transpose2d(input[None], weight, bias, stride, padding, output_padding, groups, dilation)[0]
    if input.ndim != 4 or weight.ndim != 4:
        raise ShapeError(
            f"input {tuple(input.shape)} and weight {tuple(weight.shape)} must be (B, C, H, W), (C, O/groups, kH, kW)"
        )
    _check_channels(input, weight, bias, groups)
    stride, dilation = pair("stride", stride), pair("dilation", dilation)
    padding, more = pair("padding", padding, least=0), pair("output_padding", output_padding, least=0)
    if any(m >= max(s, d) for m, s, d in zip(more, stride, dilation, strict=True)):
        raise SettingsError(
            f"output_padding={output_padding!r} must be smaller than stride={stride} or dilation={dilation} along each "
            "axis; use a larger stride"
        )
    full, size = output_sizes(input, weight, stride, padding, more, dilation)
    if min(size) < 1 or min(input.shape[2:]) < 1:
        raise ShapeError(
            f"input {tuple(input.shape)} gives an output of {size[0]} x {size[1]} pixels with padding={padding}; "
            "use less padding or a larger input"
        )
    return _conv_transpose2d(input, weight, bias, stride, padding, dilation, groups, full, size)


def conv_transpose2d_forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride, padding, dilation, groups: int, full, size
):
    B, C, H, W = x.shape
    O = weight.shape[1] * groups
    columns = weight.reshape(groups, C // groups, -1).mT @ x.reshape(B, groups, C // groups, H * W)
    seen = columns.view(B, O, *weight.shape[2:], H, W)
    y = _inside(fold(seen, seen.new_zeros(B, O, *full), stride, dilation), padding, size).contiguous()
    if bias is not None:
        y += bias[:, None, None]
    return y, (x, weight, stride, padding, dilation, groups, full)


def conv_transpose2d_backward(needed, grad: Tensor, x: Tensor, weight: Tensor, stride, padding, dilation, groups, full):
    B, C, H, W = x.shape
    d_input = d_weight = d_bias = None
    if needed[0] or needed[1]:
        canvas = grad.new_zeros(*grad.shape[:2], *full)
        _inside(canvas, padding, grad.shape[2:]).copy_(grad)
        # What output_padding adds may hold one place more than the input has.
        seen = windows(canvas, (weight.shape[2], weight.shape[3]), stride, dilation)[..., :H, :W]
        columns = seen.reshape(B, groups, weight[0].numel(), H * W)
        if needed[0]:
            d_input = (weight.reshape(groups, C // groups, -1) @ columns).view(x.shape)
        if needed[1]:
            d_weight = (x.reshape(B, groups, C // groups, H * W) @ columns.mT).sum(0).view(weight.shape)
    if needed[2]:
        d_bias = sum_by_channel(grad)
    return d_input, d_weight, d_bias, None, None, None, None, None, None


_conv_transpose2d = operation(conv_transpose2d_forward, conv_transpose2d_backward)


def output_sizes(x: Tensor, weight: Tensor, stride, padding, output_padding, dilation):
    """(height, width) of all that the kernel reaches, and of what is left after ``padding`` is cut off each side."""
    full = tuple(
        (n - 1) * s + d * (k - 1) + 1 + more
        for n, k, s, d, more in zip(x.shape[2:], weight.shape[2:], stride, dilation, output_padding, strict=True)
    )
    return full, tuple(n - 2 * p for n, p in zip(full, padding, strict=True))


def _inside(canvas: Tensor, padding: tuple[int, int], size) -> Tensor:
    """A view of (..., H, W) without the padding at the top and left, as large as ``size``."""
    (top, left), (height, width) = padding, size
    return canvas[..., top : top + height, left : left + width]


def _check_channels(input: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> None:
    C = input.shape[1]
    if len(weight) != C:
        raise ShapeError(
            f"input {tuple(input.shape)} has {C} channels, but a weight of {tuple(weight.shape)} takes {len(weight)}"
        )
    if groups < 1 or C % groups:
        raise ShapeError(f"groups={groups} must divide in_channels={C}")
    O = weight.shape[1] * groups
    if bias is not None and bias.shape != (O,):
        raise ShapeError(f"bias has shape {tuple(bias.shape)}; {O} output channels take ({O},)")
