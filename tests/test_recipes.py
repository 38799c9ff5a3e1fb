"""The recipes: every plan can run, `book` is the source's own, and the goals are those that were promised."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import made

from byhand import data, jobs, models
from byhand.data.preparation import Preparation
from byhand.errors import UnknownName
from byhand.recipes import DEFAULT, RECIPES, recipe
from byhand.recipes.measured import EPOCH_SECONDS

ROOT = Path(__file__).resolve().parent.parent
PLANS = [(one.name, plan) for one in RECIPES for plan in one.plans]
LABELLED = [(name, plan) for name, plan in PLANS if recipe(name).task != "detection"]  # test_training_detection: others


def near(value, margin):
    return (pytest.approx(value - margin), pytest.approx(value + margin))


def at_least(value):
    return (value, 1.0)


# Networks of the source's chapter 7 on Fashion-MNIST, each in a width made for a CPU.
NARROWED = ("alexnet", "vgg11", "nin", "googlenet", "densenet", "mobilenetv1", "mobilenetv2", "mobilenetv3")

# What the project promises of the means over three seeds on the test set; weights: of every run.
FOUND = {"max_weight_error": (0, 1e-3), "closed_form_error": (0, 1e-3)}
PROMISED = {
    ("linear-regression", "book"): FOUND,
    ("linear-regression", "fast"): FOUND,
    ("linear-regression", "best"): FOUND,
    ("softmax-fashion", "book"): {
        "train_loss": near(0.4072, 0.006), "train_accuracy": near(0.8609, 0.006), "accuracy": near(0.8417, 0.006),
    },
    ("softmax-fashion", "fast"): {"accuracy": at_least(0.8417)},
    ("softmax-fashion", "best"): {"accuracy": at_least(0.848)},
    ("mlp-fashion", "book"): {
        "train_loss": near(0.2668, 0.008), "train_accuracy": near(0.9015, 0.008), "accuracy": near(0.8786, 0.008),
    },
    ("mlp-fashion", "fast"): {"accuracy": at_least(0.8786)},
    ("mlp-fashion", "best"): {"accuracy": at_least(0.907)},
    ("lenet5-mnist", "book"): {"accuracy": near(0.9904, 0.002)},
    ("lenet5-mnist", "fast"): {"accuracy": at_least(0.9904)},
    ("lenet5-mnist", "best"): {"accuracy": at_least(0.995)},
    ("lenet5-bn-fashion", "fast"): {"accuracy": at_least(0.91)},
    **{(f"{name}-fashion", "fast"): {"accuracy": at_least(0.92)} for name in NARROWED},
    ("resnet20-fashion", "fast"): {"accuracy": at_least(0.93)},
    ("resnet20-fashion", "best"): {"accuracy": at_least(0.945)},
    ("resnet20-mnist", "fast"): {"accuracy": at_least(0.996)},
    ("resnet20-cifar10", "book"): {"accuracy": at_least(0.9125)},
    ("resnet20-cifar10", "fast"): {"accuracy": at_least(0.9)},
    ("resnet56-cifar10", "book"): {"accuracy": at_least(0.9303)},
    ("rcnn-scenes", "fast"): {"AP50": at_least(0.80)},
    ("fastrcnn-scenes", "fast"): {"AP50": at_least(0.9)},
    ("fasterrcnn-scenes", "fast"): {"AP50": at_least(0.95)},
    ("maskrcnn-scenes", "fast"): {"AP50": at_least(0.95), "mask_AP50": at_least(0.9)},
    ("fasterrcnn-bccd", "fast"): {"AP50": at_least(0.89)},
    ("fasterrcnn-bccd", "best"): {"AP50": at_least(0.92)},
    ("lenet5-digits", "fast"): {"accuracy": at_least(0.98)},
    ("lenet5-digits", "best"): {"accuracy": at_least(0.99)},
}  # fmt: skip

REPORTED = {
    "linear-regression": {},
    "softmax-fashion": {"train_loss": 0.4072, "train_accuracy": 0.8609, "accuracy": 0.8417},
    "mlp-fashion": {"train_loss": 0.2668, "train_accuracy": 0.9015, "accuracy": 0.8786},
    "mlp-fashion-adamw": {},
    "lenet5-mnist": {"train_loss": 0.0134, "train_accuracy": 0.9955, "accuracy": 0.9904},
    "lenet5-fashion": {},
    "lenet5-digits": {},
    "lenet5-bn-fashion": {},
    "alexnet-fashion": {},
    "vgg11-fashion": {},
    "nin-fashion": {},
    "googlenet-fashion": {},
    "resnet20-fashion": {},
    "densenet-fashion": {},
    "mobilenetv1-fashion": {},
    "mobilenetv2-fashion": {},
    "mobilenetv3-fashion": {},
    "resnet20-mnist": {},
    "resnet20-cifar10": {},
    "resnet20-cifar10-batch5": {},
    "resnet56-cifar10": {},
    "rcnn-scenes": {},
    "fastrcnn-scenes": {},
    "fasterrcnn-scenes": {},
    "maskrcnn-scenes": {},
    "fasterrcnn-bccd": {},
}
# The source trains none of its chapter 7, so there are no settings of its own; CIFAR's `book` is the 2016 paper's.
FEWER_PLANS = {
    "lenet5-bn-fashion": ["fast"],
    **{f"{name}-fashion": ["fast"] for name in NARROWED},
    "resnet20-fashion": ["fast", "best"],
    "resnet20-mnist": ["fast"],
    "resnet20-cifar10": ["book", "fast"],
    "resnet20-cifar10-batch5": ["book", "fast"],
    "resnet56-cifar10": ["book", "fast"],
    "rcnn-scenes": ["fast"],
    "fastrcnn-scenes": ["fast"],
    "fasterrcnn-scenes": ["fast"],
    "maskrcnn-scenes": ["fast"],
    "fasterrcnn-bccd": ["fast", "best"],
}

SGD = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "init": "normal", "divide_by": "batch_size"}
ADAMW = {"optimizer": "adamw", "weight_decay": 0.01, "beta2": 0.999, "init": "default", "divide_by": "batch"}  # torch's
RESIZE = Preparation(size=32, fit="resize")
PLAIN = Preparation()  # x / 255, as ToTensor() does
BOOK = {
    "linear-regression": {"epochs": 20, "batch_size": 30, "lr": 0.008, **SGD},
    "softmax-fashion": {"epochs": 30, "batch_size": 256, "lr": 0.1, "preparation": PLAIN, **SGD},
    "mlp-fashion": {"epochs": 30, "batch_size": 256, "lr": 0.1, "preparation": PLAIN, **SGD},
    "mlp-fashion-adamw": {"epochs": 30, "batch_size": 256, "lr": 0.001, "preparation": PLAIN, **ADAMW},
    "lenet5-mnist": {"epochs": 20, "batch_size": 256, "lr": 0.001, "preparation": RESIZE, **ADAMW},
}
UNKNOWN_TO_THE_SOURCE = {
    "schedule": "constant", "warm_up": 0, "label_smoothing": 0, "dropout": 0, "ema": 0, "flip": False, "rotate": 0,
    "zoom": 0, "move": 0, "shift": 0, "hold_out": 0, "by_hand": False, "nesterov": False,
}  # fmt: skip


def test_the_recipes_are_those_of_the_project_and_each_has_its_plans():
    assert [one.name for one in RECIPES] == list(REPORTED)
    for one in RECIPES:
        assert list(one.plans) == FEWER_PLANS.get(one.name, ["book", "fast", "best"])
        assert recipe(one.name) is one


def test_the_default_needs_no_data_at_hand():
    assert DEFAULT is recipe("lenet5-digits")
    assert data.entry(DEFAULT.dataset).kind == "embedded"


def test_an_unknown_recipe_or_plan_is_told_with_the_nearest():
    with pytest.raises(UnknownName, match="unknown recipe 'lenet5-minst'; did you mean 'lenet5-mnist'"):
        recipe("lenet5-minst")
    with pytest.raises(UnknownName, match="unknown plan of mlp-fashion 'bok'; did you mean 'book'"):
        recipe("mlp-fashion").plan("bok")


@pytest.mark.parametrize("one", RECIPES, ids=lambda one: one.name)
def test_what_the_source_reports_stands_in_the_recipe(one):
    assert dict(one.reported) == REPORTED[one.name]


@pytest.mark.parametrize(("name", "plan"), PLANS)
def test_the_goals_are_the_promised_ones(name, plan):
    goal = dict(recipe(name).plan(plan).goal)
    if (name, plan) in PROMISED:
        assert goal == PROMISED[name, plan]


def test_the_cost_of_an_epoch_is_that_of_the_results():
    records = [json.loads(path.read_text()) for path in sorted((ROOT / "results").glob("*.json"))]
    assert len(records) >= 20
    found = {}
    for record in sorted(records, key=lambda record: record["settings"]["by_hand"]):  # of two hands by hand counts
        found[record["recipe"], record["plan"]] = record["means"]["seconds"]["mean"] / record["epochs"]
    assert found.keys() == EPOCH_SECONDS.keys()
    assert {key: EPOCH_SECONDS[key] for key in found} == pytest.approx(found, rel=0.1, abs=0.06)


def test_every_promise_is_of_a_plan_that_exists():
    assert set(PROMISED) <= set(PLANS)


@pytest.mark.parametrize("name", BOOK)
def test_book_is_the_sources_own_settings_and_nothing_else(name):
    settings = recipe(name).plan("book").settings
    expected = UNKNOWN_TO_THE_SOURCE | BOOK[name]
    assert {key: getattr(settings, key) for key in expected} == expected
    assert settings.running_metrics == (name != "linear-regression")  # there the source measures after each epoch


@pytest.mark.parametrize(
    ("name", "epochs"), [("softmax-fashion", 2), ("mlp-fashion", 4), ("mlp-fashion-adamw", 4), ("lenet5-mnist", 2)]
)
def test_fast_takes_no_more_epochs_than_promised(name, epochs):
    assert recipe(name).plan("fast").settings.epochs <= epochs


@pytest.mark.parametrize(("name", "plan"), LABELLED)
def test_the_network_of_a_plan_takes_the_data_as_the_plan_prepares_them(name, plan):
    one = recipe(name)
    chosen = one.plan(plan)
    entry = data.entry(one.dataset)
    options = {**one.options, **chosen.options}
    if chosen.settings.dropout:
        options["dropout"] = chosen.settings.dropout
    model = models.build(one.network, **options)
    examples = made(one.dataset).train_images[:3]
    outputs = model(chosen.settings.preparation(examples))
    assert outputs.shape == (3, entry.num_classes or 1)
    assert (one.task == "regression") == (entry.num_classes == 0)


def test_the_networks_have_the_sources_number_of_parameters():
    counts = {"linear-regression": 4, "softmax-fashion": 7850, "mlp-fashion": 235146, "lenet5-mnist": 61706}
    for name, count in counts.items():
        assert sum(p.numel() for p in models.build(recipe(name).network).parameters()) == count


@pytest.mark.parametrize("by_hand", [False, True], ids=["library", "by hand"])
@pytest.mark.parametrize(("name", "plan"), LABELLED)
def test_every_plan_trains_to_its_end_in_both_hands(name, plan, by_hand, tmp_path, monkeypatch):
    monkeypatch.setattr("byhand.data.load", lambda name, *a, **k: made(name))
    run = jobs.train(name, plan, epochs=2, batch_size=16, by_hand=by_hand, threads=1, runs_dir=tmp_path)
    result = run.result()
    assert result["epochs"] == len(run.history()) == 2
    assert result["reached"] is None  # fewer epochs than planned: no promise is judged
    assert (result["recipe"], result["plan"], result["seed"]) == (name, plan, 0)
    assert result["loss"] >= 0
    assert all(torch.isfinite(value).all() for value in run.weights().values())
    assert jobs.measure(run)["loss"] == result["loss"]


# Published accuracies, on the real data


def test_lenet5_on_the_embedded_digits_reaches_098_with_the_plan_fast(tmp_path):
    result = jobs.train("lenet5-digits", "fast", threads=1, runs_dir=tmp_path).result()
    assert result["accuracy"] >= 0.98
    assert result["reached"] is True
    assert result["measured_on"] == "test set"


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("plan", ["book", "fast", "best"])
def test_linear_regression_finds_the_weights(plan, seed, tmp_path):
    result = jobs.train("linear-regression", plan, seed=seed, threads=1, runs_dir=tmp_path).result()
    assert result["max_weight_error"] < 1e-3
    assert result["closed_form_error"] < 1e-3
    assert result["reached"] is True


def test_softmax_regression_reaches_the_sources_accuracy_on_fashion_mnist_with_the_plan_fast(tmp_path, real_data):
    result = jobs.train("softmax-fashion", "fast", threads=1, runs_dir=tmp_path).result()
    assert result["accuracy"] >= 0.8417
    assert result["reached"] is True


def test_importing_the_recipes_does_not_import_torch():
    code = "import sys, byhand, byhand.recipes; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
