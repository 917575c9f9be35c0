"""Notebooks that Python runs: in which kernel, with whose code, and a kernel that does not come up."""

import json
import sys
from pathlib import Path

import nbformat
import pytest

from helpers.engine.errors import UserError
from helpers.engine.files import ROOT
from helpers.engine.kernels import execute_notebook

SAY = "import sys, importlib.util\nprint(sys.executable, importlib.util.find_spec('helpers').origin, sep='\\n')"


def run(folder: Path, source: str = SAY) -> str:
    """What a notebook of one cell prints."""
    place, target = folder / "one.ipynb", folder / "done.ipynb"
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)], metadata=metadata), place)
    execute_notebook(place, str(target), {}, folder)
    return nbformat.read(target, as_version=4).cells[0].outputs[0].text


def test_the_kernel_is_of_this_python_and_imports_this_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever kernel "python3" a user has, and whatever package `helpers` lies where it runs or on PYTHONPATH."""
    theirs = tmp_path / "jupyter" / "kernels" / "python3"
    theirs.mkdir(parents=True)
    spec = {"argv": ["/no/python", "-m", "ipykernel_launcher"], "display_name": "theirs", "language": "python"}
    (theirs / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    other = tmp_path / "été 2"
    (other / "helpers").mkdir(parents=True)
    (other / "helpers" / "__init__.py").touch()
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("PYTHONPATH", str(other))
    assert run(other).split("\n")[:2] == [sys.executable, str(ROOT / "helpers" / "__init__.py")]


def test_a_kernel_that_dies_at_the_start_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ipykernel_launcher.py").write_text("raise SystemExit(1)", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(UserError, match=r"^its kernel did not start \(Kernel died before replying.*says why") as caught:
        run(tmp_path)
    assert "\n" not in str(caught.value)
