"""From torch's layers to ours and back: the same network, over the same parameters, in the other hand."""

import copy
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from byhand import ops
from byhand.errors import UnknownLayer
from byhand.nn import functional
from byhand.nn.activation import LeakyReLU, LogSoftmax, ReLU, Sigmoid, Softmax, Tanh
from byhand.nn.convolution import Conv2d
from byhand.nn.dropout import Dropout
from byhand.nn.flatten import Flatten
from byhand.nn.hypercomplex import LibraryPHMLinear, PHMLinear
from byhand.nn.linear import Linear
from byhand.nn.loss import CrossEntropyLoss, HuberLoss, L1Loss, MSELoss, NLLLoss, SmoothL1Loss
from byhand.nn.normalisation import BatchNorm1d, BatchNorm2d, GroupNorm, LayerNorm, LocalResponseNorm
from byhand.nn.pooling import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d
from byhand.nn.sequential import Sequential, is_watched
from byhand.nn.smooth_activation import GELU, Hardsigmoid, Hardswish, ReLU6, SiLU
from byhand.nn.stochastic_depth import LibraryStochasticDepth, StochasticDepth
from byhand.nn.transposed import ConvTranspose2d
from byhand.ops.layout import is_batch_innermost

LAYERS = (
    (nn.Linear, Linear),
    (nn.Conv2d, Conv2d),
    (nn.ConvTranspose2d, ConvTranspose2d),
    (nn.MaxPool2d, MaxPool2d),
    (nn.AvgPool2d, AvgPool2d),
    (nn.AdaptiveAvgPool2d, AdaptiveAvgPool2d),
    (nn.BatchNorm1d, BatchNorm1d),
    (nn.BatchNorm2d, BatchNorm2d),
    (nn.LayerNorm, LayerNorm),
    (nn.GroupNorm, GroupNorm),
    (nn.LocalResponseNorm, LocalResponseNorm),
    (nn.Flatten, Flatten),
    (nn.Dropout, Dropout),
    (nn.Sigmoid, Sigmoid),
    (nn.Tanh, Tanh),
    (nn.ReLU, ReLU),
    (nn.LeakyReLU, LeakyReLU),
    (nn.ReLU6, ReLU6),
    (nn.Hardsigmoid, Hardsigmoid),
    (nn.Hardswish, Hardswish),
    (nn.SiLU, SiLU),
    (nn.GELU, GELU),
    (nn.Softmax, Softmax),
    (nn.LogSoftmax, LogSoftmax),
    (nn.MSELoss, MSELoss),
    (nn.L1Loss, L1Loss),
    (nn.HuberLoss, HuberLoss),
    (nn.SmoothL1Loss, SmoothL1Loss),
    (nn.NLLLoss, NLLLoss),
    (nn.CrossEntropyLoss, CrossEntropyLoss),
    (LibraryPHMLinear, PHMLinear),
    (LibraryStochasticDepth, StochasticDepth),
)
TO_HAND = dict(LAYERS)
TO_LIBRARY = {hand: library for library, hand in LAYERS}

# They only hold other modules or rename axes: nothing in them is computed.
CONTAINERS = (
    nn.Module,
    nn.Sequential,
    nn.ModuleList,
    nn.ModuleDict,
    nn.ParameterList,
    nn.ParameterDict,
    nn.Identity,
    nn.Unflatten,
)

# What every module holds: parameters, buffers, hooks, children, the training flag. Entries are shared, tables are not.
TABLES = frozenset(nn.Module().__dict__)

