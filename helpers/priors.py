"""Where new codes come from. N(0, I) is the VAE's own prior; the others are fitted to q(z) after training.

q(z) is the aggregate posterior: the codes of the training images, noise included. It is never exactly N(0, I); a
density fitted to it gives better pictures [Ghosh et al., From Variational to Deterministic Autoencoders, ICLR 2020].
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from .data import Dataset, Split, in_batches
from .engine.sealed import Json, Tensors, cached, sha256_of_tensors
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


def class_gaussians(codes: Tensor, labels: Tensor) -> MultivariateNormal:
    """A Gaussian for each class (a batch of them) with the mean and covariance of its codes (n, d).

    A class of fewer than two codes gets those of all.
    """
    classes = [codes[labels == label].double() for label in range(int(labels.max()) + 1)]
    classes = [members if len(members) > 1 else codes.double() for members in classes]
    ridge = 1e-4 * torch.eye(codes.shape[1], dtype=torch.float64)
    factors = torch.linalg.cholesky(torch.stack([members.T.cov() + ridge for members in classes]))
    return MultivariateNormal(torch.stack([members.mean(0) for members in classes]), scale_tril=factors)


def load_or_fit_gaussians(
    path: Path, codes: Callable[[], Codes], labels: Tensor, provenance: Json, *, seed: int = 0, fresh: bool = False
) -> MultivariateNormal:
    """`class_gaussians` of samples of posteriors, stored; `codes` is asked only for a new fit."""

    def fitted() -> Tensors:
        gaussians = class_gaussians(posterior_samples(codes(), seed), labels)
        return {"means": gaussians.loc.float(), "factors": gaussians.scale_tril.float()}

    wanted = {"kind": "gaussians", "seed": seed, "n": len(labels), **provenance}
    tensors, _ = cached(path, wanted, fitted, fresh=fresh)
    return MultivariateNormal(tensors["means"], scale_tril=tensors["factors"])


def sample_gaussians(gaussians: MultivariateNormal, labels: Tensor, seed: int = 0) -> Tensor:
    """Codes (n, d) from the Gaussians of the classes `labels` (n,)."""
    codes = torch.randn(len(labels), *gaussians.event_shape, generator=torch.Generator().manual_seed(seed))
    for label in labels.unique():
        own = labels == label
        codes[own] = (gaussians.loc[label] + codes[own].to(gaussians.loc) @ gaussians.scale_tril[label].T).float()
    return codes


def slerp(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """Codes (steps, d) on the great arc from a (d,) to b (d,): codes live on a shell, which a straight line leaves."""
    t = torch.linspace(0, 1, steps)[:, None]
    angle = torch.arccos((a @ b / (a.norm() * b.norm())).clamp(-1, 1))
    if angle.sin() < 1e-4:
        return (1 - t) * a + t * b
    lengths = (1 - t) * a.norm() + t * b.norm()
    arc = ((1 - t) * angle).sin() * a / a.norm() + (t * angle).sin() * b / b.norm()
    return lengths * arc / angle.sin()
