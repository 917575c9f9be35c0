"""Training that is killed, stopped, starved or misled: nothing is lost, nothing is silently wrong."""

import json
import os
import random
import re
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from helpers.data import Dataset
from helpers.engine.checkpoint import Checkpointer, resume, save
from helpers.engine.errors import UserError
from helpers.engine.files import ROOT, checkpoint_path, history_path, weights_path
from helpers.engine.signals import Stopped
from helpers.loop import Batch
from helpers.run import KINDS, build_model, load_history, train
from helpers.settings import Settings, profile_settings
from helpers.sources import load_data
from helpers.training import Trainer

from ..conftest import few_arrays
from ..programs import FORKS, Program

KILLS = 20
TIMES = ("seconds", "images_per_second")


def small(dataset: str, **changes: object) -> Settings:
    tiny = {"n_train": 160, "n_eval": 50, "width": 8, "latent_dim": 8, "epochs": 3, "batch_size": 32}
    return profile_settings("smoke", dataset=dataset, **(tiny | changes))


def short(dataset: str) -> Settings:
    return small(dataset, n_train=96, epochs=2)


def work(dataset: str, folder: Path) -> None:
    """What is killed: a run of six steps that writes a checkpoint after each."""
    torch.set_num_threads(1)
    train(load_data(dataset), short(dataset), folder, every=0.0)


def written(folder: Path) -> int:
    """When the checkpoint was written; 0: there is none."""
    path = checkpoint_path(folder, "vae")
    return path.stat().st_mtime_ns if path.is_file() else 0


