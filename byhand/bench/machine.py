"""What this machine can do: its rate of matrix products and its memory bandwidth."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch

from byhand.bench.conditions import Conditions
from byhand.bench.measure import Side, Times, alternate, median_of
from byhand.bench.row import Row
from byhand.runs.environment import environment

TITLE = "This machine"

# rows × inner by inner × columns; the skinny ones are those of LeNet-5's two convolutions, tiled and untiled, at 256
PRODUCTS = {
    "square product": (1024, 1024, 1024),
    "skinny product 24 × 36 by 36 × 50,176": (24, 36, 50_176),
    "skinny product 6 × 25 by 25 × 200,704": (6, 25, 200_704),
}
COPIED_BYTES = 128 << 20  # more than the caches of most processors hold


@dataclass(frozen=True)
class Limits:
    """The most that was seen: floating-point operations a second in square products, bytes a second of a copy."""

    operations: float
    bytes: float

    def seconds(self, operations: int, num_bytes: int) -> float:
        """The least time for so many operations and bytes, the slower of the two deciding (Williams et al. 2009)."""
        return max(operations / self.operations, num_bytes / self.bytes)


def run(conditions: Conditions) -> Iterator[Row]:
    """The rates as rows."""
    for name, rates in measured(conditions).items():
        yield Row(name, rates, unit="GB/s" if name == "memory copy" else "GFLOP/s", note=_WHAT.get(name, ""))


_WHAT = {
    "square product": "1024 × 1024 × 1024, float32; a multiply-add counts as two operations",
    "memory copy": "128 MiB to another place, bytes read and bytes written",
}


@cache
def measured(conditions: Conditions) -> dict[str, Times]:
    """GFLOP/s of each product and GB/s of a copy, a number for each round: that of its median call."""
    generator = torch.Generator().manual_seed(0)
    work: dict[str, int] = {}
    sides: dict[str, Side] = {}
    calls = min(conditions.calls, 20)
    for name, (rows, inner, columns) in PRODUCTS.items():
        if conditions.quick:
            columns = min(columns, 256)
        A = torch.randn(rows, inner, generator=generator)
        B = torch.randn(inner, columns, generator=generator)
        work[name] = 2 * rows * inner * columns
        sides[name] = median_of(partial(torch.mm, A, B, out=torch.empty(rows, columns)), calls)
    values = (COPIED_BYTES >> (10 if conditions.quick else 0)) // 4
    source, target = torch.ones(values), torch.ones(values)
    work["memory copy"] = 2 * 4 * values
    sides["memory copy"] = median_of(partial(target.copy_, source), calls)
    times = alternate(sides, conditions.rounds + 1)  # the first round only warms up
    return {name: Times(tuple(work[name] / one / 1e9 for one in found.rounds[1:])) for name, found in times.items()}


def limits(conditions: Conditions) -> Limits:
    """The fastest round of each: a limit is what the machine has shown it can do."""
    rates = measured(conditions)
    return Limits(1e9 * rates["square product"].spread[1], 1e9 * rates["memory copy"].spread[1])


def receipt(conditions: Conditions) -> dict[str, Any]:
    """Versions, operating system, processor, cores, threads and command: what stands beside every number."""
    found = environment(0, "cpu", torch.get_num_threads())
    kept = ("versions", "os", "cpu", "cores", "threads", "command", "started")
    return {key: found[key] for key in kept} | {"rounds": conditions.rounds, "quick": conditions.quick}
