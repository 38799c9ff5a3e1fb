"""The parts of the bench by name; importing this does not import torch."""

import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from byhand.errors import unknown_name

if TYPE_CHECKING:
    from byhand.bench.conditions import Conditions
    from byhand.bench.row import Row

PARTS = ("machine", "steps", "epochs", "peers", "start", "memory", "inference", "gpu")


def check(name: str) -> None:
    """Raises UnknownName where there is no such part."""
    if name not in PARTS:
        raise unknown_name("part of the bench", name, PARTS)


def title(name: str) -> str:
    """What the part measures, as a heading."""
    return importlib.import_module(f"byhand.bench.{name}").TITLE


def run(name: str, conditions: "Conditions") -> Iterator["Row"]:
    """The rows of a part, as they are measured."""
    yield from importlib.import_module(f"byhand.bench.{name}").run(conditions)
