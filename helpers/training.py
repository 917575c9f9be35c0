"""`fit()`: a generator of one record per epoch. Plots, prints and notebooks are the caller's.

`Trainer` is the state of a run between two steps, `train` and `load_or_train` put a run into files. Under
`accelerate launch` the same calls train on many processes: all draw the same random numbers, each computes its share
of every batch, and a checkpoint of one process goes on with many, and back.
"""

import math
import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from .config import Settings, UserError
from .data import Dataset, Split, augment, batches, squares
from .interrupt import Interruption, Stopped
from .losses import Terms, loss_terms, total_objective
from .models import build_model
from .optim import Muon
from .runtime import Processes, environment, freed_memory_kept, processes, runtime, share_batch_norm
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

CHECKPOINT_SECONDS = 120.0  # what a stop that nobody announced may cost
DIVERGED = 10  # times as bad as the untrained network, and at least as many nats for every value of an image


class Diverged(UserError):
    """Training came to numbers that are no numbers, or ran away. The weights in memory are not to be used."""


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

    def add(self, values: dict[str, Tensor], *, counts: bool = True) -> None:
        """Add one batch: each value is (n,), one number an image. Not `counts`: another process adds this one."""
        for name, value in values.items():
            self.totals[name] = self.totals.get(name, 0) + value.detach().double().sum() * counts
        self.n += len(next(iter(values.values()))) * counts

    def means(self, prefix: str, team: Processes | None = None) -> Record:
        """The mean of every value, over all processes of a `team`; names start with `prefix`."""
        n, totals = self.of_all(team or Processes(alone=True))
        return {f"{prefix}_{name}": (total / n).item() for name, total in totals.items()}

    def of_all(self, team: Processes) -> tuple[int, dict[str, Tensor]]:
        """The number of images and the sums, over all processes."""
        values = list(self.totals.values())
        sums = team.total(torch.stack([*values, torch.full_like(values[0], self.n)]))
        return round(sums[-1].item()), dict(zip(self.totals, sums[:-1], strict=True))


def named_terms(terms: Terms, labels: Tensor) -> dict[str, Tensor]:
    """What a record keeps of one batch, each (n,): four losses in nats per image, two answers that are 0 or 1."""
    answers = {"accuracy": terms.logits, "code_accuracy": terms.code_logits}
    nothing = torch.zeros_like(terms.cross_entropy)
    hits = {name: nothing if a is None else (a.argmax(1) == labels).float() for name, a in answers.items()}
    losses = {"cross_entropy": terms.cross_entropy, "code_cross_entropy": terms.code_cross_entropy}
    return {**terms.elbo._asdict(), **losses, **hits}


@torch.no_grad()
def validate(
    model: nn.Module, split: Split, seed: int = 0, batch_size: int = 500, team: Processes | None = None
) -> Record:
    """Means over ALL images of a split, one seeded sample of z for each; names start with "validation_".

    Every process of a `team` looks at its share, and all get the same means.
    """
    device = next(model.parameters()).device
    noise = torch.Generator(device).manual_seed(seed)
    team, sums = team or Processes(alone=True), Sums()
    model.eval()
    for number, (x, labels) in enumerate(batches(split, batch_size, device=device, share=team.share)):
        whole = min(batch_size, len(split) - number * batch_size)
        eps = torch.randn(whole, getattr(model, "latent_dim", 0), generator=noise, device=device)
        output = model(x, eps[team.share.of(whole)])
        found = named_terms(loss_terms(output, x, labels, getattr(model, "log_sigma", None)), labels)
        sums.add(found, counts=team.counts(whole))
    return sums.means("validation", team)


