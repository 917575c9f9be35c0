"""Grids of runs: a table that is not computed twice, here, on a cluster, in a remote store."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml

from helpers.data import Dataset
from helpers.engine.errors import UserError
from helpers.lab.experiments import (
    DESIGN_LOOP,
    execute,
    experiments,
    grid_jobs,
    on_cluster,
    run_experiment,
    write_table,
)
from helpers.measure.rows import CLASS_WEIGHTS, SEEDS, pictures_path, read_rows
from helpers.settings import Settings, profile_settings
from helpers.show.images import pixels
from helpers.show.training import run_pictures

from ..conftest import assert_one_line_error, run_module

GRID: dict[str, dict[str, Any]] = {"base": {}, "a wide one": {"width": 16, "beta": 4.0}}
TINY = {"profile": "smoke", "dataset": "photos", "n_train": 301, "n_eval": 50, "width": 8, "latent_dim": 8, "epochs": 1}


def write_grid(path: Path, grid: dict[str, dict[str, Any]] = GRID) -> str:
    path.write_text(
        yaml.safe_dump({name: TINY | change for name, change in grid.items()}, sort_keys=False), encoding="utf-8"
    )
    return str(path)


def without_times(rows: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    return {name: {k: v for k, v in row.items() if k != "seconds"} for name, row in rows.items()}


@pytest.fixture(scope="module")
def sequential(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table of the grid, run here one after another with one thread."""
    folder = tmp_path_factory.mktemp("sequential")
    grid = write_grid(folder / "grid.yaml")
    done = run_module("helpers", "experiments", "--grid", grid, "--out", str(folder), "--threads", "1")
    assert done.returncode == 0, done.stderr
    return folder


# --- the design loop --------------------------------------------------------------------------------------------


def test_every_experiment_differs_from_its_parent_in_what_it_says() -> None:
    settings = {one.name: one.settings for one in grid_jobs(DESIGN_LOOP, "out", 0)}
    assert {*CLASS_WEIGHTS.values(), *SEEDS} <= set(settings)
    for name, entry in json.loads(DESIGN_LOOP.read_text(encoding="utf-8")).items():
        theirs = settings[entry["parent"]] if "parent" in entry else profile_settings("full").as_dict()
        changed = {k for k, value in settings[name].items() if value != theirs.get(k, value)}
        assert changed == set(entry) - {"parent", "why"}, name
    assert settings["VAE"]["beta"] == 1.0  # its parent, an autoencoder, has none


def test_a_run_is_a_row_that_can_be_read_again(tiny: Settings, photos: Dataset, tmp_path: Path) -> None:
    path, settings = tmp_path / "experiments.csv", {"a vae": tiny.replace(epochs=1)}
    settings["an autoencoder"] = profile_settings(**(TINY | {"model": "autoencoder"}))
    write_table(str(path), [{"name": name} | run_experiment(one, photos) for name, one in settings.items()])
    rows = read_rows(path)
    assert list(rows) == ["a vae", "an autoencoder"] and rows["an autoencoder"]["rate"] == ""
    assert float(rows["a vae"]["psnr_pooled"]) > 5 and rows["a vae"]["n_validation"] == "100"
    assert rows["a vae"]["settings"] == json.dumps(settings["a vae"].as_dict()) and "pictures" not in rows["a vae"]
    shown = run_pictures(pictures_path(path, "a vae"))
    assert shown.shape == (2, 8, 32, 32, 3) and np.array_equal(shown[0], pixels(photos.validation.images[:8]))
    assert 5 < np.abs(shown[1].astype(int) - shown[0]).mean() < 100  # what a run of one epoch makes of them


# --- grids ------------------------------------------------------------------------------------------------------


def test_a_grid_is_a_table_and_finished_runs_are_not_repeated(sequential: Path) -> None:
    rows = read_rows(sequential / "experiments.csv")
    assert list(rows) == list(GRID) and json.loads(rows["a wide one"]["settings"])["width"] == 16
    assert rows["base"]["distortion"] != rows["a wide one"]["distortion"] and rows["base"]["threads"] == "1"
    assert "epoch 1" in (sequential / "a-wide-one.ipynb").read_text(encoding="utf-8")
    written = {path.name: path.stat().st_mtime_ns for path in sequential.glob("*.ipynb")}
    experiments(grid=str(sequential / "grid.yaml"), out=str(sequential), threads=1)
    assert written == {path.name: path.stat().st_mtime_ns for path in sequential.glob("*.ipynb")}


