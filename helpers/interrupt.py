"""Stops that lose nothing: SIGINT and SIGTERM become a question that a run answers between two steps."""

import signal
import threading
from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A run that was asked to stop has kept its state and stopped; the message says how to go on.

    It is a KeyboardInterrupt, so a notebook's kernel lives on. Programs end with `exit_code`.
    """

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class Interruption:
    """`with Interruption() as interruption:` a first signal only sets `interruption.number`; a second one raises.

    Outside the main thread, where signals cannot be caught, nothing is caught.
    """

    def __init__(self) -> None:
        self.number = 0

    def __enter__(self) -> "Interruption":
        here = threading.current_thread() is threading.main_thread()
        self.before = {number: signal.signal(number, self._ask) for number in SIGNALS} if here else {}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            raise Stopped("stopped at once, at the second signal; the last checkpoint stays", number)
        self.number = number


def raise_on_sigterm() -> None:
    """Let SIGTERM raise `Stopped` like Ctrl-C does, wherever a program is."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped("stopped", number)

    signal.signal(signal.SIGTERM, stop)
