"""The multilayer perceptron; Dive into Deep Learning, chapter 4."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from byhand.errors import SettingsError, unknown_name

ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "leaky_relu": nn.LeakyReLU}


def activation_named(name: str) -> type[nn.Module]:
    """The layer class of an activation; raises UnknownName for any that is not in ACTIVATIONS."""
    if name not in ACTIVATIONS:
        raise unknown_name("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]


def mlp(
    widths: Sequence[int] = (784, 256, 128, 10),
    activation: str = "relu",
    dropout: float = 0.0,
    num_classes: int | None = None,
) -> nn.Sequential:
    """Linear layers of the given ``widths`` with an activation between them, (B, ..., ) flattened -> (B, widths[-1]).

    The source's 784-256-128-10 has 235,146 parameters. ``dropout`` follows each activation; ``num_classes`` replaces
    the last width. Raises SettingsError for fewer than two widths, one below 1, or a dropout outside 0..1.
    """
    if not 0 <= dropout <= 1:
        raise SettingsError(f"dropout={dropout} must lie in 0..1")
    widths = list(widths) if num_classes is None else [*widths[:-1], num_classes]
    if len(widths) < 2 or any(not isinstance(width, int) or width < 1 for width in widths):
        raise SettingsError(
            f"widths={tuple(widths)} must be at least two whole numbers of at least 1: input, hidden, output"
        )
    Activation = activation_named(activation)
    layers: list[nn.Module] = [nn.Flatten()]
    for wide, narrow in pairwise(widths[:-1]):
        layers += [nn.Linear(wide, narrow), Activation()]
        if dropout:
            layers.append(nn.Dropout(dropout))
    layers.append(nn.Linear(widths[-2], widths[-1]))
    return nn.Sequential(*layers)
