"""A training step in a user's own loop, by library and by hand, and how near it comes to what the machine allows."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from math import prod
from typing import Any

import torch
from torch import Tensor

from byhand import nn, optim
from byhand.bench.conditions import Conditions
from byhand.bench.machine import limits
from byhand.bench.measure import Side, Times, alternate, median_of
from byhand.bench.row import Row, amount
from byhand.bench.trainings import first_images, new_state, next_epoch
from byhand.models.cost import layer_table
from byhand.recipes import Recipe, recipe
from byhand.training.settings import Settings

TITLE = "A training step, batch 256: by_hand(model) with byhand's loss and optimizer against torch's"
RECIPES = ("softmax-fashion", "mlp-fashion", "lenet5-mnist")
NUM_BATCHES = 64  # enough that a batch comes from memory, as in training, and not from a cache
FLOAT = 4  # bytes


@dataclass(frozen=True)
class Cost:
    """Floating-point operations and bytes moved."""

    operations: int
    bytes: int


def cost_of_step(model: torch.nn.Module, input_shape: Sequence[int], batch_size: int, optimizer: str) -> Cost:
    """The least that a training step has to compute and to move, for layers that follow one another.

    Operations, two for a multiply-add: the forward product of each layer, the gradient of its weight, and, but for the
    first layer, the gradient of its input: 2 B (3 Σ m − m₁) with m multiply-adds of a layer for one example.

    Bytes, float32: each of these three products reads its two factors and writes its result once; the optimizer reads
    and writes each weight, reads its gradient (SGD), and reads and writes two moments (Adam, AdamW). Activations,
    pooling and the loss count nothing, as they could be done in passing.
    """
    operations = moved = 0
    held = FLOAT * prod(input_shape)  # bytes of one example before the layer
    first = True
    for row in layer_table(model, input_shape):
        if row.multiply_adds:
            products = 2 if first else 3
            operations += 2 * batch_size * row.multiply_adds * products
            moved += products * (batch_size * (held + row.output_bytes) + row.parameter_bytes)
            first = False
        moved += row.parameter_bytes * (3 if optimizer == "sgd" else 7)
        held = row.output_bytes
    return Cost(operations, moved)


def cost_of_preparing(num_pixels: int, num_inputs: int, batch_size: int) -> Cost:
    """What the trainer adds: each uint8 pixel is read once, each float written once."""
    return Cost(0, batch_size * (num_pixels + FLOAT * num_inputs))


def run(conditions: Conditions) -> Iterator[Row]:
    """For each network: by hand against by library, and the share of the limit of both and of the trainer's step."""
    for name in RECIPES:
        yield from _rows(recipe(name), conditions)


def _rows(chosen: Recipe, conditions: Conditions) -> Iterator[Row]:
    settings = chosen.plan("book").settings
    part = first_images(conditions.load(chosen.dataset), NUM_BATCHES * settings.batch_size)
    images, labels = part.train_images, part.train_labels
    inputs = torch.cat([settings.preparation(some) for some in images.split(1000)])
    batches = list(zip(inputs.split(settings.batch_size), labels.split(settings.batch_size), strict=True))
    model = new_state(chosen, "book").library
    sides: dict[str, Side] = {
        "hand": _steps(own_loop(nn.by_hand(copy.deepcopy(model)), settings, by_hand=True), batches, conditions.calls),
        "library": _steps(own_loop(model, settings, by_hand=False), batches, conditions.calls),
    }
    epoch = next_epoch(chosen, part, conditions.rounds + 1)
    sides["trainer"] = lambda: epoch().seconds / len(batches)
    alternate(sides, 1)  # warm
    times = alternate(sides, conditions.rounds)
    yield Row(
        f"{chosen.network}, a step by hand",
        times["hand"],
        times["library"],
        f"torch.nn, {settings.optimizer}",
        judged=not conditions.quick,
    )
    step_cost = cost_of_step(model, inputs.shape[1:], settings.batch_size, settings.optimizer)
    added = cost_of_preparing(images[0].numel(), inputs[0].numel(), settings.batch_size)
    whole = Cost(step_cost.operations, step_cost.bytes + added.bytes)
    yield _share(f"{chosen.network}, share of the limit", "hand", times["hand"], step_cost, conditions)
    yield _share(
        f"{chosen.network}, share of the limit, by library", "library", times["library"], step_cost, conditions
    )
    yield _share(f"{chosen.network}, share of the limit, trainer", "trainer", times["trainer"], whole, conditions)


def _steps(step: Callable[[Tensor, Tensor], Tensor], batches: list[tuple[Tensor, Tensor]], calls: int) -> Side:
    """A side of so many steps, which goes on through the batches where the round before left them."""
    following = cycle(batches)
    return median_of(lambda: step(*next(following)), calls)


def own_loop(model: torch.nn.Module, settings: Settings, *, by_hand: bool) -> Callable[[Tensor, Tensor], Tensor]:
    """A step as a user writes it, with the loss and the optimizer of one hand; it gives the loss before the step."""
    family: Any = optim if by_hand else torch.optim
    loss_of = nn.CrossEntropyLoss() if by_hand else torch.nn.CrossEntropyLoss()
    if settings.optimizer == "sgd":
        optimizer = family.SGD(model.parameters(), lr=settings.lr)
    else:
        optimizer = family.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)

    def step(X: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model(X), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def _share(name: str, side: str, times: Times, cost: Cost, conditions: Conditions) -> Row:
    """The share of the limit that each round reached."""
    machine = limits(conditions)
    least = machine.seconds(cost.operations, cost.bytes)
    bound = "products" if cost.operations / machine.operations >= cost.bytes / machine.bytes else "memory"
    note = (
        f"{cost.operations / 1e6:,.1f} M operations, {cost.bytes / 1e6:,.2f} MB: at least {amount(least, 's')} "
        f"(bound by {bound}); {side}: {amount(times.median, 's')}"
    )
    shares = Times(tuple(least / one for one in times.rounds))
    return Row(name, shares, unit="share", note=note, judged=not conditions.quick)
