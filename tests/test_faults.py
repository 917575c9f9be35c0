"""Every file that is read is checked, equal runs give equal bytes, and nothing leads out of its folder."""

import dataclasses
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import helpers
from helpers import schemas
from helpers.codec import Codec, load_codec
from helpers.config import ROOT, Settings, UserError
from helpers.container import write_images
from helpers.data import Dataset
from helpers.models import build_model
from helpers.schemas import read_json, seal, write_json
from helpers.show.figures import read_captions
from helpers.storage import (
    history_path,
    load_history,
    load_model,
    load_state,
    read_tensors,
    weights_path,
    write_tensors,
)

from .conftest import TINY, assert_one_line_error, run_module


def refused(read: Callable[[], object], *words: str) -> None:
    """One line that names what is wrong."""
    with pytest.raises(UserError) as caught:
        read()
    line = str(caught.value)
    assert "\n" not in line and all(word in line for word in words), line


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    """A folder with the weights and the history of a tiny VAE, to be damaged."""
    for path in (weights_path(trained, "vae"), history_path(trained, "vae")):
        shutil.copy(path, tmp_path)
    return tmp_path


# --- weights ----------------------------------------------------------------------------------------------------


def test_every_flipped_bit_of_weights_is_found(copy: Path) -> None:
    path = weights_path(copy, "vae")
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    generator = torch.Generator().manual_seed(0)
    places = [*range(8), *torch.randint(8, header, (60,), generator=generator).tolist()]
    places += torch.randint(header, len(content), (30,), generator=generator).tolist()
    for at in places:
        damaged = bytearray(content)
        damaged[at] ^= 1 << (at % 8)
        path.write_bytes(damaged)
        refused(lambda: load_model(path), "vae.safetensors")


@pytest.mark.parametrize("length", [0, 7, 8, 100, 5000, -1])
def test_cut_weights_are_named(length: int, copy: Path) -> None:
    path = weights_path(copy, "vae")
    path.write_bytes(path.read_bytes()[:length])
    refused(lambda: helpers.load_vae(path), "vae.safetensors is damaged")


def test_weights_with_a_number_that_is_not_finite_are_neither_written_nor_read(copy: Path) -> None:
    path = weights_path(copy, "vae")
    tensors, about = read_tensors(path)
    before = path.read_bytes()
    next(t for t in tensors.values() if t.is_floating_point()).view(-1)[0] = math.nan
    refused(lambda: write_tensors(path, tensors, about), "not finite", "vae.safetensors is not written")
    assert path.read_bytes() == before
    from safetensors.torch import save

    path.write_bytes(save(tensors, {"about": json.dumps(about)}))
    history_path(copy, "vae").unlink()
    refused(lambda: load_model(path), "vae.safetensors", "not finite")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"settings": {"width": 16}}, "has the shape"), ({"settings": {"epochs": "two"}}, "wrong settings"),
        ({"settings": {"widht": 8}}, "Did you mean 'width'"), ({"settings": {"width": 2**33}}, "no possible model"),
        ({"settings": {"width": 2**20}}, "has the shape"), ({"settings": {"model": "autoencoder"}}, "does not fit"),
        ({"settings": {"seed": [1]}}, "wrong settings"), ({"class_names": ["a", "b"]}, "has the shape"),
        ({"class_names": "abcdefghij"}, "does not say"), ({"run": None}, "does not say"), ({"kind": "flow"}, "a flow"),
    ],
)  # fmt: skip
def test_weights_whose_header_was_changed_do_not_load(change: dict[str, Any], word: str, copy: Path) -> None:
    path = weights_path(copy, "vae")
    tensors, about = read_tensors(path)
    for key, value in change.items():
        about[key] = about[key] | value if isinstance(value, dict) else value
    write_tensors(path, tensors, about)  # with a right sum: what is inside does not fit
    refused(lambda: load_model(path), "vae.safetensors", word)


def test_tensors_of_another_kind_do_not_fit(copy: Path, tiny: Settings) -> None:
    path = weights_path(copy, "vae")
    tensors, about = read_tensors(path)
    name = next(name for name, t in tensors.items() if t.is_floating_point())
    for changed, word in (
        (tensors | {name: tensors[name].double()}, "float64"),
        (tensors | {"more": tensors[name].clone()}, "not part of it"),
        ({k: v for k, v in tensors.items() if k != name}, "missing"),
    ):  # fmt: skip
        write_tensors(path, changed, about)
        refused(lambda: load_model(path), "does not fit the model", word)
    refused(lambda: load_state(build_model(tiny, 10), {name: tensors[name]}, path), "does not fit")


