"""Bad input to detectors, as a user meets it: one line and exit code 2, or a right answer; never a traceback."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import byhand
from byhand.errors import SettingsError
from byhand.recipes.own_detector import own_detector

NARROW = {"num_classes": 3, "width": 4, "min_size": 32, "max_size": 64, "box_score_thresh": 0.0}


def noise(*shape, high=255, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, high, shape).astype(dtype)


def coco(folder, annotations, images=6):
    """A COCO file of pictures of 40 × 40, with the classes cat and dog."""
    folder.mkdir()
    for i in range(images):
        Image.fromarray(noise(40, 40, 3)).save(folder / f"{i}.png")
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 40, "height": 40} for i in range(images)],
        "annotations": annotations,
        "categories": [{"id": 3, "name": "cat"}, {"id": 8, "name": "dog"}],
    }
    (folder / "labels.json").write_text(json.dumps(content))
    return f"coco-json:{folder / 'labels.json'}"


def cats(images=6):
    return [
        {"id": i + 1, "image_id": i, "category_id": 3, "bbox": [5, 6, 20, 22], "area": 440, "iscrowd": 0}
        for i in range(images)
    ]


def narrow(*arguments):
    return replace(own_detector(*arguments), options=NARROW)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A finished run on cats, where the class dog has no example."""
    from byhand import jobs

    folder = tmp_path_factory.mktemp("told")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("byhand.assembly.own_detector", narrow)
        data = coco(folder / "cats", cats())
        return jobs.train(
            network="fasterrcnn", dataset=data, epochs=1, batch_size=2, threads=1, runs_dir=folder / "runs"
        )


