"""Proof that the two hands are one network: the same numbers in float64, layer by layer."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from byhand import optim
from byhand.errors import ShapeError
from byhand.nn import functional
from byhand.nn.hands import FUNCTIONS, TO_HAND, by_hand, by_library
from byhand.optim.clipping import clip_gradients

LIMIT = 1e-9  # float64 carries 1e-16; what two orders of summation differ by stays far below


@dataclass(frozen=True)
class Difference:
    """The largest difference between one tensor of the two hands, and the element where it stands."""

    tensor: str
    largest: float
    element: tuple[int, ...] = ()
    mine: float = 0.0
    reference: float = 0.0
    note: str = ""

    @property
    def passed(self) -> bool:
        return self.largest < LIMIT

    def __str__(self) -> str:
        if self.note:
            return f"{self.tensor}: {self.note}"
        place = f"[{', '.join(map(str, self.element))}]" if self.element else ""
        return f"{self.tensor}{place}: by hand {self.mine:.12g}, reference {self.reference:.12g}"


@dataclass(frozen=True)
class Check:
    """The differences of one layer, or of one call of a function."""

    name: str
    kind: str
    differences: tuple[Difference, ...]

    @property
    def largest(self) -> float:
        return max((difference.largest for difference in self.differences), default=0.0)

    @property
    def passed(self) -> bool:
        return all(difference.passed for difference in self.differences)

    @property
    def worst(self) -> Difference | None:
        return next((difference for difference in self.differences if not difference.passed), None)


def _verdict(checks: Sequence[Check]) -> str:
    for check in checks:
        if check.worst is not None:
            return f"wrong, first at {check.name} ({check.kind}), {check.worst}"
    largest = max((check.largest for check in checks), default=0.0)
    return f"equal up to rounding (largest difference {largest:.1e})" if largest else "equal, bit for bit"


@dataclass(frozen=True)
class Comparison:
    """What ``compare`` found: outputs first, then the gradient of each input."""

    check: Check
    not_compared: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return self.check.passed

    @property
    def verdict(self) -> str:
        return _verdict([self.check])

    def __str__(self) -> str:
        lines = [f"  {difference.tensor:<24} {difference.largest:8.1e}" for difference in self.check.differences]
        return "\n".join([*lines, *(f"  not compared: {name}" for name in self.not_compared), self.verdict])


@dataclass(frozen=True)
class Proof:
    """What ``prove`` found: the largest differences of the whole network, and a check of each layer alone.

    ``output`` and ``gradients`` (of every parameter and the input) come from one pass, ``buffers`` are the running
    statistics after it, ``steps`` the parameters after three optimizer steps, the worse of SGD and AdamW.
    """

    network: str
    output: float
    gradients: float
    buffers: float
    steps: float
    layers: tuple[Check, ...]
    whole: tuple[Check, ...] = field(repr=False)

    @property
    def passed(self) -> bool:
        return all(check.passed for check in (*self.layers, *self.whole))

    @property
    def verdict(self) -> str:
        return _verdict([*self.layers, *self.whole])

    def __str__(self) -> str:
        rows = [f"{self.network}: largest difference between the hands, float64"]
        for check in (*self.layers, *self.whole):
            mark = "ok" if check.passed else "WRONG"
            rows.append(f"  {check.name:<24} {check.kind:<18} {check.largest:8.1e}  {mark}")
        return "\n".join([*rows, self.verdict])


def compare(mine: Callable, reference: Callable, *inputs, name: str = "the function") -> Comparison:
    """The differences between two functions: of each output, and of each input's gradient, all in float64.

    A learner's own formula stands beside torch's: ``compare(my_softmax, torch.softmax, logits, 1)``. Tensors of
    floating point become float64; other arguments are handed over as they are. Functions that return several tensors
    are compared tensor by tensor. The gradients are those of Σ r · output for one random r. A gradient that the
    reference does not have is listed as not compared; one that only ``mine`` lacks is wrong.
    """
    with torch.random.fork_rng(devices=[]):
        sides = [_replay(function, inputs, {}, [], seed=0) for function in (mine, reference)]
    not_compared = tuple(key for key in sides[0] if key not in sides[1])
    return Comparison(Check(name, getattr(mine, "__name__", "function"), _differences(*sides)), not_compared)


def prove(model: nn.Module, *inputs: Tensor, name: str | None = None, seed: int = 0) -> Proof:
    """The proof that ``by_hand(model)`` computes what torch computes, from the same float64 weights.

    The model is copied, and left as it is. Without ``inputs`` a random batch is made that fits its first layer; both
    hands are compared in training mode (dropout draws the same mask in both) and in evaluation mode, and take three
    steps of SGD with Nesterov's momentum and weight decay and three of AdamW, with gradients of norm 1 at most. Then
    each layer, and each functional call of a module's own code, is run alone in both hands on what it met: the report
    names the first that is wrong.

    Raises UnknownLayer where a layer has no twin, ShapeError where no input is given and none can be guessed.
    """
    library = by_library(copy.deepcopy(model)).double().train()
    hand = by_hand(copy.deepcopy(library))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        batch = [_double(value) for value in inputs] or [example_input(library)]
        layers = tuple(_check_calls(library, hand, batch, seed))
        whole = _check_whole(library, hand, batch, seed)
    largest = {check.name: check.largest for check in whole}
    return Proof(
        name or type(model).__name__,
        largest["output"],
        largest["gradients"],
        largest["buffers"],
        largest["three steps"],
        layers,
        tuple(whole),
    )


def example_input(model: nn.Module) -> Tensor:
    """A random float64 batch that fits: vectors for a network that begins with a linear layer, else images.

    Raises ShapeError where neither fits.
    """
    shapes: list[tuple[int, ...]] = []
    for module in model.modules():
        if isinstance(features := getattr(module, "in_features", None), int):
            shapes = [(4, features)]
            break
        if isinstance(channels := getattr(module, "in_channels", None), int):
            # 16 images, as from there on convolutions by hand may go their faster way; fewer where they are large
            sizes = (28, 32, 64, 96, 128, 224, 299, 16, 8)
            shapes = [(16 if size <= 64 else 2, channels, size, size) for size in sizes]
            break
    if next(model.parameters(), None) is None:
        shapes = [(4, 6), (2, 3, 8, 8)]
    for shape in shapes:
        x = torch.randn(shape, dtype=torch.float64)
        try:
            with torch.no_grad():
                copy.deepcopy(model)(x.clone())
        except (RuntimeError, ValueError):
            continue
        return x
    raise ShapeError(
        f"no input was given, and none could be guessed for {type(model).__name__}; pass one: prove(model, x)"
    )


def _check_whole(library: nn.Module, hand: nn.Module, batch: list, seed: int) -> list[Check]:
    checks = _check_passes(library, hand, batch, seed)
    for model in (hand, library):
        model.zero_grad(set_to_none=True)  # gradients as large as the network, which the steps need the room of
    steps = Check("three steps", "SGD, AdamW", _check_steps(library, hand, batch, seed))
    return [*checks, steps]


def _check_passes(library: nn.Module, hand: nn.Module, batch: list, seed: int) -> list[Check]:
    checks = []
    sides = [_passes(model, losses, batch, seed) for model, losses in ((hand, functional), (library, nn.functional))]
    kinds = {"loss": ", ".join(sorted({_loss_of(output) for output in sides[1]["output"].values()}))}
    for group in ("output", "loss", "gradients", "buffers"):
        mine, reference = (side[group] for side in sides)
        only_mine = tuple(
            Difference(key, math.inf, note="the library has none")
            for key, grad in mine.items()
            if key not in reference and bool((grad != 0).any())
        )
        checks.append(Check(group, kinds.get(group, "whole network"), _differences(mine, reference) + only_mine))
    return checks


def _passes(model: nn.Module, losses: Any, batch: list, seed: int) -> dict[str, dict[str, Tensor]]:
    """What a pass forward and backward in training, and one in evaluation, give in one hand, in groups."""
    inputs, leaves = _followed(batch)
    torch.manual_seed(seed)
    outputs = _tensors(model(*inputs))
    followed = {key: value for key, value in outputs.items() if value.requires_grad}
    for value in followed.values():
        value.retain_grad()
    loss = _loss(outputs, losses, seed)
    if loss.requires_grad:  # else there is nothing to learn, and nothing to compare
        loss.backward()
    side = {
        "output": {key: value.detach() for key, value in outputs.items()},
        "loss": {"value": loss.detach()} | _gradients(followed),
        "gradients": _gradients(dict(model.named_parameters()) | leaves),
    }
    side["buffers"] = {key: b.detach().clone() for key, b in model.named_buffers()}
    training = {module: module.training for module in model.modules()}
    model.eval()
    with torch.no_grad():
        outputs = _tensors(model(*_followed(batch)[0]))
        side["output"] |= {f"{key} in evaluation": value for key, value in outputs.items()}
    for module, flag in training.items():
        module.training = flag
    return side


def _check_steps(library: nn.Module, hand: nn.Module, batch: list, seed: int) -> tuple[Difference, ...]:
    found: list[Difference] = []
    start = copy.deepcopy(library.state_dict())
    # Small steps: in a deep network the next gradients differ by far more than the parameters do. AdamW's default
    # epsilon of 1e-8 would make full steps of gradients that are nothing but rounding.
    recipes: tuple[tuple[str, dict[str, Any]], ...] = (
        ("SGD", {"lr": 1e-3, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
        ("AdamW", {"lr": 1e-4, "eps": 1e-3}),
    )
    for kind, settings in recipes:
        sides: list[dict[str, Tensor]] = []
        for model, family, losses, clip in (
            (hand, optim, functional, clip_gradients),
            (library, torch.optim, nn.functional, nn.utils.clip_grad_norm_),
        ):
            model.load_state_dict(start)
            trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
            if not trained:
                sides.append({})
                continue
            optimizer = getattr(family, kind)(trained, **settings)
            torch.manual_seed(seed)
            for step in range(3):
                optimizer.zero_grad()
                _loss(_tensors(model(*_followed(batch)[0])), losses, seed + step).backward()
                clip(trained, 1.0)  # untrained, the deepest have gradients that would throw them far off
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            sides.append({f"{key} after {kind}": value for key, value in model.state_dict().items()})
        found += _differences(*sides)
    return tuple(found)


def _gradients(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"gradient of {key}": tensor.grad for key, tensor in tensors.items() if tensor.grad is not None}


def _loss(outputs: dict[str, Tensor], losses, seed: int) -> Tensor:
    """The sum of a loss of each output of floating point, against targets drawn from the seed."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros((), dtype=torch.float64)
    for output in outputs.values():
        if not output.is_floating_point():
            continue
        if _loss_of(output) == "cross_entropy":
            labels = torch.randint(0, output.shape[1], (len(output),), generator=generator)
            total = losses.cross_entropy(output, labels) + total
        else:
            target = torch.randn(output.shape, generator=generator, dtype=torch.float64)
            total = losses.mse_loss(output, target) + total
    return total