def test_swapped_files_are_found(copy: Path, photos: Dataset, tiny: Settings) -> None:
    other = dataclasses.replace(tiny, model="autoencoder")
    names = list(photos.class_names)
    about = {"kind": "weights", "settings": other.as_dict(), "class_names": names, "run": {}}
    path = weights_path(copy, "vae")
    write_tensors(path, build_model(other, 10).state_dict(), about)
    refused(lambda: helpers.load_vae(path), "autoencoder, not a VAE")
    refused(lambda: load_history(copy, "vae"), "is not the file that vae_history.json describes")
    shutil.copy(history_path(copy, "vae"), history_path(copy, "autoencoder"))
    refused(lambda: load_history(copy, "autoencoder"), "autoencoder_history.json is the history of a model 'vae'")


def test_older_weights_without_a_sum_are_checked_by_their_history(copy: Path) -> None:
    from safetensors.torch import save

    path, history = weights_path(copy, "vae"), history_path(copy, "vae")
    tensors, about = read_tensors(path)
    path.write_bytes(save(tensors, {"about": json.dumps(about)}))
    refused(lambda: load_model(path), "vae.safetensors", "sha256")
    content = read_json(history)
    content["run"]["weights_sha256"] = helpers.storage.fingerprint(path)
    write_json(history, content)
    assert load_model(path)[1] == about


def test_a_folder_a_secret_and_a_link_to_nowhere_are_one_line_each(tmp_path: Path) -> None:
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "nowhere")
    for path in (tmp_path, tmp_path / "link.safetensors"):
        refused(lambda path=path: load_model(path), "does not exist")
    refused(lambda: read_json(tmp_path), "cannot read")


# --- metrics, histories, captions, run records ------------------------------------------------------------------


def example(kind: str) -> dict[str, Any]:
    """A file of each kind as small as it may be."""
    environment = {"python": "3.11", "torch": "2.6", "device": "CPU", "threads": 2}
    estimate = {"value": 23.5, "stderr": 0.1}
    digest = "0" * 64
    record = {"epoch": 1.0, "seconds": 2.5}
    return {
        "metrics.json": {
            "dataset": "photos", "notice": "", "seed": 0, "environment": environment, "settings": {},
            "training_run": {}, "units": {"mse": "squared"}, "models": {"vae": {"test": {"n": 5, "psnr": estimate}}},
            "spectrum": {"about": "x", "units": {}, "models": {"vae": {"test": {"value": [1.0], "stderr": None}}}},
        },
        "vae_history.json": {
            "settings": {"model": "vae"}, "records": [record],
            "run": environment | {"finished": "2026-01-01T00:00:00+00:00", "seconds": 2.5, "weights_sha256": digest},
        },
        "captions.json": {"loss_plot": "The loss by epoch, for two splits."},
        "data.json": {"name": "photos", "counts": {"train": 5}, "class_names": ["a"]},
        "training.json": {"failure": {"sigma_1": record}, "loss": {"train": 1.0}},
        "generation.json": {"n": 5, "scores": {"real": {"n": 5}}, "best": "real"},
        "compression.json": {"n": 5, "bytes": [1.0], "psnr": [20.0], "needed": {}},
        "peers.json": {
            "ours": {"minutes": 20.0, "n": 5, "psnr_pooled": 23.5, "parameters": 7, "frechet": {"mixture": 1.0},
                     "environment": environment},
        },
        "run.json": {
            "finished": "2026-01-01T00:00:00+00:00", "dataset": "photos", "profile": "smoke", "fresh": True,
            "seconds": {"01": 1.0}, "total_seconds": 1.0, "peak_mib": {"01": 500}, "environment": environment,
        },
        ".unfinished.json": {
            "at": {"key": digest, "began": 1.0},
            "done": {"01": {"key": digest, "seconds": 1.0, "peak_mib": 500, "files": {"data.json": digest}}},
        },
    }[kind]  # fmt: skip


KINDS = ("metrics.json", "vae_history.json", "captions.json", "data.json", "training.json", "generation.json",
         "compression.json", "peers.json", "run.json", ".unfinished.json")  # fmt: skip


