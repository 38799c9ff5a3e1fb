"""AlexNet, the paper's of 2012 and the one that torchvision has; Dive into Deep Learning, section 7.1."""

import math
from collections import OrderedDict

from torch import Tensor, nn

from byhand.errors import SettingsError, ShapeError
from byhand.models.linear import check_alone, check_counts, check_dropout


def check_images(x: Tensor, name: str, in_channels: int, smallest: int) -> None:
    """Nothing, if x is (B, in_channels, H, W) with at least ``smallest`` pixels a side; else a ShapeError says why."""
    shape = tuple(x.shape)
    if len(shape) != 4:
        raise ShapeError(
            f"{name} takes a batch of images (B, {in_channels}, H, W), not a tensor of shape {shape}; "
            "give a single image a batch axis with x[None]"
        )
    if shape[1] != in_channels:
        raise ShapeError(
            f"{name} takes images of in_channels={in_channels}, not {shape[1]} as in {shape}; "
            f"build it with in_channels={shape[1]}"
        )
    if min(shape[2:]) < smallest:
        raise ShapeError(
            f"{name} takes images of at least {smallest} × {smallest} pixels, not {shape[2]} × {shape[3]}; "
            "enlarge them, or build the network with small=True, made for 28 to 64 pixels, if it was not"
        )


def scaled(channels: int, width: float) -> int:
    """``channels`` times ``width``, rounded to an even number of at least 2, so that two groups can share them."""
    if not (isinstance(width, int | float) and math.isfinite(width) and width > 0):
        raise SettingsError(f"width={width!r} must be a number above 0; 0.5 halves the channels of every layer")
    return max(2, 2 * round(channels * width / 2)) if width != 1 else channels


def hidden_head(in_features: int, hidden: int, num_classes: int, dropout: float) -> nn.Sequential:
    """Two hidden layers with ReLU and dropout, and the logits: the classifier of AlexNet (2012) and of VGG."""
    return nn.Sequential(
        nn.Linear(in_features, hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, num_classes),
    )


class ImageSequence(nn.Sequential):
    """Its layers one after the other, after a look at the images that come in.

    Raises ShapeError for anything but (B, in_channels, H, W) with at least ``smallest`` pixels a side. A slice of it
    (``model[:2]``) holds the layers alone and does not look. ``alone``: see ``check_alone``; 0 without normalisation.
    """

    def __init__(
        self, *layers, name: str = "the network", in_channels: int | None = None, smallest: int = 1, alone: int = 0
    ) -> None:
        super().__init__(*layers)
        self.name, self.in_channels, self.smallest, self.alone = name, in_channels, smallest, alone

    def forward(self, x: Tensor) -> Tensor:
        if self.in_channels is not None:
            check_images(x, self.name, self.in_channels, self.smallest)
        if self.alone and learns_statistics(self):
            check_alone(x, self.alone)
        return super().forward(x)


def learns_statistics(network: nn.Module) -> bool:
    """Whether the last of its batch normalisations is in training."""
    norms = [module for module in network.modules() if hasattr(module, "running_var")]
    return bool(norms) and norms[-1].training


def alexnet(
    num_classes: int = 1000, in_channels: int = 3, small: bool = False, dropout: float = 0.5, width: float = 1.0
) -> ImageSequence:
    """Logits of images, (B, in_channels, H, W) -> (B, num_classes), H and W ≥ 63, made for 224: 61,100,840 parameters.

    torchvision's AlexNet, with its keys and initialisation: one column of 64-192-384-256-256 channels, no response
    normalisation (Krizhevsky, One weird trick for parallelizing convolutional neural networks, 2014, footnote 1).

    ``dropout`` stands before the first and the second linear layer, as in torchvision; the paper of 2012 (section 4.2)
    has it after the first and the second, as ``alexnet2012`` does. So here the pooled maps are dropped and the 4096
    values that the last layer reads are not; there it is the other way round (pytorch/vision, issue 549).

    ``small=True``, for 28 to 64 pixels (at least 15): 5×5 at stride 1 in place of 11×11 at stride 4, an average to 2×2
    in place of 6×6, 1024 hidden values in place of 4096. ``width`` scales the channels of every layer.
    """
    check_counts(num_classes=num_classes, in_channels=in_channels)
    check_dropout(dropout=dropout)
    c1, c2, c3, c4, c5 = (scaled(channels, width) for channels in (64, 192, 384, 256, 256))
    hidden = scaled(1024 if small else 4096, width)
    side = 2 if small else 6
    features = nn.Sequential(
        _stem(in_channels, c1, small),  # 64 × 55 × 55
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2),  # 64 × 27 × 27
        nn.Conv2d(c1, c2, kernel_size=5, padding=2),  # 192 × 27 × 27
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2),  # 192 × 13 × 13
        nn.Conv2d(c2, c3, kernel_size=3, padding=1),  # 384 × 13 × 13
        nn.ReLU(),
        nn.Conv2d(c3, c4, kernel_size=3, padding=1),  # 256 × 13 × 13
        nn.ReLU(),
        nn.Conv2d(c4, c5, kernel_size=3, padding=1),  # 256 × 13 × 13
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2),  # 256 × 6 × 6
    )
    classifier = nn.Sequential(
        nn.Dropout(dropout),
        nn.Linear(c5 * side * side, hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, num_classes),
    )
    return _network("alexnet", features, side, classifier, in_channels, small)


