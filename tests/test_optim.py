"""SGD, Adam and AdamW by hand, against torch.optim."""

import copy
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from byhand import optim
from byhand.errors import SettingsError, ShapeError

PAIRS = {
    "SGD": (optim.SGD, torch.optim.SGD),
    "Adam": (optim.Adam, torch.optim.Adam),
    "AdamW": (optim.AdamW, torch.optim.AdamW),
}
SHAPES = [(7, 5), (7,), (3, 2, 3, 3), (1,)]
# rounding of float64 is 2e-16; Adam's denominators are at least eps = 1e-8 but gradients here are near 1
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6}


def two_copies(dtype=torch.float64, shapes=SHAPES, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    return tuple([nn.Parameter(value.clone()) for value in values] for _ in range(2))


def set_gradients(mine, theirs, seed):
    """The same gradients for both: a pull towards 0 and noise, so that every step depends on the ones before."""
    generator = torch.Generator().manual_seed(1000 + seed)
    for p, q in zip(mine, theirs, strict=True):
        noise = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)
        p.grad = (0.3 * p + noise).detach()
        q.grad = (0.3 * q + noise).detach()


def walk(optimizer, reference, mine, theirs, steps, first=0):
    for step in range(first, first + steps):
        set_gradients(mine, theirs, step)
        optimizer.step()
        reference.step()


def largest_difference(mine, theirs):
    return max((p - q).abs().max().item() for p, q in zip(mine, theirs, strict=True))


def assert_equal_states(optimizer, reference, tolerance=1e-12):
    own, torchs = optimizer.state_dict(), reference.state_dict()
    assert own["param_groups"] == torchs["param_groups"]
    assert own["state"].keys() == torchs["state"].keys()
    for index, state in torchs["state"].items():
        assert own["state"][index].keys() == state.keys()
        for name, value in state.items():
            assert own["state"][index][name].dtype == value.dtype
            torch.testing.assert_close(own["state"][index][name], value, rtol=0, atol=tolerance)


SGD_OPTIONS = [
    {
        "momentum": momentum,
        "dampening": dampening,
        "weight_decay": weight_decay,
        "nesterov": nesterov,
        "maximize": maximize,
    }
    for momentum, dampening, weight_decay, nesterov, maximize in itertools.product(
        (0, 0.9), (0, 0.5), (0, 0.1), (False, True), (False, True)
    )
    if not nesterov or (momentum > 0 and dampening == 0)
]
ADAM_OPTIONS = [
    {"betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad, "maximize": maximize}
    for betas, eps, weight_decay, amsgrad, maximize in itertools.product(
        ((0.9, 0.999), (0.0, 0.5)), (1e-8, 1e-2), (0.0, 0.1), (False, True), (False, True)
    )
]
CASES = [("SGD", o) for o in SGD_OPTIONS] + [(name, o) for name in ("Adam", "AdamW") for o in ADAM_OPTIONS]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_every_combination_of_options_walks_with_torch(name, options, dtype):
    ours, torchs = PAIRS[name]
    mine, theirs = two_copies(dtype)
    optimizer, reference = ours(mine, lr=0.05, **options), torchs(theirs, lr=0.05, **options)
    start = [p.detach().clone() for p in mine]
    walk(optimizer, reference, mine, theirs, steps=8)
    assert largest_difference(mine, theirs) < TOLERANCE[dtype]
    assert largest_difference(mine, start) > 0.1  # it did move
    assert_equal_states(optimizer, reference, TOLERANCE[dtype])


@pytest.mark.parametrize("options", SGD_OPTIONS, ids=str)
def test_sgd_is_torchs_bit_for_bit(options):
    mine, theirs = two_copies(torch.float32, shapes=[(123, 45), (17,)])
    optimizer, reference = optim.SGD(mine, lr=0.05, **options), torch.optim.SGD(theirs, lr=0.05, **options)
    walk(optimizer, reference, mine, theirs, steps=5)
    assert all(torch.equal(p, q) for p, q in zip(mine, theirs, strict=True))


numbers = st.floats(1e-4, 0.5)
shares = st.floats(0, 0.99)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(["Adam", "AdamW"]),
    lr=numbers,
    betas=st.tuples(shares, shares),
    eps=st.floats(1e-8, 1e-1),
    weight_decay=st.floats(0, 0.5),
    amsgrad=st.booleans(),
    maximize=st.booleans(),
    shape=st.lists(st.integers(0, 5), max_size=4),
)
def test_adams_of_any_setting_and_shape_walk_with_torch(name, shape, **options):
    ours, torchs = PAIRS[name]
    mine, theirs = two_copies(shapes=[tuple(shape), (2,)])
    walk(ours(mine, **options), torchs(theirs, **options), mine, theirs, steps=5)
    for p, q in zip(mine, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-10)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(lr=numbers, momentum=shares, dampening=shares, weight_decay=st.floats(0, 0.5), maximize=st.booleans())
