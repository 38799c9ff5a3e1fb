"""The programs that byhand is compared with; they stand in ``benchmarks/`` of the repository, not in the package."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

NOT_AT_HAND = "benchmarks/ is not at hand; run byhand bench in a clone of the repository"


def folder() -> Path | None:
    """``benchmarks/`` beside the package or in the working directory; None where byhand is installed without it."""
    for root in (Path(__file__).resolve().parents[2], Path.cwd()):
        if (root / "benchmarks" / "source_loop.py").is_file():
            return root / "benchmarks"
    return None


def load(name: str) -> ModuleType | None:
    """The program ``source_loop``, ``plain_loop`` or ``peers`` as a module; None where it is not at hand."""
    found = folder()
    if found is None:
        return None
    known = f"byhand_benchmarks_{name}"
    if known not in sys.modules:
        spec = importlib.util.spec_from_file_location(known, found / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[known] = module
    return sys.modules[known]
