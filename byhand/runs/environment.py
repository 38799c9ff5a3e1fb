"""The receipt of a run: what it ran with, on what, and on which data."""

import os
import platform
import shlex
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from byhand.data.arrays import Dataset
    from byhand.data.detection import DetectionDataset


def environment(
    seed: int, device: torch.device | str, threads: int, data: "Dataset | DetectionDataset | None" = None
) -> dict[str, Any]:
    """What environment.json records; plain values only.

    versions (byhand, torch, numpy, python), os, cpu (the processor's own name), cores (those this process may use),
    threads, device and device_name, command (the command line, quoted for a shell), seed, started (local time with its
    offset, ISO 8601), and data: name, source and the sha256 of each file's content, None without a data set.
    """
    from byhand import __version__

    device = torch.device(device)
    on_gpu = device.type == "cuda" and torch.cuda.is_available()
    return {
        "versions": {
            "byhand": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "os": platform.platform(),
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "threads": threads,
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if on_gpu else cpu_name(),
        # The program's own folder says nothing of the run and much of the machine.
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "seed": seed,
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "data": None if data is None else {"name": data.name, "source": data.source, "sha256": dict(data.sha256)},
    }


def cpu_name() -> str:
    """The processor's name as it gives it itself; the architecture where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []  # not Linux
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def usable_cores() -> int:
    """How many cores this process may use, which in a container is often fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
