"""Equal runs give equal bytes; another order of the same sums changes a result by as little as the README says."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from helpers.codec import Codec, load_codec
from helpers.engine.files import ROOT, weights_path
from helpers.engine.sealed import read_tensors
from helpers.measure.rows import load
from helpers.quality import Plan
from helpers.show.images import pixels
from helpers.sources import load_data

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


# Files of the published codec: ten crops of photographs, and the SHA-256 of what a decoder must make of each file.
FILES = ROOT / "tests" / "vaec"
KINDS = {
    "code": Plan.of(30), "detail": Plan.of(50), "pixels": Plan.of(75), "error2": Plan.of(max_error=2),
    "lossless": Plan.of(100), "lossless_with_preview": Plan.of(100, preview=True),
}  # fmt: skip
MACHINES = (
    {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE", "OMP_NUM_THREADS": "1"},
    {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "2"},
    {"OMP_NUM_THREADS": "2"},
)
DECODE = """
import json
from tests.test_reproducibility import sums
from helpers.codec import load_codec
print(json.dumps(sums(load_codec())))
"""


def sums(codec: Codec) -> dict[str, str]:
    """The SHA-256 of the pixels in each committed file."""
    files = sorted(FILES.glob("*.vaec"))
    return {file.stem: hashlib.sha256(codec.decompress(file.read_bytes()).tobytes()).hexdigest() for file in files}


def make_files() -> None:
    """Write the files anew, as new weights ask for it."""
    codec, images = load_codec(), pixels(load_data("photos").test.images[:10])
    FILES.mkdir(exist_ok=True)
    for name, plan in KINDS.items():
        (FILES / f"{name}.vaec").write_bytes(codec.compress(images, plan))
    (FILES / "sha256.json").write_text(json.dumps(sums(codec), indent=1) + "\n", encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: "-".join(machine.values()))
def test_committed_files_decode_to_the_same_pixels_on_every_kind_of_machine(machine: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DECODE], cwd=ROOT, env=os.environ | machine, capture_output=True, text=True,
        encoding="utf-8", timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((FILES / "sha256.json").read_text(encoding="utf-8"))
    assert set(json.loads(done.stdout)) == set(KINDS)
