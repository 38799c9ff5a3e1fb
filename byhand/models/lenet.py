"""LeNet-5: LeCun et al., Gradient-Based Learning Applied to Document Recognition (1998), section II."""

from collections import OrderedDict

from torch import nn

from byhand.models.linear import check_counts
from byhand.models.perceptron import activation_named


def lenet5(num_classes: int = 10, in_channels: int = 1, activation: str = "relu") -> nn.Sequential:
    """Logits of images, (B, in_channels, 32, 32) -> (B, num_classes): 61,706 parameters as it stands.

    ``activation="relu"`` is the source's; ``"tanh"`` and ``"sigmoid"`` are the forms of 1998 and of the book. What the
    paper has and modern forms leave out: a scaled tanh (1.7159 tanh 2a/3), a trained factor and offset in each
    subsampling layer, a C3 that sees only some of the maps (60,000 parameters in all), and distances to prototypes
    (RBF units) in place of the last linear layer.
    """
    check_counts(num_classes=num_classes, in_channels=in_channels)
    Activation = activation_named(activation)
    features = nn.Sequential(
        nn.Conv2d(in_channels, 6, kernel_size=5),  # C1: 6 × 28 × 28
        Activation(),
        nn.AvgPool2d(kernel_size=2, stride=2),  # S2: 6 × 14 × 14
        nn.Conv2d(6, 16, kernel_size=5),  # C3: 16 × 10 × 10
        Activation(),
        nn.AvgPool2d(kernel_size=2, stride=2),  # S4: 16 × 5 × 5
    )
    classifier = nn.Sequential(
        nn.Flatten(),
        nn.Linear(16 * 5 * 5, 120),  # C5
        Activation(),
        nn.Linear(120, 84),  # F6
        Activation(),
        nn.Linear(84, num_classes),
    )
    return nn.Sequential(OrderedDict(features=features, classifier=classifier))
