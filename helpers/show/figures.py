"""The look, every figure, and the one function that stores a figure with its caption (= its alt text).

Images come in as uint8 arrays (..., h, w, 3). Train, validation and test have the same colours everywhere.
"""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from ..config import UserError, write_whole

SPLIT_COLOURS = {"train": "#3f90da", "validation": "#bd1f01", "test": "#832db6"}
CAPTIONS = "captions.json"


def use_theme() -> None:
    """White background, petroff10 colours (told apart by colour-blind readers), one size of text."""
    rc = {
        "figure.dpi": 100,
        "savefig.dpi": 130,
        "figure.facecolor": "white",
        "savefig.facecolor": "white",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "image.cmap": "cividis",
        "image.interpolation": "nearest",
        "figure.constrained_layout.use": True,
        "axes.titlesize": "medium",
    }
    sns.set_theme("notebook", "whitegrid", palette=list(mpl.color_sequences["petroff10"]), rc=rc)


class Gallery:
    """Stores figures in one folder, each with its caption; `notice` is printed on top of every one."""

    def __init__(self, folder: Path, notice: str = "") -> None:
        self.folder, self.notice = folder, notice
        use_theme()

    def __call__(self, figure: Figure, name: str, caption: str) -> None:
        """Write NAME.png, keep the caption in captions.json, and show the picture in a notebook."""
        if len(caption) < 20:
            raise UserError(f"figure {name} needs a caption that says what is seen, not {caption!r}")
        if self.notice:
            figure.suptitle("photos, not CIFAR-10", fontsize="small", color="#bd1f01", x=0.01, ha="left")
        png = render(figure)
        plt.close(figure)
        write_whole(self.folder / f"{name}.png", png)
        captions = read_captions(self.folder) | {name: caption}
        write_whole(self.folder / CAPTIONS, json.dumps(captions, indent=1, sort_keys=True) + "\n")
        show_png(png, caption)


def read_captions(folder: Path) -> dict[str, str]:
    """Captions by figure name; empty when nothing was saved yet. Raises UserError on a damaged file."""
    path = folder / CAPTIONS
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); delete it and run the notebooks again") from None


