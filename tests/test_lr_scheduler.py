"""The schedules of the learning rate, against torch.optim.lr_scheduler."""

import copy
import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from byhand import optim
from byhand.errors import SettingsError
from byhand.optim import lr_scheduler as ours
from byhand.optim import schedules

torchs = torch.optim.lr_scheduler
STEPS = 50
BASES = (0.3, 0.02)


class Halving:
    """A callable with a state that a scheduler's state dict keeps."""

    def __init__(self, period):
        self.period = period

    def __call__(self, step):
        return 0.5 ** (step // self.period)


def sequence(library, optimizer):
    parts = [library.LinearLR(optimizer, 0.1, total_iters=6), library.CosineAnnealingLR(optimizer, 44, eta_min=1e-4)]
    return library.SequentialLR(optimizer, parts, milestones=[6])


def three_in_sequence(library, optimizer):
    parts = [library.ConstantLR(optimizer, 0.5, 4), library.ExponentialLR(optimizer, 0.9), library.StepLR(optimizer, 7)]
    return library.SequentialLR(optimizer, parts, milestones=[5, 20])


SINGLE = {
    "constant": ("ConstantLR", {}),
    "constant, half": ("ConstantLR", {"factor": 0.5, "total_iters": 17}),
    "linear": ("LinearLR", {}),
    "linear, down": ("LinearLR", {"start_factor": 0.8, "end_factor": 0.1, "total_iters": 30}),
    "step": ("StepLR", {"step_size": 7}),
    "step, rising": ("StepLR", {"step_size": 1, "gamma": 1.1}),
    "multi-step": ("MultiStepLR", {"milestones": [30, 3, 20]}),
    "multi-step, twice": ("MultiStepLR", {"milestones": [5, 5, 11], "gamma": 0.3}),
    "exponential": ("ExponentialLR", {"gamma": 0.93}),
    "cosine": ("CosineAnnealingLR", {"T_max": STEPS}),
    "cosine, floor": ("CosineAnnealingLR", {"T_max": 40, "eta_min": 1e-3}),
    "cosine, rising again": ("CosineAnnealingLR", {"T_max": 12, "eta_min": 1e-3}),
    "lambda": ("LambdaLR", {"lr_lambda": lambda step: 1 / (1 + step)}),
    "lambdas": ("LambdaLR", {"lr_lambda": [lambda step: 0.9**step, Halving(4)]}),
    "one-cycle": ("OneCycleLR", {"max_lr": 0.5, "total_steps": STEPS}),
    "one-cycle, epochs": ("OneCycleLR", {"max_lr": [0.5, 0.1], "epochs": 10, "steps_per_epoch": 5, "pct_start": 0.25}),
    "one-cycle, linear": (
        "OneCycleLR",
        {"max_lr": 0.5, "total_steps": STEPS, "anneal_strategy": "linear", "max_momentum": [0.9, 0.99]},
    ),
    "one-cycle, three phases": ("OneCycleLR", {"max_lr": 1, "total_steps": 55, "three_phase": True, "div_factor": 10}),
    "one-cycle, momentum kept": (
        "OneCycleLR",
        {"max_lr": 0.5, "total_steps": STEPS, "cycle_momentum": False, "final_div_factor": 100.0},
    ),
    "one-cycle, down only": ("OneCycleLR", {"max_lr": 0.5, "total_steps": STEPS, "pct_start": 0.0}),
}
SEQUENCES = {"sequence": sequence, "three in sequence": three_in_sequence}
CASES = [*SINGLE, *SEQUENCES]


def make(case, library, optimizer, **more):
    if case in SEQUENCES:
        return SEQUENCES[case](library, optimizer)
    name, options = SINGLE[case]
    return getattr(library, name)(optimizer, **copy.deepcopy(options), **more)


OPTIMIZERS = {
    "SGD": lambda library, groups: library.SGD(groups, lr=BASES[0], momentum=0.7),
    "AdamW": lambda library, groups: library.AdamW(groups, lr=BASES[0]),
}


def optimizer_of(library, kind="SGD"):
    params = [torch.nn.Parameter(torch.ones(2)) for _ in BASES]
    return OPTIMIZERS[kind](library, [{"params": params[0]}, {"params": params[1], "lr": BASES[1]}])


@pytest.fixture(autouse=True)
def no_warning_about_the_order():
    with warnings.catch_warnings():
        # torch's note that optimizer.step() was not called; these tests move only schedules
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
        yield


def settings_of(optimizer):
    """Everything that a schedule may set in the groups."""
    names = ("lr", "initial_lr", "max_lr", "min_lr", "momentum", "betas", "max_momentum", "base_momentum")
    return [{name: group[name] for name in names if name in group} for group in optimizer.param_groups]


def assert_close(optimizer, reference, step):
    for group, torchs_group in zip(settings_of(optimizer), settings_of(reference), strict=True):
        assert group.keys() == torchs_group.keys()
        for name, value in torchs_group.items():
            assert group[name] == pytest.approx(value, rel=1e-12, abs=0), (step, name)


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("case", CASES)
def test_every_rate_is_torchs_for_fifty_steps(case, kind):
    optimizer, reference = optimizer_of(optim, kind), optimizer_of(torch.optim, kind)
    schedule, torchs_schedule = make(case, ours, optimizer), make(case, torchs, reference)
    rates = set()
    for step in range(STEPS):
        assert_close(optimizer, reference, step)
        assert schedule.get_last_lr() == [group["lr"] for group in optimizer.param_groups]
        assert schedule.last_epoch == torchs_schedule.last_epoch == step
        rates.add(schedule.get_last_lr()[0])
        schedule.step()
        torchs_schedule.step()
    assert len(rates) > 1  # a schedule that stands still would be no test


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("direction", ["from torch", "to torch"])
def test_a_state_dict_goes_on_on_the_other_side(case, direction):
    one, other = (torch.optim, optim) if direction == "from torch" else (optim, torch.optim)
    first = optimizer_of(one)
    first_schedule = make(case, one.lr_scheduler, first)
    for _ in range(23):
        first_schedule.step()
    second = optimizer_of(other)
    second_schedule = make(case, other.lr_scheduler, second)
    second_schedule.load_state_dict(copy.deepcopy(first_schedule.state_dict()))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for step in range(23, STEPS):
        assert_close(second, first, step)
        assert second_schedule.last_epoch == first_schedule.last_epoch == step
        first_schedule.step()
        second_schedule.step()


@pytest.mark.parametrize("case", CASES)
def test_a_state_dict_has_torchs_names(case):
    def names(state):
        nested = [names(part) for part in state.get("_schedulers", [])]
        return sorted(state), nested

    mine, reference = make(case, ours, optimizer_of(optim)), make(case, torchs, optimizer_of(torch.optim))
    assert names(mine.state_dict()) == names(reference.state_dict())


def test_a_state_dict_survives_a_file_read_without_pickle(tmp_path):
    for case in ("multi-step", "one-cycle", "sequence"):
        schedule = make(case, ours, optimizer_of(optim))
        for _ in range(9):
            schedule.step()
        torch.save(schedule.state_dict(), tmp_path / "schedule.pt")
        fresh = make(case, ours, optimizer_of(optim))
        fresh.load_state_dict(torch.load(tmp_path / "schedule.pt", weights_only=True))
        assert fresh.state_dict() == schedule.state_dict()


def test_a_callable_keeps_its_attributes_in_the_state_dict():
    schedule = ours.LambdaLR(optimizer_of(optim), Halving(3))
    other = ours.LambdaLR(optimizer_of(optim), Halving(100))
    other.load_state_dict(schedule.state_dict())
    assert other.lr_lambdas[0].period == 3


@pytest.mark.parametrize("case", SINGLE)
def test_a_new_scheduler_goes_on_after_last_epoch(case):
    whole, resumed = optimizer_of(optim), optimizer_of(optim)
    schedule = make(case, ours, whole)
    for _ in range(12):
        schedule.step()
    resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
    again = make(case, ours, resumed, last_epoch=11)
    for _ in range(10):
        assert settings_of(resumed) == settings_of(whole)
        schedule.step()
        again.step()
    with pytest.raises(SettingsError, match="initial_lr"):
        make(case, ours, optimizer_of(optim), last_epoch=11)


def test_two_schedulers_over_one_optimizer_multiply_as_torchs_do():
    optimizers = optimizer_of(optim), optimizer_of(torch.optim)
    both = []
    for optimizer, library in zip(optimizers, (ours, torchs), strict=True):
        warm_up, step_down = library.LinearLR(optimizer, 0.1, total_iters=8), library.StepLR(optimizer, 5, 0.5)
        both.append((warm_up, step_down, library.CosineAnnealingLR(optimizer, 40, eta_min=0.001)))
    for step in range(STEPS):
        assert_close(*optimizers, step)
        for schedules_of_one in both:
            for schedule in schedules_of_one:
                schedule.step()


@pytest.mark.parametrize("changed_at", [3, 12])  # 12 is where the cosine has nothing left to scale
@pytest.mark.parametrize("case", ["linear", "step", "multi-step", "exponential", "cosine, rising again"])
def test_a_rate_that_the_user_changed_in_between_stays_changed_as_with_torch(case, changed_at):
    optimizer, reference = optimizer_of(optim), optimizer_of(torch.optim)
    schedule, torchs_schedule = make(case, ours, optimizer), make(case, torchs, reference)
    for step in range(30):
        if step == changed_at:
            optimizer.param_groups[0]["lr"] = reference.param_groups[0]["lr"] = 0.017
        assert_close(optimizer, reference, step)
        schedule.step()
        torchs_schedule.step()


def test_a_schedule_moves_a_rate_that_is_a_tensor_in_place():
    rate = torch.tensor(0.3, dtype=torch.float64)
    optimizer = optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=rate)
    schedule = ours.ExponentialLR(optimizer, 0.5)
    schedule.step()
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == schedule.get_last_lr()[0] == 0.15


