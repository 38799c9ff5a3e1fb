"""MobileNet: Howard et al., MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications (2017).

Blocks that the later MobileNets share stand here first: a convolution with its normalisation and activation, widths in
multiples of eight, the initialisation, and the check of an input.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from byhand.errors import SettingsError, ShapeError
from byhand.models.linear import check_counts, check_dropout

# Table 1: output channels and stride of the depthwise separable blocks. The last has stride 1, although the table
# prints s2 for it: its input and output are both 7 × 7 there.
BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))


def mobilenet_v1(
    num_classes: int = 1000,
    in_channels: int = 3,
    small: bool = False,
    width_mult: float = 1.0,
    resolution_mult: float = 1.0,
    dropout: float = 0.0,
) -> nn.Module:
    """Logits of images, (B, in_channels, H, W) -> (B, num_classes): 4,231,976 parameters, 569 M multiply-adds, 224 px.

    A full convolution of kernel D over M channels into N costs D²·M·N for each place; here it is split into a depthwise
    one (D²·M) and a pointwise one (M·N), together 1/N + 1/D² of it (section 3.1).

    Args:
        width_mult: the paper's α, a factor on the channels of every layer (section 3.3): cost falls with about α².
            Channels are rounded to multiples of eight.
        resolution_mult: the paper's ρ in (0, 1] (section 3.4): images are reduced to ρ times their sides by area
            averages before the first layer, and cost falls with ρ². The paper feeds images of 192, 160 or 128 px
            instead, as can be done here with ρ = 1: any size is taken.
        small: for images of 28 to 64 px: the first convolution and the first reducing block have stride 1, so that the
            last maps have 1/8 of the image's sides instead of 1/32 (28 px: 4 × 4).
        dropout: before the classifier; the paper names none.

    Raises:
        SettingsError: a count below 1, or a factor outside its range.
        ShapeError: (from the network) an input that is not (B, in_channels, H, W) with at least one pixel, or in
            training one image that gives 1×1 maps in the end.
    """
    return MobileNetV1(num_classes, in_channels, small, width_mult, resolution_mult, dropout)


class MobileNetV1(nn.Module):
    """The network of Table 1; ``mobilenet_v1`` says what the arguments are."""

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        small: bool,
        width_mult: float,
        resolution_mult: float,
        dropout: float,
    ) -> None:
        super().__init__()
        check_counts(num_classes=num_classes, in_channels=in_channels)
        check_factors(width_mult=width_mult, resolution_mult=resolution_mult)
        check_dropout(dropout=dropout)
        if resolution_mult > 1:
            raise SettingsError(f"resolution_mult={resolution_mult} must lie in 0..1; give larger images instead")
        self.in_channels, self.resolution_mult = in_channels, resolution_mult
        self.reduction = 8 if small else 32

        first, *strides = strides_for([2, *(stride for _, stride in BLOCKS)], small)
        channels = make_divisible(32 * width_mult)
        features = [conv_norm_activation(in_channels, channels, 3, first)]
        for (wide, _), stride in zip(BLOCKS, strides, strict=True):
            out_channels = make_divisible(wide * width_mult)
            features.append(depthwise_separable(channels, out_channels, stride))
            channels = out_channels
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(channels, num_classes))
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        check_images(x, self.in_channels, type(self).__name__)
        if self.resolution_mult != 1:
            height, width = (max(1, round(side * self.resolution_mult)) for side in x.shape[2:])
            x = nn.functional.adaptive_avg_pool2d(x, (height, width))
        check_batch(x, self.reduction, self.features)
        x = self.features(x)  # B × 1024α × H/32 × W/32
        x = torch.flatten(self.avgpool(x), 1)
        return self.classifier(x)


def depthwise_separable(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """A 3×3 convolution of each channel by itself, then a 1×1 convolution across them; figure 3, right."""
    return nn.Sequential(
        OrderedDict(
            depthwise=conv_norm_activation(in_channels, in_channels, 3, stride, groups=in_channels),
            pointwise=conv_norm_activation(in_channels, out_channels, 1),
        )
    )


def conv_norm_activation(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    groups: int = 1,
    activation: type[nn.Module] | None = nn.ReLU,
    eps: float = 1e-5,
    momentum: float = 0.1,
) -> nn.Sequential:
    """Convolution without bias, batch normalisation and, unless it is None, the activation; odd kernels keep the size.

    The activation does not work in place, unlike torchvision's: a hook on the normalisation sees what it gave.
    """
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels, eps=eps, momentum=momentum),
    ]
    return nn.Sequential(*layers) if activation is None else nn.Sequential(*layers, activation())


def make_divisible(channels: float, divisor: int = 8) -> int:
    """The multiple of ``divisor`` that is nearest, at least one of them, and never under 0.9 of ``channels``.

    As in the authors' code (tensorflow/models, research/slim/nets/mobilenet) and in torchvision.
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def strides_for(strides: Sequence[int], small: bool) -> list[int]:
    """The strides as they are; for small images with 1 in place of the first two that reduce."""
    kept = [i for i, stride in enumerate(strides) if stride > 1][:2] if small else []
    return [1 if i in kept else stride for i, stride in enumerate(strides)]


def initialise(model: nn.Module) -> None:
    """None; afterwards the weights are drawn as torchvision draws those of its MobileNets.

    Convolutions: He et al. (2015) by fan-out, bias 0; linear layers: N(0, 0.01²), bias 0; normalisation: 1 and 0.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.01)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def check_images(x: Tensor, in_channels: int, network: str) -> None:
    """Nothing, if x is (B, in_channels, H, W) with at least one pixel; else a ShapeError that says so.

    One pixel is enough, because every reduction pads: a side of n becomes ⌈n/2⌉.
    """
    if x.ndim != 4 or x.shape[1] != in_channels or x.shape[2] < 1 or x.shape[3] < 1:
        other = x.ndim == 4 and x.shape[1] not in (0, in_channels)
        raise ShapeError(
            f"input has shape {tuple(x.shape)}; {network} takes (batch, {in_channels}, height, width), height and "
            "width at least 1" + (f"; for such images build it with in_channels={x.shape[1]}" if other else "")
        )


def check_batch(x: Tensor, reduction: int, features: nn.Module) -> None:
    """Nothing, unless the last batch normalisation would get one value a channel to take a mean and variance of.

    That is one image that ``reduction`` makes a single pixel of, while it normalises by the batch: a ShapeError.
    """
    if not features.training or x.shape[0] != 1 or max(x.shape[2:]) > reduction:
        return
    last_norm = list(features.modules())[-2]
    if last_norm.training:  # in fine-tuning it may stand still
        raise ShapeError(
            f"one image of {x.shape[2]} × {x.shape[3]} pixels leaves batch normalisation one value a channel in "
            f"training; give a batch of at least 2, a side of at least {reduction + 1}, or switch to model.eval()"
        )


def check_factors(**factors: float) -> None:
    """Nothing, if each is a finite number above 0; else a SettingsError that names it."""
    for name, factor in factors.items():
        if not isinstance(factor, (int, float)) or not 0 < factor < math.inf:
            raise SettingsError(f"{name}={factor!r} must be a number above 0; 1 is the paper's size")
