"""The figures of the evaluation (notebook 4), most of them drawn from rows of results."""

import math
from collections.abc import Mapping, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from ..measure.rows import Table
from .theme import CLASS_COLOURS, CLASS_MARKERS, WIDTH, blank, with_minus

Names = Sequence[str]
LABELS = {
    "vae": "VAE", "pca": "PCA", "input": "no model", "auroc_elbo": "−ELBO", "auroc_elbo_minus_png": "−ELBO less PNG",
    "auroc_elbo_minus_webp": "−ELBO less WebP", "auroc_confidence": "classifier not sure",
}  # fmt: skip


def plain(name: str) -> str:
    """A name of a model, a metric or a set in words."""
    return LABELS.get(name, name.replace("_", " "))


def frequency_plot(table: Table, split: str = "test") -> Figure:
    """Above: power of the images and of the errors by frequency. Below: the share of it that is lost."""
    figure, (above, below) = plt.subplots(2, 1, figsize=(WIDTH, 5.6), sharex=True)
    image = table.array("image", "spectrum", split=split)
    frequency = np.arange(len(image))
    above.semilogy(frequency, image, "k-", lw=2, label="images")
    models = [model for model in table.nested("spectrum", split=split) if model != "mean_image"]  # it loses everything
    for model, style in zip(models, ("o-", "s--", "D-."), strict=False):
        error = table.array("error", "spectrum", model, split)
        above.semilogy(frequency, error, style, ms=4, label=f"error, {plain(model)}")
        below.plot(frequency, error / image, style, ms=4, label=plain(model))
    above.set(ylabel="power (squared pixel values)")
    below.set(xlabel="cycles per image", ylabel="share of the power lost", ylim=(0, None), xticks=frequency[::2])
    above.legend()
    below.legend(loc="lower right")
    return figure


def class_plot(table: Table, model: str = "vae", split: str = "test") -> Figure:
    """How well a class is drawn (PSNR) against how well it is recognised (F1), two standard errors each way."""
    figure, axis = plt.subplots(figsize=(WIDTH, 4.6))
    classes = table.nested("by_class", model, split)
    order = sorted(classes, key=lambda name: classes[name]["f1"].value)
    for (name, rows), colour, marker in zip(classes.items(), cycle(CLASS_COLOURS), cycle(CLASS_MARKERS), strict=False):
        drawn, named, rank = rows["psnr_mean"], rows["f1"], order.index(name)
        errors = {f"{at}err": row.stderr and 2 * row.stderr for at, row in (("x", drawn), ("y", named))}  # None stays
        axis.errorbar(drawn.value, named.value, fmt=marker, color=colour, ms=8, lw=1, label=name, **errors)
        if min(rank, len(order) - 1 - rank) < 5:  # of many classes those are named that are recognised best and worst
            place = (7, -13) if rank % 2 else (7, 5)  # neighbours in height write on different sides
            axis.annotate(name, (drawn.value, named.value), xytext=place, textcoords="offset points", color=colour)
    axis.set(xlabel="easy to draw: PSNR, mean over images (dB)", ylabel="easy to recognise: F1", xmargin=0.12)
    return figure


def reliability_plot(table: Table, model: str = "vae") -> Figure:
    """Accuracy against confidence, before and after temperature scaling, for both heads; the diagonal is perfect."""
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.7), sharey=True)
    for axis, head in zip(axes, ("features", "code"), strict=True):
        axis.plot([0, 1], [0, 1], ":", color="#777777")
        for name, label, style in (("", "as trained", "o--"), ("_scaled", "scaled", "s-")):
            share, confidence, accuracy = table.array(f"{head}.bins{name}", "calibration", model).T
            kept = share > 0.002  # a handful of images says nothing
            error = 100 * table.value(f"{head}.ece{name}", "calibration", model)
            axis.plot(confidence[kept], accuracy[kept], style, ms=4, clip_on=False, label=f"{label}: ECE {error:.1f} %")
        limits = {"xlim": (0, 1), "ylim": (0, 1), "xticks": [0, 0.5, 1], "aspect": "equal"}
        axis.set(xlabel="confidence", title=f"head on the {head}", **limits)
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22))
    axes[0].set_ylabel("accuracy on test")
    return figure


