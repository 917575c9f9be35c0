"""The state of a training in a file: kept after every epoch and every two minutes, continued from, bit for bit."""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from .errors import UserError
from .sealed import load_state, not_finite, read_tensors, within, write_tensors
from .signals import Interruption, Stopped

if TYPE_CHECKING:
    from accelerate import Accelerator

Record = dict[str, float]
CHECKPOINT_SECONDS = 120.0  # the most work that a sudden end may cost
VALUES = ("records", "seconds", "first_loss", "done", "spent")  # what of a training is kept as plain values


class Diverged(UserError):
    """Training ran away, or came to numbers that are not finite. The weights in memory are not to be used."""


class Resumable(Protocol):
    """What a training must have to be kept in a checkpoint; see loop.Training."""

    accelerator: "Accelerator"
    model: Any
    settings: Any
    optimisers: list[Any]
    generators: dict[str, torch.Generator]
    order_before: Tensor
    sums: Any
    steps: int
    done: int

    @property
    def step_number(self) -> int: ...
    def epoch(self, after_step: Callable[[], None]) -> Record: ...
    def advice(self) -> str: ...


def optimised(training: Resumable) -> list[tuple[Any, Tensor]]:
    """Every trained parameter with its optimiser, in a fixed order."""
    return [(o, p) for o in training.optimisers for group in o.param_groups for p in group["params"]]


def save(training: Resumable, path: Path) -> None:
    """Write all the state; every process must call it. Raises Diverged instead when a number is not finite."""
    tensors = {f"model.{k}": v for k, v in training.model.state_dict().items()}
    for number, (optimiser, parameter) in enumerate(optimised(training)):
        tensors |= {f"optimiser.{number}.{key}": value for key, value in optimiser.state[parameter].items()}
    tensors |= {f"generator.{name}": g.get_state() for name, g in training.generators.items()}
    values = {"settings": training.settings.as_dict()} | {name: getattr(training, name) for name in VALUES}
    if training.done:  # inside an epoch its order is drawn again, and what is done of it passed over
        tensors["generator.order"] = training.order_before
        sums = training.sums.reduced(training.accelerator)
        values["n"] = sums.n
        tensors |= {f"sums.{name}": total for name, total in sums.totals.items()}
    if broken := not_finite(tensors):
        raise Diverged(f"{broken} is not finite after step {training.step_number - 1}; {training.advice()}")
    if training.accelerator.is_main_process:
        write_tensors(path, tensors, {"kind": "checkpoint", **values})


def resume(training: Resumable, path: Path) -> None:
    """Continue from a checkpoint of the same settings. Raises UserError when it is not one."""
    tensors, values = read_tensors(path)
    if values.get("kind") != "checkpoint":
        raise UserError(f"{path} is not a checkpoint; delete it to train from nothing")
    if change := training.settings.from_dict(values["settings"]).difference(training.settings):
        raise UserError(f"{path} belongs to other settings ({change}); delete it to train from nothing")
    load_state(training.model, within(tensors, "model"), path)
    parameters = optimised(training)
    for name, value in within(tensors, "optimiser").items():
        number, key = name.split(".")
        optimiser, parameter = parameters[int(number)]
        # The moments must lie in memory as their parameter does: the fused optimiser relies on it.
        value = value.to(parameter.device)
        like = torch.empty_like(parameter if value.shape == parameter.shape else value)
        optimiser.state[parameter][key] = like.copy_(value).detach()
    for name, generator in training.generators.items():
        generator.set_state(tensors[f"generator.{name}"])
    for name in VALUES:
        setattr(training, name, values[name])
    training.order_before, main = tensors["generator.order"], training.accelerator.is_main_process
    place = "cpu" if training.accelerator.device.type == "mps" else training.accelerator.device  # as in RunningMeans
    for name, total in within(tensors, "sums").items():  # of all processes: the main one goes on with them
        training.sums.totals[name] = (total if main else torch.zeros_like(total)).to(place)
    training.sums.n = values.get("n", 0) if main else 0


class Checkpointer:
    """Carries a run through its epochs, and its state into a file."""

    def __init__(self, training: Resumable, path: Path | None, every: float = CHECKPOINT_SECONDS) -> None:
        self.training, self.path, self.every = training, path, every
        self.accelerator, self.saved_at = training.accelerator, time.perf_counter()

    def resume(self) -> None:
        """Continue from the checkpoint when there is one. Raises UserError when processes do not see the same one."""
        if self.path and self.path.is_file():
            resume(self.training, self.path)
        if self.path and self.accelerator.is_main_process:
            for left in self.path.parent.glob(f".{self.path.name}.*.tmp"):  # by a kill while writing
                left.unlink(missing_ok=True)
        places = self.accelerator.gather(torch.tensor([self.training.step_number], device=self.accelerator.device))
        if len(places.unique()) > 1:
            raise UserError(f"not all processes see {self.path}; the folder must be one that they share")

    def epoch(self, on_step: Callable[[int, int], None] | None = None) -> Record:
        """One epoch, kept at its end; whatever ends it early is said in one line. `on_step`: see training.fit."""

        def after_step() -> None:
            if on_step:
                on_step(self.training.step_number, self.training.steps)
            due = time.perf_counter() - self.saved_at >= self.every and self.accelerator.is_main_process
            stop, due = self._anywhere(bool(self.interruption.number), due)
            if stop or due:
                self._save()
            self._stop_if(stop)

        with Interruption() as self.interruption:
            try:
                record = self.training.epoch(after_step)
                self._save()
            except Diverged as error:
                raise UserError(f"{error}. {self._kept()}") from None
            except RuntimeError as error:
                if self.accelerator.num_processes == 1:
                    raise
                reason = str(error).strip().splitlines()[0]
                raise UserError(f"the processes of this run lost each other ({reason}). {self._kept()}") from error
            self._stop_if(self._anywhere(bool(self.interruption.number))[0])
        return record

    def _anywhere(self, *flags: bool) -> list[bool]:
        """For each flag: is it set in any process? Every process must ask, and all get the same answers."""
        counts = torch.tensor(flags, dtype=torch.int64, device=self.accelerator.device)
        return (self.accelerator.reduce(counts) > 0).tolist()

    def _stop_if(self, stop: bool) -> None:
        if stop:
            done = f"stopped after step {self.training.step_number} of {self.training.steps}"
            raise Stopped(f"{done}. {self._kept()}", self.interruption.number or signal.SIGTERM)

    def _save(self) -> None:
        if self.path:
            save(self.training, self.path)
        self.saved_at = time.perf_counter()

    def _kept(self) -> str:
        if not self.path or not self.path.is_file():
            return "There is no checkpoint"
        return f"{self.path} holds the last good state; the same command continues from it"
