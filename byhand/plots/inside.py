"""The layers of a model by their names, and what passes through them."""

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from byhand.errors import SettingsError, UnknownName
from byhand.plots.language import layer_word

UNCHANGED = {"Flatten", "Unflatten", "Identity", "Dropout"}  # layers that make nothing new of an image in evaluation


def named_layer(model: nn.Module, name: str) -> nn.Module:
    """The layer or block of that path, such as "layer2.0.conv1".

    Raises:
        UnknownName: there is none; the error has the nearest three.
    """
    layers = {path: layer for path, layer in model.named_modules() if path}
    if name not in layers:
        near = difflib.get_close_matches(name, layers, n=3, cutoff=0.4) or list(layers)[:3]
        said = " or ".join(filter(None, (", ".join(map(repr, near[:-1])), repr(near[-1])))) if near else "none"
        raise UnknownName(f"unknown layer {name!r}; did you mean {said}? All {len(layers)} are in named_modules()")
    return layers[name]


def convolutions(model: nn.Module) -> list[str]:
    """The paths of the convolutions over images, in the model's order."""
    return [path for path, layer in model.named_modules() if type(layer).__name__ == "Conv2d"]


def weighted(model: nn.Module) -> Iterable[Tensor]:
    """The weights of the convolutions and linear layers, (O, C, k, k) or (O, D), in the model's order."""
    return (weight for weight in model.parameters() if weight.ndim in (2, 4))


def weight_of(model: nn.Module, name: str) -> Tensor:
    """The weight of a convolution (O, C, k, k) or a linear layer (O, D).

    Raises:
        UnknownName: no such layer.
        SettingsError: one without such a weight; the error names layers that have one.
    """
    layer = named_layer(model, name)
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim not in (2, 4):
        have = [
            path for path, one in model.named_modules() if getattr(getattr(one, "weight", None), "ndim", 0) in (2, 4)
        ]
        inside = [path for path in have if path.startswith(f"{name}.")]
        raise SettingsError(
            f"layer {name!r} is a {type(layer).__name__} and has no filters; layers that have some: "
            f"{', '.join((inside or have)[:5])}{', ...' if len(inside or have) > 5 else ''}"
        )
    return weight


def layer_outputs(
    model: nn.Module, batch: Tensor, lang: str = "en", only: str | None = None
) -> tuple[list[tuple[str, Tensor]], Tensor]:
    """What each innermost layer puts out for a batch of one, in the order of the forward, and the model's own output.

    Each as (the layer's path and kind, tensor without the batch axis); layers that only pass on what they get are left
    out. `only`: the path of the one layer or block that is asked for.

    Raises:
        UnknownName: `only` is no layer.
        SettingsError: a layer that was not called, or does not put out one tensor.
    """
    outputs: list[tuple[str, Tensor]] = []

    def recorder(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def record(layer: nn.Module, _: Any, output: Any) -> None:
            kind = type(layer).__name__
            if isinstance(output, Tensor) and (path == only or kind not in UNCHANGED):
                name = f"{path} {layer_word(kind, lang)}".strip()
                # a following in-place layer would overwrite what was recorded
                outputs.append((name, output[0].detach().cpu().clone()))

        return record

    if only is None:
        chosen = [(path, layer) for path, layer in model.named_modules() if not any(layer.children())]
    else:
        chosen = [(only, named_layer(model, only))]
    hooks = [layer.register_forward_hook(recorder(path)) for path, layer in chosen]
    try:
        with torch.no_grad():
            parameter = next(model.parameters(), None)
            output = model(batch if parameter is None else batch.to(parameter.device))
    finally:
        for hook in hooks:
            hook.remove()
    if only is not None and not outputs:
        raise not_called(only, chosen[0][1])
    return outputs, output.detach().cpu()


@contextmanager
def taped(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """A dict that the next forward fills: the output of each named layer, as it stands on autograd's tape.

    What comes after each layer takes a copy, so that an in-place layer leaves the output as it was.
    """
    outputs: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[[nn.Module, Any, Any], Any]:
        def keep(_: nn.Module, __: Any, output: Any) -> Any:
            if not isinstance(output, Tensor):
                return output
            outputs[name] = output
            return output.clone()

        return keep

    hooks = [named_layer(model, name).register_forward_hook(hook(name)) for name in names]
    try:
        yield outputs
    finally:
        for handle in hooks:
            handle.remove()


def not_called(name: str, layer: nn.Module) -> SettingsError:
    """The error for a layer that has no output to look at."""
    return SettingsError(
        f"layer {name!r} ({type(layer).__name__}) puts out no tensor in evaluation; choose a layer within it or another"
    )
