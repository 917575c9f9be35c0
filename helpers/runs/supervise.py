"""What lets the pipeline run unattended: one run per folder, an end within seconds when asked, its peak of memory."""

import contextlib
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import filelock
import psutil

from ..config import UserError, cannot_write

INTERVAL = 0.5  # seconds between two looks at the memory


class Stopped(KeyboardInterrupt):
    """SIGINT or SIGTERM. A KeyboardInterrupt, because asyncio lets nothing else through."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextlib.contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Hold a folder for one run. Raises UserError when another run holds it, or it cannot be written.

    The operating system's lock: it ends with its process, however that dies.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / ".lock", blocking=False)
        lock.acquire()
    except filelock.Timeout:
        raise UserError(f"another run is writing to {folder}; wait for it or name another folder with --out") from None
    except (OSError, NotImplementedError) as error:
        raise cannot_write(folder, error if isinstance(error, OSError) else OSError(str(error))) from None
    try:
        sweep(folder)
        yield
    finally:
        lock.release()


def sweep(folder: Path) -> None:
    """Remove what writers that were killed in the middle left behind: `.NAME.PID.tmp` of processes that are gone."""
    for path in folder.glob(".*.tmp"):
        number = path.name.split(".")[-2]
        if number.isdigit() and not psutil.pid_exists(int(number)):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """SIGINT and SIGTERM interrupt the kernels (a training there stores a checkpoint) and raise `Stopped` here.

    Papermill then shuts its kernel down, and kills it when it has not ended after five seconds. A second signal does
    not wait. When the block is left, nothing that it started is still alive.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        for one in asked:
            signal.signal(one, hurry)
        # Tasks that waited for a kernel are left behind; asyncio would tell of them after our last line.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        for kernel in psutil.Process().children():
            with contextlib.suppress(psutil.Error, ValueError):
                kernel.send_signal(signal.SIGINT)  # ValueError: Windows has no such signal
        raise Stopped(number)

    def hurry(number: int, frame: FrameType | None) -> None:
        end_children()
        os._exit(128 + number)

    asked = (signal.SIGINT, signal.SIGTERM)
    before = {one: signal.signal(one, stop) for one in asked}
    try:
        yield
    finally:
        end_children()
        for one, handler in before.items():
            signal.signal(one, handler)


def end_children() -> None:
    """Kill every process that this one has started."""
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            child.kill()


class Memory:
    """The peak of resident memory, in MiB, of this process and of all below it, in a `with` block.

    A thread looks twice a second. For each process below this one Linux knows the peak itself, so short ones are not
    missed, and the sum is an upper bound (pages that processes share count more than once).
    """

    def __enter__(self) -> "Memory":
        self.mib, self._ended = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        own = psutil.Process()
        while not self._ended.wait(INTERVAL):
            with contextlib.suppress(psutil.Error):
                below = sum(peak_bytes(child) for child in own.children(recursive=True))
                self.mib = max(self.mib, (own.memory_info().rss + below) / 2**20)


def peak_bytes(process: psutil.Process) -> int:
    """The most resident memory that a process ever had, where the system tells; else what it has now; 0 when gone."""
    try:
        if sys.platform == "linux":
            known = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
            return 1024 * int(known[1]) if known else 0
        return process.memory_info().rss
    except (OSError, psutil.Error):
        return 0
