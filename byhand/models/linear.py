"""Networks of one layer; Dive into Deep Learning, chapter 3."""

from torch import Tensor, nn

from byhand.errors import SettingsError, ShapeError


def check_counts(**counts: int) -> None:
    """Nothing, if each is a whole number of at least 1; else a SettingsError that names it."""
    for name, count in counts.items():
        if not isinstance(count, int) or count < 1:
            raise SettingsError(f"{name}={count!r} must be a whole number of at least 1")


def check_dropout(**shares: float) -> None:
    """Nothing, if each lies in 0..1; else a SettingsError that names it."""
    for name, share in shares.items():
        if not (isinstance(share, int | float) and 0 <= share <= 1):
            raise SettingsError(f"{name}={share!r} must lie in 0..1")


def check_alone(x: Tensor, alone: int) -> None:
    """Nothing, unless one image leaves one value a channel to a batch normalisation that learns; then a ShapeError.

    ``alone`` is the longer side from which on an image (1, C, H, W) leaves several to all of them. With one value its
    own mean is taken off it, and the answer is 0.
    """
    B, _, H, W = x.shape
    if B == 1 and max(H, W) < alone:
        raise ShapeError(
            f"one image of {H} × {W} pixels leaves batch normalisation one value a channel in training; give a batch "
            f"of at least 2, or an image with a side of {alone} pixels, or switch to model.eval()"
        )


def linear_regression(in_features: int = 3, out_features: int = 1) -> nn.Sequential:
    """ŷ = x Wᵀ + b, (B, in_features) -> (B, out_features). in_features + 1 parameters for each output."""
    check_counts(in_features=in_features, out_features=out_features)
    return nn.Sequential(nn.Linear(in_features, out_features))


def softmax_regression(in_features: int = 784, num_classes: int = 10) -> nn.Sequential:
    """Logits o = x Wᵀ + b of flattened images, (B, 1, 28, 28) -> (B, 10): 7,850 parameters.

    The softmax itself stands in the loss, which takes logits: as a layer of its own it would lose small probabilities.
    """
    check_counts(in_features=in_features, num_classes=num_classes)
    return nn.Sequential(nn.Flatten(), nn.Linear(in_features, num_classes))
