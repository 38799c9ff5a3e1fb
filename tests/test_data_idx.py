"""The IDX reader: the real files, and every way in which a file can be wrong."""

import gzip
import hashlib
import os
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from byhand.data.idx import read_idx, write_idx
from byhand.errors import DataError

IMAGES = np.arange(5 * 28 * 28, dtype=np.uint32).reshape(5, 28, 28).astype(np.uint8)
HEADER = struct.pack(">HBBIII", 0, 8, 3, 5, 28, 28)
CONTENT = HEADER + IMAGES.tobytes()


def read(path, content, item_shape=(28, 28), max_items=10):
    path.write_bytes(content)
    return read_idx(path, item_shape, max_items, "do this")


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", ["images", "images.gz"])
def test_images_are_read_plain_or_compressed_whatever_the_name_says(tmp_path, pack, name):
    images, sha256 = read(tmp_path / name, pack(CONTENT))
    assert images.dtype == np.uint8
    assert np.array_equal(images, IMAGES)
    assert sha256 == hashlib.sha256(CONTENT).hexdigest()
    images[0, 0, 0] = 7  # torch.from_numpy wants a writable array


def test_labels_are_read_and_written_as_the_format_says(tmp_path):
    labels, _ = read(tmp_path / "labels", b"\0\0\x08\x01\0\0\0\x03\x07\x00\x09", ())
    assert labels.tolist() == [7, 0, 9]
    assert write_idx(labels) == b"\0\0\x08\x01\0\0\0\x03\x07\x00\x09"


BAD = {
    "empty": (b"", "is empty"),
    "cut within the header": (CONTENT[:10], "truncated"),
    "cut within the magic": (CONTENT[:2], "truncated"),
    "header without values": (HEADER, "more than a file of 16 bytes can hold"),
    "one value short": (CONTENT[:-1], "can hold"),
    "trailing byte": (CONTENT + b"\0", "trailing bytes"),
    "error page": (b"<!DOCTYPE html><title>404</title>", "wrong magic, starts with b'<!DO'"),
    "wrong magic": (b"\x01" + CONTENT[1:], "wrong magic"),
    "floats": (CONTENT[:2] + b"\x0d" + CONTENT[3:], "holds float32; expected an IDX file of images"),
    "unknown type": (CONTENT[:2] + b"\x55" + CONTENT[3:], "unknown type 0x55"),
    "labels in place of images": (struct.pack(">HBBI", 0, 8, 1, 9) + bytes(9), "names 1 dimensions; expected an IDX"),
    "255 dimensions": (CONTENT[:3] + b"\xff" + CONTENT[4:], "names 255 dimensions"),
    "no images": (struct.pack(">HBBIII", 0, 8, 3, 0, 28, 28), "holds no images"),
    "another size": (struct.pack(">HBBIII", 0, 8, 3, 1, 32, 32) + bytes(1024), "images of 32×32, expected 28×28"),
    "no pixels": (struct.pack(">HBBIII", 0, 8, 3, 9, 0, 28), "images of 0×28"),
    "more than the data set has": (struct.pack(">HBBIII", 0, 8, 3, 11, 28, 28) + bytes(11 * 784), "names 11 items"),
    "four billion images": (struct.pack(">HBBIII", 0, 8, 3, 2**32 - 1, 28, 28), "names 4,294,967,295 items"),
    "far too long": (CONTENT + bytes(100_000), "expected at most 7,856"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_an_error_of_one_line_that_names_it_and_what_to_do(tmp_path, case):
    content, message = BAD[case]
    with pytest.raises(DataError) as caught:
        read(tmp_path / "images", content)
    text = str(caught.value)
    assert message in text
    assert text.startswith(f"{tmp_path / 'images'}: ")
    assert text.endswith("; do this")
    assert "\n" not in text


@pytest.mark.parametrize("case", set(BAD) - {"empty", "one value short", "header without values", "far too long"})
def test_a_bad_file_is_the_same_error_when_compressed(tmp_path, case):
    content, message = BAD[case]
    with pytest.raises(DataError) as caught:
        read(tmp_path / "images.gz", gzip.compress(content))
    assert message in str(caught.value)


def test_compressed_content_that_ends_before_the_count_is_truncated(tmp_path):
    with pytest.raises(DataError, match=r"truncated: 3,935 bytes of the 3,936 that its header names"):
        read(tmp_path / "images.gz", gzip.compress(CONTENT[:-1]))
    with pytest.raises(DataError, match=r"truncated: 0 bytes"):
        read(tmp_path / "images.gz", gzip.compress(b""))


def test_damage_to_the_compression_is_named(tmp_path):
    whole = gzip.compress(CONTENT)
    flipped = bytearray(whole)
    flipped[-8] ^= 1  # the CRC
    with pytest.raises(DataError, match="CRC does not match"):
        read(tmp_path / "images.gz", bytes(flipped))
    with pytest.raises(DataError, match="gzip data end too early"):
        read(tmp_path / "images.gz", whole[:-1])
    with pytest.raises(DataError, match="trailing bytes after the end of the gzip data"):
        read(tmp_path / "images.gz", whole + b"\0")
    with pytest.raises(DataError, match="corrupt gzip data"):
        read(tmp_path / "images.gz", b"\x1f\x8bnothing of the kind")


def peak_memory(function):
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def compressed_zeros(start, num_bytes):
    deflate = zlib.compressobj(9, wbits=31)
    pieces = [deflate.compress(start)]
    pieces += [deflate.compress(bytes(1 << 20)) for _ in range(num_bytes >> 20)]
    return b"".join([*pieces, deflate.flush()])


def test_a_decompression_bomb_is_stopped_at_the_count_of_the_header(tmp_path):
    path = tmp_path / "images.gz"
    path.write_bytes(compressed_zeros(HEADER, 512 << 20))
    assert path.stat().st_size < 600_000

    def read_bomb():
        with pytest.raises(DataError, match="trailing bytes"):
            read_idx(path, (28, 28), 60_000)

    assert peak_memory(read_bomb) < 16 << 20


def test_a_bomb_with_an_honest_header_is_refused_by_what_the_data_set_has(tmp_path):
    path = tmp_path / "images.gz"
    count = (256 << 20) // 784
    path.write_bytes(compressed_zeros(struct.pack(">HBBIII", 0, 8, 3, count, 28, 28), 256 << 20))

    def read_bomb():
        with pytest.raises(DataError, match="expected at most 60,000"):
            read_idx(path, (28, 28), 60_000)

    assert peak_memory(read_bomb) < 16 << 20


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_header_that_lies_is_refused_before_anything_is_allocated(tmp_path, pack):
    path = tmp_path / "images"
    path.write_bytes(pack(struct.pack(">HBBIII", 0, 8, 3, 60_000, 28, 28) + bytes(784)))

    def read_lie():
        with pytest.raises(DataError, match="names 60,000 items, more than a file of"):
            read_idx(path, (28, 28), 60_000)

    assert peak_memory(read_lie) < 4 << 20


def test_what_is_not_a_readable_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match="is a folder"):
        read_idx(tmp_path, (28, 28), 10)
    with pytest.raises(DataError, match="No such file"):
        read_idx(tmp_path / "nothing", (28, 28), 10)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this platform has no named pipes")
def test_a_pipe_is_refused_rather_than_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="not a regular file"):
        read_idx(tmp_path / "pipe", (28, 28), 10)


