"""Programs that start at once: processes of their own, forked from a server that has done the imports already.

What a program does, says and leaves is what that of `python -m ...` does; only the five seconds of its imports are
saved, which the tests would pay a hundred times. Programs of others, and all of them on Windows, start as ever.
"""

import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path
from typing import Any

from helpers.engine.files import ROOT

FORKS: Any = get_context("forkserver") if "forkserver" in get_all_start_methods() else None
if FORKS:
    own = ("tests.conftest", "helpers.lab.experiments", "helpers.publish.pipeline")
    late = ("accelerate", "torch._dynamo", "torch.distributed.tensor")  # what a training imports only when it begins
    FORKS.set_forkserver_preload([*own, *late])


class Program:
    """`python ARGUMENTS` at the repository root, with more environment variables; the verbs of subprocess.Popen."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.args, self.folder = arguments, tempfile.TemporaryDirectory()
        self.out, self.errors = (Path(self.folder.name) / name for name in ("stdout", "stderr"))
        streams = [path.open("a", encoding="utf-8") for path in (self.out, self.errors)]
        variables = os.environ | environment
        self.forked = FORKS is not None and (arguments[0] == "-c" or arguments[1].startswith("helpers"))
        if self.forked:
            names = str(self.out), str(self.errors)
            self.process: Any = FORKS.Process(target=work, args=(arguments, variables, names))
            self.process.start()
        else:
            command = [sys.executable, *arguments]
            self.process = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=streams[0], stderr=streams[1])
        for stream in streams:
            stream.close()
        self.pid: int = self.process.pid

    def poll(self) -> int | None:
        return self.process.exitcode if self.forked else self.process.poll()

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        if self.poll() is None:
            self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float = 1200) -> None:
        if self.forked:
            self.process.join(timeout)
        else:
            self.process.wait(timeout)
        if self.poll() is None:
            self.kill()
            raise subprocess.TimeoutExpired(self.args, timeout, *self.said())

    def said(self) -> tuple[str, str]:
        """What it has said until now, on stdout and on stderr."""
        return self.out.read_text(encoding="utf-8"), self.errors.read_text(encoding="utf-8")

    def communicate(self, timeout: float = 1200) -> tuple[str, str]:
        self.wait(timeout)
        return self.said()

    def completed(self) -> subprocess.CompletedProcess[str]:
        """Once it has ended: as subprocess.run gives it."""
        out, errors = self.communicate()
        return subprocess.CompletedProcess(self.args, self.returncode, out, errors)


def work(arguments: tuple[str, ...], environment: dict[str, str], streams: tuple[str, str]) -> None:
    """What the forked process does: it becomes `python ARGUMENTS`."""
    for number, stream in enumerate(streams, 1):
        os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    how, what, *rest = arguments
    sys.argv, sys.path = [how, *rest], ["", *sys.path]
    if how == "-m":
        sys.modules.pop(what, None)
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        exec(what, {"__name__": "__main__"})


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def run_module(module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m module arguments` at the repository root, with more environment variables."""
    return Program("-m", module, *arguments, **environment).completed()
