"""What training costs: seconds and memory against images, width and latent size, and what a bigger machine would bring.

    python -m helpers.runs.cost                  writes outs/exercise_03/cost.json, in under four minutes on two cores

Each size is trained for a few steps in a process of its own; straight lines are fitted through three sizes each. The
larger machine is not measured but bounded: its arithmetic, its memory traffic and its kernel launches each need a
time, no run can be faster than the largest of them, and a real one is slower.

Source of the figures of the H100 (SXM5): NVIDIA, H100 Tensor Core GPU datasheet, 2023, without sparsity.
"""

import argparse
import dataclasses
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ..config import Settings, home, out_dir, profile_settings, program, write_whole
from ..data import Dataset, batches, load_data
from ..folders import store
from ..models import build_model
from ..runtime import environment, freed_memory_kept
from ..training import Trainer
from .benchmark import alone, convolution_peak, training_flop

BASE_IMAGES = 2048
SIZES: dict[str, tuple[int, ...]] = {
    "n_train": (1024, BASE_IMAGES, 4096),
    "width": (16, 32, 48),
    "latent_dim": (32, 128, 512),
}
# What each size enters the straight line as: a 3x3 convolution has width^2 products.
ENTERS: dict[str, Callable[[float], float]] = {"n_train": float, "width": lambda w: w * w, "latent_dim": float}
H100 = {
    "bf16_flops": 989e12,  # dense
    "memory_bytes_per_second": 3.35e12,
    "link_bytes_per_second": 450e9,  # NVLink, each direction
    "memory_bytes": 80e9,
    "seconds_per_launch": 4e-6,  # what the host needs to start one kernel; measured figures are 3 to 6 microseconds
}
GPUS = (1, 8)


def measure(settings: Settings) -> dict[str, float]:
    """Seconds of an epoch without validation, after one to warm up, and the peak memory of this process in bytes."""
    data = load_data(settings.dataset)
    trainer = Trainer(build_model(settings, len(data.class_names)), data, settings)
    with freed_memory_kept():
        trainer.epoch()
        speed = trainer.epoch()["images_per_second"]
    return {"seconds": settings.n_train / speed, "bytes": peak_memory()}


def reading_speed(place: str, batch_size: int) -> float:
    """Images per second of reading shuffled training batches, without any training."""
    train = load_data(place).train
    started = time.perf_counter()
    for _ in batches(train, batch_size, order=torch.Generator().manual_seed(0)):
        pass
    return len(train) / (time.perf_counter() - started)


def reading(name: str, batch_size: int) -> dict[str, float]:
    """That speed from memory, and from arrays mapped from disk; just written, so they lie in the system's cache."""
    with tempfile.TemporaryDirectory() as folder:
        store(name, Path(folder))
        places = {"memory": name, "mapped": f"array:{folder}"}
        return {label: alone(reading_speed, place, batch_size) for label, place in places.items()}


def peak_memory() -> int:
    """The most memory that this process has held, in bytes; Python, torch and the whole data set are in it."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def fitted(sizes: list[float], values: list[float], enters: Callable[[float], float]) -> dict[str, float]:
    """The line value = base + slope * enters(size) through the points, and its largest relative error there."""
    x = np.array([enters(size) for size in sizes])
    design = np.stack([np.ones_like(x), x], 1)
    (base, slope), *_ = np.linalg.lstsq(design, np.array(values), rcond=None)
    error = np.abs(design @ (base, slope) / np.array(values) - 1).max()
    return {"base": float(base), "slope": float(slope), "largest_error": float(error)}


class Ledger(TorchDispatchMode):
    """Counts what a GPU would be asked for: kernels, and bytes that each reads and writes. Views are free."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels, self.bytes = 0, 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: tuple = (), named: dict | None = None) -> Any:
        result = function(*arguments, **(named or {}))
        if not function.is_view and torch.Tag.data_dependent_output not in function.tags:
            self.kernels += 1
            leaves = torch.utils._pytree.tree_leaves((arguments, named or {}, result))
            self.bytes += sum(leaf.nbytes for leaf in leaves if isinstance(leaf, torch.Tensor))
        return result


def traffic(settings: Settings, data: Dataset) -> dict[str, float]:
    """Kernels and bytes of one training step in float32, nothing fused, counted on the CPU."""
    one = dataclasses.replace(settings, n_train=settings.batch_size, n_eval=settings.batch_size, epochs=1)
    trainer = Trainer(build_model(one, len(data.class_names)), data, one)
    trainer.runtime = dataclasses.replace(trainer.runtime, bf16=False)  # or every cast would count
    x, labels = data.train.images[: one.batch_size].float() / 255, data.train.labels[: one.batch_size]
    x = x.contiguous(memory_format=torch.channels_last)
    trainer._step(x, labels, 0)  # makes the optimisers' state
    with Ledger() as ledger:
        trainer._step(x, labels, 0)
    return {"kernels": ledger.kernels, "bytes": ledger.bytes}


