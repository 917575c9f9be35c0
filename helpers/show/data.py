"""The figures of the data and of its best linear code (notebook 1). Images are uint8 arrays (n, h, w, 3)."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np

from .theme import SPLIT_COLOURS, WIDTH


def channel_histograms(images: np.ndarray) -> plt.Figure:
    """The share of each of the 256 levels in the three channels of images (n, h, w, 3)."""
    figure, axis = plt.subplots(figsize=(WIDTH, 2.9))
    looks = {"red": ("-", "#bd1f01"), "green": ("--", "#548d3b"), "blue": ("-.", "#3f90da")}
    for channel, (name, (style, colour)) in enumerate(looks.items()):
        shares = np.bincount(images[..., channel].ravel(), minlength=256) / images[..., channel].size
        axis.plot(shares, style, color=colour, label=name, lw=1.5)
    axis.set(xlabel="level (0 to 255)", ylabel="share of values", xlim=(0, 256), ylim=(0, None))
    axis.legend(ncols=3, loc="upper center")
    return figure


def counts_plot(counts: dict[str, np.ndarray], class_names: Sequence[str]) -> plt.Figure:
    """Images per class in each split."""
    figure, axis = plt.subplots(figsize=(WIDTH, 3.2))
    at, width = np.arange(len(class_names)), 0.27
    for place, (split, n) in zip((-width, 0, width), counts.items(), strict=True):
        axis.bar(at + place, n, width, label=f"{split}, {n.sum():,}", color=SPLIT_COLOURS[split], lw=0)
    some = slice(None, None, -(-len(class_names) // 20))  # so few names that they can be read
    axis.set_xticks(at[some], class_names[some], rotation=40, ha="right", rotation_mode="anchor")
    axis.set(ylabel="images")
    axis.grid(False, axis="x")
    figure.legend(ncols=3, loc="outside upper right", columnspacing=1)
    return figure


def spectrum_plot(variance_ratio: np.ndarray, dims: Sequence[int], psnr: Sequence[float]) -> plt.Figure:
    """Above: share of variance left after k components. Below: PSNR of the best linear code of d numbers."""
    figure, (above, below) = plt.subplots(2, 1, figsize=(WIDTH, 5.2))
    rest = 1 - np.cumsum(variance_ratio)
    above.loglog(np.arange(1, len(rest)), rest[:-1], lw=2)
    above.set(xlabel="components k", ylabel="share of variance left", ylim=(1e-4, 1))
    below.semilogx(dims, psnr, "o-", base=2, lw=2)
    for d, value in zip(dims, psnr, strict=True):
        below.annotate(f"{value:.1f}", (d, value), xytext=(0, 7), textcoords="offset points", ha="center", fontsize=9.5)
    below.set_xticks(dims, map(str, dims))
    below.set(xlabel="numbers in the code d", ylabel="PSNR on test, pooled (dB)", ymargin=0.18)
    return figure


def bars_plot(values: dict[str, float], xlabel: str, fmt: str = "{:.2f}") -> plt.Figure:
    """Horizontal bars, each with its number."""
    figure, axis = plt.subplots(figsize=(WIDTH, 0.7 + 0.33 * len(values)))
    bars = axis.barh(list(values), list(values.values()), color="#3f90da", lw=0)
    axis.bar_label(bars, fmt=fmt, padding=4, fontsize=9.5)
    axis.invert_yaxis()
    axis.grid(False, axis="y")
    axis.set_xlabel(xlabel, loc="right")
    axis.margins(x=0.16)
    return figure
