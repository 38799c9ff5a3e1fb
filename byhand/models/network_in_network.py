"""NiN: Lin, Chen & Yan, Network In Network (2014); Dive into Deep Learning, section 7.3."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from byhand.models.alexnets import ImageSequence, scaled
from byhand.models.linear import check_counts, check_dropout


def mlpconv(
    in_channels: int, channels: Sequence[int], kernel_size: int, stride: int = 1, padding: int = 0
) -> nn.Sequential:
    """A convolution and 1×1 convolutions after it, each with ReLU: at every place one small perceptron (section 3.1).

    ``channels`` has the convolution's output and then those of the 1×1 layers, which mix channels and see one pixel.
    """
    layers: list[nn.Module] = []
    for place, out_channels in enumerate(channels):
        if place == 0:
            layers.append(nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding))
        else:
            layers.append(nn.Conv2d(in_channels, out_channels, kernel_size=1))
        layers.append(nn.ReLU())
        in_channels = out_channels
    return nn.Sequential(*layers)


def nin(
    num_classes: int = 1000,
    in_channels: int = 3,
    small: bool = False,
    dropout: float = 0.5,
    width: float = 1.0,
    last_relu: bool = True,
) -> ImageSequence:
    """Logits of images, (B, in_channels, H, W) -> (B, num_classes), H and W ≥ 67, made for 224: 7,439,608 parameters.

    The book's network (7.3): AlexNet's kernels of 11, 5 and 3 as mlpconv blocks, and a last block with one map for each
    class. The mean of a map is the logit of its class (global average pooling, section 3.2): no linear layer, so
    nothing there to overfit, and images of any larger size are taken.

    ``small=True``, for 28 to 64 pixels (at least 4), is the paper's own network for CIFAR-10 (section 4), with the
    channels that its authors published for it: blocks of 192-160-96, 192-192-192 and 192-192-num_classes, max pooling
    (rounding up) and ``dropout`` after the first two; 966,986 parameters for ten classes.

    ``last_relu=True`` is the paper's (equation 2) and the book's; without it logits may be negative, and no class can
    be lost for good by its map being 0 everywhere. ``width`` scales the channels of every layer but the last block's
    num_classes.

    Weights start as He et al. (2015), biases at 0: twelve layers of torch's own start would shrink the maps to nothing.
    """
    check_counts(num_classes=num_classes, in_channels=in_channels)
    check_dropout(dropout=dropout)
    if small:
        first, second, third = ([scaled(c, width) for c in block] for block in ((192, 160, 96), (192,) * 3, (192,) * 2))
        features = nn.Sequential(
            mlpconv(in_channels, first, kernel_size=5, padding=2),  # 96 × 32 × 32
            nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True),  # 96 × 16 × 16
            nn.Dropout(dropout),
            mlpconv(first[-1], second, kernel_size=5, padding=2),  # 192 × 16 × 16
            nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True),  # 192 × 8 × 8
            nn.Dropout(dropout),
        )
        classifier = mlpconv(second[-1], [*third, num_classes], kernel_size=3, padding=1)  # num_classes × 8 × 8
    else:
        c1, c2, c3 = (scaled(channels, width) for channels in (96, 256, 384))
        features = nn.Sequential(
            mlpconv(in_channels, [c1] * 3, kernel_size=11, stride=4),  # 96 × 54 × 54
            nn.MaxPool2d(kernel_size=3, stride=2),  # 96 × 26 × 26
            mlpconv(c1, [c2] * 3, kernel_size=5, padding=2),  # 256 × 26 × 26
            nn.MaxPool2d(kernel_size=3, stride=2),  # 256 × 12 × 12
            mlpconv(c2, [c3] * 3, kernel_size=3, padding=1),  # 384 × 12 × 12
            nn.MaxPool2d(kernel_size=3, stride=2),  # 384 × 5 × 5
            nn.Dropout(dropout),
        )
        classifier = mlpconv(c3, [num_classes] * 3, kernel_size=3, padding=1)  # num_classes × 5 × 5
    parts = OrderedDict(
        features=features,
        classifier=classifier if last_relu else classifier[:-1],
        avgpool=nn.AdaptiveAvgPool2d((1, 1)),
        flatten=nn.Flatten(),
    )
    network = ImageSequence(parts, name="nin", in_channels=in_channels, smallest=4 if small else 67)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return network