def test_a_schedule_drives_torchs_optimizer_too():
    reference = optimizer_of(torch.optim)
    schedule = sequence(ours, reference)
    other = optimizer_of(torch.optim)
    torchs_schedule = sequence(torchs, other)
    for step in range(STEPS):
        assert_close(reference, other, step)
        schedule.step()
        torchs_schedule.step()


def test_a_sequence_within_a_sequence_runs_from_its_beginning():
    optimizer = optimizer_of(optim)
    parts = [ours.ExponentialLR(optimizer, 0.9), sequence(ours, optimizer)]
    schedule = ours.SequentialLR(optimizer, parts, milestones=[4])
    alone = optimizer_of(optim)
    expected = sequence(ours, alone)
    for step in range(20):
        if step < 4:
            assert schedule.get_last_lr()[0] == pytest.approx(BASES[0] * 0.9**step)
        else:
            assert schedule.get_last_lr() == expected.get_last_lr()
            expected.step()
        schedule.step()


def test_training_through_one_cycle_gives_torchs_weights():
    weights = []
    for library in (optim, torch.optim):
        generator = torch.Generator().manual_seed(3)
        inputs = torch.randn(64, 4, generator=generator, dtype=torch.float64)
        targets = inputs @ torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
        weight = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))
        optimizer = library.SGD([weight], lr=0.1, momentum=0.9)
        schedule = library.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=200)
        for _ in range(200):
            optimizer.zero_grad()
            (inputs @ weight - targets).square().mean().backward()
            optimizer.step()
            schedule.step()
        weights.append(weight.detach())
    assert (weights[0] - weights[1]).abs().max() < 1e-12
    assert (weights[0] - torch.tensor([1.0, -2.0, 0.5, 3.0])).abs().max() < 0.01


