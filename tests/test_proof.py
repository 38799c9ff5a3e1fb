"""prove and compare: they pass where the hands agree, and name the place where they do not."""

import copy
import importlib
import math

import pytest
import torch
import torch.nn.functional as F
from against_torch import assert_refused, random
from torch import nn

import byhand.ops as ops
from byhand import compare, optim, prove
from byhand.errors import ShapeError, UnknownLayer
from byhand.models import FIRST, build
from byhand.models.frozen_norm import FrozenBatchNorm2d
from byhand.nn.hands import by_hand
from byhand.ops import stage
from byhand.ops.tape import operation
from byhand.optim.clipping import clip_gradients
from byhand.proof import LIMIT, example_input

# the modules, some of whose names are also those of functions in byhand.ops
activations, cross_entropy, linear, pooling, regularisation, rows = (
    importlib.import_module(f"byhand.ops.{name}")
    for name in ("activations", "cross_entropy", "linear", "pooling", "regularisation", "rows")
)

ACTIVATIONS = ("relu", "tanh", "sigmoid", "leaky_relu")
OPTIONS = {
    "linear-regression": [{}, {"in_features": 7, "out_features": 2}],
    "softmax-regression": [{}],
    "mlp": [{"activation": name, "dropout": p} for name in ACTIVATIONS for p in (0.0, 0.4)],
    "lenet5": [{"activation": name} for name in ACTIVATIONS],
}
CASES = [(entry.name, options) for entry in FIRST for options in OPTIONS.get(entry.name, [{}])]


