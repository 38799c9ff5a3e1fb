"""MobileNetV2: Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks (2018)."""

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

# Table 2: expansion t, output channels c, repetitions n, stride s of the first of them.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenet_v2(
    num_classes: int = 1000,
    in_channels: int = 3,
    small: bool = False,
    width_mult: float = 1.0,
    dropout: float = 0.2,
) -> nn.Module:
    """Logits of images, (B, in_channels, H, W) -> (B, num_classes): 3,504,872 parameters, 300 M multiply-adds, 224 px.

    State-dict keys, initialisation and outputs are torchvision's ``mobilenet_v2``.

    Args:
        width_mult: a factor on the channels of every layer, rounded to multiples of eight; the last convolution keeps
            its 1,280 channels where the factor is below 1 (section 6.1).
        small: for images of 28 to 64 px: the first convolution and the stage of 24 channels have stride 1, so that the
            last maps have 1/8 of the image's sides instead of 1/32 (28 px: 4 × 4).
        dropout: before the classifier.

    Raises:
        SettingsError: a count below 1, or a factor outside its range.
        ShapeError: (from the network) an input that is not (B, in_channels, H, W) with at least one pixel, or in
            training one image that gives 1×1 maps in the end.
    """
    return MobileNetV2(num_classes, in_channels, small, width_mult, dropout)


class MobileNetV2(nn.Module):
    """The network of Table 2; ``mobilenet_v2`` says what the arguments are."""

    def __init__(self, num_classes: int, in_channels: int, small: bool, width_mult: float, dropout: float) -> None:
        super().__init__()
        check_counts(num_classes=num_classes, in_channels=in_channels)
        check_factors(width_mult=width_mult)
        check_dropout(dropout=dropout)
        self.in_channels, self.reduction = in_channels, 8 if small else 32

        first, *strides = strides_for([2, *(stride for _, _, _, stride in STAGES)], small)
        channels = make_divisible(32 * width_mult)
        features: list[nn.Module] = [conv_norm_activation(in_channels, channels, 3, first, activation=nn.ReLU6)]
        for (expansion, wide, repetitions, _), stride in zip(STAGES, strides, strict=True):
            out_channels = make_divisible(wide * width_mult)
            for i in range(repetitions):
                features.append(InvertedResidual(channels, out_channels, stride if i == 0 else 1, expansion))
                channels = out_channels
        last_channels = make_divisible(1280 * max(1.0, width_mult))
        features.append(conv_norm_activation(channels, last_channels, 1, activation=nn.ReLU6))
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(last_channels, num_classes))
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        check_images(x, self.in_channels, type(self).__name__)
        check_batch(x, self.reduction, self.features)
        x = self.features(x)  # B × 1280 × H/32 × W/32
        x = torch.flatten(self.avgpool(x), 1)
        return self.classifier(x)


class InvertedResidual(nn.Module):
    """1×1 to ``expansion`` times the channels, 3×3 depthwise, 1×1 back without activation; figure 3b and Table 1.

    The input is added where it has the output's shape. The narrow ends have no activation, because a ReLU in few
    channels loses what it sets to 0 (section 3.2).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = in_channels * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(conv_norm_activation(in_channels, wide, 1, activation=nn.ReLU6))
        layers += [
            conv_norm_activation(wide, wide, 3, stride, groups=wide, activation=nn.ReLU6),
            nn.Conv2d(wide, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        ]
        self.conv = nn.Sequential(*layers)
        self.is_residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.is_residual else self.conv(x)