def corruption_plot(table: Table) -> Figure:
    """A row per corruption, by severity (0 is clean): accuracy, and PSNR against the clean image."""
    models = table.nested("corruptions", split="test")
    kinds = list(models["input"])
    size = (WIDTH, 1.5 * len(kinds) + 0.5)
    figure, axes = plt.subplots(len(kinds), 2, figsize=size, sharex=True, sharey="col", squeeze=False)
    for row, kind in zip(axes, kinds, strict=True):
        for (model, sets), marker in zip(models.items(), "osD^v", strict=False):
            steps = {0: sets["clean"]} if "clean" in sets else {}
            steps |= {int(name.removeprefix("severity_")): step for name, step in sets[kind].items()}
            style = {"color": "k", "ls": ":"} if model == "input" else {}
            for axis, name, factor in ((row[0], "accuracy", 100), (row[1], "psnr_clean", 1)):
                if name in steps[max(steps)]:
                    heights = [factor * step[name].value for step in steps.values()]
                    axis.plot(list(steps), heights, marker=marker, ms=4, label=plain(model), **style)
        row[0].set_ylabel(plain(kind))
    axes[0, 0].set_title("accuracy (%)")
    axes[0, 1].set(title="PSNR against the clean image (dB)", ylim=(12, 44))
    plt.setp(axes[-1], xlabel="severity", xticks=range(6))
    handles, labels = axes[0, 1].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=len(labels), loc="outside upper center")
    return figure


def auroc_plot(table: Table) -> Figure:
    """A table in colours: foreign sets (rows) by score (columns); 0.5 is chance, below it the score is fooled."""
    sets = {name: rows for name, rows in table.nested("out_of_distribution", "vae", "test").items() if name != "test"}
    scores = [name for name in next(iter(sets.values())) if name.startswith("auroc_")]
    values = np.array([[rows[score].value for score in scores] for rows in sets.values()])
    figure, axis = plt.subplots(figsize=(WIDTH, 1.3 + 0.4 * len(sets)))
    colours = {"cmap": "RdBu", "vmin": 0, "vmax": 1, "center": 0.5}
    import seaborn as sns  # a second that other figures do not need

    sns.heatmap(values, annot=True, fmt=".2f", annot_kws={"fontsize": 9.5}, cbar_kws={"label": "AUROC"}, **colours)
    names = [LABELS.get(score, plain(score.removeprefix("auroc_"))) for score in scores]
    axis.set_xticklabels(names, rotation=35, ha="right", rotation_mode="anchor")
    axis.set_yticklabels([plain(name) for name in sets], rotation=0)
    return figure


def gap_rows(table: Table, names: Names, model: str = "vae") -> str:
    """A Markdown table of the gaps of a model between train and test, in standard errors too, and validation."""
    lines = ["| metric | train − test | in standard errors | train − validation |", "| :--- | ---: | ---: | ---: |"]
    for name in names:
        test, validation = (table.row(name, "gaps", model, f"train_minus_{split}") for split in ("test", "validation"))
        first, second = (f"{gap.value:+.4f} ± {gap.stderr:.4f}" for gap in (test, validation))
        ratio = test.value / test.stderr if test.stderr else math.inf
        lines.append(f"| {plain(name)} | {first} | {ratio:+.1f} | {second} |")
    return "\n".join(lines)


def data_points_plot(
    x: np.ndarray, reconstruction: np.ndarray, mse: np.ndarray, truth: Names, predicted: Names, groups: Names
) -> Figure:
    """Input, reconstruction, error map and both class names; six columns in a band, by `groups` (worst, ...)."""
    columns, bands = 6, math.ceil(len(x) / 6)
    figure = plt.figure(figsize=(WIDTH, 3.55 * bands))
    figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.015, wspace=0.02, hspace=0)
    error = np.abs(x.astype(float) - reconstruction.astype(float)).mean(-1) / 255
    grid = figure.subplots(3 * bands, columns)
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
        sign, colour = ("=", "#333333") if predicted[i] == truth[i] else ("≠", "#bd1f01")
        bottom.set_xlabel(f"{truth[i]}\n{sign} {predicted[i]}", fontsize=9, color=colour)
    for axis, label in zip(grid[:, 0], ["input", "decoded", "|error|"] * bands, strict=True):
        axis.set_ylabel(label, fontsize=9.5)
    bar = figure.colorbar(heat, ax=grid, location="bottom", shrink=0.6, aspect=40)
    bar.set_label("|error|, mean of the channels (0..1)")
    return figure


