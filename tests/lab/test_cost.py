"""How fast training is and what it costs: timed."""

import os
from pathlib import Path

import pytest

from helpers.data import Dataset
from helpers.engine.sealed import read_json
from helpers.lab.cost import SIZES, alone, cost, our_speed
from helpers.settings import Settings

from ..programs import FORKS


def test_our_loop_is_timed_after_an_epoch_to_warm_up_and_a_process_of_its_own_is_there(
    tiny: Settings, photos: Dataset
) -> None:
    assert our_speed(tiny.replace(batch_size=50), photos, steps=2) > 0
    assert alone(os.getpid) != os.getpid()


@pytest.mark.slow
def test_what_sizes_cost_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if FORKS:  # each timing in a process of its own, as ever, but with the imports done
        monkeypatch.setattr("multiprocessing.get_context", lambda method: FORKS)
    cost("smoke", "photos", str(tmp_path))
    content = read_json(tmp_path / "cost.json")
    assert {name: len(points) for name, points in content["points"].items()} == dict.fromkeys(SIZES["smoke"], 3)
    points = sum(content["points"].values(), [])
    assert all(p["seconds"] > 0 and 1e8 < p["bytes"] < 4 * 2**30 for p in points)
