"""What lets a run of the notebooks go unattended: one run per folder, and a record of its peak memory."""

import contextlib
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import filelock
import psutil

from ..engine import UserError, cannot_write


@contextlib.contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Hold a folder until the block or the process ends. Raises UserError when another run does, or on a bad place."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = filelock.FileLock(folder / ".lock", blocking=False).acquire()
    except filelock.Timeout:
        raise UserError(f"another run is writing to {folder}; wait for it or name another folder with --out") from None
    except (OSError, NotImplementedError) as error:
        raise cannot_write(folder, error if isinstance(error, OSError) else OSError(str(error))) from None
    with held:
        for path in folder.glob(".*.*.tmp"):  # .NAME.PID.tmp, perhaps of a process that was killed while it wrote
            number = path.name.split(".")[-2]
            if number.isdigit() and not psutil.pid_exists(int(number)):
                path.unlink(missing_ok=True)
        yield


class Memory:
    """The peak of memory (`mib`) of this process and all below it in a `with` block, read twice a second.

    Of this process counts what no other one shares: the libraries that it has in common with its kernel count there.
    """

    def __enter__(self) -> Self:
        self.mib, self._ended = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        own = psutil.Process()
        while not self._ended.wait(0.5):
            with contextlib.suppress(psutil.Error):
                # On Linux an upper bound, which misses no short peak.
                below = sum(peak_bytes(child) for child in own.children(recursive=True))
                self.mib = max(self.mib, (own.memory_full_info().uss + below) / 2**20)


def peak_bytes(process: psutil.Process) -> int:
    """The most resident memory that a process ever had (where known: Linux), else what it has now; 0 when gone."""
    try:
        if sys.platform == "linux":
            peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8"))
            return 1024 * int(peak[1]) if peak else 0
        return process.memory_info().rss
    except (OSError, psutil.Error):
        return 0
