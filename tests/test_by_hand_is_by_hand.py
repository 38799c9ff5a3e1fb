"""That nothing but arithmetic runs by hand: seen from outside kernel by kernel, on the tape, and in the source."""

import ast
import importlib
import pkgutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import byhand.nn as hand_nn
import byhand.ops
from byhand import optim
from byhand.models import FIRST, build
from byhand.nn import by_hand

PACKAGE = Path(byhand.__file__).parent

# What may run: arithmetic, matrix products, reductions, comparison, exp and log, indexing, shapes, memory, draws.
ARITHMETIC = {"add", "sub", "rsub", "mul", "div", "neg", "pow", "abs", "sign", "clamp", "clamp_min", "clamp_max"}
ROUNDING = {"floor_divide", "remainder", "floor", "ceil", "trunc"}
PRODUCTS = {"mm", "bmm", "baddbmm", "mv", "dot", "addcmul", "addcdiv", "lerp"}
REDUCTIONS = {"sum", "mean", "amax", "amin", "max", "min", "argmax", "all", "any", "cumsum"}
COMPARISON = {"eq", "ne", "lt", "le", "gt", "ge", "where", "bitwise_and", "bitwise_or", "bitwise_not", "logical_not"}
ANALYSIS = {"exp", "expm1", "log", "sqrt", "reciprocal", "maximum", "minimum", "log2"}
INDEXING = {"index", "index_put", "index_add", "gather", "scatter_add", "slice", "select", "arange"}
INDEXING |= {"index_select", "nonzero", "scatter"}
SHAPES = {"view", "_unsafe_view", "reshape", "_reshape_alias", "as_strided", "expand", "permute", "t", "transpose"}
SHAPES |= {
    "unsqueeze",
    "squeeze",
    "unfold",
    "stack",
    "cat",
    "alias",
    "detach",
    "split",
    "split_with_sizes",
    "unbind",
    "select_backward",
    "slice_backward",
}
MEMORY = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "zeros", "zeros_like", "new_zeros"}
MEMORY |= {"ones_like", "ones", "full", "full_like", "new_full", "scalar_tensor", "fill", "zero", "copy", "clone"}
MEMORY |= {"_to_copy", "_local_scalar_dense", "lift_fresh", "item", "resize"}
MEMORY |= {"_sparse_coo_tensor_with_dims_and_tensors"}  # a matrix written down by its entries that are not zero
# Two numbers that stand side by side, taken apart and put together as the halves of one that is twice as large.
MEMORY |= {"bitwise_right_shift", "view_as_complex", "complex"}
RANDOM = {"bernoulli"}
ALLOWED = ARITHMETIC | ROUNDING | PRODUCTS | REDUCTIONS | COMPARISON | ANALYSIS | INDEXING | SHAPES | MEMORY | RANDOM

# What would be torch's own layer, activation, loss or optimizer; parts of a kernel's name.
FORBIDDEN = ("conv", "pool", "softmax", "relu", "sigmoid", "tanh", "elu", "loss", "dropout", "norm", "linear", "addmm")
FORBIDDEN += (
    "pad",
    "im2col",
    "col2im",
    "_foreach",
    "_fused",
    "lstsq",
    "linalg",
    "embedding",
    "threshold",
    "upsample",
    "grid_sampl",
)

# Nodes of torch that may stand between loss and weights: views, addition and concatenation, the ends of the tape.
TAPE = {"AddBackward0", "CatBackward0", "AccumulateGrad", "ViewBackward0", "UnsafeViewBackward0", "TBackward0"}
TAPE |= {"TransposeBackward0", "PermuteBackward0", "SelectBackward0", "SliceBackward0", "ExpandBackward0"}
TAPE |= {"UnsqueezeBackward0", "SqueezeBackward1", "ReshapeAliasBackward0", "AliasBackward0"}


