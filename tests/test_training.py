"""The training loop against slow rewrites of it: the source's own scripts, torch's optimizers, formulas written out."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from conftest import made
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from byhand import jobs, models, ops
from byhand import nn as hand_nn
from byhand.data.arrays import Dataset
from byhand.data.preparation import Preparation
from byhand.errors import NonFiniteLoss, RunError, SettingsError
from byhand.nn.hands import is_only_ours
from byhand.ops.tape import Tape
from byhand.recipes import recipe
from byhand.runs import storage
from byhand.training.device import device_named
from byhand.training.evaluate import evaluate
from byhand.training.fit import fit
from byhand.training.settings import Settings
from byhand.training.state import State, lr_at
from byhand.training.steps import DeviceStep, Step, step_for
from byhand.training.tasks import REGRESSION

CPU = torch.device("cpu")
PLAIN = Settings(epochs=2, batch_size=16, lr=0.05, seed=3)
RESIZED = Preparation(size=32, fit="resize")


def new(network, settings, **options):
    return State.new(lambda: models.build(network, **options), settings, CPU)


def weights(state):
    return {name: value.clone() for name, value in state.library.state_dict().items()}


def permutations(settings, n):
    """The order of the examples in each epoch: one generator, seeded once."""
    generator = torch.Generator().manual_seed(settings.seed)
    return [torch.randperm(n, generator=generator) for _ in range(settings.epochs)]


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []


def moved(before, after):
    """The largest change of any weight: a comparison after steps that moved nothing would say nothing."""
    return max(float((before[name] - after[name]).abs().max()) for name in before)


# The source's scripts, as it writes them


def source_softmax(X):
    X_exp = torch.exp(X)
    partition = X_exp.sum(dim=1, keepdim=True)
    return X_exp / partition


def source_net(X, params):
    """The source's 3.4 with one pair of W, b, and its 4.3 with three."""
    H = X.reshape((-1, 784))
    *hidden, (W, b) = zip(params[::2], params[1::2], strict=True)
    for W_i, b_i in hidden:
        H = torch.max(H @ W_i + b_i, torch.zeros(1))
    return source_softmax(H @ W + b)


def source_training(data, params, order, lr, batch_size, loss_of, true_mean=False):
    """The source's loop: summed loss, then lr · gradient / batch_size, also where the last batch is smaller."""
    for indices in order:
        for batch in indices.split(batch_size):
            loss_of(data.train_images[batch], data.train_labels[batch], params).sum().backward()
            with torch.no_grad():
                for param in params:
                    param -= lr * param.grad / (len(batch) if true_mean else batch_size)
                    param.grad.zero_()


def source_cross_entropy(images, y, params):
    y_hat = source_net(images.float() / 255, params)
    return -torch.log(y_hat[range(len(y_hat)), y])


def source_squared_loss(X, y, params):
    w, b = params
    y_hat = X @ w + b
    return (y_hat - y.reshape(y_hat.shape)) ** 2 / 2


@pytest.mark.parametrize(
    ("name", "loss_of"),
    [
        ("softmax-fashion", source_cross_entropy),
        ("mlp-fashion", source_cross_entropy),
        ("linear-regression", source_squared_loss),
    ],
)
@pytest.mark.parametrize("by_hand", [False, True])
def test_the_plan_book_trains_as_the_sources_own_script(name, loss_of, by_hand):
    chosen = recipe(name)
    data = made(chosen.dataset, num_train=70)  # 70 = 4 · 16 + 6: the last batch is smaller
    settings = chosen.plan("book").settings.replace(epochs=4, batch_size=16, seed=5, by_hand=by_hand)
    state = new(chosen.network, settings)
    start = weights(state)

    def trained_by_the_source(true_mean):
        # The source keeps W as (inputs, outputs), torch's layers as (outputs, inputs).
        params = [value.T.clone() if value.ndim == 2 else value.clone() for value in start.values()]
        for param in params:
            param.requires_grad_(True)
        source_training(data, params, permutations(settings, 70), settings.lr, 16, loss_of, true_mean)
        return [param.detach().T if param.ndim == 2 else param.detach() for param in params]

    list(fit(state, data, chosen.task))
    expected, other = trained_by_the_source(False), trained_by_the_source(True)
    for found, right, wrong in zip(weights(state).values(), expected, other, strict=True):
        rounding = float((found - right).abs().max())
        assert rounding < 2e-6
        assert float((found - wrong).abs().max()) > 20 * rounding  # the true mean is told apart
    assert moved(start, weights(state)) > 1e-3


@pytest.mark.parametrize("name", ["softmax-fashion", "mlp-fashion", "linear-regression"])
def test_the_plan_book_starts_as_the_source_weights_normal_biases_zero(name):
    chosen = recipe(name)
    state = new(chosen.network, chosen.plan("book").settings)
    for key, value in weights(state).items():
        if key.endswith("bias"):
            assert not value.any()
        elif value.numel() > 1000:
            assert abs(float(value.std()) - 0.01) < 5e-4
            assert abs(float(value.mean())) < 1e-3
        else:
            assert 0 < float(value.abs().max()) < 0.05


# torch's optimizers and schedules


def torch_training(state, data, order, make_optimizer, make_schedule):
    """A plain loop of torch's own parts over the network of a state that has not trained yet."""
    model, settings = state.library, state.settings
    optimizer = make_optimizer(model.parameters())
    steps = settings.epochs * math.ceil(len(data.train_images) / settings.batch_size)
    schedule = make_schedule(optimizer, steps)
    loss_fn = nn.CrossEntropyLoss(label_smoothing=settings.label_smoothing)
    model.train()
    for indices in order:
        for batch in indices.split(settings.batch_size):
            optimizer.zero_grad()
            loss_fn(model(settings.preparation(data.train_images[batch])), data.train_labels[batch]).backward()
            optimizer.step()
            schedule.step()
    return weights(state)


