"""The parameters that a training moves, in groups of one learning rate; and what of a network stands still."""

from typing import Any

from torch import Tensor, nn

from byhand.models.weights import heads_of
from byhand.training.settings import Settings


def parameter_groups(network: nn.Module, settings: Settings) -> list[dict[str, Any]]:
    """The parameters that are trained, for an optimizer: a group for each pair of ``share`` and ``weight_decay``.

    ``share`` is what the learning rate of a step is multiplied by: 1 for the heads, ``body_lr`` for all the rest.
    Unless ``decay_all``, biases and the scales of normalisation, which have one axis, do not decay.
    """
    heads = heads_of(network)
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            share = 1.0 if _lies_in(heads, name) else float(settings.body_lr)
            decay = settings.weight_decay if settings.decay_all or parameter.ndim > 1 else 0.0
            groups.setdefault((share, decay), []).append(parameter)
    return [
        {"params": parameters, "share": share, "weight_decay": decay} for (share, decay), parameters in groups.items()
    ]


def freeze_body(network: nn.Module) -> None:
    """Nothing; afterwards no parameter but those of the heads asks for a gradient."""
    heads = heads_of(network)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(_lies_in(heads, name))


def keep_statistics(network: nn.Module) -> None:
    """Nothing; the batch normalisation of the body is in evaluation mode, as in a body that stands still.

    In training mode its running mean and variance would drift towards the new images under weights that do not.
    """
    heads = heads_of(network)
    for name, module in network.named_modules():
        if "running_mean" in module._buffers and not _lies_in(heads, name):
            module.eval()


def _lies_in(heads: tuple[str, ...], name: str) -> bool:
    """Whether a module or parameter of this name is of a head; all of a network that is itself one layer is."""
    return any(not head or name == head or name.startswith(f"{head}.") for head in heads)
