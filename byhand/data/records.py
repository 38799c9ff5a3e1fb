"""Files of equal records one after another, without a header, gzip or plain, read as untrusted input."""

import hashlib
import os
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np

from byhand.data.idx import content_of, open_file
from byhand.errors import DataError


def read_records(path: Path, item_shape: tuple[int, ...], max_items: int, remedy: str = "") -> tuple[np.ndarray, str]:
    """The records of a file, uint8 (N, *item_shape) and writable, and the sha256 of its whole content.

    A record is prod(item_shape) bytes. Whether the file is gzip is seen from its first bytes, as in `read_idx`; no more
    than the bytes of `max_items` records and one piece are ever held.

    Raises:
        DataError: the file is missing, unreadable, empty, corrupt, too long, or no whole number of records; `remedy`
            says at the end of the message what the user can do.
    """
    try:
        with open_file(path) as file:
            return _read(file, item_shape, max_items)
    except (DataError, OSError) as error:
        what = f"cannot be read ({error.strerror or error})" if isinstance(error, OSError) else str(error)
        raise DataError(f"{path}: {what}" + (f"; {remedy}" if remedy else "")) from error


def _read(file: BinaryIO, item_shape: tuple[int, ...], max_items: int) -> tuple[np.ndarray, str]:
    record = prod(item_shape)
    file_bytes, max_bytes = os.fstat(file.fileno()).st_size, record * max_items
    if file_bytes > max_bytes + max_bytes // 100 + 1024:  # gzip of noise is a little longer than the noise
        raise DataError(f"is {file_bytes:,} bytes, expected at most {max_bytes:,}")
    content = bytearray()
    for piece in content_of(file):
        content += piece
        if len(content) > max_bytes:
            raise DataError(f"holds more than {max_items:,} records of {record:,} bytes")
    count, rest = divmod(len(content), record)
    if rest or not count:
        raise DataError(f"holds {len(content):,} bytes, expected a multiple of {record:,}; it was cut, or is another")
    return np.frombuffer(content, np.uint8).reshape(count, *item_shape), hashlib.sha256(content).hexdigest()
