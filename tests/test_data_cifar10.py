"""CIFAR-10: its records, where they are found, every way in which they can be wrong, the download of the archive."""

import gzip
import hashlib
import io
import os
import re
import tarfile
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_data_download import Server, send_file

from byhand import data
from byhand.data import folders
from byhand.data.archive import unpack
from byhand.data.arrays import statistics
from byhand.data.cifar10 import CIFAR10, CIFAR10_BATCH5
from byhand.data.download import fetch
from byhand.errors import DataError, ShapeError

REAL_DATA = os.environ.get("BYHAND_DATA")  # read before the fixture below hides it
needs_real_data = pytest.mark.skipif(
    not (REAL_DATA and folders.find(CIFAR10, [folders.Path(REAL_DATA)])),
    reason="BYHAND_DATA names no folder with CIFAR-10",
)

NAMES = tuple(file.name for file in CIFAR10.files)
TRAIN, TEST = NAMES[:5], NAMES[5]
INSIDE = "cifar-10-batches-bin"


def batch(num_records: int, seed: int) -> bytes:
    """Noise that does not compress, with labels 0, 1, 2, ..."""
    records = np.random.default_rng(seed).integers(0, 256, (num_records, 3073), dtype=np.uint8)
    records[:, 0] = np.arange(num_records) % 10
    return records.tobytes()


CONTENTS = {name: batch(4, seed) for seed, name in enumerate(NAMES)}


