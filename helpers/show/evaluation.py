"""The figures of the evaluation beyond its table; each takes a block of metrics.json (notebook 4)."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

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
    """Left: power of the images and of the errors by frequency. Right: the share of it that is lost."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.5))
    image = np.array(block["models"]["vae"][split]["image"]["value"])
    frequency = np.arange(len(image))
    left.semilogy(frequency, image, "k-", lw=2, label="images")
    for (model, found), style in zip(block["models"].items(), ("o-", "s--", "D-.", "^:"), strict=False):
        if model == "mean_image":  # it loses nearly everything, everywhere
            continue
        error = np.array(found[split]["error"]["value"])
        left.semilogy(frequency, error, style, ms=4, label=f"error, {plain(model)}")
        right.plot(frequency, error / image, style, ms=4, label=plain(model))
    for axis in (left, right):
        axis.set_xticks(frequency[::2])
    left.set(xlabel="cycles per image", ylabel="power (squared pixel values)")
    right.set(xlabel="cycles per image", ylabel="share of the power lost", ylim=(0, 1))
    left.legend(frameon=False, fontsize="small")
    right.legend(frameon=False, fontsize="small", loc="lower right")
    return figure


def class_plot(block: dict[str, Any], split: str = "test") -> Figure:
    """PSNR and F1 of every class, VAE and autoencoder beside each other, with standard errors."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True)
    titles = {"psnr_mean": "PSNR, mean over images (dB)", "f1": "F1, head on the features"}
    models = [model for model in ("vae", "autoencoder") if model in block["models"]]
    for axis, (name, title) in zip(axes, titles.items(), strict=True):
        for i, model in enumerate(models):
            found = block["models"][model][split]
            values = [entry[name]["value"] for entry in found.values()]
            errors = [2 * entry[name]["stderr"] for entry in found.values()]
            at = np.arange(len(values)) + 0.18 * (i - 0.5)
            axis.errorbar(values, at, xerr=errors, fmt=MARKERS[i], ms=5, label=plain(model))
        axis.set(xlabel=title)
    axes[0].set_yticks(np.arange(len(found)), list(found))
    axes[0].invert_yaxis()
    axes[0].legend(frameon=False, fontsize="small")
    return figure


def reliability_plot(block: dict[str, Any], model: str = "vae") -> Figure:
    """Accuracy against confidence, before and after temperature scaling, for both heads; the diagonal is perfect."""
    figure, axes = plt.subplots(1, 2, figsize=(8.5, 3.8), sharey=True)
    for axis, (head, found) in zip(axes, block["models"][model].items(), strict=True):
        axis.plot([0, 1], [0, 1], ":", color="#777777")
        for name, label, style in (("", "as trained", "o--"), ("_scaled", "temperature scaled", "s-")):
            share, confidence, accuracy = np.array(found[f"bins{name}"]["value"]).T
            kept = share > 0.002  # a handful of images says nothing
            error = 100 * found[f"ece{name}"]["value"]
            axis.plot(confidence[kept], accuracy[kept], style, ms=4, label=f"{label}: ECE {error:.1f} %")
        axis.set(xlabel="confidence", title=f"head on the {head}", xlim=(0, 1), ylim=(0, 1))
        axis.legend(frameon=False, fontsize="small", loc="upper left")
    axes[0].set_ylabel("accuracy on test")
    return figure


def corruption_plot(block: dict[str, Any]) -> Figure:
    """Per corruption: accuracy (above) and PSNR against the clean image (below) by severity; 0 is clean."""
    kinds = list(block["models"]["input"])
    figure, axes = plt.subplots(2, len(kinds), figsize=(2.1 * len(kinds), 4.6), sharex=True, sharey="row")
    for column, kind in zip(axes.T, kinds, strict=True):
        for (model, found), marker in zip(block["models"].items(), MARKERS, strict=False):
            steps = list(found[kind].values())
            first = [found["clean"]] if "clean" in found else []
            at = np.arange(1 - len(first), len(steps) + 1)
            for axis, name, factor in ((column[0], "accuracy", 100), (column[1], "psnr_clean", 1)):
                if name in steps[0]:
                    values = [factor * entry[name]["value"] for entry in first + steps]
                    style = {"marker": marker, "ms": 4, "label": plain(model)}
                    axis.plot(at, values, **style, **({"color": "k", "ls": ":"} if model == "input" else {}))
        column[0].set_title(plain(kind), fontsize="small")
        column[1].set_xlabel("severity", fontsize="small")
    axes[0, 0].set_ylabel("accuracy (%)")
    axes[1, 0].set(ylabel="PSNR against\nthe clean image (dB)", ylim=(12, 36))
    axes[1, -1].legend(frameon=False, fontsize="x-small")
    return figure


def auroc_plot(block: dict[str, Any]) -> Figure:
    """A table in colours: foreign sets (rows) by score (columns); 0.5 is chance, below it the score is fooled."""
    found = {name: entry for name, entry in block["models"]["vae"].items() if name != "test"}
    scores = [name for name in next(iter(found.values())) if name.startswith("auroc_")]
    values = np.array([[entry[score]["value"] for score in scores] for entry in found.values()])
    figure, axis = plt.subplots(figsize=(7.8, 0.9 + 0.42 * len(found)))
    colours = {"cmap": "RdBu", "vmin": 0, "vmax": 1, "center": 0.5}
    sns.heatmap(values, annot=True, fmt=".2f", annot_kws={"fontsize": 9}, cbar_kws={"label": "AUROC"}, **colours)
    names = [SCORES.get(score.removeprefix("auroc_"), plain(score.removeprefix("auroc_"))) for score in scores]
    axis.set_xticklabels(names, rotation=20, ha="right", fontsize="small")
    axis.set_yticklabels([plain(name) for name in found], rotation=0, fontsize="small")
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
