"""From Enter to an answer: the help, and a trained network with its result written."""

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from byhand.bench.conditions import Conditions
from byhand.bench.measure import alternate, clock
from byhand.bench.processes import BYHAND, start
from byhand.bench.row import Row

TITLE = "From Enter, each a new process"


def run(conditions: Conditions) -> Iterator[Row]:
    """``byhand --help`` alone, ``byhand train softmax-fashion`` against ``python -c "import torch"``."""
    sides = {
        "import": clock(lambda: start([sys.executable, "-c", "import torch"], conditions)),
        "train": lambda: to_result(conditions),
        "help": clock(lambda: start([*BYHAND, "--help"], conditions)),
    }
    if not conditions.quick:
        alternate(sides, 1)  # reads files from the disk and compiles them
    times = alternate(sides, conditions.rounds)
    judged = not conditions.quick
    yield Row("byhand --help", times["help"], judged=judged)
    side = 'python -c "import torch"'
    yield Row(
        "byhand train softmax-fashion", times["train"], times["import"], side, note="to result.json", judged=judged
    )


def to_result(conditions: Conditions) -> float:
    """Seconds from starting ``byhand train softmax-fashion --no-plots`` to its result.json, by that file's own time."""
    with tempfile.TemporaryDirectory(prefix="byhand-bench-") as folder:
        started = time.time()
        options = ["--no-plots", "--runs-dir", folder, *conditions.arguments()]
        start([*BYHAND, "train", "softmax-fashion", *options], conditions)
        (result,) = Path(folder).glob("*/result.json")
        return result.stat().st_mtime - started
