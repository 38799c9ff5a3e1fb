"""Where the files of a data set are looked for, and where a download goes."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from byhand.data.entry import Entry
from byhand.errors import DataError

DEBIAN_ROOT = Path("/usr/share/datasets")  # where Debian's package dataset-fashion-mnist puts its files


@dataclass(frozen=True)
class Found:
    """A folder with files of a data set: file name without `.gz` -> path, and the names that are not there."""

    folder: Path
    paths: Mapping[str, Path]
    missing: tuple[str, ...]


def cache_root() -> Path | None:
    """The user's cache folder for byhand, as the platform has it; None where there is no home.

    $XDG_CACHE_HOME or ~/.cache on Linux, ~/Library/Caches on macOS, %LOCALAPPDATA% on Windows; in it `byhand`.
    """
    home = os.path.expanduser("~")
    if sys.platform == "win32":
        parent = os.environ.get("LOCALAPPDATA") or os.path.join(home, "AppData", "Local")
    elif sys.platform == "darwin":
        parent = os.path.join(home, "Library", "Caches")
    else:
        parent = os.environ.get("XDG_CACHE_HOME", "")
        if not os.path.isabs(parent):  # the XDG specification: a relative path is to be ignored
            parent = os.path.join(home, ".cache")
    return Path(parent) / "byhand" if os.path.isabs(parent) else None


def roots(data_dir: str | os.PathLike[str] | None = None) -> list[Path]:
    """The folders to look in, in order: `data_dir`, $BYHAND_DATA, the user's cache, Debian's folder for data sets.

    Raises:
        DataError: `data_dir` or $BYHAND_DATA is a file.
    """
    named = [data_dir, os.environ.get("BYHAND_DATA")]
    paths = [Path(os.path.abspath(os.path.expanduser(path))) for path in named if path]
    for path in paths:
        if os.path.isfile(path):  # false, not an error, for a path that may not be looked into
            raise DataError(f"{path} is a file; give the folder of the data sets with --data-dir or $BYHAND_DATA")
    cache = cache_root()
    return list(dict.fromkeys([*paths, *([cache] if cache else []), DEBIAN_ROOT]))  # each once, in order


def target_folder(entry: Entry, data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Where a download goes: NAME, or the first of the entry's folders, in `data_dir`, $BYHAND_DATA or the cache."""
    root = roots(data_dir)[0]
    if root == DEBIAN_ROOT:
        raise DataError(f"{entry.name}: no home folder to download to; name a folder with --data-dir or $BYHAND_DATA")
    own = entry.folder_names[0]
    return root if root.name == own else root / own


def find(entry: Entry, searched: list[Path]) -> Found | None:
    """The first folder that has files of the data set, complete or not; None if there is none.

    In each root: ROOT/NAME or the entry's own folders, torchvision's ROOT/<its name>/raw, and ROOT itself if its name
    is one of them. Within one root a complete folder goes before an incomplete one; files of two folders are never
    mixed.

    Raises:
        DataError: a folder cannot be looked into.
    """
    for root in searched:
        folders = [root / name for name in entry.folder_names]
        if entry.torchvision_name:
            folders.append(root / entry.torchvision_name / "raw")
        if root.name in entry.folder_names:
            folders.append(root)
        found = [here for folder in folders if (here := look_into(folder, entry)).paths]
        if found:
            return min(found, key=lambda here: bool(here.missing))  # min keeps the order among equals
    return None


def look_into(folder: Path, entry: Entry) -> Found:
    """Which files of the data set this folder has, each as `.gz` or, if there is none, plain."""
    paths = {}
    for file in entry.files:
        for path in (folder / f"{file.name}.gz", folder / file.name):
            if exists(path):
                paths[file.name] = path
                break
    return Found(folder, paths, tuple(file.name for file in entry.files if file.name not in paths))


def exists(path: Path) -> bool:
    """Whether there is something by this name; a folder that forbids to look is an error, not an absence."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise DataError(f"{path}: cannot be looked at ({error.strerror or error}); check the permissions") from error
    return True
