"""by_hand and by_library: the same network over the same parameters, in the other hand."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from against_torch import assert_refused, random
from torch import nn

import byhand
from byhand.errors import UnknownLayer
from byhand.nn import by_hand, by_library
from byhand.nn.hands import LAYERS, ForwardByHand
from byhand.ops.tape import Tape

HAND = tuple(hand for _, hand in LAYERS)
LIBRARY = tuple(library for library, _ in LAYERS)


class Block(nn.Module):
    """A module of one's own with functional calls of every spelling, a shared layer and a buffer."""

    def __init__(self, width=6):
        super().__init__()
        self.first, self.shared = nn.Linear(width, width), nn.Linear(width, width)
        self.again = self.shared
        self.rate = 0.5
        self.register_buffer("offset", torch.arange(width, dtype=torch.float64) / 10)
        self.register_buffer("scratch", torch.ones(1, dtype=torch.float64), persistent=False)

    def forward(self, x):
        x = F.relu(self.first(x)) + self.offset
        x = torch.tanh(self.shared(x)).sigmoid()
        x = F.dropout(x, self.rate, training=self.training)
        return F.log_softmax(F.leaky_relu(self.again(x), 0.2) * self.scratch, dim=-1)


class Images(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect")
        self.blocks = nn.ModuleList([nn.Conv2d(4, 4, 1), nn.ReLU()])
        self.named = nn.ModuleDict({"pool": nn.AvgPool2d(2), "none": nn.Identity()})
        self.weight = nn.Parameter(torch.randn(4, 4, 2, 2))
        self.rest = nn.Sequential(nn.Flatten(), Block(16).float())

    def forward(self, x):
        x = self.conv(x)
        for block in self.blocks:
            x = block(x)
        x = self.named["none"](self.named["pool"](x))
        x = F.max_pool2d(F.conv2d(F.pad(x, (1, 1, 1, 1)), self.weight, stride=2), 1)
        x = F.adaptive_avg_pool2d(x, 2)
        return self.rest(torch.flatten(x, 0, -1).reshape(len(x), -1).flatten(1))


def outcome(model, x, seed=3):
    """Output and gradients by name of one pass, the dropout drawn from the seed."""
    model.zero_grad()
    x = x.clone().requires_grad_()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        output = model(x)
    output.backward(random(*output.shape, dtype=output.dtype, seed=1))
    return {"output": output.detach(), "input": x.grad, **{k: p.grad.clone() for k, p in model.named_parameters()}}


def assert_same_outcome(mine, reference, x):
    got, want = outcome(mine, x), outcome(reference, x)
    assert got.keys() == want.keys()
    for name in want:
        torch.testing.assert_close(got[name], want[name], rtol=1e-10, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


def types_of(model):
    return [(name, type(module)) for name, module in model.named_modules(remove_duplicate=False)]


MODELS = {
    "sequential": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, stride=2, padding="valid", bias=False),
            nn.LeakyReLU(0.2),
            nn.MaxPool2d(2, 1),
            nn.AdaptiveAvgPool2d((2, None)),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.LazyLinear(5),
            nn.Softmax(1),
        ),
        (2, 2, 9, 9),
    ),
    "own code": (Block, (4, 6)),
    "nested own code": (Images, (2, 2, 8, 8)),
}


def build(name):
    constructor, shape = MODELS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = constructor().double()
        model(random(*shape))  # lazy layers take their shape from it
    return model, random(*shape)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("training", [True, False])
def test_both_hands_compute_the_same_in_training_and_evaluation(name, training):
    model, x = build(name)
    model.train(training)
    assert_same_outcome(by_hand(model), model, x)


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_is_replaced_over_the_very_same_parameters_and_buffers(name):
    model, _ = build(name)
    hand = by_hand(model)
    assert not any(isinstance(module, LIBRARY) for module in hand.modules())
    for table in ("named_parameters", "named_buffers"):
        ours = dict(getattr(hand, table)(remove_duplicate=False))
        theirs = dict(getattr(model, table)(remove_duplicate=False))
        assert list(ours) == list(theirs)
        assert all(ours[key] is theirs[key] for key in theirs)
    assert list(hand.state_dict()) == list(model.state_dict())
    assert {key: type(module).__name__ for key, module in hand.named_modules()} == {
        key: type(module).__name__ for key, module in model.named_modules()
    }


