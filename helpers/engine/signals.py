"""SIGINT and SIGTERM: a run that is asked to stop keeps its state, and its program ends with one line."""

import contextlib
import logging
import os
import signal
import threading
from types import FrameType
from typing import Self

import psutil


class Stopped(KeyboardInterrupt):
    """A stop as asked, with the state kept; the message says how to go on. A notebook's kernel survives it."""

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class Interruption:
    """`with Interruption() as interruption:` a first signal only sets `interruption.number`; a second one raises.

    Outside the main thread, where signals cannot be caught, nothing is caught.
    """

    number = 0

    def __enter__(self) -> Self:
        numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
        self.before = {number: signal.signal(number, self.ask) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def ask(self, number: int, frame: FrameType | None) -> None:
        """What a signal calls."""
        if self.number:
            raise Stopped("stopped at once, at the second signal; the last checkpoint stays", number)
        self.number = number


def raise_on_sigterm() -> None:
    """Let SIGTERM raise `Stopped` wherever a program is, as Ctrl-C raises KeyboardInterrupt."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped("stopped between two checkpoints; the same command continues from the last one", number)

    signal.signal(signal.SIGTERM, stop)


class Stoppable(Interruption):
    """SIGINT and SIGTERM interrupt the child processes (a training there stores a checkpoint) and raise `Stopped` here.

    Papermill then shuts its kernel down; a second signal does not wait for that. No child outlives the block.
    """

    def __exit__(self, *_: object) -> None:
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
        super().__exit__()

    def ask(self, number: int, frame: FrameType | None) -> None:
        """What a signal calls."""
        if self.number:
            self.__exit__()
            os._exit(128 + number)
        self.number = number
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # or it complains of tasks that waited for a kernel
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.Error, ValueError):
                child.send_signal(signal.SIGINT)  # ValueError: Windows has no such signal
        name = signal.Signals(number).name
        raise Stopped(f"stopped by {name}; the same command goes on where this one stopped", number)
