"""The figure of compression (notebook 6)."""

from collections.abc import Sequence

import matplotlib.pyplot as plt

from .theme import WIDTH


def rate_distortion_plot(curves: dict[str, tuple[Sequence[float], Sequence[float]]]) -> plt.Figure:
    """PSNR (pooled, dB) against bytes per image, one labelled line per codec; long lines (theory) have no markers."""
    figure, axis = plt.subplots(figsize=(WIDTH, 5.2))
    for (label, (size, quality)), marker in zip(curves.items(), "osD^v*", strict=False):
        style = {"color": "0.4", "ls": "--"} if len(size) > 15 else {"marker": marker}
        axis.semilogx(size, quality, label=label, **style)
    smallest = min(min(size) for size, _ in curves.values())
    ticks = [tick for tick in (5, 10, 20, 35, 50, 100, 200, 400, 700) if tick > 0.7 * smallest]
    axis.set(xlabel="bytes per image", ylabel="PSNR on test, pooled (dB)", xticks=ticks, xticklabels=map(str, ticks))
    axis.minorticks_off()
    figure.legend(loc="outside lower center", ncols=1)
    return figure