def render(figure: Figure, dpi: int | None = None) -> bytes:
    """PNG bytes on white, without a date or a version in them, so that equal figures are equal files."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None}, bbox_inches="tight")
    return buffer.getvalue()


def show_png(png: bytes, alt: str, handle: Any = None) -> Any:
    """Display PNG bytes with an alt text, or replace what `handle` shows; nothing happens outside a notebook."""
    try:
        from IPython import get_ipython
        from IPython.display import Image, display
    except ImportError:
        return None
    if get_ipython() is None:
        return None
    picture = Image(png, alt=alt)
    if handle is None:
        return display(picture, display_id=True)
    handle.update(picture)
    return handle


def pixels(x: Any) -> np.ndarray:
    """A float tensor (..., 3, h, w) in [0, 1] or a uint8 tensor -> a uint8 array (..., h, w, 3)."""
    array = x.detach().cpu()
    if array.is_floating_point():
        array = (array.clamp(0, 1) * 255).round()
    return np.moveaxis(array.numpy().astype(np.uint8), -3, -1)


# --- images -----------------------------------------------------------------------------------------------------


def image_rows(rows: dict[str, np.ndarray], titles: Sequence[str] = (), size: float = 0.85) -> Figure:
    """One labelled row of images (n, h, w, 3) per entry; `titles` stand above the columns. No rescaling."""
    columns = max(len(row) for row in rows.values())
    longest = max(len(label) for label in rows)
    left = 0.25 + 0.085 * longest
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(left + columns * size, len(rows) * size + 0.25 * bool(titles)), squeeze=False
    )
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)
    for line, (label, images) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize="small")
        for axis in line:
            blank(axis)
        for axis, image in zip(line, images, strict=False):
            axis.imshow(image, vmin=0, vmax=255)
    for axis, title in zip(axes[0], titles, strict=False):
        axis.set_title(title, fontsize="x-small")
    return figure


def blank(axis: Axes) -> None:
    """No ticks, no frame, no grid: only the picture."""
    axis.set(xticks=[], yticks=[])
    axis.grid(False)
    for spine in axis.spines.values():
        spine.set_visible(False)


def data_points_plot(
    x: np.ndarray,
    reconstruction: np.ndarray,
    mse: np.ndarray,
    truth: Sequence[str],
    predicted: Sequence[str],
    groups: Sequence[str],
) -> Figure:
    """Input, reconstruction, error map and both class names; columns come in `groups` (worst, median, ...)."""
    n = len(x)
    figure, axes = plt.subplots(3, n, figsize=(0.35 + n * 0.85, 3.7), squeeze=False)
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.02, wspace=0.02, hspace=0)
    error = np.abs(x.astype(float) - reconstruction.astype(float)).mean(-1) / 255
    for axis, label in zip(axes[:, 0], ("input", "reconstruction", "|error|"), strict=True):
        axis.set_ylabel(label, fontsize="small")
    for i in range(n):
        for axis in axes[:, i]:
            blank(axis)
        axes[0, i].imshow(x[i])
        axes[1, i].imshow(reconstruction[i])
        heat = axes[2, i].imshow(error[i], cmap="magma", vmin=0, vmax=0.4)
        axes[0, i].set_title(f"{groups[i]}\n{-10 * np.log10(mse[i]):.1f} dB", fontsize="x-small")
        wrong = predicted[i] != truth[i]
        mark = "≠" if wrong else "="
        colour = "#bd1f01" if wrong else "#333333"
        axes[2, i].set_xlabel(f"{truth[i]}\n{mark} {predicted[i]}", fontsize="x-small", color=colour)
    bar = figure.colorbar(heat, ax=axes[2, :].tolist(), location="right", fraction=0.02, pad=0.005)
    bar.ax.tick_params(labelsize="x-small")
    return figure


# --- data (notebook 01) -----------------------------------------------------------------------------------------


def channel_histograms(images: np.ndarray) -> Figure:
    """The share of each of the 256 levels in the three channels of images (n, h, w, 3)."""
    figure, axis = plt.subplots(figsize=(7, 3))
    for channel, (name, colour) in enumerate({"red": "#bd1f01", "green": "#548d3b", "blue": "#3f90da"}.items()):
        counts = np.bincount(images[..., channel].ravel(), minlength=256)
        axis.plot(counts / counts.sum(), color=colour, label=name, lw=1.5)
    axis.set(xlabel="level (0 to 255)", ylabel="share of values", xlim=(0, 255), ylim=(0, None))
    axis.legend(frameon=False)
    return figure


def counts_plot(counts: dict[str, np.ndarray], class_names: Sequence[str]) -> Figure:
    """Images per class in each split."""
    figure, axis = plt.subplots(figsize=(8, 3))
    at, width = np.arange(len(class_names)), 0.27
    for i, (split, values) in enumerate(counts.items()):
        bars = axis.bar(at + (i - 1) * width, values, width, label=split, color=SPLIT_COLOURS[split])
        axis.bar_label(bars, fontsize=8, rotation=90, padding=2)
    axis.set_xticks(at, class_names, rotation=25, ha="right")
    axis.set(ylabel="images", ylim=(0, 1.2 * max(values.max() for values in counts.values())))
    axis.grid(False, axis="x")
    axis.legend(frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 1))
    return figure


def spectrum_plot(variance_ratio: np.ndarray, dims: Sequence[int], psnr: Sequence[float]) -> Figure:
    """Left: share of variance left after k components. Right: PSNR of the best linear code of d numbers."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
    rest = 1 - np.cumsum(variance_ratio)
    left.loglog(np.arange(1, len(rest)), rest[:-1], lw=2)
    left.set(xlabel="components k", ylabel="share of variance left", ylim=(1e-4, 1))
    right.semilogx(dims, psnr, "o-", base=2, lw=2)
    for d, value in zip(dims, psnr, strict=True):
        right.annotate(f"{value:.2f}", (d, value), xytext=(0, 7), textcoords="offset points", ha="center", fontsize=8)
    right.set_xticks(dims, [str(d) for d in dims])
    right.set(xlabel="numbers in the code d", ylabel="PSNR on test, pooled (dB)")
    right.margins(y=0.18)
    return figure


def bars_plot(values: dict[str, float], xlabel: str, fmt: str = "{:.2f}") -> Figure:
    """Horizontal bars, each with its number."""
    figure, axis = plt.subplots(figsize=(7, 0.6 + 0.42 * len(values)))
    bars = axis.barh(list(values), list(values.values()), color="#3f90da")
    axis.bar_label(bars, [fmt.format(v) for v in values.values()], padding=4, fontsize="small")
    axis.invert_yaxis()
    axis.grid(False, axis="y")
    axis.set(xlabel=xlabel)
    axis.margins(x=0.12)
    return figure


# --- training (notebooks 02, 03) --------------------------------------------------------------------------------


