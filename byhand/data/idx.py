"""The IDX format, gzip or plain, read as untrusted input.

An IDX file is two zero bytes, one byte for the type of its values (8: unsigned bytes), one for the number of
dimensions, each dimension as a big-endian 32-bit count, then the values (LeCun, "The MNIST database", file formats).
"""

import hashlib
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np

from byhand.errors import DataError

_PIECE = 1 << 20  # bytes read or decompressed at once
_DEFLATE_RATIO = 1032  # the most that deflate can expand: 258 bytes from 2 bits
_GZIP = b"\x1f\x8b"
_TYPES = {0x08: "unsigned bytes", 0x09: "signed bytes", 0x0B: "int16", 0x0C: "int32", 0x0D: "float32", 0x0E: "float64"}


class Truncated(DataError):
    """A gzip file that ends before its content does."""


def read_idx(path: Path, item_shape: tuple[int, ...], max_items: int, remedy: str = "") -> tuple[np.ndarray, str]:
    """The values of an IDX file of unsigned bytes, (N, *item_shape) and writable, and the sha256 of its whole content.

    Whether the file is gzip is seen from its first bytes, not from its name: browsers unpack a `.gz` and keep the name.
    Sizes are checked against the header before anything is allocated, and memory stays under the size that the
    header names plus one piece, so neither a lying header nor a decompression bomb is ever held.

    Args:
        item_shape: shape of one item that the header must name; () for labels, (28, 28) for images.
        max_items: the most items that the header may name; at least one is needed.
        remedy: what the user can do, for the end of the error message.

    Raises:
        DataError: the file is missing, unreadable, empty, truncated, too long, corrupt, or of another type or shape.
    """
    try:
        with open_file(path) as file:
            values, digest = _read(file, item_shape, max_items)
    except (DataError, OSError) as error:
        what = f"cannot be read ({error.strerror or error})" if isinstance(error, OSError) else str(error)
        raise DataError(f"{path}: {what}" + (f"; {remedy}" if remedy else "")) from error
    return values, digest


def content_sha256(path: Path, max_bytes: int) -> str:
    """The sha256 of the file's content, decompressed where it is gzip, of which at most `max_bytes` are read.

    Raises:
        DataError: as `read_idx`, with no word about the format inside; `Truncated` if gzip ends too early.
    """
    digest, num_bytes = hashlib.sha256(), 0
    with open_file(path) as file:
        for piece in content_of(file):
            num_bytes += len(piece)
            if num_bytes > max_bytes:
                raise DataError(f"holds more than the {max_bytes:,} bytes expected")
            digest.update(piece)
    return digest.hexdigest()


def write_idx(values: np.ndarray) -> bytes:
    """The content of an IDX file that holds these unsigned bytes."""
    return struct.pack(f">HBB{values.ndim}I", 0, 0x08, values.ndim, *values.shape) + values.astype(np.uint8).tobytes()


def open_file(path: Path) -> BinaryIO:
    """The file, if it is a regular one: opening a pipe would wait for ever."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise DataError(f"is {'a folder' if stat.S_ISDIR(mode) else 'not a regular file'}, expected a data file")
    return open(path, "rb")


def _read(file: BinaryIO, item_shape: tuple[int, ...], max_items: int) -> tuple[np.ndarray, str]:
    file_bytes = os.fstat(file.fileno()).st_size
    header_bytes = 4 + 4 * (1 + len(item_shape))
    max_bytes = header_bytes + max_items * prod(item_shape)
    if file_bytes > max_bytes + max_bytes // 100 + 1024:  # gzip of noise is a little longer than the noise
        raise DataError(f"is {file_bytes:,} bytes, expected at most {max_bytes:,}")
    room = file_bytes * (_DEFLATE_RATIO if _is_gzip(file) else 1)

    content = bytearray()
    count, expected = 0, header_bytes
    for piece in content_of(file):
        content += piece
        if not count and len(content) >= header_bytes:
            count = _count_items(bytes(content[:header_bytes]), item_shape, max_items)
            expected = header_bytes + count * prod(item_shape)
            if expected > room:
                raise DataError(f"its header names {count:,} items, more than a file of {file_bytes:,} bytes can hold")
        if count and len(content) > expected:
            raise DataError(f"trailing bytes after the {count:,} items that its header names")
    if not count:
        if len(content) >= 4:
            _check_magic(bytes(content[:4]), item_shape)
        raise DataError(f"is truncated: {len(content)} bytes, an IDX header of {header_bytes} was expected")
    if len(content) < expected:
        raise DataError(f"is truncated: {len(content):,} bytes of the {expected:,} that its header names")
    values = np.frombuffer(content, np.uint8, offset=header_bytes).reshape(count, *item_shape)
    return values, hashlib.sha256(content).hexdigest()


def _is_gzip(file: BinaryIO) -> bool:
    start = file.read(2)
    file.seek(0)
    if not start:
        raise DataError("is empty, expected a data file")
    return start == _GZIP


def content_of(file: BinaryIO) -> Iterator[bytes]:
    """The content in pieces of at most one mebibyte; the CRC and the length at the end of gzip are checked."""
    if not _is_gzip(file):
        while piece := file.read(_PIECE):
            yield piece
        return
    inflate = zlib.decompressobj(wbits=31)  # 31: with gzip's header and trailer, which carries the CRC
    data = file.read(_PIECE)
    while not inflate.eof:
        if not data:
            raise Truncated("is truncated: gzip data end too early")
        try:
            piece = inflate.decompress(data, _PIECE)
        except zlib.error as error:
            what = "CRC does not match" if "data check" in str(error) else str(error).split(": ")[-1]
            raise DataError(f"corrupt gzip data: {what}") from None
        if piece:
            yield piece
        data = inflate.unconsumed_tail or (b"" if inflate.eof else file.read(_PIECE))
    if inflate.unused_data or file.read(1):
        raise DataError("trailing bytes after the end of the gzip data")


def _check_magic(magic: bytes, item_shape: tuple[int, ...]) -> None:
    num_dims = 1 + len(item_shape)
    expected = f"expected an IDX file of {'images' if item_shape else 'labels'} (00 00 08 {num_dims:02x})"
    if magic[:2] != b"\0\0":
        raise DataError(f"wrong magic, starts with {magic!r}; {expected}")
    if magic[2] != 0x08:
        raise DataError(f"holds {_TYPES.get(magic[2], f'values of unknown type 0x{magic[2]:02x}')}; {expected}")
    if magic[3] != num_dims:
        raise DataError(f"wrong magic, names {magic[3]} dimensions; {expected}")


def _count_items(header: bytes, item_shape: tuple[int, ...], max_items: int) -> int:
    """The number of items that the header names, if the rest of the header is as expected."""
    _check_magic(header[:4], item_shape)
    count, *shape = struct.unpack(f">{1 + len(item_shape)}I", header[4:])
    if tuple(shape) != item_shape:
        raise DataError(f"holds images of {_size(shape)}, expected {_size(item_shape)}")
    if count == 0:
        raise DataError(f"holds no {'images' if item_shape else 'labels'}, expected up to {max_items:,}")
    if count > max_items:
        raise DataError(f"its header names {count:,} items, expected at most {max_items:,}")
    return count


def _size(shape: tuple[int, ...] | list[int]) -> str:
    return "×".join(str(n) for n in shape)
