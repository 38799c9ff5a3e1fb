"""The precision to add up in: half precision would round once for each term."""

import torch
from torch import Tensor


def wide(x: Tensor) -> torch.dtype:
    """float32 for half precision, else the type of ``x`` itself."""
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype


def fractional(x: Tensor) -> torch.dtype:
    """The same, and float32 for whole numbers, of which shares are taken."""
    return wide(x) if x.dtype.is_floating_point else torch.float32


def is_wide(x: Tensor) -> bool:
    """Whether ``x`` holds real numbers that are added up in their own type."""
    return x.dtype in (torch.float32, torch.float64)
