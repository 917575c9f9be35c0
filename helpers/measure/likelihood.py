"""How tight the bound of the VAE is, and what files and linear densities need for the same images."""

from typing import Any

import torch
from torch import Tensor

from ..data import EVALUATION_BATCH, Split, to_unit
from ..losses import bits_per_dim, discretised_nll, gaussian_nll
from ..models import VAE, Posterior
from . import latents
from .linear import LinearCode
from .metrics import Estimate
from .results import SEED
from .shifts import file_bits

IMAGES, SAMPLES = 1000, (1, 8, 64)


@torch.no_grad()
def bound(vae: VAE, code: LinearCode, split: Split) -> dict[str, Any]:
    """The importance-weighted bound on the first images of a split beside uniform, PNG, WebP and the linear models."""
    split, device, values = split.head(IMAGES), vae.log_sigma.device, split.images[0].numel()
    noise = torch.Generator(device).manual_seed(SEED)
    weights: dict[str, list[Tensor]] = {"mass": [], "density": []}
    for images in split.images.split(EVALUATION_BATCH):
        x = to_unit(images, device)
        q = vae.encode(x)
        samples = [_log_weights(vae, x, q, noise) for _ in range(max(SAMPLES))]
        for name, column in zip(weights, zip(*samples, strict=True), strict=True):
            weights[name].append(torch.stack(column).cpu())
    table = {name: torch.cat(parts, 1) for name, parts in weights.items()}
    found: dict[str, Any] = {}
    for k in SAMPLES:
        mass, density = (latents.importance_bound(table[name], k) for name in ("mass", "density"))
        found[f"k{k}"] = {"bpd": _bits(-mass.value, mass.stderr, values), "nats": density._asdict()}
    x = to_unit(split.images)
    others = {
        "uniform": Estimate(8.0, 0.0),
        "png": Estimate.mean(file_bits(split.images, "PNG", optimize=True) / values),
        "webp": Estimate.mean(file_bits(split.images, "WEBP", lossless=True) / values),
    }
    models = {"vae": found} | {name: {"bpd": value._asdict()} for name, value in others.items()}
    for name, d in (("probabilistic_pca", vae.latent_dim), ("mean_image", 0)):
        models[name] = {"bpd": _bits(*Estimate.mean(code.nll(x, d)), values)}
    return {
        "about": "importance-weighted bound, k samples; VAE: discretised Gaussian; linear: density + log 255 a value",
        "split": "test",
        "n": len(split),
        "seed": SEED,
        "units": {"bpd": "bits per colour value (an upper bound for the VAE)", "nats": "nats per image, density"},
        "models": models,
    }


def _bits(nats: float, stderr: float | None, values: int) -> dict[str, Any]:
    return Estimate(bits_per_dim(nats, values), bits_per_dim(stderr or 0.0, values))._asdict()


def _log_weights(vae: VAE, x: Tensor, q: Posterior, noise: torch.Generator) -> tuple[Tensor, Tensor]:
    """log p(x, z) - log q(z|x) of one sample of z, (n,): with the mass and with the density of x."""
    z = q.sample(torch.randn(q.mu.shape, generator=noise, device=x.device))
    mean = vae.decode(z)
    prior = latents.log_normal(z) - latents.log_posterior(q, z)
    return prior - discretised_nll(x, mean, vae.log_sigma), prior - gaussian_nll(x, mean, vae.log_sigma)
