"""CIFAR-10, CIFAR-100 and SVHN are what they are said to be, and a damaged copy is named."""

import errno
import hashlib
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat

from helpers.data import Dataset
from helpers.engine.errors import UserError
from helpers.sources import load_data, official

from ..conftest import assert_one_line_error, refused, run_module


def test_cifar10_has_the_known_sizes_and_statistics(cifar10: Dataset) -> None:
    assert [len(part) for part in cifar10.splits.values()] == [45_000, 5_000, 10_000]
    for part, each in zip(cifar10.splits.values(), (4_500, 500, 1_000), strict=True):
        assert part.labels.bincount().tolist() == [each] * 10
    training = torch.cat([cifar10.train.images, cifar10.validation.images]).double() / 255
    expected = [0.49139968, 0.48215841, 0.44653091], [0.24703223, 0.24348513, 0.26158784]
    assert training.mean((0, 2, 3)).tolist() == pytest.approx(expected[0], abs=1e-7)
    deviation = training.permute(1, 0, 2, 3).flatten(1).std(1, correction=0)
    assert deviation.tolist() == pytest.approx(expected[1], abs=1e-7)


def test_a_corrupt_file_is_named_and_nothing_is_used(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(b"not the data")
    done = run_module("helpers.evaluate", CIFAR10_ROOT=str(tmp_path), DATASET="")
    assert_one_line_error(done, "data_batch_1", "corrupt")


# torchvision's own readers, on small files in the official formats; the md5 sums are replaced by those of these files.


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_cifar100_comes_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR100

    base, names = tmp_path / CIFAR100.base_folder, [f"class {i}" for i in range(20)]
    base.mkdir()
    for split, n in (("train", 400), ("test", 40)):
        pixels = np.random.default_rng(0).integers(0, 256, (n, 3072), dtype=np.uint8)
        (base / split).write_bytes(pickle.dumps({"data": pixels, "fine_labels": [i % 20 for i in range(n)]}))
        monkeypatch.setattr(CIFAR100, f"{split}_list", [[split, md5(base / split)]])
    (base / "meta").write_bytes(pickle.dumps({"fine_label_names": names}))
    monkeypatch.setattr(CIFAR100, "meta", {"filename": "meta", "key": "fine_label_names", "md5": md5(base / "meta")})
    data = load_data("cifar100", tmp_path)
    assert data.class_names == tuple(names) and [len(part) for part in data.splits.values()] == [360, 40, 40]
    assert data.test.images.shape == (40, 3, 32, 32) and data.test.labels.bincount().tolist() == [2] * 20


def test_svhn_comes_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import SVHN

    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 100), dtype=np.uint8)
    for split in ("train", "test"):
        savemat(tmp_path / f"{split}_32x32.mat", {"X": pixels, "y": 1 + np.arange(100)[:, None] % 10})
    sums = {split: ["", f"{split}_32x32.mat", md5(tmp_path / f"{split}_32x32.mat")] for split in ("train", "test")}
    monkeypatch.setattr(SVHN, "split_list", sums)
    data = load_data("svhn", tmp_path)
    assert data.class_names == tuple("0123456789") and [len(part) for part in data.splits.values()] == [90, 10, 100]
    assert torch.equal(data.test.images[3], torch.from_numpy(pixels[..., 3]).permute(2, 0, 1))
    (tmp_path / "test_32x32.mat").write_bytes(b"half")
    with pytest.raises(UserError, match="test_32x32.mat is corrupt"):
        load_data("svhn", tmp_path)


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """data/cifar-10-python.tar.gz of a user, which holds a single file; there is no other copy."""
    monkeypatch.delenv("CIFAR10_ROOT", raising=False)
    monkeypatch.setattr(official, "ROOT", tmp_path)
    (tmp_path / "data_batch_1").write_bytes(b"1")
    (tmp_path / "data").mkdir()
    with tarfile.open(tmp_path / "data" / "cifar-10-python.tar.gz", "w:gz") as file:
        file.add(tmp_path / "data_batch_1", "cifar-10-batches-py/data_batch_1")
    return tmp_path / "data" / "cifar-10-python.tar.gz"


def test_an_archive_of_the_user_is_never_deleted_nor_written_over(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import CIFAR10

    before = archive.read_bytes()
    refused(lambda: load_data("auto"), str(archive), md5(archive), CIFAR10.tgz_md5, "move it away")
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(archive))  # now it is the published one, but what it holds is not
    for _ in range(2):  # nothing is left that would block the repetition
        refused(lambda: load_data("cifar10"), "could not be downloaded")
        assert list(archive.parent.iterdir()) == [archive] and archive.read_bytes() == before


def test_what_a_failed_download_leaves_is_removed(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(url: str, path: str) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    archive.unlink()
    monkeypatch.setattr("torchvision.datasets.utils._get_redirect_url", lambda url, **_: url)
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", full_disk)
    refused(lambda: load_data("cifar10"), "No space left", "free some space")
    assert not list(archive.parent.iterdir())


def test_a_place_that_cannot_be_looked_at_is_one_line(tmp_path: Path) -> None:
    done = run_module("helpers", "arrays", "cifar10", str(tmp_path / "out"), CIFAR10_ROOT=str(tmp_path / ("x" * 300)))
    assert_one_line_error(done, "xxx", "File name too long")
    assert not (tmp_path / "out").exists()
