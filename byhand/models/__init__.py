"""The networks, each written once with torch.nn.

To add one: a file with its constructor, and a line in NETWORKS. The proof, the tables of ``show`` and the tests follow.
"""

import importlib
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING

from byhand.errors import SettingsError, unknown_name

if TYPE_CHECKING:
    from torch.nn import Module


@dataclass(frozen=True)
class Network:
    """A network's name on the command line, its constructor, and the shape of one input: (C, H, W) or (d,)."""

    name: str
    constructor: str  # module:function below byhand.models; imported when the network is built, as it needs torch
    input_shape: tuple[int, ...]
    title: str
    source: str

    def build(self, **options) -> "Module":
        """The network, freshly initialised; raises SettingsError for an option that its constructor does not take."""
        module, function = self.constructor.split(":")
        constructor = getattr(importlib.import_module(f"byhand.models.{module}"), function)
        known = inspect.signature(constructor).parameters
        for name in options:
            if name not in known:
                raise SettingsError(f"network {self.name!r} takes no option {name!r}; it takes: {', '.join(known)}")
        return constructor(**options)


NETWORKS = (
    Network("linear-regression", "linear:linear_regression", (3,), "Linear regression", "D2L 3.1"),
    Network("softmax-regression", "linear:softmax_regression", (1, 28, 28), "Softmax regression", "D2L 3.4"),
    Network("mlp", "perceptron:mlp", (1, 28, 28), "Multilayer perceptron 784-256-128-10", "D2L 4.1"),
    Network("lenet5", "lenet:lenet5", (1, 32, 32), "LeNet-5", "LeCun et al. 1998; D2L 6.6"),
)


def network(name: str) -> Network:
    """The entry of that name in NETWORKS; raises UnknownName."""
    for entry in NETWORKS:
        if entry.name == name:
            return entry
    raise unknown_name("network", name, (entry.name for entry in NETWORKS))


def build(name: str, **options) -> "Module":
    """A network by its name, freshly initialised: ``build("lenet5", activation="tanh")``."""
    return network(name).build(**options)


def __getattr__(name: str):
    """Constructors by their own names, as in ``byhand.models.lenet5(num_classes=10)``."""
    for entry in NETWORKS:
        module, function = entry.constructor.split(":")
        if function == name:
            return getattr(importlib.import_module(f"byhand.models.{module}"), function)
    raise AttributeError(f"module 'byhand.models' has no attribute {name!r}")
