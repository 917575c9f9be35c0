"""How fast training is and what it costs: timed, counted, fitted, bounded."""

import os
from pathlib import Path

import numpy as np
import pytest

from helpers.data import Dataset
from helpers.engine.sealed import read_json
from helpers.lab.cost import POWERS, alone, bounds, cost, fitted, our_speed, training_flop
from helpers.settings import Settings, profile_settings

from ..programs import FORKS


def test_the_arithmetic_of_training_is_counted() -> None:
    settings = profile_settings("smoke", "judge", width=16)
    convolutions = [(3, 24, 2, 31), (24, 16, 3, 31), (16, 16, 3, 15), (16, 128, 3, 15), (128, 128, 3, 7)]
    convolutions += [(128, 256, 3, 7), (256, 256, 3, 3)]
    forward = sum(2 * cin * cout * k * k * size * size for cin, cout, k, size in convolutions) + 2 * 256 * 10
    first = 2 * 3 * 24 * 2 * 2 * 31 * 31  # the images need no gradient
    assert training_flop(settings, 10) == pytest.approx(3 * forward - first)


def test_our_loop_is_timed_after_an_epoch_to_warm_up_and_a_process_of_its_own_is_there(
    tiny: Settings, photos: Dataset
) -> None:
    assert our_speed(tiny.replace(batch_size=50), photos, steps=2) > 0
    assert alone(os.getpid) != os.getpid()


@pytest.mark.slow
def test_the_cost_model_measures_fits_and_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if FORKS:  # each timing in a process of its own, as ever, but with the imports done
        monkeypatch.setattr("multiprocessing.get_context", lambda method: FORKS)
    cost("smoke", "photos", str(tmp_path))
    content = read_json(tmp_path / "cost.json")
    assert {name: len(points) for name, points in content["points"].items()} == dict.fromkeys(content["fits"], 3)
    for name, points in content["points"].items():
        for quantity, fit in content["fits"][name].items():
            line, sizes = fitted(name, points, quantity), np.array([p["size"] for p in points]) ** POWERS[name]
            assert fit["base"] + fit["slope"] * sizes == pytest.approx(line["base"] + line["slope"] * sizes, rel=1e-3)
    points = sum(content["points"].values(), [])
    assert all(p["seconds"] > 0 and 1e8 < p["bytes"] < 4 * 2**30 for p in points)
    for row in content["extrapolated"]:
        assert row["images_per_second"] == pytest.approx(row["batch_size"] / max(row["seconds"].values()), rel=1e-4)
        assert 0 < row["share_of_peak"] <= 1
    assert content["step"]["kernels"] > 100 and content["step"]["bytes"] > 1e6
    assert set(content["reading"]) == {"memory", "mapped"} and min(content["reading"].values()) > 1000


def test_a_straight_line_is_found_and_its_error_is_said() -> None:
    exact = fitted("width", [{"size": w, "seconds": 3 + 2 * w * w} for w in (16, 32, 64)], "seconds")
    assert exact["base"] == pytest.approx(3) and exact["slope"] == pytest.approx(2)
    bent = fitted("n_train", [{"size": n, "seconds": s} for n, s in ((1, 1.0), (2, 3.0), (3, 2.0))], "seconds")
    assert exact["largest_error"] < 1e-9 < bent["largest_error"]


def test_what_bounds_a_gpu_is_the_slowest_of_its_needs() -> None:
    step = {"kernels": 1000, "bytes": 1e9, "images": 256}
    small = bounds(1e8, 5_000_000, step, 256, 1)
    assert small["bound_by"] == "kernel launches" and small["seconds"]["gradients between GPUs"] == 0
    large = bounds(1e12, 5_000_000, step, 8192, 8)
    assert large["bound_by"] == "arithmetic" and large["share_of_peak"] == 1
    assert large["images_per_second"] == pytest.approx(8 * 989e12 / 1e12)
    assert large["seconds"]["memory traffic"] == pytest.approx(32 * small["seconds"]["memory traffic"] / 8)
