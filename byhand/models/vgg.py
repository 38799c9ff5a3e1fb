"""VGG: Simonyan & Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition (2015), section 2.

Nothing but 3×3 convolutions in five blocks, each halving the image; Dive into Deep Learning, section 7.2. The networks
have torchvision's names, keys and initialisation. All take images (B, in_channels, H, W), H and W ≥ 32, made for 224,
and give logits (B, num_classes). ``dropout`` follows the two hidden linear layers.

``small=True``, for 28 to 64 pixels (any size is taken): poolings round up, so that 28 pixels become 14, 7, 4 and 2;
the last pooling and the average to 7×7 become one global average; dropout and a single linear layer follow it, in place
of three. ``width`` scales the channels of every layer.

The ``_bn`` networks have batch normalisation after each convolution, which came after the paper (Ioffe & Szegedy 2015).
"""

from collections import OrderedDict

from torch import nn

from byhand.models.alexnets import ImageSequence, hidden_head, scaled
from byhand.models.linear import check_counts, check_dropout

CHANNELS = (64, 128, 256, 512, 512)  # of the five blocks
CONVOLUTIONS = {  # of each block, by the number of layers with weights; the letter is the column of the paper's Table 1
    11: (1, 1, 2, 2, 2),  # A
    13: (2, 2, 2, 2, 2),  # B
    16: (2, 2, 3, 3, 3),  # D
    19: (2, 2, 4, 4, 4),  # E
}


def vgg11(
    num_classes: int = 1000, in_channels: int = 3, small: bool = False, dropout: float = 0.5, width: float = 1.0
) -> ImageSequence:
    """Configuration A, 8 convolutions and 3 linear layers: 132,863,336 parameters."""
    return _vgg("vgg11", 11, False, num_classes, in_channels, small, dropout, width)


def vgg13(
    num_classes: int = 1000, in_channels: int = 3, small: bool = False, dropout: float = 0.5, width: float = 1.0
) -> ImageSequence:
    """Configuration B, 10 convolutions and 3 linear layers: 133,047,848 parameters."""
    return _vgg("vgg13", 13, False, num_classes, in_channels, small, dropout, width)


def vgg16(
    num_classes: int = 1000, in_channels: int = 3, small: bool = False, dropout: float = 0.5, width: float = 1.0
) -> ImageSequence:
    """Configuration D, 13 convolutions and 3 linear layers: 138,357,544 parameters."""
    return _vgg("vgg16", 16, False, num_classes, in_channels, small, dropout, width)


def vgg19(
    num_classes: int = 1000, in_channels: int = 3, small: bool = False, dropout: float = 0.5, width: float = 1.0
) -> ImageSequence:
    """Configuration E, 16 convolutions and 3 linear layers: 143,667,240 parameters."""
    return _vgg("vgg19", 19, False, num_classes, in_channels, small, dropout, width)


def vgg11_bn(
    num_classes: int = 1000, in_channels: int = 3, small: bool = False, dropout: float = 0.5, width: float = 1.0
) -> ImageSequence:
    """Configuration A with batch normalisation: 132,868,840 parameters."""
    return _vgg("vgg11_bn", 11, True, num_classes, in_channels, small, dropout, width)


def vgg13_bn(
    num_classes: int = 1000, in_channels: int = 3, small: bool = False, dropout: float = 0.5, width: float = 1.0
) -> ImageSequence:
    """Configuration B with batch normalisation: 133,053,736 parameters."""
    return _vgg("vgg13_bn", 13, True, num_classes, in_channels, small, dropout, width)


def vgg16_bn(
    num_classes: int = 1000, in_channels: int = 3, small: bool = False, dropout: float = 0.5, width: float = 1.0
) -> ImageSequence:
    """Configuration D with batch normalisation: 138,365,992 parameters."""
    return _vgg("vgg16_bn", 16, True, num_classes, in_channels, small, dropout, width)


def vgg19_bn(
    num_classes: int = 1000, in_channels: int = 3, small: bool = False, dropout: float = 0.5, width: float = 1.0
) -> ImageSequence:
    """Configuration E with batch normalisation: 143,678,248 parameters."""
    return _vgg("vgg19_bn", 19, True, num_classes, in_channels, small, dropout, width)


def _vgg(
    name: str,
    depth: int,
    batch_norm: bool,
    num_classes: int,
    in_channels: int,
    small: bool,
    dropout: float,
    width: float,
) -> ImageSequence:
    check_counts(num_classes=num_classes, in_channels=in_channels)
    check_dropout(dropout=dropout)
    layers, channels = vgg_features(depth, batch_norm, in_channels, small, width), scaled(CHANNELS[-1], width)
    if small:
        layers.pop()  # the global average takes the last pooling's place
        side, classifier = 1, _small_head(channels, num_classes, dropout)
    else:
        side, classifier = 7, hidden_head(channels * 7 * 7, scaled(4096, width), num_classes, dropout)
    parts = OrderedDict(
        features=nn.Sequential(*layers),
        avgpool=nn.AdaptiveAvgPool2d((side, side)),
        flatten=nn.Flatten(),
        classifier=classifier,
    )
    # Of 16 pixels the four poolings before the last normalisation leave one; of 32, the least of the others, two.
    network = ImageSequence(
        parts, name=name, in_channels=in_channels, smallest=1 if small else 32, alone=17 * (small and batch_norm)
    )
    initialise_vgg(network)
    return network


def vgg_features(
    depth: int, batch_norm: bool = False, in_channels: int = 3, small: bool = False, width: float = 1.0
) -> list[nn.Module]:
    """The five blocks of the network of that depth, each with a pooling at its end, as layers in a row."""
    layers: list[nn.Module] = []
    for wanted, convolutions in zip(CHANNELS, CONVOLUTIONS[depth], strict=True):
        out_channels = scaled(wanted, width)
        layers += vgg_block(in_channels, out_channels, convolutions, batch_norm)
        layers.append(nn.MaxPool2d(kernel_size=2, stride=2, ceil_mode=small))
        in_channels = out_channels
    return layers


def vgg_block(in_channels: int, out_channels: int, convolutions: int, batch_norm: bool) -> list[nn.Module]:
    """That many 3×3 convolutions, each with ReLU, as layers in a row; the image keeps its size.

    Two of them see 5×5 pixels, three 7×7, with fewer weights than one large kernel and more ReLUs (section 2.3).
    """
    layers: list[nn.Module] = []
    for _ in range(convolutions):
        layers.append(nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1))
        if batch_norm:
            layers.append(nn.BatchNorm2d(out_channels))
        layers.append(nn.ReLU())
        in_channels = out_channels
    return layers


def _small_head(in_features: int, num_classes: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Dropout(dropout), nn.Linear(in_features, num_classes))


def initialise_vgg(network: nn.Module) -> None:
    """None; convolutions get He et al.'s normal numbers, linear layers N(0, 0.01²), biases 0."""
    # torchvision's: He et al. (2015) keeps the size of the gradients through 16 ReLUs. The paper's own N(0, 0.01²) does
    # not; its authors trained A first and copied its layers into the deeper ones (section 3.1).
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
        if isinstance(layer, nn.Conv2d | nn.Linear):
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
