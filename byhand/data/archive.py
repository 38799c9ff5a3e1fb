"""Taking the files of a data set out of its published archive, without trusting what the archive says."""

import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from byhand.data.entry import Archive
from byhand.errors import DataError

_PIECE = 1 << 20  # bytes


def unpack(path: Path, archive: Archive, places: Mapping[str, Path]) -> None:
    """Nothing; afterwards each file of the archive that `places` names is where it says (file name -> path).

    The archive is read once from its beginning to its end, member by member. A member never says where it goes: only
    regular files by a name of `archive.files`, in the archive's own folder and of the size to be expected, are read,
    and of them only what `places` asks for is written. Other files in that folder (its readme) are passed over.

    Raises:
        DataError: the file is no such archive, a member lies outside of the archive's folder, is no regular file or of
            another size, or files are lacking.
        OSError: a file cannot be written.
    """
    known = {f"{archive.folder}/{file.name}": file for file in archive.files}
    seen = set()
    try:
        with tarfile.open(path, "r|gz") as tar:
            for member in tar:
                name = member.name.removeprefix("./")
                _check_inside(name, archive)
                file = known.get(name)
                if file is None:
                    continue
                if not member.isreg() or member.size != file.num_bytes or name in seen:
                    raise DataError(
                        f"{archive.name}.gz: holds {name} as something else than one file of {file.num_bytes:,} bytes"
                    )
                seen.add(name)
                if file.name in places:
                    _write(tar, member, places[file.name])
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(f"{archive.name}.gz: is no sound archive ({' '.join(str(error).split())})") from error
    if lacking := sorted(set(known) - seen):
        raise DataError(f"{archive.name}.gz: lacks {', '.join(lacking)}")


def _check_inside(name: str, archive: Archive) -> None:
    parts = name.rstrip("/").split("/")
    if parts[0] != archive.folder or ".." in parts:
        raise DataError(f"{archive.name}.gz: holds {name[:80]!r}, outside of {archive.folder}; nothing of it was used")


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, place: Path) -> None:
    content = tar.extractfile(member)
    assert content is not None  # it is a regular file
    with open(place, "wb") as out:
        while piece := content.read(_PIECE):
            out.write(piece)
