"""What the per-image results of the splits say beyond their means: one block of metrics.json for each question.

A block says its own n, split, seed and units; its numbers stand in `models` as {"value", "stderr"}.
"""

import sys
from typing import Any

import torch
from torch import Tensor

from ..data import SPLITS, Dataset, to_unit
from ..losses import bits_per_dim, kl_per_dim
from ..models import VAE, Autoencoder, Posterior
from . import latents, likelihood, metrics, robustness
from .linear import LinearCode
from .metrics import Estimate
from .results import SEED, UNITS, Results, SplitResult

LATENT_IMAGES = 5000  # the same for every split: the mutual information that can be seen ends at log n
MARGINAL_IMAGES = 1000
PROBE_IMAGES = 10_000
Block = dict[str, Any]


def analyse(
    results: Results,
    vae: VAE,
    autoencoder: Autoencoder | None,
    code: LinearCode,
    data: Dataset,
    *,
    download: bool = False,
) -> dict[str, Block]:
    """All blocks that the evaluated splits allow, by name, with a progress bar."""
    from tqdm import tqdm

    jobs = {
        "by_class": lambda: by_class(results, data),
        "spectrum": lambda: spectrum(results),
        "confusion": lambda: confusion(results, data),
        "latent": lambda: latent(results["vae"]),
    }
    if all(name in results["vae"] for name in SPLITS):
        models = {"vae": vae} | ({"autoencoder": autoencoder} if autoencoder else {})
        jobs |= {
            "gaps": lambda: gaps(results),
            "calibration": lambda: calibration(results, data),
            "probe": lambda: probe(results, code, data, vae.latent_dim),
            "bound": lambda: likelihood.bound(vae, code, data.test),
            "corruptions": lambda: robustness.corruptions(models, data.test),
            "out_of_distribution": lambda: robustness.out_of_distribution(
                vae, data.test, _nats(results["vae"]["validation"]).mean().item(), download=download
            ),
        }
    blocks = {}
    with tqdm(jobs.items(), file=sys.stdout, mininterval=1, ncols=88) as bar:
        for name, job in bar:
            bar.set_description(name)
            blocks[name] = job()
    return blocks


def entry(estimate: Estimate) -> dict[str, Any]:
    """An estimate as metrics.json holds it."""
    return estimate._asdict()


def vector(per_image: Tensor) -> dict[str, list[float]]:
    """Means (k,) of per_image (n, k) and their standard errors, as lists."""
    values = per_image.double()
    return {"value": values.mean(0).tolist(), "stderr": (values.std(0) / len(values) ** 0.5).tolist()}


def _nats(result: SplitResult) -> Tensor:
    """-log of the probability of the 8-bit image, or of the bound on it, (n,); a linear density has no rate."""
    return result.columns["mass"].double() + result.columns.get("rate", torch.zeros(1)).double()


def by_class(results: Results, data: Dataset) -> Block:
    """Reconstruction, likelihood and recognition of every class by itself."""

    def describe(result: SplitResult, labels: Tensor, label: int) -> dict[str, Any]:
        chosen, columns = labels == label, result.columns
        found = {
            "psnr_mean": Estimate.mean(metrics.psnr(columns["mse"][chosen])),
            "ssim": Estimate.mean(columns["ssim"][chosen]),
        }
        if "mass" in columns:
            nats = Estimate.mean(_nats(result)[chosen])
            found["bpd"] = Estimate(*(bits_per_dim(v or 0.0, data.test.images[0].numel()) for v in nats))
        if "logits" in columns:
            found["recall"] = metrics.accuracy(columns["logits"][chosen], labels[chosen])
            found["f1"] = metrics.f1(result.predictions, labels, label)
            found["code_f1"] = metrics.f1(columns["code_logits"].argmax(1), labels, label)
        return {"n": int(chosen.sum())} | {name: entry(value) for name, value in found.items()}

    models = {
        model: {
            split: {
                name: describe(result, data.splits[split].labels, label)
                for label, name in enumerate(data.class_names)
                if (data.splits[split].labels == label).sum() > 1
            }
            for split, result in found.items()
        }
        for model, found in results.items()
    }
    units = {
        "psnr_mean": "dB, mean over the images of the class",
        "ssim": "mean over the images of the class",
        "bpd": "bits per colour value",
        "recall": "share of the images of the class",
        "f1": "2 TP / (2 TP + FP + FN), features head",
        "code_f1": "2 TP / (2 TP + FP + FN), head on the code",
    }
    return {"about": "every class by itself; posterior mean", "units": units, "models": models}


