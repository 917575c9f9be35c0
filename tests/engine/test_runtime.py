"""Devices, processes and memory."""

import platform
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from helpers import axes, evaluate, pixelcoder
from helpers.data import Split
from helpers.engine import runtime as module
from helpers.engine.errors import UserError
from helpers.engine.files import ROOT
from helpers.engine.runtime import RunningMeans, accelerator, environment, runtime
from helpers.measure import questions
from helpers.models import Posterior, Reading

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


@pytest.mark.parametrize(
    ("cuda", "mps", "asked", "chosen"),
    [
        (False, False, "", "cpu"), (False, False, "mps", "cpu"), (False, True, "", "cpu"), (False, True, "mps", "mps"),
        (True, True, "mps", "cuda"), (True, False, "", "cuda"),
    ],
)  # fmt: skip
def test_a_cuda_gpu_is_chosen_before_apples_and_that_only_when_asked_for(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, asked: str, chosen: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setenv("DEVICE", asked)
    here = runtime()
    assert here.device.type == chosen and here.bf16 == (chosen == "cuda" or (chosen == "cpu" and module.cpu_has_bf16()))
    assert here.layout == (torch.contiguous_format if chosen == "mps" else torch.channels_last)
    assert environment()["device"] == {"cuda": "a GPU", "mps": "Apple GPU"}.get(chosen, f"CPU ({platform.machine()})")


class WithoutFloat64(TorchDispatchMode):
    """What Apple's GPU does with float64; its other numbers are only shapes here."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = func(*args, **(kwargs or {}))
        for value in tree_leaves(made):
            if isinstance(value, torch.Tensor) and value.device.type == "mps" and value.dtype == torch.float64:
                raise TypeError(f"{func} makes float64 on a device that has none")
        return made


class Stand:
    """Has what a VAE has; convolutions of a device that is not there cannot be asked for, products of matrices can."""

    latent_dim, eval = 8, lambda self: self  # noqa: E731

    def __init__(self, device: torch.device) -> None:
        self.device, self.log_sigma, self.weight = (
            device,
            torch.empty((), device=device),
            torch.empty(8, 3072, device=device),
        )

    def head(self, h: Tensor) -> Tensor:
        return h

    code_head = head

    def code(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T

    def read(self, x: Tensor) -> Reading:
        return Reading(self.code(x), self.code(x), self.encode(x))

    def encode(self, x: Tensor) -> Posterior:
        return Posterior(self.code(x), self.code(x))

    def decode(self, z: Tensor) -> Tensor:
        return (z @ self.weight).view(-1, 3, 32, 32)


def test_no_float64_is_made_on_a_device_that_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    class Anywhere(torch.Generator):  # a device that is not there has none of its own
        def __new__(cls, device: object = "cpu") -> "Anywhere":
            return super().__new__(cls, "cpu")

    def moved(values: Tensor, to: object, *more: object) -> Tensor:
        place = to.device if isinstance(to, Tensor) else to
        if not str(place).startswith("mps"):
            return known(values, to, *more)
        return torch.empty(values.shape, device="mps", dtype=to.dtype if isinstance(to, Tensor) else values.dtype)

    def item(values: Tensor, index: object) -> Tensor:
        if values.device.type != "mps":
            return known_item(values, index)
        shape = known_item(torch.empty(values.shape, device="meta"), index).shape
        return torch.empty(shape, device="mps", dtype=values.dtype)

    known, known_item, generator = Tensor.to, Tensor.__getitem__, torch.Generator()
    monkeypatch.setattr(Tensor, "__getitem__", item)
    monkeypatch.setattr(torch, "Generator", Anywhere)
    monkeypatch.setattr(Tensor, "to", moved)
    monkeypatch.setattr(questions, "file_bits", lambda images, *_, **__: torch.ones(len(images)))
    monkeypatch.setattr(evaluate.metrics, "pixel_density", lambda x, y: torch.zeros(64, 64, dtype=torch.int64))
    with FakeTensorMode(allow_non_fake_inputs=True), WithoutFloat64():
        device = torch.empty(1, device="mps").device
        vae, codes, sums = Stand(device), torch.empty(4, 8, device=device), RunningMeans()
        with pytest.raises(TypeError, match="float64"):
            codes.double()
        sums.add({"rate": codes.sum(1)})
        assert sums.totals["rate"].dtype == torch.float64
        assert pixelcoder.step_feature(codes[:, 0]).device == device
        split = Split(torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
        columns, _ = evaluate.collect(split, lambda x: evaluate.model_columns(vae, x, generator), device, int)
        assert columns["bpd"].dtype == columns["pixel_xy"].dtype == torch.float64
        assert questions.describe(vae, split.images)["bpd"].dtype == torch.float64
        assert questions.log_weights(vae, split.images, 2).shape == (4, 2)
        assert axes._metric(vae, codes).dtype == torch.float64
        with pytest.raises(DataDependentOutputException):  # it asks for a number, after it has seen all images
            axes.fit_code_model(vae, split)
