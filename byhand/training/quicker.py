"""Torch's network on a CPU, with what torch computes slowly computed in another way.

Depthwise convolutions of images that are smaller than their kernel go by hand: the weight's gradient of 432 channels of
128 images of 2 × 2 pixels, with a kernel of 5 × 5, takes torch 30 ms, and us, who write the convolution as one matrix
product a channel, 3. Networks made for 224 pixels have many such layers where they are given fewer.

Global pooling hands back a gradient with channels first in memory, whatever order came in; residual connections pass it
on, and each layer on the way back meets two orders at once. Put right behind the pooling, a step of ResNet-20 takes a
tenth less.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from byhand import ops
from byhand.ops.tape import operation


class SmallDepthwiseConv2d(nn.Conv2d):
    """torch.nn.Conv2d, computed by hand where a float image on a CPU is smaller than the kernel."""

    def forward(self, input: Tensor) -> Tensor:
        small = input.ndim == 4 and min(input.shape[2:]) < max(self.kernel_size)
        if not small or input.device.type != "cpu" or input.dtype != self.weight.dtype:
            return super().forward(input)
        convolved: Any = ops.conv2d
        channels_last = not input.is_contiguous() and input.is_contiguous(memory_format=torch.channels_last)
        x = _channels_last_gradient(input) if channels_last else input
        y = convolved(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        return y.contiguous(memory_format=torch.channels_last) if channels_last else y


class ChannelsLastPool2d(nn.AdaptiveAvgPool2d):
    """torch.nn.AdaptiveAvgPool2d, whose gradient has channels last in memory."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(_channels_last_gradient(input) if input.ndim == 4 else input)


def channels_last_gradient_forward(x: Tensor):
    return x.view_as(x), ()


def channels_last_gradient_backward(needed, grad: Tensor):
    return (grad.contiguous(memory_format=torch.channels_last),)


_channels_last_gradient = operation(channels_last_gradient_forward, channels_last_gradient_backward)


def quicker(model: nn.Module, *, depthwise_by_hand: bool, channels_last: bool) -> nn.Module:
    """The same network over the same parameters and buffers, some of its layers computed as above.

    ``channels_last``: whether its images lie so in memory. The network itself where none of its layers gains.
    """
    twins = {
        name: twin
        for name, layer in model.named_modules()
        if (twin := _twin_of(layer, depthwise_by_hand, channels_last)) is not None
    }
    if not twins:
        return model
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    other = copy.deepcopy(model, shared)
    for name, twin in twins.items():
        other.get_submodule(name).__class__ = twin
    return other


def _twin_of(layer: nn.Module, depthwise_by_hand: bool, channels_last: bool) -> type[nn.Module] | None:
    if type(layer) is nn.Conv2d and depthwise_by_hand:
        depthwise = layer.groups == layer.in_channels > 1 and layer.padding_mode == "zeros"
        return SmallDepthwiseConv2d if depthwise else None
    return ChannelsLastPool2d if type(layer) is nn.AdaptiveAvgPool2d and channels_last else None