def spectrum(results: Results) -> Block:
    """Power of the images and of the error of the reconstruction by spatial frequency: what blur loses."""
    models = {
        model: {
            split: {
                "n": len(result.image_mse),
                **{name: vector(result.columns[f"spectrum_{name}"]) for name in ("image", "error")},
            }
            for split, result in found.items()
        }
        for model, found in results.items()
    }
    unit = "squared pixel values by frequency 0, 1, ... cycles per image, sums to the mean square (error: MSE)"
    return {
        "about": "radial power spectrum; frequencies beyond 16 (corners) count as 16; posterior mean",
        "units": {"image": unit, "error": unit},
        "models": models,
    }


def confusion(results: Results, data: Dataset) -> Block:
    """Counts of true (rows) against predicted classes (columns)."""
    classes = len(data.class_names)
    models = {}
    for model, found in results.items():
        for split, result in found.items():
            if "logits" not in result.columns:
                continue
            matrix = metrics.confusion(result.predictions, data.splits[split].labels, classes)
            models.setdefault(model, {})[split] = {
                "n": len(result.image_mse),
                "counts": {"value": matrix.tolist(), "stderr": None},
            }
    return {"about": "features head; rows are true classes", "units": {"counts": "images"}, "models": models}


def latent(found: dict[str, SplitResult]) -> Block:
    """The codes of the VAE by split: rate by dimension, the two parts of the rate, correlations."""
    models = {}
    for split, result in found.items():
        mu, logvar = (result.columns[name][:LATENT_IMAGES] for name in ("code", "logvar"))
        q = Posterior(mu, logvar)
        z = q.sample(torch.randn(mu.shape, generator=torch.Generator().manual_seed(SEED)))
        few = Posterior(mu[:MARGINAL_IMAGES], logvar[:MARGINAL_IMAGES])
        parts = latents.aggregate_posterior(q, z)
        rate = result.columns["rate"][:LATENT_IMAGES].double().mean().item()
        n, d = mu.shape
        floor = max(0.0, latents.gaussian_kl(q) - d * (d + 3) / (4 * n))  # less what estimating moments adds
        marginal = latents.marginal_kl(few, z[:MARGINAL_IMAGES]).double()
        pairs = latents.correlation(z)
        models[split] = {
            "n": len(mu),
            "kl_per_dim": vector(kl_per_dim(Posterior(result.columns["code"], result.columns["logvar"])))
            | {"n": len(result.image_mse)},
            "mutual_information": entry(parts["mutual_information"]),
            "aggregate_kl": entry(parts["aggregate_kl"]),
            "aggregate_kl_gaussian": entry(Estimate(floor)),
            "mutual_information_ceiling": entry(Estimate(rate - floor)),
            "marginal_kl": entry(Estimate(marginal.sum().item())) | {"n": len(few.mu)},
            "correlation_mean": entry(Estimate(pairs.mean().item())),
            "correlation_max": entry(Estimate(pairs.max().item())),
        }
    units = {
        "kl_per_dim": "nats per image, by latent, all images of the split",
        "mutual_information": "nats, I(x; z) of these n images, full sum; at most log n, so too low for all images",
        "aggregate_kl": "nats, KL(q(z) || p(z)) of these n images, full sum; too high for all images",
        "aggregate_kl_gaussian": "nats, KL(N(m, S) || p(z)), moments of q(z), less d (d + 3) / (4 n): a lower bound",
        "mutual_information_ceiling": "nats, rate minus aggregate_kl_gaussian: an upper bound on I(x; z)",
        "marginal_kl": "nats, sum over latents of KL(q(z_j) || p(z_j)), full sum",
        "correlation_mean": "mean |correlation| of pairs of latents, posterior samples",
        "correlation_max": "largest |correlation| of a pair of latents, posterior samples",
    }
    about = "full-sum estimators over the first n images of the split, one sample of z for each image"
    return {"about": about, "seed": SEED, "units": units, "models": {"vae": models}}


