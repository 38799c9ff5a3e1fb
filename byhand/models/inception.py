"""GoogLeNet: Szegedy et al., Going Deeper with Convolutions (2015); Dive into Deep Learning, section 7.4."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from byhand.errors import SettingsError
from byhand.models.alexnets import check_images, learns_statistics, scaled
from byhand.models.linear import check_alone, check_counts, check_dropout


class GoogLeNetOutputs(NamedTuple):
    """What training sees, each (B, num_classes): loss = L(logits) + 0.3 L(aux_logits2) + 0.3 L(aux_logits1)."""

    logits: Tensor
    aux_logits2: Tensor
    aux_logits1: Tensor


def googlenet(
    num_classes: int = 1000,
    in_channels: int = 3,
    small: bool = False,
    aux_logits: bool = True,
    paper: bool = False,
    dropout: float | None = None,
    dropout_aux: float = 0.7,
    transform_input: bool = False,
    width: float = 1.0,
) -> "GoogLeNet":
    """Logits of images, (B, in_channels, H, W) -> (B, num_classes), H and W ≥ 15, made for 224: 6,624,904 parameters.

    torchvision's GoogLeNet, with its keys and initialisation. With ``aux_logits`` two auxiliary heads stand beside it,
    13,004,888 parameters in all; they only serve training, where the network returns ``GoogLeNetOutputs``.

    torchvision's differs from the paper in that every convolution has batch normalisation and no bias, and that the
    third branch of a block has a 3×3 where the paper has a 5×5 (pytorch/vision, issue 906). ``paper=True`` is the
    paper's (section 5, Table 1, Figure 3): biases and no batch normalisation, 5×5, local response normalisation around
    the second and third convolution, auxiliary heads that average 5×5 windows at stride 3 (and so need 79 pixels):
    6,998,552 parameters without the heads, 13,378,280 with them. ``dropout`` before the last layer is 0.2 in
    torchvision and 0.4 in the paper unless given, ``dropout_aux`` 0.7 in both. The paper's starts as He et al. (2015),
    as it does not say how its own did; and its normalisation has the numbers of Caffe's model, as it has none.

    ``transform_input=True`` turns images normalised with ImageNet's mean and deviation into (pixel − 0.5) / 0.5, which
    torchvision's published weights were trained on; it needs in_channels=3.

    ``small=True``, for 28 to 64 pixels (at least 4): 3×3 at stride 1 in place of 7×7 at stride 2, and no second
    pooling, so that the blocks see 14, 7 and 4 pixels for 28; heads average to 4×4 in either form. ``width`` scales the
    channels of every layer.
    """
    check_counts(num_classes=num_classes, in_channels=in_channels)
    dropout = (0.4 if paper else 0.2) if dropout is None else dropout
    check_dropout(dropout=dropout, dropout_aux=dropout_aux)
    if transform_input and in_channels != 3:
        raise SettingsError(
            f"transform_input=True is for images of 3 channels, not in_channels={in_channels}; leave it False"
        )
    network = GoogLeNet(
        num_classes, in_channels, small, aux_logits, paper, dropout, dropout_aux, transform_input, width
    )
    _start(network, paper)
    return network


class GoogLeNet(nn.Module):
    """Three convolutions, nine blocks in three stages, a global average and one linear layer; see ``googlenet``."""

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        small: bool,
        aux_logits: bool,
        paper: bool,
        dropout: float,
        dropout_aux: float,
        transform_input: bool,
        width: float,
    ) -> None:
        super().__init__()
        self.in_channels, self.aux_logits, self.transform_input = in_channels, aux_logits, transform_input
        # Each 3×3 pooling needs maps of 2 and halves them; the paper's heads need maps of 5 after three halvings.
        self.smallest = 4 if small else 79 if paper and aux_logits else 15
        self.alone = 12 if small else 47  # from here on the last blocks have two pixels along the longer side

        def block(received: int, *channels: int) -> Inception:
            return Inception(received, [scaled(c, width) for c in channels], paper)

        c1, c2, c3 = (scaled(channels, width) for channels in (64, 64, 192))
        stem = {"kernel_size": 3, "padding": 1} if small else {"kernel_size": 7, "stride": 2, "padding": 3}
        self.conv1 = convolution(in_channels, c1, paper=paper, **stem)  # 64 × 112 × 112
        self.maxpool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)  # 64 × 56 × 56
        self.norm1 = nn.LocalResponseNorm(5) if paper else nn.Identity()
        self.conv2 = convolution(c1, c2, kernel_size=1, paper=paper)
        self.conv3 = convolution(c2, c3, kernel_size=3, padding=1, paper=paper)  # 192 × 56 × 56
        self.norm2 = nn.LocalResponseNorm(5) if paper else nn.Identity()
        self.maxpool2 = nn.Identity() if small else nn.MaxPool2d(3, stride=2, ceil_mode=True)

        self.inception3a = block(c3, 64, 96, 128, 16, 32, 32)  # 256 × 28 × 28
        self.inception3b = block(self.inception3a.out_channels, 128, 128, 192, 32, 96, 64)  # 480 × 28 × 28
        self.maxpool3 = nn.MaxPool2d(3, stride=2, ceil_mode=True)

        self.inception4a = block(self.inception3b.out_channels, 192, 96, 208, 16, 48, 64)  # 512 × 14 × 14
        self.inception4b = block(self.inception4a.out_channels, 160, 112, 224, 24, 64, 64)  # 512 × 14 × 14
        self.inception4c = block(self.inception4b.out_channels, 128, 128, 256, 24, 64, 64)  # 512 × 14 × 14
        self.inception4d = block(self.inception4c.out_channels, 112, 144, 288, 32, 64, 64)  # 528 × 14 × 14
        self.inception4e = block(self.inception4d.out_channels, 256, 160, 320, 32, 128, 128)  # 832 × 14 × 14
        self.maxpool4 = nn.MaxPool2d(2, stride=2, ceil_mode=True)

        self.inception5a = block(self.inception4e.out_channels, 256, 160, 320, 32, 128, 128)  # 832 × 7 × 7
        self.inception5b = block(self.inception5a.out_channels, 384, 192, 384, 48, 128, 128)  # 1024 × 7 × 7

        self.aux1: nn.Module | None = None
        self.aux2: nn.Module | None = None
        if aux_logits:
            windows = paper and not small
            self.aux1 = auxiliary(self.inception4a.out_channels, num_classes, dropout_aux, paper, windows, width)
            self.aux2 = auxiliary(self.inception4d.out_channels, num_classes, dropout_aux, paper, windows, width)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(self.inception5b.out_channels, num_classes)

    def forward(self, x: Tensor) -> Tensor | GoogLeNetOutputs:
        check_images(x, "googlenet", self.in_channels, self.smallest)
        if learns_statistics(self):
            check_alone(x, self.alone)
        if self.transform_input:
            x = _centred(x)
        x = self.norm1(self.maxpool1(self.conv1(x)))  # B × 64 × 56 × 56
        x = self.norm2(self.conv3(self.conv2(x)))  # B × 192 × 56 × 56
        x = self.maxpool2(x)  # B × 192 × 28 × 28
        x = self.inception3b(self.inception3a(x))  # B × 480 × 28 × 28
        x = x4a = self.inception4a(self.maxpool3(x))  # B × 512 × 14 × 14
        x = x4d = self.inception4d(self.inception4c(self.inception4b(x)))  # B × 528 × 14 × 14
        x = self.maxpool4(self.inception4e(x))  # B × 832 × 7 × 7
        x = self.inception5b(self.inception5a(x))  # B × 1024 × 7 × 7
        x = torch.flatten(self.avgpool(x), 1)  # B × 1024
        logits = self.fc(self.dropout(x))
        if self.training and self.aux1 is not None and self.aux2 is not None:
            return GoogLeNetOutputs(logits, self.aux2(x4d), self.aux1(x4a))
        return logits


class Inception(nn.Module):
    """Four branches over the same maps, joined channel by channel, (B, C, H, W) -> (B, C', H, W); paper, Figure 2b.

        1×1    1×1 → 3×3    1×1 → 5×5    3×3 pooling → 1×1

    The 1×1 before a large kernel reduces its channels, and so its cost. ``channels`` are the outputs of these six
    convolutions from left to right, as in Table 1; ``paper=False`` has 3×3 in place of 5×5.
    """

    def __init__(self, in_channels: int, channels: Sequence[int], paper: bool) -> None:
        super().__init__()
        one, to_three, three, to_five, five, pooled = channels
        self.out_channels = one + three + five + pooled
        size = 5 if paper else 3
        self.branch1 = convolution(in_channels, one, kernel_size=1, paper=paper)
        self.branch2 = nn.Sequential(
            convolution(in_channels, to_three, kernel_size=1, paper=paper),
            convolution(to_three, three, kernel_size=3, padding=1, paper=paper),
        )
        self.branch3 = nn.Sequential(
            convolution(in_channels, to_five, kernel_size=1, paper=paper),
            convolution(to_five, five, kernel_size=size, padding=size // 2, paper=paper),
        )
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(kernel_size=3, stride=1, padding=1, ceil_mode=True),
            convolution(in_channels, pooled, kernel_size=1, paper=paper),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


def convolution(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0, paper: bool = False
) -> nn.Sequential:
    """Convolution, batch normalisation (not in the paper's form, which has a bias), ReLU."""
    layers = OrderedDict[str, nn.Module](
        conv=nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=paper)
    )
    if not paper:
        layers["bn"] = nn.BatchNorm2d(out_channels, eps=0.001)
    layers["relu"] = nn.ReLU()
    return nn.Sequential(layers)


def auxiliary(
    in_channels: int, num_classes: int, dropout: float, paper: bool, windows: bool, width: float
) -> nn.Sequential:
    """A head over the maps inside, (B, C, H, W) -> (B, num_classes), that carries the loss to the early blocks.

    An average to 4×4, 128 channels, 1024 hidden values (section 5); ``windows`` for the paper's 5×5 at stride 3, which
    makes 4×4 of 14×14.
    """
    channels, hidden = scaled(128, width), scaled(1024, width)
    average: nn.Module = nn.AdaptiveAvgPool2d((4, 4))
    if windows:
        average = nn.Sequential(nn.AvgPool2d(kernel_size=5, stride=3), average)
    return nn.Sequential(
        OrderedDict(
            avgpool=average,
            conv=convolution(in_channels, channels, kernel_size=1, paper=paper),
            flatten=nn.Flatten(),
            fc1=nn.Linear(channels * 4 * 4, hidden),
            relu=nn.ReLU(),
            dropout=nn.Dropout(dropout),
            fc2=nn.Linear(hidden, num_classes),
        )
    )


def _centred(x: Tensor) -> Tensor:
    mean, deviation = x.new_tensor([0.485, 0.456, 0.406]), x.new_tensor([0.229, 0.224, 0.225])  # ImageNet's
    return (x * deviation[:, None, None] + mean[:, None, None] - 0.5) / 0.5


def _start(network: GoogLeNet, paper: bool) -> None:
    for layer in network.modules():
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        if paper:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        else:
            # The same distribution by way of scipy takes half a minute (pytorch/vision, issue 2166).
            nn.init.trunc_normal_(layer.weight, std=0.01, a=-2.0, b=2.0)
