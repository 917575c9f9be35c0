"""Peers in one harness: known models and ours, the same split, the same wall time, the same evaluation.

    python -m helpers.runs.peers [--minutes 20] [--only NAME ...]        writes outs/exercise_03/peers.json

Needs the optional extra `peers` (pip install -e '.[peers]') for pythae. A peer that the file already holds with the
same number of minutes is not trained again. All have 128 numbers in the code and see the training split only.
"""

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import UserError, nearest, out_dir, profile_settings, program
from ..data import EVALUATION_BATCH, Dataset, Split, batches, load_data, to_bytes
from ..evaluate import evaluate_model
from ..measure.metrics import linear_probe
from ..models import VAE, Autoencoder
from ..priors import aggregate_posterior, fit_mixture, sample_mixture, standard_normal
from ..reference import ReferenceClassifier, judge, score
from ..runtime import environment
from ..schemas import read_json, write_json
from ..storage import load_model, weights_path
from .peer_models import LATENT, PEERS, Trained

Row = dict[str, Any]
# What is compared: the title of a column (which way is better), its number in a row (None: this model has none).
COLUMNS: dict[str, tuple[Callable[[Row], float | None], Callable[..., float]]] = {
    "PSNR (dB) ↑": (lambda row: row["psnr_pooled"], max),
    "bits/dim, calibrated ↓": (lambda row: row.get("calibrated_bpd"), min),
    "rate (nats) ↓": (lambda row: row.get("rate"), min),
    "linear probe (%) ↑": (lambda row: 100 * row["probe_accuracy"], max),
    "Frechet, reconstructions ↓": (lambda row: row["frechet"]["reconstructions"], min),
    "Frechet, best samples ↓": (lambda row: min(row["frechet"]["N(0, I)"], row["frechet"]["mixture"]), min),
    "images/s in training ↑": (lambda row: row["images_per_second"], max),
    "weights (million) ↓": (lambda row: row["parameters"] / 1e6, min),
}


def by_column(rows: dict[str, Row]) -> dict[str, dict[str, float]]:
    """{title: {model: number}}, without the models that have no such number."""
    found = {title: {name: value(row) for name, row in rows.items()} for title, (value, _) in COLUMNS.items()}
    return {title: {k: v for k, v in values.items() if v is not None} for title, values in found.items()}


def first_in(columns: dict[str, dict[str, float]]) -> dict[str, str]:
    """{title: the model that is first}."""
    return {title: COLUMNS[title][1](values, key=values.__getitem__) for title, values in columns.items()}


def best_sigma(model: VAE, data: Dataset) -> float:
    """The sigma that a calibrated decoder would have: the root mean squared error of samples on validation."""
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        errors = [
            (model.decode(q.sample(torch.randn(q.mu.shape, generator=noise))) - x).square().mean((1, 2, 3))
            for x, q in ((x, model.encode(x)) for x, _ in batches(data.validation))
        ]
    return torch.cat(errors).mean().sqrt().item()


def probe_accuracy(model: Autoencoder, data: Dataset, n: int = 10_000) -> float:
    """Test accuracy of a linear classifier on standardised codes, fitted to n training images."""

    @torch.no_grad()
    def codes(split: Split) -> Tensor:
        return torch.cat([model.code(x) for x, _ in batches(split)])

    train = data.train.head(n)
    return linear_probe(codes(train), train.labels, codes(data.test), data.test.labels).value


def measure(trained: Trained, data: Dataset, folder: Path) -> Row:
    """Every column of the table on all test images."""
    model = trained.model.eval()
    found = evaluate_model(model, data.test).metrics
    columns = ("psnr_pooled", "ssim", "rate", "bpd", "active_units")
    row: Row = {name: found[name].value for name in columns if name in found}
    if isinstance(model, VAE):
        row |= {"sigma": model.sigma.item(), "calibrated_sigma": best_sigma(model, data)}
        model.log_sigma.data.fill_(math.log(row["calibrated_sigma"]))
        row["calibrated_bpd"] = evaluate_model(model, data.test).metrics["bpd"].value
        codes = aggregate_posterior(model, data.train)
    else:
        with torch.no_grad():
            codes = torch.cat([model.code(x) for x, _ in batches(data.train)])
    row["probe_accuracy"] = probe_accuracy(model, data)
    classifier, _ = load_model(weights_path(folder, "reference"))
    real, _ = judge(classifier, data.test.images)
    row["frechet"] = frechet_distances(model, codes, data, classifier, real)
    parameters = sum(p.numel() for part in (model.encoder, model.decoder) for p in part.parameters())
    return row | {"n": len(data.test), "parameters": parameters, "images_per_second": trained.images_per_second}


def frechet_distances(
    model: Autoencoder, codes: Tensor, data: Dataset, classifier: ReferenceClassifier, real: Tensor
) -> dict[str, float]:
    """Of reconstructions, and of samples by two priors, as many as there are test images."""
    n = len(data.test)

    @torch.no_grad()
    def images(z: Tensor) -> Tensor:
        return torch.cat([to_bytes(model.decode(part)) for part in z.split(EVALUATION_BATCH)])

    with torch.no_grad():
        rebuilt = torch.cat([model.code(x) for x, _ in batches(data.test)])
    drawn = {
        "reconstructions": rebuilt,
        "N(0, I)": standard_normal(n, LATENT),
        "mixture": sample_mixture(fit_mixture(codes), n),
    }
    return {name: score(classifier, real, images(z))["frechet"] for name, z in drawn.items()}


def main(argv: list[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="helpers.runs.peers", description="Compare with other people's models.")
    parser.add_argument("--minutes", type=float, default=20.0, help="wall time of each training")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help=f"of: {', '.join(PEERS)}")
    options = parser.parse_args(argv)
    for name in options.only:
        if name not in PEERS:
            raise UserError(f"there is no peer {name!r}.{nearest(name, list(PEERS))} Known: {', '.join(PEERS)}")
    if not 0 < options.minutes < 1000:
        raise UserError(f"--minutes {options.minutes} must lie between 0 and 1000")
    data, folder = load_data("cifar10"), out_dir(profile_settings("full"))
    path = folder / "peers.json"
    rows = read_json(path, "delete it and run the peers again") if path.is_file() else {}
    for name in options.only or PEERS:
        if rows.get(name, {}).get("minutes") == options.minutes:
            print(f"{name}: in the table already", flush=True)
            continue
        torch.manual_seed(0)
        row = measure(PEERS[name](data, options.minutes), data, folder)
        precision = {} if name == "ours" else {"training_precision": "float32"}  # their own loops know nothing of bf16
        rows[name] = row | {"minutes": options.minutes, "seed": 0, "environment": environment() | precision}
        write_json(path, rows)
        print(f"{name}: {json.dumps(row)}", flush=True)


if __name__ == "__main__":
    program(main)
