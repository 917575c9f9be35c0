"""How fast training is, what it costs, and what a bigger machine would bring.

The loops of the benchmark alternate, each timing in a process of its own, so that a busy machine slows all of them;
medians are compared. What a size costs is read off straight lines through three sizes. The larger machine is bounded,
not measured: arithmetic, memory traffic and kernel launches each need a time, and no run is faster than the largest.
"""

import dataclasses
import functools
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Annotated, Any, TypeVar

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from typer import Option

from .. import losses
from ..data import Dataset, batches
from ..engine import files, runtime, sealed
from ..run import build_model
from ..settings import NetworkSettings, Profile, Settings, VAESettings, out_dir, profile_settings
from ..sources import arrays, load_data, official
from ..training import Trainer, fit

try:
    from . import pythae_adapter
except ImportError:  # the extra `peers` is not installed
    pythae_adapter = None  # type: ignore[assignment]

STEPS = 12  # steps of one timing
SIZES = {
    "full": {"n_train": (1024, 2048, 4096), "width": (16, 32, 48), "latent_dim": (32, 128, 512)},
    "smoke": {"n_train": (64, 128, 256), "width": (8, 16, 24), "latent_dim": (8, 16, 32)},
}
POWERS = {"n_train": 1, "width": 2, "latent_dim": 1}  # of a size in its cost: a 3x3 convolution has width^2 products
# H100 SXM5, bf16 without sparsity, NVLink in each direction [NVIDIA, H100 Tensor Core GPU datasheet, 2023]; and what
# the host needs to start one kernel: measured figures are 3 to 6 microseconds.
H100 = {
    "bf16_flops": 989e12, "memory_bytes_per_second": 3.35e12,
    "link_bytes_per_second": 450e9, "seconds_per_launch": 4e-6,
}  # fmt: skip
R = TypeVar("R")


def plain_speed(settings: VAESettings) -> float:
    """A tutorial's loop with our network and objective: eager, NCHW, a DataLoader over torchvision's CIFAR10."""
    from torchvision import datasets, transforms

    moves = transforms.RandomCrop(32, padding=settings.translate), transforms.RandomHorizontalFlip()
    transform = transforms.Compose([*moves, transforms.ToTensor()])
    images = datasets.CIFAR10(official.find_official("cifar10"), train=True, transform=transform)
    loader = torch.utils.data.DataLoader(images, settings.batch_size, shuffle=True, drop_last=True)
    model = build_model(settings, len(images.classes)).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=settings.lr)
    for number, (x, labels) in enumerate(islice(loader, STEPS + 1)):
        if number == 1:
            started = time.perf_counter()
        terms = losses.loss_terms(model(x), x, labels, model.log_sigma, label_smoothing=settings.label_smoothing)
        optimiser.zero_grad()
        losses.total_objective(terms, settings.weights).backward()
        optimiser.step()
    return STEPS * settings.batch_size / (time.perf_counter() - started)


def pythae_speed(settings: VAESettings) -> float:
    """pythae's trainer, loss and optimiser on our encoder and decoder, without augmentation and classifier terms."""
    data, n = load_data("cifar10"), settings.batch_size
    model = pythae_adapter.our_networks(build_model(settings, len(data.class_names)))
    return pythae_adapter.run_trainer(model, data.train.head((STEPS + 2) * n), lambda seen, _: seen >= STEPS * n, n)


def our_speed(settings: Settings, data: Dataset | None = None, steps: int = STEPS) -> float:
    """Our `fit`, without validation, in the second epoch of a long run, where an epoch has so many steps."""
    data = data or load_data(settings.dataset)
    settings = settings.replace(epochs=1000, n_train=steps * settings.batch_size, n_eval=settings.batch_size)
    with runtime.freed_memory_kept():  # over both: an epoch of the real training has more steps to fill its memory in
        records = list(islice(fit(build_model(settings, len(data.class_names)), data, settings), 2))
    return records[1]["images_per_second"]


# Images per second of training, without a warm-up, by loop; pythae's needs the extra `peers`.
LOOPS = {"plain": plain_speed} | ({"pythae": pythae_speed} if pythae_adapter else {}) | {"ours": our_speed}


