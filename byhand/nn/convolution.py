"""Convolution as a layer."""

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from byhand import ops
from byhand.errors import SettingsError
from byhand.nn.linear import reset_uniform
from byhand.ops.convolution import Pair, padding_of, pair
from byhand.ops.layout import led_in
from byhand.ops.padding import MODES


class Conv2d(Module):
    """Cross-correlation over (B, C, H, W) or (C, H, W); arguments, ``weight`` and ``bias`` as torch.nn.Conv2d.

    ``weight`` is (out_channels, in_channels / groups, kH, kW), ``bias`` (out_channels,), both drawn from U(−k, k),
    k = 1/√(in_channels / groups · kH · kW). ``padding`` counts pixels on each side, or is "same" or "valid".
    """

    _alone = False  # no part of a network: then nothing follows that would like the batch innermost

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair | str = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise SettingsError(
                f"groups={groups} must divide in_channels={in_channels} and out_channels={out_channels}; "
                f"depthwise is groups={in_channels}"
            )
        if padding_mode not in MODES:
            raise SettingsError(f"padding_mode={padding_mode!r} must be one of {', '.join(MODES)}")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride = pair("kernel_size", kernel_size), pair("stride", stride)
        self.dilation, self.padding_mode = pair("dilation", dilation), padding_mode
        self.padding = padding if isinstance(padding, str) else pair("padding", padding, least=0)
        padding_of(self.padding, self.stride, self.dilation, self.kernel_size)  # an impossible one is an error here
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        self.weight = Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.bias: Parameter | None
        self.register_parameter(
            "bias", Parameter(torch.empty(out_channels, device=device, dtype=dtype)) if bias else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        reset_uniform(self.weight, self.bias)

    def forward(self, input: Tensor) -> Tensor:
        padding: Pair | str = self.padding
        if not self._alone:
            input = led_in(input)
        if self.padding_mode != "zeros":
            left, right, top, bottom = padding_of(padding, self.stride, self.dilation, self.kernel_size)
            input, padding = ops.pad2d(input, left, right, top, bottom, self.padding_mode), 0
        return ops.conv2d(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        usual = {"padding": (0, 0), "dilation": (1, 1), "groups": 1, "padding_mode": "zeros"}
        text += "".join(
            f", {name}={getattr(self, name)}" for name, value in usual.items() if getattr(self, name) != value
        )
        return text if self.bias is not None else text + ", bias=False"
