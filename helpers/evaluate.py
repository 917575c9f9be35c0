"""Every metric for every split -> metrics.json: the VAE beside the autoencoder and PCA.

    python -m helpers.evaluate [--split all|train|validation|test] [--weights FILE] [--out FILE]

"Reconstruction" is the decoded posterior mean; the likelihood terms use one seeded posterior SAMPLE per image.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import metrics
from .config import ROOT, Settings, UserError, exit_with, out_dir, profile_settings, write_whole
from .data import SPLITS, Dataset, Split, batches, load_data
from .losses import bits_per_dim, discretised_nll, gaussian_nll, kl_per_dim
from .metrics import Estimate, PixelMoments
from .models import VAE, Autoencoder, Posterior
from .runtime import environment
from .storage import load_model, read_tensors, weights_path, write_tensors

BATCH = 500
SEED = 0  # of the posterior samples
UNITS = {
    "mse": "squared pixel values in [0, 1], mean over values",
    "psnr_pooled": "dB, of the MSE over the whole split",
    "psnr_mean": "dB, mean over images",
    "psnr_sample": "dB, pooled, of a decoded posterior sample",
    "ssim": "mean over images",
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
    "cross_entropy": "nats per image, head on the encoder's features",
    "code_cross_entropy": "nats per image, head on the code",
    "active_units": "latents with Var(mu) > 0.01",
}


class SplitResult(NamedTuple):
    """What the evaluation of one model on one split gives; the arrays are for figures."""

    metrics: dict[str, Estimate]
    image_mse: Tensor  # (n,)
    predictions: Tensor  # (n,) class numbers, or empty
    moments: PixelMoments


class _Images:
    """Collects what reconstruction metrics need, batch by batch."""

    def __init__(self) -> None:
        self.mse: list[Tensor] = []
        self.ssim: list[Tensor] = []
        self.moments = PixelMoments()

    def add(self, x: Tensor, reconstruction: Tensor) -> None:
        self.mse.append(metrics.mse_per_image(x, reconstruction).cpu())
        self.ssim.append(metrics.ssim_per_image(x, reconstruction).cpu())
        self.moments.add(x, reconstruction)

    def result(self) -> tuple[dict[str, Estimate], Tensor]:
        mse = torch.cat(self.mse)
        line = self.moments.regression()
        pooled = Estimate.mean(mse)
        return {
            "mse": pooled,
            "psnr_pooled": Estimate(metrics.psnr(pooled.value)),
            "psnr_mean": Estimate.mean(metrics.psnr(mse)),
            "ssim": Estimate.mean(torch.cat(self.ssim)),
            "pixel_r2": Estimate(line.r2),
            "slope": Estimate(line.slope),
            "rmse": Estimate(line.rmse),
        }, mse


def likelihood_terms(model: VAE, x: Tensor, q: Posterior, eps: Tensor) -> dict[str, Tensor]:
    """Per image (n,): distortion and rate of one sample of q(z|x), its discretised distortion, its MSE."""
    mean = model.decode(q.sample(eps))
    return {
        "distortion": gaussian_nll(x, mean, model.log_sigma),
        "mass": discretised_nll(x, mean, model.log_sigma),
        "rate": kl_per_dim(q).sum(1),
        "mse": metrics.mse_per_image(x, mean),
    }


@torch.no_grad()
def evaluate_model(model: Autoencoder, split: Split) -> SplitResult:
    """All metrics of a model on ALL images of a split."""
    device, images = model.log_sigma.device, _Images()
    noise = torch.Generator(device).manual_seed(SEED)
    columns: dict[str, list[Tensor]] = {}
    model.eval()
    for x, _ in batches(split, BATCH, device=device):
        h, features = model.encoder(x)
        q = model.split(h) if isinstance(model, VAE) else None
        code = h if q is None else q.mu
        images.add(x, model.decode(code))
        row = {"code": code, "logits": model.head(features), "code_logits": model.classify_code(code)}
        if q is not None:
            eps = torch.randn(len(x), model.latent_dim, generator=noise, device=device)
            row |= likelihood_terms(model, x, q, eps)
        for name, value in row.items():
            columns.setdefault(name, []).append(value.cpu())
    table = {name: torch.cat(parts) for name, parts in columns.items()}
    found, mse = images.result()
    found |= _classification(table, split.labels) | {"sigma": Estimate(model.sigma.item())}
    if isinstance(model, VAE):
        found |= _likelihood(table, split.images[0].numel())
    return SplitResult(found, mse, table["logits"].argmax(1), images.moments)


def _classification(table: dict[str, Tensor], labels: Tensor) -> dict[str, Estimate]:
    return {
        "accuracy": metrics.accuracy(table["logits"], labels),
        "code_accuracy": metrics.accuracy(table["code_logits"], labels),
        "cross_entropy": metrics.cross_entropy(table["logits"], labels),
        "code_cross_entropy": metrics.cross_entropy(table["code_logits"], labels),
    }


def _likelihood(table: dict[str, Tensor], n_values: int) -> dict[str, Estimate]:
    mass = Estimate.mean(table["mass"].double() + table["rate"].double())
    return {
        "psnr_sample": Estimate(metrics.psnr(table["mse"].double().mean().item())),
        "distortion": Estimate.mean(table["distortion"]),
        "rate": Estimate.mean(table["rate"]),
        "elbo": Estimate.mean(-table["distortion"].double() - table["rate"].double()),
        "bpd": Estimate(*(bits_per_dim(v, n_values) for v in mass)),
        "active_units": Estimate(metrics.active_units(table["code"])),
    }


# --- the linear baseline ----------------------------------------------------------------------------------------


class LinearCode(NamedTuple):
    """Principal components of the training pixels: the best linear code of any length."""

    mean: Tensor  # (3072,)
    components: Tensor  # (k, 3072), orthonormal rows
    variance_ratio: Tensor  # (min(n, 3072),) share of the variance along each direction

    def reconstruct(self, x: Tensor, d: int) -> Tensor:
        """Encode x (n, 3, h, w) in d numbers and decode it again; may leave [0, 1], as the linear map does."""
        basis = self.components[:d]
        return ((x.flatten(1) - self.mean) @ basis.T @ basis + self.mean).view_as(x)


def linear_code(data: Dataset, folder: Path, d: int) -> LinearCode:
    """The PCA of the training split with d components; kept in `folder` and read from there next time."""
    path = folder / "pca.safetensors"
    about = {"kind": "pca", "dataset": data.name, "n_train": len(data.train)}
    if path.is_file():
        tensors, known = read_tensors(path)
        if known == about and len(tensors["components"]) >= d:
            return LinearCode(**tensors)
    from sklearn.decomposition import PCA

    flat = data.train.images.flatten(1).numpy().astype("float32") / 255
    pca = PCA(svd_solver="covariance_eigh").fit(flat)
    parts = (pca.mean_, pca.components_[:d], pca.explained_variance_ratio_)
    code = LinearCode(*(torch.from_numpy(part).float().contiguous() for part in parts))
    write_tensors(path, code._asdict(), about)
    return code


@torch.no_grad()
def evaluate_linear(code: LinearCode, split: Split, d: int) -> SplitResult:
    """Reconstruction metrics of the linear code of d numbers."""
    images = _Images()
    for x, _ in batches(split, BATCH):
        images.add(x, code.reconstruct(x, d))
    found, mse = images.result()
    return SplitResult(found, mse, torch.empty(0), images.moments)


# --- the file ---------------------------------------------------------------------------------------------------


def evaluate_all(
    vae: VAE,
    autoencoder: Autoencoder | None,
    code: LinearCode | None,
    data: Dataset,
    names: tuple[str, ...] = SPLITS,
) -> dict[str, dict[str, SplitResult]]:
    """Results by model ("vae", "autoencoder", "pca") and split, with a progress bar."""
    import sys

    from tqdm import tqdm

    jobs: dict[str, Any] = {"vae": lambda split: evaluate_model(vae, split)}
    if autoencoder is not None:
        jobs["autoencoder"] = lambda split: evaluate_model(autoencoder, split)
    if code is not None:
        jobs["pca"] = lambda split: evaluate_linear(code, split, vae.latent_dim)
    results: dict[str, dict[str, SplitResult]] = {job: {} for job in jobs}
    pairs = [(job, name) for job in jobs for name in names]
    for job, name in tqdm(pairs, desc="evaluating", file=sys.stdout, mininterval=1, ncols=88):
        results[job][name] = jobs[job](data.splits[name])
    return results


def metrics_content(
    results: dict[str, dict[str, SplitResult]],
    data: Dataset,
    settings: Settings,
    run: dict[str, Any],
    seconds: float,
) -> dict[str, Any]:
    """What metrics.json holds: {"value", "stderr"} by model, split and metric, and how the numbers came about."""
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
        "seconds": round(seconds, 1),
        "environment": environment(),
        "settings": settings.as_dict(),
        "training_run": run,
        "units": UNITS,
        "models": models,
    }


def main(argv: list[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="helpers.evaluate", description="Compute and store every metric.")
    parser.add_argument("--split", choices=("all", *SPLITS), default="all")
    parser.add_argument("--weights", type=Path, help="weights of a VAE (default: the published ones)")
    parser.add_argument("--out", type=Path, help="where to write (default: metrics.json beside the weights)")
    options = parser.parse_args(argv)
    started = time.perf_counter()
    weights = options.weights or weights_path(out_dir(profile_settings()), "vae")
    vae, about = load_model(weights)
    if not isinstance(vae, VAE):
        raise UserError(f"{weights} holds an autoencoder; --weights wants a VAE")
    settings, folder = Settings.from_dict(about["settings"]), weights.parent
    data = load_data(settings.dataset).limited(settings.n_train, settings.n_eval)
    beside = weights_path(folder, "autoencoder")
    autoencoder = load_model(beside)[0] if beside.is_file() and not options.weights else None
    code = linear_code(data, folder, settings.latent_dim)
    names = SPLITS if options.split == "all" else (options.split,)
    results = evaluate_all(vae, autoencoder, code, data, names)
    content = metrics_content(results, data, settings, about["run"], time.perf_counter() - started)
    out = options.out or folder / ("metrics.json" if options.split == "all" else f"metrics_{options.split}.json")
    write_whole(out, json.dumps(content, indent=1) + "\n")
    shown = out.resolve().relative_to(ROOT) if out.resolve().is_relative_to(ROOT) else out
    print(f"wrote {shown} in {content['seconds']:.0f} s")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        exit_with(error)
