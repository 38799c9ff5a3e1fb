"""The progress of a training: a bar where there is a terminal, plain lines where there is none."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from byhand.jobs import Training
    from byhand.training.fit import Epoch


def follow(training: "Training") -> None:
    """Train to the end, or until Ctrl-C or SIGTERM, and show how it goes; everything is printed on stderr."""
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True, highlight=False)
    with _stopping(training):
        if not console.is_terminal:
            for epoch in training:
                print(epoch_line(epoch, training.state.settings.epochs), file=sys.stderr, flush=True)
            return
        started, first_step = time.perf_counter(), training.state.step
        live = Live(console=console, get_renderable=lambda: _bar(training, started, first_step), transient=True)
        with live:
            for epoch in training:
                live.console.print(epoch_line(epoch, training.state.settings.epochs))


def epoch_line(epoch: "Epoch", epochs: int) -> str:
    """One epoch in one line."""
    parts = [f"epoch {epoch.epoch:>{len(str(epochs))}}/{epochs}", f"loss {epoch.loss:.4f}"]
    if epoch.accuracy is not None:
        parts.append(f"accuracy {epoch.accuracy:.4f}")
    if epoch.validation_loss is not None:
        parts.append(f"held out: loss {epoch.validation_loss:.4f}")
    if epoch.validation_accuracy is not None:
        parts.append(f"accuracy {epoch.validation_accuracy:.4f}")
    return "  ".join(
        [*parts, f"lr {epoch.lr:.2g}", f"{epoch.examples_per_second:,.0f} examples/s", f"{epoch.seconds:.1f} s"]
    )


def _bar(training: "Training", started: float, first_step: int):
    """The line that is drawn again and again: it only reads the state, the training knows nothing of it."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    state = training.state
    steps = -(-len(training.data.train_images) // state.settings.batch_size) * state.settings.epochs
    done, seen = state.step - first_step, max(state.seen, 1)
    left = (time.perf_counter() - started) / done * (steps - state.step) if done else None
    words = [f"epoch {min(state.epoch + 1, state.settings.epochs)}/{state.settings.epochs}"]
    bar = ProgressBar(total=steps, completed=state.step, width=30)
    numbers = [f"loss {float(state.loss_sum) / seen:.4f}"]
    if training.task == "classification":
        numbers.append(f"accuracy {int(state.correct) / seen:.4f}")
    numbers.append(f"{state.seen / max(state.seconds, 1e-9):,.0f} images/s")
    numbers.append("– left" if left is None else f"{left:.0f} s left")
    row = Table.grid(padding=(0, 2))
    row.add_row(*words, bar, *numbers)
    return row


@contextmanager
def _stopping(training: "Training") -> Iterator[None]:
    """Within it Ctrl-C and SIGTERM end the training after its step; the second time they act as they always do."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, frame: object) -> None:
        training.state.stop = True
        for other, handler in before.items():
            signal.signal(other, handler)

    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