def test_there_is_an_example_of_every_schema() -> None:
    assert {schemas.kind_of(Path(kind)) for kind in KINDS} == set(schemas.SCHEMAS)


@pytest.mark.parametrize("kind", KINDS)
class TestJson:
    def test_what_is_written_is_read(self, kind: str, tmp_path: Path) -> None:
        write_json(tmp_path / kind, example(kind))
        assert read_json(tmp_path / kind) == example(kind)

    def test_every_flipped_bit_is_found(self, kind: str, tmp_path: Path) -> None:
        path = tmp_path / kind
        write_json(path, example(kind))
        content = path.read_bytes()
        for at in range(0, len(content), 3):
            damaged = bytearray(content)
            damaged[at] ^= 1 << (at // 3 % 8)
            path.write_bytes(damaged)
            try:
                assert read_json(path) == example(kind)  # only white space may have changed
            except UserError as error:
                assert kind in str(error) and "\n" not in str(error)

    def test_cut_files_are_found(self, kind: str, tmp_path: Path) -> None:
        path = tmp_path / kind
        write_json(path, example(kind))
        content = path.read_text()
        for length in (0, 1, len(content) // 2, len(content) - 3):
            path.write_text(content[:length])
            refused(lambda: read_json(path), kind, "damaged", "make report")

    def test_a_number_changed_by_hand_is_found(self, kind: str, tmp_path: Path) -> None:
        path = tmp_path / kind
        write_json(path, example(kind))
        text = path.read_text()
        path.write_text(re.sub(r"(: \"?)(?=[A-Z0-9])", r"\g<1>1", text, count=1) if kind != "data.json" else
                        text.replace("5", "6", 1))  # fmt: skip
        assert path.read_text() != text
        refused(lambda: read_json(path), kind, "damaged")

    def test_a_missing_part_is_named(self, kind: str, tmp_path: Path) -> None:
        for name in schemas.SCHEMAS[schemas.kind_of(Path(kind))].get("required", ()):
            content = {k: v for k, v in example(kind).items() if k != name}
            (tmp_path / kind).write_text(json.dumps(content | {schemas.SEAL: seal(content)}))
            refused(lambda: read_json(tmp_path / kind), kind, f"data has no '{name}'")
            refused(lambda c=content: write_json(tmp_path / "new" / kind, c), "has no")
        assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("kind", "change", "word"),
    [
        ("metrics.json", {"models": {"vae": {"test": {"n": 5, "psnr": 23.5}}}}, "data.models.vae.test.psnr"),
        ("metrics.json", {"models": {"vae": {"test": {"n": 5, "psnr": {"value": "x", "stderr": None}}}}}, "psnr.value"),
        ("metrics.json", {"spectrum": {"a": {"value": 1.0}}}, "data.spectrum.a"),
        ("metrics.json", {"models": {}}, "models"),
        ("vae_history.json", {"records": []}, "data.records"), ("vae_history.json", {"more": 1}, "more"),
        ("vae_history.json", {"records": [{"epoch": 1.0, "seconds": "2"}]}, "data.records[0].seconds"),
        ("captions.json", {"../../x": "A caption that is long enough."}, "../../x"),
        ("captions.json", {"x": "A <script>that is long</script> enough."}, "data.x"),
        ("captions.json", {"x": "a"}, "data.x"),
        ("peers.json", {"other": {"n": 5}}, "data.other"),
        ("run.json", {"finished": "yesterday"}, "data.finished"), (".unfinished.json", {"done": {"01": {}}}, "01"),
    ],
)  # fmt: skip
def test_a_wrong_part_is_named_even_with_a_right_seal(
    kind: str, change: dict[str, Any], word: str, tmp_path: Path
) -> None:
    content = example(kind) | change
    (tmp_path / kind).write_text(json.dumps(content | {schemas.SEAL: seal(content)}))
    refused(lambda: read_json(tmp_path / kind), kind, word)
    refused(lambda: write_json(tmp_path / "new.d" / kind, content), word)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "1e999", "-1e999", "9" * 30, "[" * 100_000, '"\\ud800', "\xff"])
def test_numbers_and_texts_that_json_cannot_hold_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "anything.json"
    path.write_text(f'{{"x": {text}}}', encoding="latin-1")
    refused(lambda: read_json(path), "anything.json is damaged")


