"""The figures of training (notebooks 2 and 3); a record maps the names of one epoch's values to them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Ellipse
from PIL import Image
from torch import Tensor

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
    for name, label, marker, colour in (
        ("code_accuracy", "from the code", "s", CLASS_COLOURS[2]),
        ("accuracy", "from the features", "o", CLASS_COLOURS[0]),
    ):
        for rows, style in ((seeds, {"ls": "", "mfc": "white", "zorder": 1}), (trained.values(), {"label": label})):
            x, y = [float(row["psnr_pooled"]) for row in rows], [100 * float(row[name]) for row in rows]
            axis.plot(x, y, marker=marker, color=colour, **style)
    for weight, place in zip(trained, zip(x, y, strict=True), strict=True):  # once, above the features
        axis.annotate(f"{weight}", place, (0, 8), textcoords="offset points", ha="center", fontsize=9.5)
    axis.axvline(float(line[0]["psnr_pooled"]), color="black", ls="--", label="no classifier")  # no head was trained
    axis.set(xlabel="PSNR, pooled, validation (dB)", ylabel="accuracy, validation (%)", xmargin=0.08, ymargin=0.15)
    axis.legend(title="numbers: class weight", title_fontsize=9.5, loc="lower left")
    return figure


def design_loop_plot(rows: Sequence[Mapping[str, str]], seeds: Sequence[str]) -> plt.Figure:
    """PSNR and accuracy of the runs of experiments.csv in their order; runs named in `seeds` differ by chance alone."""
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 4.6), sharey=True)
    names = [row["name"] for row in rows]
    for column, axis, scale, marker, label in (
        ("psnr_pooled", axes[0], 1, "o", ""),
        ("accuracy", axes[1], 100, "o", "from the features"),
        ("code_accuracy", axes[1], 100, "s", "from the code"),
    ):
        values, colour = [scale * float(row[column]) for row in rows], CLASS_COLOURS[0 if marker == "o" else 2]
        faces = ["white" if name in seeds else colour for name in names]
        axis.scatter(values, range(len(rows)), 36, faces, marker, edgecolors=colour, label=label)
        axis.axvline(values[names.index("VAE")], color=colour, ls=":", zorder=0)
    low = 100 * min(float(row["code_accuracy"]) for row in rows if float(row["code_accuracy"]) > 0.8) - 1
    for place, row in enumerate(rows):  # without class terms, accuracies would squeeze all others together
        shares = [f"{float(row[name]):.0%}" for name in ("code_accuracy", "accuracy") if 100 * float(row[name]) < low]
        axes[1].text(low + 0.1, place, "◂ " + ", ".join(shares) if shares else "", va="center", fontsize=9)
    axes[0].set(yticks=range(len(rows)), yticklabels=names, xlabel="PSNR, validation (dB)")
    axes[0].invert_yaxis()
    highest = 100 * max(float(row["accuracy"]) for row in rows)
    axes[1].set(xlabel="accuracy, validation (%)", xlim=(low, highest + 0.7))
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure


def two_latents_plot(mu: Tensor, std: Tensor, light: Tensor, manifold: Tensor) -> plt.Figure:
    """Posteriors (n, 2) in the grey of `light` (n,), samples of the first, and the decoded plane (k, k, 3, s, s)."""
    figure, axes = plt.subplot_mosaic([["clouds", "plane"], ["one", "plane"]], figsize=(WIDTH, 4), width_ratios=(3, 4))
    for (x, y), width, grey in zip(mu.tolist(), std.tolist(), light.tolist(), strict=True):
        axes["clouds"].add_patch(Ellipse((x, y), 6 * width[0], 6 * width[1], facecolor=str(grey), edgecolor="black"))
    axes["clouds"].add_patch(Ellipse((0, 0), 2, 2, fill=False, ls="--", edgecolor=CLASS_COLOURS[2]))
    axes["clouds"].set(title="posteriors", aspect="equal", xlim=(-3, 4), ylim=(-3, 3))
    (x, y), (wide, high) = mu[0].tolist(), std[0].tolist()
    axes["one"].add_patch(Ellipse((x, y), 2 * wide, 2 * high, facecolor=str(light[0].item())))
    arrow = {"arrowstyle": "->", "color": SPLIT_COLOURS["validation"], "lw": 2}
    for right, up in ((1.2, 0.3), (-0.6, 0.7), (0.1, -0.9)):  # chosen, so that the arrows can be told apart
        axes["one"].annotate("", (x + wide * right, y + high * up), (x, y), arrowprops=arrow)
    axes["one"].set(title="mean + std × noise")
    axes["one"].set(xlim=(x - 2.2 * wide, x + 2.2 * wide), ylim=(y - 2.2 * high, y + 2.2 * high))
    axes["one"].locator_params(nbins=4)
    k, size = len(manifold), manifold.shape[-1]
    axes["plane"].imshow(manifold.permute(0, 3, 1, 4, 2).reshape(k * size, k * size, 3).clamp(0, 1))
    axes["plane"].set(title="the plane, decoded", xlabel="first latent →", ylabel="second latent →")
    axes["plane"].set(xticks=[], yticks=[], frame_on=False)
    return figure


def run_pictures(path: Path) -> np.ndarray:
    """A file of `measure.rows.pictures_path`: images and what a run made of them, uint8 (2, n, 32, 32, 3)."""
    both = np.asarray(Image.open(path).convert("RGB"))
    return both.reshape(2, 32, -1, 32, 3).swapaxes(1, 2)
