"""One line of what ``byhand bench`` prints."""

from dataclasses import dataclass
from typing import Any

from byhand.bench.goals import GOALS, Goal
from byhand.bench.measure import Times

COLUMNS = ("measure", "ours", "other", "the other side", "ratio", "goal", "reached")
Value = Times | float | None


@dataclass(frozen=True)
class Row:
    """A measure of ours, beside another side where there is one.

    ``unit`` is s, GFLOP/s, GB/s, B or share; of B a million is an MB. ``judged`` is false in a quick run, whose sizes
    say nothing. ``missed`` is true where the time counts for nothing, as the accuracy was not reached.
    """

    measure: str
    ours: Value
    other: Value = None
    other_side: str = ""
    unit: str = "s"
    note: str = ""
    judged: bool = True
    missed: bool = False

    @property
    def goal(self) -> Goal | None:
        return GOALS.get(self.measure)

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached; None where there is none, or where it cannot be said."""
        ours, other = middle(self.ours), middle(self.other)
        if self.goal is None or not self.judged or ours is None:
            return None
        return False if self.missed else self.goal.reached(ours, other)

    @property
    def ratio(self) -> float | None:
        """Our median over the other's where the goal bounds a cost, else the other's over ours."""
        ours, other = middle(self.ours), middle(self.other)
        if not ours or not other:
            return None
        return ours / other if self.counts_cost else other / ours

    @property
    def counts_cost(self) -> bool:
        return self.goal is not None and self.goal.of in ("cost", "within", "above")

    def record(self) -> dict[str, Any]:
        """The row as plain values: medians, spreads and all rounds."""
        record: dict[str, Any] = {"measure": self.measure, "unit": self.unit}
        for name, value in (("ours", self.ours), ("other", self.other)):
            record[name] = middle(value)
            if isinstance(value, Times):
                record[f"{name}_spread"] = list(value.spread)
                record[f"{name}_rounds"] = list(value.rounds)
        record |= {"other_side": self.other_side, "ratio": self.ratio}
        record |= {"ratio_is": "ours / other" if self.counts_cost else "other / ours"}
        record |= {"goal": self.goal.text if self.goal else None, "reached": self.reached, "note": self.note}
        return record

    def cells(self) -> tuple[Any, ...]:
        """The row as text under COLUMNS; behind a median stands how far the rounds lie apart."""
        times = "" if self.ratio is None else f"{self.ratio:.3g} ×"
        goal = self.goal.text if self.goal else ""
        reached = "" if self.reached is None else ("yes" if self.reached else "NO")
        return (self.measure, self._text(self.ours), self._text(self.other), self.other_side, times, goal, reached)

    def _text(self, value: Value) -> str:
        if value is None:
            return ""
        text = amount(middle(value) or 0.0, self.unit)
        if isinstance(value, Times) and len(value.rounds) > 1:
            low, high = (amount(one, self.unit) for one in value.spread)
            text += f" ({low} to {high})"
        return text


def middle(value: Value) -> float | None:
    """The median of times; a single value as it is."""
    return value.median if isinstance(value, Times) else value


def amount(value: float, unit: str) -> str:
    """A value with its unit, in three digits: 13.9 ms, 8.20 s, 1,250 MB, 61 %."""
    if unit == "share":
        return f"{100 * value:.3g} %"
    if unit == "s":
        return f"{value:.3g} s" if value >= 1 else f"{1e3 * value:.3g} ms" if value >= 1e-3 else f"{1e6 * value:.3g} µs"
    if unit == "B":
        return f"{value / 1e6:,.0f} MB" if abs(value) >= 1e6 else f"{value:,.0f} B"
    return f"{value:,.3g} {unit}" if value < 1000 else f"{value:,.0f} {unit}"