BAD = {
    "an unknown optimizer": (lambda library, o: library.StepLR("SGD", 3), (TypeError, AttributeError)),
    "a factor above 1": (lambda library, o: library.ConstantLR(o, factor=1.5), ValueError),
    "a start at 0": (lambda library, o: library.LinearLR(o, start_factor=0.0), ValueError),
    "an end above 1": (lambda library, o: library.LinearLR(o, end_factor=2.0), ValueError),
    "too many lambdas": (lambda library, o: library.LambdaLR(o, [lambda step: 1.0] * 3), ValueError),
    "no length": (lambda library, o: library.OneCycleLR(o, 0.1), ValueError),
    "half a length": (lambda library, o: library.OneCycleLR(o, 0.1, epochs=3), ValueError),
    "a length of 0": (lambda library, o: library.OneCycleLR(o, 0.1, 0), ValueError),
    "epochs of 0": (lambda library, o: library.OneCycleLR(o, 0.1, epochs=0, steps_per_epoch=3), ValueError),
    "a peak beyond the end": (lambda library, o: library.OneCycleLR(o, 0.1, 10, pct_start=1.5), ValueError),
    "an unknown curve": (lambda library, o: library.OneCycleLR(o, 0.1, 10, anneal_strategy="sin"), ValueError),
    "too many peaks": (lambda library, o: library.OneCycleLR(o, [0.1] * 3, 10), ValueError),
    "no scheduler": (lambda library, o: library.SequentialLR(o, [], []), ValueError),
    "no milestone": (lambda library, o: library.SequentialLR(o, [library.StepLR(o, 3)] * 2, []), ValueError),
    "what is no scheduler": (lambda library, o: library.SequentialLR(o, [3], []), TypeError),
}


