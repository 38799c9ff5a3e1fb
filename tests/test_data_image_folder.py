"""The user's own pictures: how they may lie, what becomes of each kind of file, memory and its limit, bad input."""

import hashlib
import io
import json
import os
import re
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from byhand import data
from byhand.data import folders, image_arrays
from byhand.data.image_arrays import load_image_folder
from byhand.data.pictures import Unreadable, decode, glance
from byhand.errors import DataError, SettingsError, UnknownName


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    """An empty home, so that the cache is the test's own."""
    home = tmp_path_factory.mktemp("home")
    for name in ("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA", "USERPROFILE"):
        monkeypatch.setenv(name, str(home))
    return home


def noise(height, width, channels=3, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(height, width):
    """A picture that JPEG keeps almost as it is: red grows to the right, green downwards."""
    y, x = np.mgrid[:height, :width]
    return np.stack((x * 255 // (width - 1), y * 255 // (height - 1), np.full_like(x, 90)), 2).astype(np.uint8)


def save(path, picture, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(path, **options)
    return path


def plain(folder, count=3, classes=("cat", "dog"), size=8, start=0):
    """A folder with `count` grey pictures of one level in each class; no two have the same level."""
    level = start
    for name in classes:
        for i in range(count):
            save(folder / name / f"{i:02}.png", np.full((size, size), level, np.uint8))
            level += 1
    return folder


def levels(images):
    """The level of each picture of one level."""
    assert images.flatten(1).eq(images.flatten(1)[:, :1]).all()
    return images[:, 0, 0, 0].tolist()


# how pictures may lie


def test_a_folder_for_each_class_gives_their_names_in_order_and_a_tenth_held_out(tmp_path):
    plain(tmp_path, count=20, classes=("dog", "ant", "cat"))
    dataset = data.load(f"image-folder:{tmp_path}")
    assert dataset.class_names == ("ant", "cat", "dog")
    assert dataset.name == f"image-folder:{tmp_path}"
    assert dataset.train_images.shape == (54, 1, 8, 8)
    assert dataset.test_images.shape == (6, 1, 8, 8)
    assert dataset.test_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert sorted(levels(dataset.train_images) + levels(dataset.test_images)) == list(range(60))
    # dog was written first, with levels 0..19, then ant, then cat
    for images, labels in (
        (dataset.train_images, dataset.train_labels),
        (dataset.test_images, dataset.test_labels),
    ):
        assert [(2, 0, 1)[level // 20] for level in levels(images)] == labels.tolist()
    assert "6 of 60 images held out with seed 0 as test set" in dataset.source
    assert (dataset.train_images.dtype, dataset.train_labels.dtype) == (torch.uint8, torch.int64)
    assert dataset.skipped == {}


def test_the_split_is_the_same_each_time_and_another_with_another_seed(tmp_path):
    plain(tmp_path, count=30)
    one, again = (levels(load_image_folder(tmp_path).test_images) for _ in range(2))
    other = load_image_folder(tmp_path, split_seed=1)
    assert one == again
    assert one != levels(other.test_images)
    assert "seed 1" in other.source
    assert one == levels(data.load(f"image-folder:{tmp_path}", seed=5).test_images)  # the training's seed is another


def test_every_class_has_at_least_one_picture_in_the_test_set_but_its_only_one(tmp_path):
    plain(tmp_path, count=2)
    save(tmp_path / "lone" / "a.png", noise(8, 8, 1))
    dataset = load_image_folder(tmp_path)
    assert dataset.test_labels.tolist() == [0, 1]
    assert dataset.train_labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", ["test", "val", "valid", "Val"])
def test_train_and_test_folders_are_used_as_they_are(tmp_path, name):
    plain(tmp_path / "train", count=3)
    plain(tmp_path / name, count=2, start=100)
    dataset = load_image_folder(tmp_path)
    assert dataset.class_names == ("cat", "dog")
    assert levels(dataset.train_images) == [0, 1, 2, 3, 4, 5]
    assert levels(dataset.test_images) == [100, 101, 102, 103]
    assert dataset.test_labels.tolist() == [0, 0, 1, 1]
    assert dataset.source == str(tmp_path)


def test_beside_test_the_folder_val_is_not_used_and_the_source_says_so(tmp_path):
    for start, name in enumerate(("train", "val", "test")):
        plain(tmp_path / name, start=10 * start)
    dataset = load_image_folder(tmp_path)
    assert levels(dataset.test_images) == [20, 21, 22, 23, 24, 25]
    assert dataset.source.endswith("; val is not used")


def test_a_train_folder_alone_is_split(tmp_path):
    plain(tmp_path / "train", count=10)
    dataset = load_image_folder(tmp_path)
    assert len(dataset.train_images) == 18
    assert len(dataset.test_images) == 2


def test_a_class_may_be_called_train(tmp_path):
    plain(tmp_path, classes=("car", "train"))
    assert load_image_folder(tmp_path).class_names == ("car", "train")


def test_a_class_may_lack_in_the_test_set(tmp_path):
    plain(tmp_path / "train", classes=("ant", "cat", "dog"))
    plain(tmp_path / "test", classes=("dog",))
    assert load_image_folder(tmp_path).test_labels.tolist() == [2, 2, 2]


def test_folders_within_a_class_are_looked_into_and_hidden_and_other_files_are_passed_over(tmp_path):
    plain(tmp_path)
    save(tmp_path / "cat" / "deep" / "down" / "z.PNG", np.full((8, 8), 77, np.uint8))
    for name in (".hidden.png", "._00.png", "notes.txt", "Thumbs.db"):
        (tmp_path / "cat" / name).write_bytes(b"no picture")
    for name in (".git", "__MACOSX"):
        plain(tmp_path / name, start=100)
        plain(tmp_path / "dog" / name, start=100)
    dataset = load_image_folder(tmp_path)
    assert dataset.class_names == ("cat", "dog")
    assert sorted(levels(dataset.train_images) + levels(dataset.test_images)) == [0, 1, 2, 3, 4, 5, 77]


# size, channels, decoding


def test_the_size_is_the_median_of_the_shorter_sides_and_at_most_224(tmp_path):
    for i, (height, width) in enumerate(((30, 50), (60, 40), (90, 45))):
        save(tmp_path / "cat" / f"{i}.png", noise(height, width))
    save(tmp_path / "dog" / "0.png", noise(20, 300))
    save(tmp_path / "dog" / "1.png", noise(400, 70))
    assert load_image_folder(tmp_path).input_shape == (3, 40, 40)
    for i in range(9):
        save(tmp_path / "dog" / f"large {i}.png", np.zeros((300, 260, 3), np.uint8))
    assert load_image_folder(tmp_path).input_shape == (3, 224, 224)
    assert data.load(f"image-folder:{tmp_path}", size=17).input_shape == (3, 17, 17)


def test_one_channel_only_if_every_picture_is_grey(tmp_path):
    plain(tmp_path)
    save(tmp_path / "cat" / "bits.png", Image.fromarray(noise(8, 8, 1)).convert("1"))
    save(tmp_path / "cat" / "alpha.png", Image.fromarray(noise(8, 8, 1)).convert("LA"))
    save(tmp_path / "cat" / "wide.png", Image.fromarray(noise(8, 8, 1).astype(np.uint16) * 257))
    assert load_image_folder(tmp_path).input_shape == (1, 8, 8)
    save(tmp_path / "dog" / "colour.png", noise(8, 8))
    assert load_image_folder(tmp_path).input_shape == (3, 8, 8)


def content(picture, kind="PNG", **options):
    out = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(out, kind, **options)
    return out.getvalue()


def planes(picture):
    """(C, H, W) of a PIL picture."""
    pixels = np.asarray(picture)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


@pytest.mark.parametrize("shape", [(20, 20), (40, 31), (13, 90), (7, 5)])
def test_a_picture_is_cut_to_its_middle_square_and_resized_as_pillow_does(shape):
    picture = Image.fromarray(noise(*shape))
    side = min(shape)
    left, top = (shape[1] - side) / 2, (shape[0] - side) / 2
    expected = picture.resize((16, 16), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    difference = decode(content(picture), 16, 3).astype(int) - planes(expected)
    assert abs(difference).max() <= 1


def test_grey_comes_out_of_colour_as_luma_and_colour_out_of_grey_as_three_equal_planes():
    picture = Image.fromarray(noise(9, 9))
    assert np.array_equal(decode(content(picture), 9, 1), planes(picture.convert("L")))
    grey = noise(9, 9, 1)
    assert np.array_equal(decode(content(grey), 9, 3), np.stack([grey] * 3))


def test_transparent_parts_lie_over_white():
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[0, 0] = (255, 0, 0, 255)
    pixels[1, 1] = (0, 0, 0, 128)
    decoded = decode(content(pixels), 4, 3)
    assert decoded[:, 0, 0].tolist() == [255, 0, 0]
    assert decoded[:, 3, 3].tolist() == [255, 255, 255]
    assert decoded[:, 1, 1].tolist() == [127, 127, 127]  # 255·(1 − 128/255)
    grey = Image.fromarray(np.array([[10, 20], [30, 40]], np.uint8))
    with_alpha = Image.merge("LA", (grey, Image.fromarray(np.array([[255, 0], [255, 255]], np.uint8))))
    assert decode(content(with_alpha), 2, 1).tolist() == [[[10, 255], [30, 40]]]


def test_a_palette_is_looked_up_also_where_one_of_its_colours_is_transparent():
    picture = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8)).convert("P")
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    assert decode(content(picture), 2, 3).tolist() == [[[255, 0], [0, 0]], [[0, 255], [0, 255]], [[0, 0], [255, 0]]]
    red_is_glass = decode(content(picture, transparency=0), 2, 3)
    assert red_is_glass[:, 0, 0].tolist() == [255, 255, 255]
    assert red_is_glass[:, 0, 1].tolist() == [0, 255, 0]


def test_cmyk_becomes_the_colours_that_pillow_sees_in_it():
    picture = Image.fromarray(smooth(32, 32)).convert("CMYK")
    body = content(picture, "JPEG", quality=95)
    assert not glance_of(body).is_grey
    expected = np.asarray(Image.open(io.BytesIO(body)).convert("RGB"))
    assert np.array_equal(decode(body, 32, 3), expected.transpose(2, 0, 1))
    assert abs(decode(body, 32, 3).transpose(1, 2, 0).astype(int) - smooth(32, 32)).mean() < 4


def glance_of(body):
    folder = Path(os.environ["HOME"])
    (folder / "glanced").write_bytes(body)
    return glance(folder / "glanced")


def test_16_bits_of_grey_become_8_without_being_cut_off():
    wide = np.array([[0, 257, 65535], [128, 32896, 1000], [129, 385, 386]], np.uint16)
    decoded = decode(content(Image.fromarray(wide)), 3, 1)
    assert decoded[0].tolist() == [[0, 1, 255], [0, 128, 4], [1, 1, 2]]  # round(v / 257)


def test_16_bits_of_colour_become_8():
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    row = b"\0" + struct.pack(">6H", 0, 0x8000, 0xFFFF, 0x1234, 0xFF00, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0))
    png += chunk(b"IDAT", zlib.compress(row + row)) + chunk(b"IEND", b"")
    decoded = decode(png, 2, 3).astype(int)
    assert abs(decoded[:, 0] - np.array([[0, 0x12], [0x80, 0xFF], [0xFF, 0]])).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_picture_is_turned_as_exif_says(orientation, kind):
    upright = Image.fromarray(smooth(24, 24))
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    decoded = decode(content(stored, kind, exif=exif, **options), 24, 3)
    assert abs(decoded.astype(int) - planes(upright)).max() <= 4


def test_a_large_photograph_decoded_at_a_part_of_its_size_looks_the_same():
    picture = Image.fromarray(smooth(600, 800))
    expected = ImageOps.fit(picture, (32, 32), Image.Resampling.BILINEAR)
    decoded = decode(content(picture, "JPEG", quality=95), 32, 3)
    assert abs(decoded.astype(int) - planes(expected)).max() <= 6


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_of_an_animated_file_the_first_frame_is_taken_and_that_is_said(tmp_path, kind):
    plain(tmp_path, size=16)
    frames = [Image.fromarray(np.full((16, 16), level, np.uint8)) for level in (200, 20, 90)]
    options = {"lossless": True} if kind == "WEBP" else {}
    save(tmp_path / "cat" / f"moves.{kind.lower()}", frames[0], save_all=True, append_images=frames[1:], **options)
    with pytest.warns(UserWarning, match=r"of 1 animated files the first frame is taken: cat/moves\.") as warned:
        dataset = load_image_folder(tmp_path)
    assert 200 in levels(torch.cat((dataset.train_images, dataset.test_images)))
    assert f"cat/moves.{kind.lower()}" in dataset.source
    assert len(warned) == 1


def test_what_is_not_animated_is_not_said_to_be(tmp_path):
    plain(tmp_path)
    two = [Image.fromarray(smooth(16, 16)), Image.fromarray(smooth(16, 16))]
    two[0].save(tmp_path / "cat" / "with preview.jpg", "MPO", save_all=True, append_images=two[1:])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = load_image_folder(tmp_path)
    assert dataset.source == f"{tmp_path}; 2 of 7 images held out with seed 0 as test set"


# what cannot be read


def bomb():
    """A PNG whose header names 10¹⁰ pixels."""
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    body = b"IHDR" + header
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return start + struct.pack(">I", 9) + b"IDAT"


BROKEN = {
    "empty.png": (b"", "is empty"),
    "text.jpg": (b"not a picture at all", "is not a picture"),
    "cut.jpg": (content(noise(64, 64), "JPEG")[:1500], "truncated"),
    "cut.png": (content(noise(64, 64))[:5000], "truncated"),
    "damaged.png": (content(noise(64, 64))[:60] + bytes(40) + content(noise(64, 64))[100:], ""),
    "bomb.png": (bomb(), "more than"),
    "float.tif": (content(Image.fromarray(noise(8, 8, 1).astype(np.float32)), "TIFF"), "floating-point"),
    "page.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not a picture"),
}


def test_files_that_cannot_be_read_are_left_out_and_listed_with_the_reason(tmp_path):
    plain(tmp_path, count=5)
    for name, (body, _) in BROKEN.items():
        (tmp_path / "cat" / name).write_bytes(body)
    with pytest.warns(UserWarning, match=f"{len(BROKEN)} of 18 files left out: .* and {len(BROKEN) - 3} more"):
        dataset = load_image_folder(tmp_path)
    assert set(dataset.skipped) == {f"cat/{name}" for name in BROKEN}
    for name, (_, reason) in BROKEN.items():
        assert reason in dataset.skipped[f"cat/{name}"], name
        assert "\n" not in dataset.skipped[f"cat/{name}"]
    assert sorted(levels(dataset.train_images) + levels(dataset.test_images)) == list(range(10))
    assert dataset.train_labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert f"{len(BROKEN)} of 18 files left out" in dataset.source


def test_a_broken_picture_changes_neither_the_split_of_the_others_nor_their_checksum(tmp_path):
    plain(tmp_path, count=12)
    before = load_image_folder(tmp_path)
    (tmp_path / "cat" / "03 broken.png").write_bytes(BROKEN["cut.png"][0])
    (tmp_path / "dog" / "00 broken.png").write_bytes(b"")
    with pytest.warns(UserWarning, match="2 of .* files left out"):
        after = load_image_folder(tmp_path)
    assert levels(after.train_images) == levels(before.train_images)
    assert levels(after.test_images) == levels(before.test_images)
    assert after.sha256 == before.sha256


@pytest.mark.skipif(os.name != "posix", reason="pipes and dangling links are posix's")
def test_what_is_no_file_is_left_out_and_never_waited_for(tmp_path):
    plain(tmp_path)
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    (tmp_path / "cat" / "link.png").symlink_to(tmp_path / "nowhere")
    with pytest.warns(UserWarning, match="2 of .* files left out"):
        dataset = load_image_folder(tmp_path)
    assert dataset.skipped == {"cat/link.png": "No such file or directory", "cat/pipe.png": "is not a file"}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_gives_unreadable_and_no_other_error(tmp_path, name):
    def read(path):
        glance(path)
        decode(path.read_bytes(), 8, 3)

    (tmp_path / name).write_bytes(BROKEN[name][0])
    with pytest.raises(Unreadable):
        read(tmp_path / name)


def test_a_lack_of_memory_is_no_broken_picture(tmp_path, monkeypatch):
    def exhausted(*arguments, **options):
        raise MemoryError

    plain(tmp_path)
    monkeypatch.setattr("byhand.data.pictures.ImageOps.fit", exhausted)
    with pytest.raises(MemoryError):
        load_image_folder(tmp_path)


# bad folders


def bad_none(folder):
    return "does not exist"


def bad_file(folder):
    folder.write_bytes(b"")
    return "is a file"


def bad_empty(folder):
    folder.mkdir()
    return "has no folders; expected two or more"


def bad_without_classes(folder):
    save(folder / "a.png", noise(8, 8))
    return "has no folders"


def bad_one_class(folder):
    plain(folder, classes=("cat",))
    return "has only one folder, cat; expected two or more, one for each class"


def bad_class_without_pictures(folder):
    plain(folder)
    (folder / "eel").mkdir()
    (folder / "eel" / "notes.txt").write_bytes(b"")
    return f"{folder / 'eel'} holds no picture"


def bad_no_readable(folder):
    for name in ("cat", "dog"):
        folder.joinpath(name).mkdir(parents=True)
        (folder / name / "a.png").write_bytes(b"no picture")
    return "none of its 2 pictures can be read: cat/a.png (is not a picture), dog/a.png (is not a picture)"


def bad_class_without_readable(folder):
    plain(folder)
    (folder / "eel").mkdir()
    (folder / "eel" / "a.png").write_bytes(BROKEN["cut.png"][0])
    return "no picture of eel for training can be read: eel/a.png ("


def bad_train_without_classes(folder):
    save(folder / "train" / "a.png", noise(8, 8))
    save(folder / "test" / "a.png", noise(8, 8))
    return f"{folder / 'train'} has no folders; expected one for each class"


def bad_one_class_in_train(folder):
    plain(folder / "train", classes=("cat",))
    plain(folder / "val", classes=("cat",))
    return f"{folder / 'train'} has only one folder, cat"


def bad_strange_class_in_test(folder):
    plain(folder / "train")
    plain(folder / "test", classes=("cat", "eel"))
    return f"{folder / 'test'} has eel, which {folder / 'train'} lacks"


def bad_empty_test(folder):
    plain(folder / "train")
    (folder / "test").mkdir()
    return f"{folder / 'test'} holds no picture"


def bad_unreadable_test(folder):
    plain(folder / "train")
    for name in ("cat", "dog"):
        (folder / "test" / name).mkdir(parents=True)
        (folder / "test" / name / "a.png").write_bytes(b"no picture")
    return "no picture of its test set can be read"


def bad_lone_pictures(folder):
    plain(folder, count=1)
    return "no picture is left for the test set"


BAD = [value for name, value in sorted(globals().items()) if name.startswith("bad_")]


@pytest.mark.parametrize("spoil", BAD, ids=lambda spoil: spoil.__name__[4:])
def test_a_folder_that_cannot_be_a_data_set_is_an_error_of_one_line(tmp_path, spoil):
    folder = tmp_path / "mine"
    message = spoil(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(DataError, match=re.escape(message)) as caught:
            data.load(f"image-folder:{folder}")
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"size": 0}, {"size": 2.5}, {"max_bytes": -1}, {"split_seed": -1}, {"size": True}])
def test_options_out_of_range_are_refused(tmp_path, options):
    with pytest.raises(SettingsError, match="must be a whole number"):
        load_image_folder(plain(tmp_path), **options)


def test_the_name_needs_a_path_and_only_image_folder_takes_one(tmp_path):
    for function in (data.load, data.get, data.check):
        with pytest.raises(DataError, match="write image-folder:PATH"):
            function("image-folder")
    with pytest.raises(UnknownName, match="unknown data set 'mnist:"):
        data.load("mnist:somewhere")


def test_a_relative_path_and_the_home_folder_are_understood(tmp_path, monkeypatch, home):
    plain(tmp_path / "mine")
    plain(home / "theirs")
    monkeypatch.chdir(tmp_path)
    assert data.load("image-folder:mine").name == f"image-folder:{tmp_path / 'mine'}"
    assert data.get("image-folder:~/theirs") == home / "theirs"


# get, check, status


def test_the_status_says_how_to_name_ones_own_folder():
    (row,) = [row for row in data.status() if row["name"] == "image-folder"]
    assert row["state"] == "yours"
    assert "image-folder:PATH" in row["note"]


def test_the_check_gives_the_checksum_and_a_line_for_each_file_left_out(tmp_path):
    plain(tmp_path)
    (tmp_path / "cat" / "bad.png").write_bytes(b"")
    with pytest.warns(UserWarning, match="1 of .* files left out"):
        whole, bad = data.check(f"image-folder:{tmp_path}")
    assert (whole["verdict"], len(whole["sha256"])) == ("yours", 64)
    assert whole["bytes"] == sum(path.stat().st_size for path in tmp_path.rglob("*.png"))
    assert (bad["file"], bad["verdict"], bad["note"]) == ("cat/bad.png", "left out", "is empty")


def test_the_checksum_is_that_of_paths_lengths_and_contents_in_order(tmp_path):
    plain(tmp_path)
    digest = hashlib.sha256()
    for path in sorted(tmp_path.rglob("*.png")):
        body = path.read_bytes()
        name = path.relative_to(tmp_path).as_posix()
        digest.update(f"{name}\0{len(body)}\0{hashlib.sha256(body).hexdigest()}\n".encode())
    before = load_image_folder(tmp_path).sha256
    assert before == {"images": digest.hexdigest()}
    save(tmp_path / "dog" / "01.png", np.full((8, 8), 250, np.uint8))
    assert load_image_folder(tmp_path).sha256 != before


# memory


def equal(one, other):
    return all(
        torch.equal(getattr(one, name), getattr(other, name))
        for name in ("train_images", "train_labels", "test_images", "test_labels")
    )


def cached(home):
    return sorted(folders.cache_root().joinpath("image-folder").iterdir())


def test_beyond_the_limit_the_images_lie_in_a_mapped_file_and_are_the_same(tmp_path, home):
    plain(tmp_path, count=40)
    (tmp_path / "cat" / "05 broken.png").write_bytes(BROKEN["cut.png"][0])
    with pytest.warns(UserWarning, match="1 of .* files left out"):
        whole = load_image_folder(tmp_path, size=8)
    with pytest.warns(UserWarning, match="1 of .* files left out"):
        mapped = load_image_folder(tmp_path, size=8, max_bytes=1000)
    assert equal(whole, mapped)
    assert mapped.sha256 == whole.sha256
    assert mapped.skipped == whole.skipped
    assert f"mapped from {folders.cache_root() / 'image-folder'}" in mapped.source
    record, pixels = cached(home)
    assert record.suffix == ".json"
    assert pixels.stat().st_size == 80 * 3 * 64  # the header of the broken one says that it has colours
    mapped.train_images[0] = 255  # changes the memory, never the file
    with pytest.warns(UserWarning, match="1 of .* files left out"):
        assert equal(whole, load_image_folder(tmp_path, size=8, max_bytes=1000))


def test_a_mapped_file_is_used_again_until_something_changes(tmp_path, home, monkeypatch):
    plain(tmp_path, count=10)
    decoded = []
    decode_all = image_arrays._decode
    monkeypatch.setattr(image_arrays, "_decode", lambda *a: decoded.append(1) or decode_all(*a))
    for changes, expected in (
        ({}, 1),
        ({}, 1),  # used again
        ({"size": 5}, 2),
        ({"split_seed": 3}, 3),
        ({}, 3),
    ):
        load_image_folder(tmp_path, max_bytes=0, **changes)
        assert len(decoded) == expected, changes
    save(tmp_path / "dog" / "99.png", np.full((8, 8), 200, np.uint8))
    changed = load_image_folder(tmp_path, max_bytes=0)
    assert 200 in levels(torch.cat((changed.train_images, changed.test_images)))
    assert len(decoded) == 4


def test_a_mapped_file_that_is_not_whole_is_made_anew(tmp_path, home):
    plain(tmp_path, count=10)
    whole = load_image_folder(tmp_path)
    load_image_folder(tmp_path, max_bytes=0)
    record, pixels = cached(home)
    os.truncate(pixels, 7)
    assert equal(whole, load_image_folder(tmp_path, max_bytes=0))
    for text in ("", "{}", json.dumps({"train_labels": [1]}), "[]"):
        record.write_text(text)
        assert equal(whole, load_image_folder(tmp_path, max_bytes=0))
    assert len(cached(home)) == 2


def test_a_disk_without_room_is_an_error_and_leaves_nothing(tmp_path, home, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    plain(tmp_path)
    monkeypatch.setattr(image_arrays, "_reserve", full)
    with pytest.raises(DataError, match=r"cannot be written there .No space left on device.; make room") as caught:
        load_image_folder(tmp_path, max_bytes=0)
    assert "\n" not in str(caught.value)
    assert cached(home) == []


def test_room_is_taken_on_the_disk_also_where_the_system_has_no_call_for_it(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    with open(tmp_path / "file", "wb") as file:
        image_arrays._reserve(file.fileno(), (5 << 20) + 3)
    assert (tmp_path / "file").stat().st_size == (5 << 20) + 3


def test_part_files_of_killed_processes_are_swept_after_a_day(tmp_path, home):
    plain(tmp_path)
    folder = folders.cache_root() / "image-folder"
    folder.mkdir(parents=True)
    old, new = folder / ".abc.1.part", folder / ".abc.2.part"
    for part in (old, new):
        part.write_bytes(b"")
    os.utime(old, (0, 0))
    load_image_folder(tmp_path, max_bytes=0)
    assert not old.exists()
    assert new.exists()


@pytest.mark.parametrize("seed", range(20))
def test_rows_are_put_in_order_in_place(seed):
    draws = np.random.default_rng(seed)
    order = draws.permutation(30)[: draws.integers(1, 31)].tolist()
    pixels = np.arange(30).reshape(30, 1, 1, 1)
    expected = pixels[order].copy()
    image_arrays._put_in_order(pixels, order)
    assert np.array_equal(pixels[: len(order)], expected)


def test_many_threads_give_what_one_gives(tmp_path, monkeypatch):
    for i in range(80):
        save(tmp_path / ("cat", "dog")[i % 2] / f"{i}.png", noise(20, 24, seed=i))
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    many = load_image_folder(tmp_path)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    assert equal(many, load_image_folder(tmp_path))
