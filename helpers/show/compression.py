"""The figure of compression (notebook 6)."""

from collections.abc import Sequence

import matplotlib.pyplot as plt

from .theme import WIDTH


def rate_distortion_plot(curves: dict[str, tuple[Sequence[float], Sequence[float]]]) -> plt.Figure:
    """PSNR (pooled, dB) against bytes per image, one labelled line per codec; long lines (theory) have no markers."""
    figure, axis = plt.subplots(figsize=(WIDTH, 5.2))
    for (label, (size, quality)), marker in zip(curves.items(), "osD^v*Xph", strict=False):
        style = {"color": "0.4", "ls": "--"} if len(size) > 15 else {"marker": marker}
        axis.semilogx(size, quality, label=label, **style)
    measured = [size for size, _ in curves.values() if len(size) <= 15]
    smallest, largest = min(map(min, measured)), max(map(max, measured))
    ticks = [tick for tick in (5, 10, 20, 35, 50, 100, 200, 400, 700, 1000, 1500) if 0.7 * smallest < tick < largest]
    axis.set(xlabel="bytes per image", ylabel="PSNR on test, pooled (dB)", xticks=ticks, xticklabels=map(str, ticks))
    axis.set_xlim(0.8 * smallest, 1.2 * largest)
    axis.minorticks_off()
    figure.legend(loc="outside lower center", ncols=2)
    return figure
