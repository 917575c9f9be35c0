"""How fast training is, against the plain way.

The loops of the benchmark alternate, each timing in a process of its own, so that a busy machine slows all of them;
medians are compared.
"""

import multiprocessing
import time
from collections.abc import Callable
from itertools import islice
from statistics import median
from typing import Annotated, Any

import torch
from typer import Option

from .. import losses
from ..data import Dataset
from ..engine import runtime, sealed
from ..run import build_model
from ..settings import Settings, VAESettings, out_dir
from ..sources import load_data, official
from ..training import fit

STEPS = 12  # steps of one timing


def plain_speed(settings: VAESettings) -> float:
    """A tutorial's loop with our network and objective: NCHW, float32, a DataLoader over torchvision's CIFAR10."""
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


def our_speed(settings: Settings, data: Dataset | None = None, steps: int = STEPS) -> float:
    """Our `fit`, without validation, in the second epoch of a long run, where an epoch has so many steps."""
    data = data or load_data(settings.dataset)
    settings = settings.replace(epochs=1000, n_train=steps * settings.batch_size, n_eval=settings.batch_size)
    with runtime.freed_memory_kept():  # over both: an epoch of the real training has more steps to fill its memory in
        records = list(islice(fit(build_model(settings, len(data.class_names)), data, settings), 2))
    return records[1]["images_per_second"]


LOOPS = {"plain": plain_speed, "ours": our_speed}  # images per second, after a first step (plain) or epoch (ours)


def alone(function: Callable[..., Any], *arguments: object) -> Any:
    """The result of `function` in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def benchmark(rounds: Annotated[int, Option(min=1, help="timings of each loop")] = 3) -> None:
    """Measure training throughput against the plain way with the same network."""
    settings = VAESettings()
    timings: dict[str, list[float]] = {name: [] for name in LOOPS}
    for number in range(rounds):
        for name, loop in LOOPS.items():
            timings[name].append(alone(loop, settings))
        speeds = ", ".join(f"{name} {values[-1]:.0f}" for name, values in timings.items())
        print(f"round {number + 1}: {speeds} images/s", flush=True)
    ratio = median(timings["ours"]) / median(timings["plain"])
    content = timings | {"ratio": ratio, "settings": settings.as_dict(), "environment": runtime.environment()}
    sealed.write_json(out_dir(settings) / "benchmark.json", content)
    print(f"ours / plain = {ratio:.2f} (medians of {rounds})")
