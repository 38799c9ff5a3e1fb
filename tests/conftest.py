"""One thread for every test, and what several test files share: data made for the test, the command line in-process."""

import json
import os
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start

import pytest
import torch

from byhand.data import entry
from byhand.data.arrays import Dataset

torch.set_num_threads(1)


class Said(NamedTuple):
    """What a command left: its exit code and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def records(self):
        """Stdout as one JSON object a line, by a reader that knows no NaN."""

        def refuse(token):
            raise AssertionError(f"{token} is not JSON")

        records = [json.loads(line, parse_constant=refuse) for line in self.out.splitlines()]
        assert all(isinstance(record, dict) for record in records), self.out
        return records


@pytest.fixture
def byhand(monkeypatch, capsys):
    """The command line in this process: byhand("train", "--epochs", 1) -> Said."""
    from byhand.cli import main

    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # main() replaces it

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["byhand", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return Said(left.value.code, out, err)

    return run


@pytest.fixture
def refused(byhand):
    """What a command said on stderr that must be refused: exit code 2 and one line, nothing on stdout."""

    def run(*arguments):
        said = byhand(*arguments)
        assert said.code == 2, said
        assert said.out == ""
        assert said.err.startswith("byhand: ")
        assert said.err.count("\n") == 1, said.err
        assert "Traceback" not in said.err
        assert len(said.err) < 600
        return said.err

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A finished run of lenet5-digits, one epoch, to be read only."""
    from byhand import jobs

    folder = tmp_path_factory.mktemp("trained")
    run = jobs.train("lenet5-digits", epochs=1, threads=1, runs_dir=folder)
    return Path(run.path)


def made(name, num_train=40, num_test=20, seed=0):
    """A small data set of the right shapes: every class occurs, each has a pattern of its own and noise on it."""
    known = entry(name)
    generator = torch.Generator().manual_seed(seed)
    if not known.num_classes:
        parts = []
        for n in (num_train, num_test):
            X = torch.randn(n, *known.shape, generator=generator)
            parts += [X, X @ torch.tensor([[1.1], [-4.5], [1.4]]) + 1.191981]
        return Dataset(name, *parts, truth={"weight": [1.1, -4.5, 1.4], "bias": 1.191981}, sha256={"made": str(seed)})
    patterns = torch.randint(0, 200, (known.num_classes, *known.shape), generator=generator)
    parts = []
    for n in (num_train, num_test):
        labels = torch.arange(n) % known.num_classes
        noise = torch.randint(0, 56, (n, *known.shape), generator=generator)
        parts += [(patterns[labels] + noise).to(torch.uint8), labels]
    return Dataset(name, *parts, class_names=known.class_names, sha256={"made": str(seed)}, source="made for a test")


@pytest.fixture(scope="session")
def real_data():
    """The folder with MNIST and Fashion-MNIST; tests that need it are skipped where $BYHAND_DATA names none."""
    folder = os.environ.get("BYHAND_DATA")
    if not folder:
        pytest.skip("$BYHAND_DATA names no folder with MNIST and Fashion-MNIST")
    return Path(folder)
