"""One command line: every command is there, and every bad end of one is a line and an exit code."""

import runpy
import signal
import sys

import pytest

from helpers.engine.errors import program
from helpers.engine.signals import Stopped

from .conftest import assert_one_line_error, run_module

COMMANDS = "train evaluate compress decompress info report render experiments peers benchmark cost arrays".split()


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


def test_a_command_that_is_stopped_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> None:
        raise Stopped("kept at step 3", signal.SIGTERM)

    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(SystemExit) as end:
        program(command)
    assert end.value.code == 143 and capsys.readouterr().err == "kept at step 3\n"