def results(folder: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    """The weights and the history of a finished run, times apart."""
    records = json.loads(history_path(folder, "vae").read_text(encoding="utf-8"))["records"]
    records = [{name: value for name, value in r.items() if name not in TIMES} for r in records]
    return load_file(weights_path(folder, "vae")), records


def assert_equal_runs(folder: Path, other: Path) -> None:
    (weights, records), (weights_, records_) = results(folder), results(other)
    assert records == records_
    assert weights.keys() == weights_.keys() and all(torch.equal(weights[k], weights_[k]) for k in weights)


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_nothing(photo_arrays: str, tmp_path: Path) -> None:
    def start(folder: Path) -> BaseProcess:
        child = FORKS.Process(target=work, args=(photo_arrays, folder))
        child.start()
        return child

    began = time.perf_counter()
    whole = start(tmp_path / "whole")
    whole.join(600)
    assert whole.exitcode == 0
    length = time.perf_counter() - began
    began = time.perf_counter()
    start(tmp_path / "again").join(600)  # the imports of the first are not part of a run's length
    length = min(length, time.perf_counter() - began)
    assert_equal_runs(tmp_path / "whole", tmp_path / "again")

    moments, kills, inside, runs = random.Random(2026), 0, 0, 0
    while kills < KILLS:
        folder = tmp_path / f"killed_{runs}"
        child, before = start(folder), written(folder)
        while kills % 2 and child.exitcode is None and written(folder) == before:  # half of them: surely while it steps
            child.join(0.005)
        child.join(moments.uniform(0.0, 0.4 if kills % 2 else 0.9) * length)
        if child.exitcode is None:
            os.kill(child.pid, signal.SIGKILL)
            child.join(10)
            kills += child.exitcode == -signal.SIGKILL
            inside += written(folder) != before
        if child.exitcode == 0:
            assert_equal_runs(tmp_path / "whole", folder)
            runs += 1
    last = start(folder)
    last.join(600)
    assert last.exitcode == 0 and inside >= KILLS // 5, inside
    assert_equal_runs(tmp_path / "whole", folder)
    assert load_history(folder, "vae").settings == short(photo_arrays)
    assert sorted(path.name for path in folder.iterdir()) == ["vae.safetensors", "vae_history.json"]


class Interrupted(Trainer):
    """A trainer that is sent a signal in the middle of a step."""

    number = signal.SIGTERM

    def step(self, batch: Batch) -> dict[str, torch.Tensor]:
        if self.step_number == 7:
            signal.raise_signal(self.number)
        return super().step(batch)


class InterruptedByHand(Interrupted):
    number = signal.SIGINT


@pytest.mark.parametrize(
    ("trainer", "code", "accumulate"), [(Interrupted, 143, 1), (InterruptedByHand, 130, 1), (Interrupted, 143, 3)]
)
def test_a_stop_inside_an_epoch_is_a_checkpoint_and_a_line(
    trainer: type[Trainer], code: int, accumulate: int, photos: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small("photos", accumulate=accumulate, cutout=4)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    train(photos, settings, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Stopped, match=r"step 8 of 15.*continues") as stop:
        patch.setitem(KINDS, "vae", KINDS["vae"]._replace(trainer=trainer))
        train(photos, settings, tmp_path / "stopped")
    assert stop.value.exit_code == code and isinstance(stop.value, KeyboardInterrupt)
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert checkpoint_path(tmp_path / "stopped", "vae").is_file()
    train(photos, settings, tmp_path / "stopped")
    assert_equal_runs(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.slow
def test_the_program_ends_within_seconds_of_a_signal_and_goes_on(photos: Dataset, tmp_path: Path) -> None:
    """Wherever the signal meets it: inside an epoch, between two, while it starts anew. 30 epochs outlast the test."""
    few, out, epochs = few_arrays(photos, 150, tmp_path), tmp_path / "out", []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTERM):
        child = Program("-m", "helpers", "train", "vae", "--dataset", few, "--out", str(out))
        while len(child.said()[0].splitlines()) <= len(epochs):  # one more than the last run had
            assert child.poll() is None, child.said()
            time.sleep(0.05)
        sent = time.perf_counter()
        child.send_signal(number)
        said, complaint = child.communicate(60)
        assert child.returncode == 128 + number and time.perf_counter() - sent < 30
        assert re.fullmatch(r"stopped.* the same command (continues|goes on) [^\n]*\n", complaint), complaint
        assert checkpoint_path(out, "vae").is_file()
        assert said.splitlines()[: len(epochs)] == epochs  # to the seconds that they took: not computed anew
        epochs = said.splitlines()


def reply_to(client: Any, message: str) -> dict[str, Any]:
    """What the kernel answers to one request; a late answer to the start of the kernel may lie before it."""
    while (reply := client.get_shell_msg(timeout=60))["parent_header"]["msg_id"] != message:
        pass
    return reply["content"]


def test_a_kernel_that_is_interrupted_lives_on(photo_arrays: str, tmp_path: Path) -> None:
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3", cwd=str(ROOT))
    try:
        code = (
            "from pathlib import Path\nfrom tests.engine.test_checkpoint import load_data, small, train\n"
            f"train(load_data({photo_arrays!r}), small({photo_arrays!r}, epochs=5000), Path({str(tmp_path)!r}), "
            "lambda record, model: print(record['epoch'], flush=True))"
        )
        message = client.execute(code, stop_on_error=False)  # else what arrives soon after the error is dropped
        while client.get_iopub_msg(timeout=120)["msg_type"] != "stream":
            pass
        manager.interrupt_kernel()
        assert reply_to(client, message)["ename"] in ("Stopped", "KeyboardInterrupt")
        assert checkpoint_path(tmp_path, "vae").is_file()
        assert reply_to(client, client.execute("1 + 1"))["status"] == "ok"
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def after_an_epoch(photos: Dataset, folder: Path) -> tuple[Trainer, Checkpointer, bytes]:
    """A run of which one epoch is done and kept."""
    settings = small("photos")
    trainer, path = Trainer(build_model(settings, 10), photos, settings), checkpoint_path(folder, "vae")
    checkpointer = Checkpointer(trainer, path, every=0.0)
    checkpointer.epoch()
    return trainer, checkpointer, path.read_bytes()


def assert_stops(checkpointer: Checkpointer, before: bytes, *words: str) -> None:
    """The next epoch ends with one line that has the words; the checkpoint is the one from before, and can be read."""
    with pytest.raises(UserError) as found:
        checkpointer.epoch()
    line, path, trainer = str(found.value), checkpointer.path, checkpointer.training
    assert "\n" not in line and all(word in line for word in (*words, "lr=0.002", "last good state")), line
    assert path.read_bytes() == before
    resume(trainer, path)
    assert all(torch.isfinite(value).all() for value in trainer.model.state_dict().values())


def test_a_loss_that_is_no_number_is_told_by_step_and_term(photos: Dataset, tmp_path: Path) -> None:
    trainer, checkpointer, before = after_an_epoch(photos, tmp_path)
    torch.nn.init.constant_(trainer.model.code_head.weight, float("nan"))
    assert_stops(checkpointer, before, "loss is nan at step 5 (epoch 2)", "code_cross_entropy is nan")


def test_a_loss_that_runs_away_is_told_by_step_and_term(photos: Dataset, tmp_path: Path) -> None:
    trainer, checkpointer, before = after_an_epoch(photos, tmp_path)
    torch.nn.init.constant_(trainer.model.log_sigma, -4.0)
    assert_stops(checkpointer, before, "at step 5 (epoch 2)", "distortion is ")


def test_a_gradient_that_is_not_finite_makes_no_weights(photos: Dataset, tmp_path: Path) -> None:
    trainer, checkpointer, before = after_an_epoch(photos, tmp_path)
    trainer.model.head.weight.register_hook(lambda gradient: gradient / 0)
    weights = {k: v.clone() for k, v in trainer.model.named_parameters()}
    with pytest.raises(UserError, match="a gradient is not finite at step 5"):
        checkpointer.epoch()
    assert all(torch.equal(v, weights[k]) for k, v in trainer.model.named_parameters())
    assert checkpointer.path.read_bytes() == before


def test_a_learning_rate_that_is_far_too_high_ends_with_one_line(photos: Dataset, tmp_path: Path) -> None:
    settings = small("photos", lr=0.9, muon_rate=100.0, epochs=20)
    with pytest.raises(UserError, match=r"at step \d+ \(epoch \d+\).*lr=0.9.*lower lr"):
        train(photos, settings, tmp_path)
    assert not weights_path(tmp_path, "vae").exists()


def test_weights_that_are_broken_are_never_written(photos: Dataset, tmp_path: Path) -> None:
    trainer, checkpointer, before = after_an_epoch(photos, tmp_path)
    torch.nn.init.constant_(trainer.model.decoder.net[0].bias, float("inf"))
    with pytest.raises(UserError, match="decoder.net.0.bias is not finite"):
        save(trainer, checkpointer.path)
    assert checkpointer.path.read_bytes() == before


def test_what_is_no_checkpoint_is_named(trained: Path, photos: Dataset, tmp_path: Path) -> None:
    checkpoint_path(tmp_path, "vae").write_bytes(weights_path(trained, "vae").read_bytes())
    with pytest.raises(UserError, match="is not a checkpoint; delete it"):
        train(photos, small("photos"), tmp_path)


def test_what_a_kill_left_of_a_checkpoint_is_swept(photos: Dataset, tmp_path: Path) -> None:
    left = tmp_path / ".vae.checkpoint.safetensors.999.tmp"
    left.write_bytes(b"half")
    train(photos, small("photos", epochs=1), tmp_path)
    assert not left.exists()
