"""The look, every figure, and the one function that stores a figure with its caption (= its alt text).

Images come in as uint8 arrays (..., h, w, 3). Train, validation and test have the same colours everywhere, classes
the ten of petroff10. No figure is wider than a phone can show: text of 9 points on WIDTH inches stays readable when
380 pixels are all there is.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from PIL import Image

from ..config import UserError, write_whole
from ..schemas import read_json, write_json

WIDTH = 5.8  # inches
DPI = 150
CLASS_COLOURS = list(mpl.color_sequences["petroff10"])
CLASS_MARKERS = "osD^vP*Xph"  # only six of the ten colours stand out on white: a class always has its marker too
SPLIT_COLOURS = {"train": "#3f90da", "validation": "#bd1f01", "test": "#832db6"}
SPLIT_STYLES = {"train": "o-", "validation": "s--", "test": "D:"}
CAPTIONS = "captions.json"
TABLE_COLUMNS = (1.8, 1.16)  # inches: the first column, each of the others


def use_theme() -> None:
    """White background, petroff10 colours (told apart by colour-blind readers), one size of text."""
    rc = {
        "figure.dpi": 100,
        "savefig.dpi": DPI,
        "figure.facecolor": "white",
        "savefig.facecolor": "white",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "image.cmap": "cividis",
        "image.interpolation": "nearest",
        "figure.constrained_layout.use": True,
        "font.size": 10,
        "axes.titlesize": 10.5,
        "axes.labelsize": 10,
        "xtick.labelsize": 9.5,
        "ytick.labelsize": 9.5,
        "legend.fontsize": 9.5,
        "legend.frameon": False,
        "lines.markersize": 5,
    }
    sns.set_theme("notebook", "whitegrid", palette=CLASS_COLOURS, rc=rc)


class Gallery:
    """Stores figures in one folder, each with its caption; `notice` is printed on top of every one."""

    def __init__(self, folder: Path, notice: str = "") -> None:
        self.folder, self.notice = folder, notice
        use_theme()

    def __call__(self, figure: Figure, name: str, caption: str, *, stored: bool = False) -> None:
        """Write NAME.png, keep the caption in captions.json, and show the picture in a notebook.

        `stored` figures show the stored runs on CIFAR-10, whatever data this run has.
        """
        if len(caption) < 20:
            raise UserError(f"figure {name} needs a caption that says what is seen, not {caption!r}")
        if self.notice:
            stamp = "stored runs on CIFAR-10, not photos" if stored else "photos, not CIFAR-10"
            figure.text(0, 1.01, stamp, fontsize=9, color="#bd1f01", va="bottom")
        png = render(figure)
        plt.close(figure)
        write_whole(self.folder / f"{name}.png", png)
        captions = read_captions(self.folder) | {name: caption}
        write_json(self.folder / CAPTIONS, dict(sorted(captions.items())))
        show_png(lighter(png), caption)


def read_captions(folder: Path) -> dict[str, str]:
    """Captions by figure name; empty when nothing was saved yet. Raises UserError on a damaged file."""
    path = folder / CAPTIONS
    return read_json(path, "delete it and run the notebooks again") if path.exists() else {}


def render(figure: Figure, dpi: int | None = None) -> bytes:
    """PNG bytes on white, without a date or a version in them, so that equal figures are equal files."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None}, bbox_inches="tight", pad_inches=0.06)
    return buffer.getvalue()


def lighter(png: bytes) -> bytes:
    """The same picture with the 256 colours that suit it best: a third of the bytes, for the copy in a notebook."""
    buffer = io.BytesIO()
    few = Image.open(io.BytesIO(png)).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(buffer, "PNG", optimize=True)
    return min(png, buffer.getvalue(), key=len)


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


