"""A notebook uses the package that lies with it, from wherever it is run and whatever else is installed."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from helpers.engine.files import ROOT

from .conftest import run_module

FOUND = "\nfrom importlib.util import find_spec\nprint(find_spec('helpers').origin)"


def opening(path: Path) -> str:
    """The lines of a notebook that come before its first import of the package."""
    code = (cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
    return next(source for source in code if "sys.path" in source).partition("from helpers")[0]


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """What another checkout looks like from outside."""
    place = tmp_path / "a copy, été"
    for folder in ("helpers", "notebooks", "outs/run/notebooks", "elsewhere/helpers"):
        (place / folder).mkdir(parents=True)
    for name in ("helpers/__init__.py", "helpers/notebook.py", "elsewhere/helpers/__init__.py"):
        (place / name).touch()
    return place


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