def seeded(name, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(name, **options)


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_every_network_passes_in_all_its_forms(name, options):
    proof = prove(seeded(name, **options), name=name)
    assert proof.passed
    assert LIMIT == 1e-9
    for value in (proof.output, proof.gradients, proof.buffers, proof.steps):
        assert 0 <= value < 1e-9
    assert proof.network == name
    assert proof.verdict.startswith("equal")
    assert all(check.passed for check in proof.layers)


def test_the_report_goes_layer_by_layer_and_compares_every_gradient():
    model = seeded("lenet5")
    proof = prove(model)
    leaves = [(name, type(m).__name__) for name, m in model.named_modules() if not list(m.children())]
    assert [(check.name, check.kind) for check in proof.layers] == leaves
    conv = {difference.tensor for difference in proof.layers[0].differences}
    assert conv == {"output", "gradient of input 0", "gradient of weight", "gradient of bias"}
    whole = {check.name: {d.tensor for d in check.differences} for check in proof.whole}
    assert whole["gradients"] == {f"gradient of {name}" for name, _ in model.named_parameters()} | {
        "gradient of input 0"
    }
    assert whole["output"] == {"output", "output in evaluation"}
    assert "gradient of output" in whole["loss"]
    assert {f"{name} after {kind}" for name, _ in model.named_parameters() for kind in ("SGD", "AdamW")} == whole[
        "three steps"
    ]
    assert str(proof).endswith(proof.verdict)
    assert all(name in str(proof) for name, _ in leaves)


# One formula broken on purpose: the verdict names the layer, the tensor and the element


def broken(monkeypatch, module, name, change_forward=None, change_backward=None):
    """Replaces the operation of that name by one whose output or gradients went through the given change."""
    forward, backward = getattr(module, f"{name}_forward"), getattr(module, f"{name}_backward")

    def wrong_forward(*arguments):
        output, saved = forward(*arguments)
        return (change_forward(output.clone(), saved) if change_forward else output), saved

    def wrong_backward(needed, grad, *saved):
        gradients = backward(needed, grad, *saved)
        return change_backward(gradients, grad, saved) if change_backward else gradients

    wrong_forward.__name__ = f"{name}_forward"
    monkeypatch.setattr(module, f"_{name}", operation(wrong_forward, wrong_backward))


def assert_names(proof, *parts):
    assert not proof.passed
    assert proof.verdict.startswith("wrong, first at")
    assert "\n" not in proof.verdict
    for part in parts:
        assert part in proof.verdict
    assert "WRONG" in str(proof)


def test_one_wrong_element_of_a_convolutions_weight_gradient_is_found(monkeypatch):
    def change(gradients, grad, saved):
        d_input, d_weight, *rest = gradients
        if d_weight.shape[0] == 16:  # only the second convolution, C3
            d_weight = d_weight.clone()
            d_weight[3, 2, 1, 4] += 1e-6
        return d_input, d_weight, *rest

    broken(monkeypatch, rows, "conv2d_rows", change_backward=change)
    proof = prove(seeded("lenet5"))
    assert_names(proof, "features.3 (Conv2d)", "gradient of weight[3, 2, 1, 4]: by hand")
    wrong = [check.name for check in proof.layers if not check.passed]
    assert wrong == ["features.3"]
    assert proof.output < 1e-9


def test_a_relu_that_opens_its_gate_at_negative_values_is_found(monkeypatch):
    broken(monkeypatch, activations, "relu", change_backward=lambda gradients, grad, saved: (grad,))
    assert_names(prove(seeded("lenet5")), "features.1 (ReLU)", "gradient of input 0[")


def test_a_relu_that_lets_a_little_through_is_found(monkeypatch):
    broken(monkeypatch, activations, "relu", change_forward=lambda y, saved: y + 1e-8)
    assert_names(prove(seeded("mlp")), "2 (ReLU)", "output[")


@pytest.mark.parametrize(("name", "network"), [("conv_relu_avg_pool", "lenet5"), ("linear_relu", "mlp")])
def test_what_goes_wrong_only_where_layers_are_joined_is_found_in_the_whole_network(monkeypatch, name, network):
    broken(monkeypatch, stage, name, change_backward=lambda g, grad, saved: (g[0], g[1] * 1.001, *g[2:]))
    proof = prove(seeded(network))
    assert all(check.passed for check in proof.layers)
    assert proof.gradients > 1e-9 > proof.output
    assert_names(proof, "gradients (whole network)", ".weight")


def test_an_average_over_the_wrong_count_is_found(monkeypatch):
    broken(monkeypatch, pooling, "avg_pool2d", change_forward=lambda y, saved: y * 4 / 5)
    assert_names(prove(seeded("lenet5")), "features.2 (AvgPool2d)", "output[")


def test_an_average_that_shares_its_gradient_wrongly_is_found(monkeypatch):
    broken(monkeypatch, pooling, "avg_pool2d", change_backward=lambda g, grad, saved: (g[0] * 2, *g[1:]))
    assert_names(prove(seeded("lenet5")), "features.2 (AvgPool2d)", "gradient of input 0[")


def test_a_linear_layer_that_forgets_its_bias_in_the_way_back_is_found(monkeypatch):
    broken(monkeypatch, linear, "linear", change_backward=lambda g, grad, saved: (g[0], g[1], None))
    assert_names(prove(seeded("softmax-regression")), "1 (Linear)", "gradient of bias: by hand there is none")


def test_a_cross_entropy_with_a_wrong_gradient_is_found_at_the_loss(monkeypatch):
    def change(gradients, grad, saved):
        wrong = gradients[0].clone()
        wrong[1, 2] *= 1.001
        return wrong, *gradients[1:]

    broken(monkeypatch, cross_entropy, "mean_cross_entropy", change_backward=change)
    proof = prove(seeded("mlp"))
    assert all(check.passed for check in proof.layers)
    assert_names(proof, "loss (cross_entropy)", "gradient of output[1, 2]: by hand")


def test_a_cross_entropy_with_a_wrong_value_is_found_at_the_loss(monkeypatch):
    broken(monkeypatch, cross_entropy, "mean_cross_entropy", change_forward=lambda y, saved: y * 1.001)
    assert_names(prove(seeded("mlp")), "loss (cross_entropy)", "value: by hand")


@pytest.mark.parametrize(("kind", "other"), [("SGD", "AdamW"), ("AdamW", "SGD")])
def test_an_optimizer_that_steps_the_wrong_way_is_found_with_its_name(monkeypatch, kind, other):
    right = getattr(optim, kind).update

    def uphill(self, param, grad, state, group):
        right(self, param, -grad, state, group)

    monkeypatch.setattr(getattr(optim, kind), "update", uphill)
    proof = prove(seeded("linear-regression"))
    assert_names(proof, "three steps", f"0.weight after {kind}[0, ")
    assert other not in proof.verdict.split("weight after")[1]
    assert proof.output < 1e-9 < proof.steps


def test_gradients_that_are_clipped_wrongly_are_found(monkeypatch):
    monkeypatch.setattr("byhand.proof.clip_gradients", lambda parameters, norm: clip_gradients(parameters, 2 * norm))
    network, x = nn.Sequential(nn.Linear(3, 1)).double(), 100 * torch.ones(4, 3, dtype=torch.float64)
    assert_names(prove(network, x), "three steps", "0.weight after SGD[0, ")


def test_dropout_without_its_scale_is_found(monkeypatch):
    broken(monkeypatch, regularisation, "dropout", change_forward=lambda y, saved: y / 2)
    assert_names(prove(seeded("mlp", dropout=0.5)), "3 (Dropout)", "output[")


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.ModuleDict({"head": Head()})
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return F.dropout(self.fc(input=self.body["head"](x)), 0.3, self.training)


class Head(nn.Module):
    def forward(self, x):
        return torch.tanh(x) + F.relu(x)


def test_a_functional_call_in_ones_own_code_is_checked_and_named(monkeypatch):
    proof = prove(Own(), random(5, 4))
    assert proof.passed
    assert [check.name for check in proof.layers] == ["body.head: tanh()", "body.head: relu()", "fc", "dropout()"]
    # the argument of fc was given by its name, and its gradient is compared too
    assert [d.tensor for d in proof.layers[2].differences] == [
        "output",
        "gradient of input",
        "gradient of weight",
        "gradient of bias",
    ]
    broken(monkeypatch, activations, "relu", change_backward=lambda gradients, grad, saved: (grad,))
    assert_names(prove(Own(), random(5, 4)), "body.head: relu() (function)", "gradient of input 0[")


@pytest.mark.parametrize(
    "model",
    [
        lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)),
        lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 2), nn.Dropout(0.5, inplace=True)),
        lambda: nn.Sequential(nn.Linear(4, 4), nn.LeakyReLU(0.1, inplace=True)),
    ],
)
def test_layers_that_write_into_their_input_can_be_proven(model, monkeypatch):
    assert prove(model(), random(3, 4)).passed
    broken(monkeypatch, activations, "relu", change_forward=lambda y, saved: y - 1)
    broken(monkeypatch, activations, "leaky_relu", change_forward=lambda y, saved: y - 1)
    assert_names(prove(model(), random(3, 4)), "ReLU)", "output[")


