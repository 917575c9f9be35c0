"""More processes, more runs, more data: each gives what the small one gives."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import psutil
import pytest
import torch
import yaml
from PIL import Image

from helpers.config import ROOT, Settings, UserError, home, profile_settings
from helpers.data import Dataset, Share, augment, batches, load_data, squares
from helpers.folders import load_arrays, load_folder, store
from helpers.models import build_model
from helpers.runs import experiments
from helpers.runs.cost import bounds, fitted
from helpers.runtime import SharedBatchNorm
from helpers.storage import load_history, load_model, weights_path
from helpers.training import checkpoint_path, fit, train

from .conftest import assert_one_line_error, run_module

# How far two processes may end up from one: sums in another order differ in the last bit, bf16 products (on a CPU that
# has them) in the third digit, and training amplifies both.
TOLERANCE = {"distortion": 0.03, "rate": 0.05, "cross_entropy": 0.03}


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> str:
    """301 training images on disk: the last of three batches can be divided by nothing."""
    folder = tmp_path_factory.mktemp("arrays")
    photos = load_data("photos")
    small = Dataset("photos", photos.class_names, *(part.head(301) for part in photos.splits.values()))
    write_arrays(small, folder)
    return f"array:{folder}"


def write_arrays(data: Dataset, folder: Path) -> None:
    for split, part in data.splits.items():
        np.save(folder / f"{split}_images.npy", part.images.numpy())
        np.save(folder / f"{split}_labels.npy", part.labels.numpy())
    (folder / "classes.json").write_text(json.dumps(data.class_names))


# --- processes --------------------------------------------------------------------------------------------------


def test_shares_make_up_the_batch_and_draw_the_same_numbers(photos: Dataset) -> None:
    def passes(share: Share) -> list[tuple[torch.Tensor, torch.Tensor]]:
        order, noise = torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)
        found = []
        for number, (x, labels) in enumerate(batches(photos.validation, 33, order=order, share=share)):
            drawn = min(33, len(photos.validation) - 33 * number)
            moved = augment(x, noise, drawn=drawn, share=share)
            found.append((moved.masked_fill(squares(drawn, 6, 32, noise, share), 0.5), labels))
        return found

    whole, parts = passes(Share()), [passes(Share(rank, 3)) for rank in range(3)]
    assert len(whole[-1][1]) == 5
    for number, (x, labels) in enumerate(whole):
        for rank in range(3):
            mine, named = parts[rank][number]
            assert torch.equal(mine, x[rank::3]) and torch.equal(named, labels[rank::3])
    assert Share(1, 4).of(3) == slice(None)  # too few images to divide: all processes take all


def test_a_shared_batch_norm_is_a_batch_norm(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        torch.manual_seed(0)
        plain, shared = torch.nn.BatchNorm2d(5), SharedBatchNorm(5)
        for _ in range(3):
            x = torch.randn(7, 5, 4, 4) * 3 + 1
            one, two = x.clone().requires_grad_(), x.clone().requires_grad_()
            weight = torch.randn(7, 5, 4, 4)
            (plain(one) * weight).sum().backward()
            (shared(two) * weight).sum().backward()
            assert torch.allclose(plain(one), shared(two), atol=1e-5) and torch.allclose(one.grad, two.grad, atol=1e-5)
            for a, b in zip(plain.parameters(), shared.parameters(), strict=True):
                assert torch.allclose(a.grad, b.grad, rtol=1e-4, atol=1e-4)
        for name, value in plain.state_dict().items():
            assert torch.allclose(value, shared.state_dict()[name], rtol=1e-5), name
    finally:
        torch.distributed.destroy_process_group()


def launched(arrays: str, out: Path, *more: str) -> subprocess.Popen[str]:
    """`accelerate launch` with two CPU processes, as the README says it."""
    port = str(20000 + os.getpid() % 20000)
    command = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", port]
    command += ["-m", "helpers.runs.train", "vae", "--profile", "smoke", "--dataset", arrays, "--out", str(out), *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


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


def test_a_checkpoint_of_one_process_goes_on_with_two(
    arrays: str, alone: tuple[Settings, list[dict[str, float]]], tmp_path: Path
) -> None:
    settings, expected = alone
    data = load_data(arrays)
    next(fit(build_model(settings, len(data.class_names)), data, settings, checkpoint_path(tmp_path, "vae")))
    run = launched(arrays, tmp_path)
    said, complained = run.communicate(timeout=600)
    assert run.returncode == 0, complained
    assert said.count("epoch 2 ") == 1 and "Trained from nothing" in said  # only the main process speaks
    history = load_history(tmp_path, "vae")
    assert history.run["processes"] == 2
    assert history.records[0]["train_distortion"] == expected[0]["train_distortion"]
    assert_same_curve(history.records, expected)
    model, _ = load_model(weights_path(tmp_path, "vae"))
    assert not any(isinstance(module, SharedBatchNorm) for module in model.modules())


def test_a_killed_process_ends_the_run_with_a_line_and_one_goes_on(
    arrays: str, alone: tuple[Settings, list[dict[str, float]]], tmp_path: Path
) -> None:
    settings, expected = alone
    run = launched(arrays, tmp_path)
    assert run.stdout.readline().startswith("epoch 1 ")
    workers = [c for c in psutil.Process(run.pid).children(recursive=True) if c.environ().get("RANK") == "1"]
    workers[-1].send_signal(signal.SIGKILL)
    _, complained = run.communicate(timeout=600)
    assert run.returncode != 0
    lines = [line for line in complained.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "lost each other" in lines[0] and "the same command continues" in lines[0], complained
    _, history = train(load_data(arrays), settings, tmp_path)
    assert_same_curve(history.records, expected)


def test_the_notebook_launcher_of_notebook_3_trains_on_two_processes(tmp_path: Path) -> None:
    cells = nbformat.read(ROOT / "notebooks" / "03_vae_training.ipynb", 4).cells
    (text,) = [cell.source for cell in cells if "notebook_launcher" in cell.source]
    code = text.split("```python\n")[1].split("```")[0]
    assert code.count('"../outs/scratch"') == 1
    done = subprocess.run(
        [sys.executable, "-c", code.replace("../outs/scratch", str(tmp_path))],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert load_history(tmp_path, "vae").run["processes"] == 2


def test_a_batch_in_parts_gives_the_gradient_of_the_batch(photos: Dataset) -> None:
    settings = profile_settings("smoke", "sharp", "photos", batch_size=64)
    with pytest.raises(UserError, match="accumulate"):
        profile_settings("smoke", "sharp", "photos", accumulate=2)
    settings = profile_settings("smoke", "vae", "photos", n_train=130, n_eval=50, batch_size=64, epochs=1, width=8)
    found = {}
    for parts in (1, 4):
        changed = profile_settings("smoke", **(settings.as_dict() | {"accumulate": parts}))
        found[parts] = list(fit(build_model(changed, len(photos.class_names)), photos, changed))[0]
    # Batch norm sees 16 images instead of 64, so the numbers differ a little; without weights for parts, fourfold.
    assert found[4]["train_distortion"] == pytest.approx(found[1]["train_distortion"], rel=0.2)
    assert found[4]["train_distortion"] != found[1]["train_distortion"]


# --- runs -------------------------------------------------------------------------------------------------------

GRID = {"base": {}, "a wide one": {"width": 16}, "beta = 4": {"beta": 4.0}}


def write_grid(arrays: str, path: Path, grid: dict = GRID, **more: object) -> str:
    tiny = {"profile": "smoke", "dataset": arrays, "width": 8, "epochs": 1, "latent_dim": 8, "n_eval": 50} | more
    path.write_text(yaml.safe_dump({n: tiny | change for n, change in grid.items()}, sort_keys=False))
    return str(path)


def without_times(rows: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    return {name: {k: v for k, v in row.items() if k != "seconds"} for name, row in rows.items()}


@pytest.fixture(scope="module")
def sequential(arrays: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table of the grid, run here one after another with one thread."""
    folder = tmp_path_factory.mktemp("sequential")
    grid = write_grid(arrays, folder / "grid.yaml")
    done = run_module("helpers.runs.experiments", "--grid", grid, "--out", str(folder), "--threads", "1")
    assert done.returncode == 0, done.stderr
    return folder


