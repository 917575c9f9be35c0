"""The house keeps its plan: budgets of lines, and a fence that notices an arrow that runs back up."""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat

from helpers.engine.files import ROOT

COURSE, ALL = 2400, 7000  # lines of helpers/*.py together, and of helpers/ in all
MODULE, CLASS, FUNCTION = 300, 150, 40
ROOMS = {"engine", "lab", "measure", "publish", "show", "sources"}


def modules() -> list[Path]:
    return sorted((ROOT / "helpers").rglob("*.py"))


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def definitions(path: Path) -> Iterator[tuple[ast.AST, str, int]]:
    for node in ast.walk(ast.parse(path.read_text())):
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
        for node in ast.parse(path.read_text()).body:
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
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    assert (whole := lint()).returncode == 0, whole.stdout + whole.stderr
    losses = tmp_path / "helpers" / "losses.py"
    hidden = "\n\ndef hidden() -> None:\n    from .show import theme\n    print(theme)\n"
    losses.write_text(losses.read_text() + hidden)
    assert (broken := lint()).returncode != 0 and "helpers.losses -> helpers.show.theme" in broken.stdout


def test_every_module_has_its_test() -> None:
    """A reader finds the test of helpers/a/b.py in tests/a/test_b.py."""
    elsewhere = {"__init__", "bars", "notebook", "errors"}  # told by the tests of what uses them
    for path in modules():
        place = path.relative_to(ROOT / "helpers")
        test = ROOT / "tests" / place.parent / f"test_{place.stem.strip('_')}.py"
        assert place.stem in elsewhere or test.is_file(), test
