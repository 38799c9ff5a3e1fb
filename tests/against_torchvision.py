"""The harness of the networks that torchvision has too: its keys, shapes, parameter count and logits, recorded in JSON.

``tests/golden/NAME.json`` was written with torchvision 0.29.2: names and shapes of the state dict in their order, the
parameter count, and of the logits in evaluation mode for ``images(224)`` under ``weights(state_dict)``, float32, the
first eight, the sum and the norm of each row.
"""

import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

GOLDEN = Path(__file__).parent / "golden"


def golden(name: str) -> dict:
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))


def weights(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of the same keys and shapes whose values depend on each key's name and shape only."""
    found = {}
    for key, tensor in state_dict.items():
        if not tensor.is_floating_point():
            found[key] = torch.zeros_like(tensor)
            continue
        noise = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(tuple(tensor.shape))
        value = torch.from_numpy(np.asarray(noise, dtype=np.float32).reshape(tuple(tensor.shape)))
        if key.endswith("running_var"):
            value = 1 + 0.1 * value.abs()
        elif tensor.ndim == 1:
            value = 1 + 0.1 * value if key.endswith("weight") else 0.1 * value
        else:
            value = value * math.sqrt((1.0 if tensor.ndim == 2 else 2.0) / tensor[0].numel())
        found[key] = value
    return found


def images(size: int, batch: int = 2, channels: int = 3) -> Tensor:
    """Standard normal images, the same on every machine."""
    noise = np.random.default_rng(0).standard_normal((batch, channels, size, size))
    return torch.from_numpy(noise.astype(np.float32))


def assert_is_torchvisions(model: nn.Module, name: str) -> None:
    """The same keys, shapes, parameter count, and logits up to 1e-4 of the largest."""
    record = golden(name)
    state = model.state_dict()
    assert {key: list(value.shape) for key, value in state.items()} == record["keys"]
    assert list(state) == list(record["keys"])  # optimizers and readers go by the order
    assert sum(parameter.numel() for parameter in model.parameters()) == record["parameters"]
    model.load_state_dict(weights(state))
    with torch.no_grad():
        logits = model.eval()(images(224))
    assert_are_torchvisions_logits(logits, name)


def assert_are_torchvisions_logits(logits: Tensor, name: str) -> None:
    record, scale = golden(name), float(logits.abs().max())
    assert float((logits[:, :8] - torch.tensor(record["logits_first_8"])).abs().max()) < 1e-4 * scale
    double = logits.double()
    torch.testing.assert_close(
        double.norm(dim=1), torch.tensor(record["logits_norm"], dtype=torch.float64), rtol=1e-4, atol=0
    )
    assert float((double.sum(1) - torch.tensor(record["logits_sum"], dtype=torch.float64)).abs().max()) < 1e-3 * scale
