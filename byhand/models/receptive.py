"""What part of the input each layer of a network sees: its receptive field, exactly, from the network's own graph.

Araujo, Norris & Sim, Computing Receptive Fields of Convolutional Neural Networks (Distill, 2019), section 2 for chains
of layers and section 3 for networks with branches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from byhand.errors import ShapeError, UnknownLayer
from byhand.models.cost import once_in_evaluation, zero_input

WHOLE = None  # a unit that sees all of the input, wherever it stands


@dataclass(frozen=True)
class Span:
    """Which pixels units see along one axis: unit i sees from ``first`` + i · ``jump``, ``size`` of them.

    ``first`` is below 0 where the padding is seen; pixels are counted from 0.
    """

    first: int
    size: int
    jump: int

    def of_window(self, kernel: int, stride: int, padding: int, dilation: int) -> "Span":
        """What a window over these units sees: r + (k − 1) · dilation · jump, moved to the left by its padding."""
        size = self.size + (kernel - 1) * dilation * self.jump
        return Span(self.first - padding * self.jump, size, self.jump * stride)


@dataclass(frozen=True)
class Field:
    """A layer's receptive field, of rows and of columns; None for both where each unit sees the whole input.

    ``start`` is the centre of the field of unit (0, 0), in pixels; that of unit (i, j) lies i and j jumps further.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    rows: Span | None
    columns: Span | None

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width, in pixels."""
        return self._both(lambda span: span.size)

    @property
    def jump(self) -> tuple[int, int] | None:
        """How many pixels neighbouring units' fields lie apart: the product of the strides so far."""
        return self._both(lambda span: span.jump)

    @property
    def start(self) -> tuple[float, float] | None:
        """The centre of the field of unit (0, 0), pixel 0 having its centre at 0."""
        return self._both(lambda span: span.first + (span.size - 1) / 2)

    def of_unit(self, row: int, column: int) -> tuple[int, int, int, int] | None:
        """The pixels that the unit sees, top, left, bottom, right, the last two included; also outside of the image."""
        if self.rows is None or self.columns is None:
            return None
        top, left = self.rows.first + row * self.rows.jump, self.columns.first + column * self.columns.jump
        return top, left, top + self.rows.size - 1, left + self.columns.size - 1

    def _both(self, value: Callable[[Span], Any]) -> Any:
        if self.rows is None or self.columns is None:
            return None
        return value(self.rows), value(self.columns)


def receptive_fields(model: nn.Module, input_shape: Sequence[int]) -> list[Field]:
    """The field of each layer, in the order of the forward, of a network for images of ``input_shape`` (C, H, W).

    For a chain of windows r ← r + (k − 1) · j and j ← j · s (Araujo et al., equations 2 and 5, from the input on);
    where branches meet, the extent of all of them. Every unit's field follows from that of unit (0, 0), without regard
    to the edges of the image. A unit that a global pooling, a flattening or a linear layer has passed, or that adaptive
    pooling gives windows of uneven size, sees the whole input.

    The network runs once on zeros, in evaluation mode, and its tape is walked from each layer back to the input, so
    that what a forward computes between its layers counts too. It is left as it was.

    Raises:
        ShapeError: the input does not fit the network, or branches of different strides meet.
        UnknownLayer: an operation whose window is not known; layers by hand are such, take ``by_library`` of them.
    """
    if len(input_shape) != 3:
        raise ShapeError(f"input_shape={tuple(input_shape)} must be that of an image, (C, H, W)")
    called: list[tuple[str, nn.Module, Tensor, Any]] = []

    def hook(name: str) -> Callable[[nn.Module, tuple, object], None]:
        def after(layer: nn.Module, _: tuple, output: object) -> None:
            if isinstance(output, Tensor):  # an in-place layer behind it gives the same tensor another node
                called.append((name, layer, output, output.grad_fn))

        return after

    layers = [(name, layer) for name, layer in model.named_modules() if next(layer.children(), None) is None]
    handles = [layer.register_forward_hook(hook(name)) for name, layer in layers]
    image = zero_input(model, input_shape).requires_grad_()
    with once_in_evaluation(model, input_shape, handles), torch.enable_grad():
        model(image * 1)  # an in-place first layer may not write into a leaf
    walk = Walk(image)
    found = []
    for name, layer, output, node in called:
        if node is None or not walk.reaches(node):
            continue  # computed from weights alone, for instance
        rows, columns = walk.spans(node)
        shape = tuple(output.shape[1:])
        if len(shape) != 3:
            rows = columns = WHOLE
        found.append(Field(name or "(network)", type(layer).__name__, shape, rows, columns))
    return found


