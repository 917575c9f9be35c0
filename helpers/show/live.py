"""A training plot that redraws in place, and progress bars: each leaves one final state in a saved notebook."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import DisplayHandle
from torch import nn
from tqdm import tqdm

from ..engine.bars import bar
from ..training import Record
from .theme import SPLIT_COLOURS, SPLIT_STYLES, WIDTH, blank, figure_png, show_png, use_theme

PANELS = {  # what a record may hold: the title of its panel, and its form in the alt text
    "distortion": ("distortion (nats/image)", "{:.0f} nats"),
    "rate": ("rate = KL (nats/image)", "{:.0f} nats"),
    "accuracy": ("accuracy (0..1)", "{:.1%}"),
    "sigma": ("sigma (pixel units, 0..1)", "{:.4f}"),
}
MAX_DRAWING_FRACTION = 0.04  # of the time of a run
progress = bar  # for notebooks: the same things, with a bar of how many have passed


class LiveTraining(AbstractContextManager["LiveTraining"]):
    """`with LiveTraining(x, reconstruct) as live:`, then `live(record, model)` by epoch; x is (n, h, w, 3) uint8."""

    def __init__(self, x: np.ndarray, reconstruct: Callable[[nn.Module], np.ndarray], every: float = 1.0) -> None:
        use_theme()
        self.x, self.reconstruct, self.every = x, reconstruct, every
        self.records: list[Record] = []
        self.lines: dict[str, plt.Line2D] = {}  # by the name of a value of the records
        self.handle: DisplayHandle | None = None
        self.seconds_drawing, self.redraws, self.next_at = 0.0, 0, -float("inf")

    def __exit__(self, *error: object) -> None:
        if self.records:
            self.draw(dpi=110)  # the final picture is sharper, also after an interruption
            plt.close(self.figure)

    def __call__(self, record: Record, model: nn.Module) -> None:
        """Add the record of an epoch; redraw when the last picture is `every` seconds old (longer if it was slow)."""
        self.records.append(record)
        self.model = model
        if time.monotonic() >= self.next_at:
            self.draw(dpi=75)

    def prepare(self) -> None:
        """The empty figure: panels two by two (the last of an odd number is wide), then the two rows of images."""
        names = [name for name in PANELS if {name, f"validation_{name}"} & self.records[0].keys()]
        pairs = [[names[i], names[min(i + 1, len(names) - 1)]] for i in range(0, len(names), 2)]
        mosaic: list[Any] = [*pairs, ["input", "input"], ["decoded", "decoded"]]
        self.figure, axes = plt.subplot_mosaic(mosaic, figsize=(WIDTH, 5.6), height_ratios=[3] * len(pairs) + [1, 1])
        for name in names:
            axes[name].set_title(PANELS[name][0])
            axes[name].locator_params(axis="x", integer=True)
            for split in ("", "train", "validation"):  # a value such as sigma is of no split
                if (value := f"{split}_{name}".strip("_")) in self.records[0]:
                    colour, style = SPLIT_COLOURS.get(split, "#548d3b"), SPLIT_STYLES.get(split, "o-")
                    self.lines[value] = axes[name].plot([], [], style, ms=3, color=colour, label=split)[0]
        axes[names[0]].legend()
        for label in ("input", "decoded"):
            blank(axes[label])
            axes[label].set_title(label, loc="left")
            self.pictures = axes[label].imshow(np.concatenate(self.x, 1))

    def alt(self) -> str:
        """The alt text: where the run stands, in words."""
        last = self.records[-1]
        values = {name: last.get(f"validation_{name}", last.get(name)) for name in PANELS}
        words = [f"{name} {PANELS[name][1].format(value)}" for name, value in values.items() if value is not None]
        return f"Live training plot after epoch {last['epoch']:.0f}, on validation images: {', '.join(words)}."

    def draw(self, dpi: int) -> None:
        """Move the lines and the pictures to where the run stands, and show the figure in the place of the last one."""
        started = time.monotonic()
        if not self.lines:
            self.prepare()
        epochs = [record["epoch"] for record in self.records]
        for name, line in self.lines.items():
            line.set_data(epochs, [record[name] for record in self.records])
        for axis in self.figure.axes[:-2]:
            axis.relim()
            axis.autoscale_view()
        self.pictures.set_data(np.concatenate(self.reconstruct(self.model), 1))
        self.handle = show_png(figure_png(self.figure, dpi), self.alt(), self.handle)
        now = time.monotonic()
        self.seconds_drawing += now - started
        self.redraws += 1
        self.next_at = now + max(self.every, (now - started) / MAX_DRAWING_FRACTION)


@contextmanager
def waiting(label: str) -> Iterator[None]:
    """A clock beside one long call whose inside nobody can see: `with waiting("encoding"):`."""
    done = threading.Event()

    def tick() -> None:
        while not done.wait(1):
            clock.refresh()

    with bar(total=0, desc=label, bar_format="{desc}: {elapsed} min") as clock, ThreadPoolExecutor() as pool:
        pool.submit(tick)
        try:
            yield
        finally:
            done.set()


def step_bar(label: str = "training") -> Callable[[int, int], None]:
    """An `on_step(done, total)` for training: a bar of the steps, which goes on where a resumed run does."""
    shown: tqdm | None = None

    def on_step(done: int, total: int) -> None:
        nonlocal shown
        if shown is None or shown.n == shown.total:  # the first step of a run
            shown = bar(desc=label, total=total, unit=" steps")
        shown.update(done - shown.n)
        if done == total:
            shown.close()

    return on_step
