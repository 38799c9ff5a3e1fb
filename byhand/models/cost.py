"""What a network costs, layer by layer: parameters, multiply-adds and bytes; ``byhand show`` prints this table."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from byhand.errors import ByhandError, ShapeError

COLUMNS = ("layer", "kind", "output shape", "parameters", "multiply-adds", "parameter bytes", "output bytes")


@dataclass(frozen=True)
class Row:
    """One call of one layer, or the total.

    ``output_shape`` is that of one input, without the batch axis; None for a total and for a layer that is not called.
    ``parameters`` and ``parameter_bytes`` are 0 where an earlier row has counted the same ones. ``multiply_adds`` is
    None where nobody knows it, and so is that of a total with such a row in it.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...] | None
    parameters: int
    multiply_adds: int | None
    parameter_bytes: int
    output_bytes: int
    detail: str = ""


def layer_table(model: nn.Module, input_shape: Sequence[int]) -> list[Row]:
    """A row for each call of a layer while one input of ``input_shape`` (no batch axis) passes through, in that order.

    Layers are the modules without modules inside, and modules that hold parameters of their own. What a forward
    computes between its layers is not seen. Layers with parameters that are not called (they serve only training, say)
    follow at the end with 0 multiply-adds.

    Multiply-adds are the products in matrix products and convolutions, as published tables count them:

        linear           in · out for each vector
        convolution      kH · kW · C_in / groups · C_out · H_out · W_out
        transposed       kH · kW · C_in · C_out / groups · H_in · W_in
        hypercomplex     in · out for each vector, and n · in · out to build the weight

    Additions of a bias count 0, and so do activations, pooling, padding, dropout, normalisation and embeddings. Any
    other kind of layer has None. Bytes are those of the tensors as they are: four a value in float32.

    The model runs once on zeros, in evaluation mode, on the device of its parameters, and is left as it was. Built
    under ``torch.device("meta")`` it costs no memory and no time.

    Raises:
        ShapeError: the input does not fit the network.
    """
    rows: list[Row] = []
    counted: set[int] = set()
    called: set[nn.Module] = set()

    def count(name: str, module: nn.Module, received: Tensor | None, result: Tensor | None) -> None:
        new = [p for p in module.parameters(recurse=False) if id(p) not in counted]
        counted.update(map(id, new))
        detail = "" if _is_nested(module) else module.extra_repr()
        if module in called:
            detail = f"{detail}; called again" if detail else "called again"
        elif result is None:
            detail = f"{detail}; not called" if detail else "not called"
        rows.append(
            Row(
                name=name or "(network)",
                kind=type(module).__name__,
                output_shape=None if result is None else tuple(result.shape[1:]),
                parameters=sum(p.numel() for p in new),
                multiply_adds=0 if result is None else _multiply_adds(module, received, result),
                parameter_bytes=sum(p.numel() * p.element_size() for p in new),
                output_bytes=0 if result is None else result.numel() * result.element_size(),
                detail=detail,
            )
        )

    def hook(name: str) -> Callable[[nn.Module, tuple, object], None]:
        def after(module: nn.Module, inputs: tuple, output: object) -> None:
            count(name, module, _first_tensor(inputs), _first_tensor(output))
            called.add(module)

        return after

    layers = [(name, module) for name, module in model.named_modules() if _is_layer(module)]
    handles = [module.register_forward_hook(hook(name)) for name, module in layers]
    with once_in_evaluation(model, input_shape, handles), torch.no_grad():
        model(zero_input(model, input_shape))
    for name, module in layers:
        if module not in called and any(True for _ in module.parameters(recurse=False)):
            count(name, module, None, None)
    return rows


@contextmanager
def once_in_evaluation(model: nn.Module, input_shape: Sequence[int], handles: Sequence[RemovableHandle]):
    """Within it the model is in evaluation mode; then it is as it was, without the hooks of these handles.

    Raises:
        ShapeError: what is run within it fails, as the input does not fit the network.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    except ByhandError:
        raise
    except (RuntimeError, ValueError, IndexError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ShapeError(
            f"input_shape={tuple(input_shape)} does not fit this {type(model).__name__}: {reason}"
        ) from None
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode


def total(rows: Iterable[Row]) -> Row:
    """The sums over the rows; multiply_adds is None if any row's is."""
    rows = list(rows)
    known = [row.multiply_adds for row in rows if row.multiply_adds is not None]
    return Row(
        name="total",
        kind="",
        output_shape=None,
        parameters=sum(row.parameters for row in rows),
        multiply_adds=sum(known) if len(known) == len(rows) else None,
        parameter_bytes=sum(row.parameter_bytes for row in rows),
        output_bytes=sum(row.output_bytes for row in rows),
    )


@dataclass(frozen=True)
class Separated:
    """How many convolutions a network has in two halves, their multiply-adds, and those of full ones in their place."""

    pairs: int
    multiply_adds: int
    full: int


