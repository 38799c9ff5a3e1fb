"""The bench: it counts right, the other sides learn what we learn, every part runs, and what it prints can be read.

Nothing here is timed: no test asks how fast anything is.
"""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import made
from torch.utils.flop_counter import FlopCounterMode

from byhand.bench import machine, measure, other_sides, parts, record, steps
from byhand.bench.conditions import QUICK_TEST, QUICK_TRAIN, Conditions, make_data
from byhand.bench.goals import GOALS, Goal, cost, faster
from byhand.bench.machine import Limits
from byhand.bench.measure import Times
from byhand.bench.row import Row, amount
from byhand.bench.trainings import new_state
from byhand.nn import by_hand
from byhand.recipes import recipe
from byhand.training.fit import fit

ROOT = Path(__file__).resolve().parent.parent
RECIPES = ("softmax-fashion", "mlp-fashion", "lenet5-mnist")
B = 256


# What a step costs


def test_the_operations_and_bytes_of_softmax_regression_are_those_of_a_count_by_hand():
    model = new_state(recipe("softmax-fashion"), "book").library
    found = steps.cost_of_step(model, (1, 28, 28), B, "sgd")
    forward, weight_gradient = 2 * B * 784 * 10, 2 * 784 * B * 10
    assert found.operations == forward + weight_gradient
    X, W, H = 4 * B * 784, 4 * (784 * 10 + 10), 4 * B * 10
    assert found.bytes == (X + W + H) + (X + H + W) + 3 * W  # forward, gradient, optimizer


def test_the_bytes_of_a_perceptron_with_adam_are_those_of_a_count_by_hand():
    model = new_state(recipe("mlp-fashion-adamw"), "book").library
    found = steps.cost_of_step(model, (1, 28, 28), B, "adamw")
    expected = 0
    for fan_in, fan_out, products in ((784, 256, 2), (256, 128, 3), (128, 10, 3)):
        X, W, H = 4 * B * fan_in, 4 * (fan_in + 1) * fan_out, 4 * B * fan_out
        expected += products * (X + W + H)
        expected += 7 * W  # reads w, g, m, v and writes w, m, v
    assert found.bytes == expected


def test_preparing_reads_each_pixel_once_and_writes_each_float_once():
    assert steps.cost_of_preparing(784, 1024, B).bytes == B * 784 + B * 1024 * 4


@pytest.mark.parametrize("name", RECIPES)
def test_the_operations_of_a_step_are_those_that_torch_counts_while_it_runs(name):
    chosen = recipe(name)
    settings = chosen.plan("book").settings
    data = made(chosen.dataset, num_train=8)
    model = new_state(chosen, "book").library
    inputs = settings.preparation(data.train_images)
    with FlopCounterMode(display=False) as counter:
        steps.own_loop(model, settings, by_hand=False)(inputs, data.train_labels)
    found = steps.cost_of_step(model, inputs.shape[1:], len(inputs), settings.optimizer)
    assert found.operations == counter.get_total_flops()


def test_the_limit_is_the_slower_of_products_and_memory():
    limits = Limits(operations=100.0, bytes=10.0)
    assert limits.seconds(operations=200, num_bytes=10) == 2.0
    assert limits.seconds(operations=200, num_bytes=50) == 5.0


