"""Other libraries: LeNet-5 on MNIST, same network, optimizer, batch and pixels, an epoch each in turn."""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from byhand.bench import other_sides
from byhand.bench.conditions import Conditions
from byhand.bench.measure import alternate, clock
from byhand.bench.row import Row
from byhand.bench.trainings import first_images, next_epoch
from byhand.recipes import recipe

TITLE = "LeNet-5 on MNIST beside other libraries, an epoch"
PLAIN = "a plain DataLoader loop"


def run(conditions: Conditions) -> Iterator[Row]:
    """Ours against each peer that is installed and the plain loop, then against the best of them."""
    chosen = recipe("lenet5-mnist")
    data = conditions.load(chosen.dataset)
    preparation = chosen.plan("book").settings.preparation
    programs, loops = other_sides.load("peers"), other_sides.load("plain_loop")
    if programs is None or loops is None:
        yield Row("lenet5-mnist, an epoch against the best peer", None, note=other_sides.NOT_AT_HAND)
        return

    def made(kind: Any) -> Callable[[Any], Callable[[], Any]]:
        def make(part: Any) -> Callable[[], Any]:
            pixels = torch.cat([preparation(images) for images in part.train_images.split(1000)])
            return kind(pixels, part.train_labels).epoch

        return make

    makers: dict[str, Callable[[Any], Callable[[], Any]]] = {
        "ours": lambda part: next_epoch(chosen, part, conditions.rounds),
        PLAIN: lambda part: loops.Loop(chosen.name, part).epoch,
        **{name: made(kind) for name, kind in programs.PEERS.items()},
    }
    warm, missing = first_images(data), {}
    for name, make in makers.items():
        try:
            make(warm)()
        except ImportError as error:
            missing[name] = f'not installed ({error}); pip install "byhand[peers]"'
    times = alternate(
        {name: clock(make(data)) for name, make in makers.items() if name not in missing}, conditions.rounds
    )
    ours = times.pop("ours")
    for name, found in times.items():
        yield Row(f"lenet5-mnist, an epoch against {name}", ours, found, name)
    for name, reason in missing.items():
        yield Row(f"lenet5-mnist, an epoch against {name}", None, None, name, note=reason)
    best = min(times, key=lambda name: times[name].median)
    title = "lenet5-mnist, an epoch against the best peer"
    yield Row(title, ours, times[best], best, judged=not conditions.quick)
