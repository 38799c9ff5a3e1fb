"""The layers of normalisation stand where torch's stood: buffers over several steps, both hands, proof, state dicts."""

import copy
import inspect

import pytest
import torch
from against_torch import assert_refused, random, value_and_gradients
from torch import nn as library

from byhand import nn, optim, prove
from byhand.errors import SettingsError, ShapeError
from byhand.nn import by_hand, by_library

SETTINGS = [
    {},
    {"momentum": None},
    {"momentum": 0.7, "eps": 1e-2},
    {"affine": False},
    {"bias": False},
    {"track_running_stats": False},
    {"affine": False, "track_running_stats": False, "momentum": None},
]
INPUTS = [("BatchNorm1d", (6, 3)), ("BatchNorm1d", (4, 3, 5)), ("BatchNorm2d", (4, 3, 5, 2))]


def both(name, *args, **kwargs):
    """The layer by hand and torch's, with the same γ and β drawn at random."""
    pair = [getattr(place, name)(*args, **kwargs).double() for place in (nn, library)]
    for layer in pair:
        for i, parameter in enumerate(layer.parameters()):
            parameter.data = random(*parameter.shape, seed=i + 1)
    return pair


def assert_same_state(mine, theirs):
    assert list(mine.state_dict()) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        assert mine.state_dict()[key].dtype is value.dtype
        torch.testing.assert_close(mine.state_dict()[key], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize(("name", "shape"), INPUTS, ids=str)
def test_buffers_values_and_gradients_are_torchs_over_several_steps_and_in_evaluation(name, shape, settings):
    mine, theirs = both(name, 3, **settings)
    assert_same_state(mine, theirs)
    for step in range(4):
        x = (step + 1) * random(*shape, seed=step) + step
        outcomes = [value_and_gradients(lambda x, layer=layer: layer(x), (x,)) for layer in (mine, theirs)]
        torch.testing.assert_close(*outcomes, rtol=1e-10, atol=1e-10)
        assert_same_state(mine, theirs)
    for layer in (mine, theirs):
        layer.eval()
    for x in (random(*shape, seed=9), random(1, *shape[1:], seed=9)):
        if len(x) * x[0, 0].numel() == 1 and mine.running_mean is None:
            continue  # one value without a deviation, refused by both
        outcomes = [value_and_gradients(lambda x, layer=layer: layer(x), (x,)) for layer in (mine, theirs)]
        torch.testing.assert_close(*outcomes, rtol=1e-10, atol=1e-10)
    assert_same_state(mine, theirs)


def test_momentum_none_makes_the_running_mean_the_mean_of_all_batches():
    layer, batches = nn.BatchNorm1d(2, momentum=None).double(), [random(5, 2, seed=seed) for seed in range(3)]
    for batch in batches:
        layer(batch)
    torch.testing.assert_close(layer.running_mean, torch.cat(batches).mean(0))
    torch.testing.assert_close(layer.running_var, torch.stack([batch.var(0) for batch in batches]).mean(0))
    assert layer.num_batches_tracked.item() == 3


def test_statistics_can_be_reset_and_tracking_switched_off_as_in_torch():
    pair = both("BatchNorm2d", 3)
    for layer in pair:
        layer(random(4, 3, 2, 2))
        layer.reset_running_stats()
    assert_same_state(*pair)
    for layer in pair:
        layer.reset_parameters()
    assert_same_state(*pair)
    for layer in pair:
        layer.track_running_stats = False  # the buffers stay as they are
        layer(random(4, 3, 2, 2))
    assert_same_state(*pair)


def test_a_refused_batch_leaves_the_statistics_as_they_were():
    layer = nn.BatchNorm1d(3)
    assert_refused(ShapeError, lambda: layer(torch.ones(1, 3)), (1, 3), "eval()")
    assert layer.num_batches_tracked.item() == 0
    assert layer.running_mean.tolist() == [0.0] * 3


@pytest.mark.parametrize(("name", "args"), [("BatchNorm1d", (3,)), ("BatchNorm2d", (3,)), ("GroupNorm", (2, 4))])
@pytest.mark.parametrize("bias", [True, False])
def test_layers_start_and_introduce_themselves_as_torchs_do(name, args, bias):
    mine, theirs = (getattr(place, name)(*args, bias=bias) for place in (nn, library))
    assert repr(mine) == repr(theirs)
    assert_same_state(mine, theirs)
    signatures = [
        [(p.name, p.default, p.kind) for p in inspect.signature(getattr(place, name)).parameters.values()]
        for place in (nn, library)
    ]
    assert signatures[0] == signatures[1]


def test_layers_take_a_device_and_a_dtype():
    layer = nn.BatchNorm2d(3, device="meta", dtype=torch.float64)
    assert {p.device.type for p in (*layer.parameters(), *layer.buffers())} == {"meta"}
    assert layer.running_mean.dtype is torch.float64
    assert layer.num_batches_tracked.dtype is torch.int64


def test_weights_published_before_batches_were_counted_load_as_in_torch():
    keys = ("weight", "bias", "running_mean", "running_var")
    old = {key: random(3, seed=i).abs().float() for i, key in enumerate(keys)}
    for place in (nn, library):
        layer = library.Sequential(place.BatchNorm2d(3))
        layer.load_state_dict({f"0.{key}": value for key, value in old.items()})
        assert layer[0].num_batches_tracked.item() == 0
        assert torch.equal(layer[0].running_var, old["running_var"])
        new = place.BatchNorm2d(3).state_dict()
        del new["num_batches_tracked"]
        with pytest.raises(RuntimeError, match="num_batches_tracked"):
            layer[0].load_state_dict(new)


def network():
    torch.manual_seed(0)
    return library.Sequential(
        library.Conv2d(2, 6, 3, padding=1, bias=False),
        library.BatchNorm2d(6),
        library.ReLU(),
        library.LocalResponseNorm(3, alpha=0.5),
        library.Conv2d(6, 4, 3, padding=1),
        library.BatchNorm2d(4, momentum=None, affine=False),
        library.GroupNorm(2, 4),
        library.Flatten(),
        library.Linear(4 * 6 * 6, 8),
        library.BatchNorm1d(8),
        library.LayerNorm(8, bias=False),
        library.Linear(8, 3),
    )


@pytest.fixture(autouse=True)
def _own_seed():
    with torch.random.fork_rng(devices=[]):
        yield


@pytest.mark.parametrize("batch", [3, 16])  # from 16 images on they lie in memory with the batch innermost
def test_a_network_with_normalisation_is_proven_in_training_and_evaluation(batch):
    model = network()
    proof = prove(model, random(batch, 2, 6, 6))
    assert proof.passed, str(proof)
    assert 0 <= proof.buffers < 1e-9
    whole = {check.name: {d.tensor for d in check.differences} for check in proof.whole}
    assert {"1.running_mean", "1.running_var", "5.num_batches_tracked", "9.running_var"} <= whole["buffers"]
    assert "output in evaluation" in whole["output"]
    assert all(layer in str(proof) for layer in ("BatchNorm2d", "BatchNorm1d", "LayerNorm", "GroupNorm"))
    assert torch.equal(model[1].running_mean, torch.zeros(6))


def test_both_hands_share_parameters_and_running_statistics_there_and_back():
    model = network().double()
    hand = by_hand(model)
    back = by_library(hand)
    for other in (hand, back):
        ours, theirs = dict(other.named_buffers()), dict(model.named_buffers())
        assert list(ours) == list(theirs)
        assert all(ours[key] is theirs[key] for key in theirs)
        assert list(other.state_dict()) == list(model.state_dict())
    assert repr(back) == repr(model)
    assert [type(m) for m in hand[1:4]] == [nn.BatchNorm2d, nn.ReLU, nn.LocalResponseNorm]
    reference, x = copy.deepcopy(model), random(16, 2, 6, 6)
    hand(x)
    reference(x)
    torch.testing.assert_close(dict(model.named_buffers()), dict(reference.named_buffers()))  # moved by the other hand
    torch.testing.assert_close(back.eval()(x), reference.eval()(x))


class Own(library.Module):
    """A module of one's own with functions, and a subclass of torch's layer."""

    class Doubled(library.BatchNorm2d):
        def forward(self, input):
            return 2 * super().forward(input)

    def __init__(self):
        super().__init__()
        self.norm, self.weight = self.Doubled(3), library.Parameter(torch.ones(3, dtype=torch.float64))

    def forward(self, x):
        x = library.functional.group_norm(self.norm(x), 3, self.weight)
        return library.functional.local_response_norm(library.functional.layer_norm(x, x.shape[1:]), 2)


def test_ones_own_code_around_normalisation_runs_by_hand():
    model = Own().double()
    hand, x = by_hand(copy.deepcopy(model)), random(4, 3, 5, 5)
    outcomes = [value_and_gradients(lambda x, m=m: m(x), (x,)) for m in (hand, model)]
    torch.testing.assert_close(*outcomes)
    assert_same_state(hand, model)
    assert "batch_normBackward" in nodes_behind(hand.norm(x))
    assert "NativeBatchNormBackward0" in nodes_behind(model.norm(x))


def nodes_behind(output):
    """The names of the nodes between an output and the weights."""
    names, waiting = [], [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None:
            names.append(node.name())
            waiting += [following for following, _ in node.next_functions]
    return names


def test_training_with_batch_normalisation_by_hand_follows_torchs_in_float32():
    model = network()
    hand = by_hand(copy.deepcopy(model))
    trainers = [family.SGD(m.parameters(), lr=0.1, momentum=0.9) for family, m in ((optim, hand), (torch.optim, model))]
    for step in range(3):
        x, target = random(16, 2, 6, 6, dtype=torch.float32, seed=step), torch.arange(16) % 3
        for m, trainer, place in zip((hand, model), trainers, (nn, library), strict=True):
            trainer.zero_grad()
            place.CrossEntropyLoss()(m(x), target).backward()
            trainer.step()
    for (key, got), want in zip(hand.state_dict().items(), model.state_dict().values(), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4, msg=lambda m, key=key: f"{key}: {m}")


def test_impossible_layers_and_inputs_are_refused_in_one_line():
    for kind, call, *values in [
        (ShapeError, lambda: nn.BatchNorm1d(3)(torch.zeros(2, 3, 4, 4)), (2, 3, 4, 4), "BatchNorm1d", "(B, C, L)"),
        (ShapeError, lambda: nn.BatchNorm2d(3)(torch.zeros(2, 3)), (2, 3), "BatchNorm2d", "(B, C, H, W)"),
        (ShapeError, lambda: nn.BatchNorm2d(3)(torch.zeros(2, 4, 5, 5)), "(3,)", (2, 4, 5, 5), "4 channels"),
        (ShapeError, lambda: nn.BatchNorm2d(3)(torch.zeros(1, 3, 1, 1)), (1, 3, 1, 1), "at least 2"),
        (ShapeError, lambda: nn.LayerNorm(3)(torch.zeros(2, 4)), (2, 4), (3,)),
        (ShapeError, lambda: nn.GroupNorm(2, 4)(torch.zeros(2, 6, 3)), (2, 6, 3), "weight"),
        (ShapeError, lambda: nn.LocalResponseNorm(3)(torch.zeros(2, 6)), (2, 6)),
        (SettingsError, lambda: nn.GroupNorm(3, 4), "num_groups=3", "num_channels=4"),
    ]:
        assert_refused(kind, call, *values)