@pytest.mark.parametrize("name", RECIPES)
def test_a_step_in_ones_own_loop_learns_the_same_in_both_hands(name):
    chosen = recipe(name)
    settings = chosen.plan("book").settings
    data = made(chosen.dataset, num_train=48)
    library = new_state(chosen, "book").library
    hand = by_hand(new_state(chosen, "book").library)
    loops = [steps.own_loop(library, settings, by_hand=False), steps.own_loop(hand, settings, by_hand=True)]
    for images, labels in zip(data.train_images.split(16), data.train_labels.split(16), strict=True):
        losses = [loop(settings.preparation(images), labels) for loop in loops]
        torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(hand.parameters(), library.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


# The other sides learn what we learn


def give_weights(loop, model):
    """Put the weights of our network into a loop of the other side; the source's own W is torch's transposed."""
    theirs = getattr(loop.network, "params", None) or list(loop.network.parameters())
    with torch.no_grad():
        for their, our in zip(theirs, model.parameters(), strict=True):
            their.copy_(our if their.shape == our.shape else our.T)
    return theirs


@pytest.mark.parametrize("program", ["source_loop", "plain_loop"])
@pytest.mark.parametrize("name", RECIPES)
def test_the_other_side_learns_what_our_trainer_learns_from_the_same_weights_and_order(name, program):
    chosen = recipe(name)
    # The plain loop takes the mean of a smaller last batch, the source divides it by 256, as our plan does.
    data = made(chosen.dataset, num_train=2 * B if program == "plain_loop" else 2 * B + 40)
    state = new_state(chosen, "book", epochs=1, seed=3)
    order = torch.randperm(len(data.train_images), generator=torch.Generator().manual_seed(3)).tolist()
    loop = other_sides.load(program).Loop(name, data, order)
    theirs = give_weights(loop, state.library)
    (epoch,) = fit(state, data)
    loss, accuracy = loop.epoch()
    assert loss == pytest.approx(epoch.loss, rel=1e-4)
    assert accuracy == pytest.approx(epoch.accuracy, abs=2 / len(order))  # a tie may fall to either side
    for their, our in zip(theirs, state.library.parameters(), strict=True):
        # AdamW divides by the root of squared gradients, which turns rounding of tiny ones into whole steps of 1e-3
        atol = 2e-4 if name == "lenet5-mnist" else 1e-6
        torch.testing.assert_close(
            their.detach(), our.detach() if their.shape == our.shape else our.T, rtol=1e-3, atol=atol
        )


@pytest.mark.parametrize("program", ["source_loop", "plain_loop"])
def test_the_other_side_without_an_order_sees_every_image_once_in_an_order_of_its_own(program):
    data = made("mnist", num_train=300)
    loop = other_sides.load(program).Loop("softmax-fashion", data)
    torch.manual_seed(0)
    first = torch.cat([y for _, y in loop.train_loader])
    second = torch.cat([y for _, y in loop.train_loader])
    assert first.bincount().tolist() == data.train_labels.bincount().tolist()
    assert first.tolist() != data.train_labels.tolist()
    assert first.tolist() != second.tolist()
    assert [len(y) for _, y in loop.train_loader] == [256, 44]


@pytest.mark.parametrize("program", ["source_loop", "plain_loop"])
def test_the_other_side_measures_the_test_images_as_we_do(program):
    from byhand.training.evaluate import evaluate

    data = made("mnist", num_train=20, num_test=300)
    state = new_state(recipe("lenet5-mnist"), "book")
    loop = other_sides.load(program).Loop("lenet5-mnist", data)
    give_weights(loop, state.library)
    ours = evaluate(state.library, data.test_images, data.test_labels, state.settings).accuracy
    assert loop.evaluate() == pytest.approx(ours, abs=1 / 300)


def test_the_sources_pixels_are_those_of_pil_and_to_tensor():
    import numpy as np
    from PIL import Image

    program = other_sides.load("source_loop")
    data = made("mnist", num_train=3)
    pixels, target = program.Pictures(data.train_images, data.train_labels, (32, 32))[2]
    picture = Image.fromarray(data.train_images[2, 0].numpy()).resize((32, 32), Image.Resampling.BILINEAR)
    assert pixels.shape == (1, 32, 32)
    assert pixels.dtype == torch.float32
    np.testing.assert_array_equal(pixels[0].numpy(), np.asarray(picture, np.float32) / np.float32(255))
    assert target == int(data.train_labels[2])


@pytest.mark.parametrize("name", ["Keras 3 on torch", "skorch"])
def test_a_peer_trains_the_same_network(name, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")  # read when Keras is first imported
    pytest.importorskip({"Keras 3 on torch": "keras", "skorch": "skorch"}[name])
    data = made("mnist", num_train=512)
    pixels = recipe("lenet5-mnist").plan("book").settings.preparation(data.train_images)
    peer = other_sides.load("peers").PEERS[name](pixels, data.train_labels)
    first, _ = peer.epoch()
    losses = [peer.epoch()[0] for _ in range(4)]
    assert peer.num_parameters == 61_706
    assert first == pytest.approx(math.log(10), abs=0.1)
    assert losses[-1] < first


# Measuring


def test_sides_run_in_turn_and_the_ratio_is_that_of_the_medians():
    ran = []

    def side(name, times):
        remaining = iter(times)
        return lambda: (ran.append(name), next(remaining))[1]

    found = measure.alternate({"a": side("a", [1.0, 9.0, 2.0]), "b": side("b", [8.0, 6.0, 100.0])}, 3)
    assert ran == ["a", "b", "a", "b", "a", "b"]
    assert (found["a"].median, found["a"].spread) == (2.0, (1.0, 9.0))
    assert Row("x", found["a"], found["b"]).ratio == 8.0 / 2.0


@pytest.mark.parametrize(
    ("goal", "ours", "other", "reached"),
    [
        (faster(50), 1.0, 50.0, True),
        (faster(50), 1.0, 49.9, False),
        (faster(50), 1.0, None, None),
        (cost(0.6), 0.6, 1.0, True),
        (cost(0.6), 0.61, 1.0, False),
        (Goal("above", 350e6, ""), 550e6, 200e6, True),
        (Goal("above", 350e6, ""), 551e6, 200e6, False),
        (Goal("within", 10, ""), 10.9, 1.0, True),
        (Goal("within", 10, ""), 11.1, 1.0, False),
        (Goal("within", 10, ""), 8.9, 1.0, False),
        (Goal("near", 784, ""), 800.0, None, True),
        (Goal("near", 784, ""), 871.0, None, False),
        (Goal("least", 0.6, ""), 0.59, None, False),
        (Goal("most", 0.5, ""), 0.5, None, True),
    ],
)
def test_a_goal_is_reached_up_to_its_bound(goal, ours, other, reached):
    assert goal.reached(ours, other) is reached


def test_a_time_whose_accuracy_was_missed_reaches_no_goal():
    measure_ = "mlp-fashion, to the source's accuracy"
    assert Row(measure_, 1.0, 1000.0).reached is True
    assert Row(measure_, 1.0, 1000.0, missed=True).reached is False


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0139, "s", "13.9 ms"),
        (8.2, "s", "8.2 s"),
        (2e-5, "s", "20 µs"),
        (0.613, "share", "61.3 %"),
        (550e6, "B", "550 MB"),
        (784.0, "B", "784 B"),
        (149.6, "GFLOP/s", "150 GFLOP/s"),
    ],
)
def test_amounts_carry_their_units(value, unit, text):
    assert amount(value, unit) == text


