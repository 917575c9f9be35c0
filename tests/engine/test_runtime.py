"""Devices, processes and memory."""

import platform
import subprocess
import sys

import pytest

from helpers.engine.errors import UserError
from helpers.engine.files import ROOT
from helpers.engine.runtime import accelerator, environment

KEEPING = """
import psutil, torch
from helpers.engine.runtime import freed_memory_kept

def mib():
    return psutil.Process().memory_info().rss / 2**20

before = mib()
with freed_memory_kept():
    with freed_memory_kept():
        del (x := [torch.ones(50_000_000)])[:]  # 191 MiB
    kept = mib() - before
print(kept, mib() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an option of glibc")
def test_freed_memory_is_kept_inside_the_outermost_block_and_then_given_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", KEEPING], cwd=ROOT, capture_output=True, text=True, check=True, encoding="utf-8"
    )
    kept, left = map(float, done.stdout.split())
    assert kept > 180 and left < 60, done.stdout


def test_processes_that_do_not_find_each_other_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")  # settings and hardware decide, not these
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    alone = accelerator()
    assert (alone.num_processes, alone.mixed_precision, alone.gradient_accumulation_steps) == (1, "no", 1)
    assert "processes" not in environment()
    monkeypatch.setenv("WORLD_SIZE", "3")  # three were launched, but accelerate was set up for this one alone
    with pytest.raises(UserError, match="3 processes were launched, but accelerate joins 1"):
        accelerator()
