"""The learning-rate finder on a problem whose largest stable rate is known, and the command around it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import made
from PIL import Image

from byhand import jobs, models
from byhand.errors import SettingsError
from byhand.plots import lr_curve
from byhand.training.lr_finder import search_lr, suggested
from byhand.training.settings import Settings
from byhand.training.state import State

N = 200


def line(stretch=1.0):
    """A regression of which every batch is all examples, its state, and the largest rate at which descent is stable."""
    data = made("synthetic-linear", num_train=N)
    data = replace(data, train_images=stretch * data.train_images)
    settings = Settings(epochs=1, batch_size=N, lr=1.0)
    state = State.new(lambda: models.build("linear-regression"), settings, torch.device("cpu"))
    X = torch.cat([data.train_images, torch.ones(N, 1)], 1).double()
    largest = float(torch.linalg.eigvalsh(X.T @ X / N)[-1])  # of the Hessian of the mean of ½ (ŷ − y)²
    return data, state, 2 / largest


@pytest.mark.parametrize("stretch", [1.0, 10.0])
def test_the_loss_falls_up_to_the_largest_stable_rate_and_explodes_beyond_it(stretch):
    data, state, stable = line(stretch)
    found = search_lr(state, data, "regression", stable * 1e-5, stable * 1e5, 200)
    losses, lrs = found.losses, np.array(found.lrs)
    below = int((lrs < stable).sum())
    assert 90 < below < len(lrs) < 200
    rounding = 1e-6 * losses[0]
    assert all(losses[i + 1] < losses[i] + rounding for i in range(below))
    assert found.diverged
    assert found.smoothed[-1] > 4 * min(found.smoothed)
    assert all(value <= 4 * min(found.smoothed[: i + 1]) for i, value in enumerate(found.smoothed[:-1]))
    assert stable / 1000 < found.suggestion < stable / 2


def test_the_rates_of_the_steps_are_a_geometric_sequence():
    data, state, stable = line()
    step, rates = state.optimizer.step, []
    state.optimizer.step = lambda: (rates.append(state.optimizer.param_groups[0]["lr"]), step())
    found = search_lr(state, data, "regression", 1e-4, stable / 2, 25)
    np.testing.assert_allclose(rates, np.geomspace(1e-4, stable / 2, 25), rtol=1e-12)
    assert found.lrs == rates
    assert not found.diverged


def test_the_smoothed_loss_is_the_weighted_mean_of_the_losses_by_now():
    data, state, stable = line()
    found = search_lr(state, data, "regression", 1e-4, stable / 2, 60)  # a twentieth: 3 steps
    for i, value in enumerate(found.smoothed):
        weights = (2 / 3) ** np.arange(i, -1, -1)
        assert value == pytest.approx(np.average(found.losses[: i + 1], weights=weights), rel=1e-9)


def test_the_first_loss_is_that_of_the_network_before_any_step():
    data, state, _ = line()
    with torch.no_grad():
        expected = ((state.library(data.train_images) - data.train_labels) ** 2).mean() / 2
    found = search_lr(state, data, "regression", 1e-3, 1e-1, 10)
    assert found.losses[0] == pytest.approx(float(expected), rel=1e-5)


def test_the_suggestion_is_the_steepest_fall_but_at_most_a_tenth_of_the_rate_of_the_least_loss():
    lrs = [10.0**i for i in range(8)]
    early = [9.0, 8.9, 5.0, 4.0, 3.5, 3.2, 3.0, 30.0]  # steepest around 1 and 2: (5 − 9) / 2 at 1, (4 − 8.9) / 2 at 2
    assert suggested(lrs, early) == lrs[2]
    late = [9.0, 8.9, 8.8, 8.7, 8.5, 7.0, 1.0, 30.0]  # steepest at 5, least at 6
    assert suggested(lrs, late) == lrs[5]
    assert suggested([2.0**i for i in range(8)], late) == 64 / 10
    assert suggested(lrs, early, skipped=3) == lrs[3]


def test_a_loss_that_never_falls_is_refused_in_one_line():
    with pytest.raises(SettingsError, match="does not fall up to lr=100; search from a lower low"):
        suggested([1.0, 10.0, 100.0], [1.0, 2.0, 3.0])
    data, state, stable = line()
    with pytest.raises(SettingsError, match="does not fall"):
        search_lr(state, data, "regression", stable * 100, stable * 1000, 20)


def test_a_training_after_the_search_learns_what_it_would_have_learned(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def weights():
        run = jobs.train("linear-regression", epochs=1, runs_dir=tmp_path / "runs", threads=1)
        return run.model().state_dict()

    before = weights()
    found = jobs.find_lr("linear-regression", low=1e-4, high=1e3, steps=50, threads=1)
    assert found.diverged
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert len(list((tmp_path / "runs").iterdir())) == 1
    after = weights()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("by_hand", [True, False])
def test_a_network_of_images_is_searched_in_either_hand_over_whole_batches_alone(by_hand, monkeypatch):
    data = made("fashion-mnist", num_train=40)
    settings = Settings(epochs=1, batch_size=16, lr=1.0, by_hand=by_hand, flip=True, mixup=0.4)
    state = State.new(lambda: models.build("mlp"), settings, torch.device("cpu"))
    sizes = []
    state.model.register_forward_hook(lambda layer, inputs, output: sizes.append(len(output)))
    found = search_lr(state, data, low=1e-5, high=1e3, steps=40)
    assert found.diverged
    assert set(sizes) == {16}
    assert found.losses[0] == pytest.approx(math.log(10), rel=0.2)
    assert 1e-4 < found.suggestion < 10


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--low", "1", "--high", "1"], "low=1 must be below high=1"),
        (["--low", "2", "--high", "1"], "low=2 must be below high=1"),
        (["--low", "0"], "low=0.0 must be a finite learning rate above 0"),
        (["--high", "nan"], "high=nan must be a finite learning rate above 0"),
        (["--steps", "9"], "steps=9 must be a whole number of at least 10"),
        (["--batch-size", "0"], "batch_size=0"),
        (["--plan", "slow"], "unknown plan of lenet5-digits 'slow'"),
        (["--lang", "fr"], "unknown language 'fr'"),
    ],
    ids=str,
)
def test_bad_input_is_refused_in_one_line_and_no_picture_is_written(arguments, said, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert said in refused("find-lr", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_head_alone_is_searched_for_from_given_weights(byhand, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = ("find-lr", "lenet5-digits", "--threads", 1, "--steps", 40, "--set", "freeze=true")
    assert "give --from WEIGHTS" in refused(*asked)
    assert "no.pth" in refused(*asked, "--from", "no.pth")
    torch.save(models.build("lenet5").state_dict(), "weights.pth")
    (record,) = byhand(*asked, "--from", "weights.pth", "--json").records
    assert record["suggestion"] > 0


def test_the_command_prints_the_suggestion_and_writes_the_picture(byhand, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = ("find-lr", "linear-regression", "--low", 1e-4, "--threads", 1, "--output", "pictures/lr.png")
    (record,) = byhand(*asked, "--json").records
    assert record["recipe"] == "linear-regression"
    assert len(record["lrs"]) == len(record["losses"]) == len(record["smoothed"])
    with Image.open(record["picture"]) as picture:
        assert picture.size == (840, 504)
    said = byhand(*asked, "--lang", "zh")
    assert said.code == 0
    assert f"suggested learning rate: {record['suggestion']:.2g}" in said.out
    assert "the loss exploded at lr" in said.out
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_picture_has_both_losses_on_a_logarithmic_axis_and_marks_the_suggestion(lang):
    lrs, losses = [0.01, 0.1, 1.0, 10.0], [3.0, 2.0, 1.0, 500.0]
    (axes,) = lr_curve(lrs, losses, [3.0, 2.5, 1.8, 90.0], 0.1, lang).axes
    assert axes.get_xscale() == "log"
    each, smoothed, rule, mark = axes.lines
    assert list(each.get_ydata()) == losses
    assert list(smoothed.get_ydata()) == [3.0, 2.5, 1.8, 90.0]
    assert list(rule.get_xdata()) == [0.1, 0.1]
    assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (0.1, pytest.approx(2.5))
    assert any("0.1" in text.get_text() for text in axes.get_legend().get_texts())
    low, high = axes.get_ylim()
    assert low < 1.0 < 3.0 < high < 10  # the explosion is not drawn to its end