Spans = tuple[Span | None, Span | None]
Window = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]  # kernel, stride, padding, dilation


class Walk:
    """The spans of each node of autograd's tape, found once each, from the input on."""

    def __init__(self, image: Tensor) -> None:
        self.image = image
        self.known: dict[Any, Spans | None] = {}

    def reaches(self, node: Any) -> bool:
        """Whether the input is behind this node."""
        return self._of(node) is not None

    def spans(self, node: Any) -> Spans:
        """Rows and columns that the units of this node's output see."""
        found = self._of(node)
        assert found is not None
        return found

    def _of(self, node: Any) -> Spans | None:
        stack = [node]  # a deep network's tape is longer than Python's own stack
        while stack:
            top = stack[-1]
            before = [behind for behind, _ in top.next_functions if behind is not None]
            missing = [behind for behind in before if behind not in self.known]
            if missing and top not in self.known:
                stack += missing
                continue
            if top not in self.known:
                self.known[top] = self._step(top, [one for b in before if (one := self.known[b]) is not None])
            stack.pop()
        return self.known[node]

    def _step(self, node: Any, before: list[Spans]) -> Spans | None:
        kind = type(node).__name__.rstrip("0123456789")
        if kind == "AccumulateGrad":
            return (Span(0, 1, 1), Span(0, 1, 1)) if node.variable is self.image else None
        if not before:
            return None
        rows, columns = (together([spans[axis] for spans in before]) for axis in (0, 1))
        if kind in WINDOWS:
            (kh, kw), (sh, sw), (ph, pw), (dh, dw) = WINDOWS[kind](node)
            return (
                None if rows is None else rows.of_window(kh, sh, ph, dh),
                None if columns is None else columns.of_window(kw, sw, pw, dw),
            )
        if kind in MOVED:
            return MOVED[kind](node, rows, columns)
        if kind in PASSED:
            return rows, columns
        if kind in GATHERED:
            return WHOLE, WHOLE
        raise UnknownLayer(
            f"no receptive field through {type(node).__name__}: its window is not known; of layers by hand take "
            "by_library(model)"
        )


def together(spans: list[Span | None]) -> Span | None:
    """The extent of all of them; None where one sees everything. Raises ShapeError for different jumps."""
    known = [span for span in spans if span is not None]
    if len(known) < len(spans):
        return WHOLE
    jumps = sorted({span.jump for span in known})
    if len(jumps) > 1:
        raise ShapeError(f"branches of strides {jumps} meet: their units have no receptive field in common")
    first = min(span.first for span in known)
    last = max(span.first + span.size for span in known)
    return Span(first, last - first, jumps[0])


def _received(node: Any) -> tuple[int, ...]:
    """The shape of what the operation took first."""
    behind, place = node.next_functions[0]
    return tuple(behind._input_metadata[place].shape)


def _given(node: Any) -> tuple[int, ...]:
    """The shape of what it gave."""
    return tuple(node._input_metadata[0].shape)


def _convolution(node: Any) -> Window:
    kernel = tuple(node._saved_weight.shape[2:])
    if node._saved_transposed or len(kernel) != 2:
        what = "a transposed convolution" if node._saved_transposed else "a convolution that is not of images"
        raise UnknownLayer(f"no receptive field through {what}: a unit's window depends on where it stands")
    return kernel, tuple(node._saved_stride), tuple(node._saved_padding), tuple(node._saved_dilation)


def _pooling(node: Any) -> Window:
    """Of maps, and of volumes whose last two axes are the maps' (local response normalisation pools over channels)."""
    kernel = tuple(node._saved_kernel_size)[-2:]
    stride = tuple(node._saved_stride)[-2:] or kernel
    return kernel, stride, tuple(node._saved_padding)[-2:], tuple(getattr(node, "_saved_dilation", (1, 1)))


