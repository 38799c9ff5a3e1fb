"""``python tests``: style, types and tests, all of them even when one fails; arguments go to pytest.

The exit status is 0 when everything passed, else 1.
"""

import shlex
import subprocess
import sys
from pathlib import Path

CHECKS = (
    ["ruff", "check", "."],
    ["ruff", "format", "--check", "."],
    ["mypy"],
)


def main() -> int:
    # pytest comes last, so that what it counted is the last thing said.
    pytest = ["pytest", "--verbosity=0", *sys.argv[1:]]
    failed = [command for command in (*CHECKS, pytest) if not passes(command)]
    for command in failed:
        print(f"failed: {shlex.join(command)}", file=sys.stderr)
    return 1 if failed else 0


def passes(command: list[str]) -> bool:
    print(f"$ {shlex.join(command)}", flush=True)
    root = Path(__file__).resolve().parent.parent
    return subprocess.run([sys.executable, "-m", *command], cwd=root, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
