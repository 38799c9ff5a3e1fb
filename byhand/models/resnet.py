"""ResNet, ResNeXt and Wide ResNet as for ImageNet, with torchvision's names, keys and initialisation.

He, Zhang, Ren & Sun, Deep Residual Learning for Image Recognition (2016); Xie et al., Aggregated Residual
Transformations for Deep Neural Networks (2017); Zagoruyko & Komodakis, Wide Residual Networks (2016). Networks for
CIFAR are in resnet_cifar.py.
"""

import math

import torch
from torch import Tensor, nn

from byhand.errors import SettingsError, ShapeError
from byhand.models.linear import check_alone, check_counts


def check_images(x: Tensor, in_channels: int, smallest: int = 1, alone: int | None = None) -> None:
    """Nothing, if the network can take x: images (B, in_channels, H, W) of at least ``smallest`` pixels a side.

    ``alone``, in training: the longer side from which on one image leaves several pixels to the last batch
    normalisation.

    Raises ShapeError, which says what the network takes.
    """
    if x.ndim != 4:
        raise ShapeError(f"input of shape {tuple(x.shape)} must be a batch of images, (B, {in_channels}, H, W)")
    _, C, H, W = x.shape
    if in_channels != C:
        raise ShapeError(
            f"images of {C} channels, {tuple(x.shape)}, in a network for {in_channels}; build it with in_channels={C}"
        )
    if min(H, W) < smallest:
        raise ShapeError(
            f"images of {H} × {W} pixels are too small for this network, which takes {smallest} × {smallest} and "
            "larger; enlarge them, or build it with small=True if it was not"
        )
    if alone is not None:
        check_alone(x, alone)


def scaled(channels: int, width: float) -> int:
    """The number of channels times ``width``, rounded, at least 1; raises SettingsError for a width not above 0."""
    if isinstance(width, bool) or not isinstance(width, int | float) or not 0 < width < math.inf:
        raise SettingsError(f"width={width!r} must be a number above 0; 1 is the paper's, 0.5 has half the channels")
    return max(1, round(channels * width))


def projection(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """What fits x to an output of another shape before they are added: option B of section 3.3; None where x fits."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
    )


class BasicBlock(nn.Module):
    """relu(F(x) + x) with F of two 3×3 convolutions, (B, in_channels, H, W) -> (B, channels, H/stride, W/stride).

    Figure 5, left.
    """

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.downsample = projection(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """relu(F(x) + x) with F of 1×1, 3×3 and 1×1, (B, in_channels, H, W) -> (B, 4 channels, H/stride, W/stride).

    Figure 5, right. The 3×3 works on ``channels`` · width_per_group / 64 · groups channels: 32 groups of 4 make it
    ResNeXt's (figure 3c there), width_per_group=128 the wide one. The stride stands at the 3×3, as in torchvision; the
    paper has it at the first 1×1, which passes over three pixels of four (3.8 instead of 4.1 · 10⁹ multiply-adds).
    """

    expansion = 4

    def __init__(
        self, in_channels: int, channels: int, stride: int = 1, groups: int = 1, width_per_group: int = 64
    ) -> None:
        super().__init__()
        inner = max(1, int(channels * (width_per_group / 64))) * groups
        outer = channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, inner, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, kernel_size=3, stride=stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, outer, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(outer)
        self.relu = nn.ReLU()
        self.downsample = projection(in_channels, outer, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """Logits of images, (B, in_channels, H, W) -> (B, num_classes), from four stages of ``depths`` blocks; table 1.

    ``form`` is that of the blocks: ``groups`` and ``width_per_group`` of Bottleneck. ``width`` multiplies the channels
    of every stage. ``small`` is for images of 28 to 64 pixels: a 3×3 convolution of stride 1 in place of the 7×7 of
    stride 2, and no max pooling, so that the last maps have an eighth of the images' side, not a 32nd.

    Convolutions start as He et al. (2015) have it, normal with variance 2 / fan_out, normalisation with scale 1 and
    shift 0. ``zero_init_residual`` gives the last scale of each block 0 instead, so that each begins as the identity
    (Goyal et al. 2017, Accurate, Large Minibatch SGD, section 5.1).

    The forward raises ShapeError for images of other channels, and for one small image alone in training.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, int, int, int],
        num_classes: int = 1000,
        in_channels: int = 3,
        small: bool = False,
        width: float = 1.0,
        zero_init_residual: bool = False,
        **form: int,
    ) -> None:
        super().__init__()
        check_counts(num_classes=num_classes, in_channels=in_channels)
        channels = [scaled(64 * 2**i, width) for i in range(4)]
        outer = [c * block.expansion for c in channels]
        self.alone = 9 if small else 33  # the last map has ⌈H / 8⌉ rows, or ⌈H / 32⌉
        if small:
            self.conv1 = nn.Conv2d(in_channels, channels[0], kernel_size=3, padding=1, bias=False)
        else:
            self.conv1 = nn.Conv2d(in_channels, channels[0], kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0])
        self.relu = nn.ReLU()
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = stage(block, depths[0], channels[0], channels[0], 1, **form)
        self.layer2 = stage(block, depths[1], outer[0], channels[1], 2, **form)
        self.layer3 = stage(block, depths[2], outer[1], channels[2], 2, **form)
        self.layer4 = stage(block, depths[3], outer[2], channels[3], 2, **form)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(outer[3], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif zero_init_residual and isinstance(module, BasicBlock):
                nn.init.zeros_(module.bn2.weight)
            elif zero_init_residual and isinstance(module, Bottleneck):
                nn.init.zeros_(module.bn3.weight)

    def forward(self, x: Tensor) -> Tensor:
        check_images(x, self.conv1.in_channels, alone=self.alone if self.bn1.training else None)
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))  # (B, 64, H/4, W/4)
        x = self.layer1(x)
        x = self.layer2(x)  # (B, ·, H/8, W/8)
        x = self.layer3(x)  # (B, ·, H/16, W/16)
        x = self.layer4(x)  # (B, ·, H/32, W/32)
        return self.fc(torch.flatten(self.avgpool(x), 1))


