"""The data sets: what is made, what is embedded, what is found where, and the real MNIST and Fashion-MNIST."""

import gzip
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits as scikit_digits

from byhand import data
from byhand.data import folders
from byhand.data.digits import DIGITS
from byhand.data.idx import write_idx
from byhand.errors import DataError, SettingsError, UnknownName

REAL_DATA = os.environ.get("BYHAND_DATA")  # read before the fixture below hides it
needs_real_data = pytest.mark.skipif(not REAL_DATA, reason="BYHAND_DATA names no folder with MNIST and Fashion-MNIST")

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty home, so that no test sees or touches the user's own files; downloads reach nothing."""
    home = tmp_path / "home"
    home.mkdir()
    for name in ("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA", "USERPROFILE"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.delenv("BYHAND_DATA", raising=False)
    monkeypatch.setattr(folders, "DEBIAN_ROOT", tmp_path / "debian")
    return home


def write_set(folder: Path, *, num_train=6, num_test=4, compressed=True, leave_out=(), level=0):
    """A small data set in MNIST's format: image i is filled with level + i, its label is i mod 10."""
    folder.mkdir(parents=True, exist_ok=True)
    for names, n in ((NAMES[:2], num_train), (NAMES[2:], num_test)):
        images = np.broadcast_to(np.arange(level, level + n, dtype=np.uint8)[:, None, None], (n, 28, 28))
        for name, values in zip(names, (images, np.arange(n, dtype=np.uint8) % 10), strict=True):
            if name not in leave_out:
                content = write_idx(values)
                path = folder / (f"{name}.gz" if compressed else name)
                path.write_bytes(gzip.compress(content) if compressed else content)
    return folder


def test_the_catalogue_lists_the_data_sets_and_their_sizes():
    sizes = {entry.name: (entry.num_train, entry.num_test, entry.shape, entry.num_classes) for entry in data.DATASETS}
    assert sizes == {
        "synthetic-linear": (2000, 1000, (3,), 0),
        "digits": (1437, 360, (1, 8, 8), 10),
        "mnist": (60000, 10000, (1, 28, 28), 10),
        "fashion-mnist": (60000, 10000, (1, 28, 28), 10),
        "cifar10": (50000, 10000, (3, 32, 32), 10),
        "cifar10-batch5": (40000, 10000, (3, 32, 32), 10),
        "image-folder": (0, 0, (), 0),
        "digits-scene": (1600, 400, (3, 96, 96), 10),
        "voc-folder": (0, 0, (), 0),
        "coco-json": (0, 0, (), 0),
    }
    mirrors = {entry.name: len(entry.mirrors) for entry in data.DATASETS if entry.kind == "files"}
    assert mirrors == {"mnist": 2, "fashion-mnist": 2, "cifar10": 1, "cifar10-batch5": 1}


def test_listing_the_data_sets_imports_neither_torch_nor_numpy():
    program = "import sys, byhand.data; byhand.data.status(); print({'torch', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "set()\n"


def test_an_unknown_data_set_is_an_error_with_a_suggestion():
    for function in (data.load, data.get, data.check):
        with pytest.raises(UnknownName, match="did you mean 'fashion-mnist'"):
            function("fashionmnist")


# synthetic-linear


def test_synthetic_linear_follows_the_weights_and_the_noise_of_the_source():
    dataset = data.load("synthetic-linear")
    assert dataset.train_images.shape == (2000, 3)
    assert dataset.train_labels.shape == (2000, 1)
    assert dataset.test_images.shape == (1000, 3)
    assert dataset.train_images.dtype == dataset.train_labels.dtype == torch.float32
    assert dataset.truth == {"weight": [1.1, -4.5, 1.4], "bias": 1.1919810}
    for X, y in ((dataset.train_images, dataset.train_labels), (dataset.test_images, dataset.test_labels)):
        noise = y.double() - (X.double() @ torch.tensor([[1.1], [-4.5], [1.4]], dtype=torch.float64) + 1.1919810)
        assert noise.std() == pytest.approx(0.01, rel=0.1)
        assert abs(noise.mean()) < 4 * 0.01 / len(y) ** 0.5
        assert X.mean(0).abs().max() < 4 / len(X) ** 0.5
        assert X.std(0) == pytest.approx(torch.ones(3), abs=0.1)


def test_least_squares_by_numpy_finds_the_weights_of_synthetic_linear():
    dataset = data.load("synthetic-linear", seed=3)
    X = np.hstack([dataset.train_images.numpy(), np.ones((2000, 1))])
    found, *_ = np.linalg.lstsq(X, dataset.train_labels.numpy(), rcond=None)
    assert found.ravel() == pytest.approx([1.1, -4.5, 1.4, 1.1919810], abs=1e-3)


def test_synthetic_linear_depends_on_its_seed_only_and_its_test_part_is_new():
    one, again, other = (data.load("synthetic-linear", seed=seed) for seed in (0, 0, 1))
    assert one.train_images.equal(again.train_images)
    assert one.sha256 == again.sha256
    assert not one.train_images.equal(other.train_images)
    assert not set(one.train_labels.ravel().tolist()) & set(one.test_labels.ravel().tolist())
    assert one.source == "made from seed 0"
    assert one.num_classes == 0
    assert one.input_shape == (3,)
    with pytest.raises(SettingsError, match="seed -1 must not be negative"):
        data.load("synthetic-linear", seed=-1)


# digits


def test_digits_equal_scikit_learns_value_for_value():
    dataset, reference = data.load("digits"), scikit_digits()
    images = torch.cat([dataset.train_images, dataset.test_images])
    labels = torch.cat([dataset.train_labels, dataset.test_labels])
    assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
    sixteenths = (images.double() * 16 / 255).round().long().reshape(-1, 64)
    mine = sorted([*row, label] for row, label in zip(sixteenths.tolist(), labels.tolist(), strict=True))
    theirs = np.column_stack([reference.data, reference.target]).astype(int)
    assert mine == sorted(theirs.tolist())
    assert images.max() == 255
    assert images.min() == 0


def test_each_part_of_digits_keeps_scikit_learns_order():
    dataset, reference = data.load("digits"), scikit_digits()
    place = {tuple(row): i for i, row in enumerate(np.rint(reference.data * 255 / 16 + 1e-9).astype(int).tolist())}
    for part, labels, n in (
        (dataset.train_images, dataset.train_labels, 1437),
        (dataset.test_images, dataset.test_labels, 360),
    ):
        places = [place[tuple(row)] for row in part.reshape(n, 64).tolist()]
        assert places == sorted(places)
        assert labels.tolist() == reference.target[places].tolist()


def test_the_split_of_digits_is_fixed_and_leaves_every_class_on_both_sides():
    dataset = data.load("digits")
    assert dataset.train_images.shape == (1437, 1, 8, 8)
    assert dataset.test_images.shape == (360, 1, 8, 8)
    assert dataset.test_labels.bincount().min() >= 25
    assert dataset.test_images.equal(data.load("digits", seed=5).test_images)
    order = np.argsort(np.random.PCG64(0).random_raw(1797))
    assert dataset.test_labels.tolist() == scikit_digits().target[np.sort(order[:360])].tolist()


def test_digits_are_shipped_with_their_attribution_and_pass_their_check():
    text = (folders.Path(data.embedded_path(DIGITS.files[0])).parent / "ATTRIBUTION.txt").read_text(encoding="utf-8")
    assert all(word in text for word in ("Alpaydin", "Kaynak", "1998", "UCI", "CC BY 4.0", "10.24432/C50P49"))
    assert [row["verdict"] for row in data.check("digits")] == ["ok", "ok"]


# hold_out


def test_hold_out_puts_a_part_of_the_training_examples_in_place_of_the_test_set():
    dataset = data.load("digits")
    held = dataset.hold_out(0.1, seed=3)
    assert len(held.test_images) == 144
    assert len(held.train_images) == 1437 - 144
    whole = sorted(map(bytes, dataset.train_images.reshape(1437, 64).numpy()))
    parts = torch.cat([held.train_images, held.test_images]).reshape(1437, 64)
    assert sorted(map(bytes, parts.numpy())) == whole
    assert held.test_images.equal(dataset.hold_out(0.1, seed=3).test_images)
    assert not held.test_images.equal(dataset.hold_out(0.1, seed=4).test_images)
    assert "144 of 1437" in held.source


def test_hold_out_keeps_images_and_labels_together():
    dataset = data.load("digits")
    label = dict(zip(map(bytes, dataset.train_images.numpy()), dataset.train_labels.tolist(), strict=True))
    held = dataset.hold_out(0.25)
    for images, labels in ((held.train_images, held.train_labels), (held.test_images, held.test_labels)):
        assert [label[bytes(image)] for image in images.numpy()] == labels.tolist()


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan"), 1e-9])
def test_a_hold_out_that_leaves_one_side_empty_is_refused(fraction):
    with pytest.raises(SettingsError, match="hold-out fraction"):
        data.load("digits").hold_out(fraction)


# where files are found


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("mnist", "mnist"),
        ("mnist", "MNIST/raw"),
        ("fashion-mnist", "fashion-mnist"),
        ("fashion-mnist", "FashionMNIST/raw"),
    ],
)
def test_a_data_set_is_found_in_byhands_and_in_torchvisions_folders(tmp_path, name, folder, compressed):
    write_set(tmp_path / "root" / folder, compressed=compressed)
    dataset = data.load(name, tmp_path / "root", download=False)
    assert dataset.train_images.shape == (6, 1, 28, 28)
    assert dataset.train_images[:, 0, 13, 13].tolist() == [0, 1, 2, 3, 4, 5]
    assert dataset.test_labels.tolist() == [0, 1, 2, 3]
    assert dataset.source == str(tmp_path / "root" / folder)


