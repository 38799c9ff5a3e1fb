"""The progress of a training: a bar where there is a terminal, plain lines where there is none."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

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
                print(epoch_line(epoch, training), file=sys.stderr, flush=True)
            return
        started, first_step = time.perf_counter(), training.state.step
        live = Live(console=console, get_renderable=lambda: _bar(training, started, first_step), transient=True)
        with live:
            for epoch in training:
                live.console.print(epoch_line(epoch, training))


def epoch_line(epoch: "Epoch", training: "Training") -> str:
    """One epoch in one line."""
    epochs = training.state.settings.epochs
    parts = [f"epoch {epoch.epoch:>{len(str(epochs))}}/{epochs}", f"loss {epoch.loss:.4f}"]
    if epoch.accuracy is not None:
        parts.append(f"accuracy {epoch.accuracy:.4f}")
    if epoch.validation_loss is not None:
        parts.append(f"validation: loss {epoch.validation_loss:.4f}")
    if epoch.validation_accuracy is not None:
        parts.append(f"accuracy {epoch.validation_accuracy:.4f}")
    speed = f"{epoch.examples_per_second:,.0f} {_examples(training)}/s"
    return "  ".join([*parts, f"lr {epoch.lr:.2g}", speed, f"{epoch.seconds:.1f} s"])


def _bar(training: "Training", started: float, first_step: int):
    """The line that is drawn again and again: it only reads the state, the training knows nothing of it."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    from byhand.training.batches import num_batches

    state = training.state
    steps = num_batches(len(training.data.train_images), state.settings.batch_size) * state.settings.epochs
    done, seen = state.step - first_step, max(state.seen, 1)
    left = (time.perf_counter() - started) / done * (steps - state.step) if done else None
    # On a GPU both are known at the end of an epoch alone.
    numbers = [f"loss {state.loss_sum / seen:.4f}"] if state.loss_sum else []
    if training.task == "classification" and state.counted:
        numbers.append(f"accuracy {state.correct / state.counted:.4f}")
    numbers.append(f"{state.seen / max(state.seconds, 1e-9):,.0f} {_examples(training)}/s")
    numbers.append("–:–– left" if left is None else f"{_clock(left)} left")
    row = Table.grid(padding=(0, 1), expand=True)
    row.add_column(no_wrap=True)
    row.add_column(ratio=1)  # the bar takes what the words leave
    for _ in numbers:
        row.add_column(no_wrap=True)
    words = f"epoch {min(state.epoch + 1, state.settings.epochs)}/{state.settings.epochs}"
    row.add_row(words, ProgressBar(total=steps, completed=state.step), *numbers)
    return row


def _examples(training: "Training") -> str:
    return "examples" if training.task == "regression" else "images"


def _clock(seconds: float) -> str:
    """Minutes and seconds, with hours where there are any: 0:07, 1:02:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


@contextmanager
def _stopping(training: "Training") -> Iterator[None]:
    """Within it Ctrl-C and SIGTERM end the training after its step; the second one ends the program at once."""
    # Of a job in the background a shell has Ctrl-C ignored, and kill -INT would do nothing the second time.
    at_once: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.getsignal(number) for number in at_once}

    def stop(number: int, frame: object) -> None:
        training.state.stop = True
        for other, handler in at_once.items():
            signal.signal(other, handler)

    for number in at_once:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