@pytest.mark.parametrize("by_hand", [False, True])
def test_adamw_under_one_cycle_gives_the_weights_of_a_plain_torch_loop(by_hand):
    settings = Settings(
        epochs=3, batch_size=16, lr=4e-3, optimizer="adamw", weight_decay=0.02, beta2=0.95, schedule="one-cycle",
        label_smoothing=0.1, preparation=RESIZED, seed=1, by_hand=by_hand,
    )  # fmt: skip
    data = made("digits", num_train=40)
    state = new("lenet5", settings)
    start = weights(state)
    list(fit(state, data))
    expected = torch_training(
        new("lenet5", settings.replace(by_hand=False)),
        data,
        permutations(settings, 40),
        lambda params: torch.optim.AdamW(params, lr=4e-3, weight_decay=0.02, betas=(0.9, 0.95)),
        lambda opt, steps: torch.optim.lr_scheduler.OneCycleLR(opt, 4e-3, total_steps=steps, cycle_momentum=False),
    )
    for key, value in weights(state).items():
        torch.testing.assert_close(value, expected[key], rtol=0, atol=2e-5 if by_hand else 1e-6)
    assert moved(start, expected) > 0.01


@pytest.mark.parametrize("by_hand", [False, True])
def test_nesterov_sgd_under_cosine_gives_the_weights_of_a_plain_torch_loop(by_hand):
    settings = Settings(
        epochs=3, batch_size=16, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01, schedule="cosine", seed=1,
        by_hand=by_hand,
    )  # fmt: skip
    data = made("mnist", num_train=40)
    state = new("softmax-regression", settings)
    list(fit(state, data))
    expected = torch_training(
        new("softmax-regression", settings.replace(by_hand=False)),
        data,
        permutations(settings, 40),
        lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
        lambda opt, steps: torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=steps),
    )
    for key, value in weights(state).items():
        torch.testing.assert_close(value, expected[key], rtol=0, atol=1e-5)


SPE = 7  # steps per epoch


@pytest.mark.parametrize(
    ("changes", "scheduler"),
    [
        ({"schedule": "constant"}, lambda opt, total: torch.optim.lr_scheduler.ConstantLR(opt, factor=1.0)),
        ({"schedule": "cosine"}, lambda opt, total: torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=total)),
        (
            {"schedule": "one-cycle"},
            lambda opt, total: torch.optim.lr_scheduler.OneCycleLR(opt, 0.3, total_steps=total, cycle_momentum=False),
        ),
        (
            {"schedule": "one-cycle", "rise": 0.15},
            lambda opt, total: torch.optim.lr_scheduler.OneCycleLR(
                opt, 0.3, total_steps=total, pct_start=0.15, cycle_momentum=False
            ),
        ),
        (
            {"schedule": "step", "step_epochs": 2, "gamma": 0.5},
            lambda opt, total: torch.optim.lr_scheduler.StepLR(opt, step_size=2 * SPE, gamma=0.5),
        ),
        (
            {"schedule": "milestones", "milestones": (0.25, 0.75), "gamma": 0.1},
            lambda opt, total: torch.optim.lr_scheduler.MultiStepLR(opt, [round(0.25 * total), round(0.75 * total)]),
        ),
        (
            {"schedule": "exponential", "gamma": 0.8},  # once an epoch
            lambda opt, total: torch.optim.lr_scheduler.StepLR(opt, step_size=SPE, gamma=0.8),
        ),
    ],
)
@pytest.mark.parametrize("warm_up", [0, 1.5])
def test_the_lr_of_every_step_is_that_of_torchs_schedule_after_a_linear_rise(changes, scheduler, warm_up):
    settings = Settings(epochs=6, batch_size=1, lr=0.3, warm_up=warm_up, **changes)
    rise = round(warm_up * SPE)
    total = 6 * SPE
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    schedule = scheduler(optimizer, total - rise)
    expected = [0.3 * (i + 1) / rise for i in range(rise)]
    for _ in range(total - rise):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert [lr_at(settings, step, SPE) for step in range(total)] == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_a_warm_up_longer_than_the_training_only_rises():
    settings = Settings(epochs=2, batch_size=1, lr=1.0, warm_up=4, schedule="one-cycle")
    assert [lr_at(settings, step, 2) for step in range(4)] == [1 / 8, 2 / 8, 3 / 8, 4 / 8]


def test_a_one_cycle_of_a_single_step_takes_the_highest_lr():
    assert lr_at(Settings(epochs=1, batch_size=1, lr=0.2, schedule="one-cycle"), 0, 1) == 0.2


def test_the_optimizer_is_given_the_lr_of_each_step():
    settings = PLAIN.replace(schedule="cosine", warm_up=1)
    state = new("softmax-regression", settings)
    seen = []
    step = state.optimizer.step
    state.optimizer.step = lambda: (seen.append(state.optimizer.param_groups[0]["lr"]), step())
    epochs = list(fit(state, made("mnist", num_train=40)))
    assert seen == [lr_at(settings, step, 3) for step in range(6)]
    assert [epoch.lr for epoch in epochs] == [seen[2], seen[5]]


# The running mean of the weights, label smoothing


def test_the_running_mean_of_the_weights_is_the_weighted_sum_over_all_steps():
    settings = PLAIN.replace(epochs=3, ema=0.6)
    state = new("softmax-regression", settings)
    steps = [weights(state)]
    step = state.optimizer.step
    state.optimizer.step = lambda: (step(), steps.append(weights(state)))
    list(fit(state, made("mnist", num_train=40)))
    count = len(steps) - 1
    assert count == 9
    d = [min(0.6, (1 + t) / (10 + t)) for t in range(1, count + 1)]
    assert d[0] == 2 / 11  # small in the first steps
    assert d[-1] == 10 / 19 < 0.6
    shares = [math.prod(d)] + [(1 - d[t]) * math.prod(d[t + 1 :]) for t in range(count)]
    assert sum(shares) == pytest.approx(1)
    for key, mean in state.kept.state_dict().items():
        expected = sum(share * weight[key].double() for share, weight in zip(shares, steps, strict=True))
        torch.testing.assert_close(mean.double(), expected, rtol=0, atol=1e-6)
    assert moved(steps[-1], dict(state.kept.state_dict())) > 1e-4


