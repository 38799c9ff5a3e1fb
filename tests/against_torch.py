"""The harness of the operation tests: value, shape, dtype and every gradient of an operation against torch's own."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import settings
from torch import Tensor

from byhand.errors import ByhandError

torch.set_num_threads(1)  # on tensors this small, threads only wait for each other

# The same examples in every run, and no limit in seconds on a shared machine.
drawn = settings(derandomize=True, deadline=None, max_examples=40)

LAYOUTS = ("contiguous", "transposed", "every second")
# float64 carries 2e-16, float32 1e-7; the sums here have a few hundred terms of size 1
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5}


def random(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Standard normal numbers, the same ones for every dtype."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same numbers in another order of memory; what lies between them is NaN, so that nobody reads it unseen."""
    if layout == "transposed":
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "every second":
        room = x.new_full((*x.shape[:-1], 2 * x.shape[-1] + 1), torch.nan)
        room[..., 1::2] = x
        return room[..., 1::2]
    return x


def value_and_gradients(function: Callable, inputs: tuple, seed: int = 0):
    """The output, and ∂(Σ r · output) for one random r with respect to each floating-point input."""
    inputs = tuple(x.detach().requires_grad_(x.is_floating_point()) if isinstance(x, Tensor) else x for x in inputs)
    wanted = [x for x in inputs if isinstance(x, Tensor) and x.is_floating_point()]
    output = function(*inputs)
    r = random(*output.shape, dtype=output.dtype, seed=seed)
    return output.detach(), torch.autograd.grad(output, wanted, r)


def assert_agree(
    mine: Callable, reference: Callable, *inputs, finite_differences: bool = False, tolerance: float | None = None
) -> None:
    """Both give one value, and one gradient for each floating-point input; float64 also by finite differences."""
    value, gradients = value_and_gradients(mine, inputs)
    expected, wanted = value_and_gradients(reference, inputs)
    limit = TOLERANCE[expected.dtype] if tolerance is None else tolerance
    torch.testing.assert_close(value, expected, rtol=limit, atol=limit, equal_nan=True)
    for i, (got, want) in enumerate(zip(gradients, wanted, strict=True)):
        torch.testing.assert_close(
            got, want, rtol=limit, atol=limit, equal_nan=True, msg=lambda text, i=i: f"gradient of input {i}: {text}"
        )
    if finite_differences:
        assert torch.autograd.gradcheck(mine, tuple(x.detach().requires_grad_() for x in inputs))


def assert_within_precision(mine: Callable, reference: Callable, *inputs: Tensor, roundings: float = 8) -> None:
    """In float16 or bfloat16 the value is within a few roundings of the exact one; the dtype stays."""
    value = mine(*inputs)
    exact = reference(*(x.double() if x.is_floating_point() else x for x in inputs))
    assert value.dtype == inputs[0].dtype
    limit = roundings * torch.finfo(value.dtype).eps
    torch.testing.assert_close(value.double(), exact, rtol=limit, atol=limit * float(exact.abs().max()))


def assert_refused(kind: type[ByhandError], call: Callable, *values: object) -> None:
    """The call raises that error, in one line that carries the values."""
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert type(caught.value) is kind
    assert "\n" not in message
    for value in values:
        assert str(value) in message, f"{value!r} is not in {message!r}"
