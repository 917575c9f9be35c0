"""The training plot that redraws in place: in JupyterLab, under papermill (one final picture) and in scripts."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from .figures import SPLIT_COLOURS, blank, render, show_png, use_theme

Record = dict[str, float]
PANELS = {"distortion (nats/image)": "distortion", "rate = KL (nats/image)": "rate", "accuracy": "accuracy"}


class LiveTraining:
    """`with LiveTraining(x, reconstruct) as live:` then `live(record, model)` after every epoch.

    Above: distortion, rate, accuracy and sigma so far; below: the fixed images x (n, h, w, 3) uint8 and what
    `reconstruct(model)` makes of them, in the same form. At most one redraw in `every` seconds, and a sharper one
    at the end.
    """

    def __init__(self, x: np.ndarray, reconstruct: Callable[[Any], np.ndarray], every: float = 1.0) -> None:
        use_theme()
        self.x, self.reconstruct, self.every = x, reconstruct, every
        self.records: list[Record] = []
        self.model: Any = None
        self.handle: Any = None
        self.drawn_at = -float("inf")

    def __enter__(self) -> "LiveTraining":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.records:
            self.draw(dpi=110)

    def __call__(self, record: Record, model: Any) -> None:
        """Add the record of an epoch; redraw when the last picture is old enough."""
        self.records.append(record)
        self.model = model
        if time.monotonic() - self.drawn_at >= self.every:
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
        """Draw the figure and put it in the place of the last one."""
        figure = plt.figure(figsize=(11, 5))
        grid = figure.add_gridspec(3, 1, height_ratios=(2.6, 1, 1))
        self._curves(grid[0].subgridspec(1, 4))
        for place, label, images in ((1, "input", self.x), (2, "decoded", self.reconstruct(self.model))):
            axis = figure.add_subplot(grid[place])
            blank(axis)
            axis.imshow(np.concatenate(list(images), 1))
            axis.set_ylabel(label, rotation=0, ha="right", va="center", fontsize="small")
        self.handle = show_png(render(figure, dpi), self.alt(), self.handle)
        plt.close(figure)
        self.drawn_at = time.monotonic()

    def _curves(self, grid: Any) -> None:
        epochs = [record["epoch"] for record in self.records]
        figure = grid.figure
        for place, (title, name) in enumerate(PANELS.items()):
            axis = figure.add_subplot(grid[place])
            for split, marker in (("train", "o-"), ("validation", "s--")):
                values = [record[f"{split}_{name}"] for record in self.records]
                axis.plot(epochs, values, marker, ms=3, color=SPLIT_COLOURS[split], label=split)
            axis.set_title(title, fontsize="small")
            axis.tick_params(labelsize="x-small")
            if place == 0:
                axis.legend(frameon=False, fontsize="x-small")
        axis = figure.add_subplot(grid[3])
        axis.plot(epochs, [record["sigma"] for record in self.records], "o-", ms=3, color="#548d3b")
        axis.set_title("sigma (pixel units)", fontsize="small")
        axis.tick_params(labelsize="x-small")