def test_code_that_counts_on_a_side_effect_of_inplace_is_reported_as_wrong_and_not_as_equal():
    class SideEffect(nn.Module):
        def forward(self, x):
            x = x * 1
            F.relu(x, inplace=True)  # by hand the result is a new tensor, and here nobody takes it
            return x

    assert_names(prove(SideEffect(), random(3, 4)), "output")


def test_a_call_without_a_twin_is_named_when_the_model_runs():
    class Unknown(nn.Module):
        def forward(self, x):
            return F.mish(x)

    assert_refused(UnknownLayer, lambda: prove(Unknown(), random(2, 3)), "mish()")
    assert_refused(UnknownLayer, lambda: prove(nn.Sequential(nn.LSTM(2, 2))), "LSTM")


def test_shared_layers_and_several_inputs_and_outputs_are_compared():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared = nn.Linear(3, 3)
            self.register_buffer("steps", torch.zeros(1))

        def forward(self, x, labels, *, scale=2.0):
            if self.training:
                self.steps += 1
            y = self.shared(torch.relu(self.shared(x)))
            return {"logits": y * scale, "picked": y.gather(1, labels), "best": y.argmax(1), "name": "no tensor"}

    proof = prove(Two(), random(4, 3), torch.tensor([[0], [1], [2], [0]]))
    assert proof.passed
    assert [check.name for check in proof.layers] == ["shared", "relu()", "shared"]
    whole = {check.name: [d.tensor for d in check.differences] for check in proof.whole}
    assert {"output logits", "output picked", "output best"} <= set(whole["output"])
    assert whole["buffers"] == ["steps"]


