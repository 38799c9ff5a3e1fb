"""Download of a data set's files: mirrors in turn, resumed, checked, put in place whole."""

import contextlib
import hashlib
import http.client
import itertools
import os
import sys
import threading
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import IO

from byhand.data.archive import unpack
from byhand.data.entry import Archive, DataFile, Entry
from byhand.data.folders import look_into
from byhand.data.idx import Truncated, content_sha256, read_idx
from byhand.data.records import read_records
from byhand.errors import DataError

Progress = Callable[[str, int, int], None]

TIMEOUT = 20.0  # seconds without a byte before a mirror counts as down
_PIECE = 1 << 18  # bytes
_RESUMES = 5  # a mirror that breaks off more often than this in one file is passed over
_ATTEMPTS = 100  # to make the folder while other processes remove it
_STALE = 24 * 3600  # seconds after which another process's part file is nobody's


class MirrorFailed(Exception):
    """One mirror did not give the file; the next may."""


def fetch(entry: Entry, folder: Path, mirrors: Sequence[str] | None = None, progress: Progress | None = None) -> Path:
    """The folder, with every file of the data set in it as published.

    The mirrors are tried in turn: those in $BYHAND_MIRROR (addresses, separated by spaces; the files lie at
    ADDRESS/NAME/FILE.gz or ADDRESS/FILE.gz), then the data set's own; `mirrors` (files at ADDRESS/FILE.gz) replaces
    both. One that is down, or answers with anything but the published file, is passed over with a warning.

    A file is written to a hidden `.part` beside its place, resumed from there after an interruption, and moved to its
    name when the sha256 of its content is right; an archive is unpacked when its own is right, and removed. Of several
    processes one downloads; the others wait and use its files.

    Args:
        progress: called with file name, bytes done, and bytes in all (the usual size where the server does not say).

    Raises:
        DataError: no mirror gave a file; the folder cannot be written; or a file that is already there differs from
            the published one, which is never overwritten and never mixed with published ones.
    """
    bases = list(mirrors) if mirrors is not None else [*_own_mirrors(entry.folder_names[0]), *entry.mirrors]
    with _exclusive(folder) as alone:
        _sweep(folder)
        lacking = _lacking(entry, folder)
        wanted: Sequence[DataFile | Archive] = lacking
        if entry.archive:
            wanted = [entry.archive] if lacking else []
        for file in wanted:
            owner = "" if alone else f".{os.getpid()}-{threading.get_ident()}"
            part = folder / f".{file.name}.gz{owner}.part"
            try:
                bases = _fetch_file(entry, file, folder, part, bases, progress)
            finally:
                if not alone:
                    _remove(part)  # nobody else would find it
    return folder


def _own_mirrors(name: str) -> Iterator[str]:
    for base in os.environ.get("BYHAND_MIRROR", "").split():
        yield f"{base.rstrip('/')}/{name}"
        yield base


def _lacking(entry: Entry, folder: Path) -> list[DataFile]:
    """The files to download: those that are not there, and those that are damaged.

    Raises:
        DataError: one that is there is whole but not the published one.
    """
    here = look_into(folder, entry)
    lacking, other = [], []
    for file in entry.files:
        path = here.paths.get(file.name)
        if path is None:
            lacking.append(file)
            continue
        try:
            read = read_idx if file.format == "idx" else read_records
            _, sha256 = read(path, file.shape[1:], file.shape[0], "move it away")
        except DataError:
            if path.is_dir():
                raise
            lacking.append(file)
        else:
            if sha256 != file.sha256:
                other.append(path.name)
    if lacking and other:
        names = ", ".join(file.name for file in lacking)
        raise DataError(
            f"{folder}: lacks {names} (not there, or damaged), and {', '.join(other)} there is not the published file, "
            f"which is never mixed with published ones; put what is lacking there, or move the folder away"
        )
    return lacking


def _fetch_file(
    entry: Entry, file: DataFile | Archive, folder: Path, part: Path, bases: list[str], progress: Progress | None
) -> list[str]:
    """The mirrors in the order to try next, the one that gave the file first."""
    failures = []
    for base in bases:
        url = f"{base.rstrip('/')}/{file.name}.gz"
        try:
            _fetch_from(url, file, part, progress)
        except MirrorFailed as reason:
            failures.append(f"{url} ({reason})")
            warnings.warn(f"{entry.name}: passed over {url}: {reason}", stacklevel=2)
            continue
        if isinstance(file, Archive):
            _put_members_in_place(part, file, entry, folder)
        else:
            _put_in_place(part, folder / f"{file.name}.gz")
        return [base, *(other for other in bases if other != base)]
    raise DataError(
        f"{entry.name}: no mirror gave {file.name}.gz: {'; '.join(failures) or 'none is known'}; try again later, "
        f"name a mirror in $BYHAND_MIRROR, or put {', '.join(f'{f.name}.gz' for f in entry.files)} into {folder}"
    )