def _loss_of(output: Tensor) -> str:
    """Cross-entropy for logits (B, C > 1), squared error for anything else."""
    return "cross_entropy" if output.ndim == 2 and output.shape[1] > 1 else "mse_loss"


@dataclass
class _Call:
    """One call of a layer or function in the library's hand: who, with what, and the gradient that came back to it."""

    name: str
    kind: str
    library: Callable
    hand: Callable
    args: tuple
    kwargs: dict
    grads: dict[str, Tensor] = field(default_factory=dict)


class _Recorder(TorchFunctionMode):
    """Notes each functional call that a module's own code makes; calls inside a known layer belong to that layer."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[_Call] = []
        self.path: list[str] = []
        self.inside = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        twin = FUNCTIONS.get(func)
        if twin is None or self.inside:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", str(func))
        where = f"{self.path[-1]}: " if self.path and self.path[-1] else ""
        call = _Call(f"{where}{name}()", "function", func, twin, *_kept(args, kwargs))
        output = func(*args, **kwargs)
        self.note(call, output)
        return output

    def note(self, call: _Call, output: Any) -> None:
        self.calls.append(call)
        for key, tensor in _tensors(output).items():
            if tensor.requires_grad:
                tensor.register_hook(lambda grad, key=key: call.grads.__setitem__(key, grad))


def _kept(args: Sequence, kwargs: dict) -> tuple[tuple, dict]:
    """The arguments as they are now: this very call, or a later one, may write into them."""

    def keep(value):
        return value.detach().clone().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value

    return tuple(keep(value) for value in args), {key: keep(value) for key, value in kwargs.items()}


def _check_calls(library: nn.Module, hand: nn.Module, batch: list, seed: int) -> list[Check]:
    # The pass runs on a copy, as it moves running statistics; the layers to run alone stay free of its hooks.
    alone = dict(library.named_modules()), dict(hand.named_modules())
    library = copy.deepcopy(library)
    recorder = _Recorder()
    handles = []
    pending: dict[int, _Call] = {}
    for name, module in library.named_modules():
        leaf = type(module) in TO_HAND

        def before(module, args, kwargs, name=name, leaf=leaf):
            if leaf and not recorder.inside:
                mine, reference = (copy.deepcopy(hands[name]) for hands in reversed(alone))
                mine.load_state_dict(module.state_dict())
                reference.load_state_dict(module.state_dict())
                kept = _kept(args, kwargs)
                pending[id(module)] = _Call(name or "the model", type(module).__name__, reference, mine, *kept)
            recorder.inside += leaf
            recorder.path.append(name)

        def after(module, args, kwargs, output, leaf=leaf):
            recorder.path.pop()
            recorder.inside -= leaf
            if leaf and not recorder.inside:
                recorder.note(pending.pop(id(module)), output)

        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(after, with_kwargs=True))
    torch.manual_seed(seed)
    with recorder:
        outputs = _tensors(library(*_followed(batch)[0]))
    loss = _loss(outputs, nn.functional, seed)
    if loss.requires_grad:
        loss.backward()
    for handle in handles:
        handle.remove()
    del library, outputs, loss  # with their gradients; the calls have copies of what they need
    checks = []
    calls = recorder.calls
    for i in range(len(calls)):
        call = calls.pop(0)  # and with it the copies of its layer
        sides = []
        for function in (call.hand, call.library):
            parameters = list(function.named_parameters()) if isinstance(function, nn.Module) else []
            # a function may take constants, such as the statistics of a frozen norm, which torch gives no gradient
            given = call.args, call.kwargs, parameters, seed + i, call.grads, call.kind != "function"
            sides.append(_replay(function, *given))
            if isinstance(function, nn.Module):
                sides[-1] |= {key: value.detach() for key, value in function.named_buffers()}
        checks.append(Check(call.name, call.kind, _differences(*sides)))
    return checks


def _replay(
    function, args, kwargs, parameters, seed: int, grads: dict[str, Tensor] | None = None, follow_all: bool = True
) -> dict[str, Tensor]:
    """The outputs of one call, and the gradients of its tensors for the given (else random) gradient of the outputs.

    Of all its tensors of floating point, or of those alone that had one when the call was noted.
    """
    torch.manual_seed(seed)
    with torch.enable_grad():
        args, leaves = _followed(args, follow_all)
        kwargs, named = _followed(kwargs, follow_all)
        wanted = [(f"gradient of {name}", leaf) for name, leaf in [*leaves.items(), *named.items()]]
        wanted += [(f"gradient of {name}", parameter) for name, parameter in parameters if parameter.requires_grad]
        outputs = _tensors(function(*args, **kwargs))
        found = {key: value.detach() for key, value in outputs.items()}
        roots = {key: value for key, value in outputs.items() if value.requires_grad}
        if roots and wanted:
            generator = torch.Generator().manual_seed(seed)
            upstream = []
            for key, value in roots.items():
                given = (grads or {}).get(key)
                upstream.append(
                    torch.randn(value.shape, generator=generator, dtype=value.dtype) if given is None else given
                )
            got = torch.autograd.grad(list(roots.values()), [t for _, t in wanted], upstream, allow_unused=True)
            found |= {name: g.detach() for (name, _), g in zip(wanted, got, strict=True) if g is not None}
    return found


def _followed(values, follow_all: bool = True):
    """The arguments with fresh float64 tensors that autograd follows, and by name the leaves that gradients arrive at.

    With ``follow_all=False`` those stay constant that had no gradient before.

    What is handed over is a copy of the leaf: a layer with ``inplace=True`` may write into the copy, not into a leaf.
    """
    leaves = {}

    def follow(name: str, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if not value.is_floating_point():
            return value.clone()
        if not follow_all and not value.requires_grad:
            return value.detach().double().clone()
        leaves[name] = value.detach().double().clone().requires_grad_()
        return leaves[name].clone()

    if isinstance(values, dict):
        return {key: follow(key, value) for key, value in values.items()}, leaves
    return [follow(f"input {i}", value) for i, value in enumerate(values)], leaves


def _differences(mine: dict[str, Tensor], reference: dict[str, Tensor]) -> tuple[Difference, ...]:
    found = []
    for key, wanted in reference.items():
        if key in mine:
            found.append(difference(key, mine[key], wanted))
        elif wanted.numel() and bool((wanted != 0).any()):
            found.append(Difference(key, math.inf, note="by hand there is none"))
    return tuple(found)


def difference(name: str, mine: Tensor, reference: Tensor) -> Difference:
    """The largest |mine − reference| / max(1, largest finite |reference|) and where it stands.

    Another shape, or a NaN in one alone, is infinitely far.
    """
    if mine.shape != reference.shape:
        note = f"by hand the shape is {tuple(mine.shape)}, reference {tuple(reference.shape)}"
        return Difference(name, math.inf, note=note)
    if not mine.numel():
        return Difference(name, 0.0)
    a, b = mine.detach().double().flatten(), reference.detach().double().flatten()
    same = (a == b) | (a.isnan() & b.isnan())
    scale = b.abs().nan_to_num(nan=0.0, posinf=0.0).amax().clamp(min=1)  # float64 rounds in proportion
    distance = torch.where(same, 0.0, ((a - b).abs() / scale).nan_to_num(nan=math.inf, posinf=math.inf))
    i = int(distance.argmax())
    element = tuple(int(k) for k in torch.unravel_index(torch.tensor(i), reference.shape)) if reference.ndim else ()
    return Difference(name, float(distance[i]), element, float(a[i]), float(b[i]))


def _tensors(output: Any) -> dict[str, Tensor]:
    """The tensors of an output by name: one, several, or a mapping of them."""
    if isinstance(output, Tensor):
        return {"output": output}
    if hasattr(output, "_asdict"):
        output = output._asdict()
    items = output.items() if isinstance(output, dict) else enumerate(output)
    return {f"output {key}": value for key, value in items if isinstance(value, Tensor)}


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