def test_running_statistics_that_differ_are_found(monkeypatch):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 2)
            self.register_buffer("mean", torch.zeros(2))

        def forward(self, x):
            y = F.relu(self.fc(x))
            self.mean += y.detach().mean(0)
            return self.fc(x)

    assert prove(Counting()).passed
    monkeypatch.setattr(ops, "relu", lambda x: activations.relu(x) + 1)
    proof = prove(Counting())
    assert not proof.passed
    assert proof.buffers > 0.5


def test_frozen_networks_and_partly_frozen_ones_can_be_proven():
    model = seeded("mlp")
    model[1].requires_grad_(False)
    assert prove(model).passed
    assert prove(model.requires_grad_(False)).passed


def test_a_model_in_evaluation_mode_is_proven_in_training_mode_too(monkeypatch):
    broken(monkeypatch, regularisation, "dropout", change_forward=lambda y, saved: y / 2)
    model = seeded("mlp", dropout=0.5).eval()
    assert not prove(model).passed
    assert not any(module.training for module in model.modules())


def test_a_model_already_by_hand_is_proven_against_the_library(monkeypatch):
    assert prove(by_hand(seeded("lenet5"))).passed
    broken(monkeypatch, activations, "relu", change_backward=lambda gradients, grad, saved: (grad,))
    assert not prove(by_hand(seeded("lenet5"))).passed