@pytest.mark.parametrize("case", BAD)
def test_what_torch_refuses_is_refused_in_kind_and_in_one_line(case):
    build, kind = BAD[case]
    with pytest.raises(kind):
        build(torchs, optimizer_of(torch.optim))
    optimizer = optimizer_of(optim)
    before = copy.deepcopy(settings_of(optimizer))
    with pytest.raises(SettingsError) as error:
        build(ours, optimizer)
    assert isinstance(error.value, kind)
    assert "\n" not in str(error.value)
    for group, old in zip(settings_of(optimizer), before, strict=True):
        assert group["lr"] == old["lr"]
        assert group["momentum"] == old["momentum"]


def test_schedulers_of_another_optimizer_are_refused_in_a_sequence():
    for library, schedulers in ((optim, ours), (torch.optim, torchs)):
        one, other = optimizer_of(library), optimizer_of(library)
        with pytest.raises(ValueError, match="optimizer"):
            schedulers.SequentialLR(one, [schedulers.StepLR(other, 3)], [])


def test_momentum_cannot_be_cycled_where_there_is_none():
    optimizer = optimizer_of(optim)
    del optimizer.defaults["momentum"]
    with pytest.raises(SettingsError, match="cycle_momentum=False"):
        ours.OneCycleLR(optimizer, 0.1, 10)


def test_a_period_of_zero_is_refused():
    for build in (lambda o: ours.StepLR(o, 0), lambda o: ours.CosineAnnealingLR(o, 0)):
        with pytest.raises(SettingsError, match="=0 must be at least 1"):
            build(optimizer_of(optim))


def test_a_one_cycle_ends_after_total_steps_as_torchs():
    for library, schedulers in ((optim, ours), (torch.optim, torchs)):
        schedule = schedulers.OneCycleLR(optimizer_of(library), 0.1, 5)
        for _ in range(5):
            schedule.step()
        with pytest.raises(ValueError, match="total"):
            schedule.step()


def test_a_group_added_after_the_scheduler_is_refused_at_its_step():
    optimizer = optimizer_of(optim)
    schedule = ours.StepLR(optimizer, 3)
    optimizer.add_param_group({"params": torch.nn.Parameter(torch.ones(1))})
    with pytest.raises(SettingsError, match="3 parameter groups and had 2"):
        schedule.step()


