"""Images labelled as in COCO: corners, gaps in the categories, outlines against pycocotools, and every fault."""

import json
import re
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from byhand import data
from byhand.data.coco_json import load_coco_json
from byhand.data.segments import BadOutline, decompress, mask_runs, outline_mask
from byhand.errors import DataError

CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]


def picture(path, size=(20, 30), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)).save(path)


def image(number, name=None, **more):
    return {"id": number, "file_name": name or f"{number}.png", "width": 20, "height": 30, **more}


def box(number, image_id, bbox=(1, 2, 5, 6), category=3, **more):
    return {"id": number, "image_id": image_id, "bbox": list(bbox), "category_id": category, **more}


def write(path, images, annotations, categories=CATEGORIES):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def plain(folder, annotations=None, images=None, train="instances_train.json", pictures="images"):
    """A training file of images 1 and 2, a test file of image 3, and the pictures."""
    for i in range(1, 4):
        picture(folder / pictures / f"{i}.png", seed=i)
    write(folder / train.replace("train", "val"), [image(3)], [box(1, 3)])
    default = [box(1, 1), box(2, 1, (0, 0, 20, 30), 7), box(3, 2)]
    return write(folder / train, images or [image(1), image(2)], default if annotations is None else annotations)


def quietly(path, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_coco_json(path, **options)


def test_width_and_height_become_corners_and_categories_with_gaps_become_names(tmp_path):
    dataset = load_coco_json(plain(tmp_path))
    assert (dataset.class_names, dataset.category_ids) == (("cat", "dog"), (3, 7))
    objects = dataset.train_objects[0]
    assert objects.boxes.tolist() == [[1, 2, 6, 8], [0, 0, 20, 30]]
    assert objects.labels.tolist() == [0, 1]
    assert objects.areas.tolist() == [30, 600]
    assert (objects.image, objects.image_id) == ("1.png", 1)
    assert len(dataset.test_objects) == 1
    assert not dataset.skipped


def test_categories_of_one_name_are_one_class_and_that_is_said(tmp_path):
    plain(tmp_path)
    categories = [{"id": 8, "name": "cat"}, {"id": 5, "name": "dog"}, {"id": 3, "name": " cat"}]
    annotations = [box(1, 1), box(2, 1, category=8), box(3, 2, category=5)]
    path = write(tmp_path / "instances_train.json", [image(1), image(2)], annotations, categories)
    dataset = load_coco_json(path)
    assert (dataset.class_names, dataset.category_ids) == (("cat", "dog"), (3, 5))
    assert [one.labels.tolist() for one in dataset.train_objects] == [[0, 0], [1]]
    assert "categories 3, 8 are one class: all are called cat" in dataset.source


def test_area_and_crowd_are_the_labels_own(tmp_path):
    path = plain(tmp_path, [box(1, 1, area=12.5, iscrowd=1), box(2, 1, area=float("nan")), box(3, 1, area=-1)])
    objects = load_coco_json(path).train_objects[0]
    assert objects.areas.tolist() == [12.5, 30, 30]
    assert objects.crowd.tolist() == [True, False, False]


def test_every_faulty_annotation_is_left_out_and_named_and_the_others_stay(tmp_path):
    faults = [
        (box(11, 1, (1, 2, 0, 5)), "no width"),
        (box(12, 1, (1, 2, 5, 0)), "no height"),
        (box(13, 1, (9, 9, -5, 5)), "a negative width"),
        (box(14, 1, (float("nan"), 2, 5, 5)), "is nan"),
        (box(15, 1, (1, 2, float("inf"), 5)), "is inf"),
        (box(16, 1, (50, 2, 5, 5)), "lies outside the image of 20 × 30"),
        (box(17, 1, (1, 2, 5)), "expected [x, y, width, height]"),
        (box(18, 1, category=4), "there is no category 4"),
        (box(19, 9), "there is no image 9"),
        (box(20, 1, ("a", 2, 5, 5)), "no number"),
        (box(21, 1, (1e9, 1, 1e-12, 5)), "has no width"),
        (box(22, "x"), "its image_id is 'x'"),
    ]
    again = [box(1, 1, (5, 5, 5, 5)), "nonsense", {"id": 30}]
    path = plain(tmp_path, [box(1, 1), *(fault for fault, _ in faults), *again])
    with pytest.warns(UserWarning, match="15 left out: "):
        dataset = load_coco_json(path)
    assert dataset.train_objects[0].boxes.tolist() == [[1, 2, 6, 8]]
    assert len(dataset.train_objects[1]) == 0  # an image without objects stays
    for fault, why in faults:
        assert why in dataset.skipped[f"instances_train.json, annotation {fault['id']}"], fault
    assert "was there before" in dataset.skipped["instances_train.json, annotation 1, again at 14"]


def test_every_faulty_image_is_left_out_and_named(tmp_path):
    images = [
        image(1),
        image(1, "2.png"),
        image(4, "nowhere.png"),
        image(5, "1.png"),
        image(6, "3.png"),
        {"id": 7},
        image(8, "text.png"),
        image(9, "2.png", width=99),
    ]
    path = plain(tmp_path, [box(1, 1)], images)
    (tmp_path / "images" / "text.png").write_text("no picture")
    dataset = quietly(path)
    assert [one.image for one in dataset.train_objects] == ["1.png"]
    whys = " ".join(f"{name}: {why};" for name, why in dataset.skipped.items())
    for text in (
        "image 1, again at 2: its id 1 was there before",
        "nowhere.png: there is no such image in",
        "1.png, image 5: its file is that of image 1",
        "3.png, for training: the test set has it, too",
        "image 7: its file_name is None",
        "text.png: its image cannot be used: is not a picture",
        "2.png: its label is of 99 × 30 pixels, the image has 20 × 30",
    ):
        assert text in whys, text
    assert len(dataset.skipped) == 7


@pytest.mark.parametrize(
    ("train", "pictures"),
    [
        ("instances_train.json", ""),
        ("annotations/instances_train.json", "images"),
        ("annotations/train.json", "train"),
        ("instances_train.json", "instances_train"),
    ],
)
def test_images_are_found_beside_the_labels_in_images_and_in_a_folder_of_the_same_name(tmp_path, train, pictures):
    for i in range(1, 3):
        picture(tmp_path / pictures / f"{i}.png", seed=i)
    path = write(tmp_path / train, [image(1), image(2)], [box(1, 1), box(2, 2)])
    named = load_coco_json(path)
    assert len(named.train_objects) + len(named.test_objects) == 2
    assert "held out with seed 0 as test set" in named.source
    assert load_coco_json(tmp_path).sha256 == named.sha256


def test_the_layouts_of_coco_and_of_roboflow_are_found_by_their_folder(tmp_path):
    for part in ("train", "val"):
        picture(tmp_path / "coco" / f"{part}2017" / "1.png", seed=sum(part.encode()))
        write(tmp_path / "coco" / "annotations" / f"instances_{part}2017.json", [image(1)], [box(1, 1)])
        write(tmp_path / "coco" / "annotations" / f"captions_{part}2017.json", [], [])
    for part in ("train", "valid"):
        picture(tmp_path / "robo" / part / "1.png", seed=sum(part.encode()))
        write(tmp_path / "robo" / part / "_annotations.coco.json", [image(1)], [box(1, 1)])
    for name in ("coco", "robo"):
        dataset = load_coco_json(tmp_path / name)
        assert (len(dataset.train_images), len(dataset.test_images)) == (1, 1)
        assert not torch.equal(dataset.train_images[0], dataset.test_images[0])


def test_a_name_that_leads_out_of_the_folder_is_only_its_last_part(tmp_path):
    picture(tmp_path / "secret.png")
    images = [image(1, "../secret.png"), image(2, "C:\\work\\2.png"), image(4, "/old/place/1.png")]
    dataset = quietly(plain(tmp_path / "mine", [box(1, 2), box(2, 4)], images))
    assert [one.image for one in dataset.train_objects] == ["2.png", "1.png"]
    assert "secret.png" in dataset.skipped


# outlines


def test_polygons_and_run_lengths_become_the_masks_that_pycocotools_gives(tmp_path):
    coco_mask = pytest.importorskip("pycocotools.mask")
    generator = np.random.default_rng(0)
    for trial in range(60):
        height, width = generator.integers(1, 60, 2).tolist()
        polygons = [
            (generator.uniform(-0.3, 1.3, (n, 2)) * [width, height])
            .round(int(generator.integers(0, 3)))
            .ravel()
            .tolist()
            for n in generator.integers(3, 9, generator.integers(1, 4))
        ]
        if trial % 5 == 0:
            polygons[0] += polygons[0][-2:]  # a corner twice
        theirs = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))).astype(bool)
        assert np.array_equal(outline_mask(polygons, height, width), theirs), (polygons, height, width)
        mask = generator.random((height, width)) < generator.random()
        coded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        for counts in (coded["counts"], coded["counts"].decode(), mask_runs(mask)):
            outline = {"size": [height, width], "counts": counts}
            assert np.array_equal(outline_mask(outline, height, width), mask)