def _fetch_from(url: str, file: DataFile | Archive, part: Path, progress: Progress | None) -> None:
    """Nothing; afterwards `part` is the published file.

    Raises:
        MirrorFailed: with `part` kept if what is in it can be resumed.
    """
    if _is_left_complete(part, file):
        return
    resumes, restarts, complete = 0, 0, False
    while not complete:
        start = _size(part)
        try:
            _transfer(url, file, part, progress)
            complete = _is_published(part, file)
        except (Truncated, MirrorFailed, OSError, http.client.HTTPException, ValueError) as error:
            broke_off = isinstance(error, Truncated | http.client.IncompleteRead | ConnectionError)
            if broke_off and _size(part) > start and resumes < _RESUMES:
                resumes += 1
                continue
            raise MirrorFailed(_reason(error)) from error
        except DataError as error:
            if isinstance(error, DiskFailed):
                raise
            _remove(part)
            if start and not restarts:  # what was there before may have come from elsewhere
                restarts += 1
                continue
            raise MirrorFailed(str(error)) from error


def _is_left_complete(part: Path, file: DataFile | Archive) -> bool:
    """Whether a process that ended just before the last step left the whole file; one that is no use is removed."""
    if not part.exists():
        return False
    try:
        return _is_published(part, file)
    except Truncated:
        return False  # to be resumed
    except DataError:
        _remove(part)
        return False