def test_sgd_of_any_setting_walks_with_torch(**options):
    mine, theirs = two_copies()
    walk(optim.SGD(mine, **options), torch.optim.SGD(theirs, **options), mine, theirs, steps=5)
    assert largest_difference(mine, theirs) < 1e-12


def test_sgd_with_momentum_moves_as_calculated_by_hand():
    p = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = optim.SGD([p], lr=0.1, momentum=0.5, weight_decay=1.0)
    p.grad = torch.tensor([2.0], dtype=torch.float64)
    optimizer.step()  # g = 2 + 1 = 3, v = 3, p = 1 - 0.3
    assert p.item() == pytest.approx(0.7, rel=1e-15)
    p.grad = torch.tensor([1.0], dtype=torch.float64)
    optimizer.step()  # g = 1 + 0.7 = 1.7, v = 1.5 + 1.7 = 3.2, p = 0.7 - 0.32
    assert p.item() == pytest.approx(0.38, rel=1e-15)


def test_the_first_step_of_adam_has_the_length_lr_against_the_sign_of_the_gradient():
    p = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    p.grad = torch.tensor([5.0, -0.01, 0.0], dtype=torch.float64)
    optim.Adam([p], lr=0.1, eps=0.0001).step()
    expected = [-0.1 * 5 / 5.0001, 0.1 * 0.01 / 0.0101, 0.0]  # m̂ = g, v̂ = g²
    assert p.tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", PAIRS)
def test_the_defaults_are_torchs(name):
    ours, torchs = PAIRS[name]
    mine, theirs = two_copies()
    optimizer, reference = ours(mine), torchs(theirs)
    assert optimizer.defaults == reference.defaults
    assert repr(optimizer) == repr(reference)
    walk(optimizer, reference, mine, theirs, steps=3)
    assert largest_difference(mine, theirs) < 1e-12


@pytest.mark.parametrize("name", PAIRS)
def test_groups_keep_their_own_settings(name):
    ours, torchs = PAIRS[name]
    mine, theirs = two_copies()

    def groups(params):
        own = {"params": params[1], "lr": 0.2, "weight_decay": 0.0}
        return [{"params": iter(params[:1]), "lr": 0.01}, own, {"params": params[2:3], "maximize": True}]

    options = {"lr": 0.1, "weight_decay": 0.3}
    optimizer, reference = ours(groups(mine), **options), torchs(groups(theirs), **options)
    optimizer.add_param_group({"params": mine[3:], "lr": 0.0})
    reference.add_param_group({"params": theirs[3:], "lr": 0.0})
    walk(optimizer, reference, mine, theirs, steps=4)
    assert largest_difference(mine, theirs) < 1e-12
    assert_equal_states(optimizer, reference)