def test_a_polygon_and_run_lengths_counted_by_hand():
    assert outline_mask([[1, 1, 4, 1, 4, 3, 1, 3]], 4, 5).astype(int).tolist() == [
        [0, 0, 0, 0, 0],
        [0, 1, 1, 1, 0],
        [0, 1, 1, 1, 0],
        [0, 0, 0, 0, 0],
    ]
    assert outline_mask({"size": [2, 3], "counts": [1, 2, 3]}, 2, 3).astype(int).tolist() == [[0, 1, 0], [1, 0, 0]]
    assert decompress("123") == [1, 2, 3]


@pytest.mark.parametrize(
    ("outline", "why"),
    [
        ([[1, 1, 2, 2]], "a polygon has 4 numbers"),
        ([[1, 1, 2, 2, 3]], "a polygon has 5 numbers"),
        ([[1, 1, 2, 2, 3, float("nan")]], "leaves the image"),
        ([[1, 1, 2, 2, 1e9, 3]], "leaves the image of 6 × 5 by more than its size"),
        ([[1, 1, 2, 2, 10**400, 3]], "leaves the image of 6 × 5 by more than its size"),
        ([[1, 1, 2, 2, "a", 3]], "no number"),
        (["111111"], "a polygon has no numbers"),
        ("text", "neither a list of polygons nor run lengths"),
        ({"size": [6, 5], "counts": [30]}, "of [6, 5] pixels, the image has [5, 6]"),
        ({"size": [5, 6], "counts": [29]}, "sum to 29, expected 30"),
        ({"size": [5, 6], "counts": [31, -1]}, "not all whole numbers"),
        ({"size": [5, 6], "counts": None}, "not all whole numbers"),
        ({"size": [5, 6], "counts": "\x01"}, "a character that cannot occur"),
        ({"size": [5, 6], "counts": "P"}, "are cut off"),
    ],
)
def test_an_outline_that_gives_no_mask_says_why(outline, why):
    with pytest.raises(BadOutline, match=re.escape(why)):
        outline_mask(outline, 5, 6)


