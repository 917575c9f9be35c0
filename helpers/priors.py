"""Where new codes come from. N(0, I) is the VAE's own prior; the others are fitted to q(z) after training.

q(z) is the aggregate posterior: the codes of the training images, noise included. It is never exactly N(0, I); a
density fitted to it gives better pictures [Ghosh et al., From Variational to Deterministic Autoencoders, ICLR 2020].
"""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor

from .data import Dataset, Split, in_batches
from .engine.sealed import Json, Tensors, cached, sha256_of_tensors, within
from .models import VAE

Codes = tuple[Tensor, Tensor]  # means and standard deviations of posteriors, each (n, d)


def encode_all(vae: VAE, split: Split) -> Codes:
    """Mean and standard deviation of q(z|x) for every image of the split, each (n, d), on the CPU."""
    mu, logvar = in_batches(vae.encode, split.images, vae.device)
    return mu, (0.5 * logvar).exp()


def codes_of(vae: VAE, folder: Path, data: Dataset, split: str, known: Tensors | None = None) -> Codes:
    """`encode_all` of a split of `data`, kept in `folder` for whoever asks next with the same weights.

    `known` are the columns "code" and "logvar" of an evaluation, which has encoded these images already.
    """
    images = data.splits[split]
    provenance = {"kind": "codes", "images": sha256_of_tensors({split: images.images})}
    provenance["weights"] = sha256_of_tensors(vae.state_dict())

    def compute() -> Tensors:
        mu, std = (known["code"], (0.5 * known["logvar"]).exp()) if known else encode_all(vae, images)
        return {"mu": mu, "std": std}

    codes, _ = cached(folder / f"{split}_{len(images)}.codes.safetensors", provenance, compute)
    return codes["mu"], codes["std"]


def posterior_samples(codes: Codes, seed: int = 0) -> Tensor:
    """One sample z ~ q(z|x), (n, d), of each posterior."""
    mu, std = codes
    return mu + std * torch.randn(mu.shape, generator=torch.Generator().manual_seed(seed))


def standard_normal(n: int, d: int, seed: int = 0, temperature: float = 1.0) -> Tensor:
    """n codes (n, d) from N(0, temperature^2 I)."""
    return temperature * torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def fit_mixture(codes: Tensor, components: int = 10, seed: int = 0, iterations: int = 30) -> GaussianMixture:
    """A Gaussian mixture with full covariances fitted to codes (n, d) by expectation maximisation."""
    mixture = GaussianMixture(components, max_iter=iterations, reg_covar=1e-4, random_state=seed)
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):  # the cap on iterations is meant
        return mixture.fit(codes.numpy())


def sample_mixture(mixture: GaussianMixture, n: int, seed: int = 0) -> Tensor:
    """n codes (n, d) from a fitted mixture, in random order."""
    codes, _ = mixture.set_params(random_state=seed).sample(n)
    return torch.from_numpy(np.random.default_rng(seed).permutation(codes)).float()


def class_gaussians(codes: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    """For each class of two or more codes their mean (d,) and a Cholesky factor (d, d) of their covariance."""
    ridge = 1e-4 * torch.eye(codes.shape[1], dtype=torch.float64)
    classes = (codes[labels == label].double() for label in labels.unique() if (labels == label).sum() > 1)
    return [(members.mean(0), torch.linalg.cholesky(members.T.cov() + ridge)) for members in classes]


def load_or_fit_densities(
    path: Path, codes: Callable[[], Codes], labels: Tensor, provenance: Json, *, seed: int = 0, fresh: bool = False
) -> tuple[GaussianMixture, list[tuple[Tensor, Tensor]]]:
    """`fit_mixture` and `class_gaussians` of samples of posteriors, stored; `codes` is asked only for a new fit."""

    def fitted() -> Tensors:
        z = posterior_samples(codes(), seed)
        mixture = fit_mixture(z, components=min(10, len(z) // (2 * z.shape[1]) + 1), seed=seed)
        gaussians = class_gaussians(z, labels) or class_gaussians(z, torch.zeros_like(labels))  # of all, if need be
        means, factors = (torch.stack(parts) for parts in zip(*gaussians, strict=True))
        ours = {"weights": mixture.weights_, "means": mixture.means_, "covariances": mixture.covariances_}
        tensors = {f"mixture.{name}": torch.from_numpy(values).float() for name, values in ours.items()}
        return tensors | {"classes.means": means.float(), "classes.factors": factors.float()}

    wanted = {"kind": "densities", "seed": seed, "n": len(labels), **provenance}
    tensors, _ = cached(path, wanted, fitted, fresh=fresh)
    parts = {name: values.double() for name, values in tensors.items()}
    classes = zip(parts["classes.means"], parts["classes.factors"], strict=True)
    return mixture_of(**within(parts, "mixture")), list(classes)


def mixture_of(weights: Tensor, means: Tensor, covariances: Tensor) -> GaussianMixture:
    """sklearn's mixture from weights (k,), means (k, d) and covariances (k, d, d)."""
    mixture = GaussianMixture(len(weights))
    mixture.weights_, mixture.means_ = (weights / weights.sum()).numpy(), means.numpy()
    mixture.covariances_ = ((covariances + covariances.mT) / 2).numpy()
    mixture.precisions_cholesky_ = torch.linalg.inv(torch.linalg.cholesky(covariances)).mT.numpy()
    return mixture


def sample_all_classes(gaussians: list[tuple[Tensor, Tensor]], n: int, seed: int = 0) -> Tensor:
    """n codes (n, d) from the Gaussians of all classes, as equally often as n allows, in random order."""
    codes: list[Tensor] = []
    for (mean, factor), part in zip(gaussians, torch.arange(n).tensor_split(len(gaussians)), strict=True):
        generator = torch.Generator().manual_seed(seed * len(gaussians) + len(codes))
        noise = torch.randn(len(part), len(mean), generator=generator, dtype=torch.float64)
        codes.append((mean + noise @ factor.T).float())
    # Sorted by class, a score of blocks (KID) would compare single classes with all of them.
    return torch.cat(codes)[torch.randperm(n, generator=torch.Generator().manual_seed(seed))]


def slerp(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """Codes (steps, d) on the great arc from a (d,) to b (d,): codes live on a shell, which a straight line leaves."""
    t = torch.linspace(0, 1, steps)[:, None]
    angle = torch.arccos((a @ b / (a.norm() * b.norm())).clamp(-1, 1))
    if angle.sin() < 1e-4:
        return (1 - t) * a + t * b
    lengths = (1 - t) * a.norm() + t * b.norm()
    arc = ((1 - t) * angle).sin() * a / a.norm() + (t * angle).sin() * b / b.norm()
    return lengths * arc / angle.sin()
