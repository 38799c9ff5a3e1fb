"""MobileNetV3: Howard et al., Searching for MobileNetV3 (2019)."""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from byhand.models.linear import check_counts, check_dropout
from byhand.models.mobile_v1 import (
    check_batch,
    check_factors,
    check_images,
    conv_norm_activation,
    initialise,
    make_divisible,
    strides_for,
)

# With the constants of the normalisation that torchvision trained its weights with.
convolution = partial(conv_norm_activation, eps=0.001, momentum=0.01)


class Row(NamedTuple):
    """One row "bneck" of the paper's tables: kernel, expanded and output channels, SE, nonlinearity, stride."""

    kernel_size: int
    expanded: int
    out_channels: int
    squeezes: bool
    activation: type[nn.Module]
    stride: int


RE, HS = nn.ReLU, nn.Hardswish

# Table 1
LARGE = (
    Row(3, 16, 16, False, RE, 1),
    Row(3, 64, 24, False, RE, 2),
    Row(3, 72, 24, False, RE, 1),
    Row(5, 72, 40, True, RE, 2),
    Row(5, 120, 40, True, RE, 1),
    Row(5, 120, 40, True, RE, 1),
    Row(3, 240, 80, False, HS, 2),
    Row(3, 200, 80, False, HS, 1),
    Row(3, 184, 80, False, HS, 1),
    Row(3, 184, 80, False, HS, 1),
    Row(3, 480, 112, True, HS, 1),
    Row(3, 672, 112, True, HS, 1),
    Row(5, 672, 160, True, HS, 2),
    Row(5, 960, 160, True, HS, 1),
    Row(5, 960, 160, True, HS, 1),
)

# Table 2
SMALL = (
    Row(3, 16, 16, True, RE, 2),
    Row(3, 72, 24, False, RE, 2),
    Row(3, 88, 24, False, RE, 1),
    Row(5, 96, 40, True, HS, 2),
    Row(5, 240, 40, True, HS, 1),
    Row(5, 240, 40, True, HS, 1),
    Row(5, 120, 48, True, HS, 1),
    Row(5, 144, 48, True, HS, 1),
    Row(5, 288, 96, True, HS, 2),
    Row(5, 576, 96, True, HS, 1),
    Row(5, 576, 96, True, HS, 1),
)


def mobilenet_v3_large(
    num_classes: int = 1000,
    in_channels: int = 3,
    small: bool = False,
    width_mult: float = 1.0,
    dropout: float = 0.2,
) -> nn.Module:
    """Logits of images, (B, in_channels, H, W) -> (B, num_classes): 5,483,032 parameters, 217 M multiply-adds, 224 px.

    State-dict keys, initialisation and outputs are torchvision's ``mobilenet_v3_large``.

    Args:
        width_mult: a factor on the channels of every layer, rounded to multiples of eight.
        small: for images of 28 to 64 px: the first convolution and the first reducing block have stride 1, so that the
            last maps have 1/8 of the image's sides instead of 1/32 (28 px: 4 × 4).
        dropout: between the two linear layers of the classifier.

    Raises:
        SettingsError: a count below 1, or a factor outside its range.
        ShapeError: (from the network) an input that is not (B, in_channels, H, W) with at least one pixel, or in
            training one image that gives 1×1 maps in the end.
    """
    return MobileNetV3(LARGE, 1280, num_classes, in_channels, small, width_mult, dropout)


def mobilenet_v3_small(
    num_classes: int = 1000,
    in_channels: int = 3,
    small: bool = False,
    width_mult: float = 1.0,
    dropout: float = 0.2,
) -> nn.Module:
    """Logits of images, (B, in_channels, H, W) -> (B, num_classes): 2,542,856 parameters, 57 M multiply-adds, 224 px.

    State-dict keys, initialisation and outputs are torchvision's ``mobilenet_v3_small``. "Small" in its name is the
    paper's smaller network; ``small=True`` is the stem for images of 28 to 64 px. The arguments are those of
    ``mobilenet_v3_large``.
    """
    return MobileNetV3(SMALL, 1024, num_classes, in_channels, small, width_mult, dropout)


class MobileNetV3(nn.Module):
    """The network of Table 1 or 2; ``mobilenet_v3_large`` says what the arguments are."""

    def __init__(
        self,
        rows: tuple[Row, ...],
        last_channels: int,
        num_classes: int,
        in_channels: int,
        small: bool,
        width_mult: float,
        dropout: float,
    ) -> None:
        super().__init__()
        check_counts(num_classes=num_classes, in_channels=in_channels)
        check_factors(width_mult=width_mult)
        check_dropout(dropout=dropout)
        self.in_channels, self.reduction = in_channels, 8 if small else 32

        first, *strides = strides_for([2, *(row.stride for row in rows)], small)
        channels = make_divisible(16 * width_mult)
        features: list[nn.Module] = [convolution(in_channels, channels, 3, first, activation=nn.Hardswish)]
        for row, stride in zip(rows, strides, strict=True):
            expanded, out_channels = (make_divisible(c * width_mult) for c in (row.expanded, row.out_channels))
            features.append(
                InvertedResidual(
                    channels, expanded, out_channels, row.kernel_size, stride, row.squeezes, row.activation
                )
            )
            channels = out_channels
        features.append(convolution(channels, 6 * channels, 1, activation=nn.Hardswish))
        hidden = make_divisible(last_channels * width_mult)
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(6 * channels, hidden), nn.Hardswish(), nn.Dropout(dropout), nn.Linear(hidden, num_classes)
        )
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        check_images(x, self.in_channels, type(self).__name__)
        check_batch(x, self.reduction, self.features)
        x = self.features(x)  # large: B × 960 × H/32 × W/32; small: B × 576 × H/32 × W/32
        x = torch.flatten(self.avgpool(x), 1)
        return self.classifier(x)


class InvertedResidual(nn.Module):
    """1×1 to ``expanded`` channels, depthwise, squeeze-and-excitation, 1×1 back without activation; figure 4.

    No 1×1 in front where the block does not widen. The input is added where it has the output's shape.
    """

    def __init__(
        self,
        in_channels: int,
        expanded: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        squeezes: bool,
        activation: type[nn.Module],
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if expanded != in_channels:
            layers.append(convolution(in_channels, expanded, 1, activation=activation))
        layers.append(convolution(expanded, expanded, kernel_size, stride, expanded, activation))
        if squeezes:
            layers.append(SqueezeExcitation(expanded, make_divisible(expanded // 4)))
        layers.append(convolution(expanded, out_channels, 1, activation=None))
        self.block = nn.Sequential(*layers)
        self.is_residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x) if self.is_residual else self.block(x)


class SqueezeExcitation(nn.Module):
    """x · s(x), (B, C, H, W) -> (B, C, H, W): one factor in 0..1 for each channel, from the means of all channels.

        s = hard-sigmoid(W₂ relu(W₁ mean(x) + b₁) + b₂)

    Hu et al., Squeeze-and-Excitation Networks (2018), with the hard sigmoid of MobileNetV3, section 5.3.
    """

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.activation = nn.ReLU()
        self.scale_activation = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        scale = self.activation(self.fc1(self.avgpool(x)))  # B × squeezed × 1 × 1
        return x * self.scale_activation(self.fc2(scale))