def alone(function: Callable[..., R], *arguments: object) -> R:
    """The result of `function` in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def training_flop(settings: NetworkSettings, n_classes: int) -> float:
    """Floating point operations of one forward and backward pass, per image (a multiply-add counts as two)."""
    model, x, labels = build_model(settings, n_classes), torch.rand(8, 3, 32, 32), torch.zeros(8, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        losses.total_objective(losses.loss_terms(model(x), x, labels, model.log_sigma), settings.weights).backward()
    return counter.get_total_flops() / len(x)


def convolution_peak(n: int = 128) -> float:
    """The best FLOP/s of a 3x3 convolution, forward and backward, channels last, float32, over some widths."""
    best = 0.0
    for c in (64, 128, 256):
        layer = nn.Conv2d(c, c, 3, padding=1).to(memory_format=torch.channels_last)
        x = torch.randn(n, c, 8, 8).contiguous(memory_format=torch.channels_last).requires_grad_()
        for _ in range(5):
            started = time.perf_counter()
            layer(x).sum().backward()
            best = max(best, 3 * 2 * n * c * c * 9 * 64 / (time.perf_counter() - started))
    return best


def benchmark(rounds: Annotated[int, Option(min=1, help="timings of each loop")] = 3) -> None:
    """Measure training throughput against other loops on the same network."""
    settings = VAESettings()
    timings: dict[str, list[float]] = {name: [] for name in LOOPS}
    peaks: list[float] = []
    for number in range(rounds):
        for name, loop in LOOPS.items():
            timings[name].append(alone(loop, settings))
        peaks.append(alone(convolution_peak))
        speeds = ", ".join(f"{name} {values[-1]:.0f}" for name, values in timings.items())
        print(f"round {number + 1}: {speeds} images/s", flush=True)
    ours, peak, flop = median(timings["ours"]), median(peaks), training_flop(settings, 10)
    ratios = {name: ours / median(values) for name, values in timings.items() if name != "ours"}
    content = {
        **timings, "ratios": ratios, "mflop_per_image": flop / 1e6, "peak_gflops": peak / 1e9,
        "share_of_peak": flop * ours / peak, "settings": settings.as_dict(), "environment": runtime.environment(),
    }  # fmt: skip
    sealed.write_json(out_dir(settings) / "benchmark.json", content)
    comparison = ", ".join(f"ours / {name} = {ratio:.2f}" for name, ratio in ratios.items())
    print(f"{comparison} (medians of {rounds}); {flop * ours / peak:.0%} of the peak of {peak / 1e9:.0f} GFLOP/s")


def epoch_cost(settings: VAESettings) -> dict[str, float]:
    """Seconds of an epoch without validation, and the peak memory (bytes) of this process with all of the data."""
    seconds = settings.n_train / our_speed(settings, steps=settings.n_train // settings.batch_size)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    sizes = f"{settings.n_train} images, width {settings.width}, {settings.latent_dim} latents"
    print(f"{sizes}: {seconds:.2f} s, {peak / 2**20:.0f} MiB", flush=True)
    return {"seconds": seconds, "bytes": peak}


measured = functools.cache(functools.partial(alone, epoch_cost))  # each size once, in a process of its own


def reading_speeds(name: str, batch_size: int) -> dict[str, float]:
    """Images per second of reading shuffled batches, from memory and from arrays just written (the system's cache)."""
    speeds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        arrays.store_arrays(name, Path(folder))
        for label, place in {"memory": name, "mapped": f"array:{folder}"}.items():
            train, started = load_data(place).train, time.perf_counter()
            seen = sum(len(x) for x, _ in batches(train, batch_size, order=torch.Generator().manual_seed(0)))
            speeds[label] = seen / (time.perf_counter() - started)
    return speeds


def fitted(name: str, points: list[dict[str, float]], quantity: str) -> dict[str, float]:
    """The line quantity = base + slope * x through points of another size `name`, and its largest relative error."""
    x = np.array([float(point["size"]) ** POWERS[name] for point in points])
    y = np.array([point[quantity] for point in points])
    slope, base = np.polyfit(x, y, 1)
    return {"base": base, "slope": slope, "largest_error": np.abs((base + slope * x) / y - 1).max()}


class TrafficCounter(TorchDispatchMode):
    """Counts what a GPU would be asked for: kernels, and bytes that each reads and writes. Views are free."""

    kernels, bytes = 0, 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: tuple = (), named: dict | None = None) -> Any:
        result = function(*arguments, **(named or {}))
        if not function.is_view and torch.Tag.data_dependent_output not in function.tags:
            self.kernels += 1
            leaves = torch.utils._pytree.tree_leaves((arguments, named, result))
            self.bytes += sum(leaf.nbytes for leaf in leaves if isinstance(leaf, torch.Tensor))
        return result


