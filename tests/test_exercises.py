"""The exercises: every one has a cell, a solution that is right, and an answer for what is wrong."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from torch import Tensor

from helpers.engine.files import ROOT
from helpers.exercises import TASKS, verdict
from helpers.publish.plan import PROMISED

SOLUTIONS = ROOT / "notebooks" / "solutions"


def sources(path: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


@pytest.mark.parametrize("name", PROMISED)
def test_solutions_are_right_and_cells_to_fill_in_are_open(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    ours = [task for task in TASKS if int(name[:2]) == int(task.split(".")[0])]
    assert 2 <= len(ours) <= 3
    for folder, said in ((ROOT / "notebooks", "it gives nothing: replace the dots"), (SOLUTIONS, "right.")):
        cells = [source for source in sources(folder / f"{name}.ipynb") if "check(" in source]
        assert [re.findall(r'check\("(.+?)"', cell)[0] for cell in cells] == ours
        names: dict[str, Any] = {}
        exec("from helpers.exercises import check", names)
        for cell in cells:
            exec(cell, names)
        printed = capsys.readouterr().out.splitlines()
        assert len(printed) == len(ours) and all(f": {said}" in line for line in printed), printed


@pytest.mark.parametrize(
    ("task", "answer", "said"),
    [
        (
            "3.1",
            lambda mu, logvar: (mu.square() + logvar.exp() - 1 - logvar).sum() / 2,
            r"shape \(\) instead of the shape \(5,\)",
        ),
        ("3.2", lambda mu, logvar, noise: mu + logvar.exp() * noise, r"not yet: it gives .* is right; .*logvar / 2"),
        ("2.2", lambda inputs, outputs, kernel: inputs * outputs * kernel**2, "and a bias"),
        ("4.1", lambda values: values.std() / 0, "not yet: it gives inf"),
        ("7.1", lambda code, axis: code, "stops with TypeError"),
        ("6.1", lambda counts: "three bits", "not a number"),
        ("5.2", lambda a, b: (a.mean(0) - b.mean(0)).square(), r"shape \(5,\) instead of one number"),
        ("7.2", lambda z, y: z[y == 1].mean(0) - z[y != 1].mean(0), "not yet"),
        ("6.2", lambda x, step: (x * 4).round() / 4, "not yet"),
        ("6.2", lambda x, step: x.mul_(0), "not yet"),
        ("3.2", lambda mu, logvar, noise: mu + logvar.div_(2).exp_() * noise, "^$"),
    ],
)
def test_what_is_wrong_is_said(task: str, answer: Callable[..., Any], said: str) -> None:
    assert re.search(said, verdict(task, answer))


def test_references_have_known_answers() -> None:
    assert TASKS["2.1"].reference(32, 3, 2, 1) == 16 and TASKS["2.2"].reference(3, 32, 3) == 896
    assert float(TASKS["6.1"].reference(Tensor([1, 1, 2, 0]))) == pytest.approx(1.5)
    assert TASKS["4.2"].reference(2129.348, 3072) == pytest.approx(1, abs=1e-6)
