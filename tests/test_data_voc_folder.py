"""Images labelled as in Pascal VOC: coordinates, lists, every fault of a label, and the real BCCD."""

import os
import re
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from byhand import data
from byhand.data.voc_folder import load_voc_folder
from byhand.errors import DataError, SettingsError

REAL_DATA = os.environ.get("BYHAND_DATA")
needs_bccd = pytest.mark.skipif(
    not REAL_DATA or not os.path.isdir(os.path.join(REAL_DATA or "", "bccd")), reason="BYHAND_DATA has no folder bccd"
)


def obj(name="cat", box=(1, 1, 10, 10), extra=""):
    bounds = "".join(
        f"<{side}>{value}</{side}>" for side, value in zip(["xmin", "ymin", "xmax", "ymax"], box, strict=True)
    )
    return f"<object><name>{name}</name>{extra}<bndbox>{bounds}</bndbox></object>"


def label(folder, stem, *objects, size=(20, 30), said_size=None, picture=True):
    """An image of 20 wide and 30 high, and its annotation."""
    for name in ("Annotations", "JPEGImages"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    width, height = said_size or size
    said = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    text = f"<annotation><filename>{stem}.png</filename>{said}{''.join(objects)}</annotation>"
    (folder / "Annotations" / f"{stem}.xml").write_text(text)
    if picture:
        seed = sum(stem.encode())
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).save(folder / "JPEGImages" / f"{stem}.png")


