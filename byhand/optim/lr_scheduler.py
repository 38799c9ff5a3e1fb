"""torch.optim.lr_scheduler's names: each sets the learning rate of an optimizer to a function of the step.

The functions are in byhand.optim.schedules; here they meet parameter groups, state dicts and each other. A scheduler
takes any optimizer that has `param_groups` and `defaults`, torch's too.

Deviations from torch: the learning rate is computed from the step and not from the rate before, so rounding does not
add up (where something else changed the rate since, such as a second scheduler or the user, the change is kept, as in
torch); `last_epoch` sets the rate of the step that it leads to; `step()` takes no epoch, which torch deprecates; no
warning is given when `step()` comes before the optimizer's.
"""

import types
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor

from byhand.errors import SettingsError
from byhand.optim import schedules
from byhand.optim.optimizer import ParamsError

__all__ = [
    "ConstantLR",
    "CosineAnnealingLR",
    "ExponentialLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "OneCycleLR",
    "SequentialLR",
    "StepLR",
]


class LRScheduler:
    """Sets each group's lr to `lr_at(index, step)`: at once for step 0, then for the next step at every `step()`.

    A schedule writes `lr_at` in terms of `base_lrs[index]`, the group's lr when the first scheduler met it (kept in the
    group as "initial_lr"). `last_epoch` is the step that the current lr belongs to. A new scheduler that goes on after
    step n is given last_epoch=n and an optimizer whose state dict was loaded, so that its groups have "initial_lr".
    """

    keeps_changes = True  # whether a change that something else made to the lr outlasts the next step
    eta_min = 0.0  # the part of the lr that such a change does not scale

    def __init__(self, optimizer: Any, last_epoch: int = -1) -> None:
        self.optimizer = _checked(optimizer)
        for index, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", float(group["lr"]))
            elif "initial_lr" not in group:
                raise SettingsError(
                    f"last_epoch={last_epoch} but param_groups[{index}] has no 'initial_lr'; "
                    "load the optimizer's state dict first, or leave last_epoch at -1"
                )
        self.base_lrs = [float(group["initial_lr"]) for group in optimizer.param_groups]
        self._step_count = 0
        # from step 0 a second scheduler scales what the first one set; later, the step alone tells
        self._move(last_epoch + 1, keep_changes=last_epoch == -1)

    def lr_at(self, index: int, step: int) -> float:
        """The learning rate of parameter group `index` at `step`, counted from 0."""
        raise NotImplementedError(f"{type(self).__name__} must write lr_at(index, step)")

    def step(self) -> None:
        """Nothing; the optimizer has the learning rate of the next step. Call it after the optimizer's own step()."""
        self._move(self.last_epoch + 1, keep_changes=True)

    def get_last_lr(self) -> list[float]:
        """The learning rate of each parameter group, as this scheduler set it last."""
        return self._last_lr

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer, under torch's names; torch's scheduler of the same class can load it."""
        own = {name: value for name, value in self.__dict__.items() if name != "optimizer"}
        # marks that torch sets while it computes; at rest both are False
        return {**own, "_get_lr_called_within_step": False, "_is_initial": False}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing; the schedule stands where `state_dict` says. Load the optimizer's too: it holds the rates."""
        own = self.__dict__.keys() - {"optimizer"}
        missing = sorted(own - state_dict.keys())
        if missing:
            raise SettingsError(
                f"the state dict has no {missing[0]!r}; it belongs to another schedule than {type(self).__name__}"
            )
        if len(state_dict["_last_lr"]) != len(self._last_lr):
            raise SettingsError(
                f"the state dict has {len(state_dict['_last_lr'])} learning rates, the optimizer {len(self._last_lr)} "
                "parameter groups; it belongs to another optimizer"
            )
        self.__dict__.update({name: state_dict[name] for name in own})

    def _move(self, step: int, keep_changes: bool) -> None:
        groups = self.optimizer.param_groups
        if len(groups) != len(self.base_lrs):
            raise SettingsError(
                f"the optimizer has {len(groups)} parameter groups and had {len(self.base_lrs)} when "
                f"{type(self).__name__} was made; add groups before the scheduler"
            )
        next_lr = self._scaled_lr_at if keep_changes and self.keeps_changes else self.lr_at
        self._last_lr = [next_lr(index, step) for index in range(len(groups))]
        self.last_epoch = step
        self._step_count += 1
        for group, lr in zip(groups, self._last_lr, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr

    def _scaled_lr_at(self, index: int, step: int) -> float:
        """`lr_at`, times what something else multiplied the learning rate by since this scheduler set it."""
        lr, low = float(self.optimizer.param_groups[index]["lr"]), self.eta_min
        before = self.lr_at(index, step - 1) if step > 0 else self.base_lrs[index]
        now = self.lr_at(index, step)
        if lr == before:
            return now
        if before == low:  # nothing to scale; what was added stays
            return lr + (now - before)
        return low + (lr - low) * (now - low) / (before - low)


class LambdaLR(LRScheduler):
    """lr = base_lr · lr_lambda(step), with one function for all parameter groups or a list with one for each."""

    keeps_changes = False

    def __init__(
        self,
        optimizer: Any,
        lr_lambda: Callable[[int], float] | Sequence[Callable[[int], float]],
        last_epoch: int = -1,
    ) -> None:
        self.lr_lambdas = _for_each_group("lr_lambda", lr_lambda, optimizer)
        super().__init__(optimizer, last_epoch)

    def lr_at(self, index: int, step: int) -> float:
        return self.base_lrs[index] * self.lr_lambdas[index](step)

    def state_dict(self) -> dict[str, Any]:
        """As of every scheduler; of the functions, only the attributes of callable objects are kept, as in torch."""
        kept = [
            None if isinstance(function, types.FunctionType) else {**function.__dict__} for function in self.lr_lambdas
        ]
        return {**super().state_dict(), "lr_lambdas": kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        functions = self.lr_lambdas
        super().load_state_dict({**state_dict, "lr_lambdas": functions})
        for function, kept in zip(functions, state_dict["lr_lambdas"], strict=True):
            if kept is not None:
                function.__dict__.update(kept)


class ConstantLR(LRScheduler):
    """lr = base_lr · factor before step `total_iters`, then base_lr."""

    def __init__(self, optimizer: Any, factor: float = 1 / 3, total_iters: int = 5, last_epoch: int = -1) -> None:
        if not 0 <= factor <= 1:
            raise SettingsError(f"factor={factor!r} must be between 0 and 1")
        self.factor = factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def lr_at(self, index: int, step: int) -> float:
        return self.base_lrs[index] * schedules.constant(step, self.factor, self.total_iters)


class LinearLR(LRScheduler):
    """lr = base_lr · (a + (b − a) · min(step, n) / n), a = start_factor, b = end_factor, n = total_iters: warm-up.

    Source: Goyal et al. (2017), Accurate, Large Minibatch SGD, section 2.2.
    """

    def __init__(
        self,
        optimizer: Any,
        start_factor: float = 1 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        if not 0 < start_factor <= 1:
            raise SettingsError(f"start_factor={start_factor!r} must be above 0 and at most 1")
        if not 0 <= end_factor <= 1:
            raise SettingsError(f"end_factor={end_factor!r} must be between 0 and 1")
        self.start_factor = start_factor
        self.end_factor = end_factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def lr_at(self, index: int, step: int) -> float:
        return self.base_lrs[index] * schedules.warm_up(step, self.total_iters, self.start_factor, self.end_factor)


class StepLR(LRScheduler):
    """lr = base_lr · gamma^⌊step / step_size⌋."""

    def __init__(self, optimizer: Any, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None:
        if step_size < 1:
            raise SettingsError(f"step_size={step_size!r} must be at least 1")
        self.step_size = step_size
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def lr_at(self, index: int, step: int) -> float:
        return self.base_lrs[index] * schedules.step_decay(step, self.step_size, self.gamma)


class MultiStepLR(LRScheduler):
    """lr = base_lr · gamma^(number of milestones reached)."""

    def __init__(self, optimizer: Any, milestones: Iterable[int], gamma: float = 0.1, last_epoch: int = -1) -> None:
        self.milestones = Counter(milestones)  # torch's form: how often each milestone was given
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def lr_at(self, index: int, step: int) -> float:
        return self.base_lrs[index] * schedules.multi_step(step, self.milestones.elements(), self.gamma)


class ExponentialLR(LRScheduler):
    """lr = base_lr · gamma^step."""

    def __init__(self, optimizer: Any, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def lr_at(self, index: int, step: int) -> float:
        return self.base_lrs[index] * schedules.exponential(step, self.gamma)


class CosineAnnealingLR(LRScheduler):
    """lr = eta_min + (base_lr − eta_min) · (1 + cos(π step / T_max)) / 2; after T_max it rises again.

    Source: Loshchilov & Hutter (2017), SGDR: Stochastic Gradient Descent with Warm Restarts, eq. 5, without the
    restarts.
    """

    def __init__(self, optimizer: Any, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        if not T_max > 0:
            raise SettingsError(f"T_max={T_max!r} must be at least 1, the number of steps down to eta_min")
        self.T_max = T_max
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def lr_at(self, index: int, step: int) -> float:
        return self.eta_min + (self.base_lrs[index] - self.eta_min) * schedules.cosine(step, self.T_max)


class OneCycleLR(LRScheduler):
    """lr from max_lr / div_factor up to max_lr and down to max_lr / div_factor / final_div_factor in one cycle.

    With a, b the levels at the ends of a phase and s in 0..1 the share of it that has passed:

        lr = b + (a − b) · (1 + cos(π s)) / 2   (anneal_strategy "cos"), or   a + (b − a) · s   ("linear")

    The peak is at step pct_start · total_steps − 1. With `three_phase` the lr goes back to where it began as fast as it
    rose, and then down. With `cycle_momentum` the momentum (Adam: β₁) goes the other way, max_momentum → base_momentum
    at the peak → max_momentum. max_lr, base_momentum and max_momentum may be lists with a value for each parameter
    group. The levels are kept in the groups under torch's names; the lr that the groups had is not used.

    Raises SettingsError for neither `total_steps` nor both `epochs` and `steps_per_epoch`, and in the `step()` that
    goes beyond `total_steps`.

    Source: Smith & Topin (2018), Super-Convergence; Smith (2018), A disciplined approach to neural network
    hyper-parameters: part 1 (three_phase, linear). Deviations, torch's and fastai's: two phases, along a cosine.
    """

    keeps_changes = False

    def __init__(
        self,
        optimizer: Any,
        max_lr: float | Sequence[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: schedules.Anneal = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | Sequence[float] = 0.85,
        max_momentum: float | Sequence[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        max_lrs = _for_each_group("max_lr", max_lr, optimizer)
        self.total_steps = _total_steps(total_steps, epochs, steps_per_epoch)
        self._schedule_phases = schedules.one_cycle_phases(self.total_steps, pct_start, three_phase)
        schedules.anneal(0.0, 1.0, 0.0, anneal_strategy)  # an unknown strategy is an error before anything is set
        self._anneal_func_type = anneal_strategy
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            self.use_beta1 = "betas" in optimizer.defaults
            if not self.use_beta1 and "momentum" not in optimizer.defaults:
                raise SettingsError(
                    f"cycle_momentum=True but {type(optimizer).__name__} has neither momentum nor betas; "
                    "give cycle_momentum=False"
                )
            base_momentums = _for_each_group("base_momentum", base_momentum, optimizer)
            max_momentums = _for_each_group("max_momentum", max_momentum, optimizer)
        if last_epoch == -1:
            for index, group in enumerate(optimizer.param_groups):
                group["initial_lr"] = max_lrs[index] / div_factor
                group["max_lr"] = max_lrs[index]
                group["min_lr"] = group["initial_lr"] / final_div_factor
                if cycle_momentum:
                    group["max_momentum"] = max_momentums[index]
                    group["base_momentum"] = base_momentums[index]
        super().__init__(optimizer, last_epoch)

    def lr_at(self, index: int, step: int) -> float:
        if step > self.total_steps:
            raise SettingsError(
                f"step {step} is beyond total_steps={self.total_steps}; give total_steps the number of all batches"
            )
        phase, passed = schedules.phase_at(step, self._schedule_phases)
        group = self.optimizer.param_groups[index]
        return schedules.anneal(group[phase["start_lr"]], group[phase["end_lr"]], passed, self._anneal_func_type)

    def _move(self, step: int, keep_changes: bool) -> None:
        super()._move(step, keep_changes)
        if not self.cycle_momentum:
            return
        phase, passed = schedules.phase_at(step, self._schedule_phases)
        for group in self.optimizer.param_groups:
            start, end = group[phase["start_momentum"]], group[phase["end_momentum"]]
            momentum = schedules.anneal(start, end, passed, self._anneal_func_type)
            if self.use_beta1:
                group["betas"] = (momentum, *group["betas"][1:])
            else:
                group["momentum"] = momentum


class SequentialLR(LRScheduler):
    """One scheduler after another over the same optimizer; at milestones[i], scheduler i + 1 takes over at step 0.

    Warm-up, then a cosine:

        SequentialLR(optimizer, [LinearLR(optimizer, total_iters=5), CosineAnnealingLR(optimizer, 95)], milestones=[5])
    """

    def __init__(
        self, optimizer: Any, schedulers: Sequence[LRScheduler], milestones: Sequence[int], last_epoch: int = -1
    ) -> None:
        if not schedulers:
            raise SettingsError("schedulers is empty; give at least one")
        for index, scheduler in enumerate(schedulers):
            if not hasattr(scheduler, "optimizer"):
                raise ParamsError(f"schedulers[{index}] is a {type(scheduler).__name__}; give a scheduler")
            if scheduler.optimizer is not optimizer:
                raise SettingsError(
                    f"schedulers[{index}] belongs to another optimizer; give all schedulers the same one"
                )
        if len(milestones) != len(schedulers) - 1:
            raise SettingsError(
                f"{len(milestones)} milestones for {len(schedulers)} schedulers; give one fewer than schedulers, "
                "the steps at which the next one takes over"
            )
        self.optimizer = optimizer
        self._schedulers = list(schedulers)
        self._milestones = list(milestones)
        self._move(last_epoch + 1, keep_changes=False)

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer, with the state dict of each scheduler, under torch's names."""
        own = {name: value for name, value in self.__dict__.items() if name != "optimizer"}
        return {**own, "_schedulers": [scheduler.state_dict() for scheduler in self._schedulers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        schedulers, saved = self._schedulers, state_dict.get("_schedulers", [])
        if len(saved) != len(schedulers):
            raise SettingsError(f"the state dict has {len(saved)} schedulers in sequence, this one {len(schedulers)}")
        super().load_state_dict({**state_dict, "_schedulers": schedulers})
        for scheduler, state in zip(schedulers, saved, strict=True):
            scheduler.load_state_dict(state)

    def _move(self, step: int, keep_changes: bool) -> None:
        index = bisect_right(self._milestones, step)
        begin = self._milestones[index - 1] if index else 0
        scheduler = self._schedulers[index]
        scheduler._move(step - begin, keep_changes and step > begin)
        self.last_epoch = step
        self._last_lr = scheduler.get_last_lr()


def _checked(optimizer: Any) -> Any:
    if not hasattr(optimizer, "param_groups"):
        raise ParamsError(f"optimizer is a {type(optimizer).__name__}; give an optimizer, such as byhand.optim.SGD")
    return optimizer


def _for_each_group(name: str, value: Any, optimizer: Any) -> list[Any]:
    num_groups = len(_checked(optimizer).param_groups)
    if not isinstance(value, list | tuple):
        return [value] * num_groups
    if len(value) != num_groups:
        raise SettingsError(
            f"{name} has {len(value)} values for {num_groups} parameter groups; give one for each, or one for all"
        )
    return list(value)


def _total_steps(total_steps: int | None, epochs: int | None, steps_per_epoch: int | None) -> int:
    if total_steps is not None:
        return total_steps
    if epochs is None or steps_per_epoch is None:
        raise SettingsError("the length of the cycle is missing; give total_steps, or epochs and steps_per_epoch")
    for name, count in (("epochs", epochs), ("steps_per_epoch", steps_per_epoch)):
        if not isinstance(count, int) or count <= 0:
            raise SettingsError(f"{name}={count!r} must be a whole number of at least 1")
    return epochs * steps_per_epoch
