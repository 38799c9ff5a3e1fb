"""Settings are checked when they are made, and come back from a record as they were."""

import json
import math

import pytest

from byhand.cli.settings import changes_of
from byhand.data.preparation import Preparation
from byhand.errors import ByhandError, SettingsError, UnknownName
from byhand.recipes import RECIPES
from byhand.training.settings import Settings, from_text

PLAIN = Settings(epochs=2, batch_size=8, lr=0.1)
ALL_PLANS = [plan.settings for recipe in RECIPES for plan in recipe.plans.values()]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("epochs", (0, -1, 1.5, True, "2", None, math.nan)),
        ("batch_size", (0, -8, 2.0, "8", None)),
        ("lr", (0, 0.0, -0.1, math.nan, math.inf, -math.inf, "0.1", None, True, 10**400)),
        ("rise", (0, 1, -0.1, math.nan)),
        ("beta2", (-0.1, 1, math.nan)),
        ("momentum", (-0.1, 1, 1.5, math.nan, "0.9")),
        ("weight_decay", (-1e-9, math.nan, math.inf)),
        ("warm_up", (-1, math.nan, math.inf)),
        ("gamma", (0, -0.1, math.inf)),
        ("step_epochs", (0, 0.5)),
        ("label_smoothing", (-0.1, 1.1, math.nan)),
        ("dropout", (-0.1, 1, math.nan)),
        ("ema", (-0.1, 1, math.nan)),
        ("rotate", (-1, math.inf)),
        ("zoom", (-0.1, 1)),
        ("move", (-1, math.nan)),
        ("shift", (-1, 0.5)),
        ("cutout", (-1, 2.0)),
        ("patience", (-1, 0.5)),
        ("accumulate", (0, 1.5)),
        ("clip", (-1, math.nan, math.inf)),
        ("crop", (-0.1, 1.1)),
        ("colour", (-0.1, 1)),
        ("erase", (-0.1, 1.1)),
        ("mixup", (-1, math.inf, 1e-300, 1e300)),
        ("cutmix", (-1, math.nan)),
        ("decay_all", (0, "yes")),
        ("channels_last", (1, None)),
        ("seed", (-1, 0.0, 2**63, "0", None)),
        ("hold_out", (-0.1, 1, math.nan)),
        ("threads", (-1, 0.5, 10**5, 10**30)),
        ("device", ("gpu", "", "hpu", "privateuseone", "meta", "cpu:3", "cuda:x", 0, None)),
        ("by_hand", (1, "no", None)),
        ("flip", (1, "yes")),
        ("nesterov", (1, None)),
        ("running_metrics", ("false",)),
        ("preparation", ({"size": 32}, None)),
    ],
)
def test_a_setting_outside_its_range_is_one_line_that_names_it_and_its_value(name, values):
    for value in values:
        with pytest.raises(SettingsError) as error:
            PLAIN.replace(**{name: value})
        message = str(error.value)
        assert message.startswith(f"{name}={value!r} must be "), message
        assert "\n" not in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": "milestones", "milestones": (0.5, 1.5)}, "milestones=1.5 must be "),
        ({"schedule": "milestones"}, r"milestones=\(\) with schedule='milestones'"),
        ({"milestones": (0.5,)}, r"milestones=\(0.5,\) with schedule='constant'"),
    ],
)
def test_milestones_go_with_their_schedule_and_lie_within_the_training(changes, message):
    with pytest.raises(SettingsError, match=message):
        PLAIN.replace(**changes)


@pytest.mark.parametrize(
    ("name", "value", "near"),
    [
        ("optimizer", "adamww", "adamw"),
        ("schedule", "one_cycle", "one-cycle"),
        ("init", "norml", "normal"),
        ("divide_by", "batchsize", "batch_size"),
    ],
)
def test_a_word_that_is_none_of_the_known_ones_is_told_with_the_nearest(name, value, near):
    with pytest.raises(UnknownName, match=f"unknown {name} '{value}'; did you mean '{near}'"):
        PLAIN.replace(**{name: value})
    for odd in (None, 3, [], {}):
        with pytest.raises(UnknownName, match=f"unknown {name} "):
            PLAIN.replace(**{name: odd})