class Kernels(TorchDispatchMode):
    """Notes the name of each kernel that runs, without its overload and without the underscore of "in place"."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().removeprefix("aten::").split(".")[0]
        self.names.add(name[:-1] if name.endswith("_") and not name.startswith("__") else name)
        return func(*args, **(kwargs or {}))


def nodes_behind(tensor):
    """Every node of the tape from this tensor back to the leaves."""
    found, waiting = [], [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.append(node)
            waiting += [following for following, _ in node.next_functions]
    return found


def assert_only_arithmetic(names):
    forbidden = {name for name in names if any(part in name for part in FORBIDDEN)}
    assert not forbidden, f"kernels of layers ran: {sorted(forbidden)}"
    assert names <= ALLOWED, f"kernels that are not on the list: {sorted(names - ALLOWED)}"


def assert_tape_is_ours(loss):
    ours, foreign = set(), set()
    for node in nodes_behind(loss):
        if type(node).__module__.startswith("byhand.") or getattr(node, "_forward_cls", int).__module__.startswith(
            "byhand."
        ):
            ours.add(node.name())
        elif node.name().split("::")[-1] not in TAPE:
            foreign.add(node.name())
    assert not foreign, f"nodes that are not ours: {sorted(foreign)}"
    assert ours, "not one node of ours: nothing was watched"


FORMS = {
    "linear-regression": [{}],
    "softmax-regression": [{}],
    "mlp": [{"activation": name, "dropout": 0.3} for name in ("relu", "tanh", "sigmoid", "leaky_relu")],
    "lenet5": [{"activation": name} for name in ("relu", "tanh", "sigmoid", "leaky_relu")],
}
OPTIMIZERS = {
    "SGD": {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3},
    "Adam": {"lr": 1e-3, "amsgrad": True, "weight_decay": 1e-3},
    "AdamW": {"lr": 1e-3},
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    ("entry", "options"),
    [(entry, options) for entry in FIRST for options in FORMS.get(entry.name, [{}])],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_a_step_of_training_by_hand_dispatches_nothing_but_arithmetic(entry, options, optimizer):
    model = by_hand(build(entry.name, **options))
    trainer = getattr(optim, optimizer)(model.parameters(), **OPTIMIZERS[optimizer])
    X = torch.randn(4, *entry.input_shape, generator=torch.Generator().manual_seed(0))
    num_outputs = model(X).shape[1]
    loss_of = hand_nn.CrossEntropyLoss(label_smoothing=0.1) if num_outputs > 1 else hand_nn.MSELoss()
    target = torch.arange(4) % num_outputs if num_outputs > 1 else torch.zeros(4, 1)
    with torch.random.fork_rng(devices=[]), Kernels() as kernels:
        for _ in range(2):  # the second step has momentum
            trainer.zero_grad()
            loss = loss_of(model(X), target)
            loss.backward()
            trainer.step()
    assert_only_arithmetic(kernels.names)
    assert {"mm", "mul", "add"} <= kernels.names
    assert_tape_is_ours(loss_of(model(X), target))


def image_net(nn):
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, stride=2, padding_mode="reflect"),
        nn.LeakyReLU(),
        nn.Conv2d(4, 4, 3, padding="same", groups=2, dilation=2),
        nn.MaxPool2d(2, 1, padding=1, ceil_mode=True),
        nn.AvgPool2d(2, 1, count_include_pad=False),
        nn.AdaptiveAvgPool2d((2, 3)),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(24, 12),
        nn.LogSoftmax(1),
    )


LOSSES = {
    "CrossEntropyLoss": torch.tensor([1, 0, -100]),
    "CrossEntropyLoss of distributions": torch.full((3, 12), 1 / 12),
    "NLLLoss": torch.tensor([1, 0, 2]),
    "MSELoss": torch.zeros(3, 12),
    "L1Loss": torch.zeros(3, 12),
    "HuberLoss": torch.zeros(3, 12),
    "SmoothL1Loss": torch.zeros(3, 12),
}


@pytest.mark.parametrize("name", LOSSES)
def test_every_layer_and_every_loss_by_hand_is_nothing_but_arithmetic(name):
    model, loss_of = image_net(hand_nn), getattr(hand_nn, name.split()[0])()
    X = torch.randn(3, 2, 9, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    with torch.random.fork_rng(devices=[]), Kernels() as kernels:
        loss = loss_of(model(X), LOSSES[name])
        loss.backward()
    assert_only_arithmetic(kernels.names)
    assert_tape_is_ours(loss)


def test_the_remaining_operations_are_nothing_but_arithmetic():
    def leaf(*shape):
        return torch.randn(*shape, generator=torch.Generator().manual_seed(1), requires_grad=True)

    layer = hand_nn.PHMLinear(4, 6, 2)
    boxes = torch.tensor([[0, 1.0, 1, 9, 8], [1, -3, 0, 30, 4], [1, 2, 2, 2, 2]])
    calls = [
        lambda: byhand.ops.corr2d(leaf(5, 4), leaf(2, 2)),
        lambda: byhand.ops.softmax(leaf(3, 4), 1),
        lambda: byhand.ops.squared_loss(leaf(3, 1), leaf(3)),
        lambda: byhand.ops.l2_penalty(leaf(3, 4)),
        lambda: layer(leaf(3, 4)),
        lambda: byhand.ops.conv2d(leaf(1, 5, 5), leaf(2, 1, 3, 3)),
        lambda: byhand.ops.conv2d(leaf(2, 12, 5, 5), leaf(12, 12, 3, 3), leaf(12), 2, 1),
        lambda: byhand.ops.conv2d(leaf(16, 12, 5, 5), leaf(12, 12, 3, 3), leaf(12), 2, 1),
        lambda: byhand.ops.pad2d(leaf(1, 3, 3), 1, 1, 1, 1, "circular"),
        lambda: byhand.ops.least_squares(leaf(5, 2), leaf(5)),
        lambda: byhand.ops.relu6(leaf(3, 4)),
        lambda: byhand.ops.hardsigmoid(leaf(3, 4)),
        lambda: byhand.ops.hardswish(leaf(3, 4)),
        lambda: byhand.ops.silu(leaf(3, 4)),
        lambda: byhand.ops.gelu(leaf(3, 4)),
        lambda: byhand.ops.gelu(leaf(3, 4), "tanh"),
        lambda: byhand.ops.stochastic_depth(leaf(3, 4), 0.5, "row"),
        lambda: byhand.ops.conv2d(leaf(2, 3, 5, 5), leaf(6, 1, 3, 3), leaf(6), groups=3),
        lambda: byhand.ops.conv2d(leaf(16, 3, 5, 5), leaf(3, 1, 3, 3), padding=1, groups=3),
        lambda: byhand.ops.conv2d(leaf(2, 3, 40, 40), leaf(3, 1, 3, 3), leaf(3), padding=1, groups=3),
        lambda: byhand.ops.conv2d(leaf(2, 3, 40, 40), leaf(3, 1, 3, 3), None, 2, 1, groups=3),
        lambda: byhand.ops.conv_transpose2d(leaf(2, 4, 3, 3), leaf(4, 2, 3, 3), leaf(4), 2, 1, 1, groups=2),
        lambda: byhand.ops.batch_norm(leaf(4, 2, 3, 3), None, None, leaf(2), leaf(2), training=True),
        lambda: byhand.ops.batch_norm(leaf(4, 2), leaf(2).detach(), torch.ones(2), leaf(2)),
        lambda: byhand.ops.layer_norm(leaf(4, 3), 3, leaf(3), leaf(3)),
        lambda: byhand.ops.group_norm(leaf(2, 4, 3, 3), 2, leaf(4), leaf(4)),
        lambda: byhand.ops.local_response_norm(leaf(2, 4, 3, 3), 3),
        lambda: byhand.ops.resize(leaf(1, 2, 3, 4), (5, 3)),
        lambda: byhand.ops.upsample_nearest(leaf(1, 2, 3, 4), (6, 7)),
        lambda: byhand.ops.roi_pool(leaf(2, 3, 6, 5), boxes, 2, 0.5),
        lambda: byhand.ops.roi_align(leaf(2, 3, 6, 5), boxes, (2, 3), 0.5, 2, True),
        lambda: byhand.ops.roi_align(leaf(2, 3, 60, 50), boxes, (2, 3), 0.5),  # few of the pixels are used
        lambda: byhand.ops.multiscale_roi_align([leaf(2, 3, 16, 16), leaf(2, 3, 8, 8)], boxes, 2, 2, [(32, 32)], 16, 2),
    ]
    for call in calls:
        with Kernels() as kernels:
            result = call()
            result.sum().backward()
        assert_only_arithmetic(kernels.names - {"randn"})  # the leaves
        assert_tape_is_ours(result)


# Boxes are chosen, not only computed: put in order, found where a condition holds, drawn, rounded to pixels.
CHOICE = {"sort", "nonzero", "randperm", "round", "index_select", "unbind", "equal", "argmin", "is_nonzero", "isfinite"}
# A score and its index are packed into one integer, which NumPy puts in order.
PACKING = {"__and__", "__iand__", "__ior__", "__lshift__", "__or__", "__xor__", "bitwise_xor"}
PACKING |= {"to", "resolve_conj", "resolve_neg"}


def test_operations_on_boxes_are_nothing_but_arithmetic_and_choice():
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(400, 2, generator=generator) * 100
    boxes = torch.cat([corners, corners + 1 + torch.rand(400, 2, generator=generator) * 50], 1)
    scores, some = torch.rand(400, generator=generator), boxes[:5].clone()
    calls = [
        lambda: byhand.ops.box_convert(boxes, "cxcywh", "xywh"),
        lambda: byhand.ops.generalized_box_iou(boxes, some),
        lambda: byhand.ops.clip_boxes_to_image(boxes, (80, 90)),
        lambda: byhand.ops.remove_small_boxes(boxes, 20),
        lambda: byhand.ops.decode_boxes(byhand.ops.encode_boxes(boxes, boxes + 1), boxes),
        lambda: byhand.ops.anchor_boxes([[8], [16]], [[0.5, 1]] * 2, (32, 32), [(8, 8), (4, 4)]),
        lambda: byhand.ops.multibox_prior(3, 4, [0.5, 0.2], [1, 2]),
        lambda: byhand.ops.receptive_centres([(3, 2, 1)], 4, 5),
        lambda: byhand.ops.assign_anchor_to_bbox(some, boxes),
        lambda: byhand.ops.match_boxes(byhand.ops.box_iou(some, boxes), 0.7, 0.3, True),
        lambda: byhand.ops.sample_balanced((scores > 0.9).long(), 64, 0.25, generator),
        lambda: byhand.ops.nms(boxes, scores, 0.5),
        lambda: byhand.ops.batched_nms(boxes, scores, (scores * 9).long(), 0.5),
        lambda: byhand.ops.soft_nms(boxes[:20], scores[:20]),
    ]
    for call in calls:
        with Kernels() as kernels:
            call()
        assert_only_arithmetic(kernels.names - CHOICE - PACKING)
        assert kernels.names


class Mixed(nn.Module):
    """One's own code, with functions, an addition and a concatenation, as networks with branches write it."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 3, 3, padding=1), nn.Linear(3 * 2 * 9, 4)

    def forward(self, x):
        y = F.relu(self.conv(x)) + x
        y = torch.cat([F.max_pool2d(y, 2), F.avg_pool2d(y, 2)], 1)
        return F.log_softmax(self.fc(F.dropout(torch.flatten(y, 1), 0.5, self.training)), 1)


