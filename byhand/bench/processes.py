"""Commands as a user starts them, each a process of its own."""

import subprocess
import sys
from collections.abc import Sequence

from byhand.bench.conditions import Conditions
from byhand.errors import RunError

BYHAND = (sys.executable, "-m", "byhand")  # runs what the installed command runs, and is found without a PATH


def start(command: Sequence[str], conditions: Conditions) -> str:
    """What the command prints, when it has ended; raises RunError with its last line where it failed."""
    done = subprocess.run(command, env=conditions.environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise RunError(f"{' '.join(command[-3:])} ended with {done.returncode} and said: {said}")
    return done.stdout
