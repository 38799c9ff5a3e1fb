"""`byhand prove`: the hand-written network beside torch's, number by number."""

from typing import Annotated, Any

import typer

from byhand.cli.options import Json
from byhand.cli.output import emit

BATCH_SIZE = 16  # from here on operations on images go their faster ways (byhand.ops.layout)
LARGEST_PROVEN = 72  # pixels a side; 16 such images cost less than two of 224
DETECTOR_INPUT = (2, 3, 64, 64)  # the least that every pyramid takes; the second stage sees two boxes of each image


def prove(
    network: Annotated[
        str | None,
        typer.Argument(help="A name from `byhand list networks`, or all; unless given, chapters 3 to 6."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Prove that a network by hand equals torch's: output, gradients, statistics, and the weights after three steps.

    It sees 16 random examples; networks made for 224 pixels see images of 72, the least that all of them take. Of a
    detector all layers see two images of 64 pixels and two boxes of each, R-CNN's two crops. Exits with 1 where the
    largest difference in float64 is not under 1e-9.
    """
    from byhand import models

    several = {None: models.FIRST, "all": (*models.NETWORKS, *models.DETECTORS)}
    chosen = several[network] if network in several else (models.named(str(network)),)

    import torch

    from byhand import proof

    passed = True
    for entry in chosen:
        generator = torch.Generator().manual_seed(0)
        model: Any = entry.build()
        shape: tuple[int, ...] = DETECTOR_INPUT
        if entry in models.DETECTORS:
            from byhand.models.detector_layers import layers_of

            model, one = layers_of(model, DETECTOR_INPUT[1:])
            shape = (DETECTOR_INPUT[0], *one)
        else:
            channels, *size = entry.input_shape
            shape = (BATCH_SIZE, channels, *(min(side, LARGEST_PROVEN) for side in size))
        x = torch.randn(*shape, generator=generator, dtype=torch.float64)
        found = proof.prove(model, x, name=entry.name)
        passed &= found.passed
        if as_json:
            numbers = {
                key: getattr(found, key) for key in ("network", "output", "gradients", "buffers", "steps", "passed")
            }
            emit(numbers | {"verdict": found.verdict})
        else:
            typer.echo(f"{found}\n")
    if not passed:
        raise typer.Exit(1)
