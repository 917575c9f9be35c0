"""How the models do on images that they were not made for: corruptions, and telling foreign images apart."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import ROOT
from ..data import EVALUATION_BATCH, Split, to_unit
from ..losses import discretised_nll, kl_per_dim
from ..models import VAE, Autoencoder
from . import metrics
from .metrics import Estimate
from .results import SEED
from .shifts import CORRUPTIONS, SEVERITIES, file_bits, foreign_sets, made_sets

IMAGES = 1000  # the first ones of the test split, whose order is random


def corruptions(models: dict[str, Autoencoder], test: Split) -> dict[str, Any]:
    """Recognition and reconstruction of corrupted test images, five corruptions at five severities."""
    some = test.head(IMAGES)
    clean = to_unit(some.images)
    found: dict[str, Any] = {name: {"clean": _quality(model, clean, some)} for name, model in models.items()}
    found["input"] = {}
    for kind, corrupt in CORRUPTIONS.items():
        for severity in SEVERITIES:
            x, key = to_unit(corrupt(some.images, severity)), f"severity_{severity}"
            found["input"].setdefault(kind, {})[key] = {"psnr_clean": _psnr(metrics.mse_per_image(clean, x))}
            for name, model in models.items():
                found[name].setdefault(kind, {})[key] = _quality(model, x, some)
    units = {
        "accuracy": "share of images, features head",
        "code_accuracy": "share of images, head on the code",
        "psnr_clean": "dB, pooled, reconstruction of the corrupted image against the CLEAN one (input: no model)",
        "psnr_corrupted": "dB, pooled, reconstruction of the corrupted image against the CORRUPTED one",
    }
    about = "corruptions of CIFAR-10-C (Hendrycks & Dietterich 2019), made here; posterior mean"
    return {"about": about, "split": "test", "n": len(some), "seed": SEED, "units": units, "models": found}


def _psnr(mse: Tensor) -> dict[str, Any]:
    return Estimate.of(lambda m: metrics.psnr(m[0]), mse.double()[:, None])._asdict()


@torch.no_grad()
def _quality(model: Autoencoder, x: Tensor, some: Split) -> dict[str, Any]:
    """Accuracy on x and PSNR of its reconstruction against x and against the clean images of `some`."""
    columns: dict[str, list[Tensor]] = {name: [] for name in ("logits", "code_logits", "clean", "corrupted")}
    device = model.log_sigma.device
    for part, images in zip(x.split(EVALUATION_BATCH), some.images.split(EVALUATION_BATCH), strict=True):
        part = part.to(device)
        h, features = model.encoder(part)
        code = model.split(h).mu if isinstance(model, VAE) else h
        y = model.decode(code)
        columns["logits"].append(model.head(features).cpu())
        columns["code_logits"].append(model.classify_code(code).cpu())
        columns["clean"].append(metrics.mse_per_image(to_unit(images, device), y).cpu())
        columns["corrupted"].append(metrics.mse_per_image(part, y).cpu())
    table = {name: torch.cat(parts) for name, parts in columns.items()}
    return {
        "accuracy": metrics.accuracy(table["logits"], some.labels)._asdict(),
        "code_accuracy": metrics.accuracy(table["code_logits"], some.labels)._asdict(),
        "psnr_clean": _psnr(table["clean"]),
        "psnr_corrupted": _psnr(table["corrupted"]),
    }


# --- out of distribution ----------------------------------------------------------------------------------------


@torch.no_grad()
def describe(vae: VAE, images: Tensor) -> dict[str, Tensor]:
    """Per image (n,), of uint8 images: -ELBO and file sizes in bits per value, MSE, largest class probability."""
    values, device = images[0].numel(), vae.log_sigma.device
    bits = values * torch.log(torch.tensor(2.0)).item()
    noise = torch.Generator(device).manual_seed(SEED)
    parts: dict[str, list[Tensor]] = {name: [] for name in ("bpd", "mse", "confidence")}
    for some in images.split(EVALUATION_BATCH):
        x = to_unit(some, device)
        h, features = vae.encoder(x)
        q = vae.split(h)
        sampled = vae.decode(q.sample(torch.randn(q.mu.shape, generator=noise, device=device)))
        nats = discretised_nll(x, sampled, vae.log_sigma) + kl_per_dim(q).sum(1)
        parts["bpd"].append(nats.double().cpu() / bits)
        parts["mse"].append(metrics.mse_per_image(x, vae.decode(q.mu)).cpu())
        parts["confidence"].append(vae.head(features).softmax(1).amax(1).cpu())
    found = {name: torch.cat(column) for name, column in parts.items()}
    found["png"] = file_bits(images, "PNG") / values
    # Its fastest setting: within 4 % of the size of the slower ones, in a thirtieth of the time.
    found["webp"] = file_bits(images, "WEBP", lossless=True, method=0, quality=0) / values
    return found


def outlier_scores(seen: dict[str, Tensor], usual_bpd: float) -> dict[str, Tensor]:
    """Six scores, higher = more likely from outside; `seen` comes from `describe`.

    The corrected ones are S(x) = -log2 p(x) - L(x) with the length L of a file [Serra et al. 2020, eq. 1];
    typicality is the distance to the usual -ELBO [Nalisnick et al. 2019, for single images].
    """
    return {
        "elbo": seen["bpd"],
        "reconstruction_error": seen["mse"],
        "confidence": -seen["confidence"],
        "elbo_minus_png": seen["bpd"] - seen["png"],
        "elbo_minus_webp": seen["bpd"] - seen["webp"],
        "typicality": (seen["bpd"] - usual_bpd).abs(),
    }


def foreign_folders() -> list[Path]:
    """Where copies of SVHN and CIFAR-100 may lie: beside CIFAR-10, or in data/."""
    given = os.environ.get("CIFAR10_ROOT")
    return [*([ROOT / given] if given else []), ROOT / "data"]


def out_of_distribution(vae: VAE, test: Split, usual_nats: float, *, download: bool = False) -> dict[str, Any]:
    """AUROC of every score for every foreign set against test images; `usual_nats` is the mean -ELBO of validation."""
    inside = test.head(IMAGES).images
    foreign, missing = foreign_sets(foreign_folders(), len(inside), download=download)
    values = inside[0].numel()
    usual = usual_nats / (values * torch.log(torch.tensor(2.0)).item())
    home = describe(vae, inside)
    scores = outlier_scores(home, usual)
    found: dict[str, Any] = {"test": {"n": len(inside)} | _means(home)}
    for name, images in (made_sets(inside) | foreign).items():
        seen = describe(vae, images)
        areas = {
            f"auroc_{score}": metrics.auroc(scores[score], value)._asdict()
            for score, value in outlier_scores(seen, usual).items()
        }
        found[name] = {"n": len(images)} | areas | _means(seen)
    for line in missing:
        print(line)
    units = {
        "bpd": "bits per colour value, -ELBO of the 8-bit image, one sample",
        "mse": "squared pixel values, posterior mean",
        "confidence": "largest class probability",
        "png": "bits per colour value of the PNG file",
        "webp": "bits per colour value of the lossless WebP file (fastest setting)",
    } | {f"auroc_{score}": "P(foreign image scores higher than a test image)" for score in scores}
    about = "foreign images against test images; stderr by Hanley & McNeil 1982"
    return {
        "about": about,
        "split": "test",
        "n": len(inside),
        "seed": SEED,
        "missing": missing,
        "units": units,
        "models": {"vae": found},
    }


def _means(seen: dict[str, Tensor]) -> dict[str, Any]:
    return {name: Estimate.mean(value)._asdict() for name, value in seen.items()}
