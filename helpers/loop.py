"""A training between two steps: its state, its epochs, its part of every batch.

What a step does is the business of `training.Trainer`. Many processes train together by Accelerate: all draw the same
random numbers, each computes its part of every batch, and gradients are averaged by torch's DistributedDataParallel.
"""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from .data import Augmentation, Dataset, Draws, positions, to_unit
from .engine import Diverged, Record, Tensors, UserError, one_cycle
from .engine.runtime import RunningMeans, accelerator, freed_memory_kept, my_part, runtime
from .settings import Settings

DIVERGED = 10  # a loss of so many times the untrained network's, and of so many nats a colour value, has run away


class Batch(NamedTuple):
    """This process's part of a batch."""

    x: Tensor  # images (n, 3, 32, 32) in [0, 1]
    labels: Tensor  # (n,)
    eps: Tensor  # (n, d) ~ N(0, I), for the posterior samples
    hidden: Tensor | None  # bool (n, 1, 32, 32): what the classifier does not see


class Training:
    """The state of a run between two steps; a subclass says `make_optimisers`, `step` and `validate`."""

    settings: Settings

    def __init__(
        self, model: nn.Module, data: Dataset, settings: Settings, augmentation: Augmentation, latent_dim: int
    ) -> None:
        self.augmentation, self.latent_dim = augmentation, latent_dim
        self.data, self.settings = data.limited(settings.n_train, settings.n_eval), settings
        self.steps_per_epoch = math.ceil(len(self.data.train) / settings.batch_size)
        self.steps = settings.epochs * self.steps_per_epoch
        self.runtime, self.accelerator = runtime(), accelerator()
        self.device = self.runtime.device
        self.model: Any = model.to(self.device).to(memory_format=self.runtime.layout)
        # One generator per use: drawing more of one thing never changes another.
        seeds = {name: settings.seed * 10 + i for i, name in enumerate(("order", "augment"), 1)}
        self.generators = {name: torch.Generator().manual_seed(seed) for name, seed in seeds.items()}
        self.generators["posterior"] = torch.Generator(self.device).manual_seed(settings.seed * 10 + 3)
        self.records: list[Record] = []
        self.seconds = 0.0
        self.first_loss: float | None = None
        # Of the epoch that has begun: steps done, seconds spent, means so far, and the state that drew its order.
        self.done, self.spent, self.sums = 0, 0.0, RunningMeans()
        self.order_before = self.generators["order"].get_state()
        last = len(self.data.train) % settings.batch_size or settings.batch_size
        if last < (processes := self.accelerator.num_processes):
            raise UserError(f"an epoch ends with a batch of {last} images for {processes} processes; use fewer")
        self.network = self.prepared(self.model)
        self.optimisers: list[Any] = [self.accelerator.prepare(optimiser) for optimiser in self.make_optimisers()]

    def prepared(self, model: nn.Module) -> Any:
        """The model as Accelerate wants it called; on several GPUs batch norm sees the whole batch."""
        if isinstance(model, nn.ModuleDict):  # it is never called, its parts are
            return model
        if self.accelerator.num_processes > 1 and self.device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return self.accelerator.prepare(model)

    def make_optimisers(self) -> list[torch.optim.Optimizer]:
        """The optimisers; "rate" in a group is its learning rate in units of the schedule's."""
        raise NotImplementedError

    def step(self, batch: Batch) -> Tensors:
        """One update of the weights; returns what the record keeps of the images, each (n,)."""
        raise NotImplementedError

    def validate(self) -> Record:
        """The means over the validation split, and what else a record says of the model."""
        raise NotImplementedError

    def draw(self, index: Tensor) -> Batch:
        """The images at `index` of the training split, augmented: this process's part, all random numbers drawn."""
        train, n = self.data.train, len(index)
        draws = self.augmentation.draw(n, train.images.shape[-1], self.generators["augment"])
        eps = torch.randn((n, self.latent_dim), generator=self.generators["posterior"], device=self.device)
        mine = my_part({"index": index, "eps": eps, **draws._asdict()}, self.accelerator)
        index, eps = mine.pop("index"), mine.pop("eps")
        x, hidden = self.augmentation.apply(to_unit(train.images[index], self.device), Draws(**mine))
        return Batch(x.contiguous(memory_format=self.runtime.layout), train.labels[index].to(self.device), eps, hidden)

    @property
    def step_number(self) -> int:
        """The number of steps done since the beginning."""
        return len(self.records) * self.steps_per_epoch + self.done

    def place(self) -> str:
        """Where the run stands, for a message."""
        return f"step {self.step_number} (epoch {self.step_number // self.steps_per_epoch + 1})"

    def advice(self) -> str:
        """What to change when the run has diverged."""
        names = ("model", "lr", "muon_rate", "weight_decay", "beta", "sigma", "batch_size", "seed")
        known = self.settings.as_dict()
        return f"with {', '.join(f'{name}={known[name]}' for name in names if name in known)}: lower lr"

    def check(self, loss: Tensor, values: Tensors, *, bounded: bool = True) -> None:
        """Raises Diverged when a loss is not finite or, where it is `bounded`, when it has run away."""
        value = loss.item()
        self.first_loss = value if self.first_loss is None else self.first_loss
        limit = DIVERGED * max(abs(self.first_loss), self.data.train.images[0].numel())
        if math.isfinite(value) and (value <= limit or not bounded):
            return
        means = {name: term.detach().float().mean().item() for name, term in values.items()}
        worst = max(means, key=lambda name: math.inf if math.isnan(means[name]) else means[name])
        raise Diverged(f"the loss is {value:.6g} at {self.place()}, and {worst} is {means[worst]:.6g}; {self.advice()}")

    def move(self, optimisers: list[Any]) -> None:
        """One step of the optimisers. Raises Diverged, before any weight moves, on a gradient that is not finite."""
        moved = [p for o in optimisers for group in o.param_groups for p in group["params"]]
        if not torch.isfinite(get_total_norm(p.grad for p in moved if p.grad is not None)):
            raise Diverged(f"a gradient is not finite at {self.place()}; {self.advice()}")
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = one_cycle(self.step_number, self.steps, self.settings.lr) * group["rate"]
            optimiser.step()

    def descend(self, loss: Tensor, average: float) -> None:
        """One update of model["moving"] against a loss, and of model["average"], over a tenth of the steps at first."""
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        self.move(self.optimisers)
        weight, pair = max(1 / average, 10 / (self.step_number + 10)), (self.model["average"], self.model["moving"])
        with torch.no_grad():
            for kept, moving in zip(*(part.parameters() for part in pair), strict=True):
                kept.lerp_(moving, weight)

    @freed_memory_kept()
    def epoch(self, after_step: Callable[[], None] = lambda: None) -> Record:
        """One epoch (train_*: means as weights move), or what is left of it, and validation. `after_step` may raise."""
        if not self.done:
            self.spent, self.sums, self.order_before = 0.0, RunningMeans(), self.generators["order"].get_state()
        started = time.perf_counter() - self.spent
        self.model.train()
        for index in positions(len(self.data.train), self.settings.batch_size, self.generators["order"])[self.done :]:
            self.sums.add(self.step(self.draw(index)))
            self.done += 1
            self.spent = time.perf_counter() - started
            after_step()
        record = {"epoch": len(self.records) + 1.0, **self.sums.reduced(self.accelerator).means("train")}
        record |= self.validate()
        self.seconds += time.perf_counter() - started
        record["lr"] = one_cycle(self.step_number - 1, self.steps, self.settings.lr)
        record |= {"images_per_second": len(self.data.train) / self.spent, "seconds": self.seconds}
        self.records.append(record)
        self.done = 0
        return record
