"""How the planes of a depthwise convolution are cut by its stride, and what each place of the kernel sees of them."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

from byhand.ops.depthwise import Axis


class Run(NamedTuple):
    """A row of the kernel, and the rows of a cut plane that it sees from which rows of the output."""

    u: int
    output: int  # the first
    pixel: int  # the first
    length: int


class Move(NamedTuple):
    """A column of the kernel, and how many columns further it sees the pixels of a cut plane."""

    v: int
    shift: int


@dataclass(frozen=True)
class Plan:
    """How planes are cut and moved: cut along the columns into several, and each of them along the rows in itself.

    In a cut plane the rows 0, s, 2s, … stand first, then the rows 1, 1 + s, …: its parts, of ``height`` rows each.
    """

    rows: Axis
    columns: Axis

    @cached_property
    def uncut(self) -> bool:
        """Whether the only cut plane is the plane itself."""
        return (self.rows.stride, self.columns.stride) == (1, 1)

    @cached_property
    def height(self) -> int:
        """Rows of a part."""
        return -(-self.rows.size // self.rows.stride)

    @cached_property
    def cut(self) -> tuple[int, int]:
        """Rows and columns of a cut plane."""
        return self.rows.stride * self.height, -(-self.columns.size // self.columns.stride)

    def room(self, planes: int) -> tuple[int, int, int, int]:
        """The memory for all that so many planes are cut into; none if uncut."""
        return (0 if self.uncut else self.columns.stride, planes, *self.cut)

    @cached_property
    def moves(self) -> dict[int, list[Move]]:
        """Those that see any pixels, by the number of the cut plane that they see."""
        moves: dict[int, list[Move]] = {}
        for v in range(self.columns.kernel):
            if self.columns.moved(v, 0, self.columns.places) is not None:
                shift, number = divmod(v * self.columns.dilation - self.columns.before, self.columns.stride)
                moves.setdefault(number, []).append(Move(v, shift))
        return moves

    @cached_property
    def shifts(self) -> tuple[int, ...]:
        """All that columns of the kernel move by."""
        return tuple(sorted({move.shift for moves in self.moves.values() for move in moves}))

    @cached_property
    def slack(self) -> int:
        """Numbers of memory before and after planes that are moved, in whole lines of a cache."""
        return -(-max((abs(shift) for shift in self.shifts), default=0) // 16) * 16

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """What rows of the kernel see, the longest first."""
        runs = []
        for u in range(self.rows.kernel):
            moved = self.rows.moved(u, 0, self.rows.places)
            if moved is not None:
                outputs, seen = moved
                row, part = divmod(seen.start, self.rows.stride)
                runs.append(Run(u, outputs.start, part * self.height + row, outputs.stop - outputs.start))
        return tuple(sorted(runs, key=lambda run: -run.length))


@lru_cache(maxsize=64)
def plan_of(rows: Axis, columns: Axis) -> Plan:
    """The same plan again for the same axes, with all that it once worked out."""
    return Plan(rows, columns)
