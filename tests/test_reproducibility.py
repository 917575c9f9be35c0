"""Equal runs give equal bytes; another order of the same sums changes a result by as little as the README says."""

import shutil
from pathlib import Path

import pytest
import torch

from helpers.engine.files import weights_path
from helpers.engine.sealed import read_tensors
from helpers.measure.rows import load

from .conftest import TINY
from .programs import Program

RUN = f"""
import sys
from pathlib import Path
import torch
from helpers import evaluate
from helpers.run import train
from helpers.settings import profile_settings
from helpers.sources import load_data
folder = Path(sys.argv[1])
torch.set_num_threads(int(sys.argv[2]))
if not (folder / "vae.safetensors").exists():
    train(load_data("photos"), profile_settings("smoke", dataset="photos", **{TINY!r}), folder)
evaluate.main("test", folder / "vae.safetensors", folder / "metrics.json")
"""


def whole_run(folder: Path, threads: int) -> Path:
    """Training from nothing, unless there are weights, and evaluation, in a process of its own."""
    done = Program("-c", RUN, str(folder), str(threads)).completed()
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whole_run(tmp_path_factory.mktemp("first"), 2)


def test_equal_settings_and_seed_give_the_same_bytes_of_metrics(first: Path, tmp_path: Path) -> None:
    second = whole_run(tmp_path, 2)
    for name in ("metrics.json", "metrics.csv"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    one, two = (read_tensors(weights_path(folder, "vae"))[0] for folder in (first, second))
    assert all(torch.equal(one[name], two[name]) for name in one)


def summary(folder: Path) -> dict[str, float]:
    """The summary of the VAE on the test split, by the name of the metric."""
    table, _ = load(folder / "metrics.json")
    return {row.metric: row.value for row in table.rows if row[:3] == ("summary", "vae", "test")}


# The bounds that tests/README.md states for another order of the same sums.
EVALUATED, TRAINED, NATS = 1e-4, 0.02, 0.01


def test_another_number_of_threads_changes_an_evaluation_by_rounding_only(first: Path, tmp_path: Path) -> None:
    shutil.copy(weights_path(first, "vae"), tmp_path)
    assert summary(first) == pytest.approx(summary(whole_run(tmp_path, 1)), rel=EVALUATED, abs=EVALUATED)


def test_another_number_of_threads_changes_a_training_little(first: Path, tmp_path: Path) -> None:
    one, two = summary(first), summary(whole_run(tmp_path, 1))
    for name in ("psnr_pooled", "ssim", "distortion", "bpd", "rmse"):
        assert one[name] == pytest.approx(two[name], rel=TRAINED), name
    # The rate of a model that has hardly begun to use its code is nearly nothing, so its bound is absolute.
    assert one["rate"] == pytest.approx(two["rate"], rel=TRAINED, abs=NATS)