def bounds(flop: float, parameters: int, step: dict[str, float], batch: int, gpus: int) -> dict[str, Any]:
    """The least seconds of one step of `batch` images on so many H100s, by what needs them, and what bounds it.

    `flop` is per image, `step` what `traffic` counts for the whole batch; bf16 halves its bytes. Eight GPUs also add
    up their gradients: each sends and receives 2 (g - 1) / g of them in float32.
    """
    share = batch / gpus
    seconds = {
        "arithmetic": flop * share / H100["bf16_flops"],
        "memory traffic": step["bytes"] / 2 / gpus / H100["memory_bytes_per_second"],
        "kernel launches": step["kernels"] * H100["seconds_per_launch"],
        "gradients between GPUs": 2 * (gpus - 1) / gpus * 4 * parameters / H100["link_bytes_per_second"],
    }
    least = max(seconds.values())
    return {
        "gpus": gpus, "batch_size": batch, "seconds": seconds, "bound_by": max(seconds, key=seconds.get),
        "images_per_second": batch / least, "share_of_peak": seconds["arithmetic"] / least,
    }  # fmt: skip


def model_of(base: Settings, sizes: dict[str, tuple[int, ...]], report: Callable[[str], None]) -> dict[str, Any]:
    """Measure every size once, alone, and fit."""
    points: dict[str, list[dict[str, float]]] = {}
    known: dict[Settings, dict[str, float]] = {}
    for name, values in sizes.items():
        points[name] = []
        for value in values:
            settings = dataclasses.replace(base, **{name: value})
            if settings not in known:
                known[settings] = alone(measure, settings)
            points[name].append({"size": value} | known[settings])
            report(f"{name} = {value}: {known[settings]['seconds']:.2f} s, {known[settings]['bytes'] / 2**20:.0f} MiB")
    fits = {
        name: {
            what: fitted([p["size"] for p in found], [p[what] for p in found], ENTERS[name])
            for what in ("seconds", "bytes")
        }
        for name, found in points.items()
    }
    return {"points": points, "fits": fits}


def main(argv: list[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="helpers.runs.cost", description="Measure and extrapolate training's cost.")
    parser.add_argument("--profile", default="full", help="smoke: tiny sizes, for tests")
    parser.add_argument("--dataset", default="cifar10", help="as for load_data; see the README")
    parser.add_argument("--out", default="", help="output folder (default: the one of the data set)")
    options = parser.parse_args(argv)
    started = time.perf_counter()
    data = load_data(options.dataset)
    published = profile_settings(options.profile, "vae", data.name)
    tiny = options.profile == "smoke"
    sizes = {"n_train": (64, 128, 256), "width": (8, 16, 24), "latent_dim": (8, 16, 32)} if tiny else SIZES
    images = sizes["n_train"][1]
    base = dataclasses.replace(
        published, n_train=images, n_eval=published.batch_size, epochs=1000,
        **({"batch_size": 32, "width": 16, "latent_dim": 16} if tiny else {}),
    )  # fmt: skip
    found = model_of(base, sizes, lambda line: print(line, flush=True))
    flop, step = training_flop(base, len(data.class_names)), traffic(base, data)
    parameters = sum(p.numel() for p in build_model(base, len(data.class_names)).parameters())
    speed = images / next(p["seconds"] for p in found["points"]["n_train"] if p["size"] == images)
    peak = alone(convolution_peak)
    # The batch grows with the GPUs: 8 x 256 images would leave each of them as idle as one with 256.
    by_batch = {batch: {k: v * batch / base.batch_size if k == "bytes" else v for k, v in step.items()}
               for batch in (base.batch_size, 32 * base.batch_size)}  # fmt: skip
    content = {
        **found, "mflop_per_image": flop / 1e6, "parameters": parameters, "step": step,
        "here": {"images_per_second": speed, "gflops": flop * speed / 1e9, "float32_peak_gflops": peak / 1e9},
        "h100": H100, "reading": reading(data.name, base.batch_size),
        "extrapolated": [bounds(flop, parameters, step, b, gpus) for b, step in by_batch.items() for gpus in GPUS],
        "images_of_a_whole_training": published.epochs * len(data.limited(published.n_train, 0).train),
        "settings": base.as_dict(), "environment": environment(), "total_seconds": time.perf_counter() - started,
    }  # fmt: skip
    folder = out_dir(base, options.out) if options.out else home(data.name)
    write_whole(folder / "cost.json", json.dumps(content, indent=1) + "\n")
    for row in content["extrapolated"]:
        print(f"{row['gpus']} H100, batches of {row['batch_size']}: at most {row['images_per_second']:,.0f} images/s, "
              f"bound by {row['bound_by']}, {row['share_of_peak']:.1%} of the peak")  # fmt: skip
    print(f"{content['total_seconds']:.0f} s in all")


if __name__ == "__main__":
    program(main)
