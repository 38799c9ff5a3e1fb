"""Imports run one way through the package, and the command line answers without torch."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import byhand

PACKAGE = Path(byhand.__file__).parent

# Each part of the package may import what stands here, and errors. From DESIGN, with changes made on purpose:
# runs may import models and data, as a run directory rebuilds its network and names its data; training may import
# models, as fine-tuning asks which layers are the head; plots may import models, to ask a network for its receptive
# fields and to train the pairs that it compares; models may import ops, as detectors take their boxes, proposals and
# regions from there in both hands; plots may import ops and training, to show what a detector does and is measured on
# by its own code; assembly, measures, jobs, reproduce, trained and detect stand above everything but the command line.
BELOW_JOBS = {"ops", "nn", "optim", "models", "data", "training", "recipes", "runs", "proof", "plots", "pretrained"}
MAY_IMPORT = {
    "errors": set(),
    "ops": set(),
    "data": set(),
    "optim": set(),
    "models": {"ops"},
    "nn": {"ops"},
    "runs": {"models", "data"},
    "pretrained": {"runs", "models", "data"},
    "proof": {"nn", "optim"},
    "plots": {"data", "runs", "models", "ops", "training"},
    "training": {"data", "optim", "nn", "ops", "models"},
    "recipes": {"training", "models", "data"},
    "assembly": BELOW_JOBS,
    "measures": BELOW_JOBS | {"assembly"},
    "jobs": BELOW_JOBS | {"assembly", "measures"},
    "reproduce": BELOW_JOBS | {"jobs"},
    "trained": BELOW_JOBS | {"jobs", "reproduce"},
    "detect": BELOW_JOBS,
    "bench": BELOW_JOBS | {"jobs", "reproduce"},
    "cli": BELOW_JOBS | {"jobs", "reproduce", "bench", "trained", "detect"},
    "__main__": {"cli"},
    "__init__": BELOW_JOBS | {"jobs"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def part_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path):
    """(line, part of byhand) of each import of the package in a file, also inside of functions."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            names = [f"byhand.{alias.name}" for alias in node.names] if node.module == "byhand" else [node.module or ""]
            assert node.level == 0, f"{path}:{node.lineno}: write the whole name, byhand...."
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found += [(node.lineno, [*name.split("."), ""][1]) for name in names if name.split(".")[0] == "byhand"]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_what_lies_below_it(path):
    part = part_of(path)
    assert part in MAY_IMPORT, f"{part} is new; say here what it may import"
    allowed = MAY_IMPORT[part] | {part, "errors", "__version__"}
    wrong = [f"line {line}: byhand.{name}" for line, name in imported(path) if name not in allowed]
    assert not wrong, f"byhand.{part} may import {sorted(allowed)}, but {wrong}"


def test_no_part_can_reach_itself_again():
    def reach(part, seen=()):
        assert part not in seen, f"{' -> '.join([*seen, part])} is a circle"
        for below in MAY_IMPORT[part]:
            reach(below, (*seen, part))

    for part in MAY_IMPORT:
        reach(part)


# What torch has no layer for; all else in models is written with torch, and by_hand changes it.
DETECTION = {f"byhand.ops.{name}" for name in ("anchors", "assignment", "boxes", "masks", "pyramid", "roi_align")}
DETECTION |= {"byhand.ops.suppression", "byhand.ops.roi_pool", "byhand.ops.selective_search", "byhand.ops.warping"}


def test_networks_are_written_with_torch_and_errors_and_the_operations_of_detection_only():
    for path in (PACKAGE / "models").glob("*.py"):
        names = {name for _, name in imported(path)}
        assert names <= {"models", "errors", "ops"}
        tree = ast.parse(path.read_text(encoding="utf-8"))
        modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
        assert {name for name in modules if name.startswith("byhand.ops")} <= DETECTION


def test_torchvision_is_never_imported():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in getattr(node, "names", [])] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "torchvision" for name in names), path


def heavy_modules_after(code):
    """Which of torch and matplotlib a fresh interpreter has loaded after the code."""
    heavy = "print('\\n' + json.dumps([m for m in ('torch', 'matplotlib') if m in sys.modules]))"
    run = subprocess.run(
        [sys.executable, "-c", f"import json, sys\n{code}\n{heavy}"], capture_output=True, text=True, check=True
    )
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "code",
    [
        "import byhand; dir(byhand); byhand.ByhandError; byhand.__version__",
        "import byhand.cli",
        "import byhand.errors, byhand.data, byhand.models",
        "import byhand.recipes",
        "from byhand.cli import main; sys.argv = ['byhand', '--help']\ntry: main()\nexcept SystemExit: pass",
        "from byhand.cli import main; sys.argv = ['byhand', 'list']\ntry: main()\nexcept SystemExit: pass",
    ],
)
def test_the_command_line_and_the_bare_package_load_neither_torch_nor_matplotlib(code):
    assert heavy_modules_after(code) == []


def test_the_check_of_loaded_modules_can_fail():
    assert heavy_modules_after("import byhand; byhand.nn") == ["torch"]


def test_every_public_name_can_be_imported():
    for name in byhand.__all__:
        assert getattr(byhand, name) is not None
    assert set(byhand.__all__) <= set(dir(byhand))
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        byhand.trian  # noqa: B018