@pytest.mark.parametrize("name", MODELS)
def test_the_model_itself_is_left_as_it_was(name):
    model, _ = build(name)
    types, before = types_of(model), {key: dict(module.__dict__) for key, module in model.named_modules()}
    values = copy.deepcopy(model.state_dict())
    hand = by_hand(model)
    hand.eval()
    hand.add_module("more", nn.Identity())
    hand.register_buffer("extra", torch.zeros(1), persistent=False)
    assert types_of(model) == types
    for key, module in model.named_modules():
        assert module.__dict__.keys() == before[key].keys()
        assert all(module.__dict__[name] is before[key][name] for name in before[key])
        assert module.training
        assert "extra" not in module._non_persistent_buffers_set
    assert all(torch.equal(value, values[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", MODELS)
def test_there_and_back_gives_the_same_types_and_leaves_nothing_behind(name):
    model, x = build(name)
    hand = by_hand(model)
    back = by_library(hand)
    assert types_of(back) == types_of(model)
    for module in back.modules():
        assert not isinstance(module, HAND)
        assert not any(isinstance(value, ForwardByHand) for value in module.__dict__.values())
    assert_same_outcome(back, model, x)
    assert repr(back) == repr(model)
    assert types_of(by_hand(hand)) == types_of(hand)
    assert types_of(by_hand(back)) == types_of(hand)
    assert_same_outcome(by_hand(hand), model, x)
    assert types_of(by_library(model)) == types_of(model)


def test_training_one_hand_trains_the_other():
    model, x = build("own code")
    hand = by_hand(model)
    hand.eval()
    optimizer = byhand.optim.SGD(hand.parameters(), lr=0.1)
    before = model.first.weight.detach().clone()
    hand(x).square().sum().backward()
    optimizer.step()
    assert not torch.equal(model.first.weight, before)
    assert_same_outcome(hand, model.eval(), x)


def test_flags_of_training_are_kept_layer_by_layer_and_belong_to_each_hand():
    model = nn.Sequential(nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 2)))
    model[1].eval()
    hand = by_hand(model)
    assert [module.training for module in hand.modules()] == [module.training for module in model.modules()]
    hand.train()
    assert not model[1].training
    assert hand[1][0].training


def test_frozen_parameters_stay_frozen():
    model, x = build("own code")
    model.first.requires_grad_(False)
    hand = by_hand(model)
    hand(x).sum().backward()
    assert hand.first.weight.grad is None
    assert hand.shared.weight.grad is not None


def test_a_layer_that_stands_in_two_places_stays_one_layer():
    layer = nn.Linear(3, 3)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    hand = by_hand(model)
    assert hand[0] is hand[2]
    assert len(list(hand.parameters())) == 2
    assert_same_outcome(hand.double(), model.double(), random(4, 3))


def test_tied_parameters_stay_tied():
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    model.append(nn.Linear(3, 5).double())
    model[3].weight = model[0].weight
    hand = by_hand(model)
    assert hand[3].weight is hand[0].weight is model[0].weight
    assert_same_outcome(hand, model, random(2, 3))


def test_hooks_of_every_kind_are_kept_and_removing_one_hand_s_leaves_the_other_s():
    seen = []
    model = nn.Sequential(nn.Linear(3, 3), Block(3))
    for module in (model[0], model[1], model[1].shared):
        module.register_forward_pre_hook(lambda module, args: seen.append("before"))
        module.register_forward_hook(lambda module, args, output: seen.append("after"))
        module.register_full_backward_hook(lambda module, grad_input, grad_output: seen.append("back"))
    model[0].register_forward_hook(lambda module, args, kwargs, output: output + 1, with_kwargs=True)
    model.double().eval()
    x = random(2, 3)
    want = outcome(model, x)
    expected, seen[:] = list(seen), []
    hand = by_hand(model)
    got = outcome(hand, x)
    assert seen == expected
    assert seen.count("back") == 3 + 1  # the shared layer runs twice
    for key in want:
        torch.testing.assert_close(got[key], want[key])
    handle = hand[0].register_forward_hook(lambda module, args, output: output * 0)
    assert len(model[0]._forward_hooks) == 2
    handle.remove()
    assert len(hand[0]._forward_hooks) == 2


def test_what_was_noted_on_a_layer_goes_with_it():
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].role = "head"
    model[0].register_buffer("mask", torch.ones(2), persistent=False)
    hand = by_hand(model)
    assert hand[0].role == "head"
    assert hand[0].mask is model[0].mask
    assert list(hand.state_dict()) == list(model.state_dict())
    assert by_library(hand)[0].role == "head"


