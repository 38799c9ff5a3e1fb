"""What byhand raises: each message names the thing, its value, what was expected, and what to do."""

import difflib
from collections.abc import Iterable

MOST_NAMED = 20  # names in one message


class ByhandError(Exception):
    """Anything wrong that the caller can mend; the command line prints it in one line and exits with 2."""


class SettingsError(ByhandError, ValueError):
    """A setting outside its range, or two that contradict each other."""


class ShapeError(ByhandError, ValueError, RuntimeError):
    """Tensors that do not fit together; a RuntimeError too, because that is what torch raises there."""


class TargetError(ByhandError, ValueError, IndexError):
    """Labels outside the classes; an IndexError too, because that is what torch raises there."""


class UnknownName(ByhandError, LookupError):
    """A name of a recipe, network, data set, plan or picture that does not exist."""


class UnknownLayer(ByhandError, TypeError):
    """A layer or a functional call that has no hand-written twin."""


class DataError(ByhandError):
    """A data file that is missing, damaged, or not what its name says."""


class RunError(ByhandError):
    """A run directory that is missing, incomplete, damaged, or of another network."""


class NonFiniteLoss(ByhandError):
    """Training met a loss that is infinite, not a number or beyond return; it stopped before the optimizer step."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UnknownName:
    """The error for a name that is not among the known ones, with the nearest of them as a suggestion."""
    known = sorted(known)
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)  # every name here is in small letters
    some = (
        ", ".join(known)
        if len(known) <= MOST_NAMED
        else f"{', '.join(known[:MOST_NAMED])} and {len(known) - MOST_NAMED} more"
    )
    hint = f"did you mean {near[0]!r}?" if near else f"known: {some}"
    return UnknownName(f"unknown {kind} {name!r}; {hint}")
