"""One command line: every command is there, and every bad end of one is a line and an exit code."""

import runpy
import signal
import subprocess
import sys

import pytest

from helpers.engine.errors import program
from helpers.engine.files import ROOT
from helpers.engine.signals import Stopped

from .conftest import assert_one_line_error, run_module

COMMANDS = "train evaluate compress decompress info report render experiments peers benchmark arrays".split()


@pytest.mark.slow
def test_every_command_is_listed_and_another_is_one_line() -> None:
    done = run_module("helpers", "--help")
    listed = done.stdout.partition("Commands:")[2].splitlines()
    assert [line.split()[0] for line in listed if line.startswith("  ") and line[2] != " "] == COMMANDS
    assert_one_line_error(run_module("helpers", "nonsense"), "No such command 'nonsense'")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "vea"), ("vea", "'vae'")),
        (("train", "vae", "--accumulate", "0"), ("--accumulate",)),
        (("benchmark", "--rounds", "0"), ("--rounds", "1")),
        (("experiments", "--only", "beta=4"), ("'beta=4'", "'beta = 4'")),
        (("experiments", "--grid", "grid.yaml"), ("--grid needs --out",)),
        (("experiments", "--threads", "-1"), ("--threads",)),
        (("peers", "--only", "pythe"), ("'pythe'", "'pythae'")),
        (("peers", "--minutes", "-1"), ("--minutes",)),
        (("arrays", "nonsense", "out"), ("unknown data set 'nonsense'",)),
    ],
)
def test_the_runs_explain_bad_input(
    arguments: tuple[str, ...],
    words: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["helpers", *arguments])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("helpers", run_name="__main__")
    lines = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and len(lines) == 1 and lines[0].startswith("error: "), lines
    assert all(word in lines[0] for word in words), lines


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("open('/x' * 300)", 2, "error: /x"), ("(_ for _ in ()).throw(KeyboardInterrupt)", 130, "stopped"),
        ("print('x' * 10**6)", 2, "error: OSError: No space left on device"),
    ],
)  # fmt: skip
def test_what_the_system_refuses_is_one_line(body: str, code: int, said: str) -> None:
    lines = f"from helpers.engine.errors import program\ndef command() -> None:\n    {body}\nprogram(command)"
    with open("/dev/full", "wb") as full:
        into = {"stdout": full, "stderr": subprocess.PIPE, "text": True, "encoding": "utf-8"}
        done = subprocess.run([sys.executable, "-c", lines], **into, cwd=ROOT)
    assert done.returncode == code and done.stderr.startswith(said) and done.stderr.count("\n") == 1, done.stderr


def test_a_stop_while_a_command_line_is_imported_is_one_line() -> None:
    lines = "import os, signal, sys, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"  # `make test &`
    lines += "sys.argv = ['-m']\nimport helpers.engine\n"
    lines += "os.kill(os.getpid(), signal.SIGINT)\ntime.sleep(9)"
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, encoding="utf-8", cwd=ROOT)
    assert done.returncode == 130 and done.stderr.count("\n") == 1 and done.stderr.startswith("stopped"), done.stderr


def test_a_command_that_is_stopped_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> None:
        raise Stopped("kept at step 3", signal.SIGTERM)

    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(SystemExit) as end:
        program(command)
    assert end.value.code == 143 and capsys.readouterr().err == "kept at step 3\n"
