"""LeNet-5 with batch normalisation: Dive into Deep Learning, section 7.5; Ioffe & Szegedy (2015)."""

from collections import OrderedDict

from torch import nn

from byhand.errors import SettingsError
from byhand.models.linear import check_counts
from byhand.models.perceptron import activation_named


def lenet5_bn(
    num_classes: int = 10,
    in_channels: int = 1,
    small: bool = False,
    activation: str = "relu",
    image_size: int = 32,
) -> nn.Sequential:
    """Logits of images, (B, in_channels, image_size, image_size) -> (B, num_classes): 62,158 parameters as it stands.

    ``lenet5`` with a batch normalisation before each activation: over maps after a convolution, over vectors after a
    linear layer. The book's own form, for its 28 px without padding, is ``activation="sigmoid", image_size=28``, with
    44,878 parameters; 32 is the size that ``lenet5`` takes.

    Args:
        small: the last pooling gives 5 × 5 maps whatever it gets, so that images of 28 to 64 px all fit, also those
            that are not square; ``image_size`` then plays no part. At 32 px it is the same network.

    A batch of one cannot be trained on: a vector has no variance over the batch then.

    Raises SettingsError for a count below 1 or an image_size below 16, UnknownName for an activation.
    """
    check_counts(num_classes=num_classes, in_channels=in_channels, image_size=image_size)
    side = 5 if small else ((image_size - 4) // 2 - 4) // 2
    if side < 1:
        raise SettingsError(f"image_size={image_size} must be at least 16: two 5×5 convolutions and two poolings")
    Activation = activation_named(activation)
    features = nn.Sequential(
        nn.Conv2d(in_channels, 6, kernel_size=5),  # C1: 6 × 28 × 28
        nn.BatchNorm2d(6),
        Activation(),
        nn.AvgPool2d(kernel_size=2, stride=2),  # S2: 6 × 14 × 14
        nn.Conv2d(6, 16, kernel_size=5),  # C3: 16 × 10 × 10
        nn.BatchNorm2d(16),
        Activation(),
        nn.AdaptiveAvgPool2d(side) if small else nn.AvgPool2d(kernel_size=2, stride=2),  # S4: 16 × 5 × 5
    )
    classifier = nn.Sequential(
        nn.Flatten(),
        nn.Linear(16 * side * side, 120),  # C5
        nn.BatchNorm1d(120),
        Activation(),
        nn.Linear(120, 84),  # F6
        nn.BatchNorm1d(84),
        Activation(),
        nn.Linear(84, num_classes),
    )
    return nn.Sequential(OrderedDict(features=features, classifier=classifier))
