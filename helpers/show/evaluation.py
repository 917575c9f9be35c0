"""The figures of the evaluation beyond its table; each takes a block of metrics.json (notebook 4)."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from .figures import CLASS_COLOURS, CLASS_MARKERS, WIDTH

LABELS = {"vae": "VAE", "autoencoder": "autoencoder", "pca": "PCA", "mean_image": "mean image", "input": "no model"}
SCORES = {
    "elbo": "−ELBO",
    "confidence": "classifier not sure",
    "elbo_minus_png": "−ELBO less PNG",
    "elbo_minus_webp": "−ELBO less WebP",
}
MARKERS = "osD^v"


def plain(name: str) -> str:
    """A key of metrics.json as words."""
    return LABELS.get(name, name.replace("_", " "))


def frequency_plot(block: dict[str, Any], split: str = "test") -> Figure:
    """Above: power of the images and of the errors by frequency. Below: the share of it that is lost."""
    figure, (above, below) = plt.subplots(2, 1, figsize=(WIDTH, 5.6), sharex=True)
    image = np.array(block["models"]["vae"][split]["image"]["value"])
    frequency = np.arange(len(image))
    above.semilogy(frequency, image, "k-", lw=2, label="images")
    for (model, found), style in zip(block["models"].items(), ("o-", "s--", "D-.", "^:"), strict=False):
        if model == "mean_image":  # it loses nearly everything, everywhere
            continue
        error = np.array(found[split]["error"]["value"])
        above.semilogy(frequency, error, style, ms=4, label=f"error, {plain(model)}")
        below.plot(frequency, error / image, style, ms=4, label=plain(model))
    below.set_xticks(frequency[::2])
    above.set(ylabel="power (squared pixel values)")
    below.set(xlabel="cycles per image", ylabel="share of the power lost", ylim=(0, 1))
    above.legend()
    below.legend(loc="lower right")
    return figure


def class_plot(block: dict[str, Any], split: str = "test", model: str = "vae") -> Figure:
    """How well a class is drawn (PSNR) against how well it is recognised (F1), two standard errors each way."""
    figure, axis = plt.subplots(figsize=(WIDTH, 4.6))
    classes = block["models"][model][split]
    order = sorted(classes, key=lambda name: classes[name]["f1"]["value"])
    for (name, found), colour, marker in zip(classes.items(), CLASS_COLOURS, CLASS_MARKERS, strict=False):
        drawn, named = found["psnr_mean"], found["f1"]
        axis.errorbar(
            drawn["value"], named["value"], 2 * named["stderr"], 2 * drawn["stderr"],
            fmt=marker, color=colour, ms=8, lw=1, label=name,
        )  # fmt: skip
        below = order.index(name) % 2  # neighbours in height write on different sides
        axis.annotate(
            name, (drawn["value"], named["value"]), xytext=(7, -13 if below else 5), textcoords="offset points"
        )
    axis.set(xlabel="easy to draw: PSNR, mean over images (dB)", ylabel="easy to recognise: F1")
    axis.margins(x=0.12)
    return figure


def reliability_plot(block: dict[str, Any], model: str = "vae") -> Figure:
    """Accuracy against confidence, before and after temperature scaling, for both heads; the diagonal is perfect."""
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.7), sharey=True)
    for axis, (head, found) in zip(axes, block["models"][model].items(), strict=True):
        axis.plot([0, 1], [0, 1], ":", color="#777777")
        for name, label, style in (("", "as trained", "o--"), ("_scaled", "scaled", "s-")):
            share, confidence, accuracy = np.array(found[f"bins{name}"]["value"]).T
            kept = share > 0.002  # a handful of images says nothing
            error = 100 * found[f"ece{name}"]["value"]
            axis.plot(confidence[kept], accuracy[kept], style, ms=4, label=f"{label}: ECE {error:.1f} %")
        axis.set(xlabel="confidence", xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axis.set_title(f"head on the {head}")
        axis.set_xticks([0, 0.5, 1])
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22))
    axes[0].set_ylabel("accuracy on test")
    return figure


def corruption_plot(block: dict[str, Any]) -> Figure:
    """A row per corruption, by severity (0 is clean): accuracy, and PSNR against the clean image."""
    kinds = list(block["models"]["input"])
    figure, axes = plt.subplots(len(kinds), 2, figsize=(WIDTH, 1.5 * len(kinds) + 0.5), sharex=True, sharey="col")
    for row, kind in zip(axes, kinds, strict=True):
        for (model, found), marker in zip(block["models"].items(), MARKERS, strict=False):
            steps = list(found[kind].values())
            first = [found["clean"]] if "clean" in found else []
            at = np.arange(1 - len(first), len(steps) + 1)
            for axis, name, factor in ((row[0], "accuracy", 100), (row[1], "psnr_clean", 1)):
                if name in steps[0]:
                    values = [factor * entry[name]["value"] for entry in first + steps]
                    style = {"marker": marker, "ms": 4, "label": plain(model)}
                    axis.plot(at, values, **style, **({"color": "k", "ls": ":"} if model == "input" else {}))
        row[0].set_ylabel(plain(kind))
    axes[0, 0].set_title("accuracy (%)")
    axes[0, 1].set(title="PSNR against the clean image (dB)", ylim=(12, 36))
    for axis in axes[-1]:
        axis.set(xlabel="severity", xticks=range(6))
    handles, labels = axes[0, 1].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=len(labels), loc="outside upper center")
    return figure


def auroc_plot(block: dict[str, Any]) -> Figure:
    """A table in colours: foreign sets (rows) by score (columns); 0.5 is chance, below it the score is fooled."""
    found = {name: entry for name, entry in block["models"]["vae"].items() if name != "test"}
    scores = [name for name in next(iter(found.values())) if name.startswith("auroc_")]
    values = np.array([[entry[score]["value"] for score in scores] for entry in found.values()])
    figure, axis = plt.subplots(figsize=(WIDTH, 1.3 + 0.4 * len(found)))
    colours = {"cmap": "RdBu", "vmin": 0, "vmax": 1, "center": 0.5}
    sns.heatmap(values, annot=True, fmt=".2f", annot_kws={"fontsize": 9.5}, cbar_kws={"label": "AUROC"}, **colours)
    names = [SCORES.get(score.removeprefix("auroc_"), plain(score.removeprefix("auroc_"))) for score in scores]
    axis.set_xticklabels(names, rotation=35, ha="right", rotation_mode="anchor")
    axis.set_yticklabels([plain(name) for name in found], rotation=0)
    return figure


def image_sets(sets: dict[str, np.ndarray], columns: int = 8) -> dict[str, np.ndarray]:
    """The first images of every set (n, h, w, 3), by its name in words: rows for `figures.image_rows`."""
    return {plain(name): images[:columns] for name, images in sets.items()}


def gap_rows(block: dict[str, Any], names: Sequence[str], model: str = "vae") -> str:
    """A Markdown table of the gaps of a model: train minus test and train minus validation, in standard errors too."""
    lines = ["| metric | train − test | in standard errors | train − validation |", "| :--- | ---: | ---: | ---: |"]
    found = block["models"][model]
    for name in names:
        first, second = found["train_minus_test"][name], found["train_minus_validation"][name]
        values = [f"{gap['value']:+.4f} ± {gap['stderr']:.4f}" for gap in (first, second)]
        ratio = first["value"] / first["stderr"] if first["stderr"] else float("inf")
        lines.append(f"| {plain(name)} | {values[0]} | {ratio:+.1f} | {values[1]} |")
    return "\n".join(lines)
