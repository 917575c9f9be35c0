"""The line at the end of `make report`: what differs from the committed results, and that nothing does."""

import json
from pathlib import Path

import pytest

from helpers.engine.files import ROOT
from helpers.publish import compare as module
from helpers.publish.compare import compare, leaves

RESULTS = ROOT / "outs" / "exercise_03"


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the results that is compared with what git has of the real ones."""
    asked = module.committed_text
    monkeypatch.setattr(module, "committed_text", lambda path, revision: asked(RESULTS / path.name, revision))
    for name in module.FILES:
        text = asked(RESULTS / f"{name}.json", "HEAD")
        if text is None:
            pytest.skip("no git here")
        (tmp_path / f"{name}.json").write_text(text, encoding="utf-8")
    return tmp_path


def test_equal_results_are_called_equal(copied: Path) -> None:
    assert compare(copied).endswith("all equal to the committed ones.")


def test_one_changed_number_is_found_and_a_time_is_none(copied: Path) -> None:
    path = copied / "compression.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["speed"], content["sha256"] = {"encode": 1e9}, "another"
    path.write_text(json.dumps(content), encoding="utf-8")
    assert compare(copied).endswith("all equal to the committed ones.")
    content["best_psnr"] += 0.01
    path.write_text(json.dumps(content), encoding="utf-8")
    line = compare(copied)
    assert "compression.json in 1 of" in line and "best_psnr" in line and "\n" not in line


def test_a_place_names_the_row_and_leaves_times_out() -> None:
    rows: list = [["summary", "vae", "test", "mse", 0.5, 0.1, 10, "unit"]]
    found = leaves({"rows": rows, "seconds": 3, "deep": {"list": [1, 2]}})
    assert found["rows.summary vae test mse.4"] == 0.5
    assert found["deep.list.1"] == 2 and not any("seconds" in place for place in found) and len(found) == 10


def test_a_folder_outside_the_repository_has_nothing_to_compare_with(tmp_path: Path) -> None:
    assert compare(tmp_path).startswith("There are no committed results")
