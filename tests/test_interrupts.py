"""A training that is interrupted by Ctrl-C, SIGTERM or SIGKILL goes on as if nothing had been; in real processes."""

import json
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch

DEADLINE = 90  # seconds; only a process that hangs meets it
EPOCHS = 4
BYHAND = (sys.executable, "-m", "byhand")
# Small batches: an epoch takes long enough to be met in its middle.
TRAIN = (
    *BYHAND, "train", "lenet5-digits", "--epochs", str(EPOCHS), "--batch-size", "8", "--threads", "1", "--no-plots",
)  # fmt: skip


def begun(folder, *more, command=TRAIN, **options):
    """A training in the folder, with Ctrl-C as in a terminal even where the tests run in the background."""

    def restore():
        signal.signal(signal.SIGINT, signal.default_int_handler)

    return subprocess.Popen(
        [*command, *more],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=restore,
        **options,
    )


def until(condition, process):
    """What the condition gives as soon as it gives something, while the process lives."""
    end = time.monotonic() + DEADLINE
    while not (found := condition()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.005)
    return found


def run_in(folder):
    return next((Path(folder) / "runs").glob("2*"), None) if (Path(folder) / "runs").exists() else None


def has_checkpoint(folder):
    run = run_in(folder)
    return run if run and (run / "checkpoint.pt").exists() else None


def seal_of_checkpoint(folder):
    """The sha256 of the checkpoint, when it is whole on the disk: while it is replaced, two stand there."""
    run = has_checkpoint(folder)
    lines = (run / "checkpoint.pt.sha256").read_text().splitlines() if run else []
    return lines[0] if len(lines) == 1 else None


def epochs_logged(folder):
    run = run_in(folder)
    return len((run / "metrics.jsonl").read_text().splitlines()) if run and (run / "metrics.jsonl").exists() else 0


