"""What stands in READMEs, constraints and CI fits together and does what it says."""

import re
import tomllib
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
READMES = ("README.md", "README.zh-CN.md")
DOCUMENTS = (*READMES, "CONTRIBUTING.md", "CHANGELOG.md")


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name, language):
    return re.findall(rf"```{language}\n(.*?)```", text(name), re.DOTALL)


@pytest.mark.parametrize("name", READMES)
def test_two_commands_do_all_the_set_up_and_ci_runs_the_second(name):
    train, test = (block.strip() for block in blocks(name, "bash"))
    assert train.startswith("python3 -m venv .venv && ")
    assert train.endswith("byhand train")
    assert test == text(".ci/run").splitlines()[-1]
    assert test in text("CONTRIBUTING.md")
    assert "\n" not in train + test


def test_both_readmes_have_the_same_commands_numbers_and_code():
    english, chinese = map(text, READMES)
    assert blocks("README.md", "bash") == blocks("README.zh-CN.md", "bash")
    code = [re.sub(r"  #.*", "", blocks(name, "python")[0]) for name in READMES]
    assert code[0] == code[1]
    assert re.findall(r"[\d.]+\d", english.split("|---|")[1]) == re.findall(r"[\d.]+\d", chinese.split("|---|")[1])


@pytest.mark.parametrize("name", READMES)
def test_no_number_of_a_readme_was_left_to_fill(name):
    assert "TO-FILL" not in text(name)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_file_that_a_document_links_to_exists(name):
    links = [link for link in re.findall(r"\]\(([^)#]+)", text(name)) if "://" not in link]
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_file_that_a_document_names_exists(name):
    named = re.findall(r"`((?:byhand/|\.ci/|tests/)[\w./]*)`", text(name))
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("name", READMES)
def test_the_readme_lists_every_recipe(name):
    from byhand.recipes import RECIPES

    assert re.findall(r"^\| `([\w-]+)`", text(name), re.MULTILINE) == [recipe.name for recipe in RECIPES]


@pytest.fixture
def one_thread():
    """Two threads wait for each other at every small layer, for minutes where other processes hold the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_the_python_example_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    (example,) = blocks("README.md", "python")
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    said = capsys.readouterr().out
    assert "equal" in said
    accuracy, run = said.splitlines()[-1].split()
    assert 0.5 < float(accuracy) <= 1  # three epochs; guessing gives 0.1
    assert (tmp_path / run / "result.json").exists()


def test_every_direct_dependency_is_pinned_to_a_version_that_the_project_allows():
    project = tomllib.loads(text("pyproject.toml"))["project"]
    asked = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    pins = [Requirement(line) for line in text("constraints.txt").splitlines() if not line.startswith("#")]
    pinned = {pin.name: str(pin.specifier).removeprefix("==") for pin in pins}
    assert len(pinned) == len(pins)
    assert set(pinned) == {Requirement(one).name for one in asked}
    assert [one for one in map(Requirement, asked) if not one.specifier.contains(pinned[one.name])] == []


def test_no_dependency_has_an_upper_bound():
    project = tomllib.loads(text("pyproject.toml"))["project"]
    asked = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    bounds = [part.operator for one in asked for part in Requirement(one).specifier]
    assert set(bounds) <= {">="}
    assert project["requires-python"] == ">=3.11"