def lists(folder, **parts):
    (folder / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
    for name, lines in parts.items():
        (folder / "ImageSets" / "Main" / f"{name}.txt").write_text("\n".join(lines) + "\n")


def plain(folder):
    label(folder, "a", obj("dog", (1, 1, 20, 30)), obj("cat", (3, 5, 10, 9)))
    label(folder, "b", obj("cat", (2, 2, 8, 8)))
    lists(folder, train=["a"], test=["b"])
    return folder


def quietly(folder, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_voc_folder(folder, **options)


def test_pixels_counted_from_one_become_edges_and_classes_are_in_alphabetical_order(tmp_path):
    dataset = load_voc_folder(plain(tmp_path))
    assert dataset.class_names == ("cat", "dog")
    (objects,) = dataset.train_objects
    assert objects.boxes.tolist() == [[0, 0, 20, 30], [2, 4, 10, 9]]  # the first covers the whole image
    assert objects.labels.tolist() == [1, 0]
    assert objects.areas.tolist() == [600, 40]
    assert (objects.image, objects.masks) == ("a", None)
    stored = np.asarray(Image.open(tmp_path / "JPEGImages" / "a.png")).transpose(2, 0, 1)
    assert np.array_equal(dataset.train_images[0].numpy(), stored)
    assert dataset.test_objects[0].boxes.tolist() == [[1, 1, 8, 8]]
    assert dataset.category_ids == (1, 2)
    assert not dataset.skipped


def test_labels_that_begin_at_zero_more_often_than_at_one_stay_as_they_are(tmp_path):
    label(tmp_path, "a", obj(box=(0, 0, 5, 5)), obj(box=(0, 1, 5, 5)))
    label(tmp_path, "b", obj(box=(4, 6, 9, 9)))
    lists(tmp_path, train=["a"], test=["b"])
    dataset = load_voc_folder(tmp_path)
    assert dataset.train_objects[0].boxes.tolist() == [[0, 0, 5, 5], [0, 1, 5, 5]]
    assert dataset.test_objects[0].boxes.tolist() == [[4, 6, 9, 9]]
    assert "pixels count from 0" in dataset.source


def test_every_faulty_object_is_left_out_and_named_and_the_others_stay(tmp_path):
    nan, big = "nan", "1e999"
    faults = [
        (obj(box=(4, 4, 4, 9)), "no width"),
        (obj(box=(4, 9, 8, 9)), "no height"),
        (obj(box=(9, 4, 4, 9)), "inverted"),
        (obj(box=(nan, 4, 8, 9)), "xmin is nan"),
        (obj(box=(1, 4, big, 9)), "xmax is inf"),
        (obj(box=(1, 4, "x", 9)), "no number"),
        (obj(box=(1, 4, "", 9)), "no number"),
        (obj(box=(25, 4, 30, 9)), "lies outside the image of 20 × 30"),
        (obj(box=(-9, 4, -5, 9)), "lies outside"),
        (obj(name=" "), "has no class name"),
        ("<object><name>cat</name></object>", "has no bndbox"),
        ("<object><name>cat</name><bndbox><xmin>1</xmin></bndbox></object>", "no number"),
    ]
    label(tmp_path, "a", *(text for text, _ in faults), obj(box=(2, 3, 8, 9)))
    label(tmp_path, "b", obj())
    lists(tmp_path, train=["a"], test=["b"])
    with pytest.warns(UserWarning, match=r"12 left out: a\.xml, object") as caught:
        dataset = load_voc_folder(tmp_path)
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    assert dataset.train_objects[0].boxes.tolist() == [[1, 2, 8, 9]]
    assert set(dataset.skipped) == {f"a.xml, object {i + 1}" for i in range(12)}
    for i, (_, why) in enumerate(faults):
        assert why in dataset.skipped[f"a.xml, object {i + 1}"]


def test_a_box_that_leaves_the_image_is_cut_at_its_border_and_said(tmp_path):
    label(tmp_path, "a", obj(box=(-5, 11, 40, 50)), obj(box=(1, 1, 20.5, 30)))
    label(tmp_path, "b", obj())
    lists(tmp_path, train=["a"], test=["b"])
    dataset = quietly(tmp_path)
    assert dataset.train_objects[0].boxes.tolist() == [[0, 10, 20, 30], [0, 0, 20, 30]]
    assert list(dataset.changed) == ["a.xml, object 1"]  # half a pixel is rounding
    assert dataset.train_objects[0].areas[0] == 400


def test_every_faulty_image_is_left_out_and_named(tmp_path):
    plain(tmp_path)
    label(tmp_path, "no picture", obj(), picture=False)
    label(tmp_path, "cut", obj())
    path = tmp_path / "JPEGImages" / "cut.png"
    path.write_bytes(path.read_bytes()[:200])
    label(tmp_path, "text", obj())
    (tmp_path / "JPEGImages" / "text.png").write_text("no picture")
    label(tmp_path, "other size", obj(), said_size=(300, 200))
    label(tmp_path, "broken", obj())
    (tmp_path / "Annotations" / "broken.xml").write_text("<annotation><object>")
    label(tmp_path, "html", obj())
    (tmp_path / "Annotations" / "html.xml").write_text("<html></html>")
    label(tmp_path, "no label", obj())
    (tmp_path / "Annotations" / "no label.xml").unlink()
    label(tmp_path, "bomb", obj())
    bomb = (
        '<!DOCTYPE a [<!ENTITY b "cat"><!ENTITY c "&b;&b;">]><annotation><object><name>&c;</name></object></annotation>'
    )
    (tmp_path / "Annotations" / "bomb.xml").write_text(bomb)
    label(tmp_path, "wide bomb", obj())
    (tmp_path / "Annotations" / "wide bomb.xml").write_bytes(bomb.encode("utf-16"))
    bad = {
        "no picture": "no image of this name",
        "cut": "its image cannot be used",
        "text": "is not a picture",
        "other size": "its label is of 300 × 200 pixels, the image has 20 × 30",
        "broken": "no sound XML",
        "html": "expected an annotation",
        "no label": "has no annotation",
        "bomb": "has a DOCTYPE",
        "wide bomb": "has a DOCTYPE",
        "nowhere": "neither an annotation nor an image",
    }
    lists(tmp_path, train=["a", *bad, "a", "b"], test=["b"])
    dataset = quietly(tmp_path)
    assert [one.image for one in dataset.train_objects] == ["a"]
    assert len(dataset.train_images) == 1
    assert set(dataset.skipped) == {*bad, "a, listed again", "b, for training"}
    for name, why in bad.items():
        assert why in dataset.skipped[name], name


def test_an_image_without_objects_stays(tmp_path):
    plain(tmp_path)
    label(tmp_path, "empty")
    lists(tmp_path, train=["a", "empty"])
    dataset = load_voc_folder(tmp_path)
    objects = dataset.train_objects[1]
    assert (len(objects), objects.boxes.shape, objects.labels.dtype) == (0, (0, 4), torch.int64)


def test_a_size_of_zero_in_the_label_says_nothing(tmp_path):
    label(tmp_path, "a", obj(), said_size=(0, 0))
    label(tmp_path, "b", obj())
    lists(tmp_path, train=["a"], test=["b"])
    assert len(load_voc_folder(tmp_path).train_objects[0]) == 1


def test_a_picture_that_exif_turns_is_seen_as_its_label_is(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by a quarter
    pixels = np.random.default_rng(0).integers(0, 256, (30, 20, 3), np.uint8)
    for stem, said in (("a", (20, 30)), ("b", (30, 20))):
        label(tmp_path, stem, obj(), said_size=said)
        Image.fromarray(pixels).save(tmp_path / "JPEGImages" / f"{stem}.png", exif=turned)
    lists(tmp_path, train=["a"], test=["b"])
    dataset = load_voc_folder(tmp_path)
    assert np.array_equal(dataset.train_images[0].permute(1, 2, 0).numpy(), pixels)
    assert np.array_equal(dataset.test_images[0].permute(1, 2, 0).numpy(), np.rot90(pixels, -1))


def test_lists_are_chosen_by_name_or_in_the_usual_order(tmp_path):
    for stem in "abcd":
        label(tmp_path, stem, obj())
    lists(tmp_path, train=["a"], val=["b"], trainval=["a", "b"], test=["c"])

    def parts(**options):
        dataset = load_voc_folder(tmp_path, **options)
        return ["".join(one.image for one in part) for part in (dataset.train_objects, dataset.test_objects)]

    assert parts() == ["a", "c"]
    assert parts(train="trainval") == ["ab", "c"]
    assert parts(test="val") == ["a", "b"]
    (tmp_path / "ImageSets" / "Main" / "test.txt").unlink()
    assert parts() == ["a", "b"]
    assert "2 annotated images are in no list: c, d" in load_voc_folder(tmp_path).source
    with pytest.raises(DataError, match=r"has no dev\.txt, only train, trainval, val"):
        load_voc_folder(tmp_path, train="dev")


def test_a_list_stands_for_its_folder_and_names_the_training_images(byhand, tmp_path):
    for stem in "abcd":
        label(tmp_path, stem, obj())
    lists(tmp_path, train=["a"], val=["b"], trainval=["a", "b"], test=["c"])
    path = tmp_path / "ImageSets" / "Main" / "trainval.txt"
    dataset = data.load_detection(f"voc-folder:{path}")
    assert [one.image for one in dataset.train_objects] == ["a", "b"]
    assert [one.image for one in dataset.test_objects] == ["c"]
    assert dataset.name == f"voc-folder:{path}"
    assert "is not used" not in dataset.source  # trainval.txt holds both of the other lists
    assert "val.txt is not used" in load_voc_folder(tmp_path).source
    assert byhand("data", "check", f"voc-folder:{path}").code == 0
    with pytest.raises(DataError, match="names the training images, and so does train='val'"):
        load_voc_folder(path, train="val")
    elsewhere = tmp_path / "trainval.txt"
    elsewhere.write_text("a")
    with pytest.raises(DataError, match="is a file; voc-folder:PATH needs"):
        load_voc_folder(elsewhere)


def test_without_lists_a_tenth_is_held_out_the_same_every_time_and_hold_out_splits_again(tmp_path):
    for i in range(20):
        label(tmp_path, f"{i:02}", obj(box=(1, 1, i + 1, 10)) if i else "")
    dataset = load_voc_folder(tmp_path)
    names = [[one.image for one in part] for part in (dataset.train_objects, dataset.test_objects)]
    assert sorted(names[0] + names[1]) == [f"{i:02}" for i in range(20)]
    assert len(names[1]) == 2
    again = load_voc_folder(tmp_path)
    assert names == [[one.image for one in part] for part in (again.train_objects, again.test_objects)]
    assert again.sha256 == dataset.sha256
    held = dataset.hold_out(0.5)
    assert len(held.test_images) == len(held.test_objects) == 9
    stored = {path.stem: np.asarray(Image.open(path)) for path in (tmp_path / "JPEGImages").iterdir()}
    for images, objects in ((held.train_images, held.train_objects), (held.test_images, held.test_objects)):
        for image, one in zip(images, objects, strict=True):
            assert np.array_equal(image.permute(1, 2, 0).numpy(), stored[one.image])
    with pytest.raises(SettingsError, match="hold-out fraction"):
        dataset.hold_out(1.0)


def test_images_of_several_sizes_are_a_list_and_beyond_the_limit_decoded_when_asked_for(tmp_path):
    label(tmp_path, "a", obj())
    label(tmp_path, "b", obj(), size=(41, 13))
    label(tmp_path, "c", obj())
    lists(tmp_path, train=["a", "b"], test=["c"])
    kept, lazy = load_voc_folder(tmp_path), load_voc_folder(tmp_path, max_bytes=0)
    assert [image.shape for image in kept.train_images] == [(3, 30, 20), (3, 13, 41)]
    assert isinstance(kept.test_images, torch.Tensor)
    assert all(one.equal(other) for one, other in zip(kept.train_images, lazy.train_images, strict=True))
    assert "decoded when they are asked for" in lazy.source
    (tmp_path / "JPEGImages" / "b.png").unlink()
    with pytest.raises(DataError, match=r"b\.png: .*No such file.*could be read when the data set was loaded"):
        lazy.train_images[1]


def test_masks_come_from_segmentation_object_in_the_order_of_the_objects(tmp_path):
    label(tmp_path, "a", obj(box=(1, 1, 5, 5)), obj(box=(7, 7, 9, 9)))
    label(tmp_path, "b", obj(box=(1, 1, 5, 5)))
    (tmp_path / "SegmentationObject").mkdir()
    values = np.zeros((30, 20), np.uint8)
    values[:5, :5] = 1
    values[5:7] = 255
    values[7:9, 7:9] = 2
    for stem in "ab":
        picture = Image.fromarray(values).convert("P")
        picture.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
        picture.putdata(values.reshape(-1).tolist())
        picture.save(tmp_path / "SegmentationObject" / f"{stem}.png")
    lists(tmp_path, train=["a"], test=["b"])
    dataset = load_voc_folder(tmp_path)
    assert dataset.has_masks
    masks = dataset.train_objects[0].masks
    assert np.array_equal(masks.numpy(), np.stack((values == 1, values == 2)))


def bad_none(folder):
    return "does not exist"


def bad_file(folder):
    folder.write_text("")
    return "is a file"


def bad_empty(folder):
    folder.mkdir()
    return "has no folders Annotations and JPEGImages"


def bad_no_annotation(folder):
    label(folder, "a", obj())
    (folder / "Annotations" / "a.xml").unlink()
    return "has no annotation to train on"


def bad_no_object(folder):
    label(folder, "a", obj(box=(5, 5, 5, 5)))
    label(folder, "b")
    lists(folder, train=["a"], test=["b"])
    return "no object in its annotations can be used"


def bad_only_test_objects(folder):
    label(folder, "a")
    label(folder, "b", obj())
    lists(folder, train=["a"], test=["b"])
    return "no object for training is left in 1 images"


def bad_one_image(folder):
    label(folder, "a", obj())
    return "no test image is left"


def bad_several(folder):
    plain(folder / "one")
    plain(folder / "two")
    return "holds several data sets"


BAD = [value for name, value in sorted(globals().items()) if name.startswith("bad_")]


@pytest.mark.parametrize("spoil", BAD, ids=lambda spoil: spoil.__name__[4:])
def test_what_cannot_be_a_data_set_is_an_error_of_one_line(tmp_path, spoil):
    folder = tmp_path / "mine"
    message = spoil(folder)
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        quietly(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_around_the_only_data_set_will_do(tmp_path):
    plain(tmp_path / "VOCdevkit" / "VOC2012")
    assert len(load_voc_folder(tmp_path).train_objects[0]) == 2


def test_the_name_needs_a_path_and_labels_are_not_boxes(tmp_path):
    with pytest.raises(DataError, match="write voc-folder:PATH"):
        data.load_detection("voc-folder")
    with pytest.raises(DataError, match="has boxes around objects, not one label an image"):
        data.load(f"voc-folder:{tmp_path}")
    with pytest.raises(DataError, match=r"mnist has no boxes .* choose among digits-scene, voc-folder, coco-json"):
        data.load_detection("mnist")


def test_the_check_counts_the_boxes_of_each_class_and_names_what_was_left_out(byhand, tmp_path):
    plain(tmp_path)
    label(tmp_path, "a", obj("dog", (1, 1, 20, 30)), obj("cat", (3, 5, 10, 9)), obj("dog", (5, 5, 5, 5)))
    label(tmp_path, "unused", obj("cat", (9, 9, 2, 9)))
    lists(tmp_path, val=["unused"])
    said = byhand("data", "check", f"voc-folder:{tmp_path}", "--json")
    assert said.code == 0
    rows = {row["file"]: row for row in said.records}
    assert rows["class cat"]["counts"] == {"train": 1, "test": 1}
    assert rows["class dog"]["counts"] == {"train": 1, "test": 0}
    assert "its AP is not a number" in rows["class dog"]["note"]
    assert rows["sizes of boxes"]["counts"] == {"small": 3, "medium": 0, "large": 0}
    assert rows["sizes of images"]["note"] == "all 20 × 30 pixels"
    assert (rows["a.xml, object 3"]["verdict"], rows["unused.xml, object 1"]["verdict"]) == ("left out", "not used")
    assert byhand("data", "get", f"voc-folder:{tmp_path}", "--json").records[0]["path"] == str(tmp_path)
    assert "class dog" in byhand("data", "check", f"voc-folder:{tmp_path}").out


@needs_bccd
def test_bccd_has_its_published_counts_but_for_two_boxes_of_no_width(byhand):
    dataset = quietly(os.path.join(REAL_DATA, "bccd"), train="trainval")
    assert dataset.train_images.shape == (292, 3, 480, 640)
    assert len(dataset.test_images) == 72
    assert set(dataset.skipped) == {"BloodImage_00343.xml, object 4", "BloodImage_00338.xml, object 13"}
    everything = [*dataset.train_objects, *dataset.test_objects]
    counts = torch.cat([one.labels for one in everything]).bincount().tolist()
    # 4,155 red cells, 372 white cells and 361 platelets are in the files; both faulty boxes are red cells.
    assert dict(zip(dataset.class_names, counts, strict=True)) == {"Platelets": 361, "RBC": 4153, "WBC": 372}
    boxes = torch.cat([one.boxes for one in everything])
    assert boxes.amin(0)[:2].tolist() == [0, 0]
    assert boxes.amax(0)[2:].tolist() == [640, 480]
    assert "pixels count from 1" in dataset.source
