"""The results of an evaluation and their files: metrics.json for programs, metrics.csv for spreadsheets."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..config import Settings, write_whole
from ..data import Dataset
from ..runtime import environment
from ..schemas import write_json
from .metrics import Estimate, PixelMoments

SEED = 0  # of the posterior samples
TIMES = ("finished", "seconds")  # of a training run: they differ between equal ones
UNITS = {
    "mse": "squared pixel values in [0, 1], mean over values",
    "mae": "pixel values in [0, 1], mean over values",
    "psnr_pooled": "dB, of the MSE over the whole split",
    "psnr_mean": "dB, mean over images",
    "ssim": "mean over images",
    "mse_sample": "as mse, of a decoded posterior sample",
    "mae_sample": "as mae, of a decoded posterior sample",
    "psnr_sample": "dB, pooled, of a decoded posterior sample",
    "psnr_mean_sample": "dB, mean over images, of a decoded posterior sample",
    "ssim_sample": "mean over images, of a decoded posterior sample",
    "pixel_r2": "pooled over all pixel values",
    "slope": "reconstructed per true pixel value",
    "rmse": "pixel values in [0, 1], pooled",
    "distortion": "nats per image, density, one posterior sample",
    "rate": "nats per image, exact KL",
    "elbo": "nats per image, density (minus distortion minus rate)",
    "bpd": "bits per colour value, probability of the 8-bit image (discretised Gaussian) plus rate",
    "sigma": "pixel values in [0, 1]",
    "accuracy": "share of images, head on the encoder's features, single view",
    "code_accuracy": "share of images, linear head on the code alone",
    "accuracy_flip": "share of images, mean probability of the image and its mirror image",
    "code_accuracy_flip": "the same for the head on the code",
    "cross_entropy": "nats per image, head on the encoder's features",
    "code_cross_entropy": "nats per image, head on the code",
    "macro_f1": "mean F1 over classes, head on the encoder's features",
    "ece": "share, expected calibration error, 15 bins, features head, no temperature scaling",
    "active_units": "latents with Var(mu) > 0.01",
}


class SplitResult(NamedTuple):
    """What the evaluation of one model on one split gives; the arrays are for figures and further analyses."""

    metrics: dict[str, Estimate]
    image_mse: Tensor  # (n,)
    predictions: Tensor  # (n,) class numbers, or empty
    moments: PixelMoments
    columns: dict[str, Tensor]  # per image, (n,) or (n, k): what the metrics are means of


Results = dict[str, dict[str, SplitResult]]  # by model and split


def metrics_content(
    results: Results,
    data: Dataset,
    settings: Settings,
    run: dict[str, Any],
    blocks: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What metrics.json holds: {"value", "stderr"} by model, split and metric, and how the numbers came about.

    `blocks` are what `analyses` found; each says its own n, seed and units. Nothing in it is a date or a duration
    (those of training stand in its history, those of the notebooks in run.json): equal runs give equal bytes.
    """
    models = {
        model: {
            name: {"n": len(result.image_mse)} | {k: v._asdict() for k, v in result.metrics.items()}
            for name, result in by_split.items()
        }
        for model, by_split in results.items()
    }
    return {
        "dataset": data.name,
        "notice": data.notice,
        "seed": SEED,
        "environment": environment(),
        "settings": settings.as_dict(),
        "training_run": {k: v for k, v in run.items() if k not in TIMES},
        "units": UNITS,
        "models": models,
    } | (blocks or {})


def csv_rows(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The numbers of metrics.json in long form: model, split, metric, value, stderr, n, unit."""
    described = {name: block for name, block in content.items() if isinstance(block, dict) and "models" in block}
    blocks = {"": content} | described
    for prefix, block in blocks.items():
        for model, found in block["models"].items():
            yield from _leaves(found, [prefix] if prefix else [], {"model": model, "split": block.get("split")}, block)


def _leaves(node: Any, path: list[str], row: dict[str, Any], block: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "value" not in node:
        row = row | {"n": node.get("n", row.get("n", block.get("n")))}
        for name, child in node.items():
            if isinstance(child, dict):
                # Where a block has no split of its own, the first level below a model is the split.
                inner, below = (path + [name], row) if row["split"] else (path, row | {"split": name})
                yield from _leaves(child, inner, below, block)
        return
    row = row | {"n": node.get("n", row.get("n")), "unit": block["units"].get(path[-1], "")}
    values, errors = torch.tensor(node["value"]), node["stderr"]
    for index in torch.ones(values.shape).nonzero().tolist() if values.ndim else [[]]:
        label = f"[{';'.join(map(str, index))}]" if index else ""
        error = errors[index[0]] if isinstance(errors, list) else errors
        value = node["value"] if not index else values[tuple(index)].item()
        yield row | {"metric": ".".join(path) + label, "value": value, "stderr": error}


def store(content: dict[str, Any], path: Path) -> None:
    """Write metrics.json at `path` and the same numbers as a .csv for spreadsheets beside it."""
    table = io.StringIO()
    writer = csv.DictWriter(table, ("model", "split", "metric", "value", "stderr", "n", "unit"), lineterminator="\n")
    writer.writeheader()
    writer.writerows(csv_rows(content))
    write_json(path, content)
    write_whole(path.with_suffix(".csv"), table.getvalue())
