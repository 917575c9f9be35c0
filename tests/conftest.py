"""Shared fixtures: real data, one tiny trained run, and the whole pipeline on smoke settings, each made once.

A run of all tests has two workers (pytest-xdist). One begins with the smoke run, the other with the modules whose
fixtures cost much (TOGETHER) and with what is marked slow; the rest goes to whoever is free, readers of the smoke run
last. Each computes with one thread, and so does what it starts: two programs with two threads on two cores mostly wait
for each other.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import filelock
import numpy as np
import pytest
import torch
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from helpers.codec import load_codec
from helpers.data import Dataset
from helpers.engine.errors import UserError
from helpers.engine.files import ROOT
from helpers.measure.directions import fit_directions, name_directions
from helpers.priors import encode_all
from helpers.publish.explorer_page import reader_of
from helpers.run import train
from helpers.settings import Settings, profile_settings
from helpers.show.reader import ExplorerData, Reader, explorer_data, load_explorer_data, save_explorer_data
from helpers.sources.arrays import store_arrays
from helpers.sources.official import load_official
from helpers.sources.photos import load_photos

from .programs import run_module

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for workers and programs; here torch is there already
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
TOGETHER = ("test_loop", "test_experiments", "test_reproducibility", "test_browser")  # each by one worker
TINY = {"n_train": 512, "n_eval": 100, "width": 8, "latent_dim": 8, "epochs": 2, "batch_size": 100}


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two, but for the tests of one module none: they are done before two workers have started."""
    return 0 if len(config.args) == 1 and ".py" in config.args[0] else 2


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            """What one worker does at a stretch: a module, or a single test."""
            module = nodeid.partition("::")[0]
            return module if Path(module).stem in TOGETHER else nodeid

    return Scheduling(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The order for two workers; what reads the smoke run comes late, but for one test, which makes it."""
    if not hasattr(config, "workerinput"):
        return

    def place(item: pytest.Item) -> tuple[int, bool]:
        module, smoke = item.path.stem, "smoke" in item.fixturenames
        if module == "test_browser":
            return 2, smoke
        return (0 if module in TOGETHER else 1 if item.get_closest_marker("slow") else 3), smoke

    items.sort(key=place)
    readers = [item for item in items if place(item) == (3, True)]
    items[:] = readers[:1] + [item for item in items if item not in readers[:1]]


Once = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """once(name, fill): a folder that the first worker who asks fills; the others wait for it."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def folder(name: str, fill: Callable[[Path], object]) -> Path:
        place, filled = base / name, base / f"{name}.filled"
        with filelock.FileLock(base / f"{name}.lock"):
            if not filled.exists():
                place.mkdir(exist_ok=True)
                fill(place)
                filled.touch()
        return place

    return folder


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
def photo_arrays(once: Once) -> str:
    """The photos as arrays on disk: a process that is started many times has them in no time."""
    return f"array:{once('photo_arrays', lambda folder: store_arrays('photos', folder))}"


@pytest.fixture(scope="session")
def tiny() -> Settings:
    return profile_settings("smoke", dataset="photos", **TINY)


@pytest.fixture(scope="session")
def trained(photos: Dataset, tiny: Settings, once: Once) -> Path:
    """The weights and the history of a tiny VAE, and its part of the codec: else it would depend on who asks first."""

    def fill(folder: Path) -> None:
        train(photos, tiny, folder)
        load_codec(folder / "vae.safetensors", photos)

    return once("trained", fill)


@pytest.fixture(scope="session")
def explorer_folder(trained: Path, photos: Dataset, once: Once) -> Path:
    """The tiny trained VAE with everything that notebook 7 leaves for the page."""

    def fill(folder: Path) -> None:
        data = photos.limited(512, 100)
        for name in ("vae.safetensors", "vae_history.json"):
            shutil.copy(trained / name, folder)
        codec = load_codec(folder / "vae.safetensors", data)
        codes, tests = encode_all(codec.model, data.train)[0], encode_all(codec.model, data.test)
        directions, effects = name_directions(codec.model, fit_directions(codes), codes[:20], k=8)
        save_explorer_data(folder, explorer_data(data, directions, effects, codec.code_model, codes, tests))

    return once("explorer", fill)


@pytest.fixture(scope="session")
def parts(explorer_folder: Path) -> ExplorerData:
    return load_explorer_data(explorer_folder)


@pytest.fixture(scope="session")
def reader(explorer_folder: Path, parts: ExplorerData) -> Reader:
    return reader_of(explorer_folder, parts)


@pytest.fixture(scope="session")
def smoke(once: Once) -> Path:
    """The output folder of the whole pipeline on smoke settings, from nothing, on whatever data there is."""

    def fill(folder: Path) -> None:
        done = run_module("helpers", "report", "--profile", "smoke", "--out", str(folder / "outs"))
        assert done.returncode == 0, done.stdout + done.stderr

    return once("smoke", fill) / "outs"


def few_arrays(data: Dataset, n: int, folder: Path) -> str:
    """The name of a data set: `n` images of each split, as arrays in `folder`."""
    for split, part in data.splits.items():
        np.save(folder / f"{split}_images.npy", part.head(n).images.numpy())
        np.save(folder / f"{split}_labels.npy", part.head(n).labels.numpy())
    (folder / "classes.json").write_text(json.dumps(data.class_names), encoding="utf-8")
    return f"array:{folder}"


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