def test_a_grid_is_a_table_and_finished_runs_are_not_repeated(sequential: Path) -> None:
    rows = experiments.read_rows(sequential / "experiments.csv")
    assert list(rows) == list(GRID) and json.loads(rows["a wide one"]["settings"])["width"] == 16
    assert float(rows["base"]["rate"]) > float(rows["beta = 4"]["rate"]) and rows["base"]["threads"] == "1"
    notebook = (sequential / "a-wide-one.ipynb").read_text()
    assert "epoch 1" in notebook
    written = {path.name: path.stat().st_mtime_ns for path in sequential.glob("*.ipynb")}
    grid = str(sequential / "grid.yaml")
    experiments.main(["--grid", grid, "--out", str(sequential), "--threads", "1"])
    assert written == {path.name: path.stat().st_mtime_ns for path in sequential.glob("*.ipynb")}


def test_two_workers_give_the_sequential_results_also_when_one_is_killed(
    arrays: str, sequential: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
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
        address = cluster.scheduler_address
        experiments.main(["--grid", grid, "--out", str(tmp_path), "--threads", "1", "--scheduler", address])
        killer.join(10)
    assert killed
    found, expected = (experiments.read_rows(folder / "experiments.csv") for folder in (tmp_path, sequential))
    assert without_times(found) == without_times(expected)
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


def test_a_remote_store_holds_grid_and_results(
    arrays: str, bucket: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket.upload_file(write_grid(arrays, tmp_path / "grid.yaml", {"base": {}}), "grid.yaml")
    arguments = ["--grid", "s3://course/grid.yaml", "--out", "s3://course/results/", "--threads", "1"]
    experiments.main(arguments)
    written = {"results/base.ipynb", "results/experiments.csv"}
    assert {stored.key for stored in bucket.objects.all()} == written | {"grid.yaml"}
    experiments.main(arguments)
    assert "base: there already" in capsys.readouterr().out


def test_a_run_that_fails_is_named_and_the_others_go_on(arrays: str, tmp_path: Path) -> None:
    (tmp_path / "base.ipynb").write_text("cut off by a full disk")
    bad, good = {"lr": 0.9, "muon_rate": 100.0, "epochs": 20}, {}
    grid = write_grid(arrays, tmp_path / "grid.yaml", {"too fast": bad, "base": good})
    done = run_module("helpers.runs.experiments", "--grid", grid, "--out", str(tmp_path))
    assert_one_line_error(done, "1 of 2 runs failed: too fast")
    assert "too fast: failed (UserError: " in done.stdout and "lower lr" in done.stdout
    assert list(experiments.read_rows(tmp_path / "experiments.csv")) == ["base"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1, 2", ("cannot be read",)), ("- a\n- b\n", ("must hold names",)),
        ("a: {width: 12}", ("run 'a'", "multiple")),
        ("a: {widht: 16}", ("run 'a'", "Did you mean 'width'")),
        ("a b: {}\na  b: {}", ("another run", "'a b'")),
        ("a: {dataset: 'folder:'}", ("run 'a'", "unknown data set")),
    ],
)  # fmt: skip
def test_a_wrong_grid_is_one_line(text: str, words: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as found:
        experiments.main(["--grid", str(path), "--out", str(tmp_path)])
    assert all(word in str(found.value) for word in words) and "\n" not in str(found.value), found.value


def test_a_scheduler_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no scheduler answers"):
        list(experiments.on_cluster([], "nonsense://127.0.0.1:1"))


# --- data -------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes of 40 random images each, as an ImageFolder, in three formats."""
    rng = np.random.default_rng(0)
    for name, suffix, mode in (("cats", "png", "RGB"), ("dogs", "jpg", "L"), ("ships", "webp", "RGBA")):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(40):
            pixels = rng.integers(0, 256, (32, 32, 4), dtype=np.uint8)
            image = Image.fromarray(pixels).convert(mode)
            image.save(tmp_path / "images" / name / f"{number}.{suffix}")
    return tmp_path / "images"


def test_a_folder_of_images_trains_and_names_its_classes(folder: Path, tmp_path: Path) -> None:
    data = load_data(f"folder:{folder}")
    assert data.class_names == ("cats", "dogs", "ships")
    assert [len(part) for part in data.splits.values()] == [96, 12, 12]
    assert data.test.labels.bincount().tolist() == [4, 4, 4]
    everything = torch.cat([part.images.flatten(1) for part in data.splits.values()])
    assert len(everything.unique(dim=0)) == 120  # no image is in two splits
    settings = profile_settings("smoke", dataset=data.name, width=8, latent_dim=4, epochs=1, batch_size=32)
    model, history = train(data, settings, tmp_path / "out")
    assert model.head.out_features == 3 and history.records[0]["validation_cross_entropy"] < 5
    stored, about = load_model(weights_path(tmp_path / "out", "vae"))
    assert about["class_names"] == ["cats", "dogs", "ships"]
    assert home(data.name).parent == ROOT / "outs" and "/" not in home("folder:../../etc").name


def test_arrays_on_disk_are_the_same_data_and_are_only_mapped(folder: Path, tmp_path: Path) -> None:
    there, known = load_folder(folder), tmp_path / "arrays"
    assert store(f"folder:{folder}", known) == {"train": 96, "validation": 12, "test": 12}
    back = load_arrays(known)
    for a, b in zip(there.splits.values(), back.splits.values(), strict=True):
        assert torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)
    maps = {m.path for m in psutil.Process().memory_maps()}
    assert str(known / "train_images.npy") in maps
    settings = {name: profile_settings("smoke", dataset=name, width=8, latent_dim=4, epochs=1, batch_size=32)
                for name in (there.name, back.name)}  # fmt: skip
    one, two = (
        next(fit(build_model(settings[data.name], 3), data, settings[data.name]))["train_distortion"]
        for data in (there, back)
    )
    assert one == two


def test_a_train_and_a_test_folder_are_kept_apart(folder: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / "both" / split).parent.mkdir(exist_ok=True)
        (tmp_path / "both" / split).symlink_to(folder)
    assert [len(part) for part in load_folder(tmp_path / "both").splits.values()] == [108, 12, 120]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("size", ("0.png", "31 x 32")), ("cut", ("0.png", "cannot be read")), ("empty", ("cats",)), ("few", ("cats",)),
        ("none", ("one subfolder",)),
    ],
)  # fmt: skip
def test_a_bad_folder_is_one_line(damage: str, words: tuple[str, ...], folder: Path) -> None:
    first = folder / "cats" / "0.png"
    if damage == "size":
        Image.new("RGB", (31, 32)).save(first)
    elif damage == "cut":
        first.write_bytes(first.read_bytes()[:100])
    elif damage in ("empty", "few"):
        for path in sorted((folder / "cats").iterdir())[damage == "few" :]:
            path.unlink()
    with pytest.raises(UserError) as found:
        load_folder(folder / "nowhere" if damage == "none" else folder)
    assert all(word in str(found.value) for word in words) and "\n" not in str(found.value), found.value