def tar_of(*members: tuple[tarfile.TarInfo | str, bytes]) -> bytes:
    """A .tar.gz of these members: (name or whole description, content)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for member, content in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def directory(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE
    return info


README = (f"{INSIDE}/readme.html", b"<html>")
ARCHIVE = tar_of((directory(INSIDE), b""), README, *((f"{INSIDE}/{name}", CONTENTS[name]) for name in NAMES))


def tiny(archive: bytes = ARCHIVE, mirrors: tuple[str, ...] = ()):
    """Both entries of CIFAR-10, of four images a batch, published in this archive."""
    files = tuple(
        replace(file, shape=(4, 3073), sha256=hashlib.sha256(CONTENTS[file.name]).hexdigest()) for file in CIFAR10.files
    )
    published = replace(
        CIFAR10.archive, sha256=hashlib.sha256(archive).hexdigest(), num_bytes=len(archive), files=files
    )
    return tuple(
        replace(entry, files=files[: len(entry.files)], archive=published, mirrors=mirrors)
        for entry in (CIFAR10, CIFAR10_BATCH5)
    )


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """No user's files, mirrors or proxy; and the two data sets are the tiny ones, which nobody publishes."""
    for name in ("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    for name in ("BYHAND_DATA", "BYHAND_MIRROR", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(folders, "DEBIAN_ROOT", tmp_path / "debian")
    monkeypatch.setattr(data, "DATASETS", tiny())


@pytest.fixture
def serve():
    servers = []

    def start(body=ARCHIVE, answer=None):
        def archive_only(handler, name, start):
            if name != "cifar-10-binary.tar":
                return handler.send_error(404)
            return answer(handler, start) if answer else send_file(handler, body, start)

        servers.append(Server(archive_only))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def write_batches(folder, names=NAMES, compressed=False):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        content = CONTENTS[name]
        (folder / (f"{name}.gz" if compressed else name)).write_bytes(gzip.compress(content) if compressed else content)
    return folder


# the records


def test_a_record_is_a_label_and_the_red_green_and_blue_plane_row_by_row(tmp_path):
    pixel = {(0, 0, 0): 11, (0, 0, 1): 12, (0, 1, 0): 13, (1, 0, 0): 21, (1, 31, 31): 22, (2, 31, 31): 99}
    record = bytearray(3073)
    record[0] = 7
    for (channel, row, column), value in pixel.items():
        record[1 + channel * 1024 + row * 32 + column] = value
    write_batches(tmp_path / "cifar10")
    (tmp_path / "cifar10" / TRAIN[0]).write_bytes(bytes(record) * 4)
    dataset = data.load("cifar10", tmp_path, download=False)
    image = dataset.train_images[3]
    assert dataset.class_names[dataset.train_labels[3]] == "horse"
    assert {place: int(image[place]) for place in pixel} == pixel
    assert int(image.long().sum()) == sum(pixel.values())


def test_five_batches_are_for_training_and_the_test_batch_is_the_test_set(tmp_path):
    dataset = data.load("cifar10", write_batches(tmp_path / "cifar10"), download=False)
    assert (dataset.train_images.dtype, dataset.train_labels.dtype) == (torch.uint8, torch.int64)
    assert dataset.train_images.shape == (20, 3, 32, 32)
    assert dataset.test_images.shape == (4, 3, 32, 32)
    assert dataset.train_images.is_contiguous()
    assert dataset.test_images.is_contiguous()
    assert dataset.train_labels.tolist() == [0, 1, 2, 3] * 5
    content = np.frombuffer(CONTENTS[TEST], np.uint8).reshape(4, 3073)
    assert np.array_equal(dataset.test_images.numpy().reshape(4, 3072), content[:, 1:])
    assert dataset.source == str(tmp_path / "cifar10")


def test_batch_5_can_be_the_test_set_of_a_training_on_the_first_four(tmp_path):
    write_batches(tmp_path / "cifar10", TRAIN)  # the test batch is not needed
    dataset = data.load("cifar10-batch5", tmp_path, download=False)
    assert len(dataset.train_images) == 16
    last = np.frombuffer(CONTENTS[TRAIN[4]], np.uint8).reshape(4, 3073)
    assert np.array_equal(dataset.test_images.numpy().reshape(4, 3072), last[:, 1:])
    assert set(dataset.sha256) == set(TRAIN)
    with pytest.raises(DataError, match=r"has 5 of the 6 files of cifar10, lacks test_batch\.bin"):
        data.load("cifar10", tmp_path, download=False)


def test_a_short_test_batch_is_read_and_said(tmp_path):
    folder = write_batches(tmp_path / "cifar10")
    (folder / TEST).write_bytes(CONTENTS[TEST][: 2 * 3073])
    with pytest.warns(UserWarning, match=r"cifar10: .*; test_batch\.bin holds 2 of 4 images"):
        dataset = data.load("cifar10", tmp_path, download=False)
    assert len(dataset.test_images) == 2
    assert dataset.source.endswith("; test_batch.bin holds 2 of 4 images")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.load("cifar10-batch5", tmp_path, download=False)  # which does not look at it


def test_the_catalogue_knows_both_forms_of_cifar10():
    assert (CIFAR10.num_train, CIFAR10.num_test, CIFAR10.shape, CIFAR10.num_classes) == (50000, 10000, (3, 32, 32), 10)
    assert (CIFAR10_BATCH5.num_train, CIFAR10_BATCH5.num_test) == (40_000, 10_000)
    assert {file.num_bytes for file in CIFAR10.files} == {30_730_000}
    assert CIFAR10.class_names[0] == "airplane"
    assert CIFAR10.class_names[9] == "truck"


# where they are found


@pytest.mark.parametrize("compressed", [True, False], ids=["gzipped", "plain"])
@pytest.mark.parametrize("folder", ["cifar10", INSIDE, "."])
@pytest.mark.parametrize("name", ["cifar10", "cifar10-batch5"])
def test_the_batches_are_found_in_byhands_and_the_archives_folder_and_in_the_root(tmp_path, folder, compressed, name):
    write_batches(tmp_path / "root" / folder, compressed=compressed)
    assert len(data.load(name, tmp_path / "root", download=False).test_images) == 4
    assert [row["verdict"] for row in data.check(name, tmp_path / "root")] == ["ok"] * (6 if name == "cifar10" else 5)


def test_a_known_variant_of_the_test_batch_is_named_by_the_check(tmp_path, monkeypatch):
    short = CONTENTS[TEST][: 2 * 3073]
    variant = {hashlib.sha256(short).hexdigest(): "only the first images"}
    known = tiny()[0]
    files = (*known.files[:5], replace(known.files[5], variants=variant))
    monkeypatch.setattr(data, "DATASETS", (replace(known, files=files),))
    folder = write_batches(tmp_path / "cifar10")
    (folder / TEST).write_bytes(short)
    with pytest.warns(UserWarning, match="holds 2 of 4"):
        rows = data.check("cifar10", tmp_path)
    assert [row["verdict"] for row in rows] == ["ok"] * 5 + ["known variant"]
    assert rows[5]["note"] == "only the first images"


def test_a_data_set_that_is_nowhere_is_an_error_that_names_the_places_and_the_command(tmp_path):
    with pytest.raises(DataError, match=f"cifar10: not in {tmp_path / 'cifar10'}, .*run `byhand data get cifar10 --"):
        data.load("cifar10", tmp_path, download=False)
    assert {row["state"] for row in data.status(tmp_path)} == {"missing"}


# what can be wrong with a batch

BAD = {
    "cut": (CONTENTS[TRAIN[1]][:-1], "holds 12,291 bytes, expected a multiple of 3,073"),
    "empty": (b"", "is empty"),
    "gzip of nothing": (gzip.compress(b""), "holds 0 bytes"),
    "one record more": (CONTENTS[TRAIN[1]] + bytes(3073), "expected at most 12,292"),
    "a few bytes more": (CONTENTS[TRAIN[1]] + bytes(9), "holds more than 4 records of 3,073 bytes"),
    "far too long": (bytes(100_000), "is 100,000 bytes, expected at most 12,292"),
    "a label of 10": (b"\x0a" + CONTENTS[TRAIN[1]][1:], r"label 10 at position 0, expected 0..9"),
    "gzip cut": (gzip.compress(CONTENTS[TRAIN[1]])[:-9], "gzip data end too early"),
    "gzip corrupt": (gzip.compress(CONTENTS[TRAIN[1]])[:-8] + bytes(8), "CRC does not match"),
    "an error page": (b"<!DOCTYPE html>", "holds 15 bytes, expected a multiple"),
    "a bomb": (gzip.compress(bytes(10 << 20)), "holds more than 4 records"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_batch_is_an_error_of_one_line_that_names_it_and_the_command_that_mends_it(tmp_path, serve, case):
    content, message = BAD[case]
    folder = write_batches(tmp_path / INSIDE)
    (folder / TRAIN[1]).write_bytes(content)
    for function in (data.load, data.check):
        with pytest.raises(DataError) as caught:
            function("cifar10", tmp_path)
        text = str(caught.value)
        assert text.startswith(f"{folder / TRAIN[1]}: ")
        assert message in text
        assert "\n" not in text
    named, root = re.search(r"`byhand data get (\S+) --data-dir (\S+)`", text).groups()
    fetch(tiny()[0], data.target_folder(data.entry(named), root), [serve().url])
    assert len(data.load("cifar10", tmp_path).train_images) == 20


def test_a_folder_in_place_of_a_batch_is_an_error(tmp_path):
    folder = write_batches(tmp_path / "cifar10", TRAIN)
    (folder / f"{TEST}.gz").mkdir()
    with pytest.raises(DataError, match=r"test_batch\.bin\.gz: is a folder"):
        data.load("cifar10", tmp_path)


# the download


def plain_files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["cifar10", "cifar10-batch5"])
def test_the_archive_is_downloaded_and_its_batches_alone_are_left(tmp_path, serve, monkeypatch, name):
    server = serve()
    monkeypatch.setattr(data, "DATASETS", tiny(mirrors=(f"{server.url}/~kriz/",)))
    calls = []
    data.load(name, tmp_path, progress=lambda *call: calls.append(call))
    assert plain_files(tmp_path / "cifar10") == CONTENTS  # no readme, no part, no lock, no archive
    assert [path for path, _ in server.requests] == ["/~kriz/cifar-10-binary.tar.gz"]
    assert calls[-1] == ("cifar-10-binary.tar.gz", len(ARCHIVE), len(ARCHIVE))
    data.load("cifar10", tmp_path)
    data.get("cifar10-batch5", tmp_path)
    assert len(server.requests) == 1  # what is there is not fetched again


def test_a_mirror_of_the_users_own_is_asked_for_the_archive_by_the_data_sets_name(tmp_path, serve, monkeypatch):
    mine = serve()
    monkeypatch.setenv("BYHAND_MIRROR", mine.url)
    data.get("cifar10-batch5", tmp_path)
    assert [path for path, _ in mine.requests] == ["/cifar10/cifar-10-binary.tar.gz"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (ARCHIVE[:-1] + bytes([ARCHIVE[-1] ^ 1]), "not the published file"),
        (ARCHIVE + b"\0", "not the published file"),
        (b"<!DOCTYPE html>", "something else than gzip"),
        (ARCHIVE[: len(ARCHIVE) // 2], "broke off before the end|longer than the file"),
    ],
    ids=["tampered", "longer", "error page", "half"],
)
def test_another_archive_is_passed_over_and_never_unpacked(tmp_path, serve, body, message):
    bad, good = serve(body), serve()
    with pytest.warns(UserWarning, match=message):
        fetch(tiny()[0], tmp_path / "cifar10", [bad.url, good.url])
    assert plain_files(tmp_path / "cifar10") == CONTENTS
    with pytest.warns(UserWarning, match=message), pytest.raises(DataError, match="no mirror gave cifar-10-binary"):
        fetch(tiny()[0], tmp_path / "other", [serve(body).url])
    assert not [path for path in tmp_path.rglob("*.bin") if "other" in path.parts]


def test_a_transfer_that_breaks_off_is_resumed_where_it_stopped(tmp_path, serve):
    def breaks_off_once(handler, start):
        send_file(handler, ARCHIVE, start, num_bytes=None if start else 20_000)

    server = serve(answer=breaks_off_once)
    fetch(tiny()[0], tmp_path / "cifar10", [server.url])
    assert plain_files(tmp_path / "cifar10") == CONTENTS
    assert [asked for _, asked in server.requests] == [None, "bytes=20000-"]


def test_an_interruption_leaves_a_part_to_resume(tmp_path, serve):
    def interrupt(name, done, total):
        if done == total:
            raise KeyboardInterrupt

    server, folder = serve(), tmp_path / "cifar10"
    with pytest.raises(KeyboardInterrupt):
        fetch(tiny()[0], folder, [server.url], interrupt)
    assert [path.name for path in folder.iterdir()] == [".cifar-10-binary.tar.gz.part"]
    fetch(tiny()[0], folder, [server.url])
    assert plain_files(folder) == CONTENTS
    assert len(server.requests) == 1  # the part was whole


def test_a_damaged_batch_is_replaced_even_where_its_compressed_copy_would_be_found_first(tmp_path, serve):
    folder = write_batches(tmp_path / "cifar10", compressed=True)
    (folder / f"{TRAIN[2]}.gz").write_bytes(b"damaged")
    fetch(tiny()[0], folder, [serve().url])
    assert (folder / TRAIN[2]).read_bytes() == CONTENTS[TRAIN[2]]
    assert not (folder / f"{TRAIN[2]}.gz").exists()
    assert len(list(folder.iterdir())) == 6
    assert [row["verdict"] for row in data.check("cifar10", tmp_path)] == ["ok"] * 6


def test_a_short_test_batch_is_never_overwritten(tmp_path, serve):
    folder = write_batches(tmp_path / "cifar10", TRAIN[1:])
    short = CONTENTS[TEST][: 2 * 3073]
    (folder / TEST).write_bytes(short)
    with pytest.raises(DataError, match=r"test_batch\.bin there is not the published file, which is never mixed"):
        fetch(tiny()[0], folder, [serve().url])
    fetch(tiny()[1], folder, [serve().url])  # the data set that does not need it
    assert plain_files(folder) == {**CONTENTS, TEST: short}


def link(name: str, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info


WHOLE = tuple((f"{INSIDE}/{name}", CONTENTS[name]) for name in NAMES)
ARCHIVES = {
    "a name that climbs out": (tar_of(*WHOLE, (f"{INSIDE}/../../evil", b"evil")), "outside of cifar-10-batches-bin"),
    "an absolute name": (tar_of(("/evil", b"evil"), *WHOLE), "holds '/evil', outside"),
    "another folder": (tar_of(*WHOLE, ("other/data_batch_1.bin", b"evil")), "outside of cifar-10-batches-bin"),
    "a link in place of a batch": (tar_of((link(WHOLE[0][0], "/etc/passwd"), b""), *WHOLE[1:]), "something else than"),
    "a batch of another size": (tar_of((WHOLE[0][0], b"short"), *WHOLE[1:]), "one file of 12,292 bytes"),
    "a batch twice": (tar_of(*WHOLE, WHOLE[0]), "something else than"),
    "a batch too few": (tar_of(*WHOLE[1:]), r"lacks cifar-10-batches-bin/data_batch_1\.bin"),
    "no archive": (gzip.compress(b"no archive"), "is no sound archive"),
    "cut": (gzip.compress(gzip.decompress(ARCHIVE)[:30_000]), "is no sound archive"),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_an_archive_that_is_not_what_it_should_be_puts_nothing_in_place_and_nothing_outside(tmp_path, serve, case):
    body, message = ARCHIVES[case]
    folder = tmp_path / "deep" / "down" / "cifar10"
    with pytest.raises(DataError, match=message) as caught:
        fetch(tiny(body)[0], folder, [serve(body).url])
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []  # also the folders that were made are gone


def test_a_member_is_written_only_where_it_is_told_to(tmp_path):
    path = tmp_path / "archive.tar.gz"
    path.write_bytes(ARCHIVE)
    unpack(path, tiny()[0].archive, {TRAIN[0]: tmp_path / "here"})
    assert plain_files(tmp_path) == {"archive.tar.gz": ARCHIVE, "here": CONTENTS[TRAIN[0]]}


def test_a_disk_that_cannot_be_written_is_an_error_of_one_line(tmp_path, serve, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("byhand.data.download.unpack", full)
    with pytest.raises(DataError, match=r"cannot be written .No space left on device.; make room"):
        fetch(tiny()[0], tmp_path / "cifar10", [serve().url])


# mean and deviation


def test_statistics_equal_numpys_in_every_channel_whatever_the_chunk(monkeypatch):
    images = torch.randint(0, 256, (11, 3, 5, 7), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images[:, 1] //= 3
    images[:, 2] = 51
    levels = images.numpy().astype(np.float64) / 255
    for chunk in (512, 4):
        monkeypatch.setattr("byhand.data.arrays._CHUNK", chunk)
        mean, std = statistics(images)
        np.testing.assert_allclose(mean, levels.mean((0, 2, 3)), rtol=1e-12)
        np.testing.assert_allclose(std, levels.std((0, 2, 3)), rtol=1e-12, atol=1e-15)
    assert std[2] == 0


@pytest.mark.parametrize("images", [torch.zeros(2, 3, 4, 4), torch.zeros(4, 4).byte(), torch.zeros(0, 3, 4, 4).byte()])
def test_statistics_of_anything_but_uint8_images_are_refused(images):
    with pytest.raises(ShapeError, match="must be uint8"):
        statistics(images)


# the real data


@pytest.fixture(scope="module")
def real():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return data.cifar10.read_batches(CIFAR10, folders.find(CIFAR10, [folders.Path(REAL_DATA)]).paths)


@needs_real_data
def test_the_real_training_images_have_the_published_mean_deviation_and_class_counts(real):
    assert real.train_images.shape == (50_000, 3, 32, 32)
    assert real.train_labels.bincount().tolist() == [5000] * 10
    mean, std = statistics(real.train_images)
    assert [round(value, 4) for value in mean] == [0.4914, 0.4822, 0.4465]
    assert [round(value, 4) for value in std] == [0.2470, 0.2435, 0.2616]


@needs_real_data
def test_the_first_labels_are_those_of_the_literature(real):
    named = [real.class_names[label] for label in real.train_labels[:5]]
    assert named == ["frog", "truck", "truck", "deer", "automobile"]
    assert [real.class_names[label] for label in real.test_labels[:4]] == ["cat", "ship", "ship", "airplane"]


@needs_real_data
def test_the_real_batches_are_the_published_ones_and_a_short_test_batch_is_said(real):
    assert [real.sha256[file.name] for file in CIFAR10.files[:5]] == [file.sha256 for file in CIFAR10.files[:5]]
    test = CIFAR10.files[5]
    assert real.sha256[TEST] in (test.sha256, *test.variants)
    assert ("of 10,000 images" in real.source) == (len(real.test_images) < 10_000)