def test_the_model_its_gradients_and_the_random_state_are_left_as_they_were():
    model = seeded("mlp", dropout=0.5)
    model(torch.ones(2, 784)).sum().backward()
    values, grads = copy.deepcopy(model.state_dict()), [p.grad.clone() for p in model.parameters()]
    state = torch.get_rng_state()
    x = torch.ones(2, 784)
    prove(model, x)
    prove(model)
    compare(lambda x: F.dropout(x), lambda x: F.dropout(x), x)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, torch.ones(2, 784))
    assert not x.requires_grad
    assert all(torch.equal(value, values[key]) for key, value in model.state_dict().items())
    assert all(torch.equal(p.grad, grad) for p, grad in zip(model.parameters(), grads, strict=True))
    assert all(p.dtype is torch.float32 and p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_same_seed_gives_the_same_report():
    model = seeded("mlp", dropout=0.5)
    assert str(prove(model, seed=3)) == str(prove(model, seed=3))


def test_an_input_is_guessed_from_the_first_layer_or_asked_for():
    assert example_input(seeded("lenet5").double()).shape[1:] == (1, 32, 32)
    assert example_input(seeded("mlp").double()).shape == (4, 784)
    assert example_input(nn.Sequential(nn.ReLU())).shape == (4, 6)
    awkward = nn.Sequential(nn.Conv2d(1, 1, 3), nn.Flatten(), nn.Linear(7, 2))
    assert_refused(ShapeError, lambda: prove(awkward), "Sequential", "prove(model, x)")


# compare: a learner's own function beside the reference


def softmax_on_paper(o):
    e = torch.exp(o)
    return e / e.sum(-1, keepdim=True)


def test_compare_passes_equal_functions_and_says_how_equal():
    same = compare(torch.tanh, torch.tanh, random(3))
    assert same.passed
    assert same.verdict == "equal, bit for bit"
    close = compare(softmax_on_paper, lambda o: torch.softmax(o, -1), random(4, 5, dtype=torch.float32))
    assert close.passed
    assert close.verdict.startswith("equal")
    assert [d.tensor for d in close.check.differences] == ["output", "gradient of input 0"]


class HalfGradient(torch.autograd.Function):
    """The square with the derivative x in place of 2x: the slip of a learner."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0]


def test_compare_names_the_element_of_a_wrong_gradient():
    x = torch.tensor([[1.0, 2.0], [50.0, 3.0]])
    report = compare(HalfGradient.apply, torch.square, x, name="square")
    assert not report.passed
    assert report.verdict.startswith("wrong, first at square")
    assert "gradient of input 0[1, 0]: by hand" in report.verdict
    worst = report.check.worst
    assert worst.mine * 2 == pytest.approx(worst.reference)


def test_compare_names_the_element_of_a_wrong_output_and_both_values():
    def mine(x):
        y = x * 2
        return torch.where(x == 3, 7.0, y)

    report = compare(mine, lambda x: x * 2, torch.tensor([1.0, 3.0, 5.0]))
    assert "output[1]: by hand 7, reference 6" in report.verdict


def test_compare_counts_a_missing_gradient_as_wrong():
    report = compare(lambda x, w: x.detach() * w, lambda x, w: x * w, random(3), random(3, seed=1))
    assert not report.passed
    assert "gradient of input 0: by hand there is none" in report.verdict
    nothing = compare(lambda x: torch.tensor(x.detach().numpy() ** 2), torch.square, random(3))
    assert "gradient of input 0: by hand there is none" in nothing.verdict


def test_compare_lists_what_the_reference_cannot_be_compared_in():
    report = compare(lambda x, w: x * w, lambda x, w: x * w.detach(), random(3), random(3, seed=1))
    assert report.passed
    assert report.not_compared == ("gradient of input 1",)
    assert "not compared: gradient of input 1" in str(report)


def test_compare_takes_functions_with_several_outputs_and_plain_arguments():
    def mine(x, k, dim=0):
        return {"largest": torch.topk(x, k, dim).values, "where": torch.topk(x, k, dim).indices}

    assert compare(mine, mine, random(5), 2).passed
    report = compare(lambda x: (x, x + 1), lambda x: (x, x + 2), random(3))
    assert "output 1[" in report.verdict
    assert "output 1[" not in compare(lambda x: (x, x + 1), lambda x: (x, x + 1), random(3)).verdict
    assert not compare(lambda x: x, lambda x: (x, x), random(3)).passed


def test_compare_finds_another_shape():
    report = compare(lambda x: x.sum(0), lambda x: x.sum(0, keepdim=True), random(2, 3))
    assert "output: by hand the shape is (3,), reference (1, 3)" in report.verdict


def test_compare_finds_a_nan_that_stands_on_one_side_only():
    x = torch.tensor([0.0, -1.0])
    one_sided = compare(torch.log, lambda x: torch.log(x.abs()), x)
    assert "output[1]: by hand nan" in one_sided.verdict
    assert compare(torch.log, torch.log, x).check.differences[0].passed  # −∞ and NaN in the same places are equal
    infinite = compare(lambda x: x / 0, lambda x: x * 2, torch.tensor([1.0]))
    assert infinite.check.worst.largest == math.inf


def test_compare_draws_one_random_gradient_and_the_same_dropout_for_both_sides():
    assert compare(ops.dropout, F.dropout, random(50)).passed


def test_compare_works_for_a_function_that_writes_into_its_argument():
    assert compare(lambda x: x.mul_(2), lambda x: x * 2, random(3)).passed


def test_a_difference_at_the_limit_is_wrong_and_below_it_rounding():
    x = torch.tensor([1.0])
    assert compare(lambda x: x + 0.9e-9, lambda x: x, x).verdict.startswith("equal up to rounding")
    assert not compare(lambda x: x + 1.1e-9, lambda x: x, x).passed


def test_constants_of_a_functional_call_are_proven_without_a_gradient():
    torch.manual_seed(0)
    norm = FrozenBatchNorm2d(4)
    for value in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        value.uniform_(0.5, 2)
    found = prove(nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU()), torch.randn(2, 3, 6, 6))
    assert found.passed
    call = next(check for check in found.layers if "batch_norm()" in check.name)
    assert [difference.tensor for difference in call.differences] == ["output", "gradient of input 0"]
