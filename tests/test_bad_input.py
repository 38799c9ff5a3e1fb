"""Bad input of every kind: one line on stderr, exit code 2, nothing lost and nothing left behind."""

import errno
import gzip
import hashlib
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import made
from PIL import Image

import byhand as library
from byhand import jobs
from byhand.data.idx import write_idx
from byhand.errors import ByhandError, UnknownLayer
from byhand.runs import storage
from byhand.runs.run import Run

READERS = (["evaluate"], ["predict", "PICTURE"], ["plot", "--lang", "en"], ["compare"], ["export"], ["resume"])


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Each test in an empty folder of its own, without a network."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("BYHAND_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home" / "cache"))

    def no_network(*arguments, **options):
        raise AssertionError("a test must not download")

    monkeypatch.setattr("urllib.request.OpenerDirector.open", no_network)
    return folder


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "three.png"
    Image.fromarray(made("digits").test_images[3, 0].numpy()).resize((40, 40)).save(path)
    return path


@pytest.fixture
def run(trained, tmp_path):
    """A finished run, to be broken."""
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def unfinished(monkeypatch, tmp_path):
    """A run of two epochs that was left after the first."""
    with monkeypatch.context() as patched:
        patched.setattr("byhand.data.load", lambda name, *a, **k: made(name))
        left = jobs.start("lenet5-digits", epochs=2, batch_size=16, threads=1, runs_dir=tmp_path / "unfinished")
        next(iter(left))
    monkeypatch.setattr("byhand.data.load", lambda name, *a, **k: made(name))
    return left.run.path


def command_for(command, path, picture):
    name, *rest = command
    return [name, path, *(picture if part == "PICTURE" else part for part in rest)]


def contents(folder):
    return {path: path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


# Names and settings


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "did you mean 'train'"),
        (["train", "lenet5-minst"], "unknown recipe 'lenet5-minst'; did you mean 'lenet5-mnist'"),
        (["train", "--plan", "fats"], "did you mean 'fast'"),
        (["train", "--plan", "FAST"], "did you mean 'fast'"),
        (["train", "--epoch", "3"], "--epoch"),
        (["train", "--lang", "hz"], "unknown language 'hz'; did you mean 'zh'"),
        (["show", "lenet"], "did you mean 'lenet5'"),
        (["prove", "softmaxregression"], "did you mean 'softmax-regression'"),
        (["list", "recipe"], "did you mean 'recipes'"),
        (["data", "get", "mnits"], "did you mean 'mnist'"),
        (["data", "check", "fashion"], "did you mean 'fashion-mnist'"),
        (["data", "fetch"], "fetch"),
        (["reproduce", "mlp-fashon"], "did you mean 'mlp-fashion'"),
        (["reproduce", "lenet5-digits", "--plan", "bst"], "did you mean 'best'"),
        (["plot", "RUN", "confusoin"], "did you mean 'confusion'"),
        (["plot", "RUN", "filters", "--layer", "featuers.0"], "did you mean 'features.0'"),
        (["plot", "RUN", "gradcam", "--class", "x"], "unknown class 'x'"),
        (["plot", "RUN", "loss", "--layer", "features.0"], "layer='features.0' is for filters"),
        (["plot", "RUN", "features", "--image", "360"], "no test image 360"),
        (["plot", "gradient-norms", "loss"], "takes no other"),
        (["plot", "gradient-norms", "--dataset", "mnits"], "did you mean 'mnist'"),
        (["plot", "gradient-norms", "--steps", "0"], "steps=0"),
        (["plot", "gradient-norms", "--depth", "21"], "depth=21"),
        (["plot", "costs"], "no trained network"),
        (["plot", "costs", "--layer", "features.0"], "takes none of them"),
        (["plot", "costs", "nothing"], "no run directory at nothing"),
        (["export", "RUN", "--to", "onxx"], "did you mean 'onnx'"),
        (["evaluate", "RUN", "--split", "tset"], "'test' or 'train'"),
        (["evaluate", "RUN-that-is-not"], "no run directory at"),
        (["evaluate"], "RUN"),
        (["predict", "RUN"], "IMAGE"),
        (["compare"], "RUN"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(arguments, said, refused, trained, here):
    message = refused(*(str(trained) if part == "RUN" else part for part in arguments)).lower()
    assert said.lower() in message
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--epochs", 0], ["--epochs", -3], ["--epochs", "abc"], ["--epochs", 1.5], ["--epochs", ""],
        ["--batch-size", 0], ["--batch-size", -1], ["--batch-size", 1438], ["--batch-size", 10**30],
        ["--lr", 0], ["--lr", -0.1], ["--lr", "nan"], ["--lr", "inf"], ["--lr", "-inf"], ["--lr", "1e999"],
        ["--seed", -1], ["--seed", 2**63], ["--seed", "x"],
        ["--hold-out", 1], ["--hold-out", -0.1], ["--hold-out", "nan"], ["--hold-out", 0.0001],
        ["--threads", -1], ["--threads", 100000], ["--threads", "all"],
        ["--device", "gpu"], ["--device", ""], ["--device", "hpu"], ["--device", "cuda:99"], ["--device", "meta"],
        ["--lang", ""], ["--plan", ""], ["extra", "arguments"], ["--by-hand=maybe"], ["--lr"],
    ],
    ids=lambda arguments: " ".join(map(str, arguments)),
)  # fmt: skip
def test_an_impossible_setting_is_refused_and_leaves_nothing_behind(arguments, refused, here):
    refused("train", "lenet5-digits", *arguments)
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--seeds", 0], ["--seeds", -2], ["--seeds", "x"], ["--threads", 10**6], ["--plan", ""],
    ],
    ids=lambda arguments: " ".join(map(str, arguments)),
)  # fmt: skip
def test_a_reproduction_that_cannot_be_is_refused_before_it_begins(arguments, refused, here):
    refused("reproduce", "linear-regression", *arguments)
    assert list(here.iterdir()) == []


