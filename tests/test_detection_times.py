"""What an image takes in each part of a detector: measured on the parts themselves, told by result and comparison."""

import time

import pytest
import torch
from against_torch import random
from torch import nn

from byhand import jobs, models
from byhand.data.digits_scene import make_digits_scene
from byhand.models.proposals import SelectiveSearch
from byhand.runs.compare import compare
from byhand.training.detection_measures import detections
from byhand.training.part_times import PartTimes, timed
from byhand.training.settings import Settings

TINY = {"num_classes": 11, "width": 8, "min_size": 64, "max_size": 64}
PARTS = ("seconds_proposals", "seconds_features", "seconds_heads")


@pytest.fixture(scope="module")
def scenes():
    return make_digits_scene(0, 6, 3, size=64, digit_sizes=(20, 40))


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on when a part of the network says so."""
    now = [0.0]
    monkeypatch.setattr("byhand.training.part_times.time.perf_counter", lambda: now[0])
    return now


class Slow(nn.Module):
    def __init__(self, clock, seconds):
        super().__init__()
        self.clock, self.seconds = clock, seconds

    def forward(self, x):
        self.clock[0] += self.seconds
        return x


class InParts(nn.Module):
    """The second part is called twice, and what lies between belongs to none."""

    parts = {"proposals": "first", "features": "inside.second"}  # noqa: RUF012

    def __init__(self, clock):
        super().__init__()
        self.clock, self.first = clock, Slow(clock, 3.0)
        self.inside = nn.ModuleDict({"second": Slow(clock, 0.5)})

    def forward(self, x):
        self.clock[0] += 100
        return self.inside["second"](self.inside["second"](self.first(x)))


def test_each_part_counts_its_own_calls_and_nothing_stays_behind(clock):
    network, times = InParts(clock), PartTimes()
    with timed(network, times):
        for _ in range(4):
            network(torch.zeros(1))
            times.images += 1
    assert times.record() == {"seconds_proposals": 3.0, "seconds_features": 1.0}
    network(torch.zeros(1))
    assert times.seconds == {"proposals": 12.0, "features": 4.0}
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert PartTimes().record() == {}
    with timed(nn.Identity(), times), timed(network, None):  # one that names no parts, and nobody who asks
        network(torch.zeros(1))
    assert times.seconds == {"proposals": 12.0, "features": 4.0}


def test_proposals_that_are_remembered_are_searched_again_where_they_are_timed(monkeypatch):
    count = []
    monkeypatch.setattr(
        "byhand.models.proposals.selective_search", lambda *arguments: count.append(1) or torch.zeros(1, 4)
    )
    network, image = nn.Sequential(SelectiveSearch()), random(3, 8, 8).abs()
    network.parts = {"proposals": "0"}
    for _ in range(2):
        network(image)
    assert len(count) == 1
    with timed(network, PartTimes()):
        network(image)
    assert len(count) == 2
    network(image)
    assert len(count) == 2


@pytest.mark.parametrize("name", ["fastrcnn_small", "fasterrcnn_small", "maskrcnn_small"])
@pytest.mark.parametrize("by_hand", [False, True])
def test_every_detectors_parts_are_timed_in_both_hands(name, by_hand, scenes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = models.build(name, **TINY)
    settings = Settings(epochs=1, batch_size=1, lr=1e-3, by_hand=by_hand)
    times, began = PartTimes(), time.perf_counter()
    found = list(detections(model, scenes.test_images, settings, times))
    whole = (time.perf_counter() - began) / 3
    assert times.images == len(found) == 3
    record = times.record()
    assert tuple(record) == PARTS
    assert all(seconds > 0 for seconds in record.values())
    assert sum(record.values()) < whole


def test_a_result_and_a_comparison_tell_the_times_of_the_parts(scenes, tmp_path, monkeypatch, byhand):
    digits = jobs.train("lenet5-digits", epochs=1, batch_size=512, threads=1, runs_dir=tmp_path)
    assert not {"AP", *PARTS} & compare([digits])[0].keys()  # which finds no objects
    monkeypatch.setattr("byhand.data.load_detection", lambda name, **options: scenes)
    monkeypatch.setattr("byhand.jobs.models.build", lambda name, **options: models.detector(name).build(**TINY))
    given = {"dataset": "digits-scene", "epochs": 1, "batch_size": 3, "threads": 1, "runs_dir": tmp_path}
    runs = [jobs.train(network=name, **given) for name in ("fastrcnn", "fasterrcnn")]
    rows = compare(runs)
    for run, row in zip(runs, rows, strict=True):
        result = run.result()
        assert all(result[part] > 0 for part in PARTS)
        assert {key: row[key] for key in ("AP", "AP50", *PARTS)} == {key: result[key] for key in ("AP", "AP50", *PARTS)}
    lines = {
        line.split("  ")[0].strip(): line.split()
        for line in byhand("compare", *[r.path for r in runs]).out.splitlines()
    }
    assert {"AP", "AP50", *(part.replace("_", " ") for part in PARTS)} <= lines.keys()
    assert len(lines["seconds proposals"]) == 4
    unfinished = jobs.start(network="fastrcnn", **given)
    (row,) = compare([unfinished.run])
    assert [row[part] for part in PARTS] == [None] * 3
    (said,) = byhand("evaluate", runs[0].path, "--json").records
    assert all(said[part] > 0 for part in PARTS)
    assert "seconds an image: proposals " in byhand("evaluate", runs[0].path).out