def test_the_running_mean_does_not_touch_what_is_learned():
    data = made("mnist")
    plain, averaged = (new("softmax-regression", PLAIN.replace(ema=ema)) for ema in (0.0, 0.9))
    list(fit(plain, data))
    list(fit(averaged, data))
    assert_same(weights(averaged), weights(plain))
    assert plain.kept is plain.library


@pytest.mark.parametrize("by_hand", [False, True])
def test_label_smoothing_spreads_the_target_over_all_classes_in_training_alone(by_hand):
    data = made("mnist", num_train=16)
    settings = PLAIN.replace(epochs=1, label_smoothing=0.2, by_hand=by_hand)
    state = new("softmax-regression", settings)
    with torch.no_grad():
        logits = state.library(data.train_images.float() / 255).double().numpy()
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    target = np.full((16, 10), 0.2 / 10)
    target[np.arange(16), data.train_labels.numpy()] += 0.8
    plain = -log_p[np.arange(16), data.train_labels.numpy()].mean()
    measured = evaluate(state.library, data.train_images, data.train_labels, settings)
    assert measured.loss == pytest.approx(plain, rel=1e-6)
    (epoch,) = fit(state, data)  # one batch: measured before its step
    assert epoch.loss == pytest.approx(-(target * log_p).sum(1).mean(), rel=1e-6)


# Two hands

RULES = [
    {"optimizer": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 0.01, "lr": 0.02},
    {"optimizer": "adam", "lr": 3e-3, "weight_decay": 0.01},
    {"optimizer": "adamw", "lr": 3e-3, "weight_decay": 0.05, "label_smoothing": 0.1},
]


def in_float64(name, n=24):
    """The data set as the network takes it, in float64: then both hands differ by rounding alone."""
    data = made({"linear-regression": "synthetic-linear", "lenet5": "digits"}.get(name, "mnist"), num_train=n)
    images = data.train_images.double()
    if name == "lenet5":
        images = RESIZED(data.train_images).double()
    elif name != "linear-regression":
        images = images / 255
    labels = data.train_labels.double() if name == "linear-regression" else data.train_labels
    return Dataset("made", images, labels, images, labels)


@pytest.mark.parametrize("name", ["linear-regression", "softmax-regression", "mlp", "lenet5"])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["optimizer"])
def test_by_hand_gives_the_librarys_weights_up_to_rounding_in_float64(name, rule):
    data = in_float64(name)
    task = REGRESSION if name == "linear-regression" else "classification"
    found = {}
    for by_hand in (False, True):
        settings = Settings(epochs=2, batch_size=10, seed=2, by_hand=by_hand, **rule)
        state = State.new(lambda: models.build(name).double(), settings, CPU)
        start = weights(state)
        list(fit(state, data, task))
        found[by_hand] = weights(state)
    assert moved(start, found[True]) > 1e-3
    for key, value in found[True].items():
        torch.testing.assert_close(value, found[False][key], rtol=0, atol=1e-9)


def test_dropout_by_hand_falls_on_the_same_units_as_the_librarys():
    found = {}
    for by_hand in (False, True):
        state = new("mlp", PLAIN.replace(by_hand=by_hand, dropout=0.4), dropout=0.4)
        list(fit(state, made("mnist")))
        found[by_hand] = weights(state)
    for key, value in found[True].items():
        torch.testing.assert_close(value, found[False][key], rtol=0, atol=1e-6)


