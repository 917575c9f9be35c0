"""Shared fixtures: real data, one tiny trained run, and the whole pipeline on smoke settings, each made once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from helpers.config import ROOT, Settings, UserError, profile_settings
from helpers.data import Dataset, load_cifar10, load_photos
from helpers.training import train

TINY = {"n_train": 512, "n_eval": 100, "width": 8, "latent_dim": 8, "epochs": 2, "batch_size": 100}


@pytest.fixture(scope="session")
def cifar10() -> Dataset:
    """The original images; CI has them, a laptop without a copy skips these tests."""
    if not os.environ.get("CIFAR10_ROOT") and not (ROOT / "data" / "cifar-10-batches-py").is_dir():
        pytest.skip("no copy of CIFAR-10: set CIFAR10_ROOT or run `make report` once")
    return load_cifar10()


@pytest.fixture(scope="session")
def photos() -> Dataset:
    return load_photos("a test")


@pytest.fixture(scope="session")
def tiny() -> Settings:
    return profile_settings("smoke", dataset="photos", **TINY)


@pytest.fixture(scope="session")
def trained(photos: Dataset, tiny: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the weights and the history of a tiny VAE."""
    folder = tmp_path_factory.mktemp("trained")
    train(photos, tiny, folder)
    return folder


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of the whole pipeline on smoke settings, from nothing, on whatever data there is."""
    folder = tmp_path_factory.mktemp("smoke") / "outs"
    done = run_module("helpers.runs.pipeline", "--profile", "smoke", "--out", str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def run_module(module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m module arguments` at the repository root."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=1200,
    )  # fmt: skip


def assert_one_line_error(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 2, one line on stderr, and the words that tell the user what to do."""
    assert done.returncode == 2, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    for word in words:
        assert word in lines[0], lines[0]


def gradient_norm(model: torch.nn.Module, prefix: str) -> float:
    """The length of the gradient of the parameters whose names start with `prefix`."""
    found = [p.grad.norm() ** 2 for n, p in model.named_parameters() if n.startswith(prefix) and p.grad is not None]
    return float(torch.stack(found).sum() ** 0.5) if found else 0.0


__all__ = ["UserError", "assert_one_line_error", "gradient_norm", "run_module"]
