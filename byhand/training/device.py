"""Where a training runs."""

import torch

from byhand.errors import SettingsError


def device_named(name: str) -> torch.device:
    """The device of that name: ``cpu``, ``cuda``, or ``auto``: the first GPU where there is one, else the CPU.

    Raises SettingsError for a GPU that this machine or this build of torch does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch was built without CUDA, or there is no such GPU
        known = "auto, cpu" + (", cuda" if torch.cuda.is_available() else "")
        reason = str(error).splitlines()[0].rstrip(".")
        raise SettingsError(f"device={name!r} is not available ({reason}); this machine has: {known}") from None
    return device


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 itself; what only imitates it is slower in it than in float32.

    Of CPUs those with AVX512-BF16 or AMX; one with AVX2 alone took 13 times as long for ResNet-20.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # no public name in the oldest torch that we take
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
