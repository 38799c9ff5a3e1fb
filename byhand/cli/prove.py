"""`byhand prove`: the hand-written network beside torch's, number by number."""

from typing import Annotated

import typer

from byhand.cli.options import Json
from byhand.cli.output import emit


def prove(
    network: Annotated[
        str | None,
        typer.Argument(help="A name from `byhand list networks`, or all; unless given, chapters 3 to 6."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Prove that a network by hand equals torch's: output, gradients, statistics, and the weights after three steps.

    Exits with 1 where the largest difference in float64 is not under 1e-9.
    """
    from byhand import models

    several = {None: models.FIRST, "all": models.NETWORKS}
    chosen = several[network] if network in several else (models.network(str(network)),)

    import torch

    from byhand import proof

    passed = True
    for entry in chosen:
        generator = torch.Generator().manual_seed(0)
        batch_size = 16 if max(entry.input_shape) <= 32 or len(entry.input_shape) == 1 else 2  # of 224 px two are a lot
        x = torch.randn(batch_size, *entry.input_shape, generator=generator, dtype=torch.float64)
        found = proof.prove(entry.build(), x, name=entry.name)
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
