"""What a reader sees while something runs: a training plot that redraws in place, and progress bars.

Both leave one final state in a saved notebook: the plot one picture, a bar one line (a widget would leave nothing).
"""

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from torch import nn
from tqdm import tqdm

from ..config import Settings
from ..data import Dataset
from ..storage import Record
from ..training import Trainer, TrainerMaker
from .figures import SPLIT_COLOURS, SPLIT_STYLES, WIDTH, blank, render, show_png, use_theme

PANELS = {
    "distortion (nats/image)": "distortion",
    "rate = KL (nats/image)": "rate",
    "accuracy (0..1)": "accuracy",
    "sigma (pixel units, 0..1)": "sigma",
}
SHARE = 0.04  # of the time may go into drawing
T = TypeVar("T")


class LiveTraining:
    """`with LiveTraining(x, reconstruct) as live:` then `live(record, model)` after every epoch.

    Distortion, rate, accuracy and sigma so far; below, the fixed images x (n, h, w, 3) uint8 and what
    `reconstruct(model)` makes of them, in the same form. At most one redraw in `every` seconds, fewer when drawing
    would take more than 4 % of the time, and a sharper one at the end, also of a run that was interrupted.
    """

    def __init__(self, x: np.ndarray, reconstruct: Callable[[Any], np.ndarray], every: float = 1.0) -> None:
        use_theme()
        self.x, self.reconstruct, self.every = x, reconstruct, every
        self.records: list[Record] = []
        self.model: Any = None
        self.handle: Any = None
        self.spent = 0.0  # seconds of drawing
        self.redraws = 0
        self.next_at = -float("inf")
        self.figure, axes = plt.subplots(4, 2, figsize=(WIDTH, 5.6), height_ratios=(3, 3, 1, 1))
        grid = axes[0, 0].get_gridspec()
        self.curves = {
            name: self._panel(axis, title)
            for axis, (title, name) in zip(axes[:2].flat, PANELS.items(), strict=True)
        }  # fmt: skip
        axes[0, 0].legend()
        pictures = []
        for place, label in ((2, "input"), (3, "decoded")):
            for axis in axes[place]:
                axis.remove()
            axis = self.figure.add_subplot(grid[place, :])
            blank(axis)
            axis.set_title(label, loc="left")
            pictures.append(axis.imshow(np.concatenate(list(x), 1)))
        self.decoded = pictures[-1]

    @staticmethod
    def _panel(axis: Axes, title: str) -> dict[str, Any]:
        """An empty panel with its lines by split; sigma has one, of no split."""
        axis.set_title(title)
        axis.xaxis.get_major_locator().set_params(integer=True)
        if title.startswith("sigma"):
            return {"": axis.plot([], [], "o-", ms=3, color="#548d3b")[0]}
        return {
            f"{split}_": axis.plot([], [], SPLIT_STYLES[split], ms=3, color=SPLIT_COLOURS[split], label=split)[0]
            for split in ("train", "validation")
        }

    def __enter__(self) -> "LiveTraining":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.records:
            self.draw(dpi=110)
        plt.close(self.figure)

    def __call__(self, record: Record, model: Any) -> None:
        """Add the record of an epoch; redraw when the last picture is old enough."""
        self.records.append(record)
        self.model = model
        if time.monotonic() >= self.next_at:
            self.draw(dpi=75)

    def alt(self) -> str:
        """The alt text: where the run stands, in words."""
        r = self.records[-1]
        return (
            f"Live training plot after epoch {r['epoch']:.0f}: validation distortion "
            f"{r['validation_distortion']:.0f} nats, rate {r['validation_rate']:.0f} nats, "
            f"sigma {r['sigma']:.4f}, accuracy {r['validation_accuracy']:.1%}."
        )

    def draw(self, dpi: int) -> None:
        """Move the lines and the pictures to where the run stands, and show the figure in the place of the last one."""
        started = time.monotonic()
        epochs = [record["epoch"] for record in self.records]
        for name, lines in self.curves.items():
            for prefix, line in lines.items():
                line.set_data(epochs, [record[prefix + name] for record in self.records])
                line.axes.relim()
                line.axes.autoscale_view()
        self.decoded.set_data(np.concatenate(list(self.reconstruct(self.model)), 1))
        self.handle = show_png(render(self.figure, dpi), self.alt(), self.handle)
        now = time.monotonic()
        self.spent += now - started
        self.redraws += 1
        self.next_at = now + max(self.every, (now - started) / SHARE)


# --- bars ---------------------------------------------------------------------------------------


def bar_of(*arguments: Any, **options: Any) -> tqdm:
    """A bar on standard output as it is now, whose last line can be read in a saved notebook."""
    return tqdm(*arguments, file=sys.stdout, mininterval=1, ncols=88, **options)


def progress(things: Iterable[T], label: str, total: int | None = None) -> Iterable[T]:
    """The same things, with a bar of how many have passed."""
    return bar_of(things, label, total)


@contextmanager
def waiting(label: str) -> Iterator[None]:
    """A clock beside one long call whose inside nobody can see: `with waiting("fitting the mixture"):`."""
    done = threading.Event()
    with bar_of(total=0, desc=label, bar_format="{desc}: {elapsed} min") as bar:

        def tick() -> None:
            while not done.wait(1):
                bar.refresh()

        clock = threading.Thread(target=tick, daemon=True)
        clock.start()
        try:
            yield
        finally:
            done.set()
            clock.join()


def with_bar(make_trainer: TrainerMaker = Trainer) -> TrainerMaker:
    """The same trainer with a bar of its steps, which goes on where a resumed run does."""

    def make(model: nn.Module, data: Dataset, settings: Settings) -> Trainer:
        trainer = make_trainer(model, data, settings)
        plain_step = trainer._step
        bar = bar_of(desc=f"training, {settings.epochs} epochs", total=trainer.steps, unit=" steps")

        def step(x: Any, labels: Any, number: int) -> Any:
            found = plain_step(x, labels, number)
            bar.update(number + 1 - bar.n)
            if number + 1 == trainer.steps:
                bar.close()
            return found

        trainer._step = step
        return trainer

    return make