@pytest.mark.parametrize("name", PAIRS)
def test_a_parameter_without_gradient_is_left_alone_and_joins_later(name):
    ours, torchs = PAIRS[name]
    options = {"lr": 0.1, "weight_decay": 0.1} | ({"momentum": 0.9} if name == "SGD" else {})
    mine, theirs = two_copies()
    optimizer, reference = ours(mine, **options), torchs(theirs, **options)
    before = mine[0].detach().clone()
    for step in range(4):
        set_gradients(mine, theirs, step)
        if step < 2:
            mine[0].grad = theirs[0].grad = None
        optimizer.step()
        reference.step()
        if step == 1:
            assert torch.equal(mine[0], before)
            assert 0 not in optimizer.state_dict()["state"]
    assert largest_difference(mine, theirs) < 1e-12
    assert_equal_states(optimizer, reference)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize(
    ("name", "options"), [("SGD", {"momentum": 0.9}), ("Adam", {"amsgrad": True}), ("AdamW", {})], ids=str
)
def test_the_gradient_is_left_as_it_was(name, options, maximize, weight_decay):
    mine, theirs = two_copies()
    set_gradients(mine, theirs, 0)
    optimizer = PAIRS[name][0](mine, lr=0.1, weight_decay=weight_decay, maximize=maximize, **options)
    for _ in range(2):
        optimizer.step()
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(mine, theirs, strict=True))


STATEFUL = [
    ("SGD", {"momentum": 0.9, "weight_decay": 0.1}),
    ("SGD", {}),
    ("Adam", {"amsgrad": True, "weight_decay": 0.1}),
    ("Adam", {}),
    ("AdamW", {"amsgrad": True}),
    ("AdamW", {"maximize": True}),
]


@pytest.mark.parametrize(("name", "options"), STATEFUL, ids=str)
@pytest.mark.parametrize("direction", ["from torch", "to torch"])
def test_a_state_dict_goes_on_on_the_other_side(name, options, direction):
    ours, torchs = PAIRS[name]
    mine, theirs = two_copies()
    groups = [{"params": mine[:2]}, {"params": mine[2:], "lr": 0.01}]
    optimizer = ours(groups, lr=0.1, **options)
    reference = torchs([{"params": theirs[:2]}, {"params": theirs[2:], "lr": 0.01}], lr=0.1, **options)
    old, new, start = (reference, ours, theirs) if direction == "from torch" else (optimizer, torchs, mine)
    walk(optimizer, reference, mine, theirs, steps=3)

    third = [nn.Parameter(p.detach().clone()) for p in start]
    fresh = new([{"params": third[:2]}, {"params": third[2:]}], lr=7.0)  # settings, too, come from the state dict
    fresh.load_state_dict(copy.deepcopy(old.state_dict()))
    for step in range(3, 7):
        set_gradients(third, theirs if old is reference else mine, step)
        fresh.step()
        old.step()
    assert largest_difference(third, start) < 1e-12
    torch.testing.assert_close(fresh.state_dict(), old.state_dict(), rtol=0, atol=1e-12)


def test_a_loaded_state_is_a_copy():
    mine, others = two_copies()
    optimizer, other = optim.SGD(mine, momentum=0.9), optim.SGD(others, momentum=0.9)
    walk(optimizer, other, mine, others, steps=1)
    other.load_state_dict(optimizer.state_dict())
    kept = other.state[others[0]]["momentum_buffer"].clone()
    set_gradients(mine, others, 1)
    optimizer.step()
    assert torch.equal(other.state[others[0]]["momentum_buffer"], kept)


def test_a_state_dict_survives_a_file_read_without_pickle(tmp_path):
    mine, theirs = two_copies()
    optimizer, reference = optim.AdamW(mine, lr=0.1), torch.optim.AdamW(theirs, lr=0.1)
    walk(optimizer, reference, mine, theirs, steps=2)
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    fresh = optim.AdamW(mine)
    fresh.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    walk(fresh, reference, mine, theirs, steps=2, first=2)
    assert largest_difference(mine, theirs) < 1e-12


def test_loading_takes_the_dtype_of_the_parameter_but_not_for_the_step():
    mine, theirs = two_copies(torch.float32)
    reference = torch.optim.Adam(theirs)
    set_gradients(mine, theirs, 0)
    reference.step()
    doubles = [nn.Parameter(p.detach().double()) for p in mine]
    optimizer = optim.Adam(doubles)
    optimizer.load_state_dict(reference.state_dict())
    state = optimizer.state[doubles[0]]
    assert state["exp_avg"].dtype == torch.float64
    assert state["step"].dtype == torch.float32


