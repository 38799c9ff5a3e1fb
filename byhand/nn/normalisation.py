"""Normalisation as layers."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from byhand import ops
from byhand.errors import SettingsError, ShapeError
from byhand.nn import init


class _BatchNorm(Module):
    """What batch normalisation of vectors and of maps have in common: all but the shape of the input.

    ``weight`` γ starts at 1, ``bias`` β at 0; the buffers ``running_mean`` at 0, ``running_var`` at 1 and
    ``num_batches_tracked`` at 0. Training normalises with the statistics of the batch and moves the running ones by
    ``momentum``, or with ``momentum=None`` makes them the mean over all batches so far. Evaluation takes the running
    ones; with ``track_running_stats=False`` there are none, and the batch's are taken there too.
    """

    _version = 2  # torch's number for state dicts that hold num_batches_tracked
    axes: tuple[int, ...]  # how many an input may have
    takes: str
    weight: Parameter | None
    bias: Parameter | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device=None,
        dtype=None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        _register_affine(self, num_features, affine, bias, device, dtype)
        for name in ("running_mean", "running_var"):
            tracked = torch.empty(num_features, device=device, dtype=dtype) if track_running_stats else None
            self.register_buffer(name, tracked)
        seen = torch.tensor(0, device=device) if track_running_stats else None
        self.register_buffer("num_batches_tracked", seen)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.running_mean.zero_()
            self.running_var.fill_(1)
            self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        self.reset_running_stats()
        _reset_affine(self)

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim not in self.axes:
            raise ShapeError(f"input has shape {tuple(input.shape)}; {type(self).__name__} takes {self.takes}")
        tracks, seen = self.training and self.track_running_stats, self.num_batches_tracked
        momentum = self.momentum
        if momentum is None:  # the mean over all batches: the new one is one of so many
            momentum = 1 / (int(seen) + 1) if tracks and seen is not None else 0.0
        running = (self.running_mean, self.running_var) if tracks or not self.training else (None, None)
        of_batch = self.training or (self.running_mean is None and self.running_var is None)
        output = ops.batch_norm(input, *running, self.weight, self.bias, of_batch, momentum, self.eps)
        if tracks and seen is not None:
            seen.add_(1)
        return output

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *rest) -> None:
        # Weights that were published before torch counted the batches have no such key, and load as in torch.
        version, key = local_metadata.get("version"), f"{prefix}num_batches_tracked"
        if self.num_batches_tracked is not None and (version is None or version < 2) and key not in state_dict:
            known = self.num_batches_tracked.device.type != "meta"
            state_dict[key] = self.num_batches_tracked if known else torch.tensor(0)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


class BatchNorm1d(_BatchNorm):
    """γ (x − μ) / √(σ² + ε) + β feature by feature, (B, C) or (B, C, L); arguments as torch.nn.BatchNorm1d."""

    axes, takes = (2, 3), "(B, C) or (B, C, L)"


class BatchNorm2d(_BatchNorm):
    """γ (x − μ) / √(σ² + ε) + β channel by channel, (B, C, H, W); arguments as torch.nn.BatchNorm2d."""

    axes, takes = (4,), "(B, C, H, W)"


class LayerNorm(Module):
    """γ (x − μ) / √(σ² + ε) + β over the last axes of each example; ``weight`` and ``bias`` have their shape."""

    weight: Parameter | None
    bias: Parameter | None

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        if not isinstance(normalized_shape, Sequence):
            normalized_shape = (int(normalized_shape),)
        self.normalized_shape = tuple(normalized_shape)
        self.eps, self.elementwise_affine = eps, elementwise_affine
        _register_affine(self, self.normalized_shape, elementwise_affine, bias, device, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        _reset_affine(self)

    def forward(self, input: Tensor) -> Tensor:
        return ops.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, "
            f"bias={self.bias is not None}"
        )


class GroupNorm(Module):
    """γ (x − μ) / √(σ² + ε) + β over groups of channels of each example, (B, C, ...); ``weight``, ``bias`` (C,)."""

    weight: Parameter | None
    bias: Parameter | None

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device=None,
        dtype=None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if num_groups < 1 or num_channels % num_groups:
            raise SettingsError(f"num_groups={num_groups} must divide num_channels={num_channels}")
        self.num_groups, self.num_channels, self.eps, self.affine = num_groups, num_channels, eps, affine
        _register_affine(self, num_channels, affine, bias, device, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        _reset_affine(self)

    def forward(self, input: Tensor) -> Tensor:
        return ops.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, "
            f"bias={self.bias is not None}"
        )


class LocalResponseNorm(Module):
    """x / (k + α/n Σ x²)^β, the sum over n = ``size`` neighbouring channels; the paper of 2012 has no division by n."""

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, input: Tensor) -> Tensor:
        return ops.local_response_norm(input, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


def _register_affine(layer: Module, shape: int | tuple[int, ...], affine: bool, bias: bool, device, dtype) -> None:
    """Give the layer its ``weight`` γ and ``bias`` β of that shape, None where it has none."""
    for name, wanted in (("weight", affine), ("bias", affine and bias)):
        layer.register_parameter(name, Parameter(torch.empty(shape, device=device, dtype=dtype)) if wanted else None)


def _reset_affine(layer: Module) -> None:
    """γ = 1, β = 0: at the start a layer only normalises."""
    if isinstance(layer.weight, Tensor):
        init.ones_(layer.weight)
    if isinstance(layer.bias, Tensor):
        init.zeros_(layer.bias)