def test_results_that_could_not_be_written_are_told_before_the_training(refused, here):
    (here / "file").write_text("")
    assert "file" in refused("reproduce", "linear-regression", "--plan", "fast", "--results-dir", "file")
    (here / "results").mkdir()
    for text in ("{}", "[1]", "not JSON", '{"recipe": "x"}', "\udcff"):
        (here / "results" / "other.json").write_text(text, errors="surrogateescape")
        assert "other.json" in refused("reproduce", "linear-regression", "--plan", "fast", "--threads", 1)
    assert sorted(path.name for path in here.iterdir()) == ["file", "results"]


def test_how_many_classes_to_name_is_at_least_one(refused, trained, picture):
    for top in (0, -1, "x"):
        refused("predict", trained, picture, "--top", top)


# Data files


def idx(values, magic=None):
    data = write_idx(values)
    return (magic or data[:4]) + data[4:]


def bomb():
    """Ten images by its header, then 64 MiB of zeros in 64 KiB."""
    return gzip.compress(idx(np.zeros((10, 28, 28)))[:16] + bytes(1 << 26))


IMAGES = made("mnist", num_train=300, num_test=30)
PARTS = {
    "train-images-idx3-ubyte": IMAGES.train_images[:, 0].numpy(),
    "train-labels-idx1-ubyte": IMAGES.train_labels.numpy(),
    "t10k-images-idx3-ubyte": IMAGES.test_images[:, 0].numpy(),
    "t10k-labels-idx1-ubyte": IMAGES.test_labels.numpy(),
}
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = PARTS
GOOD = {name: idx(values) for name, values in PARTS.items()}
HEADER = struct.Struct(">HBB3I")
FAULTS = {
    "empty": (TRAIN_IMAGES, lambda good: b""),
    "empty gzip": (TRAIN_IMAGES, lambda good: gzip.compress(b"")),
    "truncated": (TRAIN_IMAGES, lambda good: good[:-1]),
    "header alone": (TRAIN_IMAGES, lambda good: good[:16]),
    "half a header": (TEST_LABELS, lambda good: good[:5]),
    "truncated gzip": (TEST_IMAGES, lambda good: gzip.compress(good)[:-20]),
    "bad CRC": (TRAIN_LABELS, lambda good: (z := gzip.compress(good))[:-8] + bytes([z[-8] ^ 1]) + z[-7:]),
    "flipped bit in gzip": (TRAIN_IMAGES, lambda good: (z := gzip.compress(good))[:99] + bytes([z[99] ^ 4]) + z[100:]),
    "wrong length in gzip": (TRAIN_LABELS, lambda good: gzip.compress(good)[:-4] + struct.pack("<I", 7)),
    "trailing bytes": (TRAIN_LABELS, lambda good: good + b"x"),
    "trailing bytes after gzip": (TRAIN_IMAGES, lambda good: gzip.compress(good) + b"x"),
    "a second gzip member": (TRAIN_IMAGES, lambda good: gzip.compress(good) + gzip.compress(good)),
    "wrong magic": (TRAIN_IMAGES, lambda good: b"\x89PNG" + good[4:]),
    "labels in place of images": (TRAIN_IMAGES, lambda good: GOOD[TRAIN_LABELS]),
    "images in place of labels": (TEST_LABELS, lambda good: GOOD[TEST_IMAGES]),
    "wrong type": (TEST_IMAGES, lambda good: good[:2] + b"\x0d" + good[3:]),
    "an error page": (TRAIN_IMAGES, lambda good: b"<!DOCTYPE html><title>403 Forbidden</title>"),
    "no images": (TRAIN_IMAGES, lambda good: HEADER.pack(0, 8, 3, 0, 28, 28)),
    "images of another size": (TRAIN_IMAGES, lambda good: idx(np.zeros((300, 32, 32)))),
    "more images than there are bytes": (TRAIN_IMAGES, lambda good: HEADER.pack(0, 8, 3, 60000, 28, 28) + good[16:]),
    "four billion images": (TEST_IMAGES, lambda good: HEADER.pack(0, 8, 3, 2**32 - 1, 28, 28) + good[16:]),
    "images of no size": (TEST_IMAGES, lambda good: HEADER.pack(0, 8, 3, 30, 0, 28)),
    "a decompression bomb": (TRAIN_IMAGES, lambda good: bomb()),
    "a label out of range": (TRAIN_LABELS, lambda good: good[:-1] + b"\x0a"),
    "fewer labels than images": (TRAIN_LABELS, lambda good: idx(np.zeros(299))),
    "more labels than images": (TEST_LABELS, lambda good: idx(np.zeros(31))),
}