@pytest.mark.parametrize("name", MODELS)
def test_a_model_by_hand_can_be_copied_and_pickled_and_stays_by_hand(name):
    model, x = build(name)
    hand = by_hand(model)
    for copied in (copy.deepcopy(hand), pickle.loads(pickle.dumps(hand))):
        assert types_of(copied) == types_of(hand)
        assert all(p is not q for p, q in zip(copied.parameters(), model.parameters(), strict=True))
        assert_same_outcome(copied, model, x)
        for p in copied.parameters():  # the copy's forward must read the copy's parameters, not the first one's
            p.data.zero_()
        assert not torch.allclose(outcome(copied, x)["output"], outcome(model, x)["output"])


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [1, (2, 1), "same"])
def test_convolutions_keep_every_setting(mode, padding):
    model = nn.Conv2d(4, 6, (3, 2), padding=padding, dilation=(1, 2), groups=2, bias=False, padding_mode=mode).double()
    assert_same_outcome(by_hand(model), model, random(2, 4, 6, 7))
    assert repr(by_library(by_hand(model))) == repr(model)


class Scaled(nn.Conv2d):
    """A user's layer: torch's, with a forward of its own."""

    def forward(self, input):
        return 2 * super().forward(input)


def test_a_subclass_of_a_known_layer_keeps_its_own_forward():
    model = nn.Sequential(Scaled(2, 3, 3, padding=1, padding_mode="circular")).double()
    hand = by_hand(model)
    assert type(hand[0]) is Scaled
    assert_same_outcome(hand, model, random(2, 2, 5, 5))
    with watched_kernels() as kernels:
        hand(random(2, 2, 5, 5))
    assert "convolution" not in " ".join(kernels)