def test_own_code_by_hand_is_nothing_but_arithmetic_too():
    model = by_hand(Mixed())
    X = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]), Kernels() as kernels:
        loss = hand_nn.functional.nll_loss(model(X), torch.tensor([1, 2]))
        loss.backward()
    assert_only_arithmetic(kernels.names)
    assert_tape_is_ours(loss)


def test_the_watchers_see_the_library_at_work():
    model, X = Mixed(), torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]), Kernels() as kernels:
        loss = F.nll_loss(model(X), torch.tensor([1, 2]))
        loss.backward()
    with pytest.raises(AssertionError, match="kernels of layers ran"):
        assert_only_arithmetic(kernels.names)
    for part in ("convolution", "relu", "max_pool2d_with_indices", "avg_pool2d", "addmm", "_log_softmax", "nll_loss"):
        assert any(part in name for name in kernels.names)
    with pytest.raises(AssertionError, match="nodes that are not ours"):
        assert_tape_is_ours(loss)
    one_foreign = hand_nn.functional.nll_loss(by_hand(model)(X).mul(2), torch.tensor([1, 2]))
    with pytest.raises(AssertionError, match="MulBackward0"):
        assert_tape_is_ours(one_foreign)
    assert not ALLOWED & {name for name in ALLOWED if any(part in name for part in FORBIDDEN)}


