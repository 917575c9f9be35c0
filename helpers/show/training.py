"""The figures of training (notebooks 2 and 3); a record maps the names of one epoch's values to them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from .theme import CLASS_COLOURS, SPLIT_COLOURS, SPLIT_STYLES, WIDTH


def loss_plot(records: Sequence[dict[str, float]]) -> plt.Figure:
    """Total, reconstruction and KL by epoch; the first epochs are out of view where they would flatten the others."""
    figure, axes = plt.subplots(3, 1, figsize=(WIDTH, 6.4), sharex=True)
    epochs = [record["epoch"] for record in records]
    terms = {"total = reconstruction + KL": ("distortion", "rate"), "reconstruction": ("distortion",), "KL": ("rate",)}
    for axis, (title, names) in zip(axes, terms.items(), strict=True):
        for split in ("train", "validation"):
            total = [sum(record[f"{split}_{name}"] for name in names) for record in records]
            axis.plot(epochs, total, SPLIT_STYLES[split], color=SPLIT_COLOURS[split], label=split, ms=4)
        axis.set(title=title, ylabel="nats per image")
        axis.locator_params(axis="x", integer=True)
        values = np.array([line.get_ydata() for line in axis.lines])
        late = values[:, (early := max(1, len(records) // 8)) :]
        if late.size > 6 and np.ptp(values) > 3 * np.ptp(late):
            pad = 0.08 * np.ptp(late)
            axis.set_ylim(late.min() - pad, late.max() + pad)
            missing = "epoch 1 is" if early == 1 else f"epochs 1 to {early} are"
            height, side = (0.03, "bottom") if late[0, -1] > late[0, 0] else (0.97, "top")
            axis.annotate(f"{missing} off the scale", (0.99, height), xycoords="axes fraction", ha="right", va=side)
    axes[-1].set_xlabel("epoch")
    axes[0].legend(loc="center right")
    return figure


def frontier_plot(line: Mapping[int, Mapping[str, str]], seeds: Sequence[Mapping[str, str]]) -> plt.Figure:
    """Accuracy against PSNR over the class weight, from rows of experiments.csv; `seeds` are hollow: the noise."""
    figure, axis = plt.subplots(figsize=(WIDTH, 3.9))
    trained = {weight: row for weight, row in line.items() if weight}
    for name, label, marker, colour, beside in (
        ("accuracy", "from the features", "o", CLASS_COLOURS[0], (0, 8)),
        ("code_accuracy", "from the code", "s", CLASS_COLOURS[2], (-13, -15)),
    ):
        for rows, style in ((seeds, {"ls": "", "mfc": "white", "zorder": 1}), (trained.values(), {"label": label})):
            x, y = [float(row["psnr_pooled"]) for row in rows], [100 * float(row[name]) for row in rows]
            axis.plot(x, y, marker=marker, color=colour, **style)
        for weight, place in zip(trained, zip(x, y, strict=True), strict=True):
            axis.annotate(f"{weight}", place, beside, textcoords="offset points", ha="center", fontsize=9.5)
    axis.axvline(float(line[0]["psnr_pooled"]), color="black", ls="--", label="no classifier")  # no head was trained
    axis.set(xlabel="PSNR, pooled, validation (dB)", ylabel="accuracy, validation (%)", xmargin=0.08, ymargin=0.15)
    axis.legend(title="numbers: class weight", title_fontsize=9.5, loc="lower left")
    return figure


def run_pictures(path: Path) -> np.ndarray:
    """A file of `measure.rows.pictures_path`: images and what a run made of them, uint8 (2, n, 32, 32, 3)."""
    both = np.asarray(Image.open(path).convert("RGB"))
    return both.reshape(2, 32, -1, 32, 3).swapaxes(1, 2)