def image_rows(rows: Mapping[str, np.ndarray], titles: Sequence[str] = ()) -> Figure:
    """A label and below it one row of images (n, h, w, 3) per entry; `titles` stand above the columns.

    Every pixel becomes a whole number of pixels of the file: enlarged without blur, nothing rescaled.
    """
    columns = max(len(row) for row in rows.values())
    tallest, widest = next(iter(rows.values())).shape[1:3]
    scale = max(1, round(960 / columns / (widest + 2)))
    gap = 2 * scale
    width, height = columns * (widest * scale + gap) - gap, tallest * scale
    text = round(0.034 * width)  # pixels: the same share of the width in every grid
    points, strip = text * 72 / DPI, round(1.75 * text)
    above = round(1.3 * text) if titles else 0
    total = len(rows) * (strip + height) + above
    figure = plt.figure(figsize=(width / DPI, total / DPI), dpi=DPI, layout="none")
    top = total - above
    for i, title in enumerate(titles):
        centre = i * (widest * scale + gap) + widest * scale / 2
        figure.text(centre / width, top / total, title, ha="center", va="bottom", fontsize=0.85 * points)
    for label, images in rows.items():
        figure.text(0, (top - 0.75 * strip) / total, label, va="baseline", fontsize=points)
        top -= strip + height
        axis = figure.add_axes((0, top / total, 1, height / total))
        blank(axis)
        axis.imshow(enlarged_row(images[:columns], scale, width), aspect="auto")
    return figure


def enlarged_row(images: np.ndarray, scale: int, width: int) -> np.ndarray:
    """Images (n, h, w, 3) beside each other, each pixel `scale` wide, on white up to `width` pixels."""
    big = images.repeat(scale, 1).repeat(scale, 2)
    gap = np.full((len(big[0]), 2 * scale, 3), 255, np.uint8)
    row = np.concatenate([part for image in big for part in (image, gap)], 1)[:, :width]
    return np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255)


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
    """Input, reconstruction, error map and both class names; six columns in a band, by `groups` (worst, ...)."""
    columns = 6
    bands = -(-len(x) // columns)
    figure = plt.figure(figsize=(WIDTH, 3.55 * bands))
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.015, wspace=0.02, hspace=0)
    error = np.abs(x.astype(float) - reconstruction.astype(float)).mean(-1) / 255
    grid = np.atleast_2d(figure.subplots(3 * bands, columns))
    for axis in grid.flat:
        blank(axis)
    for i in range(len(x)):
        band, column = divmod(i, columns)
        top, middle, bottom = grid[3 * band : 3 * band + 3, column]
        top.imshow(x[i])
        middle.imshow(reconstruction[i])
        heat = bottom.imshow(error[i], cmap="magma", vmin=0, vmax=0.4)
        space = "\n" if band else ""  # between the bands
        top.set_title(f"{space}{groups[i]}\n{-10 * np.log10(mse[i]):.1f} dB", fontsize=9.5)
        wrong = predicted[i] != truth[i]
        colour = "#bd1f01" if wrong else "#333333"
        bottom.set_xlabel(f"{truth[i]}\n{'≠' if wrong else '='} {predicted[i]}", fontsize=9, color=colour)
    for i, axis in enumerate(grid[:, 0]):
        axis.set_ylabel(("input", "decoded", "|error|")[i % 3], fontsize=9.5)
    figure.colorbar(
        heat, ax=grid, location="bottom", shrink=0.6, aspect=40, label="|error|, mean of the channels (0..1)"
    )
    return figure


# --- data (notebook 01) -----------------------------------------------------------------------------------------


def channel_histograms(images: np.ndarray) -> Figure:
    """The share of each of the 256 levels in the three channels of images (n, h, w, 3)."""
    figure, axis = plt.subplots(figsize=(WIDTH, 2.9))
    for channel, (name, colour, style) in enumerate(
        (("red", "#bd1f01", "-"), ("green", "#548d3b", "--"), ("blue", "#3f90da", "-."))
    ):
        counts = np.bincount(images[..., channel].ravel(), minlength=256)
        axis.plot(counts / counts.sum(), style, color=colour, label=name, lw=1.5)
    axis.set(xlabel="level (0 to 255)", ylabel="share of values", xlim=(0, 256), ylim=(0, None))
    axis.legend(ncols=3, loc="upper center")
    return figure


