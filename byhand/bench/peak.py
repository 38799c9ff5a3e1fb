"""A process that writes down its peak resident memory: ``python -m byhand.bench.peak REPORT [ARGUMENTS of byhand]``.

Without arguments it imports torch and nothing else. Nothing but the standard library is imported here before that.
"""

import runpy
import sys
from pathlib import Path


def peak_resident_bytes() -> int:
    """The most memory that this process ever held, in bytes.

    Linux's VmHWM and not ``ru_maxrss``: there the latter begins with what the process that started this one held.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    report, arguments = Path(sys.argv[1]), sys.argv[2:]
    try:
        if arguments:
            sys.argv = ["byhand", *arguments]
            runpy.run_module("byhand", run_name="__main__")
        else:
            import torch  # noqa: F401
    finally:
        report.write_text(str(peak_resident_bytes()))
