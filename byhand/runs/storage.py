"""Files that are either whole or an error: atomic writing, a sha256 beside each, loading that never runs code.

    save(model.state_dict(), "model.params")            model.load_state_dict(load("model.params"))
    save(optimizer.state_dict(), "optimizer.params")    optimizer.load_state_dict(load("optimizer.params"))
    save_weights(model, "model.safetensors")            model.load_state_dict(load_weights("model.safetensors"))

How a file and its `.sha256` change together, although two files cannot be renamed at once: everything is written to
temporary files first; then `.sha256` is replaced by one that lists the new digest and the old one, then the file, then
`.sha256` by one with the new digest alone. A crash between any two of these steps leaves a file, old or new, whose
digest is listed. `sha256sum -c *.sha256` checks the same from a shell.
"""

import hashlib
import io
import os
import pickle
import pickletools
import re
import secrets
import warnings
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from byhand.errors import RunError

# Exact types: pickle stores a subclass (numpy.float64, a namedtuple) by its class, which safe loading would refuse.
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.Size, torch.dtype, torch.device)
_SEQUENCES = (list, tuple, set)
_MAPPINGS = (dict, OrderedDict, Counter)
_TENSORS = (Tensor, nn.Parameter)


def save(obj: Any, path: str | os.PathLike[str]) -> None:
    """None; writes a tensor, a state dict, or nested dicts, lists and tuples of them and of plain values.

    The format is torch.save's. The sha256 of the file goes to `PATH.sha256`. Until the new file is whole on the disk
    the old one stays.

    Raises:
        RunError: the object holds something that `load` would not load safely (the message says where), or the file
            cannot be written (no such folder, read-only, disk full); nothing half-written is left behind.
    """
    _check_loads_back(obj, "the object", ())
    buffer = io.BytesIO()
    torch.save(obj, buffer)
    write_sealed(path, buffer.getvalue())


def load(path: str | os.PathLike[str]) -> Any:
    """What `save` or `torch.save` wrote at `path`, with every tensor on the CPU; no code in the file is ever run.

    Always `torch.load(weights_only=True)`. Where `PATH.sha256` stands beside the file, its digest must match, so that
    one flipped bit anywhere is an error; without it the checksums inside the file, which cover the tensors, must match.

    Raises:
        RunError: the file is missing, damaged, not of this format, or holds code.
    """
    return _load_safely(path, must_be_sealed=False)


