"""ResNets for CIFAR, after activation (He et al. 2016a, section 4.2) and before it (He et al. 2016b).

He, Zhang, Ren & Sun, Deep Residual Learning for Image Recognition (CVPR 2016); Identity Mappings in Deep Residual
Networks (ECCV 2016). Stages of 16, 32 and 64 channels on maps of 32, 16 and 8 pixels; a depth of 6n + 2 is a
convolution, n blocks of two a stage, and a linear layer. ``shortcut=False`` leaves the shortcuts out: the plain
networks that section 4.2 sets beside them, of the same layers and parameters. Those for ImageNet are in resnet.py.
"""

import torch
from torch import Tensor, nn

from byhand.errors import SettingsError
from byhand.models.linear import check_counts
from byhand.models.resnet import check_images, scaled

ALONE = 5  # pixels a side; the last map has ⌈H / 4⌉ rows


def identity_shortcut(x: Tensor, channels: int, stride: int) -> Tensor:
    """x in the shape of the block's output, without parameters: option A of section 3.3.

    Of a stride s every s-th pixel is left, and new channels hold zeros.
    """
    if stride > 1:
        x = x[:, :, ::stride, ::stride]
    B, C, H, W = x.shape
    if channels > C:
        x = torch.cat([x, x.new_zeros(B, channels - C, H, W)], 1)
    return x


