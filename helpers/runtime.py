"""Where a run computes: processes, device, number format, memory; and what a reader must know to judge a time.

A run has one process, or as many as `accelerate launch` (or torchrun, or accelerate's notebook_launcher) started: on
CPUs joined by gloo, on GPUs by NCCL, on one machine or many. Every process sees its share of every batch.
"""

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .config import UserError
from .data import ALONE, Share

_OPEN_BLOCKS: list[bool] = []  # of freed_memory_kept
COMPILE_FROM_STEPS = 1500  # compiling costs about a minute, which a short run never earns back


@dataclass(frozen=True)
class Runtime:
    """The one place that decides device, number format and compilation."""

    device: torch.device
    bf16: bool
    compile: bool

    def autocast(self) -> torch.autocast:
        """Products of bf16 numbers in training, where the hardware multiplies them; weights and sums stay float32."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)


def runtime(steps: int = 0) -> Runtime:
    """A GPU where there is one, with torch.compile for runs of many steps; bf16 on a GPU and on a CPU that has it.

    Of many processes each has a device of its own, and none compiles: the sums over processes lie inside the network.
    """
    team = processes()
    device = team.device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    gpu = device.type != "cpu"
    return Runtime(device, gpu or cpu_has_bf16(), gpu and team.share == ALONE and steps >= COMPILE_FROM_STEPS)


class Processes:
    """The processes that train together: this one's share of a batch, its device, and sums over all of them.

    Gradients are averaged here and not by DistributedDataParallel, because a step may have several losses (the sharp
    decoder and its critic) and one process must compute what it always did, bit for bit. One message a step carries
    all gradients; it does not overlap with the backward pass.
    """

    def __init__(self, *, alone: bool = False) -> None:
        self.share, self.device, self.state = ALONE, None, None
        launched = int(os.environ.get("WORLD_SIZE", "1"))
        if not alone and launched > 1:
            from accelerate import PartialState
            from accelerate.utils import parse_flag_from_env

            on_cpus = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available()
            self.state = PartialState(cpu=on_cpus)
            self.share = Share(self.state.process_index, self.state.num_processes)
            if self.share.world != launched:  # or each would train alone and write over the others
                raise UserError(f"{launched} processes were launched, but accelerate joins {self.share.world} of them")
            self.device = self.state.device

    @property
    def main(self) -> bool:
        """Is this the process that prints and writes files?"""
        return self.share.rank == 0

    def counts(self, n: int) -> bool:
        """Does this process's work on a batch of n count? When a small batch is for all, it counts once."""
        return self.main or n >= self.share.world

    def total(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all processes; every process must ask."""
        if self.state is not None:
            torch.distributed.all_reduce(values)
        return values

    def any(self, *flags: bool) -> list[bool]:
        """For each flag: did any process say yes? Every process must ask, and all get the same answers."""
        if self.state is None:
            return list(flags)
        return (self.total(torch.tensor(flags, dtype=torch.float32, device=self.device)) > 0).tolist()

    def average_gradients(self, parameters: list[nn.Parameter]) -> None:
        """Replace the gradient of each parameter by its mean over processes."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.state is None or not gradients:
            return
        mean = self.total(torch.cat([g.flatten() for g in gradients])) / self.share.world
        for gradient, part in zip(gradients, mean.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def wait(self) -> None:
        """Go on when every process has come here."""
        if self.state is not None:
            self.state.wait_for_everyone()

    def main_first(self) -> AbstractContextManager[None]:
        """Inside, the main process goes first: it downloads, the others find."""
        return self.state.main_process_first() if self.state is not None else nullcontext()

    def end(self) -> None:
        """Say goodbye to the other processes, at the end of a program."""
        if self.state is not None:
            self.state.destroy_process_group()


def processes() -> Processes:
    """The processes of this run. Not cached: a notebook's kernel forks its processes after it has asked."""
    return Processes()


class Total(torch.autograd.Function):
    """The sum of a tensor over all processes, and of its gradients on the way back."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        """The sum, in every process; every process must ask."""
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        """A value counts in every process's loss."""
        return Total.forward(context, gradient)


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch norm whose statistics are those of the whole batch, all processes together [Ioffe & Szegedy 2015].

    torch's SyncBatchNorm refuses to run on a CPU. This one runs wherever torch.distributed does, and its gradient
    passes through the sums, so many processes compute what one would, up to rounding.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        values = x.float()
        n = Total.apply(values.new_full((1,), values.numel() / values.shape[1]))
        mean = Total.apply(values.sum((0, 2, 3))) / n
        centred = values - mean[:, None, None]
        variance = Total.apply(centred.square().sum((0, 2, 3))) / n
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * n / (n - 1), self.momentum)
        scale = (self.weight / (variance + self.eps).sqrt())[:, None, None]
        return (centred * scale + self.bias[:, None, None]).to(x.dtype)


def share_batch_norm(model: nn.Module) -> None:
    """Give every batch norm of a model the statistics of all processes; parameters and their names stay."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedBatchNorm


def cpu_has_bf16() -> bool:
    """Does this CPU multiply bf16 numbers itself? Emulating them (AVX-512 alone) is slower than float32."""
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch has no public name for it
    return any(getattr(torch.cpu, name, bool)() for name in asked)


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Tell glibc to keep freed blocks: the steps of a training ask for the same large tensors again and again.

    Otherwise the C library returns each of them to the system, which clears every page anew. Afterwards everything is
    given back, because an evaluation would just hold it. A block inside another one changes nothing, and nothing
    happens where there is no glibc (macOS, Windows, musl).
    """
    try:
        libc = ctypes.CDLL(None)
        set_option, give_back = libc.mallopt, libc.malloc_trim
    except (OSError, AttributeError, TypeError):
        yield
        return

    def keep_below(block: int, free: int) -> None:
        set_option(-3, block)  # M_MMAP_THRESHOLD of malloc.h: larger blocks are the system's own
        set_option(-1, free)  # M_TRIM_THRESHOLD: so much may stay unused

    outermost = not _OPEN_BLOCKS
    _OPEN_BLOCKS.append(True)
    if outermost:
        keep_below(1 << 30, (1 << 31) - 1)
    try:
        yield
    finally:
        _OPEN_BLOCKS.pop()
        if outermost:
            keep_below(1 << 25, 1 << 26)  # the most to which glibc's own rule would let them rise
            give_back(0)


def environment() -> dict[str, Any]:
    """What a reader needs to judge a time or repeat a number: versions, device, threads."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    world = processes().share.world
    return {
        "python": platform.python_version(),
        "torch": torch.__version__.split("+")[0],
        "device": gpu or f"CPU ({platform.machine()})",
        "threads": torch.get_num_threads(),
        "training_precision": "bf16 products, float32 sums" if runtime().bf16 else "float32",
        **({"processes": world} if world > 1 else {}),
    }