@pytest.mark.parametrize("damage", ["cut", "pickle", "shape", "labels", "classes", "missing"])
def test_bad_arrays_are_one_line(damage: str, photos: Dataset, tmp_path: Path) -> None:
    write_arrays(Dataset("photos", photos.class_names, *(part.head(20) for part in photos.splits.values())), tmp_path)
    images, labels = tmp_path / "train_images.npy", tmp_path / "train_labels.npy"
    if damage == "cut":
        images.write_bytes(images.read_bytes()[:5000])
    elif damage == "pickle":
        np.save(labels, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    elif damage == "shape":
        np.save(images, np.zeros((20, 32, 32, 3), np.uint8))
    elif damage == "labels":
        np.save(labels, np.full(20, 10))
    elif damage == "classes":
        (tmp_path / "classes.json").write_text("{")
    else:
        images.unlink()
    with pytest.raises(UserError, match=str(tmp_path)) as found:
        load_arrays(tmp_path)
    assert "\n" not in str(found.value)


def test_cifar100_and_svhn_come_by_name_through_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's own readers, on small files in the official formats; their md5 sums stand in for the official."""
    import hashlib
    import pickle

    from scipy.io import savemat
    from torchvision.datasets import CIFAR100, SVHN

    rng = np.random.default_rng(0)

    def md5(path: Path) -> str:
        return hashlib.md5(path.read_bytes()).hexdigest()

    base = tmp_path / CIFAR100.base_folder
    base.mkdir()
    names = [f"class {i}" for i in range(20)]
    for split, n in (("train", 400), ("test", 40)):
        content = {"data": rng.integers(0, 256, (n, 3072), dtype=np.uint8), "fine_labels": [i % 20 for i in range(n)]}
        (base / split).write_bytes(pickle.dumps(content))
    (base / "meta").write_bytes(pickle.dumps({"fine_label_names": names}))
    monkeypatch.setattr(CIFAR100, "train_list", [["train", md5(base / "train")]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", md5(base / "test")]])
    monkeypatch.setattr(CIFAR100, "meta", {"filename": "meta", "key": "fine_label_names", "md5": md5(base / "meta")})
    found = load_data("cifar100", tmp_path)
    assert found.class_names == tuple(names) and [len(p) for p in found.splits.values()] == [360, 40, 40]
    assert found.test.images.shape == (40, 3, 32, 32) and found.test.labels.bincount().tolist() == [2] * 20
    assert profile_settings(dataset="cifar100").dataset == "cifar100"

    digits = {"X": rng.integers(0, 256, (32, 32, 3, 100), dtype=np.uint8), "y": 1 + np.arange(100)[:, None] % 10}
    for split in ("train", "test"):
        savemat(tmp_path / f"{split}_32x32.mat", digits)
    sums = {s: ["", f"{s}_32x32.mat", md5(tmp_path / f"{s}_32x32.mat")] for s in ("train", "test")}
    monkeypatch.setattr(SVHN, "split_list", sums)
    found = load_data("svhn", tmp_path)
    assert found.class_names == tuple("0123456789") and [len(p) for p in found.splits.values()] == [90, 10, 100]
    assert torch.equal(found.test.images[3], torch.from_numpy(digits["X"][..., 3]).permute(2, 0, 1))

    (tmp_path / "test_32x32.mat").write_bytes(b"half")
    with pytest.raises(UserError, match="test_32x32.mat is corrupt"):
        load_data("svhn", tmp_path)


# --- cost -------------------------------------------------------------------------------------------------------


def test_the_cost_model_measures_fits_and_bounds(tmp_path: Path) -> None:
    done = run_module("helpers.runs.cost", "--profile", "smoke", "--dataset", "photos", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "cost.json").read_text())
    assert {name: len(points) for name, points in content["points"].items()} == dict.fromkeys(content["fits"], 3)
    assert content["fits"]["n_train"]["seconds"]["slope"] > 0
    points = sum(content["points"].values(), [])
    assert all(p["seconds"] > 0 and 1e8 < p["bytes"] < 4 * 2**30 for p in points)
    for row in content["extrapolated"]:
        assert row["images_per_second"] == pytest.approx(row["batch_size"] / max(row["seconds"].values()))
        assert 0 < row["share_of_peak"] <= 1
    assert content["step"]["kernels"] > 100 and content["step"]["bytes"] > 1e6
    assert set(content["reading"]) == {"memory", "mapped"} and min(content["reading"].values()) > 1000


def test_a_straight_line_is_found_and_its_error_is_said() -> None:
    exact = fitted([16, 32, 64], [3 + 2 * w * w for w in (16, 32, 64)], lambda w: w * w)
    assert exact["base"] == pytest.approx(3) and exact["slope"] == pytest.approx(2)
    assert exact["largest_error"] < 1e-9 < fitted([1, 2, 3], [1.0, 3.0, 2.0], float)["largest_error"]


def test_what_bounds_a_gpu_is_the_slowest_of_its_needs() -> None:
    step = {"kernels": 1000, "bytes": 1e9}
    small = bounds(1e8, 5_000_000, step, 256, 1)
    assert small["bound_by"] == "kernel launches" and small["seconds"]["gradients between GPUs"] == 0
    large = bounds(1e12, 5_000_000, step, 8192, 8)
    assert large["bound_by"] == "arithmetic" and large["share_of_peak"] == 1
    assert large["images_per_second"] == pytest.approx(8 * 989e12 / 1e12)