def separated(model: nn.Module, rows: Iterable[Row]) -> Separated:
    """What depthwise separable convolutions save, from the rows of ``layer_table(model, ...)``.

    A depthwise convolution of k × k over C channels and the 1×1 convolution into N after it, on maps of the same size,
    cost k²·C + C·N multiply-adds for each place; a full convolution of k × k from C to N costs k²·C·N: the share is
    1/N + 1/k² (Howard et al. 2017, section 3.1). Layers in between, as those of squeeze-and-excitation, are left out.
    """
    layers: dict[str, Any] = dict(model.named_modules())
    pairs = halves = full = 0
    depthwise: Row | None = None
    for row in rows:
        layer = layers.get(row.name)
        if not isinstance(layer, nn.Conv2d) or row.output_shape is None or row.multiply_adds is None:
            continue
        if layer.groups == layer.in_channels == layer.out_channels > 1 and max(layer.kernel_size) > 1:
            depthwise = row
        elif depthwise is not None and depthwise.output_shape is not None and depthwise.multiply_adds is not None:
            follows = (
                layer.in_channels == depthwise.output_shape[0] and row.output_shape[1:] == depthwise.output_shape[1:]
            )
            if follows and layer.kernel_size == (1, 1) and layer.groups == 1:
                pairs += 1
                halves += depthwise.multiply_adds + row.multiply_adds
                full += depthwise.multiply_adds * layer.out_channels
                depthwise = None
    return Separated(pairs, halves, full)


def cells(row: Row) -> tuple[str, ...]:
    """The row as text under COLUMNS: 1,234 for numbers, 6 × 28 × 28 for shapes, ? for what nobody knows."""
    shape = "" if row.output_shape is None else " × ".join(map(str, row.output_shape))
    multiply_adds = "?" if row.multiply_adds is None else f"{row.multiply_adds:,}"
    numbers = (f"{number:,}" for number in (row.parameter_bytes, row.output_bytes))
    return (row.name, row.kind, shape, f"{row.parameters:,}", multiply_adds, *numbers)


def _linear(layer: Any, received: Tensor, result: Tensor) -> int:
    return result.numel() * layer.in_features


def _convolution(layer: Any, received: Tensor, result: Tensor) -> int:
    return result.numel() * prod(layer.kernel_size) * layer.in_channels // layer.groups


def _transposed_convolution(layer: Any, received: Tensor, result: Tensor) -> int:
    return received.numel() * prod(layer.kernel_size) * layer.out_channels // layer.groups


def _hypercomplex(layer: Any, received: Tensor, result: Tensor) -> int:
    return _linear(layer, received, result) + layer.n * layer.in_features * layer.out_features


_COUNTS: dict[str, Callable[[Any, Tensor, Tensor], int]] = {
    "Linear": _linear,
    "Conv1d": _convolution,
    "Conv2d": _convolution,
    "Conv3d": _convolution,
    "ConvTranspose1d": _transposed_convolution,
    "ConvTranspose2d": _transposed_convolution,
    "ConvTranspose3d": _transposed_convolution,
    "PHMLinear": _hypercomplex,
    "LibraryPHMLinear": _hypercomplex,
}

# The files of layers without such products; they have these names in torch.nn and in byhand.nn.
_FREE_FILES = {"activation", "batchnorm", "dropout", "flatten", "instancenorm", "normalization", "padding", "pooling"}
_FREE_KINDS = {"Identity", "Embedding", "PixelShuffle", "PixelUnshuffle", "ChannelShuffle"}
_FREE_OWN = {"byhand.models.frozen_norm"}  # normalisation, though no class of torch.nn
_NOT_FREE = {"MultiheadAttention"}  # stands among torch's activations


def _multiply_adds(layer: nn.Module, received: Tensor | None, result: Tensor) -> int | None:
    """The layer's count for this call, None where it is not known; a class of one's own may compute anything."""
    kind, place = type(layer).__name__, type(layer).__module__
    if received is None:
        return None
    if place in _FREE_OWN:
        return 0
    if not place.startswith(("torch.nn.", "byhand.nn")):
        return None
    if kind in _COUNTS:
        return _COUNTS[kind](layer, received, result)
    free = kind in _FREE_KINDS or (place.rsplit(".", 1)[-1] in _FREE_FILES and kind not in _NOT_FREE)
    return 0 if free else None


def _is_nested(module: nn.Module) -> bool:
    return next(module.children(), None) is not None


def _is_layer(module: nn.Module) -> bool:
    """Whether it computes something itself; an empty Sequential, or a list of parameters, does not."""
    if isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
        return False
    return not _is_nested(module) or next(module.parameters(recurse=False), None) is not None


def zero_input(model: nn.Module, input_shape: Sequence[int]) -> Tensor:
    """One input of zeros, in the dtype and on the device of the model's parameters."""
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return torch.zeros(1, *input_shape, dtype=like.dtype, device=like.device)


def _first_tensor(value: object) -> Tensor | None:
    """The tensor, or the first one in what a layer takes or gives: max pooling may also give indices."""
    if isinstance(value, Tensor):
        return value
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return next((found for part in parts if (found := _first_tensor(part)) is not None), None)
