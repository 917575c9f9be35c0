"""Many processes: two end near one, a killed one loses nothing, checkpoints go from one to many and back."""

import shutil
import time
from pathlib import Path

import pytest
import torch

from helpers.data import Dataset
from helpers.engine.errors import UserError
from helpers.engine.files import checkpoint_path, weights_path
from helpers.engine.runtime import RunningMeans
from helpers.run import build_model, load_history, load_model, train
from helpers.settings import Settings, profile_settings
from helpers.sources import load_data
from helpers.training import Trainer, fit

from .conftest import assert_one_line_error, few_arrays
from .programs import Program, free_port, run_module

# How far two processes may end up from one at the same global batch after the two epochs of the test. Each process's
# batch norm sees half of the batch, a last batch of 45 images is 23 and 22, bf16 products differ in the third digit,
# and training amplifies all three. Measured with three seeds on the network before this one: 0.04, 3.2 and 6.3 %.
TOLERANCE = {"distortion": 0.01, "rate": 0.12, "cross_entropy": 0.12}


@pytest.fixture(scope="module")
def arrays(photos: Dataset, tmp_path_factory: pytest.TempPathFactory) -> str:
    """301 training images on disk: two batches of 128 and a last one of 45, which cannot be halved."""
    return few_arrays(photos, 301, tmp_path_factory.mktemp("arrays"))


CPUS = {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}


def training(arrays: str, out: Path) -> tuple[str, ...]:
    return "-m", "helpers", "train", "vae", "--profile", "smoke", "--dataset", arrays, "--out", str(out)


def pair(*arguments: str) -> list[Program]:
    """Two processes of a program that join each other, as `accelerate launch` starts them."""
    together = CPUS | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    return [Program(*arguments, RANK=rank, LOCAL_RANK=rank, **together) for rank in "01"]


def curve(records: list[dict[str, float]], name: str) -> list[float]:
    return [record[name] for record in records]


def assert_same_curve(found: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    assert len(found) == len(expected)
    for split in ("train", "validation"):
        for term, tolerance in TOLERANCE.items():
            name = f"{split}_{term}"
            assert curve(found, name) == pytest.approx(curve(expected, name), rel=tolerance), name


@pytest.fixture(scope="module")
def alone(arrays: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, list[dict[str, float]]]:
    """The records of the same run in one process."""
    settings = profile_settings("smoke", dataset=arrays)
    data = load_data(arrays)
    return settings, list(fit(build_model(settings, len(data.class_names)), data, settings))


@pytest.mark.slow
def test_two_processes_end_near_one(
    arrays: str, alone: tuple[Settings, list[dict[str, float]]], tmp_path: Path
) -> None:
    """Launched as the README says it."""
    options = ("--multi_gpu", "--num_processes", "2", "--main_process_port", free_port())
    done = run_module("accelerate.commands.launch", *options, *training(arrays, tmp_path), **CPUS)
    assert done.returncode == 0, done.stderr
    history = load_history(tmp_path, "vae")
    assert history.run["processes"] == 2
    assert_same_curve(history.records, alone[1])


STEP = """
import sys, dataclasses, torch
from helpers.run import build_model
from helpers.settings import profile_settings
from helpers.sources import load_data
from helpers.training import Trainer

settings = profile_settings("smoke", dataset=sys.argv[1], n_train=64, n_eval=20, batch_size=64)
trainer = Trainer(build_model(settings, 10), load_data(sys.argv[1]), settings)
trainer.runtime = dataclasses.replace(trainer.runtime, bf16=False)
trainer.model.eval()  # batch norm by its running statistics: every image counts by itself
trainer.move = lambda optimisers: None
trainer.step(trainer.draw(torch.arange(64)))
rank, n = trainer.accelerator.process_index, trainer.accelerator.num_processes
gradients = [p.grad.flatten() for p in trainer.model.parameters() if p.requires_grad]
torch.save(torch.cat(gradients), f"{sys.argv[2]}/{rank}_of_{n}.pt")
"""


@pytest.mark.slow
def test_the_gradients_of_two_processes_are_averaged(arrays: str, tmp_path: Path) -> None:
    """To rounding, and the same on both: each process alone would have the gradient of half of the images."""
    step = ("-c", STEP, arrays, str(tmp_path))
    for program in (Program(*step, **CPUS), *pair(*step)):
        done = program.completed()
        assert done.returncode == 0, done.stderr
    one, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("0_of_1", "0_of_2", "1_of_2"))
    assert torch.equal(first, second) and (first - one).norm() < 1e-4 * one.norm()


@pytest.mark.slow
def test_a_checkpoint_of_one_process_goes_on_with_two(
    arrays: str, alone: tuple[Settings, list[dict[str, float]]], tmp_path: Path
) -> None:
    settings, expected = alone
    data = load_data(arrays)
    next(fit(build_model(settings, len(data.class_names)), data, settings, checkpoint_path(tmp_path, "vae")))
    first, second = (program.completed() for program in pair(*training(arrays, tmp_path)))
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert "epoch 2 " in first.stdout and "Trained from nothing" in first.stdout and not second.stdout
    history = load_history(tmp_path, "vae")
    assert history.run["processes"] == 2
    assert history.records[0]["train_distortion"] == pytest.approx(expected[0]["train_distortion"], rel=1e-5)
    assert_same_curve(history.records, expected)
    model, _ = load_model(weights_path(tmp_path, "vae"))
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


@pytest.mark.slow
def test_a_killed_process_ends_the_run_with_a_line_and_one_goes_on(
    arrays: str, alone: tuple[Settings, list[dict[str, float]]], tmp_path: Path
) -> None:
    settings, expected = alone
    ended = 0
    while not ended:  # until the kill comes before the second epoch has ended
        shutil.rmtree(tmp_path)
        first, second = pair(*training(arrays, tmp_path))
        while not first.said()[0].startswith("epoch 1 "):
            assert first.poll() is None, first.said()
            time.sleep(0.01)
        second.kill()
        ended = first.completed().returncode
    assert_one_line_error(first.completed(), "lost each other", "the same command continues")
    _, history = train(load_data(arrays), settings, tmp_path)
    assert_same_curve(history.records, expected)


LAUNCHED = """
from accelerate import notebook_launcher

def work():
    from pathlib import Path
    from helpers.run import train
    from helpers.settings import profile_settings
    from helpers.sources import load_data

    train(load_data("photos"), profile_settings("smoke", dataset="photos"), Path({folder!r}))

notebook_launcher(work, num_processes=2)
"""


@pytest.mark.slow
def test_the_launcher_for_notebooks_trains_on_two_processes(tmp_path: Path) -> None:
    done = Program("-c", LAUNCHED.format(folder=str(tmp_path))).completed()
    assert done.returncode == 0, done.stderr
    assert load_history(tmp_path, "vae").run["processes"] == 2


def test_means_weigh_every_image_the_same() -> None:
    sums = RunningMeans()
    sums.add({"a": torch.tensor([1.0, 2.0, 3.0])})
    sums.add({"a": torch.tensor([6.0])})
    assert sums.means("x") == {"x_a": 3.0}


def test_a_batch_too_small_for_all_processes_is_refused(photos: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    class Seven:
        num_processes = 7

    monkeypatch.setattr("helpers.loop.accelerator", Seven)
    settings = profile_settings("smoke", dataset="photos", n_train=133)  # 128 and 5
    with pytest.raises(UserError, match="a batch of 5 images for 7 processes; use fewer"):
        Trainer(build_model(settings, 10), photos, settings)