def counts_plot(counts: dict[str, np.ndarray], class_names: Sequence[str]) -> Figure:
    """Images per class in each split."""
    figure, axis = plt.subplots(figsize=(WIDTH, 3.2))
    at, width = np.arange(len(class_names)), 0.27
    for i, (split, values) in enumerate(counts.items()):
        label = f"{split}, {values.sum():,}"
        axis.bar(at + (i - 1) * width, values, width, label=label, color=SPLIT_COLOURS[split], lw=0)
    axis.set_xticks(at, class_names, rotation=40, ha="right", rotation_mode="anchor")
    axis.set(ylabel="images")
    axis.grid(False, axis="x")
    figure.legend(ncols=3, loc="outside upper right", columnspacing=1)
    return figure


def spectrum_plot(variance_ratio: np.ndarray, dims: Sequence[int], psnr: Sequence[float]) -> Figure:
    """Above: share of variance left after k components. Below: PSNR of the best linear code of d numbers."""
    figure, (above, below) = plt.subplots(2, 1, figsize=(WIDTH, 5.2))
    rest = 1 - np.cumsum(variance_ratio)
    above.loglog(np.arange(1, len(rest)), rest[:-1], lw=2)
    above.set(xlabel="components k", ylabel="share of variance left", ylim=(1e-4, 1))
    below.semilogx(dims, psnr, "o-", base=2, lw=2)
    for d, value in zip(dims, psnr, strict=True):
        below.annotate(f"{value:.1f}", (d, value), xytext=(0, 7), textcoords="offset points", ha="center", fontsize=9.5)
    below.set_xticks(dims, [str(d) for d in dims])
    below.set(xlabel="numbers in the code d", ylabel="PSNR on test, pooled (dB)")
    below.margins(y=0.18)
    return figure


def bars_plot(values: dict[str, float], xlabel: str, fmt: str = "{:.2f}") -> Figure:
    """Horizontal bars, each with its number."""
    figure, axis = plt.subplots(figsize=(WIDTH, 0.7 + 0.33 * len(values)))
    bars = axis.barh(list(values), list(values.values()), color="#3f90da", lw=0)
    axis.bar_label(bars, [fmt.format(v) for v in values.values()], padding=4, fontsize=9.5)
    axis.invert_yaxis()
    axis.grid(False, axis="y")
    axis.set_xlabel(xlabel, loc="right")
    axis.margins(x=0.16)
    return figure


# --- training (notebooks 02, 03) --------------------------------------------------------------------------------


def loss_plot(records: Sequence[dict[str, float]]) -> Figure:
    """Total, reconstruction and KL by epoch, train and validation, nats per image."""
    figure, axes = plt.subplots(3, 1, figsize=(WIDTH, 6.4), sharex=True)
    epochs = [record["epoch"] for record in records]
    terms = {
        "total = reconstruction + KL": ("distortion", "rate"),
        "reconstruction": ("distortion",),
        "KL": ("rate",),
    }
    for axis, (title, names) in zip(axes, terms.items(), strict=True):
        for split in ("train", "validation"):
            values = [sum(record[f"{split}_{name}"] for name in names) for record in records]
            axis.plot(epochs, values, SPLIT_STYLES[split], color=SPLIT_COLOURS[split], label=split, ms=4)
        axis.set(title=title, ylabel="nats per image")
        axis.xaxis.get_major_locator().set_params(integer=True)
        _fit_to_late_values(axis)
    axes[-1].set_xlabel("epoch")
    axes[0].legend(loc="center right")
    return figure