# The source: no call under ops/, nn/ and optim/ of a function that computes a layer, an activation, a loss or a step

BY_HAND = sorted(path for folder in ("ops", "nn", "optim") for path in (PACKAGE / folder).rglob("*.py"))
# These may be taken from torch.nn: they hold other modules or a tensor, and compute nothing.
HOLDERS = {"Module", "ModuleDict", "ModuleList", "Parameter", "ParameterDict", "ParameterList"}
HOLDERS |= {"Identity", "Unflatten"}
# The names under which torch offers what this package writes by hand, and their relatives.
LAYER_FUNCTIONS = {name for name in dir(F) if not name.startswith("__") and callable(getattr(F, name))}
LAYER_FUNCTIONS |= {"convolution", "log_softmax", "softmax", "sigmoid", "tanh", "batch_norm", "layer_norm", "logsumexp"}
LAYER_FUNCTIONS |= {"addmm", "lstm", "gru", "native_batch_norm", "group_norm", "kron", "lstsq", "pinverse", "expit"}
LAYER_FUNCTIONS |= {f"{name}_" for name in LAYER_FUNCTIONS}
GATES = (
    "torch.nn.functional.",
    "torch.optim.",
    "torch.linalg.",
    "torch.special.",
    "torch._C",
    "nn.functional.",
    "optim.",
)
# Names that F shares with Python or with arithmetic.
LAYER_FUNCTIONS -= {"Tensor", "Callable", "Optional", "Union", "Any", "List", "Tuple", "unfold", "overload", "sym_int"}


