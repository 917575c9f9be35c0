"""Where a run computes: device, number format, memory; and what a reader must know of it to judge a time."""

import ctypes
import functools
import platform
from dataclasses import dataclass
from typing import Any

import torch

COMPILE_FROM_STEPS = 1500  # compiling costs about a minute, which a short run never earns back


@dataclass(frozen=True)
class Runtime:
    """The one place that decides device, number format and compilation."""

    device: torch.device
    bf16: bool
    compile: bool

    def autocast(self) -> torch.autocast:
        """bf16 on a GPU; float32 on a CPU, where bf16 is slower."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)


def runtime(steps: int = 0) -> Runtime:
    """A GPU where there is one, with bf16 and, for runs of many steps, torch.compile."""
    gpu = torch.cuda.is_available()
    keep_freed_memory()
    return Runtime(torch.device("cuda" if gpu else "cpu"), gpu, gpu and steps >= COMPILE_FROM_STEPS)


@functools.cache
def keep_freed_memory() -> bool:
    """Tell glibc to keep freed blocks: a training step asks for the same large tensors again and again.

    Otherwise the C library returns each of them to the system, which clears every page anew. False elsewhere.
    """
    mmap_threshold, trim_threshold = -3, -1  # the names' values in malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False  # no glibc: macOS, Windows, musl
    return bool(mallopt(mmap_threshold, 1 << 30) and mallopt(trim_threshold, (1 << 31) - 1))


def environment() -> dict[str, Any]:
    """What a reader needs to judge a time or repeat a number: versions, device, threads."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__.split("+")[0],
        "device": gpu or f"CPU ({platform.machine()})",
        "threads": torch.get_num_threads(),
    }
