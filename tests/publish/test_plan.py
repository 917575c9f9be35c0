"""What a notebook promises, and what counts as finished."""

import os
import time
from pathlib import Path

import pytest

from helpers.engine.errors import UserError
from helpers.publish import plan
from helpers.publish.plan import PROMISED, Unfinished, check_promises, key_of


def test_only_what_was_stored_may_be_older_than_the_run(tmp_path: Path) -> None:
    for name in PROMISED["05_generation"]:
        (tmp_path / name).touch()
        if name.endswith(("safetensors", "history.json")) or name == "sample_scores.json":
            os.utime(tmp_path / name, (0, 0))
    began = time.time()
    check_promises("05_generation", tmp_path, began)
    os.utime(tmp_path / "generation.json", (0, 0))
    with pytest.raises(UserError, match="did not write generation.json"):
        check_promises("05_generation", tmp_path, began)


def test_a_notebook_is_finished_while_its_key_and_its_files_are_the_same(tmp_path: Path) -> None:
    name, key = "01_data_exploration", "a" * 64
    (tmp_path / "notebooks").mkdir()
    for file in (*PROMISED[name], f"notebooks/{name}.ipynb"):
        (tmp_path / file).write_text("as it was left", encoding="utf-8")
    run = Unfinished(tmp_path)
    run.begin(name, key)
    run.add(name, key, seconds=1.0, mib=300.0)
    assert Unfinished(tmp_path).has(name, key) and not Unfinished(tmp_path).has(name, "b" * 64)
    (tmp_path / "data.json").write_text("changed", encoding="utf-8")
    assert not Unfinished(tmp_path).has(name, key)


def test_the_key_depends_on_all_that_decides_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {key_of("01_data_exploration", {}, ""), key_of("02_autoencoder", {}, "")}
    keys |= {key_of("01_data_exploration", {"seed": 1}, ""), key_of("01_data_exploration", {}, "before")}
    monkeypatch.setattr(plan, "sha256_of_package", lambda: "other code")
    assert len(keys | {key_of("01_data_exploration", {}, "")}) == 5
