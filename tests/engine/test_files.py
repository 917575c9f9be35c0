"""Files appear whole or not at all, and results stay in their folder."""

import os
import threading
from pathlib import Path

import pytest

from helpers.engine.files import check_ours, home, write_whole

from ..conftest import refused


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b.txt"
    write_whole(target, "one")
    refused(lambda: write_whole(target / "c.txt", "two"), "cannot write")
    assert target.read_text(encoding="utf-8") == "one" and [path.name for path in target.parent.iterdir()] == ["b.txt"]
    write_whole(target, b"two")
    assert target.read_text(encoding="utf-8") == "two"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has neither pipes nor devices with names")
def test_a_link_a_pipe_and_a_device_stay_and_get_the_bytes(tmp_path: Path) -> None:
    for link, target in ((tmp_path / "link", tmp_path / "target"), (tmp_path / "null", Path(os.devnull))):
        link.symlink_to(target)
        write_whole(link, "one")
        assert link.is_symlink()
    assert (tmp_path / "target").read_text(encoding="utf-8") == "one" and not Path(os.devnull).is_file()
    os.mkfifo(tmp_path / "pipe")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()), daemon=True)
    reader.start()
    write_whole(tmp_path / "pipe", b"two")
    reader.join(30)
    assert got == [b"two"] and (tmp_path / "pipe").is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "null", "pipe", "target"]


def test_a_file_of_somebody_else_is_not_ours(tmp_path: Path) -> None:
    for name, content in (("ours", "VAEC1"), ("empty", ""), ("theirs", "PNG")):
        (tmp_path / name).write_text(content, encoding="utf-8")
    for name in ("ours", "empty", "missing"):
        check_ours(tmp_path / name, b"VAEC")
    refused(lambda: check_ours(tmp_path / "theirs", b"VAEC"), "theirs exists", "name another file")


def test_every_data_set_has_one_published_folder() -> None:
    assert home("cifar10").name == "exercise_03" and home("photos").name == "photos"
    assert home("folder:../../etc") == home("photos").with_name("folder-etc")
