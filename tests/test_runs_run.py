"""A run directory from its making to its use, and every way in which one can be broken."""

import errno
import json
import math
import multiprocessing
import os
import re
import shutil
from datetime import datetime

import numpy as np
import pytest
import torch
from torch import nn

from byhand.data import augment
from byhand.errors import RunError, SettingsError, ShapeError
from byhand.models import build
from byhand.runs import Run
from byhand.runs.compare import compare
from byhand.runs.environment import environment
from byhand.runs.storage import save

RECIPE = {
    "recipe": "lenet5-digits",
    "plan": "fast",
    "seed": 3,
    "task": "classification",
    "network": {"name": "lenet5", "options": {}},
    "preparation": {"size": 32, "fit": "resize", "mean": 0.3, "std": 0.4},
    "settings": {"batch_size": 64, "lr": 0.01},
    "title": "数字",
}
RESULT = {"recipe": "lenet5-digits", "accuracy": 0.98, "loss": 0.07, "epochs": 2, "seconds": 1.5, "reached": True}


def new_run(folder, **changes):
    return Run.create(folder, RECIPE | changes, {"device": "cpu", "threads": 1})


def record(epoch, loss=0.5):
    return {"epoch": epoch, "loss": loss, "accuracy": 0.9, "lr": 0.01, "seconds": 0.25}


