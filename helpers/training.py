"""`fit()`: a generator of one record per epoch. Plots, prints and notebooks are the caller's.

`Trainer` is the state of a run between two epochs, `train` and `load_or_train` put a run into files.
"""

import math
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .config import Settings, UserError
from .data import Dataset, Split, augment, batches
from .losses import Terms, loss_terms, total_objective
from .models import build_model
from .optim import Muon
from .runtime import environment, runtime
from .storage import (
    History,
    Record,
    history_path,
    load_history,
    load_model,
    load_state,
    read_tensors,
    save_run,
    weights_path,
    within,
    write_tensors,
)


def one_cycle(step: int, steps: int, peak: float, warmup: float = 0.15) -> float:
    """The learning rate of a step: a linear rise over the first `warmup` of the run, then a cosine to zero."""
    done = (step + 1) / steps
    if done < warmup:
        return peak * done / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


class Sums:
    """Sums over images of named values, in float64 and on the device, so that means weigh every image the same."""

    def __init__(self) -> None:
        self.totals: dict[str, Tensor] = {}
        self.n = 0

    def add(self, values: dict[str, Tensor]) -> None:
        """Add one batch: each value is (n,), one number an image."""
        for name, value in values.items():
            self.totals[name] = self.totals.get(name, 0) + value.detach().double().sum()
        self.n += len(next(iter(values.values())))

    def means(self, prefix: str) -> Record:
        """The mean of every value; names start with `prefix`."""
        return {f"{prefix}_{name}": (total / self.n).item() for name, total in self.totals.items()}


def named_terms(terms: Terms, labels: Tensor) -> dict[str, Tensor]:
    """What a record keeps of one batch, each (n,): four losses in nats per image, two answers that are 0 or 1."""
    answers = {"accuracy": terms.logits, "code_accuracy": terms.code_logits}
    nothing = torch.zeros_like(terms.cross_entropy)
    hits = {name: nothing if a is None else (a.argmax(1) == labels).float() for name, a in answers.items()}
    losses = {"cross_entropy": terms.cross_entropy, "code_cross_entropy": terms.code_cross_entropy}
    return {**terms.elbo._asdict(), **losses, **hits}


@torch.no_grad()
def validate(model: nn.Module, split: Split, seed: int = 0, batch_size: int = 500) -> Record:
    """Means over ALL images of a split, one seeded sample of z for each; names start with "validation_"."""
    device = next(model.parameters()).device
    noise = torch.Generator(device).manual_seed(seed)
    sums = Sums()
    model.eval()
    for x, labels in batches(split, batch_size, device=device):
        eps = torch.randn(len(x), getattr(model, "latent_dim", 0), generator=noise, device=device)
        sums.add(named_terms(loss_terms(model(x, eps), x, labels, getattr(model, "log_sigma", None)), labels))
    return sums.means("validation")


