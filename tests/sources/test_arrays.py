"""Arrays on disk are the same data, are only mapped, and are refused in one line when they are damaged."""

from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from helpers.engine.errors import UserError
from helpers.run import build_model
from helpers.settings import profile_settings
from helpers.sources.arrays import CHUNK, arrays, store_arrays
from helpers.sources.folders import load_arrays, load_folder
from helpers.training import fit


def test_arrays_on_disk_are_the_same_data_and_are_only_mapped(folder: Path, tmp_path: Path) -> None:
    original, out = load_folder(folder), tmp_path / "arrays"
    assert store_arrays(f"folder:{folder}", out) == {"train": 171, "validation": 18, "test": 21}
    mapped = load_arrays(out)
    for a, b in zip(original.splits.values(), mapped.splits.values(), strict=True):
        assert torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)
    assert str(out / "train_images.npy") in {m.path for m in psutil.Process().memory_maps()}
    losses = set()
    for data in (original, mapped):
        settings = profile_settings("smoke", dataset=data.name, width=8, latent_dim=4, epochs=1, batch_size=32)
        losses.add(next(fit(build_model(settings, 3), data, settings))["train_distortion"])
    assert len(losses) == 1


def test_the_program_stores_a_known_data_set_a_chunk_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert CHUNK * 3072 < 2**25  # bytes that are in memory at a time
    monkeypatch.setattr("helpers.sources.arrays.CHUNK", 300)
    arrays("photos", tmp_path)
    assert capsys.readouterr().out.startswith("4,000 train, 500 validation, 1,000 test images; use them as")
    assert [len(part) for part in load_arrays(tmp_path).splits.values()] == [4000, 500, 1000]
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    with pytest.raises(UserError, match="cannot write"):
        store_arrays("photos", tmp_path / "file" / "below")


@pytest.mark.parametrize("damage", ["cut", "pickle", "shape", "labels", "none", "classes", "missing"])
def test_bad_arrays_are_one_line(damage: str, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "arrays"
    store_arrays(f"folder:{folder}", out)
    images, labels = out / "train_images.npy", out / "train_labels.npy"
    if damage == "cut":
        images.write_bytes(images.read_bytes()[:5000])
    elif damage == "pickle":
        np.save(labels, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    elif damage == "shape":
        np.save(images, np.zeros((171, 32, 32, 3), np.uint8))
    elif damage == "labels":
        np.save(labels, np.full(171, 3))
    elif damage == "none":
        np.save(images, np.zeros((0, 3, 32, 32), np.uint8))
        np.save(labels, np.zeros(0, np.int64))
    elif damage == "classes":
        (out / "classes.json").write_text("{", encoding="utf-8")
    else:
        images.unlink()
    with pytest.raises(UserError, match=str(out)) as caught:
        load_arrays(out)
    assert "\n" not in str(caught.value) and "helpers arrays" in str(caught.value)