def test_the_data_sets_own_folder_may_be_named(tmp_path):
    write_set(tmp_path / "mnist")
    assert len(data.load("mnist", tmp_path / "mnist", download=False).train_images) == 6
    with pytest.raises(DataError, match="not in"):
        data.load("fashion-mnist", tmp_path / "mnist", download=False)


def test_the_places_are_looked_at_in_order(tmp_path, monkeypatch, home):
    roots = [tmp_path / "named", tmp_path / "variable", folders.cache_root(), folders.DEBIAN_ROOT]
    assert roots[2].is_relative_to(home)
    for level, root in enumerate(roots):
        write_set(root / "fashion-mnist", level=10 * level)
    monkeypatch.setenv("BYHAND_DATA", str(roots[1]))
    first_pixels = []
    for root in roots:
        first_pixels.append(int(data.load("fashion-mnist", roots[0], download=False).train_images[0, 0, 0, 0]))
        for file in (root / "fashion-mnist").iterdir():
            file.unlink()
    assert first_pixels == [0, 10, 20, 30]
    with pytest.raises(DataError, match="not in") as caught:
        data.load("fashion-mnist", roots[0], download=False)
    assert all(str(root) in str(caught.value) for root in roots)


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="the XDG folders are Linux's")
def test_a_relative_xdg_cache_home_is_ignored_as_the_specification_asks(monkeypatch, home):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert folders.cache_root() == home / ".cache" / "byhand"