def test_the_state_of_older_torch_loads():
    """torch 1.11 wrote the step as a number and none of the newer switches; SGD without momentum wrote None."""
    mine, theirs = two_copies()
    optimizer, reference = optim.AdamW(mine, lr=0.1), torch.optim.AdamW(theirs, lr=0.1)
    walk(optimizer, reference, mine, theirs, steps=2)
    old = copy.deepcopy(reference.state_dict())
    for state in old["state"].values():
        state["step"] = int(state["step"])
    for name in ("foreach", "maximize", "capturable", "differentiable", "fused", "decoupled_weight_decay"):
        del old["param_groups"][0][name]
    optimizer.load_state_dict(old)
    walk(optimizer, reference, mine, theirs, steps=2, first=2)
    assert largest_difference(mine, theirs) < 1e-12
    assert_equal_states(optimizer, reference)

    sgd = optim.SGD(mine, lr=0.1, momentum=0.9)
    saved = sgd.state_dict()
    saved["state"] = {index: {"momentum_buffer": None} for index in range(len(mine))}
    sgd.load_state_dict(saved)
    sgd.step()
    assert torch.equal(sgd.state[mine[0]]["momentum_buffer"], mine[0].grad)


def test_adam_and_adamw_read_each_others_state_as_torchs_do():
    for first, second in [("Adam", "AdamW"), ("AdamW", "Adam")]:
        mine, theirs = two_copies()
        optimizer, reference = PAIRS[first][0](mine), PAIRS[first][1](theirs)
        walk(optimizer, reference, mine, theirs, steps=2)
        other, other_reference = PAIRS[second][0](mine), PAIRS[second][1](theirs)
        other.load_state_dict(copy.deepcopy(reference.state_dict()))
        other_reference.load_state_dict(copy.deepcopy(reference.state_dict()))
        walk(other, other_reference, mine, theirs, steps=2, first=2)
        assert largest_difference(mine, theirs) < 1e-12
        assert_equal_states(other, other_reference)


def test_a_deep_copy_goes_its_own_way_over_the_copied_model():
    model = nn.Linear(3, 2)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    twin, twin_optimizer = copy.deepcopy((model, optimizer))
    before = model.weight.detach().clone()
    twin.weight.grad = torch.ones_like(twin.weight)
    twin_optimizer.step()
    assert torch.equal(model.weight, before)
    assert not torch.equal(twin.weight, before)


def test_names_of_parameters_are_kept_as_torch_keeps_them():
    model = nn.Linear(3, 2)
    optimizer, reference = optim.SGD(model.named_parameters()), torch.optim.SGD(model.named_parameters())
    assert optimizer.state_dict() == reference.state_dict()
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]
    nameless = optim.SGD(model.parameters()).state_dict()
    optimizer.load_state_dict(nameless)
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]


def test_a_learning_rate_may_be_a_tensor_that_is_changed_in_place():
    mine, theirs = two_copies()
    rates = [torch.tensor(0.1, dtype=torch.float64) for _ in range(2)]
    optimizer, reference = optim.AdamW(mine, lr=rates[0]), torch.optim.AdamW(theirs, lr=rates[1])
    walk(optimizer, reference, mine, theirs, steps=2)
    for rate in rates:
        rate.fill_(0.5)
    walk(optimizer, reference, mine, theirs, steps=2, first=2)
    assert largest_difference(mine, theirs) < 1e-12


def test_a_closure_runs_with_gradients_and_gives_the_loss_before_the_step():
    p = nn.Parameter(torch.tensor([2.0]))
    optimizer = optim.SGD([p], lr=0.25)

    def closure():
        optimizer.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        loss = optimizer.step(closure)
    assert loss.item() == 4.0
    assert p.item() == 1.0  # 2 - 0.25 · 4


def test_zero_grad_takes_gradients_away_or_fills_them_with_zero():
    p = nn.Parameter(torch.ones(2))
    optimizer = optim.SGD([p, nn.Parameter(torch.ones(1))])
    (p.grad,) = torch.autograd.grad((p * p).sum(), p, create_graph=True)
    gradient = p.grad
    assert gradient.requires_grad
    optimizer.zero_grad(set_to_none=False)
    assert p.grad.tolist() == [0.0, 0.0]
    assert p.grad.data_ptr() == gradient.data_ptr()
    assert not p.grad.requires_grad
    optimizer.zero_grad()
    assert p.grad is None