@pytest.fixture
def data_dir(tmp_path):
    folder = tmp_path / "data"
    (folder / "mnist").mkdir(parents=True)
    for name, data in GOOD.items():
        (folder / "mnist" / name).write_bytes(data)
    return folder


SMALL = ("train", "lenet5-mnist", "--epochs", 1, "--batch-size", 50, "--threads", 1, "--no-plots", "--data-dir")


def test_the_data_of_these_tests_are_good_before_they_are_broken(byhand, data_dir, here):
    assert byhand(*SMALL, data_dir).code == 0
    assert [path.name for path in here.iterdir()] == ["runs"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_data_file_is_named_and_no_run_begins(fault, refused, data_dir, here):
    name, break_it = FAULTS[fault]
    file = data_dir / "mnist" / name
    file.write_bytes(break_it(GOOD[name]))
    before = contents(data_dir)
    assert str(file) in refused(*SMALL, data_dir)
    assert str(file) in refused("data", "check", "mnist", "--data-dir", data_dir)
    assert contents(data_dir) == before
    assert list(here.iterdir()) == []


def test_a_file_in_place_of_the_data_folder_is_refused_and_not_passed_over(refused, data_dir, here, monkeypatch):
    monkeypatch.setenv("BYHAND_DATA", str(data_dir))  # where good data would be found
    (here / "a file").touch()
    for command in (["train", "softmax-fashion"], ["data", "check", "fashion-mnist"]):
        assert "a file" in refused(*command, "--data-dir", "a file")


def test_a_folder_in_place_of_a_data_file_is_refused(refused, data_dir, here):
    (data_dir / "mnist" / TRAIN_IMAGES).unlink()
    (data_dir / "mnist" / TRAIN_IMAGES).mkdir()
    assert "is a folder" in refused(*SMALL, data_dir)
    os.rmdir(data_dir / "mnist" / TRAIN_IMAGES)
    os.mkfifo(data_dir / "mnist" / TRAIN_IMAGES)  # reading it would wait for ever
    assert "not a regular file" in refused(*SMALL, data_dir)
    assert list(here.iterdir()) == []


def test_the_data_of_a_run_that_have_vanished_are_asked_for(byhand, refused, data_dir, here):
    path = byhand(*SMALL, data_dir, "--json").records[0]["run"]
    (data_dir / "mnist" / TRAIN_LABELS).write_bytes(b"")
    for command in ("evaluate", "plot"):
        assert TRAIN_LABELS in refused(command, path)


# Disks


def test_a_file_in_place_of_a_folder_is_refused(refused, here):
    (here / "file").write_text("stays")
    message = refused("train", "lenet5-digits", "--threads", 1, "--runs-dir", "file")
    assert "file" in message
    assert "--runs-dir" in message
    refused("train", "lenet5-digits", "--threads", 1, "--runs-dir", "file/below")
    assert contents(here) == {here / "file": b"stays"}


@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_a_disk_that_takes_nothing_is_told_in_one_line(code, refused, here, monkeypatch):
    def no(*arguments, **options):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(os, "mkdir", no)
        assert os.strerror(code) in refused("train", "--threads", 1, "--no-plots")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", no)
        assert os.strerror(code) in refused("train", "--threads", 1, "--no-plots")
    assert list(here.iterdir()) == []


def test_a_disk_that_becomes_full_keeps_the_last_good_checkpoint(byhand, here, monkeypatch):
    monkeypatch.setattr("byhand.data.load", lambda name, *a, **k: made(name))
    fsync, calls = os.fsync, []

    def full_later(descriptor):
        calls.append(descriptor)
        if len(calls) > 40:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full_later)
        said = byhand("train", "--threads", 1, "--no-plots", "--epochs", 9, "--batch-size", 16)
    assert said.code == 2
    assert "No space left on device" in said.err.splitlines()[-1]
    assert "Traceback" not in said.err
    (run,) = (here / "runs").iterdir()
    assert [path.name for path in run.iterdir() if "tmp" in path.name] == []
    assert Run.open(run).load_checkpoint()["epoch"] > 0
    assert byhand("resume", run, "--no-plots").code == 0  # there is room again


