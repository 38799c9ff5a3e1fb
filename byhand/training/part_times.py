"""How long the parts of a detector are at work on an image: what each network of the family made faster."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from byhand.models.proposals import SelectiveSearch


@dataclass
class PartTimes:
    """Seconds that each part took in all, and the number of images that they were for."""

    seconds: dict[str, float] = field(default_factory=dict)
    images: int = 0

    def record(self) -> dict[str, float]:
        """Seconds an image: ``seconds_proposals``, ``seconds_features``, ``seconds_heads``; nothing without images."""
        return {f"seconds_{part}": value / self.images for part, value in self.seconds.items()} if self.images else {}


@contextmanager
def timed(network: nn.Module, times: PartTimes | None) -> Iterator[None]:
    """Within it the parts of the network add to ``times`` how long each of their calls takes; None changes nothing.

    ``network.parts`` names them: {"proposals": "rpn", ...}, the second a path to a module, none inside another. A
    network that names none is not timed. Proposals that are searched in the image are searched and not remembered.
    """
    parts: dict[str, str] = getattr(network, "parts", {})
    if times is None or not parts:
        yield
        return
    hooks, searches = [], [module for module in network.modules() if isinstance(module, SelectiveSearch)]
    recalled = [search.recalls for search in searches]
    for search in searches:
        search.recalls = False
    for part, path in parts.items():
        times.seconds.setdefault(part, 0.0)
        module = network.get_submodule(path)
        began: list[float] = []
        hooks += [
            module.register_forward_pre_hook(partial(_begin, began)),
            module.register_forward_hook(partial(_end, began, times, part)),
        ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for search, before in zip(searches, recalled, strict=True):
            search.recalls = before


def _begin(began: list[float], module: nn.Module, arguments: Any) -> None:
    began.append(_now())


def _end(began: list[float], times: PartTimes, part: str, module: nn.Module, arguments: Any, output: Any) -> None:
    times.seconds[part] += _now() - began.pop()


def _now() -> float:
    if torch.cuda.is_initialized():  # a GPU works on while Python already waits for the next part
        torch.cuda.synchronize()
    return time.perf_counter()
