"""Peak resident memory, and what ten times the images cost."""

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from byhand.bench.conditions import Conditions
from byhand.bench.measure import Times, alternate
from byhand.bench.processes import start
from byhand.bench.row import Row

TITLE = "Memory, each a new process"
TIMES = 10


def run(conditions: Conditions) -> Iterator[Row]:
    """A whole training against ``import torch`` alone; an epoch of 600,000 images against one of 60,000."""
    judged = not conditions.quick
    with tempfile.TemporaryDirectory(prefix="byhand-bench-") as folder:
        runs_dir = str(Path(folder) / "runs")
        pictures = ["--no-plots"] if conditions.quick else []
        train = ["train", "lenet5-mnist", "--runs-dir", runs_dir, *pictures, *conditions.arguments()]
        peaks = alternate(
            {"ours": lambda: peak(train, folder, conditions), "import": lambda: peak([], folder, conditions)},
            1 if conditions.quick else 2,
        )
    yield Row(
        "byhand train lenet5-mnist, peak memory", peaks["ours"], peaks["import"], "import torch", "B", judged=judged
    )
    once, ten = repeated(1, conditions), repeated(TIMES, conditions)
    single = Times((once["seconds"],) if conditions.quick else (once["seconds"], repeated(1, conditions)["seconds"]))
    note = f"lenet5-mnist; {ten['images']:,} images once, {once['images']:,} before and after"
    yield Row("600,000 images, an epoch", ten["seconds"], single, "60,000 images", note=note, judged=judged)
    each = (ten["peak"] - once["peak"]) / (ten["images"] - once["images"])
    note = f"for each image more, from the peaks of {once['peak'] / 1e6:,.0f} and {ten['peak'] / 1e6:,.0f} MB"
    yield Row("600,000 images, memory", each, unit="B", note=note, judged=judged)


def peak(arguments: Sequence[str], folder: str, conditions: Conditions) -> float:
    """Peak resident bytes of ``byhand ARGUMENTS``, or without any of ``import torch``."""
    report = Path(folder) / "peak"
    start([sys.executable, "-m", "byhand.bench.peak", str(report), *arguments], conditions)
    return float(report.read_text())


def repeated(times: int, conditions: Conditions) -> dict[str, Any]:
    """Seconds, images and peak of an epoch over so many times the images."""
    folder = [str(conditions.data_dir)] if conditions.data_dir else []
    command = [sys.executable, "-m", "byhand.bench.repeated", str(times), str(conditions.threads), *folder]
    return json.loads(start(command, conditions).splitlines()[-1])
