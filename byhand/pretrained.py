"""Published weights, from a file or an address, into a network.

    network = byhand.models.resnet18(num_classes=10)
    print(load_weights(network, "https://download.pytorch.org/models/resnet18-f37072fd.pth"))

Files are read as untrusted: nothing in them is ever run (``byhand.runs.storage``). What is downloaded lies in the
user's cache with its sha256 beside it, and is downloaded once.
"""

import hashlib
import http.client
import os
import re
import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import SplitResult, urlsplit

from torch import nn

from byhand.data.download import TIMEOUT
from byhand.data.folders import cache_root
from byhand.errors import DataError, RunError, SettingsError
from byhand.models.weights import Loaded, state_dict_in, take_weights
from byhand.runs import storage

Progress = Callable[[str, int, int], None]

_PIECE = 1 << 18  # bytes
_LARGEST = 4 << 30  # bytes; the largest that torchvision publishes for a network of ours, VGG-19's, has 0.6
_STALE = 24 * 3600  # seconds after which another process's part file is nobody's


def load_weights(
    network: nn.Module,
    path_or_url: str | os.PathLike[str],
    *,
    sha256: str | None = None,
    progress: Progress | None = None,
) -> Loaded:
    """What was loaded, one line as text; afterwards the network has the weights, or on an error those that it had.

    Takes what torch.save wrote (.pth, .pt; also from before torch 1.6) and .safetensors, from a path or an http or
    https address. ``take_weights`` says which names are put right, and when the network keeps its own head.

    Args:
        sha256: of the file, at least its first eight digits. Files at download.pytorch.org bear those in their name,
            and are held to them without being told.
        progress: called with the file's name, bytes done, and bytes in all (0 where the server does not say).

    Raises:
        RunError: the file is missing, damaged, holds code or no weights, has another sha256, or does not fit.
        DataError: the address gave no such file, or the cache cannot be written.
        SettingsError: sha256 is none.
    """
    read = read_weights(path_or_url, sha256=sha256, progress=progress)
    return take_weights(network, read.state, read.source)


@dataclass(frozen=True)
class Weights:
    """What a file of weights holds by name, where it was found as it was named, and the sha256 of the file."""

    source: str
    sha256: str
    state: dict[str, Any]