class Kernels(TorchDispatchMode):
    """Notes the name of every kernel that torch dispatches."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.__name__)
        return func(*args, **(kwargs or {}))


OF_A_LAYER = (
    "conv", "pool", "linear", "addmm", "relu", "threshold", "sigmoid", "tanh", "softmax", "nll", "loss",
    "dropout", "norm", "_foreach", "_fused", "grid_sampl", "interpolate", "upsample", "huber",
)  # fmt: skip


@pytest.mark.parametrize(
    ("network", "changes", "options"),
    [
        ("lenet5", {"preparation": RESIZED, "rotate": 5, "zoom": 0.1, "move": 1, "label_smoothing": 0.1}, {}),
        ("mlp", {"dropout": 0.2, "shift": 1, "flip": True, "ema": 0.9}, {"dropout": 0.2}),
        ("lenet5", {"preparation": RESIZED}, {"activation": "tanh"}),
        ("mlp", {}, {"activation": "sigmoid"}),
        ("linear-regression", {}, {}),
    ],
)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["optimizer"])
def test_a_training_by_hand_dispatches_no_kernel_of_a_layer_a_loss_or_an_optimizer(network, changes, options, rule):
    regression = network == "linear-regression"
    data = made({"lenet5": "digits", "linear-regression": "synthetic-linear"}.get(network, "mnist"), num_train=20)
    seen = {}
    for by_hand in (False, True):
        settings = Settings(**({"epochs": 1, "batch_size": 12} | rule | changes), by_hand=by_hand)
        state = new(network, settings, **options)
        # On a CPU torch's optimizers, too, are made of plain arithmetic, so the watch cannot tell them from ours.
        assert type(state.optimizer).__module__.startswith("byhand.optim." if by_hand else "torch.optim.")
        task = REGRESSION if regression else "classification"
        with Kernels() as kernels:
            list(fit(state, data, task))
            evaluate(state.kept, data.test_images, data.test_labels, settings, task)
        seen[by_hand] = {name for name in kernels.names if any(part in name for part in OF_A_LAYER)}
    assert seen[True] == set()
    assert seen[False] != set()  # the watch sees the library's


# Seeds

RANDOM = {"dropout": 0.3, "shift": 1, "flip": True, "rotate": 5.0, "zoom": 0.1, "move": 1.0, "ema": 0.9}


@pytest.mark.parametrize("by_hand", [False, True])
def test_the_same_seed_gives_the_same_weights_bit_for_bit_and_another_does_not(by_hand):
    data = made("mnist")
    found = []
    for seed in (4, 4, 5):
        torch.manual_seed(len(found))  # what was drawn before does not matter
        torch.rand(len(found))
        state = new("mlp", PLAIN.replace(seed=seed, by_hand=by_hand, **RANDOM), dropout=0.3)
        list(fit(state, data))
        found.append(weights(state))
    assert_same(found[0], found[1])
    assert moved(found[0], found[2]) > 1e-3


# Stopping and going on

POINTS = {
    "after the first step": 1,
    "in the first epoch": 2,
    "after an epoch": 3,
    "in a later epoch": 7,
    "before the last step": 8,
}
KINDS = {
    "sgd": ("softmax-regression", {}),
    "momentum": ("softmax-regression", {"momentum": 0.9, "nesterov": True, "schedule": "cosine"}),
    "adamw": ("lenet5", {"optimizer": "adamw", "lr": 3e-3, "schedule": "one-cycle", "preparation": RESIZED}),
    "adam, warm-up": ("mlp", {"optimizer": "adam", "lr": 3e-3, "warm_up": 1, "divide_by": "batch_size"}),
    "dropout": ("mlp", {"dropout": 0.3}),
    "augmentation": ("mlp", {"shift": 1, "flip": True, "rotate": 5.0, "zoom": 0.1, "move": 1.0}),
    "ema": ("mlp", {"ema": 0.9}),
    "everything by hand": ("mlp", {**RANDOM, "by_hand": True, "optimizer": "adamw", "lr": 3e-3}),
    "held out": ("softmax-regression", {"hold_out": 0.2}),
}


def stopped_after(state, data, steps):
    """Trains until that many steps are done, as a signal would stop it; the epochs that were finished."""
    step = state.optimizer.step

    def counted():
        step()
        state.stop = state.step + 1 >= steps  # the step is counted after the optimizer's

    state.optimizer.step = counted
    epochs = list(fit(state, data))
    state.optimizer.step = step
    return epochs


def without_times(epochs):
    return [{key: v for key, v in epoch.record().items() if "second" not in key} for epoch in epochs]


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_training_goes_on_bit_for_bit_from_a_checkpoint_file(kind, point, tmp_path):
    network, changes = KINDS[kind]
    settings = PLAIN.replace(epochs=3, **changes)
    options = {"dropout": settings.dropout} if settings.dropout else {}
    data = made("digits" if network == "lenet5" else "mnist", num_train=40)  # 3 steps an epoch, the last smaller
    if settings.hold_out:
        data = made("mnist", num_train=50).hold_out(settings.hold_out)
    whole = new(network, settings, **options)
    expected = list(fit(whole, data))

    first = new(network, settings, **options)
    before = stopped_after(first, data, POINTS[point])
    assert first.step == POINTS[point]
    storage.save(first.state_dict(), tmp_path / "checkpoint.pt")
    torch.manual_seed(99)  # another process has other generators
    again = new(network, settings.replace(), **options)
    torch.rand(7)
    again.load_state_dict(storage.load(tmp_path / "checkpoint.pt"))
    after = list(fit(again, data))
    assert_same(weights(again), weights(whole))
    assert_same(dict(again.kept.state_dict()), dict(whole.kept.state_dict()))
    assert without_times(before + after) == without_times(expected)
    assert len(after) == 3 - POINTS[point] // 3


@pytest.mark.parametrize("point", POINTS)
def test_the_same_state_goes_on_bit_for_bit_in_memory(point):
    data = made("mnist")
    settings = PLAIN.replace(epochs=3, **RANDOM)
    whole, state = (new("mlp", settings, dropout=0.3) for _ in range(2))
    torch.manual_seed(1)
    list(fit(whole, data))
    torch.manual_seed(1)
    stopped_after(state, data, POINTS[point])
    state.stop = False
    list(fit(state, data))
    assert_same(weights(state), weights(whole))


def test_a_training_that_is_left_after_every_single_step_goes_on_bit_for_bit():
    data = made("mnist")
    settings = PLAIN.replace(epochs=3, optimizer="adamw", lr=3e-3, **RANDOM)
    whole = new("mlp", settings, dropout=0.3)
    list(fit(whole, data))
    state, epochs = new("mlp", settings, dropout=0.3), []
    for done in range(1, 10):
        epochs += stopped_after(state, data, done)
        saved = state.state_dict()
        torch.manual_seed(done)
        state = new("mlp", settings, dropout=0.3)
        state.load_state_dict(saved)
    assert [epoch.epoch for epoch in epochs] == [1, 2, 3]
    assert_same(weights(state), weights(whole))
    assert_same(dict(state.kept.state_dict()), dict(whole.kept.state_dict()))


def test_leaving_the_loop_between_epochs_is_a_point_to_go_on_from():
    data = made("mnist")
    whole, first = (new("mlp", PLAIN.replace(epochs=3, shift=1, momentum=0.9)) for _ in range(2))
    list(fit(whole, data))
    for epoch in fit(first, data):
        if epoch.epoch == 2:
            break
    again = new("mlp", first.settings)
    again.load_state_dict(first.state_dict())
    assert [epoch.epoch for epoch in fit(again, data)] == [3]
    assert_same(weights(again), weights(whole))


def test_the_sums_of_an_interrupted_epoch_count_every_example_once():
    data = made("mnist")
    state = new("softmax-regression", PLAIN)
    assert stopped_after(state, data, 2) == []
    assert (state.epoch, state.position, state.seen) == (0, 2, 32)
    again = new("softmax-regression", PLAIN)
    again.load_state_dict(state.state_dict())
    first, second = fit(again, data)
    assert (again.seen, first.epoch, second.epoch) == (40, 1, 2)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda saved: saved.pop("model"),
        lambda saved: saved.pop("generators"),
        lambda saved: saved["model"].popitem(),
        lambda saved: saved.update(optimizer=None),
        lambda saved: saved.update(optimizer={"state": {}, "param_groups": []}),
        lambda saved: saved.update(model=[1, 2]),
        lambda saved: saved.update(model=None),
        lambda saved: saved["generators"].update(order=torch.zeros(3)),
        lambda saved: saved.update(generators=[]),
        lambda saved: saved.update(sums=[1]),
        lambda saved: saved.update(sums=3),
        lambda saved: saved.update(position="2"),
        lambda saved: saved.update(epoch=-1),
        lambda saved: saved.update(epoch=None),
        lambda saved: saved.update(step=1.5),
        lambda saved: saved.update(seconds="long"),
        lambda saved: saved.update(format=2),
    ],
)
@pytest.mark.parametrize("by_hand", [False, True])
def test_a_checkpoint_of_something_else_is_one_line(spoil, by_hand):
    settings = PLAIN.replace(momentum=0.9, by_hand=by_hand)
    state = new("softmax-regression", settings)
    stopped_after(state, made("mnist"), 2)
    saved = {key: dict(value) if isinstance(value, dict) else value for key, value in state.state_dict().items()}
    spoil(saved)
    with pytest.raises(RunError, match="checkpoint does not fit this network and its settings") as error:
        new("softmax-regression", settings).load_state_dict(saved)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change", [{"position": 3}, {"position": 1}, {"epoch": 1}, {"step": 5}])
def test_a_place_that_the_epochs_do_not_have_is_refused(change):
    state = new("softmax-regression", PLAIN)
    stopped_after(state, made("mnist"), 2)
    again = new("softmax-regression", PLAIN)
    again.load_state_dict(state.state_dict() | change)
    with pytest.raises(RunError, match="which is no place in epochs of 3 steps"):
        next(fit(again, made("mnist")))
    again.load_state_dict(state.state_dict())
    with pytest.raises(RunError, match="which is no place in epochs of 2 steps"):
        next(fit(again, made("mnist", num_train=20)))


def test_a_checkpoint_of_another_network_is_refused():
    state = new("softmax-regression", PLAIN)
    with pytest.raises(RunError, match="does not fit this network"):
        new("mlp", PLAIN).load_state_dict(state.state_dict())


# A loss that is no number


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("value", [math.inf, math.nan, 1e30])
def test_a_loss_that_is_no_number_stops_before_the_step(value, by_hand):
    data = made("synthetic-linear")
    data.train_images[permutations(PLAIN, 40)[0][20], 0] = value  # in the second batch
    state = new("linear-regression", PLAIN.replace(by_hand=by_hand, momentum=0.9))
    after = []
    step = state.optimizer.step
    state.optimizer.step = lambda: (step(), after.append(weights(state)))
    with pytest.raises(NonFiniteLoss, match=r"epoch 1, step 2, at lr=0\.05; .* Try a lower lr") as error:
        list(fit(state, data, REGRESSION))
    assert "\n" not in str(error.value)
    assert len(after) == 1
    assert_same(weights(state), after[0])
    assert state.step == 1


def test_a_classification_whose_loss_is_finite_but_beyond_return_stops_before_the_step():
    # A linear network never gets to infinity: its logits only grow with the lr.
    state = new("softmax-regression", PLAIN.replace(lr=1e9))
    with pytest.raises(NonFiniteLoss, match="Try a lower lr"):
        list(fit(state, made("mnist")))
    assert state.finite()
    assert state.epoch == 0


def test_weights_that_became_infinite_in_the_last_step_are_never_saved(tmp_path, monkeypatch):
    data = made("synthetic-linear")
    monkeypatch.setattr("byhand.data.load", lambda *a, **k: data)
    training = jobs.start(
        "linear-regression", "book", runs_dir=tmp_path, epochs=1, batch_size=40, lr=1e38, threads=1, init="default"
    )
    before = training.run.load_checkpoint()["model"]
    data.train_labels[:] *= 1e15  # the loss, squared, still is a number
    with pytest.raises(NonFiniteLoss, match=r"last checkpoint is kept\. Try a lower lr"):
        list(training)
    assert not training.state.finite()
    assert_same(training.run.load_checkpoint()["model"], before)
    assert training.run.history() == []
    with pytest.raises(NonFiniteLoss):  # as Ctrl-C would, after such a step
        training.save()
    assert_same(training.run.load_checkpoint()["model"], before)


# Measuring


def slow_evaluation(model, images, labels):
    model.eval()
    losses, right = [], 0
    for image, label in zip(images, labels, strict=True):
        with torch.no_grad():
            logits = model(image[None].float() / 255)[0].double()
        losses.append(float(-(logits[label] - logits.logsumexp(0))))
        right += int(logits.argmax()) == int(label)
    return sum(losses) / len(losses), right / len(labels)


@pytest.mark.parametrize("batch_size", [1, 7, 29, 1000])
def test_evaluation_counts_every_example_once_also_in_the_smaller_last_batch(batch_size):
    data = made("mnist", num_test=29)
    settings = PLAIN.replace(epochs=1, dropout=0.5, label_smoothing=0.3)
    state = new("mlp", settings, dropout=0.5)
    list(fit(state, data))
    again = models.build("mlp", dropout=0.5)
    again.load_state_dict(state.library.state_dict())
    expected = slow_evaluation(again, data.test_images, data.test_labels)
    state.library.train()
    found = evaluate(state.library, data.test_images, data.test_labels, settings, batch_size=batch_size)
    assert found.accuracy == expected[1]
    assert found.loss == pytest.approx(expected[0], rel=1e-6)
    assert state.library.training  # as it was
    evaluate(again.eval(), data.test_images, data.test_labels, settings)
    assert not again.training


def test_the_evaluation_of_a_regression_is_half_the_mean_square_and_has_no_accuracy():
    data = made("synthetic-linear", num_test=30)
    model = models.build("linear-regression").double()
    X, y = data.test_images.double(), data.test_labels.double()
    found = evaluate(model, X, y, PLAIN, REGRESSION, batch_size=7)
    weight, bias = (p.detach().numpy() for p in model.parameters())
    error = X.numpy() @ weight.T + bias - y.numpy()
    assert found.loss == pytest.approx((error**2).mean() / 2, rel=1e-12)
    assert found.accuracy is None


class Untouchable:
    """Test images that may not be looked at."""

    def __getattr__(self, name):
        raise AssertionError(f"the test set was touched: {name}")

    __len__ = __getitem__ = __iter__ = __getattr__


def test_what_is_tuned_on_held_out_images_never_touches_the_test_set(tmp_path, monkeypatch):
    plain = made("digits", num_train=50)
    data = Dataset(
        "digits", plain.train_images, plain.train_labels, Untouchable(), Untouchable(), class_names=plain.class_names
    )
    monkeypatch.setattr("byhand.data.load", lambda *a, **k: data)
    with pytest.raises(AssertionError, match="touched"):
        jobs.train("lenet5-digits", epochs=1, batch_size=16, threads=1, runs_dir=tmp_path)
    run = jobs.train("lenet5-digits", epochs=1, batch_size=16, threads=1, hold_out=0.2, runs_dir=tmp_path)
    assert run.result()["measured_on"] == "held-out training examples"
    assert run.result()["reached"] is None  # a goal speaks of the test set
    (line,) = run.history()
    held = data.hold_out(0.2)
    measured = evaluate(run.model(), held.test_images, held.test_labels, Settings.of(run.recipe()["settings"]))
    assert (line["validation_loss"], line["validation_accuracy"]) == (measured.loss, measured.accuracy)
    assert jobs.measure(run)["examples"] == 10
    assert jobs.measure(run, "train")["examples"] == 40


def test_without_held_out_images_the_test_set_is_looked_at_once_at_the_end(monkeypatch):
    plain = made("mnist")
    data = Dataset("mnist", plain.train_images, plain.train_labels, Untouchable(), Untouchable())
    assert len(list(fit(new("softmax-regression", PLAIN), data))) == 2


def test_the_loss_and_accuracy_of_an_epoch_were_measured_before_each_step():
    data = made("mnist")
    settings = PLAIN.replace(epochs=1)
    state = new("softmax-regression", settings)
    loss_sum, right = 0.0, 0
    model = models.build("softmax-regression")
    model.load_state_dict(state.library.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for batch in permutations(settings, 40)[0].split(16):
        logits = model(data.train_images[batch].float() / 255)
        loss = nn.functional.cross_entropy(logits, data.train_labels[batch])
        loss_sum += float(loss.detach()) * len(batch)
        right += int((logits.argmax(1) == data.train_labels[batch]).sum())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    (epoch,) = fit(state, data)
    assert epoch.loss == pytest.approx(loss_sum / 40, rel=1e-6)
    assert epoch.accuracy == right / 40
    assert epoch.seconds > 0
    assert epoch.examples_per_second == pytest.approx(40 / epoch.seconds)


# Jobs: a training with its run directory


@pytest.fixture
def small(monkeypatch):
    """`byhand.data.load` gives small made data."""
    monkeypatch.setattr("byhand.data.load", lambda name, *a, **k: made(name, num_train=60))


def test_every_line_of_the_metrics_has_its_fields(small, tmp_path):
    run = jobs.train("lenet5-digits", epochs=3, batch_size=16, threads=1, runs_dir=tmp_path)
    assert [line["epoch"] for line in run.history()] == [1, 2, 3]
    for line in run.history():
        assert {"epoch", "loss", "accuracy", "lr", "seconds", "examples_per_second"} == line.keys()
    result = run.result()
    assert result["epochs"] == 3
    assert result["seconds"] == pytest.approx(sum(line["seconds"] for line in run.history()), abs=1e-3)


def test_running_metrics_report_what_was_summed_up_and_else_the_final_weights_are_measured(small, tmp_path):
    found = {}
    for running in (True, False):
        run = jobs.train(
            "lenet5-digits", epochs=2, batch_size=16, threads=1, runs_dir=tmp_path, running_metrics=running
        )
        found[running] = run.result()
    last = run.history()[-1]
    assert (found[True]["train_loss"], found[True]["train_accuracy"]) == (last["loss"], last["accuracy"])
    data = made("digits", num_train=60)
    measured = evaluate(run.model(), data.train_images, data.train_labels, Settings.of(run.recipe()["settings"]))
    assert (found[False]["train_loss"], found[False]["train_accuracy"]) == (measured.loss, measured.accuracy)
    assert found[True]["train_loss"] != found[False]["train_loss"]
    assert found[True]["accuracy"] == found[False]["accuracy"]


def test_the_running_mean_is_what_is_kept_and_measured(small, tmp_path):
    training = jobs.start("lenet5-digits", epochs=2, batch_size=16, threads=1, runs_dir=tmp_path, ema=0.9)
    list(training)
    result = training.finish()
    kept = dict(training.state.kept.state_dict())
    assert moved(kept, weights(training.state)) > 1e-6
    assert_same(training.run.weights(), kept)
    data = training.data
    again = evaluate(training.run.model(), data.test_images, data.test_labels, training.state.settings)
    assert (result["loss"], result["accuracy"]) == (again.loss, again.accuracy)


def test_a_run_is_not_finished_before_its_last_epoch(small, tmp_path):
    training = jobs.start("lenet5-digits", epochs=2, batch_size=16, threads=1, runs_dir=tmp_path)
    next(iter(training))
    with pytest.raises(RunError, match="has 1 of 2 epochs; go on with resume"):
        training.finish()
    assert training.run.result() is None


@pytest.mark.parametrize("epochs_done", [0, 1, 2])
def test_resuming_a_run_gives_the_weights_and_the_metrics_of_one_that_was_not_left(epochs_done, small, tmp_path):
    settings = {"epochs": 2, "batch_size": 16, "threads": 1, "ema": 0.9, "rotate": 5.0}
    whole = jobs.train("lenet5-digits", runs_dir=tmp_path, **settings)
    left = jobs.start("lenet5-digits", runs_dir=tmp_path, **settings)
    epochs = iter(left)
    for _ in range(epochs_done):
        next(epochs)
    again = jobs.resume(left.run.path)
    assert again.state.epoch == epochs_done
    list(again)
    result = again.finish()
    assert_same(again.run.weights(), whole.weights())
    times = {"seconds", "run", "examples_per_second"}
    plain = [{k: v for k, v in line.items() if k not in times} for line in again.run.history()]
    assert plain == [{k: v for k, v in line.items() if k not in times} for line in whole.history()]
    assert {k: v for k, v in result.items() if k not in times} == {
        k: v for k, v in whole.result().items() if k not in times
    }
    with pytest.raises(RunError, match="is finished; there is nothing to resume"):
        jobs.resume(left.run)


def test_a_run_killed_between_its_metrics_and_its_checkpoint_counts_no_epoch_twice(small, tmp_path):
    left = jobs.start("lenet5-digits", epochs=2, batch_size=16, threads=1, runs_dir=tmp_path)
    next(iter(left))
    left.run.log({"epoch": 2, "loss": 9.0, "accuracy": 0.0, "lr": 0.1, "seconds": 1.0})  # the checkpoint never came
    again = jobs.resume(left.run.path)
    list(again)
    assert [line["epoch"] for line in again.run.history()] == [1, 2]
    assert again.run.history()[1]["loss"] != 9.0


def test_a_run_goes_on_only_with_the_data_that_it_began_with(monkeypatch, tmp_path):
    monkeypatch.setattr("byhand.data.load", lambda name, *a, **k: made(name))
    left = jobs.start("lenet5-digits", epochs=2, batch_size=16, threads=1, runs_dir=tmp_path)
    monkeypatch.setattr("byhand.data.load", lambda name, *a, **k: made(name, seed=1))
    with pytest.raises(RunError, match="was trained on other data"):
        jobs.resume(left.run.path)


def test_the_folder_of_the_data_is_found_again_from_another_folder(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr("byhand.data.load", lambda name, folder=None, **k: (asked.append(folder), made(name))[1])
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    left = jobs.start("lenet5-digits", epochs=1, batch_size=16, threads=1, data_dir="data", runs_dir="runs")
    path = left.run.path.resolve()
    monkeypatch.chdir(tmp_path)
    jobs.resume(path)
    assert [str(folder) for folder in asked[1:]] == [str(tmp_path / "here" / "data")]


def test_nothing_is_left_of_a_training_whose_first_checkpoint_cannot_be_written(small, monkeypatch, tmp_path):
    def full(*arguments):
        raise RunError("cannot write checkpoint.pt: No space left on device; check the free space")

    monkeypatch.setattr(storage, "save", full)
    with pytest.raises(RunError, match="No space left"):
        jobs.start("lenet5-digits", epochs=1, batch_size=16, threads=1, runs_dir=tmp_path / "runs")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "other").write_text("stays")
    with pytest.raises(RunError, match="No space left"):
        jobs.start("lenet5-digits", epochs=1, batch_size=16, threads=1, runs_dir=tmp_path / "runs")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["other"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 61}, "batch_size=61 is more than the 60 training examples"),
        ({"hold_out": 0.001}, "hold-out fraction 0.001"),
        ({"dropout": 0.5}, "takes no option 'dropout'"),
        ({"lr": -1}, "lr=-1"),
        ({"brightness": 1}, "unknown setting 'brightness'"),
        ({"device": "gpu"}, "device='gpu' must be auto, cpu or cuda"),
        ({"preparation": Preparation(size=5, fit="pad")}, "cannot be padded evenly"),
        ({"preparation": Preparation()}, "lenet5 does not take examples of 1 × 8 × 8: "),
        ({"shift": 10**6, "preparation": RESIZED}, "shift=1000000 must be below .* 32 × 32"),
        ({"shift": 32, "preparation": RESIZED}, "shift=32 must be below .* 32 × 32"),
    ],
)
def test_a_refused_training_leaves_nothing_behind(settings, message, small, tmp_path):
    with pytest.raises((SettingsError, LookupError, ValueError), match=message) as error:
        jobs.start("lenet5-digits", threads=1, runs_dir=tmp_path / "runs", **({"batch_size": 16} | settings))
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_the_error_of_the_weights_is_the_distance_from_the_truth_and_from_least_squares(tmp_path):
    from sklearn.linear_model import LinearRegression

    training = jobs.start("linear-regression", epochs=1, threads=1, runs_dir=tmp_path)
    list(training)
    result = training.finish()
    weight, bias = (p.detach().numpy().ravel() for p in training.run.model().parameters())
    data = training.data
    line = LinearRegression().fit(data.train_images.double().numpy(), data.train_labels.double().numpy())
    truth = np.array([1.1, -4.5, 1.4, 1.1919810])
    found = np.concatenate([weight, bias]).astype(np.float64)
    assert result["max_weight_error"] == pytest.approx(np.abs(found - truth).max(), rel=1e-9)
    closed = np.concatenate([line.coef_.ravel(), line.intercept_])
    assert result["closed_form_error"] == pytest.approx(np.abs(found - closed).max(), rel=1e-6)
    assert "accuracy" not in result


def test_auto_is_the_gpu_where_there_is_one_and_a_missing_gpu_is_told():
    here = torch.cuda.is_available()
    assert device_named("auto").type == ("cuda" if here else "cpu")
    assert device_named("cpu").type == "cpu"
    with pytest.raises(SettingsError, match=r"device='cuda:99' is not available .* this machine has: auto, cpu"):
        device_named("cuda:99")


# Our own tape, where a network is made of our layers alone


def test_a_tape_of_our_own_gives_autograds_gradients():
    model = hand_nn.by_hand(models.build("mlp", dropout=0.2)).double()
    x, y = torch.randn(5, 784, dtype=torch.float64), torch.arange(5)
    torch.manual_seed(1)
    wanted = torch.autograd.grad(ops.cross_entropy(model(x), y) * 3, list(model.parameters()))
    torch.manual_seed(1)
    with Tape(model.parameters()) as tape:
        loss = ops.cross_entropy(model(x), y)
    assert not loss.requires_grad
    for got, want in zip(tape.gradients(loss, 3.0), wanted, strict=True):
        torch.testing.assert_close(got, want)
    assert torch.is_grad_enabled()
    assert Tape.running is None


def test_a_tape_adds_up_the_gradients_of_a_weight_in_two_places_and_misses_none():
    w, x = torch.randn(3, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    with Tape([w]) as tape:
        loss = ops.squared_loss(ops.linear(ops.tanh(ops.linear(x, w)), w), torch.zeros(2, 3), "sum")
        ops.relu(x)  # of nothing that is followed
    (got,) = tape.gradients(loss)
    w.requires_grad_()
    (wanted,) = torch.autograd.grad((torch.tanh(x @ w.T) @ w.T).square().sum() / 2, w)
    torch.testing.assert_close(got, wanted)
    with Tape([w.detach()]) as tape:
        loss = ops.squared_loss(ops.linear(x, w * 2), torch.zeros(2, 3), "sum")  # torch's product is not on the tape
    with pytest.raises(KeyError):
        tape.gradients(loss)


def test_only_a_network_of_our_layers_alone_is_trained_without_autograd():
    assert new("lenet5", Settings(epochs=1, batch_size=4, lr=0.1, by_hand=True)).only_ours
    assert not new("lenet5", Settings(epochs=1, batch_size=4, lr=0.1, by_hand=False)).only_ours
    watched = hand_nn.by_hand(models.build("lenet5"))
    watched.get_submodule("features.1").register_forward_hook(lambda *_: None)
    assert not is_only_ours(watched)

    class Own(nn.Module):
        def forward(self, x):
            return x + 1

    assert not is_only_ours(hand_nn.by_hand(nn.Sequential(nn.Linear(2, 2), Own())))


# The step that never waits for the device, as far as a CPU shows it


def on_a_device(monkeypatch):
    """Trainings take the step and the optimizers of a GPU; torch has its fused kernels for CPUs, too."""
    monkeypatch.setattr("byhand.training.fit.step_for", DeviceStep)
    for name in ("SGD", "Adam", "AdamW"):
        monkeypatch.setattr(torch.optim, name, partial(getattr(torch.optim, name), fused=True))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["optimizer"])
@pytest.mark.parametrize("divide_by", ["batch", "batch_size"])
def test_a_step_that_does_not_wait_trains_alike(rule, divide_by, monkeypatch):
    how = {"by_hand": False, "schedule": "cosine", "divide_by": divide_by, "preparation": RESIZED}
    settings = Settings(epochs=2, batch_size=12, **how, **rule)
    usual = new("lenet5", settings)
    expected = list(fit(usual, made("digits", num_train=40)))
    on_a_device(monkeypatch)
    state = new("lenet5", settings)
    for got, want in zip(fit(state, made("digits", num_train=40)), expected, strict=True):
        assert got.loss == pytest.approx(want.loss, rel=1e-5)
        assert (got.accuracy, got.lr) == (want.accuracy, want.lr)
    for key, value in state.library.state_dict().items():
        torch.testing.assert_close(value, usual.library.state_dict()[key], rtol=1e-4, atol=1e-5)


def test_between_the_ends_of_an_epoch_nothing_is_read_back(monkeypatch):
    on_a_device(monkeypatch)
    state = new("mlp", Settings(epochs=2, batch_size=10, by_hand=False, **RULES[-1]))
    step = DeviceStep(state, "classification")
    inputs, targets = torch.rand(10, 1, 28, 28), torch.arange(10)
    step(inputs, targets, 0.01)  # the optimizer's state is made in the first
    with Kernels() as kernels:
        step(inputs, targets, 0.01)
    assert "_local_scalar_dense.default" not in kernels.names
    assert len(kernels.names) > 10
    with Kernels() as kernels:
        step.settle()
    assert "_local_scalar_dense.default" in kernels.names


def test_a_step_that_does_not_wait_tells_a_loss_that_is_not_finite_at_the_end_of_the_epoch(monkeypatch):
    on_a_device(monkeypatch)
    state = new("mlp", Settings(epochs=2, batch_size=10, by_hand=False, lr=1e20))
    with pytest.raises(NonFiniteLoss, match=r"in epoch 1, some step, at lr=1e\+20"):
        list(fit(state, made("mnist", num_train=40)))


def test_a_training_that_is_left_in_mid_epoch_has_its_sums_settled(monkeypatch):
    on_a_device(monkeypatch)
    settings = Settings(epochs=1, batch_size=10, by_hand=False, lr=0.01)
    whole = next(fit(new("mlp", settings), made("mnist", num_train=40)))
    state = new("mlp", settings)
    step = DeviceStep.__call__

    def stopped(self, *arguments):
        step(self, *arguments)
        state.stop = state.step == 1

    monkeypatch.setattr(DeviceStep, "__call__", stopped)
    assert list(fit(state, made("mnist", num_train=40))) == []
    saved = state.state_dict()
    assert saved["position"] == saved["step"] == 2
    assert saved["sums"][2] == 20 > saved["sums"][1] >= 0
    again = new("mlp", settings)
    again.load_state_dict(saved)
    assert next(fit(again, made("mnist", num_train=40))).loss == pytest.approx(whole.loss, rel=1e-6)


def test_only_a_gpu_in_the_librarys_hand_takes_the_step_that_does_not_wait():
    state = new("mlp", Settings(epochs=1, batch_size=10, lr=0.01, by_hand=False))
    assert type(step_for(state, "classification")) is Step
    state.device = torch.device("cuda")
    state.settings = state.settings.replace(by_hand=True)
    assert type(step_for(state, "classification")) is Step
