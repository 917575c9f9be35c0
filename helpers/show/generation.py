"""The figure that compares models of other people with ours (notebook 5)."""

import textwrap
from collections.abc import Mapping

import matplotlib.pyplot as plt

from .theme import CLASS_COLOURS, WIDTH


def peers_plot(columns: Mapping[str, Mapping[str, float]]) -> plt.Figure:
    """A panel for each column of the comparison, a bar for each model that has such a number."""
    names = list(next(iter(columns.values())))
    figure, axes = plt.subplots(-(-len(columns) // 2), 2, figsize=(WIDTH, 5.6), sharey=True)
    for axis, (title, values) in zip(axes.flat, columns.items(), strict=True):
        colours = [CLASS_COLOURS[0 if name == names[0] else 9] for name in values]
        bars = axis.barh([names.index(name) for name in values], list(values.values()), color=colours, lw=0)
        axis.bar_label(bars, fmt="{:,.4g}", padding=3, fontsize=9)
        axis.set_title(textwrap.fill(title, 30), loc="left", fontsize=9.5)
        axis.spines["bottom"].set_visible(False)
        axis.grid(False)
        axis.set(xticks=[], xmargin=0.25, yticks=range(len(names)), yticklabels=names)
    axes.flat[0].invert_yaxis()
    return figure