def stage(
    block: type[BasicBlock] | type[Bottleneck], depth: int, in_channels: int, channels: int, stride: int, **form: int
) -> nn.Sequential:
    """``depth`` blocks one after the other, the first with the stride."""
    first = block(in_channels, channels, stride, **form)
    return nn.Sequential(first, *(block(channels * block.expansion, channels, 1, **form) for _ in range(depth - 1)))


def resnet18(
    num_classes: int = 1000,
    in_channels: int = 3,
    small: bool = False,
    width: float = 1.0,
    zero_init_residual: bool = False,
) -> ResNet:
    """ResNet-18: 11,689,512 parameters, 1.8 · 10⁹ multiply-adds at 224 × 224."""
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes, in_channels, small, width, zero_init_residual)


def resnet34(
    num_classes: int = 1000,
    in_channels: int = 3,
    small: bool = False,
    width: float = 1.0,
    zero_init_residual: bool = False,
) -> ResNet:
    """ResNet-34: 21,797,672 parameters, 3.7 · 10⁹ multiply-adds at 224 × 224."""
    return ResNet(BasicBlock, (3, 4, 6, 3), num_classes, in_channels, small, width, zero_init_residual)


def resnet50(
    num_classes: int = 1000,
    in_channels: int = 3,
    small: bool = False,
    width: float = 1.0,
    zero_init_residual: bool = False,
) -> ResNet:
    """ResNet-50: 25,557,032 parameters, 4.1 · 10⁹ multiply-adds at 224 × 224."""
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, in_channels, small, width, zero_init_residual)


def resnet101(
    num_classes: int = 1000,
    in_channels: int = 3,
    small: bool = False,
    width: float = 1.0,
    zero_init_residual: bool = False,
) -> ResNet:
    """ResNet-101: 44,549,160 parameters, 7.8 · 10⁹ multiply-adds at 224 × 224."""
    return ResNet(Bottleneck, (3, 4, 23, 3), num_classes, in_channels, small, width, zero_init_residual)


def resnet152(
    num_classes: int = 1000,
    in_channels: int = 3,
    small: bool = False,
    width: float = 1.0,
    zero_init_residual: bool = False,
) -> ResNet:
    """ResNet-152: 60,192,808 parameters, 11.5 · 10⁹ multiply-adds at 224 × 224."""
    return ResNet(Bottleneck, (3, 8, 36, 3), num_classes, in_channels, small, width, zero_init_residual)


def resnext50_32x4d(
    num_classes: int = 1000,
    in_channels: int = 3,
    small: bool = False,
    width: float = 1.0,
    zero_init_residual: bool = False,
) -> ResNet:
    """ResNeXt-50 of 32 groups, 4 channels each: 25,028,904 parameters, 4.2 · 10⁹ multiply-adds at 224 × 224."""
    form = {"groups": 32, "width_per_group": 4}
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, in_channels, small, width, zero_init_residual, **form)


def resnext101_32x8d(
    num_classes: int = 1000,
    in_channels: int = 3,
    small: bool = False,
    width: float = 1.0,
    zero_init_residual: bool = False,
) -> ResNet:
    """ResNeXt-101 of 32 groups, 8 channels each: 88,791,336 parameters, 16.4 · 10⁹ multiply-adds at 224 × 224."""
    form = {"groups": 32, "width_per_group": 8}
    return ResNet(Bottleneck, (3, 4, 23, 3), num_classes, in_channels, small, width, zero_init_residual, **form)


def wide_resnet50_2(
    num_classes: int = 1000,
    in_channels: int = 3,
    small: bool = False,
    width: float = 1.0,
    zero_init_residual: bool = False,
) -> ResNet:
    """ResNet-50 with 3×3 convolutions twice as wide: 68,883,240 parameters, 11.4 · 10⁹ multiply-adds."""
    form = {"width_per_group": 128}
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, in_channels, small, width, zero_init_residual, **form)


def wide_resnet101_2(
    num_classes: int = 1000,
    in_channels: int = 3,
    small: bool = False,
    width: float = 1.0,
    zero_init_residual: bool = False,
) -> ResNet:
    """ResNet-101 with 3×3 convolutions twice as wide: 126,886,696 parameters, 22.8 · 10⁹ multiply-adds."""
    form = {"width_per_group": 128}
    return ResNet(Bottleneck, (3, 4, 23, 3), num_classes, in_channels, small, width, zero_init_residual, **form)