class watched_kernels:
    """The names of the kernels that run inside the block."""

    def __enter__(self):
        from torch.utils._python_dispatch import TorchDispatchMode

        names = []

        class Mode(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                names.append(func.name())
                return func(*args, **(kwargs or {}))

        self.mode = Mode()
        self.mode.__enter__()
        return names

    def __exit__(self, *error):
        self.mode.__exit__(*error)


CALLS = {
    "F.relu": lambda x: F.relu(x),
    "F.relu inplace": lambda x: F.relu(x * 1, inplace=True),
    "torch.relu": torch.relu,
    "x.relu()": lambda x: x.relu(),
    "torch.sigmoid": torch.sigmoid,
    "x.sigmoid()": lambda x: x.sigmoid(),
    "F.sigmoid": lambda x: F.sigmoid(x),
    "torch.special.expit": torch.special.expit,
    "torch.tanh": torch.tanh,
    "x.tanh()": lambda x: x.tanh(),
    "F.tanh": lambda x: F.tanh(x),
    "F.leaky_relu": lambda x: F.leaky_relu(x, negative_slope=0.3),
    "F.softmax": lambda x: F.softmax(x, dim=1),
    "F.softmax dtype": lambda x: F.softmax(x, 1, dtype=torch.float64),
    "torch.softmax": lambda x: torch.softmax(x, dim=1),
    "x.softmax()": lambda x: x.softmax(-1),
    "F.log_softmax": lambda x: F.log_softmax(x, dim=1),
    "torch.log_softmax": lambda x: torch.log_softmax(x, 1),
    "x.log_softmax()": lambda x: x.log_softmax(dim=-1),
    "F.linear": lambda x: F.linear(x, torch.ones(3, 4, dtype=x.dtype), bias=torch.ones(3, dtype=x.dtype)),
    "F.dropout": lambda x: F.dropout(x, p=0.5, training=True),
    "torch.dropout": lambda x: torch.dropout(x, 0.5, True),
    "torch.flatten": lambda x: torch.flatten(x.expand(2, *x.shape).transpose(0, 1), start_dim=1),
    "x.flatten()": lambda x: x.flatten(),
    "F.mse_loss": lambda x: F.mse_loss(x, torch.zeros_like(x), reduction="sum"),
    "F.l1_loss": lambda x: F.l1_loss(x, torch.zeros_like(x)),
    "F.huber_loss": lambda x: F.huber_loss(x, torch.zeros_like(x), delta=0.5),
    "F.smooth_l1_loss": lambda x: F.smooth_l1_loss(x, torch.zeros_like(x), beta=0.5),
    "F.nll_loss": lambda x: F.nll_loss(x, torch.arange(len(x)), reduction="none"),
    "F.cross_entropy": lambda x: F.cross_entropy(x, torch.arange(len(x)), label_smoothing=0.1),
    "F.cross_entropy of old": lambda x: F.cross_entropy(x, torch.arange(len(x)), size_average=False),
    "F.conv2d": lambda x: F.conv2d(x[None, None], torch.ones(2, 1, 2, 2, dtype=x.dtype), padding="same"),
    "torch.conv2d": lambda x: torch.conv2d(x[None, None], torch.ones(2, 1, 2, 2, dtype=x.dtype), stride=2),
    "F.max_pool2d": lambda x: F.max_pool2d(x[None], 2, stride=1),
    "torch.max_pool2d": lambda x: torch.max_pool2d(x[None], 2),
    "F.max_pool2d indices": lambda x: F.max_pool2d(x[None], 2, return_indices=True)[0],
    "F.avg_pool2d": lambda x: F.avg_pool2d(x[None], 2, count_include_pad=False, padding=1),
    "F.adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x[None], (1, 3)),
    "F.pad": lambda x: F.pad(x[None], (1, 1, 1, 1), mode="reflect"),
    "F.pad constant": lambda x: F.pad(x, (1, 0)),
    "F.batch_norm": lambda x: F.batch_norm(x, None, None, training=True),
    "torch.batch_norm": lambda x: torch.batch_norm(x, x[0], x[1], None, None, True, 0.1, 1e-3, True),
    "F.layer_norm": lambda x: F.layer_norm(x, x.shape[-1:], eps=1e-3),
    "torch.layer_norm": lambda x: torch.layer_norm(x, x.shape[-1:], x[0]),
    "F.group_norm": lambda x: F.group_norm(x, 2, x[0], bias=x[1]),
    "torch.group_norm": lambda x: torch.group_norm(x, num_groups=2, weight=x[0]),
    "F.local_response_norm": lambda x: F.local_response_norm(x[None], 3, alpha=0.5),
    "F.interpolate": lambda x: F.interpolate(x[None, None], size=(5, 9)),
    "F.interpolate bilinear": lambda x: F.interpolate(x[None, None], None, 1.7, "bilinear", align_corners=False),
}
# Kernels that compute a layer, an activation or a loss; tests/test_by_hand_is_by_hand.py has the list of what may run.
LAYER_KERNELS = ("relu", "sigmoid", "tanh", "softmax", "dropout", "_loss", "conv", "pool", "pad", "addmm", "linear")
LAYER_KERNELS += ("norm", "upsample")


class Calls(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.name = name

    def forward(self, x):
        return CALLS[self.name](x)


@pytest.mark.filterwarnings("ignore:size_average", "ignore:Using padding='same'", "ignore:nn.functional")
@pytest.mark.parametrize("name", CALLS)
def test_a_functional_call_runs_by_hand_in_every_spelling(name):
    model = Calls(name)
    for module in (model, nn.Sequential(Nested(model))):
        assert_same_outcome(by_hand(module), module, random(3, 4))
    x = random(3, 4).requires_grad_()
    with watched_kernels() as kernels:
        by_hand(model)(x).sum().backward()
    assert not [kernel for kernel in kernels if any(part in kernel for part in LAYER_KERNELS)]


class Nested(nn.Module):
    """A module of one's own around another one: two modes are on at once."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


UNKNOWN_CALLS = {
    "mish": lambda x: F.mish(x),
    "elu": lambda x: F.elu(x),
    "softplus": lambda x: F.softplus(x),
    "rms_norm": lambda x: F.rms_norm(x, x.shape[-1:]),
    "instance_norm": lambda x: F.instance_norm(x[None]),
    "conv1d": lambda x: F.conv1d(x[None], torch.ones(1, 3, 1, dtype=x.dtype)),
    "relu_": lambda x: (x * 1).relu_(),
    "sigmoid_": lambda x: torch.sigmoid_(x * 1),
    "max_pool1d": lambda x: F.max_pool1d(x[None], 2),
    "embedding": lambda x: F.embedding(torch.tensor([0]), x),
    "binary_cross_entropy": lambda x: F.binary_cross_entropy(x.sigmoid(), torch.ones_like(x)),
    "scaled_dot_product_attention": lambda x: F.scaled_dot_product_attention(x, x, x),
    "grid_sample": lambda x: F.grid_sample(x[None, None], torch.zeros(1, 2, 2, 2, dtype=x.dtype), align_corners=False),
    "softmax": lambda x: torch.special.softmax(x, 1),
}


@pytest.mark.parametrize("name", UNKNOWN_CALLS)
def test_a_functional_call_without_a_twin_is_named(name):
    class Unknown(nn.Module):
        def forward(self, x):
            return UNKNOWN_CALLS[name](x)

    hand = by_hand(Unknown())  # known only when it runs
    assert_refused(UnknownLayer, lambda: hand(random(3, 4)), f"{name}()")


def test_sliding_windows_by_tensor_unfold_are_a_view_and_no_layer():
    class Windows(nn.Module):
        def forward(self, x):
            return x.unfold(1, 2, 1).sum(-1)

    assert_same_outcome(by_hand(Windows()), Windows(), random(3, 4))


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (lambda: nn.LSTM(2, 3), "LSTM"),
        (lambda: nn.RMSNorm(3), "RMSNorm"),
        (lambda: nn.Mish(), "Mish"),
        (lambda: nn.Embedding(3, 2), "Embedding"),
        (lambda: nn.Conv1d(1, 1, 1), "Conv1d"),
        (lambda: nn.LazyLinear(3), "LazyLinear"),
        (lambda: nn.TransformerEncoderLayer(4, 2), "TransformerEncoderLayer"),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)), "_WeightNorm"),
    ],
)
def test_a_layer_without_a_twin_is_named_with_its_place(layer, name):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.ModuleDict({"cell": layer()})

    assert_refused(UnknownLayer, lambda: by_hand(Model()), "body.cell", name)
    assert_refused(UnknownLayer, lambda: by_hand(layer()), name)


def test_a_users_subclass_of_an_unknown_layer_is_named_when_it_runs():
    class Gated(nn.LSTM):
        pass

    assert_refused(UnknownLayer, lambda: by_hand(Gated(2, 3))(torch.zeros(4, 1, 2)), "lstm()")


def test_a_forward_replaced_on_the_object_is_refused_and_not_forgotten():
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].forward = lambda x: 2 * x
    assert_refused(UnknownLayer, lambda: by_hand(model), "'0'", "Linear", "forward")


class Symmetric(nn.Module):
    def forward(self, X):
        return F.relu(X) + X.mT


def test_a_users_own_parametrization_runs_by_hand():
    layer = nn.Linear(3, 3).double()
    nn.utils.parametrize.register_parametrization(layer, "weight", Symmetric())
    model = nn.Sequential(layer, nn.ReLU())
    hand = by_hand(model)
    assert_same_outcome(hand, model, random(4, 3))
    x = random(4, 3)
    with watched_kernels() as kernels:
        hand(x)
    assert not [kernel for kernel in kernels if any(part in kernel for part in LAYER_KERNELS)]


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_the_older_weight_norm_works_through_its_hook():
    model = nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 4)), nn.ReLU()).double()
    assert_same_outcome(by_hand(model), model, random(2, 3))


def test_an_error_inside_a_forward_does_not_leave_the_other_hand_on():
    class Failing(nn.Module):
        def forward(self, x):
            F.relu(x)
            raise KeyError("mine")

    hand = by_hand(nn.Sequential(Failing()))
    with pytest.raises(KeyError, match="mine"):
        hand(torch.zeros(2))
    x = torch.zeros(2)
    with watched_kernels() as kernels:
        F.mish(F.relu(x))  # without a twin: it would be an error by hand
    assert kernels == ["aten::relu", "aten::mish"]


def test_a_plain_module_as_a_container_is_no_unknown_layer():
    model = nn.Module()
    model.fc = nn.Linear(2, 2)
    assert isinstance(by_hand(model).fc, byhand.nn.Linear)


def test_a_child_that_is_none_and_an_unregistered_layer_work():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.bypass = None
            self.register_module("missing", None)
            self.hidden = [nn.Linear(4, 4).double()]  # torch does not see it either, but its forward runs

        def forward(self, x):
            return self.hidden[0](x) if self.missing is None else x

    model = Odd()
    with watched_kernels() as kernels:
        by_hand(model)(random(3, 4))
    assert "aten::addmm" not in kernels
    assert_same_outcome(by_hand(model), model, random(3, 4))


def test_changing_hands_draws_no_random_number():
    model, _ = build("nested own code")
    before = torch.get_rng_state()
    by_library(by_hand(model))
    assert torch.equal(torch.get_rng_state(), before)


def test_losses_change_hands_too_with_their_settings():
    weight = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    losses = [
        nn.CrossEntropyLoss(weight, ignore_index=1, reduction="sum", label_smoothing=0.2),
        nn.NLLLoss(weight, ignore_index=2, reduction="none"),
    ]
    for loss in losses:
        hand = by_hand(loss)
        assert hand.weight is weight
        expected = loss(random(3, 3), torch.tensor([0, 1, 2]))
        torch.testing.assert_close(hand(random(3, 3), torch.tensor([0, 1, 2])), expected)
        assert repr(by_library(hand)) == repr(loss)
    for loss in (
        nn.MSELoss(reduction="sum"),
        nn.L1Loss(reduction="none"),
        nn.HuberLoss(delta=0.3),
        nn.SmoothL1Loss(beta=0.3),
    ):
        torch.testing.assert_close(by_hand(loss)(random(4), random(4, seed=1)), loss(random(4), random(4, seed=1)))


def test_the_hypercomplex_layer_has_both_hands():
    model = nn.Sequential(byhand.nn.PHMLinear(4, 6, 2), nn.ReLU()).double()
    library = by_library(model)
    assert type(library[0]) is not byhand.nn.PHMLinear
    assert_same_outcome(by_hand(library), library, random(3, 4))
    assert type(by_hand(library)[0]) is byhand.nn.PHMLinear


class Viewer(nn.Module):
    """A user's own module that joins axes with view, as many do."""

    def __init__(self):
        super().__init__()
        self.conv, self.drop, self.linear = nn.Conv2d(1, 4, 3), nn.Dropout(0.5), nn.Linear(36, 3)

    def forward(self, x):
        x = F.max_pool2d(torch.relu(self.conv(x)), 2)
        return self.linear(self.drop(x).view(x.size(0), -1))


def test_a_batch_of_images_lies_in_another_order_in_memory_and_own_code_does_not_notice():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Viewer().double()
    assert_same_outcome(by_hand(model), model, random(20, 1, 8, 8))


def test_a_convolution_of_few_channels_leads_the_batch_in_where_it_is_part_of_a_network():
    layer, x = nn.Conv2d(2, 8, 3).double(), random(16, 2, 9, 9)
    alone = by_hand(layer)
    inside = by_hand(nn.Sequential(nn.Identity(), layer))
    assert alone(x).is_contiguous()
    assert inside(x).permute(2, 3, 1, 0).is_contiguous()
    for part in (alone, by_library(alone)):
        assert by_hand(nn.Sequential(nn.Identity(), part))(x).permute(2, 3, 1, 0).is_contiguous()
    assert vars(by_library(alone)).keys() == vars(layer).keys()
    assert_same_outcome(alone, layer, x)
    torch.testing.assert_close(inside(x), layer(x))


def test_images_of_few_channels_in_the_middle_of_a_network_are_no_end_of_the_tape():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = by_hand(nn.Sequential(nn.ConvTranspose2d(1, 2, 2), nn.Conv2d(2, 4, 2))).double()
    x, parameters = random(16, 1, 2, 2), list(model.parameters())
    wanted = torch.autograd.grad(byhand.ops.squared_loss(model(x), torch.zeros(16, 4, 2, 2), "sum"), parameters)
    with Tape(parameters) as tape:
        loss = byhand.ops.squared_loss(model(x), torch.zeros(16, 4, 2, 2), "sum")
    for got, want in zip(tape.gradients(loss), wanted, strict=True):
        torch.testing.assert_close(got, want)
