"""Settings of a training, as the command line gives them."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

OWN = "Your own images, or any network with any data"  # a heading of --help
TUNE = "Fine-tuning"  # another

Network = Annotated[
    str | None, typer.Option(help="In place of a recipe: a name from `byhand list networks`.", rich_help_panel=OWN)
]
DataSet = Annotated[
    str | None,
    typer.Option(
        help="Its data: a name from `byhand list data`, or image-folder:PATH with a folder of pictures a class; for "
        "detectors digits-scene, voc-folder:PATH or coco-json:PATH.",
        rich_help_panel=OWN,
    ),
]
Size = Annotated[
    int | None,
    typer.Option(
        help="Bring images to so many pixels a side; for detectors the shorter, the longer at most 4/3.",
        rich_help_panel=OWN,
    ),
]
From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="WEIGHTS",
        help="Start from these, a path or an address of .pth or .safetensors; other classes get a new head.",
        rich_help_panel=TUNE,
    ),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any other setting, as often as needed: --set mixup=0.2 --set patience=5. "
        "byhand.training.settings.Settings says what they do.",
    ),
]


def changes_of(
    recipe: str | None,
    plan: str,
    network: str | None,
    dataset: str | None,
    size: int | None,
    given: Mapping[str, Any],
    assignments: Sequence[str] | None,
) -> dict[str, Any]:
    """What replaces the settings of the plan: what was given (not None), and what ``--set`` says.

    A wrong name or value is told here, before torch is even imported. Raises SettingsError, or UnknownName.
    """
    from byhand.errors import SettingsError
    from byhand.recipes import DEFAULT
    from byhand.recipes import recipe as named
    from byhand.recipes.own import WHATEVER, check_names
    from byhand.training.settings import from_text

    check_names(recipe, network, dataset, plan, size)
    changes = {name: value for name, value in given.items() if value is not None}
    pairs = [from_text(text) for text in assignments or ()]
    assigned = dict(pairs)
    if len(assigned) < len(pairs):
        raise SettingsError(f"--set gives {', '.join(name for name, _ in pairs)}; give each of them once")
    twice = [name for name in assigned if name in changes and name != "seed"]  # which has a value unless given
    if twice:
        raise SettingsError(f"{twice[0]} is given by --{twice[0].replace('_', '-')} and by --set; give one of them")
    changes |= assigned
    planned = named(recipe or DEFAULT.name).plan(plan).settings if network is None else WHATEVER
    planned.replace(**changes)
    return changes