def test_a_full_stdout_is_told_in_one_line():
    for command in (["list"], ["list", "--json"]):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "byhand", *command], stdout=full, stderr=subprocess.PIPE, text=True, check=False
            )
        assert done.returncode == 2
        assert "No space left on device" in done.stderr
        assert done.stderr.count("\n") == 1


# Pictures


def png_of(width, height):
    """A PNG whose header names that many pixels and that holds none."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "empty"),
        (b"hello", "not a picture"),
        (png_of(100_000, 100_000), "pixels"),
        (png_of(8, 8), "cannot be read|damaged"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (pickle.dumps({}), "not a picture"),
    ],
)
def test_an_image_that_is_not_one_is_refused_and_the_others_are_not_answered(
    data, word, refused, trained, picture, here
):
    (here / "bad.png").write_bytes(data)
    message = refused("predict", trained, picture, "bad.png")
    assert "bad.png" in message
    assert any(one in message for one in word.split("|"))


def test_a_picture_that_is_not_there_or_a_folder_is_refused(refused, trained, picture, here):
    assert "no picture at" in refused("predict", trained, picture, "missing.png")
    assert "is not a file" in refused("predict", trained, here)
    Image.new("L", (30, 30), 200).save("blank.png")
    assert "nothing is drawn" in refused("predict", trained, "blank.png")


def test_a_regression_takes_no_pictures(byhand, refused, picture):
    path = byhand("train", "linear-regression", "--threads", 1, "--no-plots", "--json").records[0]["run"]
    assert "takes no pictures" in refused("predict", path, picture)
    assert "confusion" in refused("plot", path, "confusion")


# Run directories


@pytest.mark.parametrize("command", READERS, ids=lambda command: command[0])
def test_what_is_no_run_directory_is_refused(command, refused, here, picture):
    (here / "folder").mkdir()
    (here / "file").write_text("x")
    for path in ("nothing", "folder", "file", "file/below"):
        assert path in refused(*command_for(command, path, picture))


@pytest.mark.parametrize("missing", ["recipe.json", "environment.json"])
@pytest.mark.parametrize("command", READERS, ids=lambda command: command[0])
def test_an_incomplete_run_directory_is_refused(command, missing, refused, run, picture):
    for name in (missing, f"{missing}.sha256"):
        (run / name).unlink()
        assert missing in refused(*command_for(command, run, picture))


@pytest.mark.parametrize("command", READERS[:3] + READERS[4:5], ids=lambda command: command[0])
def test_an_unfinished_run_has_no_weights_to_use(command, byhand, refused, unfinished, picture):
    if command[0] == "plot":  # the curves of what there is
        said = byhand("plot", unfinished, "--json")
        assert [record["picture"] for record in said.records] == ["loss", "accuracy"]
        command = ["plot", "filters"]
    assert "byhand resume" in refused(*command_for(command, unfinished, picture))


READ_BY = {
    "recipe.json": READERS[:5],
    "environment.json": READERS[:5],
    "model.safetensors": [READERS[0], READERS[1], READERS[2], READERS[4]],
    "result.json": [READERS[0], READERS[3]],
    "metrics.jsonl": [READERS[2], READERS[3]],
}


@pytest.mark.parametrize(
    ("name", "command"), [(name, command) for name in READ_BY for command in READ_BY[name]], ids=lambda part: part[0]
)
def test_one_flipped_bit_in_a_file_of_a_run_is_refused(name, command, refused, run, picture):
    for file in (run / name, run / f"{name}.sha256"):
        data = file.read_bytes()
        for place in (0, len(data) // 2, len(data) - 1):
            file.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            before = contents(run)
            message = refused(*command_for(command, run, picture))
            assert name in message
            assert contents(run) == before
        file.write_bytes(data[: len(data) // 2])
        assert name in refused(*command_for(command, run, picture))
        file.write_bytes(data)


@pytest.mark.parametrize("name", ["recipe.json", "environment.json", "checkpoint.pt"])
def test_one_flipped_bit_is_refused_before_a_training_goes_on(name, byhand, refused, unfinished):
    before = contents(unfinished)
    for file in (unfinished / name, unfinished / f"{name}.sha256"):
        data = file.read_bytes()
        for place in (0, len(data) // 2, len(data) - 1):
            file.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            assert name in refused("resume", unfinished)
        file.write_bytes(data)
    assert contents(unfinished) == before
    assert byhand("resume", unfinished, "--no-plots").code == 0


def test_a_run_without_its_checkpoint_cannot_go_on(refused, unfinished):
    (unfinished / "checkpoint.pt").unlink()
    assert "train anew" in refused("resume", unfinished)


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("wrapped", [False, True], ids=["pickle", "archive"])
def test_a_hostile_checkpoint_is_refused_and_never_run(protocol, wrapped, refused, unfinished, here, tmp_path):
    proof = tmp_path / "executed"
    if wrapped:
        torch.save({"model": Hostile(proof)}, tmp_path / "bad.pt", pickle_protocol=protocol)
        data = (tmp_path / "bad.pt").read_bytes()
    else:
        data = pickle.dumps({"model": Hostile(proof)}, protocol)
    storage.write_sealed(unfinished / "checkpoint.pt", data)  # whoever can write the one can write the other
    message = refused("resume", unfinished)
    assert "checkpoint.pt" in message
    assert not proof.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "recipe.json", "environment.json", "result.json"])
def test_a_pickle_in_place_of_another_file_is_never_run(name, refused, run, picture, tmp_path):
    proof = tmp_path / "executed"
    storage.write_sealed(run / name, pickle.dumps(Hostile(proof)))
    assert name in refused("evaluate", run)
    assert not proof.exists()


def test_the_weights_of_another_network_are_refused(refused, run, picture):
    storage.save_weights(library.models.mlp(), run / "model.safetensors")
    for command in READERS[:3] + READERS[4:5]:
        assert "another network" in refused(*command_for(command, run, picture))
    storage.save_weights(library.models.lenet5(num_classes=7), run / "model.safetensors")
    assert "another network" in refused("evaluate", run)


def test_the_checkpoint_of_another_network_is_refused(refused, unfinished):
    state = Run.open(unfinished).load_checkpoint()
    storage.save(state | {"model": library.models.mlp().state_dict()}, unfinished / "checkpoint.pt")
    assert "does not fit this network" in refused("resume", unfinished)
    storage.save({"weights": torch.zeros(3)}, unfinished / "checkpoint.pt")
    assert "does not fit this network" in refused("resume", unfinished)
    storage.save([torch.zeros(3)], unfinished / "checkpoint.pt")
    assert "must hold a dict" in refused("resume", unfinished)


def reseal(path, record):
    storage.write_sealed(path, json.dumps(record).encode())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda record: {},
        lambda record: record | {"dataset": "mnsit"},
        lambda record: record | {"dataset": 3},
        lambda record: record | {"recipe": 3},
        lambda record: record | {"task": "poetry"},
        lambda record: record | {"network": {"name": "lenet9", "options": {}}},
        lambda record: record | {"network": {"name": "lenet5", "options": {"colour": 1}}},
        lambda record: record | {"network": "lenet5"},
        lambda record: record | {"network": {}},
        lambda record: record | {"settings": {}},
        lambda record: record | {"settings": []},
        lambda record: record | {"settings": record["settings"] | {"lr": -1}},
        lambda record: record | {"settings": record["settings"] | {"preparation": {"size": "x"}}},
        lambda record: {key: value for key, value in record.items() if key != "settings"},
        lambda record: {key: value for key, value in record.items() if key != "task"},
    ],
)
def test_a_sealed_record_of_something_else_is_refused(spoil, refused, run, unfinished):
    for path, command in ((run, "evaluate"), (unfinished, "resume")):
        reseal(path / "recipe.json", spoil(json.loads((path / "recipe.json").read_text())))
        refused(command, path)


def test_a_receipt_without_its_data_is_refused(refused, unfinished):
    record = json.loads((unfinished / "environment.json").read_text())
    for data in (None, {}, {"sha256": {"made": "1"}}):
        reseal(unfinished / "environment.json", record | {"data": data})
        assert "other data" in refused("resume", unfinished)


def test_a_finished_run_is_neither_resumed_nor_changed(refused, run):
    before = contents(run)
    assert "is finished" in refused("resume", run)
    assert contents(run) == before


def test_an_export_never_replaces_a_file_of_the_run(refused, run):
    before = contents(run)
    for name in ("model.safetensors", "recipe.json", "checkpoint.pt.sha256"):
        assert "would be lost" in refused("export", run, "--output", run / name)
    refused("export", run, "--output", run / "no" / "such" / "folder")
    assert contents(run) == before


# A loss that is no number


@pytest.mark.parametrize("hand", [(), ("--by-hand",)], ids=["library", "by hand"])
def test_a_far_too_high_lr_stops_keeps_the_checkpoint_and_says_what_to_try(hand, byhand, here):
    said = byhand("train", "--lr", "1e9", "--threads", 1, *hand)
    assert said.code == 2
    assert said.out == ""
    last = said.err.splitlines()[-1]
    assert last.startswith("byhand: ")
    assert "Try a lower lr (now 1e+09)" in last
    assert "Traceback" not in said.err
    (path,) = (here / "runs").iterdir()
    run = Run.open(path)
    assert not run.finished
    saved = run.load_checkpoint()
    assert saved["epoch"] == len(run.history())
    assert all(torch.isfinite(value).all() for value in saved["model"].values())
    assert (
        hashlib.sha256((path / "checkpoint.pt").read_bytes()).hexdigest() in (path / "checkpoint.pt.sha256").read_text()
    )
    assert byhand("resume", path).code == 2  # and again, in the same words
    with pytest.raises(ByhandError):
        library.train("lenet5-digits", lr=1e9, threads=1, runs_dir=here / "again")


# From Python


def test_a_kernel_larger_than_its_input_is_an_error_of_ours():
    x = torch.zeros(1, 1, 3, 3)
    for attempt in (
        lambda: library.nn.Conv2d(1, 1, 5)(x),
        lambda: library.ops.conv2d(x, torch.zeros(1, 1, 5, 5)),
        lambda: library.ops.corr2d(x[0, 0], torch.zeros(5, 5)),
        lambda: library.nn.MaxPool2d(5)(x),
        lambda: library.nn.AvgPool2d(5)(x),
        lambda: library.models.lenet5() and library.by_hand(library.models.lenet5())(torch.zeros(1, 1, 8, 8)),
    ):
        with pytest.raises(ByhandError) as error:
            attempt()
        assert "\n" not in str(error.value)
        assert "3" in str(error.value) or "8" in str(error.value) or "2" in str(error.value)


def test_a_layer_without_a_twin_is_named():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Sequential(torch.nn.Mish()))
    for attempt in (library.by_hand, library.prove):
        with pytest.raises(UnknownLayer, match=r"'1\.0' is a Mish") as error:
            attempt(model)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        (("lenet5-digit",), {}),
        (("lenet5-digits", "fats"), {}),
        ((), {"epochs": 0}),
        ((), {"epochs": "3"}),
        ((), {"learning_rate": 0.1}),
        ((), {"optimizer": "lion"}),
        ((), {"lr": float("nan")}),
        (("lenet5-digits",), {"dropout": 0.5}),
    ],
)
def test_what_the_command_line_refuses_python_refuses_too(arguments, settings, here):
    with pytest.raises(library.ByhandError) as error:
        library.train(*arguments, threads=1, **settings)
    assert "\n" not in str(error.value)
    assert list(here.iterdir()) == []
