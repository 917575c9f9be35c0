"""How a model is trained: what a step does, and `fit`, which yields a record per epoch. A run's state: see loop."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .data import Augmentation, Dataset, Split, batches
from .engine import CHECKPOINT_SECONDS, Checkpointer, Muon, Record, Tensors
from .engine.runtime import RunningMeans, my_part
from .loop import Batch, Training
from .losses import loss_terms, total_objective
from .models import Output, Trunk
from .settings import AutoencoderSettings, NetworkSettings, Settings, VAESettings

if TYPE_CHECKING:
    from accelerate import Accelerator

TrainerMaker = Callable[[nn.Module, Dataset, Any], Training]


def with_answers(terms: Tensors, output: Output, labels: Tensor) -> Tensors:
    """What a record keeps of one batch, each (n,): losses in nats per image, and answers that are 0 or 1."""
    answers = {"accuracy": output.logits, "code_accuracy": output.code_logits}
    hits = {name: (logits.argmax(1) == labels).float() for name, logits in answers.items() if logits is not None}
    return terms | hits


@torch.no_grad()
def validate(
    model: nn.Module, split: Split, seed: int = 0, batch_size: int = 500, accelerator: "Accelerator | None" = None
) -> Record:
    """Means over ALL images of a split, of all processes of an `accelerator`; one seeded sample of z for each image."""
    bare: Any = accelerator.unwrap_model(model) if accelerator else model
    device = next(bare.parameters()).device
    noise = torch.Generator(device).manual_seed(seed)
    sums = RunningMeans()
    model.eval()
    for x, labels in batches(split, batch_size, device=device):
        eps = torch.randn(len(x), bare.latent_dim, generator=noise, device=device)
        x, labels, eps = my_part({"x": x, "labels": labels, "eps": eps}, accelerator).values()
        output = model(x, eps)
        sums.add(with_answers(loss_terms(output, x, labels, bare.log_sigma), output, labels))
    return (sums.reduced(accelerator) if accelerator else sums).means("validation")


class Trainer(Training):
    """Trains an autoencoder, a VAE or a judge: one objective, AdamW and Muon."""

    settings: NetworkSettings

    def __init__(self, model: Any, data: Dataset, settings: NetworkSettings) -> None:
        augmentation = Augmentation(settings.translate, settings.flip, settings.cutout)
        for trunk in (module for module in model.modules() if isinstance(module, Trunk)):
            trunk.whiten(data.train.images)
        super().__init__(model, data, settings, augmentation, model.latent_dim)
        self.weights = settings.weights  # of the terms of the objective

    def make_optimisers(self) -> list[torch.optim.Optimizer]:
        """AdamW, and Muon for inner layers when it is asked for; biases, norms and sigma are not decayed."""
        s = self.settings
        trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        # Muon's even update suits maps between many features; the heads and layers with a fan of 16 or less keep AdamW.
        wide = [name for name, p in trained.items() if p.ndim > 1 and min(p.flatten(1).shape) > 16]
        inner = [name for name in wide if "head" not in name] if s.muon_rate else []
        rest = [p for name, p in trained.items() if name not in inner]
        sigma_rate, what_rate = (s.sigma_rate, s.what_rate) if isinstance(s, AutoencoderSettings) else (1.0, 1.0)
        groups: list[dict[str, Any]] = [
            {"params": [p for p in rest if p.ndim > 1], "weight_decay": s.weight_decay, "rate": 1},
            {"params": [p for p in rest if p.ndim == 1], "weight_decay": 0.0, "rate": 1},
            {"params": [p for p in rest if p.ndim == 0], "weight_decay": 0.0, "rate": sigma_rate},
        ]
        optimisers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=s.lr, fused=True)]
        for recognises, rate in ((False, s.muon_rate), (True, what_rate)):
            chosen = [trained[name] for name in inner if name.startswith("encoder.what.") == recognises]
            if chosen:
                optimisers.append(Muon([{"params": chosen, "rate": rate}], weight_decay=s.weight_decay))
        return optimisers

    def objective(self, batch: Batch, beta: Tensor) -> tuple[Tensor, Tensors]:
        """What is minimised, a scalar, and what the record keeps of each image."""
        s = self.settings
        with self.runtime.autocast():
            output = self.network(batch.x, batch.eps, batch.hidden)
        terms = loss_terms(output, batch.x, batch.labels, self.model.log_sigma, label_smoothing=s.label_smoothing)
        return total_objective(terms, self.weights | {"rate": beta}), with_answers(terms, output, batch.labels)

    def step(self, batch: Batch) -> Tensors:
        """One update of the weights; returns what the record keeps of the images, each (n,)."""
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
        beta = torch.tensor(self.beta(self.step_number), device=self.device)
        kept, parts = [], self.parts(batch)
        for number, part in enumerate(parts, 1):
            with self.accelerator.no_sync(self.network) if number < len(parts) else nullcontext():
                loss, values = self.objective(part, beta)
                self.check(loss, values)
                self.accelerator.backward(loss * (len(part.labels) / len(batch.labels)))
            kept.append(values)
        self.move(self.optimisers)
        return {name: torch.cat([values[name] for values in kept]) for name in kept[0]}

    def parts(self, batch: Batch) -> list[Batch]:
        """The batch in the parts whose gradients are accumulated."""
        n = min(self.settings.accumulate, len(batch.labels))
        columns = [[None] * n if values is None else values.tensor_split(n) for values in batch]
        return [Batch(*part) for part in zip(*columns, strict=True)]

    def beta(self, step: int) -> float:
        """The weight of the rate at a step: it rises linearly over the warm-up epochs."""
        epochs = self.settings.warmup_epochs if isinstance(self.settings, VAESettings) else 0.0
        warmup = epochs * self.steps_per_epoch
        return self.weights.get("rate", 0.0) * (min(1.0, (step + 1) / warmup) if warmup else 1.0)

    def validate(self) -> Record:
        """The means over the validation split; and sigma, and the weight of the rate in the last step."""
        record = validate(self.network, self.data.validation, self.settings.seed, accelerator=self.accelerator)
        if isinstance(self.settings, AutoencoderSettings):
            record["sigma"] = self.model.sigma.item()
        if "rate" in self.weights:
            record["beta"] = self.beta(self.step_number - 1)
        return record


def fit(
    model: nn.Module, data: Dataset, settings: Settings, checkpoint: Path | None = None,
    make_trainer: TrainerMaker = Trainer, *,
    on_step: Callable[[int, int], None] | None = None, every: float = CHECKPOINT_SECONDS,
) -> Iterator[Record]:  # fmt: skip
    """Train `model` in place; yield a record after every epoch (losses in nats per image).

    `on_step(done, total)` is called after every step. With a `checkpoint` path, the state is stored there after every
    epoch and after `every` seconds inside one, and an interrupted run continues from it (its records are yielded again,
    so that a plot is whole). SIGINT and SIGTERM store it too and raise Stopped. Raises UserError when the loss is not
    finite or another process has gone.
    """
    training = make_trainer(model, data, settings)
    checkpointer = Checkpointer(training, checkpoint, every)
    checkpointer.resume()
    yield from list(training.records)
    while len(training.records) < settings.epochs:
        yield checkpointer.epoch(on_step)
