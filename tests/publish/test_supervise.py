"""One run per folder, whatever the folder is like; and memory, as it is used."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.engine.errors import UserError
from helpers.engine.files import write_whole
from helpers.publish.supervise import only_run

from ..programs import Program


@contextlib.contextmanager
def without_permission(folder: Path) -> Iterator[None]:
    """`folder` cannot be written, not even when the tests run as root."""
    folder.chmod(0o555)
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65534)
        yield
    finally:
        if user == 0:
            os.seteuid(0)
        folder.chmod(0o755)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="POSIX permissions")
def test_a_folder_without_permission_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("locked")
    above = Path(tempfile.gettempdir()).resolve()
    for parent in (folder, *(p for p in folder.parents if p.is_relative_to(above) and p != above)):
        parent.chmod(parent.stat().st_mode | 0o055)
    (folder / "file").write_text("the last good one", encoding="utf-8")
    with without_permission(folder):
        with pytest.raises(UserError, match="cannot write .*Permission denied; change its permissions"):
            write_whole(folder / "file", "two")
        with pytest.raises(UserError, match="Permission denied"), only_run(folder):
            pass
    assert (folder / "file").read_text(encoding="utf-8") == "the last good one" and len(list(folder.iterdir())) == 1


def test_a_folder_is_held_by_one_run_and_leftovers_of_dead_writers_are_removed(tmp_path: Path) -> None:
    dead, alive = tmp_path / ".metrics.json.999999999.tmp", tmp_path / f".metrics.json.{os.getpid()}.tmp"
    dead.touch()
    alive.touch()
    with only_run(tmp_path):
        assert alive.exists() and not dead.exists()
        with pytest.raises(UserError, match="another run is writing to"), only_run(tmp_path):
            pass
    with only_run(tmp_path):
        pass


PEAK = """
import subprocess, sys
import psutil
from helpers.publish.supervise import Memory
code = "x = bytearray(1000 * 2**20); x[::4096] = b'1' * len(x[::4096]); del x; import time; time.sleep(2)"
with Memory() as memory:
    own = psutil.Process().memory_info().rss / 2**20
    subprocess.run([sys.executable, "-c", code], check=True)
print(memory.mib, own)
"""


def test_the_peak_of_memory_below_this_process_is_seen_even_when_it_was_short() -> None:
    """In a process with nothing else below it, which needs less itself, and from which a system may take memory."""
    done = Program("-c", PEAK).completed()
    peak, own = map(float, done.stdout.split())
    assert own < 1000 < peak < own + 1300, done