def _fit_to_late_values(axis: Axes) -> None:
    """Let the first epochs leave the picture upwards when they would flatten all others."""
    late = np.concatenate([line.get_ydata()[1:] for line in axis.lines])
    every = np.concatenate([line.get_ydata() for line in axis.lines])
    if len(late) > 6 and np.ptp(every) > 3 * np.ptp(late):
        pad = 0.08 * np.ptp(late)
        axis.set_ylim(late.min() - pad, late.max() + pad)
        axis.annotate("epoch 1 is off the scale", (0.99, 0.97), xycoords="axes fraction", ha="right", va="top")


# --- evaluation (notebook 04) -----------------------------------------------------------------------------------


def regression_plot(density: np.ndarray, line: Any, title: str) -> Figure:
    """True against reconstructed pixel values: density (bins, bins), the fitted line, R2 and RMSE."""
    figure, axis = plt.subplots(figsize=(WIDTH, 4.9))
    share = density.T / density.sum()
    smallest = share[share > 0].min()
    heat = axis.imshow(share, origin="lower", extent=(0, 1, 0, 1), norm=LogNorm(smallest, share.max()))
    ends = np.array([0.0, 1.0])
    axis.plot(ends, ends, ":", color="white", lw=1.5, label="perfect")
    axis.plot(ends, line.slope * ends + line.intercept, "-", color="#ffa90e", lw=2, label="least-squares fit")
    text = f"y = {line.slope:.3f} x + {line.intercept:.3f}\n$R^2$ = {line.r2:.4f}\nRMSE = {line.rmse:.4f}"
    box = {"facecolor": "white", "alpha": 0.9, "edgecolor": "none"}
    axis.text(0.03, 0.97, text, transform=axis.transAxes, va="top", bbox=box)
    axis.legend(loc="lower right", frameon=True, facecolor="#555555", labelcolor="white", framealpha=0.8)
    axis.set(xlabel="true pixel value", ylabel="reconstructed pixel value", title=title, xlim=(0, 1), ylim=(0, 1))
    axis.grid(False)
    figure.colorbar(heat, ax=axis, label="share of pixel values", shrink=0.85)
    return figure


def table_plot(tables: Mapping[str, tuple[Sequence[str], Sequence[Sequence[str]]]]) -> Figure:
    """Tables below each other as one picture: by title the header and the rows; the first column is text."""
    longest = max(len(header) for header, _ in tables.values())
    first, other = TABLE_COLUMNS
    width = first + other * (longest - 1)
    lines = [len(rows) + 1 for _, rows in tables.values()]
    figure, axes = plt.subplots(
        len(tables), 1, figsize=(width, 0.25 * sum(lines) + 0.35 * len(tables)), squeeze=False, height_ratios=lines
    )
    for axis, (title, (header, rows)) in zip(axes[:, 0], tables.items(), strict=True):
        blank(axis)
        axis.set_title(title, loc="left", fontsize=10, weight="bold")
        widths = [first / width] + [other / width] * (len(header) - 1)
        table = axis.table(
            rows, colLabels=header, colWidths=widths, cellLoc="right", edges="horizontal", bbox=(0, 0, 1, 1)
        )
        table.auto_set_font_size(False)
        table.set_fontsize(9)
        for (row, column), cell in table.get_celld().items():
            cell.set_edgecolor("#cccccc")
            cell.set_text_props(weight="bold" if row == 0 else "normal", ha="left" if column == 0 else "right")
            cell.PAD = 0.02
    return figure


