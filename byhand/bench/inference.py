"""Predictions: many at once against the source's evaluation loop, and one alone."""

import tempfile
from collections.abc import Iterator

from byhand import jobs
from byhand.bench import other_sides
from byhand.bench.conditions import Conditions
from byhand.bench.measure import alternate, clock, median_of
from byhand.bench.row import Row

TITLE = "run.predict, LeNet-5"


def run(conditions: Conditions) -> Iterator[Row]:
    """All test images, and one image after warm-up; the weights are untrained, which costs the same."""
    data = conditions.load("mnist")
    images = data.test_images
    with tempfile.TemporaryDirectory(prefix="byhand-bench-") as folder:
        options = {"data_dir": conditions.data_dir, "runs_dir": folder, "threads": conditions.threads, "device": "cpu"}
        training = jobs.start("lenet5-mnist", "fast", **options)  # type: ignore[arg-type]
        run = training.run
        run.save_weights(training.state.library.state_dict())
        sides = {"ours": clock(lambda: run.predict(images))}
        program = other_sides.load("source_loop")
        if program is not None:
            sides["source"] = clock(program.Loop("lenet5-mnist", data).evaluate)
        alternate(sides, 1)  # warm
        times = alternate(sides, conditions.rounds)
        single = median_of(lambda: run.predict(images[:1]), conditions.calls)
        single()
        alone = alternate({"one": single}, conditions.rounds)["one"]
    note = f"{len(images):,} images" + ("" if program else f"; {other_sides.NOT_AT_HAND}")
    side = "the source's evaluation loop"
    yield Row("10,000 images", times["ours"], times.get("source"), side, note=note, judged=not conditions.quick)
    yield Row("one image", alone, note="median of single calls", judged=not conditions.quick)
