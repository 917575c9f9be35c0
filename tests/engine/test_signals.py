"""Signals become one line and an exit code, and leave nothing behind."""

import os
import signal
import subprocess
import sys

import pytest

from helpers.engine.files import ROOT
from helpers.engine.signals import Interruption, Stopped, raise_on_sigterm

LEFT_BEHIND = """
import asyncio, os, signal
from helpers.engine.errors import program
from helpers.engine.signals import Stoppable
async def waits_for_a_kernel():
    raise RuntimeError("Kernel died")
async def work():
    task = asyncio.ensure_future(waits_for_a_kernel())
    await asyncio.sleep(0.1)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(60)
def command() -> None:
    with Stoppable():
        asyncio.run(work())
program(command)
"""


def test_nothing_is_said_of_the_tasks_that_a_stopped_run_leaves_behind() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEFT_BEHIND], cwd=ROOT, capture_output=True, text=True, timeout=60, encoding="utf-8"
    )
    assert done.stderr == "stopped by SIGTERM; the same command goes on where this one stopped\n"
    assert done.returncode == 128 + signal.SIGTERM


def test_a_first_signal_is_a_question_and_a_second_one_stops() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.number == signal.SIGINT
        with pytest.raises(Stopped, match="second signal") as stop:
            os.kill(os.getpid(), signal.SIGTERM)
    assert stop.value.exit_code == 143 and signal.getsignal(signal.SIGINT) == before


def test_sigterm_outside_of_a_training_stops_too() -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        raise_on_sigterm()
        with pytest.raises(Stopped, match="the same command continues"):
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
