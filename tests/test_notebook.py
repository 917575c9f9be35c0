"""A notebook uses the package that lies with it, from wherever it is run and whatever else is installed."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from helpers.engine.files import ROOT
from helpers.notebook import colab

from .conftest import run_module

FOUND = "\nfrom importlib.util import find_spec\nprint(find_spec('helpers').origin)"


def opening(path: Path) -> str:
    """The lines of a notebook that come before its first import of the package."""
    code = (cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
    return 'address = ""\n' + next(source for source in code if "sys.path" in source).partition("from helpers")[0]


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """What another checkout looks like from outside."""
    place = tmp_path / "a copy, été"
    for folder in ("helpers", "notebooks", "outs/run/notebooks", "elsewhere/helpers"):
        (place / folder).mkdir(parents=True)
    for name in ("helpers/__init__.py", "helpers/notebook.py", "elsewhere/helpers/__init__.py"):
        (place / name).touch()
    return place


def git(*words: str, folder: Path) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


def test_a_notebook_that_lies_alone_clones_the_address_it_is_given(other: Path, tmp_path: Path) -> None:
    git("init", "-q", folder=other)
    git("add", "-A", folder=other)
    git("commit", "-qm", "a course", folder=other)
    alone = tmp_path / "alone"
    alone.mkdir()
    lines = opening(ROOT / "notebooks" / "01_data_exploration.ipynb").replace(
        'address = ""', f"address = {str(other)!r}"
    )
    for _ in range(2):  # the second time the clone is there
        command = [sys.executable, "-P", "-c", lines + FOUND]
        done = subprocess.run(command, cwd=alone, capture_output=True, text=True, encoding="utf-8", timeout=60)
        assert done.stdout.strip() == str(alone / "course" / "helpers" / "__init__.py"), done.stderr


@pytest.mark.parametrize(
    ("address", "link"),
    [
        ("git@github.com:somebody/a-course.git", "https://colab.research.google.com/github/somebody/a-course"),
        ("https://github.com/somebody/course", "https://colab.research.google.com/github/somebody/course"),
        ("/somewhere/else", ""),
        ("", ""),
    ],
)
def test_colab_is_linked_only_where_the_checkout_has_an_address_on_github(
    tmp_path: Path, address: str, link: str
) -> None:
    git("init", "-q", folder=tmp_path)
    if address:
        git("remote", "add", "origin", address, folder=tmp_path)
    assert colab(tmp_path) == link


@pytest.mark.parametrize("folder", [".", "notebooks", "outs/run/notebooks", "elsewhere"])
def test_the_package_beside_a_notebook_comes_before_the_installed_one(other: Path, folder: str) -> None:
    (lines,) = {opening(path) for path in (ROOT / "notebooks").glob("*.ipynb")}
    command = [sys.executable, "-P", "-c", lines + FOUND]
    done = subprocess.run(command, cwd=other / folder, capture_output=True, text=True, encoding="utf-8", timeout=60)
    assert done.stdout.strip() == str(other / "helpers" / "__init__.py"), done.stderr


@pytest.mark.slow
def test_papermill_in_a_third_folder_never_runs_a_notebook_with_the_code_of_another_checkout(other: Path) -> None:
    body = nbformat.v4.new_code_cell("from helpers.notebook import begin\nbegin('smoke', 'photos', '')")
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path = other / "notebooks" / "01.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[body], metadata=metadata), path)
    done = run_module("papermill", str(path), str(other / "done.ipynb"))
    assert done.returncode and f"UserError: this notebook lies in {other}, but the package in use is" in done.stderr
    assert f"--cwd {other / 'notebooks'}" in done.stderr
