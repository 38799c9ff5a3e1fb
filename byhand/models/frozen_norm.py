"""Batch normalisation that has stopped learning: the constants of a network that was trained before, in a detector."""

from torch import Tensor, nn

LEARNING_EPS = 1e-5  # of nn.BatchNorm2d, which no state dict holds


class FrozenBatchNorm2d(nn.Module):
    """γ (x − μ) / √(σ² + ε) + β channel by channel, (B, C, H, W) -> the same; all four are constants, in training too.

    A detector sees a few large images a step, too few for statistics of their own. ``weight`` γ, ``bias`` β,
    ``running_mean`` μ and ``running_var`` σ² are buffers: no optimizer moves them, and there is no num_batches_tracked.
    Names, order and ``eps`` are those of ``torchvision.ops.FrozenBatchNorm2d``. ``by_hand`` needs no twin of it: its
    only formula is a call of ``batch_norm``, which is computed by our operation.

    A state dict with num_batches_tracked is that of a batch normalisation which still learned, with torch's ε of 1e-5:
    what it has more than ``eps`` is added to σ² on loading, so that the same function is loaded. torchvision leaves σ²
    as it is, which with an ``eps`` of 0 is another function.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_features, self.eps = num_features, eps
        norm = nn.BatchNorm2d(num_features)
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, getattr(norm, name).detach())

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )

    def _load_from_state_dict(self, state_dict, prefix, *rest) -> None:
        learned = state_dict.pop(f"{prefix}num_batches_tracked", None) is not None
        if learned and self.eps < LEARNING_EPS and (key := f"{prefix}running_var") in state_dict:
            state_dict[key] = state_dict[key] + (LEARNING_EPS - self.eps)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}"


def freeze_norms(module: nn.Module, eps: float = 1e-5) -> None:
    """None; afterwards each batch normalisation of maps inside of the module is a frozen one with the same values."""
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm2d:
            frozen = FrozenBatchNorm2d(child.num_features, eps)
            for key in ("weight", "bias", "running_mean", "running_var"):
                setattr(frozen, key, getattr(child, key).detach())
            setattr(module, name, frozen)
        else:
            freeze_norms(child, eps)
