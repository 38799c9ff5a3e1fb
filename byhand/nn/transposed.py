"""Transposed convolution as a layer."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from byhand import ops
from byhand.errors import SettingsError, ShapeError
from byhand.nn.linear import reset_uniform
from byhand.ops.convolution import Pair, pair


class ConvTranspose2d(Module):
    """A convolution's way back over (B, C, H, W) or (C, H, W); arguments, ``weight`` and ``bias`` as torch's own.

    ``weight`` is (in_channels, out_channels / groups, kH, kW), ``bias`` (out_channels,), both drawn from U(−k, k),
    k = 1/√(out_channels / groups · kH · kW), as in torch. Formula and sizes stand in ``byhand.ops.transposed``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        output_padding: Pair = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Pair = 1,
        padding_mode: str = "zeros",
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise SettingsError(
                f"groups={groups} must divide in_channels={in_channels} and out_channels={out_channels}"
            )
        if padding_mode != "zeros":
            raise SettingsError(f"padding_mode={padding_mode!r} must be 'zeros' for a transposed convolution")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride = pair("kernel_size", kernel_size), pair("stride", stride)
        self.padding, self.dilation = pair("padding", padding, least=0), pair("dilation", dilation)
        self.output_padding, self.padding_mode = pair("output_padding", output_padding, least=0), padding_mode
        shape = (in_channels, out_channels // groups, *self.kernel_size)
        self.weight = Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.bias: Parameter | None
        self.register_parameter(
            "bias", Parameter(torch.empty(out_channels, device=device, dtype=dtype)) if bias else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        reset_uniform(self.weight, self.bias)

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """The larger images; ``output_size`` (H', W') chooses among the sizes that the stride leaves open."""
        more = self.output_padding if output_size is None else self._padding_for(input, output_size)
        return ops.conv_transpose2d(
            input, self.weight, self.bias, self.stride, self.padding, more, self.groups, self.dilation
        )

    def _padding_for(self, input: Tensor, output_size: Sequence[int]) -> tuple[int, int]:
        wanted = tuple(output_size)[-2:]
        settings = zip(input.shape[-2:], self.kernel_size, self.stride, self.padding, self.dilation, strict=True)
        least = [(n - 1) * s - 2 * p + d * (k - 1) + 1 for n, k, s, p, d in settings]
        most = [n + s - 1 for n, s in zip(least, self.stride, strict=True)]
        if len(output_size) not in (2, input.ndim) or any(
            not low <= n <= high for n, low, high in zip(wanted, least, most, strict=True)
        ):
            raise ShapeError(
                f"output_size={tuple(output_size)} must lie between {tuple(least)} and {tuple(most)} "
                f"for an input of {tuple(input.shape)}"
            )
        return wanted[0] - least[0], wanted[1] - least[1]

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        usual = {"padding": (0, 0), "dilation": (1, 1), "output_padding": (0, 0), "groups": 1}
        text += "".join(
            f", {name}={getattr(self, name)}" for name, value in usual.items() if getattr(self, name) != value
        )
        return text if self.bias is not None else text + ", bias=False"
