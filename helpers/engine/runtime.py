"""Where a run computes: processes, device, number format, memory; what a reader must know to judge a time."""

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from .checkpoint import Record
from .errors import UserError
from .sealed import Tensors

if TYPE_CHECKING:
    from accelerate import Accelerator

_open_blocks = 0  # of freed_memory_kept: only the outermost gives memory back


@dataclass(frozen=True)
class Runtime:
    """The one place that decides device and number format."""

    device: torch.device
    bf16: bool
    layout: torch.memory_format = torch.channels_last

    def autocast(self) -> torch.autocast:
        """Products of bf16 numbers in training, where the hardware multiplies them; weights and sums stay float32."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)


def runtime() -> Runtime:
    """A CUDA GPU where there is one, for each process one; Apple's, which we could not try, only for DEVICE=mps."""
    apple = os.environ.get("DEVICE") == "mps" and torch.backends.mps.is_available()
    alone = torch.device("cuda" if torch.cuda.is_available() else "mps" if apple else "cpu")
    device = accelerator().device if launched() > 1 else alone
    if device.type == "mps":  # gradients of batch norm are wrong there in the other layout (pytorch issue 175189)
        return Runtime(device, bf16=False, layout=torch.contiguous_format)
    return Runtime(device, device.type == "cuda" or cpu_has_bf16())


def launched() -> int:
    """How many processes `accelerate launch` (or torchrun, or accelerate's notebook_launcher) started; else 1."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def accelerator() -> "Accelerator":
    """Accelerate's view of this run's processes. Raises UserError when not all join: each would train its own model."""
    from accelerate import Accelerator  # a second that only training needs
    from accelerate.utils import GradientAccumulationPlugin, parse_flag_from_env

    gpu = torch.cuda.is_available() or (launched() == 1 and runtime().device.type == "mps")
    on_cpus = parse_flag_from_env("ACCELERATE_USE_CPU") or not gpu
    once = GradientAccumulationPlugin(num_steps=1)  # settings decide, not a launcher's environment variables
    joined = Accelerator(cpu=on_cpus, mixed_precision="no", dynamo_backend="no", gradient_accumulation_plugin=once)
    if joined.num_processes != launched():
        raise UserError(f"{launched()} processes were launched, but accelerate joins {joined.num_processes} of them")
    return joined


def cpu_has_bf16() -> bool:
    """Does this CPU multiply bf16 numbers itself? Emulating them (AVX-512 alone) is slower than float32."""
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch has no public name for it
    return any(getattr(torch.cpu, name, bool)() for name in asked)


def precise(values: torch.Tensor) -> torch.Tensor:
    """In float64; on the CPU where the device, Apple's GPU, has no such numbers."""
    return (values.cpu() if values.device.type == "mps" else values).double()


class RunningMeans:
    """Sums over images of named values, in float64 and on the device, so that means weigh every image the same."""

    def __init__(self, totals: Tensors | None = None, n: int = 0) -> None:
        self.totals, self.n = totals or {}, n

    def add(self, values: Tensors) -> None:
        """Add one batch: each value is (n,), one number an image."""
        for name, value in values.items():
            self.totals[name] = self.totals.get(name, 0) + precise(value.detach()).sum()
        self.n += len(next(iter(values.values())))

    def reduced(self, accelerator: "Accelerator") -> "RunningMeans":
        """The sums over all processes; every process must ask."""
        n, *totals = accelerator.reduce([torch.tensor(self.n, device=accelerator.device), *self.totals.values()])
        return RunningMeans(dict(zip(self.totals, totals, strict=True)), int(n))

    def means(self, prefix: str) -> Record:
        """The mean of every value; names start with `prefix`."""
        return {f"{prefix}_{name}": (total / self.n).item() for name, total in self.totals.items()}


def my_part(values: Tensors, accelerator: "Accelerator | None") -> Tensors:
    """The rows of each tensor that are for this process; all processes together have every row once."""
    if accelerator is None:
        return values
    with accelerator.split_between_processes(values) as mine:
        return mine


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Tell glibc, where there is one, to keep freed memory: every step asks for the same large tensors again."""
    global _open_blocks
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    _open_blocks += 1
    libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD of malloc.h: larger blocks are the system's own
    libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD: so much may stay unused
    try:
        yield
    finally:
        _open_blocks -= 1
        if not _open_blocks:
            libc.mallopt(-3, 1 << 25)  # the most to which glibc's own rule would let them rise
            libc.mallopt(-1, 1 << 26)
            libc.malloc_trim(0)


def environment() -> dict[str, Any]:
    """What a reader needs to judge a time or repeat a number: versions, device, threads."""
    gpu = {"cuda": torch.cuda.get_device_name, "mps": lambda: "Apple GPU"}.get(runtime().device.type, str)()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__.split("+")[0],
        "device": gpu or f"CPU ({platform.machine()})",
        "threads": torch.get_num_threads(),
        "training_precision": "bf16 products, float32 sums" if runtime().bf16 else "float32",
        **({"processes": launched()} if launched() > 1 else {}),
    }