def calls_of_layers(tree, own_names):
    """(line, text) of each call of a layer function that is not one of our own, and of each gate to torch.optim.

    ``own_names`` are names that the file imported from byhand or defines itself: a call of those is a call of ours.
    """
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        text = ast.unparse(node.func)
        root, last = text.split(".")[0], text.split(".")[-1]
        gate = text.startswith(GATES) and root not in own_names
        if gate or (last in LAYER_FUNCTIONS and root not in own_names):
            found.append((node.lineno, text))
    return found


def names_of_our_own(tree):
    """Names that a file imports from byhand, or defines at its top with def, class or ``_x = operation(...)``.

    Not the names inside of functions: in ``y = x + 1; y.relu()`` the method is torch's.
    """
    names = set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "byhand":
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


@pytest.mark.parametrize("path", BY_HAND, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_source_calls_no_layer_of_torch(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = calls_of_layers(tree, names_of_our_own(tree))
    if path == PACKAGE / "nn" / "hypercomplex.py":
        # The library's hand of the one layer that torch does not have stands here; it is never part of ours.
        inside = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "LibraryPHMLinear")
        found = [(line, text) for line, text in found if not inside.lineno <= line <= inside.end_lineno]
    assert not found, f"calls of torch's own layers: {found}"


@pytest.mark.parametrize("path", BY_HAND, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_source_imports_nothing_of_torch_that_computes_a_layer(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            names = {alias.name for alias in node.names}
            if node.module == "torch.nn":
                assert names <= HOLDERS, f"line {node.lineno}: from torch.nn import {sorted(names - HOLDERS)}"
            elif node.module == "torch":
                allowed = {"Tensor", "Generator", "einsum"} | ({"nn"} if path.name == "hands.py" else set())
                assert names <= allowed, f"line {node.lineno}: from torch import {sorted(names - allowed)}"
            else:
                assert node.module in ("torch.autograd.function", "torch.overrides"), f"line {node.lineno}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "torch":
                    allowed = {"torch", "torch.nn"} | ({"torch.nn.functional"} if path.name == "hands.py" else set())
                    assert alias.name in allowed, f"line {node.lineno}: import {alias.name}"


def test_hands_names_torchs_layers_only_in_its_tables_and_conditions():
    # hands.py is the one file that must name them: as keys of its tables. None of them is a value that could be called.
    tree = ast.parse((PACKAGE / "nn" / "hands.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            for value in (value for key, value in zip(node.keys, node.values, strict=True) if key is not None):
                assert not ast.unparse(value).startswith(("torch.", "Tensor.", "nn.functional.")), node.lineno
    functions = importlib.import_module("byhand.nn.hands").FUNCTIONS
    for theirs, ours in functions.items():
        assert ours.__module__.startswith("byhand."), theirs


@pytest.mark.parametrize(
    "line",
    [
        "torch.nn.functional.relu(x)",
        "F.conv2d(x, w)",
        "torch.conv2d(x, w)",
        "x.relu()",
        "x.softmax(1)",
        "torch.softmax(x, 1)",
        "torch.batch_norm(x)",
        "nn.functional.gelu(x)",
        "torch.optim.SGD(p)",
        "torch._C._nn.linear(x, w)",
        "torch.linalg.lstsq(X, y)",
        "x.sigmoid_()",
        "torch.addmm(b, x, w)",
        "layer(torch.tanh(x))",
        "y.relu()",
    ],
)
def test_the_reader_of_the_source_finds_a_call_of_that_kind(line):
    tree = ast.parse(f"from byhand.ops import relu, linear\n\n\ndef f(x):\n    y = x + 1\n    return {line}\n")
    assert [where for where, _ in calls_of_layers(tree, names_of_our_own(tree))] == [6]


def test_every_module_under_the_three_folders_was_read():
    found = {
        info.name
        for folder in ("ops", "nn", "optim")
        for info in pkgutil.walk_packages([str(PACKAGE / folder)], f"byhand.{folder}.")
    }
    read = {".".join(p.relative_to(PACKAGE.parent).with_suffix("").parts) for p in BY_HAND if p.name != "__init__.py"}
    assert found == read
    assert len(read) > 20