def test_masks_are_drawn_when_asked_for_and_objects_without_a_sound_outline_are_left_out(tmp_path):
    square = [[1, 2, 6, 2, 6, 8, 1, 8]]
    runs = {"size": [30, 20], "counts": [30, 30, 540]}
    path = plain(
        tmp_path,
        [
            box(1, 1, segmentation=square),
            box(2, 1, (1, 0, 1, 30), segmentation=runs, iscrowd=1),
            box(3, 2, segmentation=square),
            box(4, 2, segmentation=[]),
            box(5, 2, segmentation=[[1, 2, 3]]),
        ],
    )
    write(tmp_path / "instances_val.json", [image(3)], [box(1, 3, segmentation=square)])
    dataset = quietly(path)
    assert dataset.has_masks
    masks = dataset.train_objects[0].masks
    assert masks.shape == (2, 30, 20)
    assert masks[0].nonzero().amin(0).tolist() == [2, 1]
    assert int(masks[0].sum()) == 30
    assert masks[1].any(0).nonzero().ravel().tolist() == [1]
    assert [len(one) for one in dataset.train_objects] == [2, 1]
    assert set(dataset.skipped) == {f"instances_train.json, annotation {n}" for n in (4, 5)}
    assert dataset.hold_out(0.5).test_objects[0].masks is not None