def test_the_rates_are_the_work_done_over_the_seconds_it_took(monkeypatch):
    monkeypatch.setattr(machine, "alternate", lambda sides, rounds: {name: Times((9.0, 0.5, 0.25)) for name in sides})
    machine.measured.cache_clear()
    found = machine.measured(Conditions(rounds=2))
    machine.measured.cache_clear()
    assert found["square product"].rounds == (2 * 1024**3 / 0.5 / 1e9, 2 * 1024**3 / 0.25 / 1e9)
    assert found["memory copy"].rounds[0] == 2 * 128 * 2**20 / 0.5 / 1e9  # read and written


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc")
def test_the_peak_of_a_process_is_its_own_and_not_that_of_the_one_that_started_it():
    held = torch.ones(100 << 20, dtype=torch.uint8)
    code = "from byhand.bench.peak import peak_resident_bytes as p; a = bytearray(b'x' * (40 << 20)); print(p())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 40 << 20 < int(said.stdout) < len(held)


# The command


def strict(lines):
    def refuse(token):
        raise AssertionError(f"{token} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in lines]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Every part of the bench in one quick run, as it prints JSON."""
    command = [sys.executable, "-m", "byhand", "bench", "--quick", "--threads", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path_factory.mktemp("bench"), check=False)
    assert done.returncode == 0, done.stderr
    return strict(done.stdout.splitlines())


def test_every_part_runs_and_prints_strict_json_after_its_receipt(told):
    assert told[0]["part"] == "receipt"
    assert {"versions", "cpu", "cores", "threads", "command"} <= told[0].keys()
    assert [*dict.fromkeys(line["part"] for line in told[1:])] == list(parts.PARTS)
    measures = [line["measure"] for line in told[1:]]
    assert len(measures) == len(set(measures))


def test_every_goal_of_the_table_is_measured_and_none_is_judged_in_a_quick_run(told):
    assert GOALS.keys() <= {line["measure"] for line in told[1:]}
    assert {line["reached"] for line in told[1:]} == {None}


def test_a_ratio_is_what_its_two_medians_give(told):
    compared = [line for line in told[1:] if line["ratio"] is not None]
    assert len(compared) >= 15
    for line in compared:
        pair = (line["ours"], line["other"]) if line["ratio_is"] == "ours / other" else (line["other"], line["ours"])
        assert line["ratio"] == pytest.approx(pair[0] / pair[1])


def test_nothing_of_a_run_of_the_bench_stays_behind(told, tmp_path, byhand, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = byhand("bench", "inference", "--quick")
    assert said.code == 0
    assert list(tmp_path.iterdir()) == []


def test_the_table_names_both_sides_ratio_and_goal(byhand):
    said = byhand("bench", "inference", "--quick", "--threads", 1)
    assert said.code == 0
    for word in ("10,000 images", "source's evaluation loop", "5 ×", "one image", "quick"):
        assert word in said.out, said.out


def test_without_the_repository_ours_is_measured_alone_and_that_is_said(byhand, monkeypatch):
    monkeypatch.setattr(other_sides, "folder", lambda: None)
    said = byhand("bench", "epochs", "peers", "inference", "--quick", "--threads", 1, "--json")
    assert said.code == 0
    assert said.err.count("benchmarks/ is not at hand") == 1
    rows = {line["measure"]: line for line in said.records[1:]}
    row = rows["softmax-fashion, an epoch"]
    assert row["ours"] > 0
    assert row["other"] is None
    assert row["ratio"] is None
    assert "run byhand bench in a clone" in row["note"]
    assert "run byhand bench in a clone" in rows["10,000 images"]["note"]


def test_the_other_sides_are_found_in_the_working_directory_and_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.setattr(other_sides, "__file__", str(tmp_path / "lib" / "byhand" / "bench" / "other_sides.py"))
    monkeypatch.chdir(tmp_path)
    assert other_sides.folder() is None
    assert other_sides.load("source_loop") is None
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "source_loop.py").touch()
    assert other_sides.folder() == tmp_path / "benchmarks"


def test_the_record_is_the_mean_of_five_seeds_with_its_receipt(byhand):
    said = byhand("bench", "--record", "--quick", "--threads", 1, "--json")
    assert said.code == 0
    found = said.records[1:]
    assert [(one["dataset"], one["to"]) for one in found] == [("mnist", 0.99), ("fashion-mnist", 0.90)]
    for one in found:
        seconds = [seed["seconds"] for seed in one["seeds"]]
        assert [seed["seed"] for seed in one["seeds"]] == [0, 1, 2, 3, 4]
        assert one["seconds"] == pytest.approx(sum(seconds) / 5)
        assert one["receipt"]["command"] == "byhand bench --record --quick --threads 1 --json"
        assert {"versions", "cpu", "cores", "threads"} <= one["receipt"].keys()
        assert len(one["receipt"]["data"]["sha256"]) == 4
        assert one["reached"] is None


def test_the_record_trains_plans_that_exist_on_the_data_that_it_names():
    for attempt in record.ATTEMPTS:
        chosen = recipe(attempt.recipe)
        assert chosen.plan(attempt.plan).settings.hold_out == 0
        assert chosen.dataset in ("mnist", "fashion-mnist")


def test_an_unknown_part_and_impossible_rounds_are_refused(refused):
    assert "did you mean 'epochs'" in refused("bench", "epoch")
    assert "rounds" in refused("bench", "--rounds", 0, "--quick")


def test_made_data_are_read_as_mnist_and_differ_between_the_two_sets(tmp_path):
    conditions = Conditions(quick=True, data_dir=make_data(tmp_path))
    mnist, fashion = conditions.load("mnist"), conditions.load("fashion-mnist")
    assert (len(mnist.train_images), len(mnist.test_images)) == (QUICK_TRAIN, QUICK_TEST)
    assert mnist.train_labels.bincount().min() > 0
    assert mnist.sha256["train-images-idx3-ubyte"] != fashion.sha256["train-images-idx3-ubyte"]


def test_results_of_several_runs_make_one_markdown_table(tmp_path, told):
    files = []
    for i, factor in enumerate((1.0, 3.0, 2.0)):
        row = Row("mlp, a step by hand", 0.002 * factor, 0.004 * factor, "torch.nn, sgd").record()
        files.append(tmp_path / f"{i}.jsonl")
        lines = [told[0], {"part": "steps", **row}]
        files[-1].write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    command = [sys.executable, str(ROOT / "benchmarks" / "table.py"), *map(str, files)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert (
        "| mlp, a step by hand | 4 ms (2 ms to 6 ms) | torch.nn, sgd: 8 ms (4 ms to 12 ms) | 0.5 × (0.5 × to 0.5 ×) |"
        " ≤ 1 × the time | 3 of 3 |"
    ) in said
    assert said.count(told[0]["cpu"]) == 3