class Trainer:
    """The state of a run between two epochs: model, optimiser, generators and the records so far."""

    def __init__(self, model: nn.Module, data: Dataset, settings: Settings) -> None:
        self.data = data.limited(settings.n_train, settings.n_eval)
        self.settings = settings
        self.steps_per_epoch = math.ceil(len(self.data.train) / settings.batch_size)
        self.steps = settings.epochs * self.steps_per_epoch
        self.runtime = runtime(self.steps)
        self.device = self.runtime.device
        self.model = model.to(self.device, memory_format=torch.channels_last)
        self.optimisers = self._optimisers()
        # One generator per use: drawing more of one thing never changes another.
        seeds = {name: settings.seed * 10 + i for i, name in enumerate(("order", "augment"), 1)}
        self.generators = {name: torch.Generator().manual_seed(seed) for name, seed in seeds.items()}
        self.generators["posterior"] = torch.Generator(self.device).manual_seed(settings.seed * 10 + 3)
        self.records: list[Record] = []
        self.seconds = 0.0
        self._fast = torch.compile(self._objective, dynamic=False) if self.runtime.compile else self._objective

    def _optimisers(self) -> list[torch.optim.Optimizer]:
        """AdamW, and Muon for inner layers when it is asked for; biases, norms and sigma are not decayed."""
        s = self.settings
        trained = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        # Muon's even update suits maps between many features; the heads and tiny first layers keep AdamW.
        inner = [p for name, p in trained if p.ndim > 1 and min(p.flatten(1).shape) > 16 and "head" not in name]
        inner = inner if s.muon_rate else []
        known = {id(p) for p in inner}
        rest = [p for _, p in trained if id(p) not in known]
        groups = [
            {"params": [p for p in rest if p.ndim > 1], "weight_decay": s.weight_decay, "rate": 1},
            {"params": [p for p in rest if p.ndim == 1], "weight_decay": 0.0, "rate": 1},
            {"params": [p for p in rest if p.ndim == 0], "weight_decay": 0.0, "rate": s.sigma_rate},
        ]
        optimisers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=s.lr, fused=True)]
        if inner:
            optimisers.append(Muon([{"params": inner, "rate": s.muon_rate}], weight_decay=s.weight_decay))
        return optimisers

    def _objective(self, x: Tensor, labels: Tensor, eps: Tensor, beta: Tensor) -> tuple[Tensor, Terms]:
        s = self.settings
        with self.runtime.autocast():
            output = self.model(x, eps)
        log_sigma = getattr(self.model, "log_sigma", None)
        terms = loss_terms(output, x, labels, log_sigma, label_smoothing=s.label_smoothing)
        weights = {"class_weight": s.class_weight, "code_weight": s.code_weight}
        return total_objective(terms, beta=beta, **weights), terms

    def _step(self, x: Tensor, labels: Tensor, step: int) -> dict[str, Tensor]:
        """One update of the weights; returns what the record keeps of the batch, each (n,)."""
        # Only whole batches run compiled: a second shape would be compiled a second time.
        objective = self._fast if len(x) == self.settings.batch_size else self._objective
        beta = torch.tensor(self.beta(step), device=self.device)  # a tensor: a new number would be compiled anew
        loss, terms = objective(x, labels, self._noise(len(x)), beta)
        self._update(loss, self.optimisers, step)
        return named_terms(terms, labels)

    def _noise(self, n: int) -> Tensor:
        """eps ~ N(0, I), (n, d), for the posterior samples."""
        return torch.randn(n, self.settings.latent_dim, generator=self.generators["posterior"], device=self.device)

    def _update(self, loss: Tensor, optimisers: list[torch.optim.Optimizer], step: int) -> None:
        """Descend on `loss`. Raises UserError when it is not finite: broken weights are never made."""
        if not torch.isfinite(loss):
            s = self.settings
            raise UserError(f"the loss is {loss.item()} at step {step} with lr={s.lr}, beta={s.beta}; lower lr")
        for optimiser in optimisers:
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = one_cycle(step, self.steps, self.settings.lr) * group["rate"]
            optimiser.step()

    def _validate(self) -> Record:
        return validate(self.model, self.data.validation, self.settings.seed)

    def beta(self, step: int) -> float:
        """The weight of the rate at a step: it rises linearly over the warm-up epochs."""
        warmup = self.settings.warmup_epochs * self.steps_per_epoch
        return self.settings.beta * (min(1.0, (step + 1) / warmup) if warmup else 1.0)

    def epoch(self) -> Record:
        """Train one epoch and validate. train_* are running means (weights move, images are augmented)."""
        s, started = self.settings, time.perf_counter()
        step = len(self.records) * self.steps_per_epoch
        sums = Sums()
        self.model.train()
        shuffled = batches(self.data.train, s.batch_size, order=self.generators["order"], device=self.device)
        for x, labels in shuffled:
            x = augment(x, self.generators["augment"], translate=s.translate, flip=s.flip, cutout=s.cutout)
            x = x.contiguous(memory_format=torch.channels_last)
            sums.add(self._step(x, labels, step))
            step += 1
        trained = time.perf_counter() - started
        record = {"epoch": len(self.records) + 1.0, "beta": self.beta(step - 1), **sums.means("train")}
        record |= self._validate()
        if hasattr(self.model, "sigma"):
            record["sigma"] = self.model.sigma.item()
        record["lr"] = one_cycle(step - 1, self.steps, s.lr)
        record["images_per_second"] = sums.n / trained
        self.seconds += time.perf_counter() - started
        record["seconds"] = self.seconds
        self.records.append(record)
        return record

    def _optimised(self) -> list[tuple[torch.optim.Optimizer, Tensor]]:
        """Every trained parameter with its optimiser, in a fixed order."""
        return [(o, p) for o in self.optimisers for group in o.param_groups for p in group["params"]]

    # --- checkpoints: model, optimiser, generators, settings and records; the schedule is a function of the step

    def save(self, path: Path) -> None:
        """Write the whole state, or nothing."""
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        for number, (optimiser, parameter) in enumerate(self._optimised()):
            tensors |= {f"optimiser.{number}.{key}": value for key, value in optimiser.state[parameter].items()}
        tensors |= {f"generator.{name}": g.get_state() for name, g in self.generators.items()}
        about = {"settings": self.settings.as_dict(), "records": self.records, "seconds": self.seconds}
        write_tensors(path, tensors, {"kind": "checkpoint", **about})

    def resume(self, path: Path) -> None:
        """Continue from a checkpoint of the same settings. Raises UserError when it is not one."""
        tensors, about = read_tensors(path)
        if about.get("kind") != "checkpoint":
            raise UserError(f"{path} is not a checkpoint; delete it to train from nothing")
        if change := Settings.from_dict(about["settings"]).difference(self.settings):
            raise UserError(f"{path} belongs to other settings ({change}); delete it to train from nothing")
        load_state(self.model, within(tensors, "model"), path)
        optimised = self._optimised()
        for name, value in within(tensors, "optimiser").items():
            number, key = name.split(".")
            optimiser, parameter = optimised[int(number)]
            # The moments must lie in memory as their parameter does: the fused optimiser relies on it.
            like = torch.empty_like(parameter) if value.shape == parameter.shape else torch.empty_like(value)
            optimiser.state[parameter][key] = like.copy_(value).detach()
        for name, generator in self.generators.items():
            generator.set_state(tensors[f"generator.{name}"])
        self.records, self.seconds = about["records"], about["seconds"]