def test_an_incomplete_data_set_is_an_error_that_says_what_is_lacking(tmp_path):
    write_set(tmp_path / "mnist", leave_out=NAMES[1:3])
    with pytest.raises(DataError, match=f"has 2 of the 4 files of mnist, lacks {NAMES[1]}, {NAMES[2]}; "):
        data.load("mnist", tmp_path, download=False)


def test_missing_files_are_never_downloaded_beside_others_than_the_published(tmp_path):
    write_set(tmp_path / "mnist", leave_out=NAMES[:1])
    with pytest.raises(DataError, match=f"lacks {NAMES[0]} .*is not the published file, which is never mixed"):
        data.load("mnist", tmp_path)
    assert len(list((tmp_path / "mnist").iterdir())) == 3


def test_files_of_two_folders_are_never_mixed(tmp_path, monkeypatch):
    write_set(tmp_path / "a" / "mnist", leave_out=NAMES[:1])
    write_set(tmp_path / "b" / "mnist")
    monkeypatch.setenv("BYHAND_DATA", str(tmp_path / "b"))
    with pytest.raises(DataError, match="lacks"):
        data.load("mnist", tmp_path / "a", download=False)


def test_counts_that_differ_are_an_error(tmp_path):
    write_set(tmp_path / "mnist")
    (tmp_path / "mnist" / f"{NAMES[1]}.gz").write_bytes(gzip.compress(write_idx(np.zeros(5, np.uint8))))
    with pytest.raises(DataError, match=f"{NAMES[1]}.gz: holds 5 labels for 6 images; delete it, or fetch it anew"):
        data.load("mnist", tmp_path, download=False)


def test_a_label_out_of_range_is_an_error_that_says_where(tmp_path):
    write_set(tmp_path / "mnist")
    labels = np.array([0, 1, 2, 10, 4, 5], np.uint8)
    (tmp_path / "mnist" / f"{NAMES[1]}.gz").write_bytes(gzip.compress(write_idx(labels)))
    with pytest.raises(DataError, match=r"label 10 at position 3, expected 0\.\.9"):
        data.load("mnist", tmp_path, download=False)