class Trainer:
    """The state of a run between two steps: model, optimiser, generators, this epoch's sums, the records so far."""

    def __init__(self, model: nn.Module, data: Dataset, settings: Settings) -> None:
        self.data = data.limited(settings.n_train, settings.n_eval)
        self.settings = settings
        self.steps_per_epoch = math.ceil(len(self.data.train) / settings.batch_size)
        self.steps = settings.epochs * self.steps_per_epoch
        self.runtime, self.team = runtime(self.steps), processes()
        self.device = self.runtime.device
        self.model = model.to(self.device, memory_format=torch.channels_last)
        if self.team.share.world > 1:
            share_batch_norm(self.model)
        self.optimisers = self._optimisers()
        # One generator per use: drawing more of one thing never changes another.
        seeds = {name: settings.seed * 10 + i for i, name in enumerate(("order", "augment"), 1)}
        self.generators = {name: torch.Generator().manual_seed(seed) for name, seed in seeds.items()}
        self.generators["posterior"] = torch.Generator(self.device).manual_seed(settings.seed * 10 + 3)
        self.records: list[Record] = []
        self.seconds = 0.0
        self.first_loss: float | None = None
        # Of the epoch that has begun: steps done, seconds spent, means so far, images in the present batch.
        self.done, self.spent, self.sums, self.whole = 0, 0.0, Sums(), settings.batch_size
        self.order_before = self.generators["order"].get_state()
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

    def _objective(self, x: Tensor, labels: Tensor, eps: Tensor, hidden: Tensor, beta: Tensor) -> tuple[Tensor, Terms]:
        s = self.settings
        with self.runtime.autocast():
            output = self.model(x, eps, hidden)
        log_sigma = getattr(self.model, "log_sigma", None)
        terms = loss_terms(output, x, labels, log_sigma, label_smoothing=s.label_smoothing)
        weights = {"class_weight": s.class_weight, "code_weight": s.code_weight}
        return total_objective(terms, beta=beta, **weights), terms

    def _step(self, x: Tensor, labels: Tensor, step: int) -> dict[str, Tensor]:
        """One update of the weights; returns what the record keeps of the images, each (n,)."""
        # Only whole batches run compiled: a second shape would be compiled a second time.
        objective = self._fast if self.whole == self.settings.batch_size else self._objective
        beta = torch.tensor(self.beta(step), device=self.device)  # a tensor: a new number would be compiled anew
        parts = max(1, min(self.settings.accumulate, self.whole // self.team.share.world))
        found: list[dict[str, Tensor]] = []
        self._clear(self.optimisers)
        whole = x, labels, self._noise(len(x)), self._hidden()
        for part in zip(*(values.tensor_split(parts) for values in whole), strict=True):
            loss, terms = objective(*part, beta)
            found.append(named_terms(terms, part[1]))
            self._check(loss, step, found[-1])
            self._backward(loss, len(part[0]) / len(x))
        self._move(self.optimisers, step)
        return {name: torch.cat([part[name] for part in found]) for name in found[0]}

    def _noise(self, n: int) -> Tensor:
        """eps ~ N(0, I), (n, d), for the posterior samples of this process: its share of what a whole batch draws."""
        shape = self.whole, self.settings.latent_dim
        return torch.randn(shape, generator=self.generators["posterior"], device=self.device)[self._mine()]

    def _hidden(self) -> Tensor:
        """What the classifier does not see of this process's images, bool (n, 1, 32, 32)."""
        size, generator = self.data.train.images.shape[-1], self.generators["augment"]
        return squares(self.whole, self.settings.cutout, size, generator, self.team.share).to(self.device)

    def _mine(self) -> slice:
        return self.team.share.of(self.whole)

    def _update(
        self, loss: Tensor, optimisers: list[torch.optim.Optimizer], step: int, terms: dict[str, Tensor] | None = None
    ) -> None:
        """Descend on `loss`, whose parts are `terms`. Raises Diverged when it is not finite: see `_check`."""
        self._clear(optimisers)
        self._check(loss, step, terms or {}, bounded=False)
        self._backward(loss, 1.0)
        self._move(optimisers, step)

    @staticmethod
    def _clear(optimisers: list[torch.optim.Optimizer]) -> None:
        for optimiser in optimisers:
            optimiser.zero_grad(set_to_none=True)

    def _check(self, loss: Tensor, step: int, terms: dict[str, Tensor], *, bounded: bool = True) -> None:
        """Raises Diverged when a loss is not finite or, where it is `bounded`, when it has run away."""
        value = loss.item()
        self.first_loss = value if self.first_loss is None else self.first_loss
        limit = DIVERGED * max(abs(self.first_loss), self.data.train.images[0].numel())
        if math.isfinite(value) and (value <= limit or not bounded):
            return
        means = {name: term.detach().float().mean().item() for name, term in terms.items()}
        worst = max(means, key=lambda name: math.inf if math.isnan(means[name]) else means[name], default="")
        term = f", and {worst} is {means[worst]:.6g}" if worst else ""
        raise Diverged(f"the loss is {value:.6g} at {self._place(step)}{term}; {self._advice()}")

    def _place(self, step: int) -> str:
        return f"step {step} (epoch {step // self.steps_per_epoch + 1})"

    def _advice(self) -> str:
        names = ("model", "lr", "muon_rate", "weight_decay", "beta", "sigma", "batch_size", "seed")
        return f"with {', '.join(f'{name}={getattr(self.settings, name)}' for name in names)}: lower lr"

    def _backward(self, loss: Tensor, part: float) -> None:
        """Add the gradient of a loss that stands for `part` of this process's images."""
        mine = len(range(self.whole)[self._mine()])
        # Shares differ by an image when a batch cannot be divided; the mean over processes must be that over images.
        share = mine * self.team.share.world / self.whole if self.whole >= self.team.share.world else 1.0
        (loss * (part * share)).backward()

    def _move(self, optimisers: list[torch.optim.Optimizer], step: int) -> None:
        """One step of the optimisers. Raises Diverged on a gradient that is not finite: broken weights are not made."""
        moved = [p for o in optimisers for group in o.param_groups for p in group["params"]]
        self.team.average_gradients(moved)
        if not torch.isfinite(get_total_norm(p.grad for p in moved if p.grad is not None)):
            raise Diverged(f"a gradient is not finite at {self._place(step)}; {self._advice()}")
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = one_cycle(step, self.steps, self.settings.lr) * group["rate"]
            optimiser.step()

    def _validate(self) -> Record:
        return validate(self.model, self.data.validation, self.settings.seed, team=self.team)

    def beta(self, step: int) -> float:
        """The weight of the rate at a step: it rises linearly over the warm-up epochs."""
        warmup = self.settings.warmup_epochs * self.steps_per_epoch
        return self.settings.beta * (min(1.0, (step + 1) / warmup) if warmup else 1.0)

    @property
    def step(self) -> int:
        """The number of steps done since the beginning."""
        return len(self.records) * self.steps_per_epoch + self.done

    @freed_memory_kept()
    def epoch(self, after_step: Callable[[], None] = lambda: None) -> Record:
        """Train one epoch, or what is left of it, and validate. `after_step` may save the state, or raise.

        train_* are running means (weights move, images are augmented).
        """
        s, train = self.settings, self.data.train
        if not self.done:
            self.spent, self.sums, self.order_before = 0.0, Sums(), self.generators["order"].get_state()
        started = time.perf_counter() - self.spent
        self.model.train()
        where = {"device": self.device, "share": self.team.share, "start": self.done}
        for x, labels in batches(train, s.batch_size, order=self.generators["order"], **where):
            self.whole = min(s.batch_size, len(train) - self.done * s.batch_size)
            how = {"translate": s.translate, "flip": s.flip, "drawn": self.whole, "share": self.team.share}
            x = augment(x, self.generators["augment"], **how)
            x = x.contiguous(memory_format=torch.channels_last)
            self.sums.add(self._step(x, labels, self.step), counts=self.team.counts(self.whole))
            self.done += 1
            self.spent = time.perf_counter() - started
            after_step()
        last, trained = self.step - 1, self.spent
        record = {"epoch": len(self.records) + 1.0, "beta": self.beta(last), **self.sums.means("train", self.team)}
        record |= self._validate()
        if hasattr(self.model, "sigma"):
            record["sigma"] = self.model.sigma.item()
        record["lr"] = one_cycle(last, self.steps, s.lr)
        record["images_per_second"] = len(train) / trained
        self.seconds += time.perf_counter() - started
        record["seconds"] = self.seconds
        self.records.append(record)
        self.done = 0
        return record

    def _optimised(self) -> list[tuple[torch.optim.Optimizer, Tensor]]:
        """Every trained parameter with its optimiser, in a fixed order."""
        return [(o, p) for o in self.optimisers for group in o.param_groups for p in group["params"]]

    # --- checkpoints: model, optimiser, generators, settings and records; the schedule is a function of the step

    def save(self, path: Path) -> None:
        """Write the whole state, or nothing; every process must call it, the main one writes.

        Raises Diverged instead of writing weights that are not finite.
        """
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        for name, value in tensors.items():
            if value.is_floating_point() and not torch.isfinite(value).all():
                raise Diverged(f"{name} is not finite after step {self.step - 1}; {self._advice()}")
        for number, (optimiser, parameter) in enumerate(self._optimised()):
            tensors |= {f"optimiser.{number}.{key}": value for key, value in optimiser.state[parameter].items()}
        tensors |= {f"generator.{name}": g.get_state() for name, g in self.generators.items()}
        about = {"settings": self.settings.as_dict(), "records": self.records, "seconds": self.seconds}
        about |= {"first_loss": self.first_loss, "done": self.done, "spent": self.spent}
        if self.done:  # inside an epoch its order is drawn again, and what is done of it passed over
            tensors["generator.order"] = self.order_before
            about["n"], totals = self.sums.of_all(self.team)
            tensors |= {f"sums.{name}": total for name, total in totals.items()}
        if self.team.main:
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
        self.first_loss, self.done, self.spent = about.get("first_loss"), about.get("done", 0), about.get("spent", 0.0)
        self.order_before = tensors["generator.order"]
        # The sums are those of all processes that wrote the checkpoint; the main one goes on with them.
        self.sums = Sums()
        self.sums.totals = {k: v.to(self.device) * self.team.main for k, v in within(tensors, "sums").items()}
        self.sums.n = about.get("n", 0) * self.team.main


TrainerMaker = Callable[[nn.Module, Dataset, Settings], Trainer]


def fit(
    model: nn.Module,
    data: Dataset,
    settings: Settings,
    checkpoint: Path | None = None,
    make_trainer: TrainerMaker = Trainer,
    *,
    every: float = CHECKPOINT_SECONDS,
) -> Iterator[Record]:
    """Train `model` in place; yield a record after every epoch (losses in nats per image).

    With a `checkpoint` path, the state is stored there after every epoch and after `every` seconds inside one, and an
    interrupted run continues from it (its records are yielded again, so that a plot is whole). SIGINT and SIGTERM store
    it too and raise Stopped. Raises UserError when the loss is not finite or another process has gone.
    """
    trainer = make_trainer(model, data, settings)
    keeper = Keeper(trainer, checkpoint, every)
    keeper.resume()
    yield from list(trainer.records)
    while len(trainer.records) < settings.epochs:
        yield keeper.epoch()


class Keeper:
    """Carries a run through its epochs, and its state into a checkpoint."""

    def __init__(self, trainer: Trainer, checkpoint: Path | None, every: float) -> None:
        self.trainer, self.checkpoint, self.every = trainer, checkpoint, every
        self.team, self.saved_at = trainer.team, time.perf_counter()

    def resume(self) -> None:
        """Continue from the checkpoint when there is one. Raises UserError when processes do not see the same one."""
        if self.checkpoint and self.checkpoint.is_file():
            self.trainer.resume(self.checkpoint)
        if self.checkpoint and self.team.main:
            for left in self.checkpoint.parent.glob(f".{self.checkpoint.name}.*.tmp"):  # by a kill while writing
                left.unlink(missing_ok=True)
        place = torch.tensor(float(self.trainer.step), device=self.trainer.device)
        if self.team.total(place).item() != self.trainer.step * self.team.share.world:
            raise UserError(f"not all processes see {self.checkpoint}; the folder must be one that they share")

    def epoch(self) -> Record:
        """One epoch, kept at its end; whatever ends it early is said in one line."""
        with Interruption() as self.interruption:
            try:
                record = self.trainer.epoch(self._after_step)
                self._save()
            except Diverged as error:
                raise UserError(f"{error}. {self._kept()}") from None
            except RuntimeError as error:
                if self.team.share.world == 1:
                    raise
                reason = str(error).strip().splitlines()[0]
                raise UserError(f"the processes of this run lost each other ({reason}). {self._kept()}") from error
            self._answer(*self.team.any(bool(self.interruption.number)))
        return record

    def _after_step(self) -> None:
        due = time.perf_counter() - self.saved_at >= self.every
        stop, due = self.team.any(bool(self.interruption.number), self.team.main and due)
        if stop or due:
            self._save()
        self._answer(stop)

    def _answer(self, stop: bool) -> None:
        if stop:
            done = f"stopped after step {self.trainer.step} of {self.trainer.steps}"
            raise Stopped(f"{done}. {self._kept()}", self.interruption.number or signal.SIGTERM)

    def _save(self) -> None:
        if self.checkpoint:
            self.trainer.save(self.checkpoint)
        self.saved_at = time.perf_counter()

    def _kept(self) -> str:
        if not self.checkpoint:
            return "It had no checkpoint"
        if not self.checkpoint.is_file():
            return "There is no checkpoint yet"
        return f"{self.checkpoint} holds the last good state; the same command continues from it"


def checkpoint_path(folder: Path, model: str) -> Path:
    """Where a folder keeps the state of a run that has not ended."""
    return folder / f"{model}.checkpoint.safetensors"


def train(
    data: Dataset,
    settings: Settings,
    folder: Path,
    watch: Callable[[Record, nn.Module], None] | None = None,
    make_trainer: TrainerMaker = Trainer,
    *,
    every: float = CHECKPOINT_SECONDS,
    **about: Any,
) -> tuple[nn.Module, History]:
    """Train what `settings` say, into `folder`; `watch(record, model)` is called after every epoch.

    `about` is kept in the history beside the versions and the time: what else the run depends on. Of many processes
    only the main one watches and writes.
    """
    checkpoint, team = checkpoint_path(folder, settings.model), processes()
    model = build_model(settings, len(data.class_names))
    records = []
    for record in fit(model, data, settings, checkpoint, make_trainer, every=every):
        records.append(record)
        if watch and team.main:
            watch(record, model)
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    parameters = sum(p.numel() for p in model.parameters())
    run = {"finished": finished, "seconds": records[-1]["seconds"], "parameters": parameters, **environment(), **about}
    history = History(settings, run, records, loaded=False)
    model.eval()
    if team.main:
        save_run(folder, model, history, data.class_names)
        checkpoint.unlink(missing_ok=True)
    team.wait()
    return model, history


def stored_history(folder: Path, model: str) -> History | None:
    """The history of the stored run, if there is one. Raises UserError when it is damaged or not of these weights.

    A kill between the two files of a run that had ended leaves its checkpoint; then None: the checkpoint gives both.
    """
    if not weights_path(folder, model).is_file() or not history_path(folder, model).is_file():
        return None
    try:
        return load_history(folder, model)
    except UserError:
        if checkpoint_path(folder, model).is_file():
            return None
        raise


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
    history = None if fresh else stored_history(folder, settings.model)
    if history:
        if not history.settings.difference(settings) and about.items() <= history.run.items():
            model, _ = load_model(weights_path(folder, settings.model))
            for record in history.records:
                if watch:
                    watch(record, model)
            return model, history
    return train(data, settings, folder, watch, make_trainer, **about)
