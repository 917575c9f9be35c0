"""How fast training is: images per second of our loop and of the same network trained the plain way.

    python -m helpers.runs.benchmark [--rounds 3]          writes outs/exercise_03/benchmark.json

*Plain* is what a tutorial does: eager mode, NCHW, a DataLoader over torchvision's CIFAR10 with ToTensor and flips.
*pythae* is that library's trainer on our networks (extra `peers`; left out where it is not installed); it does less: no
augmentation, no classifier terms, so no gradient for the classifier path. *Ours* is `helpers.training.Trainer` as
`make train` uses it. They alternate, so that a busy machine hurts all; each timing has a process of its own, so that
none profits from another's memory settings; medians are compared. The share of the peak is the arithmetic of the
network against the fastest 3x3 convolution here.
"""

import argparse
import dataclasses
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from itertools import islice
from typing import Any

import torch
from torch import nn

from ..config import Settings, UserError, out_dir, profile_settings, program, write_whole
from ..data import find_cifar10, load_data
from ..losses import loss_terms, total_objective
from ..models import build_model
from ..runtime import environment, freed_memory_kept
from ..training import Trainer

STEPS = 12  # steps of one timing


def plain_images_per_second(settings: Settings) -> float:
    """The tutorial's loop on the same network, batch size and objective, after a warm-up step."""
    from torchvision import datasets, transforms

    steps = [transforms.RandomCrop(32, padding=settings.translate), transforms.RandomHorizontalFlip()]
    images = datasets.CIFAR10(find_cifar10(), train=True, transform=transforms.Compose([*steps, transforms.ToTensor()]))
    loader = torch.utils.data.DataLoader(images, settings.batch_size, shuffle=True, drop_last=True)
    model = build_model(settings, len(images.classes)).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=settings.lr)
    started = 0.0
    for number, (x, labels) in enumerate(islice(loader, STEPS + 1)):
        if number == 1:
            started = time.perf_counter()
        terms = loss_terms(model(x), x, labels, model.log_sigma, label_smoothing=settings.label_smoothing)
        loss = total_objective(terms, class_weight=settings.class_weight, code_weight=settings.code_weight)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return STEPS * settings.batch_size / (time.perf_counter() - started)


def pythae_images_per_second(settings: Settings) -> float | None:
    """pythae's trainer on our encoder and decoder, with its own loss and optimiser; None where it is not installed."""
    try:
        from .pythae_adapter import our_networks, run_trainer
    except ImportError:
        return None
    data, n = load_data("cifar10"), settings.batch_size
    model = our_networks(build_model(settings, len(data.class_names)))
    return run_trainer(model, data.train.head((STEPS + 2) * n), lambda images, _: images >= STEPS * n, n)


def our_images_per_second(settings: Settings) -> float:
    """Our loop, an epoch of STEPS steps after one to warm up (and to compile, where it would)."""
    data = load_data("cifar10")
    short = dataclasses.replace(settings, n_train=STEPS * settings.batch_size, n_eval=settings.batch_size, epochs=1000)
    trainer = Trainer(build_model(short, len(data.class_names)), data, short)
    with freed_memory_kept():  # over both: an epoch of the real training has more steps to fill its memory in
        trainer.epoch()
        return trainer.epoch()["images_per_second"]


LOOPS = {"plain": plain_images_per_second, "pythae": pythae_images_per_second, "ours": our_images_per_second}


def alone(work: Callable[..., Any], *arguments: Any) -> Any:
    """The result of `work` in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def training_flop(settings: Settings, n_classes: int) -> float:
    """Floating point operations of one forward and backward pass, per image (a multiply-add counts as two)."""
    from torch.utils.flop_counter import FlopCounterMode

    model, x = build_model(settings, n_classes), torch.rand(8, 3, 32, 32)
    counter = FlopCounterMode(display=False)
    with counter:
        output = model(x)
        labels = torch.zeros(8, dtype=torch.long)
        terms = loss_terms(output, x, labels, getattr(model, "log_sigma", None))
        total_objective(terms, class_weight=1.0, code_weight=1.0).backward()
    return counter.get_total_flops() / len(x)


def convolution_peak(channels: tuple[int, ...] = (64, 128, 256), n: int = 128) -> float:
    """The best FLOP/s of a 3x3 convolution, forward and backward, channels last, float32, over some shapes."""
    best = 0.0
    for c in channels:
        layer = nn.Conv2d(c, c, 3, padding=1).to(memory_format=torch.channels_last)
        x = torch.randn(n, c, 8, 8).contiguous(memory_format=torch.channels_last).requires_grad_()
        for _ in range(5):
            started = time.perf_counter()
            layer(x).sum().backward()
            best = max(best, 3 * 2 * n * c * c * 9 * 64 / (time.perf_counter() - started))
    return best


def main(argv: list[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="helpers.runs.benchmark", description="Measure training throughput.")
    parser.add_argument("--rounds", type=int, default=3, help="timings of each loop")
    options = parser.parse_args(argv)
    if options.rounds < 1:
        raise UserError(f"--rounds {options.rounds} is too small; the least is 1")
    settings, classes = profile_settings("full"), len(load_data("cifar10").class_names)
    timings: dict[str, list[float]] = {name: [] for name in LOOPS}
    peaks: list[float] = []
    for number in range(options.rounds):
        for name, loop in LOOPS.items():
            if (speed := alone(loop, settings)) is not None:
                timings[name].append(speed)
        peaks.append(alone(convolution_peak))
        shown = ", ".join(f"{name} {values[-1]:.0f}" for name, values in timings.items() if values)
        print(f"round {number + 1}: {shown} images/s", flush=True)
    medians = {name: statistics.median(values) for name, values in timings.items() if values}
    flop, peak = training_flop(settings, classes), statistics.median(peaks)
    found = {
        **timings, "ratios": {name: medians["ours"] / value for name, value in medians.items() if name != "ours"},
        "mflop_per_image": flop / 1e6, "peak_gflops": peak / 1e9, "share_of_peak": flop * medians["ours"] / peak,
        "settings": settings.as_dict(), "environment": environment(),
    }  # fmt: skip
    write_whole(out_dir(settings) / "benchmark.json", json.dumps(found, indent=1) + "\n")
    ratios = ", ".join(f"ours / {name} = {ratio:.2f}" for name, ratio in found["ratios"].items())
    print(f"{ratios} (medians of {options.rounds}); {found['share_of_peak']:.0%} of the convolution peak of "
          f"{found['peak_gflops']:.0f} GFLOP/s")  # fmt: skip


if __name__ == "__main__":
    program(main)