class Kernels(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


# what may run: arithmetic, a root, a comparison, memory for a result, reading the step counter
ARITHMETIC = {"add", "add_", "sub", "mul", "mul_", "div", "neg", "sqrt", "maximum", "lerp_", "addcmul_", "addcdiv_"}
MEMORY = {"clone", "zeros", "zeros_like", "detach", "_local_scalar_dense"}


def test_a_step_dispatches_arithmetic_and_no_kernel_of_an_optimizer():
    seen = set()
    for name, options in CASES:
        (mine, theirs) = two_copies()
        optimizer = PAIRS[name][0](mine, lr=0.1, **options)
        set_gradients(mine, theirs, 0)
        with Kernels() as kernels:
            optimizer.step()
            optimizer.step()
        seen |= kernels.names
    assert seen <= ARITHMETIC | MEMORY
    assert {"add_", "mul_", "sqrt", "maximum"} <= seen  # the mode does see what runs


def test_the_dispatch_mode_would_see_torchs_own_kernels():
    (mine, theirs) = two_copies()
    set_gradients(mine, theirs, 0)
    reference = torch.optim.Adam(theirs, foreach=True)
    with Kernels() as kernels:
        reference.step()
    assert any(name.startswith("_foreach") for name in kernels.names)


BAD_SETTINGS = [
    ("SGD", {"lr": -1.0}),
    ("SGD", {"momentum": -0.1}),
    ("SGD", {"weight_decay": -0.1}),
    ("SGD", {"nesterov": True}),
    ("SGD", {"nesterov": True, "momentum": 0.9, "dampening": 0.1}),
    ("SGD", {"lr": torch.tensor([0.1, 0.2])}),
    ("Adam", {"lr": -1.0}),
    ("Adam", {"lr": math.nan}),
    ("Adam", {"eps": -1e-8}),
    ("Adam", {"betas": (1.0, 0.999)}),
    ("Adam", {"betas": (0.9, -0.1)}),
    ("Adam", {"weight_decay": -0.1}),
    ("AdamW", {"lr": -1.0}),
    ("AdamW", {"betas": (0.9, 1.0)}),
]


@pytest.mark.parametrize(("name", "options"), BAD_SETTINGS, ids=str)
def test_what_torch_refuses_with_a_value_error_is_refused_in_one_line(name, options):
    ours, torchs = PAIRS[name]
    with pytest.raises(ValueError):
        torchs([nn.Parameter(torch.ones(1))], **options)
    with pytest.raises(SettingsError) as error:
        ours([nn.Parameter(torch.ones(1))], **options)
    assert "\n" not in str(error.value)
    assert next(iter(options)).split("=")[0] in str(error.value)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SGD", {"lr": math.nan}),
        ("SGD", {"lr": math.inf}),
        ("Adam", {"lr": "0.1"}),
        ("Adam", {"betas": 0.9}),
        ("Adam", {"betas": (0.9, 0.99, 0.999)}),
    ],
    ids=str,
)
def test_what_is_no_usable_number_is_refused_too(name, options):
    with pytest.raises(SettingsError, match=next(iter(options))):
        PAIRS[name][0]([nn.Parameter(torch.ones(1))], **options)


SWITCHES = [(name, switch) for name in PAIRS for switch in ("foreach", "fused", "differentiable")]


@pytest.mark.parametrize(("name", "switch"), [*SWITCHES, ("Adam", "capturable"), ("AdamW", "capturable")])
def test_another_way_than_by_hand_is_refused(name, switch):
    with pytest.raises(SettingsError, match=f"{switch}=True .* by hand there is one way"):
        PAIRS[name][0]([nn.Parameter(torch.ones(1))], **{switch: True})
    PAIRS[name][0]([nn.Parameter(torch.ones(1))], **{switch: False})