class Block(nn.Module):
    """relu(F(x) + x) with F of two 3×3 convolutions, (B, in_channels, H, W) -> (B, channels, H/stride, W/stride).

    Without its ``shortcut`` relu(F(x)), a block of the plain networks.
    """

    def __init__(self, in_channels: int, channels: int, stride: int = 1, shortcut: bool = True) -> None:
        super().__init__()
        self.channels, self.stride, self.shortcut = channels, stride, shortcut
        self.conv1 = nn.Conv2d(in_channels, channels, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.shortcut:
            y = y + identity_shortcut(x, self.channels, self.stride)
        return self.relu(y)


class PreActBlock(nn.Module):
    """F(x) + x, normalised and activated before each convolution, so that x goes on untouched: 2016b, figure 1b.

    In the ``first`` block of a network the activation stands before the paths part (appendix there), so the shortcut
    takes the activated x.
    """

    def __init__(self, in_channels: int, channels: int, stride: int = 1, first: bool = False) -> None:
        super().__init__()
        self.channels, self.stride, self.first = channels, stride, first
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        active = self.relu(self.bn1(x))
        y = self.conv2(self.relu(self.bn2(self.conv1(active))))
        return y + identity_shortcut(active if self.first else x, self.channels, self.stride)


class PreActBottleneck(nn.Module):
    """F(x) + x with F of 1×1, 3×3 and 1×1, (B, in_channels, H, W) -> (B, 4 channels, H/stride, W/stride).

    Where the shape changes, a 1×1 convolution of the activated x stands in the shortcut, and the stride at the first
    1×1, as in the authors' own code (KaimingHe/resnet-1k-layers).
    """

    def __init__(self, in_channels: int, channels: int, stride: int = 1, first: bool = False) -> None:
        super().__init__()
        outer = 4 * channels
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, kernel_size=1, stride=stride, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, outer, kernel_size=1, bias=False)
        self.relu = nn.ReLU()
        self.project = None
        if first or stride > 1 or in_channels != outer:
            self.project = nn.Conv2d(in_channels, outer, kernel_size=1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = self.relu(self.bn1(x))
        y = self.conv1(active)
        y = self.conv2(self.relu(self.bn2(y)))
        y = self.conv3(self.relu(self.bn3(y)))
        return y + (x if self.project is None else self.project(active))


def blocks_a_stage(depth: int, convolutions: int) -> int:
    """n of a network of 3 · ``convolutions`` · n + 2 layers; raises SettingsError for a depth that is none."""
    layers = 3 * convolutions
    if not isinstance(depth, int) or depth < layers + 2 or (depth - 2) % layers:
        raise SettingsError(f"depth={depth!r} must be {layers}n + 2: {2 + layers}, {2 + 2 * layers}, {2 + 3 * layers}")
    return (depth - 2) // layers


def init_convolutions(network: nn.Module) -> None:
    """Nothing: draws every convolution, normal with variance 2 / fan_out (He et al. 2015, Delving Deep, eq. 14)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def check_small(small: bool) -> None:
    """Nothing, if it is True: these networks have no other form. Else a SettingsError."""
    if small is not True:
        raise SettingsError(f"small={small!r}: this network is made for images of 28 to 64 pixels; leave small out")


class CifarResNet(nn.Module):
    """Logits of images, (B, in_channels, H, W) -> (B, num_classes): section 4.2, with the shortcuts of option A.

    ``width`` multiplies the channels. With ``zero_init_residual`` the last scale of each block starts at 0, and the
    block as the identity. Without ``shortcut`` it is the plain network of that depth. Raises SettingsError for a depth
    that is not 6n + 2, and for both at once: plain blocks of scale 0 would pass on nothing; the forward ShapeError for
    images of other channels, and for one of 4 pixels a side or fewer alone in training.
    """

    def __init__(
        self,
        depth: int,
        num_classes: int = 10,
        in_channels: int = 3,
        width: float = 1.0,
        zero_init_residual: bool = False,
        shortcut: bool = True,
        small: bool = True,
    ) -> None:
        super().__init__()
        check_small(small)
        check_counts(num_classes=num_classes, in_channels=in_channels)
        if zero_init_residual and not shortcut:
            raise SettingsError(
                "zero_init_residual=True needs shortcut=True: a plain block of scale 0 passes nothing on"
            )
        n = blocks_a_stage(depth, 2)
        a, b, c = (scaled(channels, width) for channels in (16, 32, 64))
        self.conv1 = nn.Conv2d(in_channels, a, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(a)
        self.relu = nn.ReLU()
        self.layer1 = nn.Sequential(*(Block(a, a, 1, shortcut) for _ in range(n)))
        self.layer2 = nn.Sequential(Block(a, b, 2, shortcut), *(Block(b, b, 1, shortcut) for _ in range(n - 1)))
        self.layer3 = nn.Sequential(Block(b, c, 2, shortcut), *(Block(c, c, 1, shortcut) for _ in range(n - 1)))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(c, num_classes)
        init_convolutions(self)
        for module in self.modules():
            if zero_init_residual and isinstance(module, Block):
                nn.init.zeros_(module.bn2.weight)

    def forward(self, x: Tensor) -> Tensor:
        check_images(x, self.conv1.in_channels, alone=ALONE if self.bn1.training else None)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer1(x)
        x = self.layer2(x)  # (B, 32, H/2, W/2)
        x = self.layer3(x)  # (B, 64, H/4, W/4)
        return self.fc(torch.flatten(self.avgpool(x), 1))


class PreActCifarResNet(nn.Module):
    """Logits of images, (B, in_channels, H, W) -> (B, num_classes), activated before each convolution and at the end.

    Depths of 6n + 2 have blocks of two 3×3 convolutions and shortcuts of option A; ``bottleneck`` takes 9n + 2 (2016b:
    164 and 1001). With ``zero_init_residual`` the last convolution of each block starts at 0, and the block as the
    identity: a scale of 0 before a ReLU would get no gradient, ever.
    """

    def __init__(
        self,
        depth: int,
        num_classes: int = 10,
        in_channels: int = 3,
        width: float = 1.0,
        zero_init_residual: bool = False,
        bottleneck: bool = False,
        small: bool = True,
    ) -> None:
        super().__init__()
        check_small(small)
        check_counts(num_classes=num_classes, in_channels=in_channels)
        n = blocks_a_stage(depth, 3 if bottleneck else 2)
        stem, a, b, c = (scaled(channels, width) for channels in (16, 16, 32, 64))
        block = PreActBottleneck if bottleneck else PreActBlock
        wider = 4 if bottleneck else 1
        self.conv1 = nn.Conv2d(in_channels, stem, kernel_size=3, padding=1, bias=False)
        self.layer1 = nn.Sequential(block(stem, a, first=True), *(block(wider * a, a) for _ in range(n - 1)))
        self.layer2 = nn.Sequential(block(wider * a, b, stride=2), *(block(wider * b, b) for _ in range(n - 1)))
        self.layer3 = nn.Sequential(block(wider * b, c, stride=2), *(block(wider * c, c) for _ in range(n - 1)))
        self.bn = nn.BatchNorm2d(wider * c)
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(wider * c, num_classes)
        init_convolutions(self)
        for module in self.modules():
            if zero_init_residual and isinstance(module, PreActBlock):
                nn.init.zeros_(module.conv2.weight)
            elif zero_init_residual and isinstance(module, PreActBottleneck):
                nn.init.zeros_(module.conv3.weight)

    def forward(self, x: Tensor) -> Tensor:
        check_images(x, self.conv1.in_channels, alone=ALONE if self.bn.training else None)
        x = self.layer1(self.conv1(x))
        x = self.layer2(x)  # (B, ·, H/2, W/2)
        x = self.layer3(x)  # (B, ·, H/4, W/4)
        x = self.avgpool(self.relu(self.bn(x)))
        return self.fc(torch.flatten(x, 1))


def resnet20(
    num_classes: int = 10,
    in_channels: int = 3,
    width: float = 1.0,
    zero_init_residual: bool = False,
    shortcut: bool = True,
    small: bool = True,
) -> CifarResNet:
    """ResNet-20 for CIFAR: 269,722 parameters (0.27 million in table 6)."""
    return CifarResNet(20, num_classes, in_channels, width, zero_init_residual, shortcut, small)


def resnet32(
    num_classes: int = 10,
    in_channels: int = 3,
    width: float = 1.0,
    zero_init_residual: bool = False,
    shortcut: bool = True,
    small: bool = True,
) -> CifarResNet:
    """ResNet-32 for CIFAR: 464,154 parameters (0.46 million in table 6)."""
    return CifarResNet(32, num_classes, in_channels, width, zero_init_residual, shortcut, small)


def resnet44(
    num_classes: int = 10,
    in_channels: int = 3,
    width: float = 1.0,
    zero_init_residual: bool = False,
    shortcut: bool = True,
    small: bool = True,
) -> CifarResNet:
    """ResNet-44 for CIFAR: 658,586 parameters (0.66 million in table 6)."""
    return CifarResNet(44, num_classes, in_channels, width, zero_init_residual, shortcut, small)


def resnet56(
    num_classes: int = 10,
    in_channels: int = 3,
    width: float = 1.0,
    zero_init_residual: bool = False,
    shortcut: bool = True,
    small: bool = True,
) -> CifarResNet:
    """ResNet-56 for CIFAR: 853,018 parameters (0.85 million in table 6)."""
    return CifarResNet(56, num_classes, in_channels, width, zero_init_residual, shortcut, small)


def resnet110(
    num_classes: int = 10,
    in_channels: int = 3,
    width: float = 1.0,
    zero_init_residual: bool = False,
    shortcut: bool = True,
    small: bool = True,
) -> CifarResNet:
    """ResNet-110 for CIFAR: 1,727,962 parameters (1.7 million in table 6)."""
    return CifarResNet(110, num_classes, in_channels, width, zero_init_residual, shortcut, small)


def preact_resnet20(
    num_classes: int = 10,
    in_channels: int = 3,
    width: float = 1.0,
    zero_init_residual: bool = False,
    small: bool = True,
) -> PreActCifarResNet:
    """Pre-activation ResNet-20 for CIFAR: 269,722 parameters."""
    return PreActCifarResNet(20, num_classes, in_channels, width, zero_init_residual, small=small)


def preact_resnet32(
    num_classes: int = 10,
    in_channels: int = 3,
    width: float = 1.0,
    zero_init_residual: bool = False,
    small: bool = True,
) -> PreActCifarResNet:
    """Pre-activation ResNet-32 for CIFAR: 464,154 parameters."""
    return PreActCifarResNet(32, num_classes, in_channels, width, zero_init_residual, small=small)


def preact_resnet44(
    num_classes: int = 10,
    in_channels: int = 3,
    width: float = 1.0,
    zero_init_residual: bool = False,
    small: bool = True,
) -> PreActCifarResNet:
    """Pre-activation ResNet-44 for CIFAR: 658,586 parameters."""
    return PreActCifarResNet(44, num_classes, in_channels, width, zero_init_residual, small=small)


def preact_resnet56(
    num_classes: int = 10,
    in_channels: int = 3,
    width: float = 1.0,
    zero_init_residual: bool = False,
    small: bool = True,
) -> PreActCifarResNet:
    """Pre-activation ResNet-56 for CIFAR: 853,018 parameters."""
    return PreActCifarResNet(56, num_classes, in_channels, width, zero_init_residual, small=small)


def preact_resnet110(
    num_classes: int = 10,
    in_channels: int = 3,
    width: float = 1.0,
    zero_init_residual: bool = False,
    small: bool = True,
) -> PreActCifarResNet:
    """Pre-activation ResNet-110 for CIFAR: 1,727,962 parameters."""
    return PreActCifarResNet(110, num_classes, in_channels, width, zero_init_residual, small=small)


def preact_resnet164(
    num_classes: int = 10,
    in_channels: int = 3,
    width: float = 1.0,
    zero_init_residual: bool = False,
    small: bool = True,
) -> PreActCifarResNet:
    """Pre-activation ResNet-164 of bottlenecks for CIFAR: 1,703,258 parameters (1.7 million in 2016b, table 4)."""
    return PreActCifarResNet(164, num_classes, in_channels, width, zero_init_residual, bottleneck=True, small=small)