def test_a_worker_with_other_code_refuses(tmp_path: Path) -> None:
    (one, *_) = grid_jobs(write_grid(tmp_path / "grid.yaml"), str(tmp_path), 1)
    assert "runs other code" in execute(one._replace(code="of yesterday"))["error"]
    assert not list(tmp_path.glob("*.ipynb"))


def test_two_workers_give_the_sequential_results_also_when_one_is_killed(
    sequential: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from distributed import LocalCluster

    grid = str(sequential / "grid.yaml")
    with LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, silence_logs=50
    ) as cluster:
        pids = [worker.pid for worker in cluster.workers.values()]
        killed: list[int] = []

        def kill_one() -> None:
            """A worker that runs a kernel dies, with the kernel."""
            while not killed:
                for pid in pids:
                    below = psutil.Process(pid).children(recursive=True)
                    if kernels := [child for child in below if "ipykernel_launcher" in child.cmdline()]:
                        psutil.Process(pid).kill()
                        kernels[0].kill()
                        killed.append(pid)
                        break
                time.sleep(0.2)

        killer = threading.Thread(target=kill_one, daemon=True)
        killer.start()
        experiments(grid=grid, out=str(tmp_path), threads=1, scheduler=cluster.scheduler_address)
        killer.join(10)
    assert killed
    there, here = (read_rows(folder / "experiments.csv") for folder in (tmp_path, sequential))
    assert without_times(there) == without_times(here)
    assert "failed" not in capsys.readouterr().out


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A bucket of an S3 service on this machine: boto3 and papermill speak to it as to Amazon's, over HTTP."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "us-east-1")
    yield boto3.resource("s3").create_bucket(Bucket="course")
    server.stop()


def test_a_remote_store_holds_grid_and_results(bucket: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bucket.upload_file(write_grid(tmp_path / "grid.yaml", {"base": {}}), "grid.yaml")
    experiments(grid="s3://course/grid.yaml", out="s3://course/results/", threads=1)
    written = {"results/base.ipynb", "results/experiments.csv"}
    assert {stored.key for stored in bucket.objects.all()} == written | {"grid.yaml"}
    experiments(grid="s3://course/grid.yaml", out="s3://course/results/", threads=1)
    assert "base: there already" in capsys.readouterr().out


def test_a_run_that_fails_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "base.ipynb").write_text("cut off by a full disk", encoding="utf-8")
    grid = write_grid(tmp_path / "grid.yaml", {"too fast": {"lr": 0.9, "muon_rate": 100.0, "epochs": 20}, "base": {}})
    done = run_module("helpers", "experiments", "--grid", grid, "--out", str(tmp_path))
    assert_one_line_error(done, "1 of 2 runs failed: too fast")
    assert "too fast: failed (UserError: " in done.stdout and "lower lr" in done.stdout
    assert list(read_rows(tmp_path / "experiments.csv")) == ["base"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1, 2", ("cannot be read",)), ("- a\n- b\n", ("must hold names",)),
        ("a: {width: 12}", ("run 'a'", "multiple")), ("a: {1: 2}", ("run 'a'", "unknown setting '1'")),
        ("a: {widht: 16}", ("run 'a'", "Did you mean 'width'")),
        ("a b: {}\na  b: {}", ("another run", "'a  b'")),
        ("wide: {}\nb: {parent: wid}", ("run 'b'", "Did you mean 'wide'")),
        ("a: {dataset: 'folder:'}", ("run 'a'", "unknown data set")),
    ],
)  # fmt: skip
def test_a_wrong_grid_is_one_line(text: str, words: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        experiments(grid=str(path), out=str(tmp_path))
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value), error.value


def test_a_scheduler_that_is_not_there_is_one_line() -> None:
    with pytest.raises(UserError, match="no scheduler answers"):
        list(on_cluster([], "nonsense://127.0.0.1:1"))
