"""Gradients that are too long, scaled down."""

from collections.abc import Iterable

import torch
from torch import Tensor


def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """The L2 norm ‖g‖ of all gradients together, (); afterwards each is multiplied by min(1, max_norm / ‖g‖).

    As torch.nn.utils.clip_grad_norm_: 10⁻⁶ is added to ‖g‖ below the line. Nothing is read back from the device.
    Pascanu, Mikolov & Bengio (2013), On the difficulty of training recurrent neural networks, algorithm 1.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return torch.zeros(())
    with torch.no_grad():
        norm = torch.stack([(gradient * gradient).sum() for gradient in gradients]).sum().sqrt()
        factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(factor)
    return norm
