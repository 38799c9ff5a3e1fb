"""What every part of the bench is given: how often, how much, on how many threads, on which data."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from byhand.data.arrays import Dataset

QUICK_TRAIN, QUICK_TEST = 512, 128  # images of a quick run: two batches of 256


@dataclass(frozen=True)
class Conditions:
    """``rounds`` of each side in turn; ``quick`` makes sizes so small that the times say nothing."""

    rounds: int = 3
    quick: bool = False
    threads: int = 1
    data_dir: Path | None = None

    @property
    def calls(self) -> int:
        """How many steps or predictions make one round."""
        return 2 if self.quick else 60

    def load(self, name: str) -> "Dataset":
        """The data set in memory."""
        from byhand import data

        return data.load(name, self.data_dir)

    def arguments(self) -> list[str]:
        """The options of ``byhand train`` that say the same."""
        folder = ["--data-dir", str(self.data_dir)] if self.data_dir else []
        return [*folder, "--threads", str(self.threads), "--device", "cpu"]

    def environment(self) -> dict[str, str]:
        """The environment for a process of the bench: its threads too."""
        import os

        return {**os.environ, "OMP_NUM_THREADS": str(self.threads), "MKL_NUM_THREADS": str(self.threads)}


def make_data(folder: Path) -> Path:
    """The folder, with small files in the form of MNIST and Fashion-MNIST: a pattern for each class, and noise."""
    import numpy as np

    from byhand.data import entry
    from byhand.data.idx import write_idx

    draws = np.random.default_rng(0)
    patterns = draws.integers(0, 200, (10, 28, 28))
    for name in ("mnist", "fashion-mnist"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        files = entry(name).files
        for count, (images, labels) in ((QUICK_TRAIN, files[:2]), (QUICK_TEST, files[2:])):
            classes = np.array([i % 10 for i in range(count)])
            pictures = patterns[classes] + draws.integers(0, 56, (count, 28, 28))
            for file, values in ((images, pictures), (labels, classes)):
                (folder / name / file.name).write_bytes(write_idx(values))
    return folder
