"""The learning rate as a function of the step: each returns the factor that multiplies the base learning rate.

Steps count from 0, the step before any update; they may be batches or epochs, as long as all numbers are of one kind.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable
from typing import Literal, TypedDict

from byhand.errors import SettingsError

Anneal = Literal["cos", "linear"]


class Phase(TypedDict):
    """One stretch of the one-cycle policy, up to `end_step` (a step, or between two); the others name its levels."""

    end_step: float
    start_lr: str
    end_lr: str
    start_momentum: str
    end_momentum: str


def constant(step: int, factor: float = 1.0, steps: int = 0) -> float:
    """`factor` in the first `steps` steps, then 1."""
    return factor if step < steps else 1.0


def warm_up(step: int, steps: int, start: float = 1 / 3, end: float = 1.0) -> float:
    """start + (end − start) · min(step, steps) / steps: from `start` at step 0 along a line to `end` at step `steps`.

    The gradual warm-up of Goyal et al. (2017), Accurate, Large Minibatch SGD, section 2.2. With start=0 the first
    update would move nothing.
    """
    if steps <= 0:
        return end
    return start + (end - start) * min(step, steps) / steps


def step_decay(step: int, step_size: int, gamma: float = 0.1) -> float:
    """gamma^⌊step / step_size⌋."""
    return gamma ** (step // step_size)


def multi_step(step: int, milestones: Iterable[int], gamma: float = 0.1) -> float:
    """gamma^(number of milestones reached, step itself included); a milestone given twice counts twice."""
    return gamma ** bisect_right(sorted(milestones), step)


def exponential(step: int, gamma: float) -> float:
    """gamma^step."""
    return gamma**step


def cosine(step: int, total: int, end: float = 0.0) -> float:
    """end + (1 − end) · (1 + cos(π step / total)) / 2: half a cosine from 1 at step 0 to `end` at step `total`.

    Loshchilov & Hutter (2017), SGDR: Stochastic Gradient Descent with Warm Restarts, eq. 5, without the restarts: after
    `total` it rises again.
    """
    return end + (1 - end) * (1 + math.cos(math.pi * step / total)) / 2


def anneal(start: float, end: float, fraction: float, strategy: Anneal = "cos") -> float:
    """The value between `start` (fraction 0) and `end` (fraction 1), along half a cosine or a line."""
    if strategy == "cos":
        return end + (start - end) / 2 * (math.cos(math.pi * fraction) + 1)
    if strategy == "linear":
        return start + (end - start) * fraction
    raise SettingsError(f"anneal_strategy={strategy!r} must be 'cos' or 'linear'")


def one_cycle_phases(total_steps: int, pct_start: float = 0.3, three_phase: bool = False) -> list[Phase]:
    """The phases of the one-cycle policy: up and down, or with `three_phase` up, back, and down to almost nothing.

    The peak is at step pct_start · total_steps − 1; the last step is total_steps − 1.
    """
    if not isinstance(total_steps, int) or total_steps <= 0:
        raise SettingsError(f"total_steps={total_steps!r} must be a whole number of at least 1")
    if not 0 <= pct_start <= 1:
        raise SettingsError(f"pct_start={pct_start!r} must be between 0 and 1, the share of steps before the peak")
    peak = pct_start * total_steps - 1
    up = _phase(peak, "initial_lr max_lr", "max_momentum base_momentum")
    if not three_phase:
        return [up, _phase(total_steps - 1, "max_lr min_lr", "base_momentum max_momentum")]
    back = _phase(2 * pct_start * total_steps - 2, "max_lr initial_lr", "base_momentum max_momentum")
    return [up, back, _phase(total_steps - 1, "initial_lr min_lr", "max_momentum max_momentum")]


def _phase(end_step: float, lr: str, momentum: str) -> Phase:
    (start_lr, end_lr), (start_momentum, end_momentum) = lr.split(), momentum.split()
    return {
        "end_step": end_step,
        "start_lr": start_lr,
        "end_lr": end_lr,
        "start_momentum": start_momentum,
        "end_momentum": end_momentum,
    }


def phase_at(step: int, phases: list[Phase]) -> tuple[Phase, float]:
    """The phase that `step` falls into, and how much of it has passed, 0..1 (above 1 only after the last step)."""
    start = 0.0
    for phase in phases:
        if step <= phase["end_step"] or phase is phases[-1]:
            break
        start = phase["end_step"]
    length = phase["end_step"] - start
    # a phase without length lies wholly behind its only step
    return phase, (step - start) / length if length else 1.0


def one_cycle(
    step: int,
    total_steps: int,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    strategy: Anneal = "cos",
    three_phase: bool = False,
) -> float:
    """The factor of the *highest* learning rate: 1/div_factor → 1 → 1/(div_factor · final_div_factor).

    With a, b the levels at the ends of a phase and s in 0..1 the share of it that has passed:

        b + (a − b) · (1 + cos(π s)) / 2        ("cos"), or   a + (b − a) · s   ("linear")

    Raises SettingsError for a step outside of 0..total_steps. The step `total_steps` itself is allowed, because a loop
    that moves its schedule after each of `total_steps` updates asks for it; no update uses it.

    Source: Smith & Topin (2018), Super-Convergence; Smith (2018), A disciplined approach to neural network
    hyper-parameters: part 1 (three_phase, linear). Deviations, torch's and fastai's: two phases, along a cosine.
    """
    if not 0 <= step <= total_steps:
        raise SettingsError(
            f"step={step} of a one-cycle of total_steps={total_steps} must be between 0 and {total_steps}"
        )
    phase, passed = phase_at(step, one_cycle_phases(total_steps, pct_start, three_phase))
    levels = {"initial_lr": 1 / div_factor, "max_lr": 1.0, "min_lr": 1 / div_factor / final_div_factor}
    return anneal(levels[phase["start_lr"]], levels[phase["end_lr"]], passed, strategy)
