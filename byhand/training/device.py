"""Where a training runs."""

import torch

from byhand.errors import SettingsError


def device_named(name: str) -> torch.device:
    """The device of that name; ``auto`` is the first GPU where there is one, else the CPU.

    Raises SettingsError for a device that this machine or this build of torch does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        known = "auto, cpu" + (", cuda" if torch.cuda.is_available() else "")
        raise SettingsError(
            f"device={name!r} is not available ({str(error).splitlines()[0]}); this machine has: {known}"
        ) from None
    if device.type == "meta":
        raise SettingsError("device='meta' holds no numbers; use cpu")
    return device
