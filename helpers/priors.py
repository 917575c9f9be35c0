"""Where new codes come from. N(0, I) is the VAE's own prior; the others are fitted to q(z) after training.

q(z) is the aggregate posterior: the codes of the training images, noise included. It is never exactly N(0, I); a
density fitted to it gives better pictures [Ghosh et al., From Variational to Deterministic Autoencoders, ICLR 2020].
"""

import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor

from .data import Dataset, Split, in_batches
from .engine.sealed import cached, sha256_of_tensors
from .models import VAE


def encode_all(vae: VAE, split: Split) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of q(z|x) for every image of the split, each (n, d), on the CPU."""
    mu, logvar = in_batches(vae.encode, split.images, vae.device)
    return mu, (0.5 * logvar).exp()


def training_codes(vae: VAE, folder: Path, data: Dataset) -> tuple[Tensor, Tensor]:
    """`encode_all` of the training split, kept in `folder` for the next time that the same weights ask for it."""
    weights = sha256_of_tensors(vae.state_dict())
    provenance = {"kind": "codes", "dataset": data.name, "n": len(data.train), "weights": weights}
    names, path = ("mu", "std"), folder / "codes.safetensors"
    codes, _ = cached(path, provenance, lambda: dict(zip(names, encode_all(vae, data.train), strict=True)))
    return codes["mu"], codes["std"]


def posterior_samples(vae: VAE, split: Split, seed: int = 0) -> Tensor:
    """One sample z ~ q(z|x) for every image of the split, (n, d), on the CPU."""
    mu, std = encode_all(vae, split)
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
    """For each class the mean (d,) and a Cholesky factor (d, d) of the covariance of its codes."""
    ridge = 1e-4 * torch.eye(codes.shape[1], dtype=torch.float64)
    classes = (codes[labels == label].double() for label in labels.unique())
    return [(members.mean(0), torch.linalg.cholesky(members.T.cov() + ridge)) for members in classes]


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