def test_a_setting_that_does_not_exist_is_told_with_the_nearest():
    with pytest.raises(UnknownName, match="unknown setting 'learning_rate'; "):
        PLAIN.replace(learning_rate=0.1)
    with pytest.raises(UnknownName, match="unknown setting 'batchsize'; did you mean 'batch_size'"):
        PLAIN.replace(batchsize=8)


@pytest.mark.parametrize(
    "change",
    [
        {"lr": 1e-300},
        {"lr": 1},
        {"seed": 2**63 - 1},
        {"label_smoothing": 1},
        {"hold_out": 0.999},
        {"device": "cuda:1"},
        {"device": "auto"},
        {"warm_up": 0.5},
        {"threads": 1},
    ],
)
def test_the_ends_of_the_ranges_are_allowed(change):
    ((name, value),) = change.items()
    assert getattr(PLAIN.replace(**change), name) == value


def test_every_plans_settings_come_back_from_json_as_they_were():
    for settings in ALL_PLANS:
        assert Settings.of(json.loads(json.dumps(settings.record()))) == settings


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"epochs": 1},
        PLAIN.record() | {"colour": "red"},
        PLAIN.record() | {"epochs": None},
        PLAIN.record() | {"preparation": {"colour": "red"}},
        PLAIN.record() | {"preparation": [32]},
        PLAIN.record() | {"preparation": "resize"},
    ],
)
def test_a_record_that_is_not_of_settings_is_a_settings_error(record):
    with pytest.raises(ByhandError) as error:
        Settings.of(record)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"size": 32}, "size=32"),
        ({"fit": "resize"}, "resize"),
        ({"size": 32, "fit": "stretch"}, "stretch"),
        ({"size": 0, "fit": "pad"}, "size=0"),
        ({"size": -4, "fit": "resize"}, "size=-4"),
        ({"size": 3.5, "fit": "resize"}, "size=3.5"),
        ({"std": 0}, "std=0"),
        ({"std": -1.0}, "std=-1.0"),
        ({"std": math.nan}, "std=nan"),
        ({"mean": math.inf}, "mean=inf"),
        ({"mean": "0"}, "mean='0'"),
    ],
)
def test_an_impossible_preparation_is_told_when_it_is_made(wrong, word):
    with pytest.raises(SettingsError) as error:
        Preparation(**wrong)
    assert word in str(error.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mixup=0.2", ("mixup", 0.2)),
        (" patience = 5 ", ("patience", 5)),
        ("flip=True", ("flip", True)),
        ("decay_all=false", ("decay_all", False)),
        ("optimizer=adamw", ("optimizer", "adamw")),
        ("milestones=0.5,0.75", ("milestones", (0.5, 0.75))),
        ("milestones=", ("milestones", ())),
    ],
)
def test_a_setting_is_read_from_text_by_its_kind(text, expected):
    found = from_text(text)
    assert found == expected
    assert type(found[1]) is type(expected[1])


def test_a_plan_with_milestones_can_be_given_another_schedule():
    changes = changes_of("resnet20-cifar10", "book", None, None, None, {}, ["schedule=cosine", "milestones="])
    assert changes == {"schedule": "cosine", "milestones": ()}


def test_a_network_of_ones_own_choice_takes_mixed_precision_unless_it_is_asked_to_go_by_hand():
    own = (None, "fast", "resnet18", "cifar10", None)
    assert changes_of(*own, {}, ["mixed_precision=true"]) == {"mixed_precision": True}
    with pytest.raises(SettingsError, match="of the library's hand"):
        changes_of(*own, {"by_hand": True}, ["mixed_precision=true"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mixup", "'mixup' must be NAME=VALUE"),
        ("mixpu=0.2", "unknown setting 'mixpu'; did you mean 'mixup'"),
        ("mixup=much", "mixup='much' must be a number"),
        ("patience=1.5", "patience='1.5' must be a whole number"),
        ("flip=yes", "flip='yes' must be true or false"),
        ("milestones=0.5;0.7", "milestones='0.5;0.7' must be numbers apart by commas"),
        ("preparation=pad", "unknown setting 'preparation'"),
    ],
)
def test_a_setting_that_cannot_be_read_is_one_line(text, message):
    with pytest.raises(ByhandError, match=message):
        from_text(text)