def test_settings_of_a_single_group_are_checked():
    p, q = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    with pytest.raises(SettingsError, match=r"lr=-1\.0"):
        optim.SGD([{"params": [p], "lr": -1.0}])
    optimizer = optim.Adam([p])
    with pytest.raises(SettingsError, match="eps"):
        optimizer.add_param_group({"params": [q], "eps": -1})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize(
    ("params", "kind"),
    [
        (torch.ones(1), TypeError),
        ([1.0], TypeError),
        ([{"params": {torch.ones(1)}}], TypeError),
        ([torch.ones(1), 3], TypeError),
        ([], ValueError),
        ([torch.ones(1, requires_grad=True) * 2], ValueError),
        ([("weight", torch.ones(1)), torch.ones(1)], ValueError),
    ],
    ids=["a tensor", "a number", "a set", "a number after a tensor", "nothing", "not a leaf", "half named"],
)
def test_parameters_that_torch_refuses_are_refused_in_kind(params, kind):
    with pytest.raises(kind):
        torch.optim.SGD(params)
    with pytest.raises(kind) as error:
        optim.SGD(params)
    assert isinstance(error.value, SettingsError)


def test_groups_that_torch_refuses_are_refused_in_kind():
    p, q = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    for module in (optim, torch.optim):
        with pytest.raises(ValueError):
            module.SGD([{"params": [p]}, {"params": [q, p]}])
        with pytest.raises(ValueError):
            module.SGD([{"params": [("p", p)]}, {"params": [q]}])
        with pytest.raises(TypeError):
            module.SGD([p]).add_param_group([q])
        with pytest.warns(UserWarning, match="duplicate|twice"):
            module.SGD([p, p])
    with pytest.raises(SettingsError, match="'params'"):
        optim.SGD([{"weights": [p]}])


def test_a_complex_parameter_and_a_sparse_gradient_are_refused():
    with pytest.raises(SettingsError, match="complex"):
        optim.SGD([nn.Parameter(torch.ones(1, dtype=torch.complex64))])
    embedding = nn.Embedding(4, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    before = embedding.weight.detach().clone()
    with pytest.raises(SettingsError, match="sparse"):
        optim.Adam(embedding.parameters()).step()
    assert torch.equal(embedding.weight, before)


def test_a_state_dict_that_does_not_fit_changes_nothing():
    mine, theirs = two_copies()
    optimizer, reference = optim.Adam(mine, lr=0.1), torch.optim.Adam(theirs, lr=0.1)
    walk(optimizer, reference, mine, theirs, steps=1)
    before = copy.deepcopy(optimizer.state_dict())
    good = copy.deepcopy(reference.state_dict())

    fewer = torch.optim.Adam(theirs[:2]).state_dict()
    regrouped = torch.optim.Adam([{"params": theirs[:2]}, {"params": theirs[2:]}]).state_dict()
    for wrong in (fewer, regrouped):
        with pytest.raises(ValueError):
            reference.load_state_dict(wrong)
        with pytest.raises(SettingsError, match="another network"):
            optimizer.load_state_dict(wrong)
    with pytest.raises(SettingsError, match="'betas'"):
        optimizer.load_state_dict(torch.optim.SGD(theirs).state_dict())
    with pytest.raises(SettingsError, match="lr=nan"):
        optimizer.load_state_dict({**good, "param_groups": [{**good["param_groups"][0], "lr": math.nan}]})
    with pytest.raises(SettingsError, match="parameter 99"):
        optimizer.load_state_dict({**good, "state": {99: good["state"][0]}})
    with pytest.raises(ShapeError, match=r"'exp_avg'.*\(7,\).*\(7, 5\)"):
        optimizer.load_state_dict({**good, "state": {0: good["state"][1]}})
    torch.testing.assert_close(optimizer.state_dict(), before, rtol=0, atol=0)


def test_a_state_that_torch_computed_with_its_fused_kernel_loads_and_goes_back():
    mine, theirs = two_copies(torch.float32)
    reference = torch.optim.Adam(theirs, lr=0.1, fused=True)
    set_gradients(mine, theirs, 0)
    reference.step()
    for p, q in zip(mine, theirs, strict=True):
        p.data.copy_(q.data)
    optimizer = optim.Adam(mine)
    optimizer.load_state_dict(reference.state_dict())
    walk(optimizer, reference, mine, theirs, steps=3, first=1)
    assert largest_difference(mine, theirs) < 2e-6
    assert optimizer.state_dict()["param_groups"] == reference.state_dict()["param_groups"]