def regression_plot(density: np.ndarray, line: Mapping[str, float], title: str) -> Figure:
    """True against reconstructed pixel values: density (bins, bins) and what `SplitResult.regression` gives."""
    figure, axis = plt.subplots(figsize=(WIDTH, 4.9))
    share, (slope, intercept) = density.T / density.sum(), (line["slope"], line["intercept"])
    norm = LogNorm(share[share > 0].min(), share.max())
    heat = axis.imshow(share, origin="lower", extent=(0, 1, 0, 1), norm=norm)
    axis.plot([0, 1], [0, 1], ":", color="white", lw=1.5, label="perfect")
    axis.plot([0, 1], [intercept, slope + intercept], "-", color="#ffa90e", lw=2, label="least-squares fit")
    text = f"y = {slope:.3f} x + {intercept:.3f}\n$R^2$ = {line['pixel_r2']:.4f}\nRMSE = {line['rmse']:.4f}"
    box = {"facecolor": "white", "alpha": 0.9, "edgecolor": "none"}
    axis.text(0.03, 0.97, text, transform=axis.transAxes, va="top", bbox=box)
    axis.legend(loc="lower right", frameon=True, facecolor="#555555", labelcolor="white", framealpha=0.8)
    axis.set(xlabel="true pixel value", ylabel="reconstructed pixel value", title=title, xlim=(0, 1), ylim=(0, 1))
    axis.grid(False)
    figure.colorbar(heat, ax=axis, label="share of pixel values", shrink=0.85)
    return figure


def table_plot(tables: Mapping[str, tuple[Sequence[str], Sequence[Sequence[str]]]]) -> Figure:
    """Tables below each other as one picture: by title the header and the rows; the first column is text."""
    first, other = 1.8, 1.16  # inches: the first column, each of the others
    width = first + other * (max(len(header) for header, _ in tables.values()) - 1)
    lines = [len(rows) + 1 for _, rows in tables.values()]
    size = (width, 0.25 * sum(lines) + 0.35 * len(tables))
    figure, axes = plt.subplots(len(tables), 1, figsize=size, squeeze=False, height_ratios=lines)
    for axis, (title, (header, rows)) in zip(axes[:, 0], tables.items(), strict=True):
        blank(axis)
        axis.set_title(title, loc="left", fontsize=10, weight="bold")
        widths = [first / width] + [other / width] * (len(header) - 1)
        table = axis.table(rows, colLabels=header, colWidths=widths, edges="horizontal", bbox=(0, 0, 1, 1))
        table.auto_set_font_size(False)
        table.set_fontsize(9)
        for (row, column), cell in table.get_celld().items():
            cell.set_edgecolor("#cccccc")
            cell.set_text_props(weight="bold" if row == 0 else "normal", ha="left" if column == 0 else "right")
            cell.get_text().set_text(with_minus(cell.get_text().get_text()))
            cell.PAD = 0.02
    return figure


def confusion_plot(matrix: np.ndarray, class_names: Names) -> Figure:
    """Counts of true (rows) against predicted (columns) classes."""
    figure, axis = plt.subplots(figsize=(WIDTH, 4.9))
    few = len(class_names) <= 20  # numbers in more cells could not be read
    import seaborn as sns

    sns.heatmap(matrix, annot=few, fmt="d", cmap="cividis", cbar=not few, annot_kws={"fontsize": 9}, ax=axis)
    some = slice(None, None, -(-len(class_names) // 20))
    places = np.arange(len(class_names))[some] + 0.5
    axis.set_xticks(places, class_names[some], rotation=40, ha="right", rotation_mode="anchor")
    axis.set_yticks(places, class_names[some], rotation=0)
    axis.set(xlabel="predicted", ylabel="true")
    return figure


def rate_per_latent_plot(kl: np.ndarray) -> Figure:
    """The mean KL of every latent in nats, sorted."""
    figure, axis = plt.subplots(figsize=(WIDTH, 2.7))
    axis.bar(np.arange(1, len(kl) + 1), np.sort(kl)[::-1], width=1.0, color="#3f90da", lw=0)
    axis.set(xlabel="latents, sorted by their rate", ylabel="KL (nats)", xlim=(0, len(kl) + 1))
    return figure