def read_weights(
    path_or_url: str | os.PathLike[str], *, sha256: str | None = None, progress: Progress | None = None
) -> Weights:
    """The weights in a file, for no network yet; arguments and errors are those of ``load_weights``."""
    digest = _checked(sha256)
    source = os.fsdecode(path_or_url)
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", source):
        path = Path(source).expanduser()
        content = _read(path, digest)
    else:
        path = fetch_weights(source, sha256=sha256, progress=progress)
        try:
            content = _read(path, None)
        except RunError as error:
            _remove(path)
            raise RunError(f"{source}: {error}. The copy was removed: the next call downloads again") from None
    with open(path, "rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    return Weights(source, actual, state_dict_in(content, source))


def fetch_weights(url: str, *, sha256: str | None = None, progress: Progress | None = None) -> Path:
    """Where the file of this address lies in the user's cache, downloaded if it is not there.

    Raises:
        DataError: the address is not http or https, gives no weights, or others than sha256 says; no cache folder.
        SettingsError: sha256 is none.
    """
    digest, root = _checked(sha256), cache_root()
    if not re.match(r"https?://[^/]", url, re.IGNORECASE):
        raise DataError(f"{url} is not an http or https address; download the file yourself and give its path")
    if root is None:
        raise DataError(f"{url}: no home folder to download to; download the file yourself and give its path")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise DataError(f"{url} is not an address: {error}") from None
    digest = digest or _digest_in(parts)
    name = re.sub(r"[^\w.-]", "-", parts.path.rpartition("/")[2])[-100:] or "weights"
    folder = root / "weights"
    path = folder / f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{name}"  # two sites may use one name
    if path.is_file() and _has(path, digest):
        return path
    with _disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        part = folder / f".{path.name}.{secrets.token_hex(4)}.part"
        try:
            with open(part, "xb") as file:
                actual = _receive(url, name, file, progress)
                file.flush()
                os.fsync(file.fileno())
            if digest and not actual.startswith(digest):
                raise DataError(
                    f"{url}: sha256 of the file is {actual[:12]}…, expected {digest[:12]}…; it was not kept. Give the "
                    "sha256 of the file that you mean, or another address"
                )
            # First the seal: a file without one would be trusted as it is.
            storage.seal_of(path).write_text(f"{actual}  {path.name}\n", encoding="utf-8")
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    return path


def _read(path: Path, digest: str | None) -> Any:
    if digest and path.is_file() and not _has(path, digest):
        raise RunError(f"{path}: sha256 does not begin with {digest[:12]}; download it again, or give its own")
    if path.suffix.lower() == ".safetensors":
        return storage.load_weights(path)
    return storage.load(path)


def _checked(sha256: str | None) -> str | None:
    if sha256 is None:
        return None
    if not isinstance(sha256, str) or not re.fullmatch(r"[0-9a-fA-F]{8,64}", sha256):
        raise SettingsError(f"sha256={sha256!r} must be 8 to 64 hexadecimal digits, as sha256sum prints them")
    return sha256.lower()


def _digest_in(url: SplitResult) -> str | None:
    """The digits in torchvision's file names: resnet18-f37072fd.pth. Elsewhere such digits may be a date."""
    named = re.search(r"-([0-9a-f]{8,64})\.\w+$", url.path)
    return named[1] if named and url.hostname == "download.pytorch.org" else None


def _has(path: Path, digest: str | None) -> bool:
    """Whether the file has this sha256; true without one. Of a file that cannot be read the reader speaks."""
    if digest is None:
        return True
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest().startswith(digest)
    except OSError:
        return True


def _receive(url: str, name: str, file: IO[bytes], progress: Progress | None) -> str:
    """The sha256 of what the server sent, now in the file.

    Raises:
        DataError: with the address and the reason.
    """
    digest, done = hashlib.sha256(), 0
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "byhand", "Accept-Encoding": "identity"})
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            if urlsplit(response.url).scheme not in ("https", urlsplit(url).scheme.lower()):
                raise _NoFile(f"was redirected to {response.url}, which is not https")
            length = response.headers.get("Content-Length", "")
            total = int(length) if length.isascii() and length.isdecimal() else 0
            piece = response.read(_PIECE)
            if not _looks_like_weights(piece):
                raise _NoFile(f"answered with something else than weights, starts with {piece[:15]!r}")
            while piece:
                done += len(piece)
                if max(done, total) > _LARGEST:
                    raise _NoFile(f"offers {max(done, total):,} bytes, expected at most {_LARGEST:,}")
                digest.update(piece)
                with _disk_errors(Path(file.name).parent):
                    file.write(piece)
                if progress is not None:
                    progress(name, done, total)
                piece = response.read(_PIECE)
            if done < total:
                raise _NoFile(f"broke off after {done:,} of {total:,} bytes")
    except urllib.error.HTTPError as error:
        error.close()
        reason = f"{error.code} {error.reason}"
    except (_NoFile, OSError, http.client.HTTPException, ValueError) as error:
        cause = getattr(error, "reason", None) or error
        reason = f"no answer for {TIMEOUT:g} seconds" if isinstance(cause, TimeoutError) else str(cause)
        reason = reason or type(cause).__name__
    else:
        return digest.hexdigest()
    reason = " ".join(reason.split())
    raise DataError(f"{url}: {reason}; try again later, or download the file yourself and give its path")


class _NoFile(Exception):
    """The server's answer is not a file of weights."""


def _looks_like_weights(start: bytes) -> bool:
    """Whether it begins as torch.save's zip archive, as a pickle (before torch 1.6), or as safetensors."""
    return start.startswith((b"PK\x03\x04", b"\x80")) or start[8:9] == b"{"


def _sweep(folder: Path) -> None:
    """Nothing; part files that other processes left long ago are gone."""
    for part in folder.glob(".*.part"):
        with suppress(OSError):  # another process may have been faster
            if time.time() - part.stat().st_mtime > _STALE:
                part.unlink()


def _remove(path: Path) -> None:
    """Nothing; the file and its seal are gone."""
    for file in (path, storage.seal_of(path)):
        with suppress(OSError):
            file.unlink()


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written ({error.strerror or error}); make room there, or download the file yourself "
            "and give its path"
        ) from error