PICTURES = {
    "of one colour": np.full((50, 50, 3), 90, np.uint8),
    "of one pixel": np.full((1, 1, 3), 90, np.uint8),
    "8,000 pixels wide": noise(60, 8000, 3),
    "of one row": noise(1, 500, 3),
    "of one column": noise(500, 1, 3),
    "grey": noise(40, 50),
    "of 16 bits": noise(40, 50, high=65535, dtype=np.uint16),
    "with transparency": noise(40, 50, 4),
    "of two colours": noise(40, 50, high=2).astype(bool),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_detect_answers_for_a_picture(kind, told, byhand, tmp_path):
    path = tmp_path / "odd.png"
    Image.fromarray(PICTURES[kind]).save(path)
    said = byhand("detect", told.path, path, "--output", tmp_path / "out", "--json")
    assert said.code == 0, said
    height, width = PICTURES[kind].shape[:2]
    results = json.loads((tmp_path / "out" / "detections.json").read_text())
    for one in results:
        x, y, w, h = one["bbox"]
        assert x >= 0
        assert y >= 0
        assert x + w <= width + 1e-3
        assert y + h <= height + 1e-3
        assert 0 <= one["score"] <= 1
        assert one["category_id"] in (3, 8)
    with Image.open(tmp_path / "out" / "odd.png") as drawn:
        assert max(drawn.size) < 3000


def test_a_picture_that_is_none_is_refused_before_any_is_answered(told, refused, tmp_path):
    Image.fromarray(noise(60, 60, 3)).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    out = tmp_path / "out"
    for name, reason in (
        ("cut.png", "truncated"),
        ("text.png", "is not a picture"),
        ("empty.png", "is empty"),
        ("none.png", "No such file"),
        (".", "is not a file"),
    ):
        said = refused("detect", told.path, tmp_path / "whole.png", tmp_path / name, "--output", out)
        assert reason in said
        assert not out.exists()


def test_an_image_without_any_proposal_has_no_detection(told, byhand, tmp_path, monkeypatch):
    model = told.model()
    model.rpn.rules = replace(model.rpn.rules, score_thresh=1.0)
    monkeypatch.setattr("byhand.runs.run.Run.model", lambda run: model)
    Image.fromarray(noise(40, 40, 3)).save(tmp_path / "one.png")
    said = byhand("detect", told.path, tmp_path / "one.png", "--output", tmp_path, "--threshold", 0)
    assert said.code == 0, said
    assert "nothing with a score of 0 or more" in said.out
    assert json.loads((tmp_path / "detections.json").read_text()) == []
    measured = byhand("evaluate", told.path, "--json")
    assert measured.code == 0, measured
    assert measured.records[0]["AP"] == 0
    assert measured.records[0]["loss"] > 0
    drawn = byhand("plot", told.path, "proposals", "matches", "roi-grid")
    assert drawn.code == 0, drawn


@pytest.mark.parametrize(
    ("layer", "what"),
    [("rpn.head.bbox_pred", "offsets of image 0"), ("roi_heads.box_predictor.bbox_pred", "offsets of proposal 0")],
)
def test_offsets_that_are_no_numbers_are_told_with_their_layer(layer, what, told, refused, tmp_path, monkeypatch):
    model = told.model()
    with torch.no_grad():
        model.get_submodule(layer).bias[1] = torch.nan
    monkeypatch.setattr("byhand.runs.run.Run.model", lambda run: model)
    Image.fromarray(noise(40, 40, 3)).save(tmp_path / "one.png")
    for command in (["detect", told.path, tmp_path / "one.png"], ["evaluate", told.path], ["plot", told.path]):
        said = refused(*command)
        assert what in said
        assert layer in said


def test_a_class_without_examples_has_no_ap_and_that_is_said(told, byhand):
    (result,) = byhand("evaluate", told.path, "--json").records
    assert result["absent"] == ["dog"]
    assert result["classes"]["dog"]["AP"] is None
    assert result["classes"]["cat"]["AP"] == result["AP"]  # the mean is that of the others
    table = byhand("evaluate", told.path)
    assert table.code == 0
    assert "no objects of dog: not in the means" in table.out


def test_a_training_says_which_class_had_no_examples(byhand, tmp_path, monkeypatch):
    monkeypatch.setattr("byhand.assembly.own_detector", narrow)
    data = coco(tmp_path / "cats", cats())
    said = byhand(
        "train", "--network", "fasterrcnn", "--dataset", data, "--epochs", 2, "--batch-size", 3, "--threads", 1,
        "--runs-dir", tmp_path / "runs", "--no-plots",
    )  # fmt: skip
    assert said.code == 0, said
    assert "no objects of dog: not in the means" in said.out
    assert said.err.count("the training images show nothing to learn of dog; never to be found") == 1


def test_an_empty_data_set_is_refused_in_one_line_and_leaves_no_run(refused, tmp_path):
    runs = tmp_path / "runs"

    def train(data):
        return refused("train", "--network", "fasterrcnn", "--dataset", data, "--runs-dir", runs)

    voc = tmp_path / "voc"
    for folder in ("Annotations", "JPEGImages"):
        (voc / folder).mkdir(parents=True)
    assert "no annotation" in train(f"voc-folder:{voc}")
    empty = {"images": [], "annotations": [], "categories": []}
    (tmp_path / "empty.json").write_text(json.dumps(empty))
    assert "has no image" in train(f"coco-json:{tmp_path / 'empty.json'}")
    assert "no object for training" in train(coco(tmp_path / "bare", []))
    (tmp_path / "lists.json").write_text(json.dumps({"images": []}))
    assert "has no 'annotations'" in train(f"coco-json:{tmp_path / 'lists.json'}")
    (tmp_path / "half.json").write_text("[")
    assert "no sound JSON" in train(f"coco-json:{tmp_path / 'half.json'}")
    assert "does not exist" in train(f"coco-json:{tmp_path / 'none.json'}")
    assert not runs.exists()


def test_pictures_of_one_name_are_all_written_also_beside_one_that_is_called_like_their_number(told, byhand, tmp_path):
    paths = [tmp_path / "a" / "x.png", tmp_path / "b" / "x.png", tmp_path / "x-2.png"]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(noise(20, 20, 3)).save(path)
    answers = byhand("detect", told.path, *paths, "--output", tmp_path / "out", "--json").records
    assert len({answer["picture"] for answer in answers}) == len(list((tmp_path / "out").glob("*.png"))) == 3


def test_one_picture_is_too_few_to_learn_and_to_measure(refused, tmp_path):
    one = coco(tmp_path / "one", cats(1), images=1)
    told = refused("train", "--network", "fasterrcnn", "--dataset", one, "--epochs", 1)
    assert "beside a single one" in told
    assert "left out" not in told


def test_an_argument_of_torchvision_for_weights_is_told_what_takes_them():
    with pytest.raises(SettingsError, match=r"byhand\.pretrained\.load_weights takes weights"):
        byhand.models.fasterrcnn_small(weights=None)
