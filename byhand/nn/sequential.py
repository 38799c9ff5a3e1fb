"""Layers one after the other."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import Module

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
        layers, place = list(self._modules.values()), 0
        while place < len(layers):
            layer = layers[place]
            if type(layer) is Linear and _linear_relu(layers[place : place + 2], input):
                input, taken = stage.linear_relu(input, layer.weight, layer.bias), 2  # type: ignore[arg-type]
            elif type(layer) is Conv2d and (form := _conv_relu_avg_pool(layers[place : place + 3], input)):
                pool, sides = form
                padded = pad2d(input, *sides)
                input = stage.conv_relu_avg_pool(padded, layer.weight, layer.bias, pool)  # type: ignore[arg-type]
                taken = 3
            else:
                input, taken = layer(input), 1
            place += taken
        return input


def _linear_relu(layers: Sequence[Module | None], x: Tensor) -> bool:
    """Whether these are a linear layer and a ReLU that ``stage.linear_relu`` computes."""
    linear = layers[0]
    return (
        [type(layer) for layer in layers] == [Linear, ReLU]
        and linear.bias is not None  # type: ignore[union-attr]
        and x.ndim == 2
        and x.shape[1] == linear.in_features  # type: ignore[union-attr]
        and not any(map(is_watched, layers))
    )


def _conv_relu_avg_pool(layers: Sequence[Module | None], x: Tensor) -> tuple[int, tuple[int, int, int, int]] | None:
    """The pooling's size and the padding if these are what ``stage.conv_relu_avg_pool`` computes, else None."""
    if [type(layer) for layer in layers] != [Conv2d, ReLU, AvgPool2d] or any(map(is_watched, layers)):
        return None
    conv, pooling = layers[0], layers[2]
    assert isinstance(conv, Conv2d)
    assert isinstance(pooling, AvgPool2d)
    size, across = pair("kernel_size", pooling.kernel_size)
    usual = size == across > 1 and pair("stride", pooling.stride) == (size, size) and pooling.divisor_override is None
    usual = usual and pooling.padding in (0, (0, 0)) and conv.stride == conv.dilation == (1, 1)
    usual = usual and conv.padding_mode == "zeros" and conv.bias is not None
    if not (usual and x.ndim == 4 and x.shape[1] == conv.in_channels and rows.worthwhile(x, conv.groups)):
        return None
    sides = padding_of(conv.padding, conv.stride, conv.dilation, conv.kernel_size)
    left, right, top, bottom = sides
    height = x.shape[2] + top + bottom - conv.kernel_size[0] + 1
    width = x.shape[3] + left + right - conv.kernel_size[1] + 1
    return (size, sides) if height > 0 < width and height % size == width % size == 0 else None


def is_watched(layer: Module | None) -> bool:
    """Whether somebody waits for what goes into this layer or comes out of it."""
    own = layer.__dict__
    hooks = own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"]
    return bool(hooks) or "forward" in own or torch.nn.modules.module._has_any_global_hook()
