"""DenseNet: Huang, Liu, van der Maaten & Weinberger, Densely Connected Convolutional Networks (2017).

Every layer sees the maps of all layers before it in its block. Keys and initialisation are torchvision's.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from byhand.errors import SettingsError
from byhand.models.linear import check_counts
from byhand.models.resnet import check_images, scaled
from byhand.models.resnet_cifar import check_small


class DenseLayer(nn.Module):
    """x and ``growth_rate`` new maps of it behind, (B, in_channels, H, W) -> (B, in_channels + growth_rate, H, W).

    x_l = H_l([x_0, ..., x_l-1]), equation 2, with the bottleneck of DenseNet-B: H is normalisation, ReLU, a 1×1
    convolution to 4 · growth_rate maps, normalisation, ReLU, a 3×3 convolution. The concatenation that the next layer
    asks for stands at the end of this one, so that a block is a plain sequence of layers.
    """

    def __init__(self, in_channels: int, growth_rate: int, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, 4 * growth_rate, kernel_size=1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth_rate)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(4 * growth_rate, growth_rate, kernel_size=3, padding=1, bias=False)
        self.dropout = nn.Dropout(drop_rate) if drop_rate else None

    def forward(self, x: Tensor) -> Tensor:
        new = self.conv1(self.relu1(self.norm1(x)))  # (B, 4k, H, W)
        new = self.conv2(self.relu2(self.norm2(new)))  # (B, k, H, W)
        if self.dropout is not None:
            new = self.dropout(new)
        return torch.cat([x, new], 1)


def dense_block(depth: int, in_channels: int, growth_rate: int, drop_rate: float = 0.0) -> nn.Sequential:
    """``depth`` dense layers, (B, in_channels, H, W) -> (B, in_channels + depth · growth_rate, H, W)."""
    layers = (DenseLayer(in_channels + i * growth_rate, growth_rate, drop_rate) for i in range(depth))
    return nn.Sequential(OrderedDict((f"denselayer{i}", layer) for i, layer in enumerate(layers, start=1)))


def transition(in_channels: int) -> nn.Sequential:
    """Half the maps of half the side, (B, C, H, W) -> (B, ⌊C/2⌋, ⌊H/2⌋, ⌊W/2⌋): the C of DenseNet-BC, θ = 0.5."""
    return nn.Sequential(
        OrderedDict(
            norm=nn.BatchNorm2d(in_channels),
            relu=nn.ReLU(),
            conv=nn.Conv2d(in_channels, in_channels // 2, kernel_size=1, bias=False),
            pool=nn.AvgPool2d(kernel_size=2, stride=2),
        )
    )


class DenseNet(nn.Module):
    """Logits of images, (B, in_channels, H, W) -> (B, num_classes), from blocks of ``depths`` dense layers; table 1.

    ``small`` begins as the paper's networks for CIFAR do, with a 3×3 convolution alone; else a 7×7 of stride 2,
    normalisation, ReLU and max pooling. ``drop_rate`` is the dropout after each 3×3 convolution (0.2 in the paper
    where nothing is augmented; torchvision's 0).

    Convolutions start normal with variance 2 / fan_in, normalisation with scale 1 and shift 0, the linear layer's bias
    at 0. The forward raises ShapeError for images of other channels, smaller than it can take (29 × 29, or 8 × 8 with
    ``small`` and four blocks), and for one small image alone in training.
    """

    def __init__(
        self,
        growth_rate: int,
        depths: Sequence[int],
        first_channels: int,
        num_classes: int = 1000,
        in_channels: int = 3,
        small: bool = False,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        check_counts(num_classes=num_classes, in_channels=in_channels, growth_rate=growth_rate)
        if not 0 <= drop_rate <= 1:
            raise SettingsError(f"drop_rate={drop_rate} must lie in 0..1")
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if small:
            layers["conv0"] = nn.Conv2d(in_channels, first_channels, kernel_size=3, padding=1, bias=False)
        else:
            layers["conv0"] = nn.Conv2d(in_channels, first_channels, kernel_size=7, stride=2, padding=3, bias=False)
            layers["norm0"] = nn.BatchNorm2d(first_channels)
            layers["relu0"] = nn.ReLU()
            layers["pool0"] = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        channels = first_channels
        for i, depth in enumerate(depths, start=1):
            layers[f"denseblock{i}"] = dense_block(depth, channels, growth_rate, drop_rate)
            channels += depth * growth_rate
            if i < len(depths):
                layers[f"transition{i}"] = transition(channels)
                channels //= 2
        layers["norm5"] = nn.BatchNorm2d(channels)  # torchvision's name, whatever the number of blocks
        self.features = nn.Sequential(layers)
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.classifier = nn.Linear(channels, num_classes)

        halved = 2 ** (len(depths) - 1)  # by the transitions, which leave out an odd row; the stem leaves ⌈H / 4⌉
        self.smallest = halved if small else 4 * (halved - 1) + 1
        self.alone = 2 * halved if small else 4 * (2 * halved - 1) + 1

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        first: Any = self.features.conv0
        last: Any = self.features.norm5
        check_images(x, first.in_channels, self.smallest, self.alone if last.training else None)
        x = self.avgpool(self.relu(self.features(x)))  # (B, C, 1, 1)
        return self.classifier(torch.flatten(x, 1))


def densenet121(
    num_classes: int = 1000, in_channels: int = 3, small: bool = False, width: float = 1.0, drop_rate: float = 0.0
) -> DenseNet:
    """DenseNet-121: 7,978,856 parameters, 2.8 · 10⁹ multiply-adds at 224 × 224; ``width`` scales the growth rate."""
    k, first = scaled(32, width), scaled(64, width)
    return DenseNet(k, (6, 12, 24, 16), first, num_classes, in_channels, small, drop_rate)


def densenet161(
    num_classes: int = 1000, in_channels: int = 3, small: bool = False, width: float = 1.0, drop_rate: float = 0.0
) -> DenseNet:
    """DenseNet-161: 28,681,000 parameters, 7.7 · 10⁹ multiply-adds at 224 × 224; growth rate 48."""
    k, first = scaled(48, width), scaled(96, width)
    return DenseNet(k, (6, 12, 36, 24), first, num_classes, in_channels, small, drop_rate)


def densenet169(
    num_classes: int = 1000, in_channels: int = 3, small: bool = False, width: float = 1.0, drop_rate: float = 0.0
) -> DenseNet:
    """DenseNet-169: 14,149,480 parameters, 3.4 · 10⁹ multiply-adds at 224 × 224."""
    k, first = scaled(32, width), scaled(64, width)
    return DenseNet(k, (6, 12, 32, 32), first, num_classes, in_channels, small, drop_rate)


def densenet201(
    num_classes: int = 1000, in_channels: int = 3, small: bool = False, width: float = 1.0, drop_rate: float = 0.0
) -> DenseNet:
    """DenseNet-201: 20,013,928 parameters, 4.3 · 10⁹ multiply-adds at 224 × 224."""
    k, first = scaled(32, width), scaled(64, width)
    return DenseNet(k, (6, 12, 48, 32), first, num_classes, in_channels, small, drop_rate)


def densenet_cifar(
    num_classes: int = 10,
    in_channels: int = 3,
    depth: int = 100,
    growth_rate: int = 12,
    drop_rate: float = 0.0,
    small: bool = True,
) -> DenseNet:
    """DenseNet-BC for images of 28 to 64 pixels, (B, in_channels, H, W) -> (B, num_classes); section 4.1, table 2.

    Three blocks of (depth − 4) / 6 layers after a 3×3 convolution to 2 · growth_rate maps. As it stands, L=100 and
    k=12, it has 769,162 parameters. Raises SettingsError for a depth that is not 6n + 4.
    """
    if not isinstance(depth, int) or depth < 10 or (depth - 4) % 6:
        raise SettingsError(f"depth={depth!r} must be 6n + 4 (two convolutions a layer, three blocks): 22, 40, 100")
    check_counts(growth_rate=growth_rate)
    check_small(small)
    depths = [(depth - 4) // 6] * 3
    return DenseNet(growth_rate, depths, 2 * growth_rate, num_classes, in_channels, True, drop_rate)