def _adaptive(node: Any, rows: Span | None, columns: Span | None) -> Spans:
    """Windows of H / h where that is whole; uneven ones have no one size, and a single one sees everything."""
    sides = list(zip((rows, columns), _received(node)[2:], _given(node)[2:], strict=True))
    if any(span is None or left == 1 < size or size % left for span, size, left in sides):
        return WHOLE, WHOLE
    found = [span.of_window(size // left, size // left, 0, 1) for span, size, left in sides if span is not None]
    return found[0], found[1]


def _slice(node: Any, rows: Span | None, columns: Span | None) -> Spans:
    """x[:, :, a::s, b::s]: the a-th unit becomes the first, and jumps grow by s."""
    received = _received(node)
    axis = _signed(node._saved_dim) % len(received)
    spans = [rows, columns]
    span = spans[axis - 2] if axis in (2, 3) else None
    if span is not None:
        first = slice(node._saved_start, None).indices(received[axis])[0]
        spans[axis - 2] = Span(span.first + first * span.jump, span.size, span.jump * node._saved_step)
    return spans[0], spans[1]


def _padding(node: Any, rows: Span | None, columns: Span | None) -> Spans:
    left, _, top = (*node._saved_pad, 0, 0)[:3]
    return (
        None if rows is None else Span(rows.first - top * rows.jump, rows.size, rows.jump),
        None if columns is None else Span(columns.first - left * columns.jump, columns.size, columns.jump),
    )


def _reshape(node: Any, rows: Span | None, columns: Span | None) -> Spans:
    """What leaves the maps as they are, such as a shuffle of channels, passes; a flattening gathers them."""
    received, given = _received(node), _given(node)
    whole = len(received) < 3 or len(given) < 3 or received[-2:] != given[-2:]
    return (WHOLE, WHOLE) if whole else (rows, columns)


def _permute(node: Any, rows: Span | None, columns: Span | None) -> Spans:
    """Other axes exchanged, as in a shuffle of channels, pass; with rows or columns among them all is gathered."""
    ndim = len(_received(node))
    if hasattr(node, "_saved_dims"):
        order = [_signed(axis) % ndim for axis in node._saved_dims]
        kept = order[-2:] == [ndim - 2, ndim - 1]
    else:
        kept = max(_signed(node._saved_dim0) % ndim, _signed(node._saved_dim1) % ndim) < ndim - 2
    return (rows, columns) if kept else (WHOLE, WHOLE)


def _signed(axis: int) -> int:
    return axis - 2**64 if axis >= 2**63 else axis  # the tape shows an axis of -1 as unsigned


RESHAPING = ("Mean", "View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Expand")
WINDOWS: dict[str, Callable[[Any], Window]] = {
    "ConvolutionBackward": _convolution,
    "MaxPool2DWithIndicesBackward": _pooling,
    "AvgPool2DBackward": _pooling,
    "AvgPool3DBackward": _pooling,
}
MOVED: dict[str, Callable[[Any, Span | None, Span | None], Spans]] = {
    "AdaptiveAvgPool2DBackward": _adaptive,
    "AdaptiveMaxPool2DBackward": _adaptive,
    "SliceBackward": _slice,
    "ConstantPadNdBackward": _padding,
    **{f"{name}Backward": _reshape for name in RESHAPING},
    "PermuteBackward": _permute,
    "TransposeBackward": _permute,
}
# A unit's output from the units at its own place, of any channel.
PASSED = {
    f"{name}Backward"
    for name in (
        *("Add", "Sub", "Mul", "Div", "Neg", "Abs", "Exp", "Log", "Sqrt", "Rsqrt", "Pow", "Clamp", "ClampMin"),
        *("Relu", "Hardtanh", "Hardswish", "Hardsigmoid", "Silu", "Gelu", "Tanh", "Sigmoid", "Elu", "LeakyRelu"),
        *("Softplus", "Threshold", "NativeBatchNorm", "CudnnBatchNorm"),
        *("Cat", "Split", "SplitWithSizes", "Clone", "Copy", "ToCopy", "Alias"),
    )
}
# Units from units of every place: linear layers, and statistics over the maps.
GATHERED = {
    f"{name}Backward"
    for name in ("Addmm", "Mm", "Bmm", "T", "NativeLayerNorm", "NativeGroupNorm", "Sum", "Softmax", "LogSoftmax")
}
