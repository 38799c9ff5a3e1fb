"""Layers one after the other."""

import torch
from torch import Tensor

from byhand.nn.activation import ReLU
from byhand.nn.convolution import Conv2d
from byhand.nn.linear import Linear
from byhand.nn.pooling import AvgPool2d
from byhand.ops import rows, stage
from byhand.ops.convolution import padding_of, pair
from byhand.ops.padding import pad2d


class Sequential(torch.nn.Sequential):
    """The layers in their order, as torch.nn.Sequential.

    Runs of layers that have an operation in common (``byhand.ops.stage``) go through it, sooner and with the same
    result: linear and ReLU; convolution, ReLU and average pooling. A layer with a hook runs alone, so that the hook
    sees what it asks for.
    """

    def forward(self, input: Tensor) -> Tensor:
        layers, place = list(self), 0
        while place < len(layers):
            some = layers[place : place + 3]
            if _is_linear_relu(some, input):
                linear = some[0]
                input, taken = stage.linear_relu(input, linear.weight, linear.bias), 2
            elif _is_conv_relu_avg_pool(some, input):
                conv, pool = some[0], pair("kernel_size", some[2].kernel_size)[0]
                sides = padding_of(conv.padding, conv.stride, conv.dilation, conv.kernel_size)
                input = stage.conv_relu_avg_pool(pad2d(input, *sides), conv.weight, conv.bias, pool)
                taken = 3
            else:
                input, taken = layers[place](input), 1
            place += taken
        return input


def _is_linear_relu(layers: list, x: Tensor) -> bool:
    return (
        [type(layer) for layer in layers[:2]] == [Linear, ReLU]
        and all(map(_unwatched, layers[:2]))
        and layers[0].bias is not None
        and x.ndim == 2
        and x.shape[1] == layers[0].weight.shape[1]
    )


def _is_conv_relu_avg_pool(layers: list, x: Tensor) -> bool:
    if [type(layer) for layer in layers] != [Conv2d, ReLU, AvgPool2d] or not all(map(_unwatched, layers)):
        return False
    conv, _, pooling = layers
    height, width = pair("kernel_size", pooling.kernel_size)
    plain_pooling = height == width > 1 and pooling.padding in (0, (0, 0)) and pooling.divisor_override is None
    plain = conv.stride == conv.dilation == (1, 1) and conv.padding_mode == "zeros" and conv.bias is not None
    steps = pooling.stride in (None, pooling.kernel_size)
    if not (plain and plain_pooling and steps and x.ndim == 4 and x.shape[1] == conv.in_channels):
        return False
    left, right, top, bottom = padding_of(conv.padding, conv.stride, conv.dilation, conv.kernel_size)
    (kH, kW), (_, _, H, W) = conv.kernel_size, x.shape
    places = H + top + bottom - kH + 1, W + left + right - kW + 1
    return rows.worthwhile(x, conv.groups) and all(n > 0 and n % height == 0 for n in places)


def _unwatched(layer: torch.nn.Module) -> bool:
    """Whether nobody waits for what goes into this layer or comes out of it."""
    hooks = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    return not (hooks or torch.nn.modules.module._has_any_global_hook() or "forward" in layer.__dict__)
