"""byhand (动手): the classical networks of Dive into Deep Learning, written by hand, proven and trained.

``byhand.nn``, ``byhand.optim`` and ``byhand.ops`` are the hand-written layers, optimizers and operations;
``by_hand(model)`` and ``by_library(model)`` change hands, ``prove(model)`` and ``compare(mine, reference, *inputs)``
show that they agree; ``train(recipe)`` gives a ``Run``. Names are imported when first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from byhand import data, models, nn, ops, optim, pretrained
    from byhand.errors import ByhandError
    from byhand.jobs import resume, train
    from byhand.nn.hands import by_hand, by_library
    from byhand.proof import compare, prove
    from byhand.runs.run import Run
    from byhand.runs.storage import load, load_weights, save, save_weights

_PLACES = {
    "by_hand": "nn.hands",
    "by_library": "nn.hands",
    "prove": "proof",
    "compare": "proof",
    "train": "jobs",
    "resume": "jobs",
    "Run": "runs.run",
    "save": "runs.storage",
    "load": "runs.storage",
    "save_weights": "runs.storage",
    "load_weights": "runs.storage",
    "ByhandError": "errors",
}
_MODULES = ("data", "models", "nn", "ops", "optim", "pretrained")

__all__ = [
    "ByhandError",
    "Run",
    "by_hand",
    "by_library",
    "compare",
    "data",
    "load",
    "load_weights",
    "models",
    "nn",
    "ops",
    "optim",
    "pretrained",
    "prove",
    "resume",
    "save",
    "save_weights",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"byhand.{name}")
    if name in _PLACES:
        return getattr(importlib.import_module(f"byhand.{_PLACES[name]}"), name)
    raise AttributeError(f"module 'byhand' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
