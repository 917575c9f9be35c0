"""CIFAR-10, CIFAR-100 and SVHN are what they are said to be, and a damaged copy is named."""

import contextlib
import errno
import hashlib
import http.server
import io
import pickle
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat

from helpers.data import Dataset
from helpers.engine.errors import UserError, program
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
        refused(lambda: load_data("cifar10"), "data_batch_1 is corrupt")
        assert list(archive.parent.iterdir()) == [archive] and archive.read_bytes() == before


@pytest.mark.parametrize("end", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_download_that_ends_early_leaves_nothing(
    archive: Path, monkeypatch: pytest.MonkeyPatch, end: BaseException
) -> None:
    def ended(url: str, path: Path, least: int) -> None:
        path.write_bytes(b"half")
        raise end

    archive.unlink()
    monkeypatch.setattr(official, "receive", ended)
    if isinstance(end, OSError):
        refused(lambda: load_data("cifar10"), "No space left", "free some space")
    else:
        with pytest.raises(KeyboardInterrupt):
            load_data("cifar10")
    assert not list(archive.parent.iterdir())


class Source(http.server.BaseHTTPRequestHandler):
    """/good is the archive, /wrong another file; /slow comes in drops, /silent and /cut begin it; no others."""

    content = b""
    asked: list[str]  # what was asked for

    def do_GET(self) -> None:
        way = self.path.split("/")[1]
        self.asked.append(way)
        if way not in ("good", "wrong", "slow", "silent", "cut"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        with contextlib.suppress(OSError):  # the client has gone
            if way in ("good", "wrong"):
                self.wfile.write(self.content if way == "good" else bytes(len(self.content)))
            for start in range(0, len(self.content), 2000) if way == "slow" else ():
                self.wfile.write(self.content[start : start + 2000])
                time.sleep(0.05)
            if way in ("silent", "cut"):
                self.wfile.write(self.content[:2000])
                time.sleep(3 if way == "silent" else 0)

    def log_message(self, *words: object) -> None:
        """Nothing is said."""


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server with a small archive in the format of CIFAR-10, whose md5 sums are the published ones."""
    from torchvision.datasets import CIFAR10

    pixels = np.random.default_rng(0).integers(0, 256, (20, 3072), dtype=np.uint8)
    files = {name: {"data": pixels, "labels": [i % 10 for i in range(20)]} for name in ("data_batch_1", "test_batch")}
    contents = {name: pickle.dumps(part) for name, part in files.items()}
    contents["batches.meta"] = pickle.dumps({"label_names": [f"class {i}" for i in range(10)]})
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as tar:
        for name, content in contents.items():
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    sums = {name: hashlib.md5(content).hexdigest() for name, content in contents.items()}
    monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", sums["data_batch_1"]]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": sums["batches.meta"]})
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(whole.getvalue()).hexdigest())
    monkeypatch.setattr(Source, "content", whole.getvalue())
    monkeypatch.setattr(Source, "asked", [], raising=False)
    monkeypatch.setattr(official, "PATIENCE", 1.0)
    monkeypatch.setattr(official, "ROOT", tmp_path)
    monkeypatch.delenv("CIFAR10_ROOT", raising=False)
    monkeypatch.setenv("no_proxy", "*")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Source) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def ask(monkeypatch: pytest.MonkeyPatch, place: str, *ways: str) -> None:
    """Let the sources be these ways of one server, in this order."""
    from torchvision.datasets import CIFAR10

    *mirrors, last = (f"{place}/{way}" for way in ways)
    monkeypatch.setattr(official, "MIRRORS", {"cifar10": mirrors})
    monkeypatch.setattr(CIFAR10, "url", f"{last}/{CIFAR10.filename}")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [("none", "404"), ("wrong", "md5"), ("slow", "too slow"), ("silent", "timed out"), ("cut", "md5"), ("", "refused")],
)
def test_a_bad_source_is_left_for_the_next_one(
    sources: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], bad: str, reason: str
) -> None:
    ask(monkeypatch, sources, bad, "good", "good")
    if not bad:  # nobody listens there
        monkeypatch.setattr(official, "MIRRORS", {"cifar10": ("http://127.0.0.1:9/x", f"{sources}/good")})
    data = load_data("cifar10")
    assert data.class_names[3] == "class 3" and data.test.images.shape == (20, 3, 32, 32)
    assert Source.asked == [*filter(None, [bad]), "good"]
    (line,) = (
        line for line in capsys.readouterr().out.splitlines() if line.startswith("127.0.0.1:") and "%|" not in line
    )
    assert reason in line.lower(), line
    assert sorted(path.name for path in Path(official.ROOT / "data").iterdir()) == [
        "cifar-10-batches-py", "cifar-10-python.tar.gz",
    ]  # fmt: skip


def test_the_last_source_may_take_its_time(sources: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(monkeypatch, sources, "none", "slow")
    assert len(load_data("cifar10").test) == 20 and Source.asked == ["none", "slow"]


def test_when_every_source_fails_each_is_named_in_one_line(
    sources: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(monkeypatch, sources, "none", "silent", "wrong")
    monkeypatch.setattr(sys, "argv", ["load"])
    with pytest.raises(SystemExit) as end:
        program(lambda: print(load_data("cifar10")))
    line = capsys.readouterr().err
    assert end.value.code == 2 and line.count("\n") == 1 and line.startswith("error: CIFAR-10 is not in data/")
    assert all(word in line for word in ("404", "timed out", "with the md5", "Put its archive in data/", "photos"))
    assert not list((official.ROOT / "data").iterdir())
    assert "could not be downloaded" in load_data("auto").notice


def test_the_published_sources_are_secure_and_end_with_the_official_one() -> None:
    for name, published in (("cifar10", 3), ("cifar100", 2)):
        ((md5, urls),) = official.official(name).downloads.values()
        assert len(urls) == published + 1 and len(md5) == 32 and "cs.toronto.edu" in urls[-1]
        assert all(url.startswith("https://") and url.endswith("-python.tar.gz") for url in urls)


def test_an_archive_that_lies_there_is_unpacked_and_nothing_is_fetched(
    sources: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(monkeypatch, sources, "good", "good")
    (official.ROOT / "data").mkdir()
    (official.ROOT / "data" / "cifar-10-python.tar.gz").write_bytes(Source.content)
    assert len(load_data("cifar10").test) == 20 and not Source.asked


def test_a_place_that_cannot_be_looked_at_is_one_line(tmp_path: Path) -> None:
    done = run_module("helpers", "arrays", "cifar10", str(tmp_path / "out"), CIFAR10_ROOT=str(tmp_path / ("x" * 300)))
    assert_one_line_error(done, "xxx", "File name too long")
    assert not (tmp_path / "out").exists()