def gaps(results: Results) -> Block:
    """Differences of means between splits with their standard errors: overfitting in numbers."""
    pairs = (("train", "test"), ("train", "validation"), ("validation", "test"))
    models: dict[str, Any] = {}
    for model, found in results.items():
        models[model] = {}
        for first, second in pairs:
            a, b = found[first].metrics, found[second].metrics
            sizes = [len(found[name].image_mse) for name in (first, second)]
            models[model][f"{first}_minus_{second}"] = {"n": sizes} | {
                name: entry(a[name].minus(b[name])) for name in a if a[name].stderr is not None
            }
    return {"about": "first split minus second; variances add up", "units": UNITS, "models": models}


def calibration(results: Results, data: Dataset) -> Block:
    """Calibration on test before and after temperature scaling fitted on validation, for both heads."""
    models: dict[str, Any] = {}
    truth = {name: data.splits[name].labels for name in ("validation", "test")}
    for model, found in results.items():
        for head in ("logits", "code_logits"):
            if head not in found["test"].columns:
                continue
            unseen = found["test"].columns[head]
            temperature = metrics.fit_temperature(found["validation"].columns[head], truth["validation"])
            scaled = unseen / temperature
            models.setdefault(model, {})["features" if head == "logits" else "code"] = {
                "temperature": entry(Estimate(temperature)) | {"n": len(truth["validation"])},
                "ece": entry(metrics.ece(unseen, truth["test"])),
                "ece_scaled": entry(metrics.ece(scaled, truth["test"])),
                "cross_entropy": entry(metrics.cross_entropy(unseen, truth["test"])),
                "cross_entropy_scaled": entry(metrics.cross_entropy(scaled, truth["test"])),
                "bins": {"value": metrics.calibration_bins(unseen, truth["test"]).tolist(), "stderr": None},
                "bins_scaled": {"value": metrics.calibration_bins(scaled, truth["test"]).tolist(), "stderr": None},
            }
    units = {
        "temperature": "divides the logits; fitted on validation",
        "ece": "share, 15 bins; stderr by bootstrap",
        "ece_scaled": "share, 15 bins; stderr by bootstrap",
        "cross_entropy": "nats per image",
        "cross_entropy_scaled": "nats per image",
        "bins": "share of images, mean confidence, accuracy",
        "bins_scaled": "share of images, mean confidence, accuracy",
    }
    about = "by head (features, code); temperature scaling"
    return {"about": about, "split": "test", "n": len(truth["test"]), "units": units, "models": models}


def probe(results: Results, code: LinearCode, data: Dataset, d: int) -> Block:
    """A logistic regression on the codes of each model: how much of the class a linear reader finds in them."""
    train, test = data.train.head(PROBE_IMAGES), data.test
    models = {}
    for model in ("vae", "autoencoder", "pca"):
        if model == "pca":
            codes = [code.encode(to_unit(part.images), d) for part in (train, test)]
        elif model in results:
            codes = [results[model][name].columns["code"] for name in ("train", "test")]
        else:
            continue
        codes[0] = codes[0][: len(train)]
        models[model] = {"accuracy": entry(metrics.linear_probe(codes[0], train.labels, codes[1], test.labels))}
    about = f"logistic regression on {d} standardised numbers, fitted on {len(train)} training images"
    units = {"accuracy": "share of test images"}
    return {"about": about, "split": "test", "n": len(test), "n_train": len(train), "units": units, "models": models}
