"""What byhand is to reach, in one table; each goal belongs to the row of that name."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """A bound on what ``of`` names.

    ``faster``: other time / our time, at least. ``cost``: our time / other time, at most. ``least`` and ``most``: our
    value itself. ``above``: our value less the other, at most. ``within``: our time / other time, up to a tenth from
    it. ``near``: our value, up to a twentieth from it.
    """

    of: str
    bound: float
    text: str

    def reached(self, ours: float, other: float | None) -> bool | None:
        """Whether it is; None where the other side was not measured and is needed."""
        match self.of:
            case "least":
                return ours >= self.bound
            case "most":
                return ours <= self.bound
            case "near":
                return abs(ours / self.bound - 1) <= 0.05
        if other is None:
            return None
        match self.of:
            case "faster":
                return other / ours >= self.bound
            case "cost":
                return ours / other <= self.bound
            case "within":
                return abs(ours / other / self.bound - 1) <= 0.1
            case _:
                return ours - other <= self.bound


def faster(times: float) -> Goal:
    return Goal("faster", times, f"≥ {times:g} × as fast")


def cost(times: float) -> Goal:
    return Goal("cost", times, f"≤ {times:g} × the time")


def share(least: float) -> Goal:
    return Goal("least", least, f"≥ {least:.0%}")


def under(seconds: float) -> Goal:
    return Goal("most", seconds, f"< {seconds:g} s" if seconds >= 0.1 else f"< {1e3 * seconds:g} ms")


GOALS = {
    "softmax-fashion, an epoch": faster(50),
    "mlp-fashion, an epoch": faster(15),
    "lenet5-mnist, an epoch": faster(5),
    "softmax-fashion, to the source's accuracy": faster(400),
    "mlp-fashion, to the source's accuracy": faster(100),
    "lenet5-mnist, to the source's accuracy": faster(50),
    "softmax-regression, a step by hand": cost(1.0),
    "mlp, a step by hand": cost(1.0),
    "lenet5, a step by hand": cost(0.6),
    "softmax-regression, share of the limit": share(0.40),
    "mlp, share of the limit": share(0.60),
    "lenet5, share of the limit": share(0.30),
    "lenet5-mnist, an epoch against the best peer": cost(0.4),
    "byhand --help": under(0.5),
    "byhand train softmax-fashion": cost(2.5),
    "byhand train lenet5-mnist, peak memory": Goal("above", 350e6, "≤ 350 MB more"),
    "600,000 images, an epoch": Goal("within", 10, "10 × the time ± 10 %"),
    "600,000 images, memory": Goal("near", 784, "784 B ± 5 %"),
    "10,000 images": faster(5),
    "one image": under(1e-3),
    "lenet5-mnist on a GPU, to 0.9904": under(1.0),
    "softmax-fashion on a GPU, 30 epochs": under(1.0),
}
