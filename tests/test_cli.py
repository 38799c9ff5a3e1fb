"""The command line as a new user meets it: what it prints, in JSON and for people, and how it leaves."""

import io
import json
import os
import re
import subprocess
import sys

import pytest
import torch
from conftest import made
from PIL import Image

from byhand import models
from byhand.cli import output
from byhand.data import DATASETS
from byhand.models import DETECTORS, FIRST, NETWORKS
from byhand.models.cost import layer_table
from byhand.models.detector_layers import DetectorLayers
from byhand.plots import PICTURES
from byhand.recipes import RECIPES
from byhand.runs.run import Run

COMMANDS = (
    "list", "show", "prove", "train", "resume", "evaluate", "predict", "plot", "compare", "reproduce", "export", "data",
    "bench", "find-lr",
)  # fmt: skip
FAST = ("--threads", 1, "--no-plots")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def small(monkeypatch):
    """`byhand.data.load` gives small made data."""
    monkeypatch.setattr("byhand.data.load", lambda name, *a, **k: made(name, num_train=60))


@pytest.fixture
def picture(tmp_path):
    image = made("digits").test_images[3, 0].numpy()
    path = tmp_path / "three.png"
    Image.fromarray(image).resize((80, 80)).save(path)
    return path


def plain(text):
    """Without the escapes that colour a terminal."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


# What needs no torch


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["list"], ["list", "--json"], ["--version"], [], ["data"], *[[name, "--help"] for name in COMMANDS]],
    ids=" ".join,
)
def test_help_and_list_import_neither_torch_nor_numpy_nor_matplotlib(arguments):
    code = (
        "import sys, byhand.cli\n"
        f"sys.argv = ['byhand', *{arguments!r}]\n"
        "try: byhand.cli.main()\n"
        "except SystemExit as left: code = left.code\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'PIL', 'safetensors'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_a_wrong_setting_is_told_before_torch_is_imported():
    code = "import sys, byhand.cli\nsys.argv = ['byhand', 'train', '--epochs', '0']\ntry: byhand.cli.main()\nfinally: "
    code += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "False\n")


def test_byhand_alone_prints_its_help(byhand):
    said = byhand()
    assert (said.code, said.err) == (0, "")
    assert all(command in said.out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(command, byhand):
    said = byhand(command, "--help")
    assert said.code == 0
    assert "--json" in said.out


def test_the_installed_program_and_the_module_do_the_same(tmp_path):
    answers = [
        subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
        for command in ([sys.executable, "-m", "byhand", "--version"], ["byhand", "--version"])
        if command[0] != "byhand" or _installed()
    ]
    assert set(answers) == {answers[0]}
    assert re.fullmatch(r"byhand \d+\.\d+\.\d+\n", answers[0])


def _installed():
    from shutil import which

    return which("byhand") is not None


# JSON


def test_list_names_everything(byhand):
    said = byhand("list", "--json")
    assert said.code == 0
    names = {
        kind: [one["name"] for one in said.records if one["kind"] == kind]
        for kind in ("recipe", "network", "detector", "data")
    }
    assert names == {
        "recipe": [one.name for one in RECIPES],
        "network": [one.name for one in NETWORKS],
        "detector": [one.name for one in DETECTORS],
        "data": [one.name for one in DATASETS],
    }
    assert [one["default"] for one in byhand("list", "recipes", "--json").records].count(True) == 1


@pytest.mark.parametrize("network", [*(one.name for one in FIRST), "lenet5-bn", "resnet20"])
def test_show_counts_as_the_network_itself(network, byhand):
    *layers, total = byhand("show", network, "--json").records
    model = models.build(network)
    assert total["name"] == "total"
    assert total["parameters"] == sum(p.numel() for p in model.parameters())
    assert sum(layer["parameters"] for layer in layers) == total["parameters"]


def test_show_counts_a_detector_for_one_box_and_for_a_whole_image(byhand):
    *layers, total = byhand("show", "maskrcnn", "--json").records  # the short name
    model = models.build("maskrcnn_small")
    assert {one["network"] for one in layers} == {"maskrcnn_small"}
    assert total["parameters"] == sum(p.numel() for p in model.parameters())
    first = next(one for one in layers if one["name"] == "roi_heads.box_head.fc6")
    assert first["multiply_adds"] == 64 * 7 * 7 * 256  # of one box
    stem = next(one for one in layers if one["name"] == "backbone.body.conv1")
    assert stem["multiply_adds"] == 3 * 9 * 32 * 120 * 160
    of_boxes, of_masks = (
        sum(one["multiply_adds"] for one in layers if one["name"].startswith(f"roi_heads.{part}"))
        for part in ("box", "mask")
    )
    assert (total["proposals"], total["masks"]) == (300, 100)
    assert total["image_multiply_adds"] == total["multiply_adds"] + 299 * of_boxes + 99 * of_masks
    assert "did you mean 'fasterrcnn_small'" in byhand("show", "fasterrcnn_smal").err
    table = byhand("show", "maskrcnn").out
    assert f"300 proposals and masks of 100 detections: {total['image_multiply_adds']:,} multiply-adds in all" in table


@pytest.mark.parametrize(
    ("name", "published"),
    [("fasterrcnn_resnet50_fpn", 41_755_286), ("fasterrcnn_mobilenet_v3_large_fpn", 19_386_354)],
)
def test_the_table_of_a_detector_has_the_parameters_that_torchvision_publishes(name, published):
    rows = layer_table(DetectorLayers(models.build(name), boxes=1), (3, 64, 64))
    assert sum(row.parameters for row in rows) == published
    assert all(row.multiply_adds is not None for row in rows)


def test_prove_takes_a_detector_by_its_name(byhand):
    (record,) = byhand("prove", "fasterrcnn", "--json").records
    assert record["network"] == "fasterrcnn_small"
    assert record["passed"] is True
    assert 0 < max(record[key] for key in ("output", "gradients", "buffers", "steps")) < 1e-9


def test_prove_prints_one_record_a_network_and_fails_where_one_is_wrong(byhand, monkeypatch):
    said = byhand("prove", "--json")
    assert said.code == 0
    assert [record["network"] for record in said.records] == [one.name for one in FIRST]
    for record in said.records:
        assert record["passed"] is True
        assert max(record[key] for key in ("output", "gradients", "buffers", "steps")) < 1e-9
    from byhand.ops import activations

    right = activations.relu
    for place in ("byhand.ops.relu", "byhand.nn.activation.ops.relu"):
        monkeypatch.setattr(place, lambda x: right(x) + 1e-3)
    said = byhand("prove", "lenet5", "--json")
    assert (said.code, said.records[0]["passed"]) == (1, False)
    said = byhand("prove", "lenet5")
    assert said.code == 1
    assert "wrong" in said.out


def test_train_evaluate_and_the_rest_give_json_alone_on_stdout(byhand, here, picture):
    said = byhand("train", "--json", "--epochs", 1, "--threads", 1, "--seed", 2)
    assert said.code == 0
    (result,) = said.records
    assert {"recipe", "plan", "seed", "accuracy", "loss", "epochs", "seconds", "run"} <= result.keys()
    assert (result["recipe"], result["plan"], result["seed"], result["epochs"]) == ("lenet5-digits", "fast", 2, 1)
    path = result["run"]
    assert sorted(os.listdir("runs")) == [os.path.basename(path)]
    assert "epoch 1/1  loss " in said.err

    (measured,) = byhand("evaluate", path, "--json").records
    assert {key: measured[key] for key in ("accuracy", "loss", "recipe", "plan", "seed", "epochs", "run")} == {
        key: result[key] for key in ("accuracy", "loss", "recipe", "plan", "seed", "epochs", "run")
    }
    assert measured["seconds"] == result["seconds"]
    assert byhand("evaluate", path, "--split", "train", "--json").records[0]["examples"] == 1437

    said = byhand("predict", path, picture, picture, "--json")
    assert said.code == 0
    assert len(said.records) == 2
    for record in said.records:
        assert record["image"] == str(picture)
        top = record["top"]
        assert len(top) == 3
        assert record["label"] == top[0]["label"]
        assert 1 >= top[0]["probability"] >= top[1]["probability"] >= top[2]["probability"] >= 0

    said = byhand("plot", path, "loss", "filters", "--json")
    assert [record["picture"] for record in said.records] == ["loss", "filters"]
    assert all(os.path.getsize(record["path"]) > 1000 for record in said.records)
    drawn = {os.path.splitext(name)[0] for name in os.listdir(os.path.join(path, "figures"))}
    of_others = {"predicted", "anchors", "proposals", "matches", "detections", "roi-grid", "precision-recall", "ap-iou"}
    assert drawn == {one.name for one in PICTURES} - of_others  # by the training

    point_at = ("--layer", "features.3", "--image", picture)
    said = byhand("plot", path, "features", "gradcam", *point_at, "--class", "3", "--lang", "zh", "--json")
    stem = os.path.splitext(os.path.basename(picture))[0]
    assert [record["picture"] for record in said.records] == [
        f"features-features.3-{stem}",
        f"gradcam-features.3-{stem}-as-3",
    ]
    assert all(os.path.getsize(record["path"]) > 1000 for record in said.records)
    (record,) = byhand("plot", "costs", path, "--output", "pictures", "--json").records
    assert record == {"picture": "costs", "path": os.path.join("pictures", "costs.png")}
    assert os.path.getsize(record["path"]) > 1000
    (record,) = byhand("plot", "gradient-norms", "--depth", 20, "--steps", 1, "--output", "pictures", "--json").records
    assert os.path.getsize(record["path"]) > 1000

    (row,) = byhand("compare", path, "--json").records
    assert row["accuracy"] == result["accuracy"]

    (record,) = byhand("export", path, "--json").records
    assert record["format"] == "safetensors"
    assert os.path.getsize(record["path"]) > 61706 * 4
    said = byhand("export", path, "--to", "onnx", "--output", "net.onnx", "--json")
    assert said.records == [{"format": "onnx", "path": "net.onnx"}]


def test_a_regression_reports_its_weights_in_place_of_an_accuracy(byhand, here):
    said = byhand("train", "linear-regression", "--json", *FAST)
    (result,) = said.records
    assert {"recipe", "plan", "seed", "max_weight_error", "loss", "epochs", "seconds", "run"} <= result.keys()
    assert "accuracy" not in result
    assert "accuracy" not in said.err
    (measured,) = byhand("evaluate", result["run"], "--json").records
    assert measured["max_weight_error"] == result["max_weight_error"]
    (row,) = byhand("compare", result["run"], "--json").records
    assert row["max_weight_error"] == result["max_weight_error"]


def test_resume_gives_the_result_as_train_would(byhand, here, small):
    from byhand import jobs

    left = jobs.start("lenet5-digits", epochs=2, batch_size=16, threads=1)
    next(iter(left))
    said = byhand("resume", left.run.path, "--json", "--no-plots")
    assert said.code == 0
    assert said.records[0]["epochs"] == 2
    assert "epoch 2/2" in said.err
    assert "epoch 1/2" not in said.err
    said = byhand("resume", left.run.path)
    assert said.code == 2
    assert "is finished; there is nothing to resume" in said.err


def test_data_is_listed_checked_and_told_where_it_is(byhand):
    rows = {row["name"]: row for row in byhand("data", "--json").records}
    assert list(rows) == [one.name for one in DATASETS]
    assert rows["digits"]["state"] == "embedded"
    assert [row["verdict"] for row in byhand("data", "check", "digits", "--json").records] == ["ok", "ok"]
    assert byhand("data", "get", "digits", "--json").records[0]["name"] == "digits"


def test_the_data_of_the_real_sets_are_found_and_checked(byhand, real_data):
    rows = {row["name"]: row for row in byhand("data", "--data-dir", real_data, "--json").records}
    for name in ("mnist", "fashion-mnist"):
        assert rows[name]["state"] == "present"
        verdicts = {row["verdict"] for row in byhand("data", "check", name, "--data-dir", real_data, "--json").records}
        assert verdicts <= {"ok", "known variant"}


def test_reproduce_writes_its_results_and_leaves_with_1_where_a_goal_is_missed(byhand, here, monkeypatch):
    said = byhand("reproduce", "linear-regression", "--plan", "fast", "--seeds", 2, "--threads", 1, "--json")
    assert said.code == 0
    (record,) = said.records
    assert (record["recipe"], record["plan"], record["seeds"], record["reached"]) == (
        "linear-regression", "fast", [0, 1], True,
    )  # fmt: skip
    errors = [one["max_weight_error"] for one in record["results"]]
    assert record["means"]["max_weight_error"]["mean"] == pytest.approx(sum(errors) / 2)
    assert record["means"]["max_weight_error"]["most"] == max(errors)
    assert json.loads((here / "results" / "linear-regression-fast.json").read_text()) == record
    assert "linear-regression" in (here / "results" / "README.md").read_text()

    monkeypatch.setitem(dict.__getitem__(vars(RECIPES[0]), "plans")["fast"].goal, "max_weight_error", (0.0, 1e-9))
    said = byhand("reproduce", "linear-regression", "--plan", "fast", "--seeds", 1, "--threads", 1)
    assert said.code == 1
    assert "NO" in said.out


def test_a_number_that_is_not_finite_is_null_in_json(capsys):
    output.emit({"a": float("nan"), "b": [float("inf"), 1.5], "c": {"d": -float("inf")}, "e": (True, None, 3)})
    assert capsys.readouterr().out == '{"a": null, "b": [null, 1.5], "c": {"d": null}, "e": [true, null, 3]}\n'


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_non_ascii_names_come_out_as_json_wherever_stdout_goes(encoding, trained, tmp_path, monkeypatch, byhand):
    odd = tmp_path / "跑 é \udcff"  # the last is a byte that is no UTF-8
    os.symlink(trained, odd)

    def said(*arguments):
        stdout = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stdout", stdout)
            done = byhand(*arguments)
        assert (done.code, done.err) == (0, "")
        return stdout.buffer.getvalue()

    record = json.loads(said("evaluate", "--json", odd))
    assert record["run"] == str(odd)  # it opens the directory again
    assert Run.open(record["run"]).finished
    for command in (["list"], ["show", "lenet5"], ["evaluate", odd], ["compare", odd], ["plot", odd, "loss"]):
        assert len(said(*command)) > 10


def test_a_reader_that_leaves_early_is_no_error():
    command = f"{sys.executable} -m byhand list --json | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert json.loads(done.stdout)["kind"] == "recipe"


# Tables and lines for people


@pytest.fixture
def terminal(monkeypatch):
    """Tables are printed as in a terminal of this many columns."""

    def columns(width):
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("LINES", "24")

    return columns


def lines_of(said):
    return [line.rstrip() for line in plain(said.out).splitlines()]


@pytest.mark.parametrize("width", [80, 60])
@pytest.mark.parametrize(
    "command", [["list"], ["data"], ["show", "lenet5"], ["show", "mlp"], ["data", "check", "digits"]], ids=" ".join
)
def test_no_name_or_number_is_broken_in_a_narrow_terminal(command, width, byhand, terminal):
    said = byhand(*command, "--json")
    numbers = {f"{v:,}" for record in said.records for v in record.values() if type(v) is int}
    names = {record.get("file") or record["name"] for record in said.records}
    terminal(width)
    said = byhand(*command)
    lines = lines_of(said)
    assert max(map(len, lines)) <= width
    words = {word for line in lines for word in line.split()}
    assert sorted(names - words) == []
    if command[0] == "show":
        assert sorted(numbers - words) == []


def test_runs_are_compared_side_by_side_in_80_columns(byhand, terminal, trained):
    terminal(80)
    said = byhand("compare", trained, trained)
    lines = lines_of(said)
    assert max(map(len, lines)) <= 80
    accuracy = f"{Run.open(trained).result()['accuracy']:.4f}"
    assert any(line.split() == ["accuracy", accuracy, accuracy] for line in lines)
    assert any(line.split() == ["recipe", "lenet5-digits", "lenet5-digits"] for line in lines)


def test_a_title_or_a_cell_with_brackets_is_printed_as_it_is(capsys):
    output.table(("[a]", "b"), [("[/red]", "[bold]x[/bold]")], "runs/[/b] [red]")
    said = capsys.readouterr().out
    for text in ("[a]", "[/red]", "[bold]x[/bold]", "runs/[/b] [red]"):
        assert text in said


def test_train_says_what_came_out_where_it_is_and_what_the_source_reports(byhand, here, small):
    said = byhand("train", "lenet5-mnist", "--plan", "book", "--epochs", 1, "--batch-size", 16, *FAST)
    assert said.code == 0
    (run,) = (here / "runs").iterdir()
    assert f"run: runs/{run.name}" in said.out
    line = next(line for line in said.out.splitlines() if "accuracy, test set" in line)
    assert line.split()[-1] == "0.9904"
    assert re.search(
        r"epoch 1/1  loss \d\.\d{4}  accuracy \d\.\d{4}  lr 0\.001  [\d,]+ images/s  \d+\.\d s\n", said.err
    )


def test_a_goal_is_said_in_words(byhand, here, small):
    said = byhand("train", "lenet5-digits", "--seed", 1, *FAST)
    assert said.code == 0
    assert "reached (accuracy ≥ 0.9800)" in said.out


def test_predict_names_the_three_most_probable_classes(byhand, trained, picture):
    said = byhand("predict", trained, picture)
    assert re.fullmatch(rf"{picture}: \d 0\.\d{{4}}   \d 0\.\d{{4}}   \d 0\.\d{{4}}\n", said.out)
    assert byhand("predict", trained, picture, "--top", 99, "--json").records[0]["top"][9]["label"] in range(10)


def test_pictures_are_drawn_in_chinese_or_english(byhand, trained, tmp_path):
    import shutil

    run = shutil.copytree(trained, tmp_path / "run")
    said = byhand("plot", run, "loss", "--lang", "zh")
    assert said.code == 0
    assert said.out == f"{run}/figures/loss.png\n"


def test_by_hand_and_the_library_train_alike_from_the_command_line(byhand, here, small):
    losses = []
    for hand in (("--by-library",), ()):
        said = byhand("train", "--epochs", 1, "--batch-size", 16, *hand, "--json", *FAST)
        losses.append(said.records[0]["loss"])
        assert Run.open(said.records[0]["run"]).recipe()["settings"]["by_hand"] is (not hand)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_every_option_of_train_reaches_the_settings(byhand, here, small):
    said = byhand(
        "train", "softmax-fashion", "--plan", "best", "--epochs", 2, "--batch-size", 16, "--lr", 0.02, "--seed", 7,
        "--device", "cpu", "--threads", 1, "--by-hand", "--hold-out", 0.2, "--runs-dir", "elsewhere", "--lang", "zh",
        "--no-plots", "--json",
    )  # fmt: skip
    run = Run.open(said.records[0]["run"])
    assert run.path.parent.name == "elsewhere"
    expected = {
        "epochs": 2, "batch_size": 16, "lr": 0.02, "seed": 7, "device": "cpu", "threads": 1, "by_hand": True,
        "hold_out": 0.2,
    }  # fmt: skip
    settings = run.recipe()["settings"]
    assert {key: settings[key] for key in expected} == expected
    assert run.environment()["threads"] == torch.get_num_threads() == 1


def test_any_setting_can_be_set_and_stands_in_the_record(byhand, tmp_path):
    said = byhand(
        "train", "--epochs", "1", "--set", "mixup=0.3", "--set", "decay_all=false", "--batch-size", "512",
        "--runs-dir", str(tmp_path), "--no-plots", "--json",
    )  # fmt: skip
    assert said.code == 0
    settings = Run.open(said.records[-1]["run"]).recipe()["settings"]
    assert (settings["mixup"], settings["decay_all"], settings["batch_size"]) == (0.3, False, 512)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--set", "mixpu=1"), "unknown setting 'mixpu'; did you mean 'mixup'"),
        (("--set", "lr=0.1", "--lr", "0.2"), "lr is given by --lr and by --set; give one of them"),
        (("--set", "patience=3"), "patience=3 looks at held-out examples; give hold_out"),
    ],
)
def test_a_setting_that_cannot_be_is_one_line(arguments, message, byhand, tmp_path):
    for command in ("train", "find-lr"):
        if command == "find-lr" and "--lr" in arguments:
            continue
        said = byhand(command, *arguments)
        assert said.code == 2
        assert message in said.err
        assert said.err.count("\n") == 1
