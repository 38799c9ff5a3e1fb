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
