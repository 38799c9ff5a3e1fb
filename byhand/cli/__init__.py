"""The command line. Each command imports what it needs when it runs: `--help` and `list` never wait for torch."""

import io
import os
import sys
import warnings
from typing import Any

import typer

from byhand.cli import (
    bench,
    catalogue,
    compare,
    data,
    detect,
    evaluate,
    export,
    find_lr,
    plot,
    predict,
    prove,
    reproduce,
    train,
)
from byhand.cli.output import Interrupted, fail, one_line
from byhand.errors import ByhandError

app = typer.Typer(
    name="byhand",
    help="The classical networks of Dive into Deep Learning: by hand, proven, trained.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("list")(catalogue.list_)
app.command("show")(catalogue.show)
app.command("prove")(prove.prove)
app.command("train")(train.train)
app.command("resume")(train.resume)
app.command("find-lr")(find_lr.find_lr)
app.command("evaluate")(evaluate.evaluate)
app.command("predict")(predict.predict)
app.command("detect")(detect.detect)
app.command("plot")(plot.plot)
app.command("compare")(compare.compare)
app.command("reproduce")(reproduce.reproduce)
app.command("export")(export.export)
app.command("bench")(bench.bench)
app.add_typer(data.app, name="data")


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and leave.", is_eager=True),
) -> None:
    """The classical networks of Dive into Deep Learning: by hand, proven, trained."""
    if version:
        from byhand import __version__

        typer.echo(f"byhand {__version__}")
        raise typer.Exit()
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


# typer has carried its own copy of click since 0.26, so the class is found by its name.
_UsageError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def main() -> None:
    """Run the command line and leave with its exit code: 0 done, 1 missed, 2 bad input, 130 interrupted."""
    # A terminal or file of another encoding shows an escape for what it cannot hold.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    warnings.showwarning = lambda message, *_: print(f"warning: {one_line(str(message))}", file=sys.stderr)
    try:
        code = app(standalone_mode=False)
        if code == 130:  # what typer makes of Ctrl-C since 0.26, without a word
            fail("interrupted")
    except ByhandError as error:
        code = fail(str(error))
    except _UsageError as error:
        code = fail(str(error.format_message()))
    except Interrupted as interrupted:
        code = fail(str(interrupted), 130)
    except (KeyboardInterrupt, typer.Abort):
        code = fail("interrupted", 130)
    except BrokenPipeError:  # the reader (head, less) has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        code = fail(f"{error.filename or 'the system'}: {error.strerror or error}")
    sys.exit(code if isinstance(code, int) else 0)