FUNCTIONS: dict[Callable, Callable] = {
    torch.max_pool2d: functional.max_pool2d,
    torch.conv2d: functional.conv2d,
    torch.conv_transpose2d: functional.conv_transpose2d,
    torch.flatten: ops.flatten,
    Tensor.flatten: ops.flatten,
    torch.relu: functional.relu,
    Tensor.relu: functional.relu,
    torch.sigmoid: functional.sigmoid,
    Tensor.sigmoid: functional.sigmoid,
    torch.special.expit: functional.sigmoid,
    torch.tanh: functional.tanh,
    Tensor.tanh: functional.tanh,
    torch.softmax: lambda input, dim, dtype=None: functional.softmax(input, dim, dtype=dtype),
    Tensor.softmax: lambda input, dim, dtype=None: functional.softmax(input, dim, dtype=dtype),
    torch.log_softmax: lambda input, dim, dtype=None: functional.log_softmax(input, dim, dtype=dtype),
    Tensor.log_softmax: lambda input, dim, dtype=None: functional.log_softmax(input, dim, dtype=dtype),
    torch.dropout: lambda input, p, train: functional.dropout(input, p, train),
    torch.batch_norm: lambda input, weight, bias, mean, var, training, momentum, eps, cudnn_enabled: (
        functional.batch_norm(input, mean, var, weight, bias, training, momentum, eps)
    ),
    torch.layer_norm: lambda input, normalized_shape, weight=None, bias=None, eps=1e-5, cudnn_enable=True: (
        functional.layer_norm(input, normalized_shape, weight, bias, eps)
    ),
    torch.group_norm: lambda input, num_groups, weight=None, bias=None, eps=1e-5, cudnn_enabled=True: (
        functional.group_norm(input, num_groups, weight, bias, eps)
    ),
    **{getattr(nn.functional, name): getattr(functional, name) for name in functional.__all__},
}


def _without_twin() -> Iterator[Callable]:
    """The functions of torch that compute a layer, an activation or a loss and are not in FUNCTIONS."""
    names = {name.strip("_") for name in dir(nn.functional) if callable(getattr(nn.functional, name))}
    names |= {"rnn_tanh", "rnn_relu", "lstm", "gru", "rnn_tanh_cell", "rnn_relu_cell", "lstm_cell", "gru_cell"}
    names |= {
        "convolution",
        "conv_tbc",
        "native_batch_norm",
        "native_layer_norm",
        "native_group_norm",
        "native_dropout",
    }
    names |= {"cudnn_convolution", "mkldnn_max_pool2d", "quantized_batch_norm", "logsumexp", "adaptive_max_pool1d"}
    names -= {
        "pad",
        "handle_torch_function",
        "has_torch_function",
        "boolean_dispatch",
        "logsumexp",
        "cosine_similarity",
    }
    for place in (nn.functional, torch, torch._C._nn, Tensor, torch.special):
        for name in sorted(names):
            if (place, name) == (Tensor, "unfold"):
                continue  # a view of sliding windows, unlike the function of the same name
            for spelling in (name, f"{name}_"):
                function = getattr(place, spelling, None)
                if callable(function) and not isinstance(function, type) and function not in FUNCTIONS:
                    yield function


WITHOUT_TWIN = frozenset(_without_twin())


class ByHand(TorchFunctionMode):
    """While it is on, torch's layer functions are computed by our operations; one that has none is an error."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        twin = FUNCTIONS.get(func)
        if twin is not None:
            return twin(*args, **(kwargs or {}))
        if func is Tensor.view and not _can_be_viewed(*args, **(kwargs or {})):
            return Tensor.reshape(*args, **(kwargs or {}))
        if func in WITHOUT_TWIN:
            name = getattr(func, "__name__", str(func))
            raise UnknownLayer(
                f"the function {name}() has no twin by hand; known: {', '.join(sorted(functional.__all__))}. "
                "Write it with these, or leave this network to the library"
            )
        return func(*args, **(kwargs or {}))


def _can_be_viewed(x: Tensor, *shape, **named) -> bool:
    """Whether a view is possible; not where ours lie in memory in another order than torch's (``ops.layout``)."""
    if x.is_contiguous() or named or (shape and isinstance(shape[0], torch.dtype)):
        return True
    try:
        x.detach().view(*shape)
    except RuntimeError:
        return x.ndim != 4 or not is_batch_innermost(x)  # of any other the error is the caller's
    return True