def traffic(settings: VAESettings, data: Dataset) -> dict[str, float]:
    """Kernels and bytes of one training step in float32, nothing fused, counted on the CPU."""
    settings = settings.replace(n_train=settings.batch_size, n_eval=settings.batch_size, epochs=1)
    trainer = Trainer(build_model(settings, len(data.class_names)), data, settings)
    trainer.runtime = dataclasses.replace(trainer.runtime, bf16=False)  # or every cast would count
    batch = trainer.draw(torch.arange(settings.batch_size))
    trainer.step(batch)  # makes the optimisers' state
    with TrafficCounter() as counter:
        trainer.step(batch)
    return {"kernels": counter.kernels, "bytes": counter.bytes, "images": settings.batch_size}


def bounds(flop: float, parameters: int, step: dict[str, float], batch: int, gpus: int) -> dict[str, Any]:
    """The least time of a step of `batch` images on H100s; `flop` is per image, `step` what `traffic` counts."""
    seconds = {  # bf16 halves the bytes of traffic; each of g GPUs sends 2 (g - 1) / g of the gradients, in float32
        "arithmetic": flop * batch / gpus / H100["bf16_flops"],
        "memory traffic": step["bytes"] / step["images"] * batch / 2 / gpus / H100["memory_bytes_per_second"],
        "kernel launches": step["kernels"] * H100["seconds_per_launch"],
        "gradients between GPUs": 2 * (gpus - 1) / gpus * 4 * parameters / H100["link_bytes_per_second"],
    }
    bound_by = max(seconds, key=seconds.__getitem__)
    return {
        "gpus": gpus, "batch_size": batch, "seconds": seconds, "bound_by": bound_by,
        "images_per_second": batch / seconds[bound_by], "share_of_peak": seconds["arithmetic"] / seconds[bound_by],
    }  # fmt: skip


def cost(
    profile: Annotated[Profile, Option(help="smoke: tiny sizes, for tests")] = "full",
    dataset: Annotated[str, Option(help="as for load_data; see the README")] = "cifar10",
    out: Annotated[str, Option(help="output folder (default: the one of the data set)")] = "",
) -> None:
    """Measure and extrapolate what training costs."""
    started, data, sizes = time.time(), load_data(dataset), SIZES[profile]
    published = profile_settings(profile, "vae", data.name)
    assert isinstance(published, VAESettings)
    tiny = {"batch_size": 32, "width": 16, "latent_dim": 16} if profile == "smoke" else {}
    base = published.replace(n_train=sizes["n_train"][1], n_eval=published.batch_size, epochs=1000, **tiny)
    points = {
        name: [{"size": value} | measured(base.replace(**{name: value})) for value in values]
        for name, values in sizes.items()
    }
    flop, step = training_flop(base, len(data.class_names)), traffic(base, data)
    parameters = sum(p.numel() for p in build_model(base, len(data.class_names)).parameters())
    speed = base.n_train / points["n_train"][1]["seconds"]
    batches_of = (base.batch_size, 32 * base.batch_size)  # 8 x 256 images would leave each GPU as idle as one with 256
    content = {
        "points": points,
        "fits": {name: {q: fitted(name, points[name], q) for q in ("seconds", "bytes")} for name in points},
        "mflop_per_image": flop / 1e6, "parameters": parameters, "step": step,
        "here": {"images_per_second": speed, "gflops": flop * speed / 1e9,
                 "float32_peak_gflops": alone(convolution_peak) / 1e9},
        "h100": H100, "reading": alone(reading_speeds, data.name, base.batch_size),
        "extrapolated": [bounds(flop, parameters, step, batch, gpus) for batch in batches_of for gpus in (1, 8)],
        "images_of_a_whole_training": published.epochs * len(data.limited(published.n_train, 0).train),
        "settings": base.as_dict(), "environment": runtime.environment(), "total_seconds": time.time() - started,
    }  # fmt: skip
    sealed.write_json((out_dir(base, out) if out else files.home(data.name)) / "cost.json", content)
    for row in content["extrapolated"]:
        print(f"{row['gpus']} H100, batches of {row['batch_size']}: at most {row['images_per_second']:,.0f} images/s, "
              f"bound by {row['bound_by']}, {row['share_of_peak']:.1%} of the peak")  # fmt: skip
    print(f"{content['total_seconds']:.0f} s in all")
