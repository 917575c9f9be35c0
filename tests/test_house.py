"""The house keeps its plan: budgets of lines, and a fence that notices an arrow that runs back up."""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from helpers.engine.files import ROOT

COURSE, ALL = 3320, 9220  # lines of helpers/*.py together, and of helpers/ in all: a third of the course is the codec
MODULE, CLASS, FUNCTION = 300, 150, 40
ROOMS = {"engine", "lab", "measure", "publish", "show", "sources"}


def modules() -> list[Path]:
    return sorted((ROOT / "helpers").rglob("*.py"))


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def definitions(path: Path) -> Iterator[tuple[ast.AST, str, int]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node, f"{path.name}: {node.name}", node.end_lineno - node.lineno + 1


def test_the_course_and_the_house_keep_their_budgets() -> None:
    course = [path for path in modules() if path.parent.name == "helpers"]
    assert sum(map(lines, course)) <= COURSE and sum(map(lines, modules())) <= ALL
    assert {path.parent.name for path in modules()} - {"helpers"} == ROOMS


def test_no_module_class_or_function_is_long() -> None:
    assert not [path.name for path in modules() if lines(path) > MODULE]
    limits = {ast.ClassDef: CLASS, ast.FunctionDef: FUNCTION}
    long = [name for path in modules() for node, name, size in definitions(path) if size > limits[type(node)]]
    assert not long


def test_no_import_inside_a_function_hides_an_arrow() -> None:
    for path in modules():
        for node, name, _ in definitions(path):
            inside = [n for n in ast.walk(node) if isinstance(n, ast.ImportFrom)]
            assert not [n for n in inside if n.level or (n.module or "").startswith("helpers")], name


def test_one_name_is_one_thing() -> None:
    """No public function or class has the name of another in a second module."""
    seen: dict[str, str] = {}
    for path in modules():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            public = isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
            if public and node.name != "main":
                assert node.name not in seen, f"{node.name} stands in {seen.get(node.name)} and in {path.name}"
                seen[node.name] = path.name


def test_notebooks_import_from_the_course_measure_and_show_only() -> None:
    allowed = re.compile(r"helpers(\.(measure|show)(\.\w+)?|\.\w+)?$")
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code":
                assert not re.search(r"from helpers import .*\b(engine|lab|publish|sources)\b", cell.source)
                for module in re.findall(r"^\s*(?:from|import) (helpers[\w.]*)", cell.source, re.M):
                    room = module.split(".")[1] if "." in module else ""
                    assert allowed.match(module) and room not in {"engine", "lab", "publish", "sources"}, module


def test_the_fence_notices_an_arrow_that_runs_back_up(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "helpers", tmp_path / "helpers", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"]

    def lint() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, encoding="utf-8")

    assert (whole := lint()).returncode == 0, whole.stdout + whole.stderr
    losses = tmp_path / "helpers" / "losses.py"
    hidden = "\n\ndef hidden() -> None:\n    from .show import theme\n    print(theme)\n"
    losses.write_text(losses.read_text(encoding="utf-8") + hidden, encoding="utf-8")
    assert (broken := lint()).returncode != 0 and "helpers.losses -> helpers.show.theme" in broken.stdout


def test_every_module_has_its_test() -> None:
    """A reader finds the test of helpers/a/b.py in tests/a/test_b.py."""
    elsewhere = {"__init__", "bars", "errors"}  # told by the tests of what uses them
    for path in modules():
        place = path.relative_to(ROOT / "helpers")
        test = ROOT / "tests" / place.parent / f"test_{place.stem.strip('_')}.py"
        assert place.stem in elsewhere or test.is_file(), test


def texts_in_an_unknown_encoding(source: str) -> list[int]:
    """The lines on which a text file or the text of a program is read or written in the encoding of the machine."""
    found = []
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        owner = getattr(getattr(call.func, "value", None), "id", "")
        options = {option.arg: option.value for option in call.keywords}
        as_text = name in ("read_text", "write_text") or getattr(options.get("text"), "value", None) is True
        if name in ("NamedTemporaryFile", "TemporaryFile") or (
            name == "open" and owner not in ("Image", "os", "tarfile")
        ):
            mode = (
                [options["mode"]]
                if "mode" in options
                else call.args[isinstance(call.func, ast.Name) and name == "open" :]
            )
            as_text = "b" not in ast.unparse(mode[0]) if mode else name == "open"
        if as_text and "encoding" not in options:
            found.append(call.lineno)
    return found


def test_every_text_is_read_and_written_in_utf_8() -> None:
    """Windows and some other machines have another default, and so they would read other letters."""
    for bad in ("p.read_text()", "p.write_text('x')", "open(p)", "open(p, 'w')", "p.open()", "p.open(mode='a')",
                "subprocess.run(c, text=True)", "NamedTemporaryFile('w')"):  # fmt: skip
        assert texts_in_an_unknown_encoding(bad) == [1], bad
    for good in ("p.read_text(encoding='utf-8')", "open(p, 'rb')", "p.open('wb')", "Image.open(p)", "p.read_bytes()",
                 "subprocess.run(c, text=True, encoding='utf-8')", "TemporaryFile()"):  # fmt: skip
        assert not texts_in_an_unknown_encoding(good), good
    for path in (*modules(), *sorted((ROOT / "tests").rglob("*.py"))):
        assert not texts_in_an_unknown_encoding(path.read_text(encoding="utf-8")), path
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            assert cell.cell_type != "code" or not texts_in_an_unknown_encoding(cell.source), (path.name, cell.source)


READ_AND_WRITTEN = """
import shutil, sys, warnings
from pathlib import Path
warnings.filterwarnings("error", category=EncodingWarning, module="helpers")
from helpers.engine.errors import program
from helpers.engine.files import ROOT, home
from helpers.measure.rows import read_rows
from helpers.publish import pipeline, report
from helpers.sources import arrays, load_data

out, folder = Path(sys.argv[1]), home("cifar10")
arrays.store_arrays("photos", out / "arrays")
load_data(f"array:{out / 'arrays'}")
assert len(read_rows(folder / "experiments.csv")) > 5
notebook = Path(shutil.copy(folder / "notebooks" / "02_autoencoder.ipynb", out))
before = notebook.read_bytes()
pipeline.tidy(notebook, folder)
assert notebook.read_bytes() == before and len(before.decode("utf-8")) < len(before)
sys.argv = ["say"]
program(lambda: print(report.number(-1.5), "\\u753b"))
"""


@pytest.mark.slow
def test_a_machine_whose_own_encoding_knows_no_umlaut_changes_nothing(tmp_path: Path) -> None:
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-X", "warn_default_encoding", "-c", READ_AND_WRITTEN, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | ascii_only, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")
    assert done.stdout.decode("ascii").splitlines()[-1] == r"\u22121.50 \u753b"