def confusion_plot(matrix: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Counts of true (rows) against predicted (columns) classes."""
    figure, axis = plt.subplots(figsize=(WIDTH, 4.9))
    sns.heatmap(matrix, annot=True, fmt="d", cmap="cividis", cbar=False, annot_kws={"fontsize": 9}, ax=axis)
    axis.set_xticklabels(class_names, rotation=40, ha="right", rotation_mode="anchor")
    axis.set_yticklabels(class_names, rotation=0)
    axis.set(xlabel="predicted", ylabel="true")
    return figure


def rate_per_latent_plot(kl: np.ndarray) -> Figure:
    """The mean KL of every latent in nats, sorted."""
    figure, axis = plt.subplots(figsize=(WIDTH, 2.7))
    axis.bar(np.arange(1, len(kl) + 1), np.sort(kl)[::-1], width=1.0, color="#3f90da", lw=0)
    axis.set(xlabel="latents, sorted by their rate", ylabel="KL (nats)", xlim=(0, len(kl) + 1))
    return figure


# --- compression (notebook 06) ----------------------------------------------------------------------------------


def frontier_plot(line: Mapping[int, Mapping[str, str]], seeds: Sequence[Mapping[str, str]]) -> Figure:
    """Accuracy against PSNR over the class weight, from rows of experiments.csv; `seeds` are hollow: the noise.

    With the weight 0 no head was trained: only the PSNR of that run means something, a vertical line.
    """
    figure, axis = plt.subplots(figsize=(WIDTH, 3.9))
    trained = {weight: row for weight, row in line.items() if weight}
    for name, label, marker, colour, beside in (
        ("accuracy", "from the features", "o", CLASS_COLOURS[0], (0, 8)),
        ("code_accuracy", "from the code", "s", CLASS_COLOURS[2], (-13, -15)),
    ):
        for rows, style in ((seeds, {"ls": "", "mfc": "white", "zorder": 1}), (trained.values(), {"label": label})):
            x, y = [float(row["psnr_pooled"]) for row in rows], [100 * float(row[name]) for row in rows]
            axis.plot(x, y, marker=marker, color=colour, **style)
        for weight, *place in zip(trained, x, y, strict=True):
            axis.annotate(str(weight), place, beside, textcoords="offset points", ha="center", fontsize=9.5)
    axis.axvline(float(line[0]["psnr_pooled"]), color="black", ls="--", label="no classifier")
    axis.set(xlabel="PSNR, pooled, validation (dB)", ylabel="accuracy, validation (%)")
    axis.margins(0.08, 0.15)
    axis.legend(title="numbers: class weight", title_fontsize=9.5, loc="lower left")
    return figure


def peers_plot(columns: Mapping[str, Mapping[str, float]]) -> Figure:
    """A panel for each column of the comparison, a bar for each model that has such a number."""
    names = list(next(iter(columns.values())))
    figure, axes = plt.subplots(-(-len(columns) // 2), 2, figsize=(WIDTH, 5.6), sharey=True)
    for axis, (title, values) in zip(axes.flat, columns.items(), strict=True):
        places = [names.index(name) for name in values]
        bars = axis.barh(places, list(values.values()), color=[CLASS_COLOURS[0 if p == 0 else 9] for p in places], lw=0)
        axis.bar_label(bars, [f"{v:,.4g}" for v in values.values()], padding=3, fontsize=9)
        axis.set_title(title, loc="left", fontsize=9.5)
        axis.set_yticks(range(len(names)), names)
        axis.grid(False)
        axis.set_xticks([])
        axis.spines["bottom"].set_visible(False)
        axis.margins(x=0.25)
    axes.flat[0].invert_yaxis()
    return figure


def rate_distortion_plot(curves: dict[str, tuple[Sequence[float], Sequence[float]]]) -> Figure:
    """PSNR (pooled, dB) against bytes per image, one labelled line per codec; long lines (theory) have no markers."""
    figure, axis = plt.subplots(figsize=(WIDTH, 5.2))
    for (label, (size, quality)), marker in zip(curves.items(), "osD^v*", strict=False):
        style = {"color": "0.4", "ls": "--"} if len(size) > 15 else {"marker": marker}
        axis.semilogx(size, quality, label=label, **style)
    smallest = min(min(size) for size, _ in curves.values())
    ticks = [tick for tick in (5, 10, 20, 35, 50, 100, 200, 400, 700) if tick > 0.7 * smallest]
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.minorticks_off()
    axis.set(xlabel="bytes per image", ylabel="PSNR on test, pooled (dB)")
    figure.legend(loc="outside lower center", ncols=1)
    return figure