def alexnet2012(
    num_classes: int = 1000, in_channels: int = 3, small: bool = False, dropout: float = 0.5, width: float = 1.0
) -> ImageSequence:
    """Logits of images, (B, in_channels, H, W) -> (B, num_classes), H and W ≥ 63, made for 224: 60,965,224 parameters.

    Krizhevsky, Sutskever & Hinton, ImageNet Classification with Deep Convolutional Neural Networks (2012), section 3.
    Two graphics cards held half of the maps each: the second, fourth and fifth convolution see the maps of their own
    half, which is ``groups=2``. After the first and the second ReLU, maps are normalised across n = 5 neighbours,

        b_i = a_i / (k + α Σ_j a_j²)^β,    k = 2, α = 1e-4, β = 0.75    (section 3.3)

    torch divides α by n, so its layer is given 5 α. ``dropout`` stands after the first and the second linear layer
    (section 4.2); torchvision's stands before them (``alexnet``; pytorch/vision, issue 549). Weights start as
    N(0, 0.01²), biases as 1 in the second, fourth and fifth convolution and both hidden layers, else 0 (section 5).

    The paper's images of 224 pixels give its maps of 55 × 55 only with a padding of 2, which it does not mention. The
    average to 6×6 changes nothing at 224; it is there for other sizes.

    ``small=True``, for 28 to 64 pixels (at least 15): 5×5 at stride 1 in place of 11×11 at stride 4, an average to 2×2
    in place of 6×6, 1024 hidden values in place of 4096, and torch's initialisation, as the paper's was made for
    pixels in −128..127. ``width`` scales the channels of every layer.
    """
    check_counts(num_classes=num_classes, in_channels=in_channels)
    check_dropout(dropout=dropout)
    c1, c2, c3, c4, c5 = (scaled(channels, width) for channels in (96, 256, 384, 384, 256))
    hidden = scaled(1024 if small else 4096, width)
    side = 2 if small else 6
    features = nn.Sequential(
        _stem(in_channels, c1, small),  # 96 × 55 × 55
        nn.ReLU(),
        nn.LocalResponseNorm(5, alpha=5 * 1e-4, beta=0.75, k=2.0),
        nn.MaxPool2d(kernel_size=3, stride=2),  # 96 × 27 × 27; windows overlap, section 3.4
        nn.Conv2d(c1, c2, kernel_size=5, padding=2, groups=2),  # 256 × 27 × 27
        nn.ReLU(),
        nn.LocalResponseNorm(5, alpha=5 * 1e-4, beta=0.75, k=2.0),
        nn.MaxPool2d(kernel_size=3, stride=2),  # 256 × 13 × 13
        nn.Conv2d(c2, c3, kernel_size=3, padding=1),  # 384 × 13 × 13; here each half sees both
        nn.ReLU(),
        nn.Conv2d(c3, c4, kernel_size=3, padding=1, groups=2),  # 384 × 13 × 13
        nn.ReLU(),
        nn.Conv2d(c4, c5, kernel_size=3, padding=1, groups=2),  # 256 × 13 × 13
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2),  # 256 × 6 × 6
    )
    classifier = hidden_head(c5 * side * side, hidden, num_classes, dropout)
    if not small:
        _start_as_in_2012([layer for layer in (*features, *classifier) if isinstance(layer, nn.Conv2d | nn.Linear)])
    return _network("alexnet2012", features, side, classifier, in_channels, small)


def _stem(in_channels: int, channels: int, small: bool) -> nn.Conv2d:
    if small:
        return nn.Conv2d(in_channels, channels, kernel_size=5, padding=2)
    return nn.Conv2d(in_channels, channels, kernel_size=11, stride=4, padding=2)


def _network(
    name: str, features: nn.Module, side: int, classifier: nn.Module, in_channels: int, small: bool
) -> ImageSequence:
    parts = OrderedDict(
        features=features, avgpool=nn.AdaptiveAvgPool2d((side, side)), flatten=nn.Flatten(), classifier=classifier
    )
    # The last pooling needs maps of 3, the one before it 7, the first 15; the stem at stride 4 makes 15 of 63.
    return ImageSequence(parts, name=name, in_channels=in_channels, smallest=15 if small else 63)


def _start_as_in_2012(layers: list[nn.Conv2d | nn.Linear]) -> None:
    for place, layer in enumerate(layers, start=1):
        nn.init.normal_(layer.weight, std=0.01)
        assert layer.bias is not None
        nn.init.constant_(layer.bias, 1.0 if place in (2, 4, 5, 6, 7) else 0.0)
