"""Peers in one harness: known models and ours, the same split, the same wall time, the same evaluation.

    python -m helpers.runs.peers [--minutes 20] [--only NAME ...]        writes outs/exercise_03/peers.json

Needs the optional extra `peers` (pip install -e '.[peers]') for pythae. A peer that the file already holds with the
same number of minutes is not trained again. All have 128 numbers in the code and see the training split only.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import UserError, nearest, out_dir, profile_settings, program, write_whole
from ..data import Dataset, Split, batches, load_data, to_bytes
from ..evaluate import evaluate_model
from ..models import VAE, Autoencoder
from ..priors import aggregate_posterior, fit_mixture, sample_mixture, standard_normal
from ..reference import ReferenceClassifier, judge, score
from ..runtime import environment
from ..storage import load_model, weights_path
from .peer_models import LATENT, PEERS, Trained


def best_sigma(model: VAE, data: Dataset) -> float:
    """The sigma that a calibrated decoder would have: the root mean squared error of samples on validation."""
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        errors = [
            (model.decode(q.sample(torch.randn(q.mu.shape, generator=noise))) - x).square().mean((1, 2, 3))
            for x, q in ((x, model.encode(x)) for x, _ in batches(data.validation, 500))
        ]
    return torch.cat(errors).mean().sqrt().item()


def probe_accuracy(model: Autoencoder, data: Dataset, n: int = 10_000) -> float:
    """Test accuracy of a linear classifier on standardised codes, fitted to n training images."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def codes(split: Split) -> Any:
        with torch.no_grad():
            return torch.cat([model.code(x) for x, _ in batches(split, 500)]).numpy()

    train = data.train.head(n)
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)).fit(codes(train), train.labels.numpy())
    return float(probe.score(codes(data.test), data.test.labels.numpy()))


def measure(trained: Trained, data: Dataset, folder: Path) -> dict[str, Any]:
    """Every column of the table on all test images."""
    model = trained.model.eval()
    found = evaluate_model(model, data.test).metrics
    columns = ("psnr_pooled", "ssim", "rate", "bpd", "active_units")
    row: dict[str, Any] = {name: found[name].value for name in columns if name in found}
    if isinstance(model, VAE):
        row |= {"sigma": model.sigma.item(), "calibrated_sigma": best_sigma(model, data)}
        model.log_sigma.data.fill_(math.log(row["calibrated_sigma"]))
        row["calibrated_bpd"] = evaluate_model(model, data.test).metrics["bpd"].value
        codes = aggregate_posterior(model, data.train)
    else:
        with torch.no_grad():
            codes = torch.cat([model.code(x) for x, _ in batches(data.train, 500)])
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
        return torch.cat([to_bytes(model.decode(part)) for part in z.split(500)])

    with torch.no_grad():
        rebuilt = torch.cat([model.code(x) for x, _ in batches(data.test, 500)])
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
    rows = json.loads(path.read_text()) if path.is_file() else {}
    for name in options.only or PEERS:
        if rows.get(name, {}).get("minutes") == options.minutes:
            print(f"{name}: in the table already", flush=True)
            continue
        torch.manual_seed(0)
        row = measure(PEERS[name](data, options.minutes), data, folder)
        rows[name] = row | {"minutes": options.minutes, "seed": 0, "environment": environment()}
        write_whole(path, json.dumps(rows, indent=1) + "\n")
        print(f"{name}: {json.dumps(row)}", flush=True)


if __name__ == "__main__":
    program(main)