class ForwardByHand:
    """The forward of a module that was not written for us: its own code, with functional calls sent to ``ops``."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, *args, **kwargs):
        with ByHand():
            return type(self.module).forward(self.module, *args, **kwargs)


def by_hand(model: nn.Module) -> nn.Module:
    """The same network with every layer replaced by its hand-written twin, over the same parameters and buffers.

    Training either one trains both. The model itself is left as it is. Modules of one's own keep their code; what they
    call of ``torch.nn.functional`` is computed by ``byhand.ops``. Nothing is overwritten: ``inplace=True`` gives a new
    tensor, so that a network which goes on with what an activation in place has changed, as a pre-activation block with
    its shortcut may, is another one by hand. ``prove`` then says wrong; write ``inplace=False``.

    Raises UnknownLayer that names a layer, or on its first call a function, that has no twin.
    """
    hand = _convert(model, TO_HAND, "", {})
    if isinstance(hand, Conv2d):
        hand._alone = True
    return hand


def by_library(model: nn.Module) -> nn.Module:
    """The same network with every hand-written layer replaced by torch's, over the same parameters and buffers."""
    return _convert(model, TO_LIBRARY, "", {})


def is_only_ours(model: nn.Module) -> bool:
    """Whether all that it computes is computed by our layers, one after the other: no code between them, no hooks."""
    known = (*TO_LIBRARY, Sequential, nn.Identity)
    return all(type(module) in known and not is_watched(module) for module in model.modules())


def _convert(module: nn.Module, twins: dict, name: str, done: dict[int, nn.Module]) -> nn.Module:
    if id(module) in done:  # a layer that stands in two places stays one layer
        return done[id(module)]
    kind, to_hand = type(module), twins is TO_HAND
    if not isinstance(module.__dict__.get("forward"), ForwardByHand | None):
        raise UnknownLayer(
            f"layer {name or 'the model'!r}, a {kind.__name__}, had its forward replaced on the object, which has no "
            "twin by hand; write it in a class of its own"
        )
    if kind in twins:
        new = _twin(module, twins[kind])
    else:
        own_code = not kind.__module__.startswith(("torch.", "byhand.nn")) or _parametrized(kind)
        if to_hand and not (own_code or kind in (*CONTAINERS, Sequential) or kind in TO_LIBRARY):
            known = sorted(layer.__name__ for layer, _ in LAYERS if layer.__module__.startswith("torch."))
            raise UnknownLayer(
                f"layer {name or 'the model'!r} is a {kind.__name__}, which has no twin by hand; "
                f"known: {', '.join(known)}"
            )
        wanted: type[nn.Module] = kind
        if kind is (nn.Sequential if to_hand else Sequential):
            wanted = Sequential if to_hand else nn.Sequential
        new = wanted.__new__(wanted)
        new.__dict__.update(module.__dict__)
        if isinstance(new.__dict__.get("forward"), ForwardByHand):
            del new.__dict__["forward"]
        if to_hand and own_code:
            new.__dict__["forward"] = ForwardByHand(new)
    new.__dict__.pop("_alone", None)  # what stood alone is part of a network now
    done[id(module)] = new
    for key in TABLES & module.__dict__.keys():
        new.__dict__[key] = copy.copy(module.__dict__[key])
    for child_name, child in module._modules.items():
        path = f"{name}.{child_name}" if name else child_name
        new._modules[child_name] = None if child is None else _convert(child, twins, path, done)
    return new


def _twin(module: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """A layer of the other hand with the same arguments; its parameters are put in place by the caller.

    What else was noted on the layer (a name, a flag of one's own) goes with it.
    """
    arguments: dict[str, Any] = {}
    for name in inspect.signature(kind).parameters:
        if name == "device":
            arguments[name] = "meta"  # no memory, and no draw from the random generator
        elif name == "bias":
            arguments[name] = module.bias is not None
        elif hasattr(module, name):
            arguments[name] = getattr(module, name)
    twin = kind(**arguments)
    twin.__dict__ = {**module.__dict__, **twin.__dict__}
    return twin


def _parametrized(kind: type) -> bool:
    return kind.__module__ == "torch.nn.utils.parametrize"