def test_a_state_dict_of_another_schedule_is_refused_and_changes_nothing():
    schedule = ours.CosineAnnealingLR(optimizer_of(optim), 10)
    before = schedule.state_dict()
    with pytest.raises(SettingsError, match="'T_max'"):
        schedule.load_state_dict(ours.StepLR(optimizer_of(optim), 3).state_dict())
    lonely = ours.CosineAnnealingLR(optim.SGD([torch.nn.Parameter(torch.ones(1))]), 10)
    with pytest.raises(SettingsError, match="parameter groups"):
        schedule.load_state_dict(lonely.state_dict())
    with pytest.raises(SettingsError, match="0 schedulers in sequence, this one 2"):
        sequence(ours, optimizer_of(optim)).load_state_dict(before)
    assert schedule.state_dict() == before


def test_the_functions_give_what_their_papers_and_a_hand_calculation_give():
    assert [schedules.constant(step, 0.5, 2) for step in range(4)] == [0.5, 0.5, 1.0, 1.0]
    assert schedules.constant(7) == 1.0
    assert [schedules.warm_up(step, 4, start=0.2) for step in (0, 1, 2, 4, 9)] == pytest.approx([0.2, 0.4, 0.6, 1, 1])
    assert schedules.warm_up(0, 0) == 1.0
    assert [schedules.step_decay(step, 3, 0.5) for step in (0, 2, 3, 6)] == [1, 1, 0.5, 0.25]
    assert [schedules.multi_step(step, [4, 2], 0.5) for step in (1, 2, 3, 4)] == [1, 0.5, 0.5, 0.25]
    assert [schedules.exponential(step, 0.5) for step in range(3)] == [1, 0.5, 0.25]
    assert [schedules.cosine(step, 4) for step in range(5)] == pytest.approx(
        [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0]
    )
    assert schedules.cosine(4, 4, end=0.25) == 0.25
    # 20 steps, peak at step 0.3 · 20 - 1 = 5, half way up at 2.5 and half way down at 12
    assert schedules.one_cycle(0, 20) == pytest.approx(1 / 25)
    assert schedules.one_cycle(5, 20) == 1.0
    assert schedules.one_cycle(12, 20) == pytest.approx((1 + 1 / 250_000) / 2)
    assert schedules.one_cycle(19, 20) == pytest.approx(1 / 250_000)
    assert schedules.one_cycle(2, 20, strategy="linear") == pytest.approx(1 / 25 + 0.4 * 24 / 25)
    for step in (-1, 21):
        with pytest.raises(SettingsError, match=f"step={step}"):
            schedules.one_cycle(step, 20)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    total=st.integers(2, 60),
    pct_start=st.floats(0.05, 0.45),
    div_factor=st.floats(1, 100),
    final_div_factor=st.floats(1, 1e4),
    strategy=st.sampled_from(["cos", "linear"]),
    three_phase=st.booleans(),
)
def test_the_one_cycle_function_is_torchs_for_any_setting(
    total, pct_start, div_factor, final_div_factor, strategy, three_phase
):
    reference = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], momentum=0.9)
    options = {"div_factor": div_factor, "final_div_factor": final_div_factor, "three_phase": three_phase}
    # a rising phase of exactly one step divides by zero in torch
    if pct_start * total == 1 or 2 * pct_start * total == 2:
        return
    schedule = torchs.OneCycleLR(reference, 1.0, total, pct_start=pct_start, anneal_strategy=strategy, **options)
    for step in range(total):
        mine = schedules.one_cycle(step, total, pct_start, strategy=strategy, **options)
        assert mine == pytest.approx(schedule.get_last_lr()[0], rel=1e-10, abs=1e-13)
        schedule.step()


def test_a_rising_phase_of_one_step_is_at_the_peak_at_once():
    assert schedules.one_cycle(0, 10, pct_start=0.1) == 1.0
    assert schedules.one_cycle(9, 10, pct_start=0.1) == pytest.approx(1 / 250_000)