@pytest.fixture
def resumed(byhand):
    """Goes on with a run, in this process, to its end: the result and what was said on the way."""

    def resume(run):
        said = byhand("resume", run, "--no-plots", "--json")
        assert said.code == 0, said
        return said.records[0], said.err

    return resume


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The run directory of the same training, left alone; what it said lies beside its runs."""
    folder = tmp_path_factory.mktemp("whole")
    process = begun(folder)
    out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, err
    (folder / "stdout").write_text(out)
    (folder / "stderr").write_text(err)
    return run_in(folder)


def assert_as_uninterrupted(run, whole):
    expected = safetensors.torch.load_file(whole / "model.safetensors")
    found = safetensors.torch.load_file(run / "model.safetensors")
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []
    assert (run / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()

    def lines(path):
        records = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        return [{key: value for key, value in one.items() if "second" not in key} for one in records]

    assert lines(run) == lines(whole)
    results = [json.loads((path / "result.json").read_text()) for path in (run, whole)]
    for name in ("accuracy", "loss", "train_accuracy", "train_loss", "epochs"):
        assert results[0][name] == results[1][name]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interrupted_training_says_how_to_go_on_and_goes_on_bit_for_bit(number, tmp_path, uninterrupted):
    process = begun(tmp_path)
    until(lambda: epochs_logged(tmp_path) >= 1, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=DEADLINE)
    run = run_in(tmp_path)
    assert (process.returncode, out) == (130, "")
    last = err.splitlines()[-1]
    said = re.fullmatch(r"byhand: interrupted after .*; go on with: (byhand resume (runs/\S+))", last)
    assert said, err
    assert "Traceback" not in err
    assert shlex.split(said[1])[-1] == str(run.relative_to(tmp_path))
    assert not (run / "result.json").exists()
    assert re.search(r"epoch \d, step \d+|\d epochs", last)
    command = [sys.executable, "-m", *shlex.split(said[1]), "--no-plots", "--json"]  # as it says, in another process
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["epochs"] == EPOCHS
    assert_as_uninterrupted(run, uninterrupted)


def test_killed_in_the_middle_of_an_epoch_it_goes_on_from_the_epoch_before(tmp_path, uninterrupted, resumed):
    process = begun(tmp_path)
    first = until(lambda: seal_of_checkpoint(tmp_path), process)
    until(lambda: epochs_logged(tmp_path) >= 1 and seal_of_checkpoint(tmp_path) not in (None, first), process)
    process.kill()
    process.communicate(timeout=DEADLINE)
    run = run_in(tmp_path)
    _, err = resumed(run)
    assert "epoch 1/" not in err
    assert_as_uninterrupted(run, uninterrupted)
    assert [path.name for path in run.iterdir() if "tmp" in path.name] == []


def test_killed_before_its_first_epoch_ended_it_begins_again(tmp_path, uninterrupted, resumed):
    process = begun(tmp_path)
    run = until(lambda: has_checkpoint(tmp_path), process)
    process.kill()
    process.communicate(timeout=DEADLINE)
    assert epochs_logged(tmp_path) == 0
    _, err = resumed(run)
    assert "epoch 1/" in err
    assert_as_uninterrupted(run, uninterrupted)


def _is_training(process):
    """Whether the process has its own handler of SIGTERM, so that a signal now ends a step and not an import."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return True  # not Linux, or gone
    caught = int(re.search(r"SigCgt:\s*([0-9a-f]+)", status)[1], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


SLOW_STEP = """
import sys, threading
from byhand.training.steps import Step
step = Step.__call__
def slow(self, *rest):
    step(self, *rest)
    if self.state.step == 2:
        print("in a step", file=sys.stderr, flush=True)
        threading.Event().wait(600)  # as a step that takes very long
Step.__call__ = slow
from byhand.cli import main
sys.argv = ["byhand", "train", "--threads", "1", "--no-plots", "--epochs", "2"]
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_second_signal_leaves_at_once(number, tmp_path, resumed):
    process = begun(tmp_path, command=(sys.executable, "-c", SLOW_STEP))
    assert process.stderr.readline() == "in a step\n"
    until(lambda: _is_training(process), process)
    process.send_signal(number)
    until(lambda: not _is_training(process), process)  # the handlers that leave at once are in place
    assert process.poll() is None  # the first one waits for the step
    process.send_signal(number)
    _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGTERM)
    assert "Traceback" not in err
    run = run_in(tmp_path)
    result, _ = resumed(run)  # from the checkpoint before
    assert result["epochs"] == 2


def test_ctrl_c_in_the_last_measurement_says_how_to_go_on(tmp_path, resumed):
    code = (
        "import sys, os, signal\nfrom byhand import jobs\n"
        "jobs.evaluate = lambda *a: os.kill(os.getpid(), signal.SIGINT)\n"
        "from byhand.cli import main\n"
        "sys.argv = ['byhand', 'train', '--threads', '1', '--no-plots', '--epochs', '1']\nmain()\n"
    )
    process = begun(tmp_path, command=(sys.executable, "-c", code))
    out, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, out) == (130, "")
    assert "go on with: byhand resume runs/" in err.splitlines()[-1]
    assert "Traceback" not in err
    result, err = resumed(run_in(tmp_path))
    assert "epoch" not in err  # nothing was left to train
    assert result["epochs"] == 1


def test_an_interrupted_reproduction_leaves_with_130(tmp_path):
    process = begun(
        tmp_path, command=(*BYHAND, "reproduce", "lenet5-digits", "--plan", "best", "--threads", "1", "--seeds", "1")
    )
    until(lambda: epochs_logged(tmp_path) >= 1, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err
    assert "byhand resume" in err.splitlines()[-1]


# What is shown while it trains


def in_a_terminal(command, cwd, columns=80):
    """What the command writes to a terminal of that width, and its exit code."""
    import fcntl
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        command, cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs, env=environment | {"TERM": "xterm-256color"}
    )
    os.close(theirs)
    written, end = b"", time.monotonic() + DEADLINE
    while time.monotonic() < end:
        if select.select([ours], [], [], 1)[0]:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the last one that held the terminal has left
                break
            if not piece:
                break
            written += piece
    os.close(ours)
    return written.decode(), process.wait(timeout=DEADLINE)


def test_a_terminal_shows_a_bar_of_one_line(tmp_path):
    short = (*BYHAND, "train", "--threads", "1", "--no-plots", "--epochs", "2", "--batch-size", "8")
    text, code = in_a_terminal(short, tmp_path)
    assert code == 0
    assert "\x1b[?25l" in text  # the cursor is hidden while the bar is drawn
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # and shown again
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).rstrip() for line in re.split(r"[\r\n]+", text)]
    bars = [line for line in lines if "━" in line and "left" in line]
    assert bars
    for bar in bars:
        assert re.fullmatch(
            r"epoch [12]/2 [━╸╺]+ loss \d\.\d{4}( accuracy \d\.\d{4})? [\d,]+ images/s (\d+:\d\d|–:––) left", bar
        ), bar
    assert any("accuracy" in bar for bar in bars)  # it is counted every few batches
    assert max(map(len, lines)) <= 80
    assert len([line for line in lines if re.match(r"epoch [12]/2  loss", line)]) == 2


def test_a_pipe_gets_plain_lines(uninterrupted):
    said = (uninterrupted.parents[1] / "stderr").read_text()
    assert len(said.splitlines()) == EPOCHS
    for number, line in enumerate(said.splitlines(), 1):
        assert re.fullmatch(
            rf"epoch {number}/{EPOCHS}  loss \d\.\d{{4}}  accuracy \d\.\d{{4}}  lr \S+  [\d,]+ images/s  \d+\.\d s",
            line,
        )
    assert "\x1b" not in (uninterrupted.parents[1] / "stdout").read_text()


def test_ctrl_c_in_a_terminal_gives_the_cursor_back(tmp_path):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        TRAIN, cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env=os.environ | {"TERM": "xterm-256color"}, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    os.close(theirs)
    written = []

    def read():
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:
                return
            if not piece:
                return
            written.append(piece)

    reader = threading.Thread(target=read)
    reader.start()
    until(lambda: epochs_logged(tmp_path) >= 1, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=DEADLINE) == 130
    reader.join(DEADLINE)
    os.close(ours)
    text = b"".join(written).decode()
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert "go on with: byhand resume runs/" in text
    assert "Traceback" not in text