def lenet(seed=0):
    torch.manual_seed(seed)
    return build("lenet5").eval()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that came to its end, with every file."""
    run = new_run(tmp_path_factory.mktemp("runs"))
    for epoch in (1, 2):
        run.log(record(epoch))
        run.save_checkpoint({"epoch": epoch, "model": {"w": torch.full((3,), float(epoch))}})
    run.save_weights(lenet().state_dict())
    run.finish(RESULT)
    return run.path


@pytest.fixture
def copied(finished, tmp_path):
    """The finished run, to be broken."""
    return shutil.copytree(finished, tmp_path / "copy")


def test_a_new_run_is_named_by_time_recipe_plan_and_seed_and_opens_again(tmp_path):
    run = new_run(tmp_path / "deep" / "runs")
    assert re.fullmatch(r"\d{8}-\d{6}-lenet5-digits-fast-s3", run.name)
    assert run.path.parent == tmp_path / "deep" / "runs"
    assert sorted(os.listdir(run.path)) == [
        "environment.json", "environment.json.sha256", "recipe.json", "recipe.json.sha256",
    ]  # fmt: skip
    again = Run.open(str(run.path))
    assert again.recipe() == RECIPE
    assert again.environment() == {"device": "cpu", "threads": 1}
    assert again.history() == []
    assert again.result() is None
    assert not again.finished
    assert not again.checkpoint_exists
    again.recipe()["settings"]["lr"] = 9  # what was handed out is the caller's
    assert again.recipe() == RECIPE


def test_the_records_are_strict_readable_json(tmp_path):
    run = new_run(tmp_path, odd={"nan": math.nan, "inf": [-math.inf], "np": np.float32(0.5), "t": torch.tensor(3)})
    text = (run.path / "recipe.json").read_text(encoding="utf-8")
    assert "数字" in text
    assert '\n  "seed": 3,\n' in text

    def refuse(token):
        raise AssertionError(token)

    assert json.loads(text, parse_constant=refuse)["odd"] == {"nan": None, "inf": [None], "np": 0.5, "t": 3}
    run.log(record(1, loss=math.nan))
    line = (run.path / "metrics.jsonl").read_text()
    assert line.count("\n") == 1
    assert json.loads(line, parse_constant=refuse)["loss"] is None
    with pytest.raises(RunError, match=r"metrics\.jsonl\['x'\] is a object, which JSON cannot hold"):
        run.log({"x": object()})
    assert run.history() == [record(1, loss=None)]


def test_a_command_line_that_is_no_utf8_is_recorded_and_read_back(tmp_path):
    run = Run.create(tmp_path, RECIPE, {"command": "byhand train \udcff"})
    assert Run.open(run.path).environment()["command"] == "byhand train \udcff"


def _create_many(arguments):
    folder, seed = arguments
    return [Run.create(folder, RECIPE, {"seed": seed}).name for _ in range(5)]


def test_processes_that_start_in_the_same_second_get_a_directory_each(tmp_path, monkeypatch):
    class Stopped(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 11, 23, 5, 34, 12)

    monkeypatch.setattr("byhand.runs.run.datetime", Stopped)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        first, second = pool.map(_create_many, [(tmp_path, 1), (tmp_path, 2)])
    names = first + second
    assert len(set(names)) == 10
    assert sorted(os.listdir(tmp_path)) == sorted(names)
    stem = "20261123-053412-lenet5-digits-fast-s3"
    assert set(names) == {stem, *(f"{stem}-{number}" for number in range(2, 11))}
    by_seed = [Run.open(tmp_path / name).environment()["seed"] for name in names]
    assert by_seed == [1] * 5 + [2] * 5


def test_a_run_that_cannot_be_created_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    for function in ("fsync", "replace"):
        with monkeypatch.context() as patched:
            patched.setattr(os, function, full)
            with pytest.raises(RunError, match="No space left on device"):
                new_run(tmp_path / "runs")
        assert os.listdir(tmp_path) == []
    with monkeypatch.context() as patched:
        patched.setattr(os, "mkdir", full)
        with pytest.raises(RunError, match="--runs-dir") as error:
            new_run(tmp_path / "runs")
        assert "\n" not in str(error.value)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="is a file"):
        new_run(tmp_path / "file")
    with pytest.raises(RunError, match=r"recipe\['f'\] is a builtin_function_or_method"):
        new_run(tmp_path / "runs", f=len)
    assert os.listdir(tmp_path) == ["file"]


def test_what_is_no_run_directory_is_said_in_one_line(tmp_path, copied):
    with pytest.raises(RunError, match="no run directory at"):
        Run.open(tmp_path / "none")
    with pytest.raises(RunError, match=r"did you mean .*copy\?"):
        Run.open(tmp_path / "cop")
    with pytest.raises(RunError, match="is a file"):
        Run.open(copied / "recipe.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"recipe\.json and environment\.json missing"):
        Run.open(tmp_path / "empty")
    (copied / "environment.json").unlink()
    with pytest.raises(RunError, match=r"not a complete run directory: environment\.json missing"):
        Run.open(copied)


FILES = {
    "recipe.json": lambda run: run.recipe(),
    "environment.json": lambda run: run.environment(),
    "metrics.jsonl": lambda run: run.history(),
    "checkpoint.pt": lambda run: run.load_checkpoint(),
    "model.safetensors": lambda run: run.model(),
    "result.json": lambda run: run.result(),
}


def test_a_finished_run_holds_these_files_and_each_has_its_sha256(finished):
    assert sorted(os.listdir(finished)) == sorted([*FILES, *(f"{name}.sha256" for name in FILES)])


@pytest.mark.parametrize("suffix", ["", ".sha256"])
@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_anywhere_in_a_finished_run_is_a_one_line_error(copied, name, suffix):
    file = copied / (name + suffix)
    good = file.read_bytes()
    FILES[name](Run.open(copied))
    for bit in range(0, 8 * len(good), max(1, 8 * len(good) // 40) | 1):
        damaged = bytearray(good)
        damaged[bit // 8] ^= 1 << (bit % 8)
        file.write_bytes(damaged)
        with pytest.raises(RunError, match=re.escape(name)) as error:
            FILES[name](Run.open(copied))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", ["", ".sha256"])
@pytest.mark.parametrize("name", [name for name in FILES if name != "result.json"])
def test_a_missing_file_of_a_finished_run_is_a_one_line_error(copied, name, suffix):
    (copied / (name + suffix)).unlink()
    with pytest.raises(RunError, match=re.escape(name)) as error:
        FILES[name](Run.open(copied))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": NaN}', '{"a": 1} x', "[" * 100_000, "\ud800"])
def test_a_recipe_that_is_no_json_object_is_damaged_even_with_the_right_sha256(copied, content):
    from byhand.runs.storage import write_sealed

    write_sealed(copied / "recipe.json", content.encode("utf-8", "surrogatepass"))
    with pytest.raises(RunError, match=r"recipe\.json is damaged") as error:
        Run.open(copied)
    assert "\n" not in str(error.value)


def test_a_line_cut_by_a_crash_does_not_count_and_the_next_begins_on_its_own(tmp_path):
    run = new_run(tmp_path)
    run.log(record(1))
    whole = (run.path / "metrics.jsonl").read_bytes()
    for length in range(1, len(whole) - 1):
        (run.path / "metrics.jsonl").write_bytes(whole + whole[:length])
        assert Run.open(run.path).history() == [record(1)]
    again = Run.open(run.path)
    again.log(record(2))
    assert again.history() == [record(1), record(2)]
    # Only its line end is missing: the record is whole.
    (run.path / "metrics.jsonl").write_bytes(whole[:-1])
    assert Run.open(run.path).history() == [record(1)]
    Run.open(run.path).log(record(2))
    assert Run.open(run.path).history() == [record(1), record(2)]


def test_a_damaged_line_before_the_last_is_an_error_with_its_number(tmp_path):
    run = new_run(tmp_path)
    for text in ('{"epoch": 1}\n{"epo\n{"epoch": 3}\n', '{"epoch": 1}\n\x00\n', '{"epoch": 1}\n7\n{"epoch": 3}'):
        (run.path / "metrics.jsonl").write_text(text)
        with pytest.raises(RunError, match=r"line 2 of .*metrics\.jsonl is damaged"):
            run.history()


def test_a_disk_that_fills_up_in_mid_line_leaves_the_earlier_lines(tmp_path, monkeypatch):
    run = new_run(tmp_path)
    run.log(record(1))

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(RunError, match="No space left on device"):
            run.log(record(2))
    assert (run.path / "metrics.jsonl").read_text().count("\n") == 1
    run.log(record(2))
    assert run.history() == [record(1), record(2)]


def test_resuming_drops_the_epochs_after_the_checkpoint_and_stray_temporary_files(tmp_path):
    run = new_run(tmp_path)
    for epoch in (1, 2, 3):
        run.log(record(epoch))
    stray = run.path / ".checkpoint.pt.0123abcd.byhand-tmp"
    stray.write_bytes(b"half a checkpoint")
    reader = Run.open(run.path)
    assert len(reader.history()) == 3
    assert stray.exists()  # a reader leaves the files of a writer alone
    resumed = Run.open(run.path)
    resumed.truncate_history(2)
    assert not stray.exists()
    assert resumed.history() == [record(1), record(2)]
    resumed.log(record(3, loss=0.1))
    assert [line["loss"] for line in resumed.history()] == [0.5, 0.5, 0.1]
    resumed.truncate_history(0)
    assert resumed.history() == []


def test_a_checkpoint_comes_back_equal_and_the_newest_counts(tmp_path):
    run = new_run(tmp_path)
    with pytest.raises(RunError, match=r"has no checkpoint\.pt"):
        run.load_checkpoint()
    generator = torch.Generator().manual_seed(5)
    for epoch in (1, 2):
        run.save_checkpoint({"epoch": epoch, "generator": generator.get_state(), "lr": math.nan})
        torch.rand(3, generator=generator)
    assert run.checkpoint_exists
    state = Run.open(run.path).load_checkpoint()
    assert state["epoch"] == 2
    assert math.isnan(state["lr"])  # torch's format, unlike JSON, holds every number
    twin = torch.Generator()
    twin.set_state(state["generator"])
    assert torch.equal(torch.rand(3, generator=twin), _second_draw(5))
    save(torch.ones(1), run.path / "checkpoint.pt")
    with pytest.raises(RunError, match="must hold a dict, got a Tensor"):
        run.load_checkpoint()


def _second_draw(seed):
    generator = torch.Generator().manual_seed(seed)
    torch.rand(3, generator=generator)
    return torch.rand(3, generator=generator)


def test_a_hostile_checkpoint_and_hostile_weights_do_not_run(copied, tmp_path):
    import hashlib

    witness = tmp_path / "pwned"

    class Hostile:
        def __reduce__(self):
            return (os.system, (f"touch {witness}",))

    for name in ("checkpoint.pt", "model.safetensors"):
        torch.save({"x": Hostile()}, copied / name)
        digest = hashlib.sha256((copied / name).read_bytes()).hexdigest()
        (copied / f"{name}.sha256").write_text(f"{digest}  {name}\n")
    run = Run.open(copied)
    with pytest.raises(RunError, match=r"holds code \(posix\.system\)"):
        run.load_checkpoint()
    with pytest.raises(RunError, match="not a safetensors file"):
        run.model()
    assert not witness.exists()


def test_a_finished_run_is_not_written_to_any_more(copied):
    run = Run.open(copied)
    assert run.finished
    assert run.result() == RESULT
    for write in (lambda: run.log(record(3)), lambda: run.save_checkpoint({}), lambda: run.truncate_history(0)):
        with pytest.raises(RunError, match="is finished"):
            write()
    assert run.history() == [record(1), record(2)]


def test_a_run_that_died_between_sealing_and_its_result_goes_on(copied):
    (copied / "result.json").unlink()
    (copied / "result.json.sha256").unlink()
    run = Run.open(copied)
    run.log(record(3))
    assert len(run.history()) == 3
    run.finish(RESULT)
    assert len(Run.open(copied).history()) == 3


def test_the_model_is_the_trained_one_in_evaluation_mode_and_costs_no_random_numbers(copied):
    before = torch.get_rng_state()
    model = Run.open(copied).model()
    assert torch.equal(torch.get_rng_state(), before)
    assert not model.training
    x = torch.rand(2, 1, 32, 32)
    assert torch.equal(model(x), lenet()(x))
    assert not torch.equal(model(x), lenet(seed=1)(x))


def test_weights_of_another_network_are_named_in_one_line(copied):
    run = Run.open(copied)
    state = run.weights()
    first = next(key for key, value in state.items() if value.shape == (6, 1, 5, 5))
    cases = [
        ({"extra": torch.ones(1)} | state, "unexpected extra"),
        ({key: value for key, value in state.items() if key != first}, f"missing {first}"),
        (state | {first: state[first][:, :, :2]}, f"misshapen: {first} is 6×1×2×5 for 6×1×5×5"),
        (state | {first: torch.tensor(1.0)}, f"misshapen: {first} is a scalar for 6×1×5×5"),
        (build("mlp").state_dict(), "and [0-9]+ more"),
    ]
    for weights, said in cases:
        run.save_weights(weights)
        with pytest.raises(RunError, match="holds the weights of another network than 'lenet5'") as error:
            run.model()
        assert re.search(said, str(error.value)), str(error.value)
        assert "\n" not in str(error.value)


def test_a_run_without_weights_says_how_to_go_on(tmp_path):
    with pytest.raises(RunError, match=r"has no model\.safetensors.*byhand resume"):
        new_run(tmp_path).model()
    run = new_run(tmp_path, network=None)
    run.save_weights({})
    with pytest.raises(RunError, match="names no network"):
        run.model()


def test_images_are_prepared_as_the_recipe_says(tmp_path):
    images = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def prepared(**preparation):
        return new_run(tmp_path, preparation=preparation).prepare(images)

    scaled = images.double() / 255
    torch.testing.assert_close(prepared(size=None, fit=None, mean=0.5, std=0.25), ((scaled - 0.5) / 0.25).float())
    torch.testing.assert_close(
        prepared(size=32, fit="pad", mean=[0.0], std=[1.0]), nn.functional.pad(scaled, (2, 2, 2, 2)).float()
    )
    resized = prepared(size=32, fit="resize", mean=0, std=1)
    assert resized.shape == (3, 1, 32, 32)
    torch.testing.assert_close(resized, augment.resize(images, 32).float() / 255)
    assert prepared(size=28, fit="pad", mean=0, std=1).shape == (3, 1, 28, 28)
    with pytest.raises(ShapeError, match="28 × 28 cannot be padded evenly to 31 × 31"):
        prepared(size=31, fit="pad")
    with pytest.raises(ShapeError, match="cannot be padded"):
        prepared(size=16, fit="pad")
    with pytest.raises(RunError, match=r"\"preparation\" cannot be used: .*fit='stretch'"):
        prepared(size=32, fit="stretch")
    with pytest.raises(RunError, match="unexpected keyword argument 'crop'"):
        prepared(crop=3)


def test_logits_and_probabilities_are_those_of_the_network_whatever_the_batches(copied):
    run = Run.open(copied)
    images = torch.randint(0, 256, (7, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = lenet()((augment.resize(images, 32).double().div(255).sub(0.3).div(0.4)).float())
    for batch_size in (1, 3, 1000):
        torch.testing.assert_close(run.logits(images, batch_size), expected)
    assert not run.logits(images).requires_grad
    probabilities = run.predict(images)
    torch.testing.assert_close(probabilities, torch.softmax(expected, 1))
    assert run.logits(images[:0]).shape == (0, 10)
    with pytest.raises(SettingsError, match="batch_size=0"):
        run.logits(images, 0)
    run.save_weights(lenet(seed=1).state_dict())  # new weights are seen
    assert not torch.allclose(run.logits(images), expected)


def test_a_regression_predicts_values_from_features_as_they_are(tmp_path):
    run = new_run(tmp_path, task="regression", network={"name": "linear-regression", "options": {}}, preparation=None)
    torch.manual_seed(0)
    model = build("linear-regression")
    run.save_weights(model.state_dict())
    features = torch.randn(5, 3)
    with torch.no_grad():
        torch.testing.assert_close(run.predict(features), model(features))
    assert run.prepare(features) is features


def test_runs_are_compared_by_their_results_and_what_differs_in_their_settings(tmp_path, finished):
    going = new_run(tmp_path, seed=4, settings={"batch_size": 64, "lr": 0.5, "seed": 4}, goal={"accuracy": [0.9, 1]})
    going.log(record(1) | {"loss": 0.7})
    going.log(record(2) | {"loss": 0.6})
    fresh = new_run(tmp_path, settings={"batch_size": 64, "lr": 0.01})
    rows = compare([finished, going, fresh])
    assert [row["name"] for row in rows] == [finished.name, going.name, fresh.name]
    assert rows[0] == {
        "name": finished.name, "recipe": "lenet5-digits", "plan": "fast", "seed": 3, "epochs": 2, "accuracy": 0.98,
        "loss": 0.07, "seconds": 1.5, "by_hand": False, "reached": True, "finished": True,
        "settings": {"settings.lr": 0.01},
    }  # fmt: skip
    assert (rows[1]["epochs"], rows[1]["loss"], rows[1]["seconds"], rows[1]["finished"]) == (2, 0.6, 0.5, False)
    assert rows[1]["settings"] == {"settings.lr": 0.5}
    assert rows[1]["reached"] is None
    assert (rows[2]["epochs"], rows[2]["accuracy"], rows[2]["loss"], rows[2]["seconds"]) == (0, None, None, None)
    assert compare([finished])[0]["settings"] == {}
    with pytest.raises(RunError, match="no run directory"):
        compare([finished, tmp_path / "none"])


def test_a_regression_is_compared_by_the_error_of_its_weights(tmp_path):
    run = new_run(tmp_path, recipe="linear-regression", task="regression", settings={"by_hand": True})
    run.log({"epoch": 1, "loss": 1.0, "max_weight_error": 0.01, "lr": 0.1, "seconds": 0.1})
    run.finish({"max_weight_error": 0.0004, "loss": 0.0001, "epochs": 3, "seconds": 0.3, "reached": True})
    row = compare([run])[0]
    assert row["max_weight_error"] == 0.0004
    assert "accuracy" not in row
    assert row["by_hand"] is True


def test_the_environment_is_a_receipt_that_json_can_hold(monkeypatch):
    from byhand.data.arrays import Dataset

    data = Dataset("digits", *torch.zeros(4, 1), sha256={"images": "ab"}, source="embedded")
    monkeypatch.setattr("sys.argv", ["/home/someone/bin/byhand", "train", "--runs-dir", "my runs"])
    receipt = environment(seed=7, device="cpu", threads=2, data=data)
    assert json.loads(json.dumps(receipt, allow_nan=False)) == receipt
    assert receipt["command"] == "byhand train --runs-dir 'my runs'"
    assert receipt["versions"]["torch"] == torch.__version__
    assert receipt["data"] == {"name": "digits", "source": "embedded", "sha256": {"images": "ab"}}
    assert (receipt["seed"], receipt["threads"], receipt["device"]) == (7, 2, "cpu")
    assert receipt["cpu"] == receipt["device_name"] != ""
    assert 1 <= receipt["cores"] <= os.cpu_count()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", receipt["started"])
    assert environment(0, "cpu", 1)["data"] is None