def test_where_few_objects_have_an_outline_there_are_no_masks_and_none_is_left_out(tmp_path):
    path = plain(tmp_path, [box(1, 1, segmentation=[[1, 2, 6, 2, 6, 8]]), box(2, 1), box(3, 2)])
    dataset = load_coco_json(path)
    assert not dataset.has_masks
    assert dataset.train_objects[0].masks is None
    assert "no masks: only 1 of 4 objects have an outline" in dataset.source
    assert not dataset.skipped


# what is no COCO file


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is no sound JSON"),
        ("{", "is no sound JSON"),
        ("[" * 100000, "is no sound JSON"),
        ("[]", "holds a list; a COCO file of instances has the lists"),
        ('{"shapes": []}', "has no 'images', only 'shapes'"),
        ('{"images": [], "annotations": {}, "categories": []}', "its 'annotations' is {}"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "has no image"),
        ('{"images": [{"id": 1, "file_name": "a.png"}], "annotations": [], "categories": []}', "has no category"),
        (
            '{"images": [{"id": 1, "file_name": "a.png"}], "annotations": [], "categories": [{"id": 1, "name": "a"}]}',
            "none of its images is left for training: a.png (there is no such image in",
        ),
    ],
)
def test_what_is_no_coco_file_of_instances_is_an_error_of_one_line(tmp_path, text, why):
    path = tmp_path / "labels.json"
    path.write_text(text)
    with pytest.raises(DataError, match=re.escape(why)) as caught:
        quietly(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_place_without_labels_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"nowhere does not exist; coco-json:PATH needs"):
        data.load_detection(f"coco-json:{tmp_path / 'nowhere'}")
    with pytest.raises(DataError, match="holds no label file"):
        data.load_detection(f"coco-json:{tmp_path}")
    with pytest.raises(DataError, match="write coco-json:PATH"):
        data.check("coco-json")


def test_the_check_says_what_a_file_holds(byhand, tmp_path):
    path = plain(tmp_path, [box(1, 1), box(2, 1, (0, 0, 0, 5)), box(3, 2, (-5, 0, 10, 10), 7)])
    rows = {row["file"]: row for row in byhand("data", "check", f"coco-json:{path}", "--json").records}
    assert rows["class cat"]["counts"] == {"train": 1, "test": 1}
    assert rows["train images"]["counts"] == {"images": 2, "empty": 0, "boxes": 2, "ignored": 0}
    assert rows["instances_train.json, annotation 2"]["verdict"] == "left out"
    assert rows["instances_train.json, annotation 3"]["verdict"] == "changed"


def test_faults_of_two_files_of_one_name_are_all_counted(tmp_path):
    for part in ("train", "valid"):
        picture(tmp_path / part / "1.png", seed=sum(part.encode()))
        faulty = box(2, 1, bbox=(1, 2, 0, 6))
        write(tmp_path / part / "_annotations.coco.json", [image(1), image(4, "4.png")], [box(1, 1), faulty])
    skipped = quietly(tmp_path).skipped
    assert set(skipped) == {
        "_annotations.coco.json, annotation 2",
        "valid/_annotations.coco.json, annotation 2",
        "4.png",
        "valid/4.png",
    }


def test_the_checksum_of_the_labels_is_over_the_outlines_too(tmp_path):
    def checksum(x, box_alone=False):
        more = {} if box_alone else {"segmentation": [[x, 2, 6, 2, 6, 8, 1, 8]]}
        plain(tmp_path / "a", [box(i + 1, i + 1, **more) for i in range(2)])
        return quietly(tmp_path / "a").sha256["labels"]

    assert checksum(1) == checksum(1)
    assert len({checksum(1), checksum(2), checksum(1, box_alone=True)}) == 3