TrainerMaker = Callable[[nn.Module, Dataset, Settings], Trainer]


def fit(
    model: nn.Module,
    data: Dataset,
    settings: Settings,
    checkpoint: Path | None = None,
    make_trainer: TrainerMaker = Trainer,
) -> Iterator[Record]:
    """Train `model` in place; yield a record after every epoch (losses in nats per image).

    With a `checkpoint` path, the state is stored there after every epoch and an interrupted run continues from
    it (its records are yielded again, so that a plot is whole). Raises UserError when the loss is not finite.
    """
    trainer = make_trainer(model, data, settings)
    if checkpoint and checkpoint.is_file():
        trainer.resume(checkpoint)
        yield from list(trainer.records)
    while len(trainer.records) < settings.epochs:
        record = trainer.epoch()
        if checkpoint:
            trainer.save(checkpoint)
        yield record


def train(
    data: Dataset,
    settings: Settings,
    folder: Path,
    watch: Callable[[Record, nn.Module], None] | None = None,
    make_trainer: TrainerMaker = Trainer,
    **about: Any,
) -> tuple[nn.Module, History]:
    """Train what `settings` say, into `folder`; `watch(record, model)` is called after every epoch.

    `about` is kept in the history beside the versions and the time: what else the run depends on.
    """
    checkpoint = folder / f"{settings.model}.checkpoint.safetensors"
    model = build_model(settings, len(data.class_names))
    records = []
    for record in fit(model, data, settings, checkpoint, make_trainer):
        records.append(record)
        if watch:
            watch(record, model)
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    parameters = sum(p.numel() for p in model.parameters())
    run = {"finished": finished, "seconds": records[-1]["seconds"], "parameters": parameters, **environment(), **about}
    history = History(settings, run, records, loaded=False)
    save_run(folder, model.eval(), history, data.class_names)
    checkpoint.unlink(missing_ok=True)
    return model, history


def load_or_train(
    data: Dataset,
    settings: Settings,
    folder: Path,
    watch: Callable[[Record, nn.Module], None] | None = None,
    make_trainer: TrainerMaker = Trainer,
    *,
    fresh: bool = False,
    **about: Any,
) -> tuple[nn.Module, History]:
    """The stored run when its settings and `about` are the ones asked for, else a new one; `fresh` always trains.

    A stored run is replayed to `watch`, so a plot looks the same either way.
    """
    weights = weights_path(folder, settings.model)
    if not fresh and weights.is_file() and history_path(folder, settings.model).is_file():
        history = load_history(folder, settings.model)
        if not history.settings.difference(settings) and about.items() <= history.run.items():
            model, _ = load_model(weights)
            for record in history.records:
                if watch:
                    watch(record, model)
            return model, history
    return train(data, settings, folder, watch, make_trainer, **about)