def loss_plot(records: Sequence[dict[str, float]]) -> Figure:
    """Total, reconstruction and KL by epoch, train and validation, nats per image."""
    figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.3))
    epochs = [record["epoch"] for record in records]
    terms = {
        "total = reconstruction + KL": ("distortion", "rate"),
        "reconstruction": ("distortion",),
        "KL": ("rate",),
    }
    for axis, (title, names) in zip(axes, terms.items(), strict=True):
        for split in ("train", "validation"):
            values = [sum(record[f"{split}_{name}"] for name in names) for record in records]
            style = "o-" if split == "train" else "s--"
            axis.plot(epochs, values, style, color=SPLIT_COLOURS[split], label=split, ms=3.5)
        axis.set(title=title, xlabel="epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        _fit_to_late_values(axis)
    axes[0].set_ylabel("nats per image")
    axes[0].legend(frameon=False)
    return figure


def _fit_to_late_values(axis: Axes) -> None:
    """Let the first epochs leave the picture upwards when they would flatten all others."""
    late = np.concatenate([line.get_ydata()[1:] for line in axis.lines])
    every = np.concatenate([line.get_ydata() for line in axis.lines])
    if len(late) > 6 and np.ptp(every) > 3 * np.ptp(late):
        pad = 0.08 * np.ptp(late)
        axis.set_ylim(late.min() - pad, late.max() + pad)
        axis.annotate(
            "epoch 1 is off the scale", (0.98, 0.97), xycoords="axes fraction", ha="right", va="top", fontsize=8
        )


# --- evaluation (notebook 04) -----------------------------------------------------------------------------------


def regression_plot(density: np.ndarray, line: Any, title: str) -> Figure:
    """True against reconstructed pixel values: density (bins, bins), the fitted line, R2 and RMSE."""
    figure, axis = plt.subplots(figsize=(5, 4.3))
    share = density.T / density.sum()
    smallest = share[share > 0].min()
    heat = axis.imshow(share, origin="lower", extent=(0, 1, 0, 1), norm=LogNorm(smallest, share.max()))
    ends = np.array([0.0, 1.0])
    axis.plot(ends, ends, ":", color="white", lw=1.5, label="perfect")
    axis.plot(ends, line.slope * ends + line.intercept, "-", color="#ffa90e", lw=2, label="least-squares fit")
    text = f"y = {line.slope:.3f} x + {line.intercept:.3f}\n$R^2$ = {line.r2:.4f}\nRMSE = {line.rmse:.4f}"
    box = {"facecolor": "white", "alpha": 0.9, "edgecolor": "none"}
    axis.text(0.03, 0.97, text, transform=axis.transAxes, va="top", fontsize="small", bbox=box)
    axis.legend(loc="lower right", fontsize="small", facecolor="#888888", labelcolor="white", framealpha=0.6)
    axis.set(xlabel="true pixel value", ylabel="reconstructed pixel value", title=title, xlim=(0, 1), ylim=(0, 1))
    axis.grid(False)
    figure.colorbar(heat, ax=axis, label="share of pixel values")
    return figure


def table_plot(rows: Sequence[Sequence[str]], header: Sequence[str]) -> Figure:
    """A table as a picture: the first column is left-aligned text, the others numbers."""
    width = 3.2 + 1.45 * (len(header) - 1)
    figure, axis = plt.subplots(figsize=(width, 0.5 + 0.31 * len(rows)))
    blank(axis)
    widths = [3.2 / width] + [1.45 / width] * (len(header) - 1)
    table = axis.table(rows, colLabels=header, colWidths=widths, cellLoc="right", loc="center", edges="horizontal")
    table.auto_set_font_size(False)
    table.set_fontsize(10)
    table.scale(1, 1.45)
    for (row, column), cell in table.get_celld().items():
        cell.set_edgecolor("#cccccc")
        if row == 0:
            cell.set_text_props(weight="bold")
        if column == 0:
            cell.set_text_props(ha="left")
    return figure


def confusion_plot(matrix: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Counts of true (rows) against predicted (columns) classes."""
    figure, axis = plt.subplots(figsize=(6, 4.8))
    sns.heatmap(matrix, annot=True, fmt="d", cmap="cividis", cbar=False, annot_kws={"fontsize": 7}, ax=axis)
    axis.set_xticklabels(class_names, rotation=40, ha="right", fontsize="small")
    axis.set_yticklabels(class_names, rotation=0, fontsize="small")
    axis.set(xlabel="predicted", ylabel="true")
    return figure


def rate_per_latent_plot(kl: np.ndarray) -> Figure:
    """The mean KL of every latent in nats, sorted."""
    figure, axis = plt.subplots(figsize=(7, 2.8))
    axis.bar(np.arange(1, len(kl) + 1), np.sort(kl)[::-1], width=1.0, color="#3f90da")
    axis.set(xlabel="latents, sorted by their rate", ylabel="KL (nats)", xlim=(0, len(kl) + 1))
    return figure


# --- compression (notebook 06) ----------------------------------------------------------------------------------


def rate_distortion_plot(curves: dict[str, tuple[Sequence[float], Sequence[float]]]) -> Figure:
    """PSNR (pooled, dB) against bytes per image, one labelled line per codec; long lines (theory) have no markers."""
    figure, axis = plt.subplots(figsize=(9.5, 4))
    for (label, (size, quality)), marker in zip(curves.items(), "osD^v*", strict=False):
        style = {"color": "0.4", "ls": "--"} if len(size) > 15 else {"marker": marker, "ms": 5}
        axis.semilogx(size, quality, label=label, **style)
    smallest = min(min(size) for size, _ in curves.values())
    ticks = [tick for tick in (5, 10, 20, 35, 50, 75, 100, 150, 250, 400, 700) if tick > 0.7 * smallest]
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.minorticks_off()
    axis.set(xlabel="bytes per image", ylabel="PSNR on test, pooled (dB)")
    axis.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