def test_a_damaged_file_is_an_error_with_the_command_that_mends_it(tmp_path):
    write_set(tmp_path / "mnist")
    (tmp_path / "mnist" / f"{NAMES[2]}.gz").write_bytes(b"")
    command = f"`byhand data get mnist --data-dir {tmp_path / 'mnist'}`"
    for function in (data.load, data.check):
        with pytest.raises(DataError) as caught:
            function("mnist", tmp_path)
        assert str(caught.value).endswith(command)


def test_a_folder_in_place_of_a_file_is_an_error(tmp_path):
    write_set(tmp_path / "mnist", leave_out=NAMES[3:])
    (tmp_path / "mnist" / f"{NAMES[3]}.gz").mkdir()
    with pytest.raises(DataError, match=f"{NAMES[3]}.gz: is a folder"):
        data.load("mnist", tmp_path)


def test_a_folder_that_may_not_be_looked_into_is_an_error_and_a_line_of_the_status(tmp_path, monkeypatch):
    def refuse(path, **kwargs):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("byhand.data.folders.os.stat", refuse)
        with pytest.raises(DataError, match=r"cannot be looked at \(Permission denied\)"):
            data.load("mnist", tmp_path, download=False)


def test_the_status_says_what_is_where(tmp_path):
    write_set(tmp_path / "mnist")
    write_set(tmp_path / "FashionMNIST" / "raw", leave_out=NAMES[:1])
    rows = {row["name"]: row for row in data.status(tmp_path)}
    states = ["made", "embedded", "present", "incomplete", "missing", "missing", "yours", "made", "yours", "yours"]
    assert [row["state"] for row in rows.values()] == states
    assert rows["mnist"]["where"] == tmp_path / "mnist"
    assert rows["mnist"]["bytes"] == sum(file.stat().st_size for file in (tmp_path / "mnist").iterdir())
    assert NAMES[0] in rows["fashion-mnist"]["note"]
    assert [row["state"] for row in data.status()] == ["made", "embedded", *["missing"] * 4, *states[6:]]


def test_a_sound_file_that_is_not_the_published_one_loads_and_the_check_says_so(tmp_path):
    write_set(tmp_path / "mnist")
    rows = data.check("mnist", tmp_path)
    assert [row["verdict"] for row in rows] == ["differs"] * 4
    assert all(row["path"].stat().st_size == row["bytes"] for row in rows)
    assert data.get("mnist", tmp_path) == tmp_path / "mnist"  # nobody's own files are overwritten


# the real data


@needs_real_data
@pytest.mark.parametrize(
    ("name", "mean", "std", "train_counts"),
    [
        ("mnist", 0.1307, 0.3081, [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]),
        ("fashion-mnist", 0.2860, 0.3530, [6000] * 10),
    ],
)
def test_the_real_data_have_the_published_shape_mean_deviation_and_class_counts(name, mean, std, train_counts):
    dataset = data.load(name, REAL_DATA, download=False)
    assert dataset.train_images.shape == (60000, 1, 28, 28)
    assert dataset.test_images.shape == (10000, 1, 28, 28)
    assert dataset.train_labels.bincount().tolist() == train_counts
    # moments from the counts of the 256 grey levels: exact, and no copy of 47 million floats
    counts = np.bincount(dataset.train_images.numpy().ravel(), minlength=256)
    grey = np.arange(256) / 255
    average = (counts * grey).sum() / counts.sum()
    deviation = ((counts * (grey - average) ** 2).sum() / counts.sum()) ** 0.5
    assert (round(average, 4), round(deviation, 4)) == (mean, std)


@needs_real_data
def test_the_real_files_are_the_published_ones_or_known_variants():
    for name in ("mnist", "fashion-mnist"):
        verdicts = {row["file"]: row["verdict"] for row in data.check(name, REAL_DATA)}
        assert set(verdicts.values()) <= {"ok", "known variant"}
        assert verdicts["t10k-images-idx3-ubyte"] == "ok"


@needs_real_data
def test_the_first_labels_are_those_of_the_literature():
    assert data.load("mnist", REAL_DATA).train_labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    fashion = data.load("fashion-mnist", REAL_DATA)
    assert fashion.class_names[fashion.train_labels[0]] == "Ankle boot"
