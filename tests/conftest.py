"""Shared fixtures: real data, one tiny trained run, and the whole pipeline on smoke settings, each made once."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from helpers.codec import load_codec
from helpers.data import Dataset
from helpers.directions import fit_directions, name_directions
from helpers.engine.errors import UserError
from helpers.engine.files import ROOT
from helpers.priors import encode_all
from helpers.publish.explorer_page import reader_of
from helpers.run import train
from helpers.settings import Settings, profile_settings
from helpers.show.reader import ExplorerData, Reader, explorer_data, load_explorer_data, save_explorer_data
from helpers.sources.arrays import store_arrays
from helpers.sources.official import load_official
from helpers.sources.photos import load_photos

TINY = {"n_train": 512, "n_eval": 100, "width": 8, "latent_dim": 8, "epochs": 2, "batch_size": 100}


@pytest.fixture(scope="session")
def cifar10() -> Dataset:
    """The original images; CI has them, a laptop without a copy skips these tests."""
    if not os.environ.get("CIFAR10_ROOT") and not (ROOT / "data" / "cifar-10-batches-py").is_dir():
        pytest.skip("no copy of CIFAR-10: set CIFAR10_ROOT or run `make report` once")
    return load_official("cifar10")


@pytest.fixture(scope="session")
def photos() -> Dataset:
    return load_photos("a test")


@pytest.fixture(scope="session")
def photo_arrays(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The photos as arrays on disk: a process that is started many times has them in no time."""
    folder = tmp_path_factory.mktemp("arrays")
    store_arrays("photos", folder)
    return f"array:{folder}"


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
def explorer_folder(trained: Path, photos: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny trained VAE with everything that notebook 7 leaves for the page."""
    folder, data = tmp_path_factory.mktemp("explorer"), photos.limited(512, 100)
    for name in ("vae.safetensors", "vae_history.json"):
        shutil.copy(trained / name, folder)
    codec = load_codec(folder / "vae.safetensors", data)
    codes, tests = (encode_all(codec.model, split)[0] for split in (data.train, data.test))
    directions, effects = name_directions(codec.model, fit_directions(codes), codes[:20], k=8)
    save_explorer_data(folder, explorer_data(data, directions, effects, codec.code_model, codes, tests))
    return folder


@pytest.fixture(scope="session")
def parts(explorer_folder: Path) -> ExplorerData:
    return load_explorer_data(explorer_folder)


@pytest.fixture(scope="session")
def reader(explorer_folder: Path, parts: ExplorerData) -> Reader:
    return reader_of(explorer_folder, parts)


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of the whole pipeline on smoke settings, from nothing, on whatever data there is."""
    folder = tmp_path_factory.mktemp("smoke") / "outs"
    done = run_module("helpers", "report", "--profile", "smoke", "--out", str(folder))
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


def refused(read: Callable[[], object], *words: str) -> None:
    """A UserError of one line with these words."""
    with pytest.raises(UserError) as caught:
        read()
    line = str(caught.value)
    assert "\n" not in line and all(word in line for word in words), line


def gradient_norm(model: torch.nn.Module, prefix: str) -> float:
    """The length of the gradient of the parameters whose names start with `prefix`."""
    squares = [p.grad.norm() ** 2 for n, p in model.named_parameters() if n.startswith(prefix) and p.grad is not None]
    return float(torch.stack(squares).sum() ** 0.5) if squares else 0.0
