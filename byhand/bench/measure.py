"""Timing two or more sides in turn: A B A B, so that a machine that slows down slows all of them."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Side = Callable[[], float]


@dataclass(frozen=True)
class Times:
    """What the rounds gave, in seconds unless a row says otherwise; a round of many steps counts as its median step."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.rounds)

    @property
    def spread(self) -> tuple[float, float]:
        """The least and the most of a round."""
        return min(self.rounds), max(self.rounds)

    def __mul__(self, factor: float) -> "Times":
        return Times(tuple(one * factor for one in self.rounds))


def alternate(sides: Mapping[str, Side], rounds: int) -> dict[str, Times]:
    """The times of each side, which each call of it returns; every side runs once in each round, in the given order."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            found[name].append(side())
    return {name: Times(tuple(times)) for name, times in found.items()}


def clock(function: Callable[[], Any]) -> Side:
    """A side that is one call of the function."""

    def side() -> float:
        started = time.perf_counter()
        function()
        return time.perf_counter() - started

    return side


def median_of(function: Callable[[], Any], calls: int) -> Side:
    """A side that calls the function so many times and gives the median of these calls."""
    once = clock(function)
    return lambda: statistics.median(once() for _ in range(calls))