def test_a_file_without_read_permission_is_an_error(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "images").write_bytes(CONTENT)
    monkeypatch.setattr("builtins.open", refuse)  # chmod does not stop root, whom containers run tests as
    with pytest.raises(DataError, match=r"cannot be read \(Permission denied\)"):
        read_idx(tmp_path / "images", (28, 28), 10)


@st.composite
def damaged_files(draw):
    """A sound file of small images, plain or gzip, with one byte flipped or the end cut off; and its shape."""
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=3, max_size=3)))
    values = draw(st.binary(min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
    content = write_idx(np.frombuffer(values, np.uint8).reshape(shape))
    if draw(st.booleans()):
        content = gzip.compress(content, mtime=0)
    place = draw(st.integers(0, len(content) - 1))
    if draw(st.booleans()):
        return shape, content[:place]
    mask = draw(st.integers(1, 255))
    return shape, content[:place] + bytes([content[place] ^ mask]) + content[place + 1 :]


@given(damaged_files())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_or_cut_file_gives_its_shape_or_a_data_error_and_nothing_else(tmp_path, case):
    shape, content = case
    try:
        values, _ = read(tmp_path / "images", content, shape[1:], shape[0])
    except DataError:
        return
    assert values.shape == shape


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_at_all_give_images_or_a_data_error(tmp_path, content):
    for start in (b"", b"\0\0\x08\x03", b"\x1f\x8b\x08\x00"):
        try:
            values, _ = read(tmp_path / "images", start + content, (2, 2), 10)
        except DataError:
            continue
        assert values.shape[1:] == (2, 2)
