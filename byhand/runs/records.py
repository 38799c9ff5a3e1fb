"""JSON as a run directory holds it: strict, UTF-8, readable; and the growing file of one record a line."""

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from byhand.errors import RunError
from byhand.runs.storage import read_sealed, seal_of, write_atomically, write_sealed


def plain(value: Any, place: str = "record") -> Any:
    """The value as JSON can hold it: tuples as lists, numbers of numpy and torch as Python's, non-finite ones as null.

    JSON has no token for a number that is not finite; Python's own NaN would make the file unreadable elsewhere.

    Raises:
        RunError: something that JSON cannot hold, named by its place.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, (str, int)):
                raise RunError(f"{place} has the key {key!r}, a {type(key).__name__}; keys must be strings")
        return {str(key): plain(item, f"{place}[{key!r}]") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{place}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return plain(value.item(), place)
    raise RunError(
        f"{place} is a {type(value).__name__}, which JSON cannot hold; give numbers, strings, lists and dicts"
    )


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """None; writes the record, indented, atomically and with its sha256 beside it.

    Raises:
        RunError: it holds something that JSON cannot, or the file cannot be written.
    """
    text = json.dumps(plain(record, path.name), indent=2, ensure_ascii=False, allow_nan=False)
    write_sealed(path, _encoded(text + "\n"))


def read_json(path: Path) -> dict[str, Any]:
    """The record in a JSON file that stands as it was written.

    Raises:
        RunError: missing, not the content whose sha256 stands beside it, or not one JSON object.
    """
    return _parsed(read_sealed(path), str(path))


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """None; adds the record as one line and brings it to the disk, or leaves the file as it was.

    Raises:
        RunError: it holds something that JSON cannot, or the file cannot be written.
    """
    line = _encoded(json.dumps(plain(record, path.name), ensure_ascii=False, allow_nan=False) + "\n")
    try:
        with open(path, "ab") as file:
            before = file.tell()
            try:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.truncate(path, before)
                raise
    except OSError as error:
        raise RunError(
            f"cannot write {path}: {error.strerror or error}; check the free space and the permissions"
        ) from None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file of one JSON object a line, none for a file that does not exist yet.

    A last line that a crash left half-written is passed over. Once the file is sealed its sha256 must match.

    Raises:
        RunError: any other line is not a JSON object, or the file is not the one that was sealed.
    """
    return _split(path)[0]


def open_lines(path: Path) -> None:
    """None; makes the file ready for more lines: without a half-written last one, and without a sha256.

    Raises:
        RunError: a whole line is damaged, or the file cannot be written.
    """
    records, whole = _split(path) if path.exists() else ([], True)
    if not whole:
        write_lines(path, records)
    try:
        seal_of(path).unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"cannot remove {seal_of(path)}: {error.strerror or error}; check the permissions") from None


def write_lines(path: Path, records: list[dict[str, Any]], sealed: bool = False) -> None:
    """None; replaces the file by these records, atomically; sealed puts its sha256 beside it: no more are to come.

    Raises:
        RunError: the file cannot be written.
    """
    lines = [json.dumps(plain(record, path.name), ensure_ascii=False, allow_nan=False) + "\n" for record in records]
    (write_sealed if sealed else write_atomically)(path, _encoded("".join(lines)))


def _split(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """The records, and whether the file ends with a whole line."""
    if not path.exists() and not seal_of(path).exists():
        return [], True
    *lines, rest = read_sealed(path, must_be_sealed=seal_of(path).exists()).split(b"\n")
    records = [_parsed(line, f"line {number} of {path}") for number, line in enumerate(lines, 1)]
    if rest:
        with suppress(RunError):
            records.append(_parsed(rest, f"the last line of {path}"))  # only its line end is missing
    return records, not rest


def _encoded(text: str) -> bytes:
    # A command line may hold bytes that are no UTF-8, which Python keeps as lone surrogates: \udc80 is JSON for one.
    return text.encode("utf-8", "backslashreplace")


def _parsed(data: bytes, place: str) -> dict[str, Any]:
    def refuse(token: str) -> None:
        raise ValueError(f"{token} is not JSON")

    try:
        record = json.loads(data.decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError):
        raise RunError(f"{place} is damaged: it is not JSON; restore it from a copy") from None
    if not isinstance(record, dict):
        raise RunError(f"{place} is damaged: it must hold one JSON object, got a {type(record).__name__}")
    return record