def save_weights(model_or_state_dict: nn.Module | Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """None; writes a model's tensors by name as safetensors, and the sha256 to `PATH.sha256`; atomic like `save`.

    Tensors that share memory are stored once for each name, so that every key of the state dict loads strictly.

    Raises:
        RunError: a value that is not a tensor, or the file cannot be written.
    """
    state: Mapping[str, Any]
    if isinstance(model_or_state_dict, nn.Module):
        state = model_or_state_dict.state_dict()
    else:
        state = model_or_state_dict
    for key, value in state.items():
        if not isinstance(value, Tensor):
            raise RunError(f"{key!r} is a {type(value).__name__}, but safetensors holds only tensors; use save for it")
    dense = {key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in state.items()}
    write_sealed(path, safetensors.torch.save(dense))


def load_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The state dict in a safetensors file, on the CPU.

    Raises:
        RunError: the file is missing, is not safetensors, or is not the one whose sha256 stands in `PATH.sha256`.
            Without that file only the header is checked: safetensors holds no checksum of its own.
    """
    return _load_weights(path, must_be_sealed=False)


def load_checkpoint(path: str | os.PathLike[str]) -> Any:
    """As `load`, for a file of a run: it must have its `.sha256`."""
    return _load_safely(path, must_be_sealed=True)


def load_run_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """As `load_weights`, for a file of a run: it must have its `.sha256`."""
    return _load_weights(path, must_be_sealed=True)


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """None; the file at `path` holds `data`, or on any failure what it held before.

    Raises:
        RunError: it cannot be written.
    """
    path = Path(path)
    with _os_errors("write", path), _staged(path) as stage:
        os.replace(stage(path, data), path)
        _sync_directory(path.parent)


def write_sealed(path: str | os.PathLike[str], data: bytes) -> None:
    """None; as `write_atomically`, with the sha256 in `PATH.sha256`; the top of this file has the order of the steps.

    Raises:
        RunError: it cannot be written.
    """
    path = Path(path)
    seal = seal_of(path)
    new = hashlib.sha256(data).hexdigest()
    with _os_errors("write", path), _staged(path) as stage:
        both = [new, *(digest for digest in _standing_digest(path) if digest != new)]
        # Whatever needs room on the disk is written here, so that a full one stops us before anything is replaced.
        staged_data = stage(path, data)
        staged_both = stage(seal, _seal_text(path, both))
        staged_new = stage(seal, _seal_text(path, [new]))
        for source, target in ((staged_both, seal), (staged_data, path), (staged_new, seal)):
            os.replace(source, target)
            _sync_directory(path.parent)


def read_sealed(path: str | os.PathLike[str], must_be_sealed: bool = True) -> bytes:
    """The bytes of a file that has the sha256 in `PATH.sha256`.

    Raises:
        RunError: the file or its `.sha256` is missing or unreadable, or the digest is another. With must_be_sealed
            False a missing `.sha256` is accepted.
    """
    path = Path(path)
    with _os_errors("read", path):
        if path.exists() and not path.is_file():
            raise RunError(f"{path} is not a file; give the path of the file itself")
        for _ in range(5):  # a training process may be replacing both files right now
            seal = _read_seal(path)
            data = path.read_bytes()
            if seal is None and not must_be_sealed:
                return data
            if seal is not None and hashlib.sha256(data).hexdigest() in _digests(seal, path, must_be_sealed):
                return data
            if seal == _read_seal(path):
                break
    if seal is None:
        raise RunError(f"{path} has no {seal_of(path).name} beside it, so its content cannot be trusted; restore it")
    if not _digests(seal, path, must_be_sealed):
        raise RunError(f"{seal_of(path)} is damaged: it must hold the sha256 of {path.name} as sha256sum writes it")
    raise RunError(f"{path} is damaged: its sha256 is not the one in {seal_of(path).name}; restore both from a copy")


def seal_of(path: Path) -> Path:
    """Where the sha256 of the file at `path` stands: `PATH.sha256`."""
    return path.with_name(path.name + ".sha256")


def sweep(folder: str | os.PathLike[str]) -> list[str]:
    """The names of the stray temporary files that a killed process left in the folder, now removed.

    Only for a folder that no other process is writing to at the moment.
    """
    removed = []
    for file in sorted(Path(folder).glob(".*.byhand-tmp")):
        with _os_errors("write", file):
            file.unlink(missing_ok=True)
        removed.append(file.name)
    return removed


def _load_safely(path: str | os.PathLike[str], must_be_sealed: bool) -> Any:
    path = Path(path)
    data = read_sealed(path, must_be_sealed)
    _check_archive(path, data, check_crc=_read_seal(path) is None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols that torch.save does not write
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # what torch raises on a file made to mislead it is not a closed list
        code = _code_named_in(error, data)
        if code:
            raise RunError(
                f"{path} holds code ({code}), which was not run; expected tensors and plain values"
            ) from None
        raise RunError(f"{path} is damaged or was not written by torch.save; nothing was loaded") from None


def _load_weights(path: str | os.PathLike[str], must_be_sealed: bool) -> dict[str, Tensor]:
    data = read_sealed(path, must_be_sealed)
    try:
        return safetensors.torch.load(data)
    except Exception:  # SafetensorError, but also KeyError and ValueError for a header that is made up
        raise RunError(f"{path} is damaged or is not a safetensors file; nothing was loaded") from None


def _check_archive(path: Path, data: bytes, check_crc: bool) -> None:
    """Nothing; refuses an archive that would unpack to more than it is, or whose parts miss their checksums.

    torch's own reader is built without the check of the zip file's CRC-32, so a flipped bit in a tensor would load.
    """
    if not data.startswith(b"PK"):
        return  # the format before torch 1.6, or no format at all: torch.load decides
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            # torch.save never compresses; a file that does may grow in memory far beyond its size.
            whole = sum(member.file_size for member in members) <= len(data)
            whole = whole and (not check_crc or archive.testzip() is None)
    except Exception:  # zipfile raises BadZipFile, EOFError, struct.error, NotImplementedError and more
        whole = False
    if not whole:
        raise RunError(f"{path} is damaged or was not written by torch.save; nothing was loaded")


def _code_named_in(error: Exception, data: bytes) -> str | None:
    """The function that the file asked to call when torch refused it, None when the refusal had another reason."""
    if "TorchScript" in str(error):
        return "a TorchScript program"
    if not isinstance(error, pickle.UnpicklingError):
        return None
    named = re.search(r"GLOBAL (\S+)", str(error))
    if named:
        return named[1]
    # torch refuses newer pickle protocols before it comes to the name; reading the opcodes runs nothing.
    strings: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(_pickle_in(data)):
            if opcode.name in ("GLOBAL", "INST"):
                return str(argument).replace(" ", ".")
            if opcode.name == "STACK_GLOBAL":
                return ".".join(strings[-2:])
            if isinstance(argument, str):
                strings.append(argument)
    except ValueError:
        pass  # the damage begins here, and no call stands before it
    return None


def _pickle_in(data: bytes) -> bytes:
    if not data.startswith(b"PK"):
        return data
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return b"".join(archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))


def _check_loads_back(obj: Any, place: str, parents: tuple[int, ...]) -> None:
    """Nothing; raises RunError for the first part of the object that safe loading would refuse, with its place."""
    if type(obj) in _PLAIN or type(obj) in _TENSORS:
        return
    if type(obj) not in _SEQUENCES + _MAPPINGS:
        kind = f"{type(obj).__module__}.{type(obj).__qualname__}"
        raise RunError(f"{place} is a {kind}, which would not load safely; {_instead(obj)}")
    if id(obj) in parents or len(parents) > 100:
        raise RunError(f"{place} is nested in itself or over 100 deep; save a flatter dict")
    parents = (*parents, id(obj))
    for key, value in obj.items() if type(obj) in _MAPPINGS else enumerate(obj):
        if type(key) not in _PLAIN:
            raise RunError(f"{place} has the key {key!r}, a {type(key).__name__}; keys must be plain values")
        _check_loads_back(value, f"{place}[{key!r}]", parents)


def _instead(obj: Any) -> str:
    if hasattr(obj, "state_dict"):
        return "save its state_dict()"
    if hasattr(obj, "__array__"):
        return "save torch.as_tensor(...) of it, or .item() of a single number"
    return "save tensors and plain values (dict, list, tuple, str, numbers, None)"


def _seal_text(path: Path, digests: list[str]) -> bytes:
    return "".join(f"{digest}  {path.name}\n" for digest in digests).encode()


def _read_seal(path: Path) -> bytes | None:
    try:
        return seal_of(path).read_bytes()
    except FileNotFoundError:
        return None


def _digests(seal: bytes, path: Path, strict_name: bool = True) -> list[str]:
    """The one or two digests in a `.sha256`, none when it is not exactly as `_seal_text` writes it.

    Outside a run directory people rename files, so that there the name in it may be another.
    """
    name = re.escape(path.name.encode()) if strict_name else rb"[^\n]+"
    lines = re.fullmatch(rb"([0-9a-f]{64})  %b\n(?:([0-9a-f]{64})  %b\n)?" % (name, name), seal)
    return [digest.decode() for digest in lines.groups() if digest] if lines else []


def _standing_digest(path: Path) -> list[str]:
    """The digest of the file that stands at `path`, as a list of one, or of none where there is no good file.

    The one in its `.sha256` is taken without reading the file; of two, the one that the file has.
    """
    if not path.is_file():
        return []
    seal = _read_seal(path)
    listed = _digests(seal, path, strict_name=False) if seal is not None else []
    if len(listed) == 1:
        return listed
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    return [actual] if seal is None or actual in listed else []


@contextmanager
def _staged(path: Path) -> Iterator[Any]:
    """A function (target, data) -> temporary file in the target's folder, synced; those still there at the end go."""
    written: list[Path] = []

    def stage(target: Path, data: bytes) -> Path:
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.byhand-tmp")
        with open(temporary, "xb") as file:
            written.append(temporary)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return temporary

    try:
        yield stage
    finally:
        for temporary in written:
            temporary.unlink(missing_ok=True)


def _sync_directory(folder: Path) -> None:
    """Nothing; a rename survives a power cut only once its directory is on the disk."""
    if os.name == "nt":
        return  # Windows cannot open a directory and keeps the order of renames by itself
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _os_errors(doing: str, path: Path) -> Iterator[None]:
    """Turns what the operating system refuses into one line that names the file and says what to do."""
    try:
        yield
    except FileNotFoundError:
        missing = path if doing == "read" else path.parent
        hint = "check the path" if doing == "read" else "make the folder first"
        raise RunError(f"cannot {doing} {path}: {missing} does not exist; {hint}") from None
    except OSError as error:
        hint = "check the free space and the permissions" if doing == "write" else "check the path"
        raise RunError(f"cannot {doing} {path}: {error.strerror or error}; {hint}") from None