def _transfer(url: str, file: DataFile | Archive, part: Path, progress: Progress | None) -> None:
    """Nothing; afterwards all that the server sent is in `part`, after what was there if the server resumed."""
    if not url.lower().startswith(("http://", "https://")):
        raise MirrorFailed("not an http or https address")
    limit = file.num_bytes + file.num_bytes // 100 + 1024  # gzip of noise is a little longer than the noise
    start = _size(part)
    headers = {"User-Agent": "byhand", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            raise DataError("the part file is longer than the file") from None
        raise MirrorFailed(f"{error.code} {error.reason}".strip()) from None
    with response:
        resumed = response.status == HTTPStatus.PARTIAL_CONTENT
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise DataError("the server resumed at another place than it was asked to")
        if not resumed:
            start = 0
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isascii() and length.isdecimal() else 0
        if total > limit:
            raise MirrorFailed(f"offers {total:,} bytes, expected at most {limit:,}")
        piece = response.read1(_PIECE)
        if not piece and not resumed:
            raise MirrorFailed("sent nothing")
        if not resumed and not piece.startswith(b"\x1f\x8b"[: len(piece)]):
            raise MirrorFailed(f"answered with something else than gzip, starts with {piece[:15]!r}")
        with _writing(part, "ab" if resumed else "wb") as out:
            done = start
            _tell(progress, file, done, total)
            while piece:
                done += len(piece)
                if done > limit:
                    raise DataError(f"sent more than the {limit:,} bytes expected")
                _write(out, piece, part)
                _tell(progress, file, done, total)
                piece = response.read1(_PIECE)
        if done < total:
            raise http.client.IncompleteRead(b"", total - done)


def _is_published(part: Path, file: DataFile | Archive) -> bool:
    """True, if the content of the part file is the published one.

    Raises:
        Truncated: the part file ends too early.
        DataError: it is anything else.
    """
    sha256 = _archive_sha256(part, file) if isinstance(file, Archive) else content_sha256(part, file.num_bytes)
    if sha256 != file.sha256:
        raise DataError(f"not the published file: sha256 of its content {sha256[:12]}…, expected {file.sha256[:12]}…")
    return True


def _archive_sha256(part: Path, archive: Archive) -> str:
    """The sha256 of the file as it is; Truncated if it is shorter than the published archive."""
    if _size(part) < archive.num_bytes:
        raise Truncated("ends too early")
    with open(part, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reason(error: Exception) -> str:
    """Why a mirror failed, in a few words on one line."""
    reason = getattr(error, "reason", None) or error
    if isinstance(reason, TimeoutError):
        return f"no answer for {TIMEOUT:g} seconds"
    if isinstance(reason, http.client.IncompleteRead | Truncated):
        return "broke off before the end"
    text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    return " ".join(str(text).split())


def _tell(progress: Progress | None, file: DataFile | Archive, done: int, total: int) -> None:
    if progress is not None:
        progress(f"{file.name}.gz", done, total or max(file.gz_bytes, done))


class DiskFailed(DataError):
    """The folder cannot be written: no other mirror will mend that."""


def _disk_failed(path: Path, error: OSError) -> DiskFailed:
    return DiskFailed(
        f"{path.parent}: cannot be written ({error.strerror or error}); make room, or name another folder (--data-dir)"
    )


@contextlib.contextmanager
def _writing(part: Path, mode: str) -> Iterator[IO[bytes]]:
    """The part file, unbuffered: what the server sent is on disk when an interruption comes."""
    try:
        out = open(part, mode, buffering=0)  # noqa: SIM115 (it is closed below; only opening it may fail here)
    except OSError as error:
        raise _disk_failed(part, error) from error
    with out:
        yield out


def _write(out: IO[bytes], piece: bytes, part: Path) -> None:
    rest = memoryview(piece)
    try:
        while rest:
            rest = rest[out.write(rest) :]
    except OSError as error:
        _remove(part)  # on a full disk a part file only makes matters worse
        raise _disk_failed(part, error) from error


def _put_in_place(part: Path, path: Path) -> None:
    """Nothing; afterwards the file is under its name, on the disk and not only in the system's memory."""
    try:
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
        if os.name == "posix":  # elsewhere a folder cannot be opened
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        raise _disk_failed(path, error) from error


def _put_members_in_place(part: Path, archive: Archive, entry: Entry, folder: Path) -> None:
    """Nothing; afterwards the archive is gone, and those of its files that were damaged or not there are in place.

    What is sound stays, also what another data set of the same archive has there (a short test batch, for instance).
    """
    here = look_into(folder, replace(entry, files=archive.files))
    lacking = {file.name for file in _lacking(entry, folder)} | set(here.missing)
    wanted = [file for file in archive.files if file.name in lacking]
    marker = part.name.removeprefix(f".{archive.name}.gz")  # ends in .part, and is this process's own without locks
    parts = {file.name: folder / f".{file.name}{marker}" for file in wanted}
    try:
        try:
            unpack(part, archive, parts)
        except OSError as error:
            raise _disk_failed(part, error) from error
        except DataError:
            _remove(part)  # no resumption would mend it
            raise
        for file in wanted:
            _put_in_place(parts[file.name], folder / file.name)
            _remove(folder / f"{file.name}.gz")  # a damaged one, which would be found before the plain file
    finally:
        for one in parts.values():
            _remove(one)
    _remove(part)


def _sweep(folder: Path) -> None:
    """Nothing; part files of files that are complete, and those that other processes left long ago, are gone."""
    for part in folder.glob(".*.part"):
        complete = (folder / part.name[1 : -len(".part")]).exists()
        with contextlib.suppress(OSError):  # another process may have been faster
            if complete or (not part.name.endswith(".gz.part") and time.time() - part.stat().st_mtime > _STALE):
                part.unlink()


def _size(part: Path) -> int:
    try:
        return part.stat().st_size
    except FileNotFoundError:
        return 0


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


@contextlib.contextmanager
def _exclusive(folder: Path) -> Iterator[bool]:
    """True while no other process or thread downloads into this folder; False where the file system has no locks.

    The lock is the system's, so that of a killed process is free again. The folder is made if need be, and is removed
    again if nothing came into it.
    """
    lock = folder / ".lock"
    made: list[Path] = []
    for attempt in itertools.count(1):
        try:
            made += [parent for parent in (folder, *folder.parents) if not parent.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            file = open(lock, "ab")  # noqa: SIM115 (held until the lock is given back)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and attempt < _ATTEMPTS:
                continue  # a process that failed has just removed the folder that it had made
            raise _disk_failed(lock, error) from error
        alone = _acquire(file)
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(lock)):
                break
        file.close()  # its last holder has removed it: another process may hold a new one by now
    try:
        yield alone
    finally:
        if os.name == "posix":  # elsewhere an open file cannot be removed
            _remove(lock)
        file.close()
        for parent in made:
            with contextlib.suppress(OSError):
                parent.rmdir()


def _acquire(file: IO[bytes]) -> bool:
    """True when the lock is held, after waiting for it; False where there is no locking (some network file systems)."""
    if sys.platform == "win32":
        import msvcrt

        while True:
            with contextlib.suppress(OSError):  # it gives up after ten seconds
                file.seek(0)
                msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
                return True
    else:
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            return False
        return True