def test_a_result_that_is_not_finite_is_never_written(tmp_path: Path) -> None:
    refused(lambda: write_json(tmp_path / "x.json", {"x": math.nan}), "not written", "not a finite number")
    assert not list(tmp_path.iterdir())


def test_a_damaged_caption_file_is_named(tmp_path: Path) -> None:
    assert read_captions(tmp_path) == {}
    (tmp_path / "captions.json").write_text('{"a": ')
    refused(lambda: read_captions(tmp_path), "captions.json is damaged", "delete it")


def test_the_command_line_says_it_in_one_line(copy: Path) -> None:
    path = weights_path(copy, "vae")
    content = bytearray(path.read_bytes())
    content[-5] ^= 16
    path.write_bytes(content)
    assert_one_line_error(run_module("helpers.evaluate", "--weights", str(path)), "vae.safetensors", "sha256")


# --- code and places --------------------------------------------------------------------------------------------


def test_nothing_is_ever_unpickled() -> None:
    for path in (ROOT / "helpers").rglob("*.py"):
        loads = r"torch\.load\(|np\.load\((?!.*allow_pickle=False)|allow_pickle=True"
        found = re.search(rf"import pickle|pickle\.|joblib|{loads}", path.read_text())
        assert not found, path


def test_decompressed_images_stay_in_their_folder(trained: Path, photos: Dataset, tmp_path: Path) -> None:
    codec: Codec = load_codec(weights_path(trained, "vae"), photos)
    images = codec.decompress(codec.compress(photos.test.images[:3].permute(0, 2, 3, 1).numpy()))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine").write_text("mine")
    (tmp_path / "link").symlink_to(elsewhere)
    refused(lambda: write_images(images, tmp_path / "link"), "not empty")
    write_images(images, tmp_path / "new" / "folder")
    assert sorted(p.name for p in tmp_path.rglob("*.png")) == ["00000.png", "00001.png", "00002.png"]
    assert [p.name for p in elsewhere.iterdir()] == ["mine"]


# --- equal runs -------------------------------------------------------------------------------------------------

WHOLE_RUN = f"""
import sys
from pathlib import Path
from helpers import evaluate
from helpers.config import profile_settings
from helpers.data import load_photos
from helpers.training import train
folder = Path(sys.argv[1])
train(load_photos("a test"), profile_settings("smoke", dataset="photos", **{TINY!r}), folder)
evaluate.main(["--split", "test", "--weights", str(folder / "vae.safetensors"), "--out", str(folder / "metrics.json")])
"""


def whole_run(folder: Path, threads: int) -> Path:
    """Training from nothing and evaluation in a process of its own."""
    variables = os.environ | {"OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-c", WHOLE_RUN, str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=600)
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


def numbers(folder: Path) -> dict[str, float]:
    """The metrics of the VAE."""
    found = read_json(folder / "metrics.json")["models"]["vae"]["test"]
    return {name: metric["value"] for name, metric in found.items() if name != "n"}


# The bounds that tests/README.md states for another order of the same sums.
EVALUATED, TRAINED, NATS = 1e-4, 0.02, 0.01


def test_another_number_of_threads_changes_an_evaluation_by_rounding_only(first: Path, tmp_path: Path) -> None:
    shutil.copytree(first, tmp_path / "copy")
    weights = str(weights_path(tmp_path / "copy", "vae"))
    done = run_module("helpers.evaluate", "--split", "test", "--weights", weights, "--out",
                      str(tmp_path / "metrics.json"), OMP_NUM_THREADS="1")  # fmt: skip
    assert done.returncode == 0, done.stderr
    one, two = numbers(first), numbers(tmp_path)
    assert one == pytest.approx(two, rel=EVALUATED, abs=EVALUATED)


def test_another_number_of_threads_changes_a_training_little(first: Path, tmp_path: Path) -> None:
    one, two = numbers(first), numbers(whole_run(tmp_path, 1))
    for name in ("psnr_pooled", "ssim", "distortion", "bpd", "rmse"):
        assert one[name] == pytest.approx(two[name], rel=TRAINED), name
    # The rate of a model that has hardly begun to use its code is nearly nothing, so its bound is absolute.
    assert one["rate"] == pytest.approx(two["rate"], rel=TRAINED, abs=NATS)
