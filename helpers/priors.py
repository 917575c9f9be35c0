"""Where new codes come from. N(0, I) is the VAE's own prior; the others are fitted to q(z) after training.

q(z) is the aggregate posterior: the codes of the training images, noise included. It is never exactly N(0, I), and
sampling from a density fitted to it gives better pictures [Ghosh et al., From Variational to Deterministic
Autoencoders, ICLR 2020].
"""

import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor

from .data import Dataset, Split, batches, to_bytes, to_unit
from .models import VAE
from .storage import fingerprint, load_model, read_tensors, weights_path, write_tensors


@torch.no_grad()
def encode_all(model: VAE, split: Split) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of q(z|x) for every image of the split, each (n, d), on the CPU."""
    device = model.log_sigma.device
    posteriors = [model.encode(x) for x, _ in batches(split, device=device)]
    mu, logvar = (torch.cat(parts).cpu() for parts in zip(*posteriors, strict=True))
    return mu, (0.5 * logvar).exp()


def training_codes(folder: Path, data: Dataset) -> tuple[Tensor, Tensor]:
    """`encode_all` of the training split by the VAE in `folder`; kept there and read from there next time."""
    path, weights = folder / "codes.safetensors", weights_path(folder, "vae")
    about = {"kind": "codes", "dataset": data.name, "n": len(data.train), "vae_sha256": fingerprint(weights)}
    if path.is_file():
        tensors, known = read_tensors(path)
        if known == about and set(tensors) == {"mu", "std"}:
            return tensors["mu"], tensors["std"]
    mu, std = encode_all(load_model(weights)[0], data.train)
    write_tensors(path, {"mu": mu, "std": std}, about)
    return mu, std


def aggregate_posterior(model: VAE, split: Split, seed: int = 0) -> Tensor:
    """One sample z ~ q(z|x) for every image of the split, (n, d), on the CPU."""
    mu, std = encode_all(model, split)
    return mu + std * torch.randn(mu.shape, generator=torch.Generator().manual_seed(seed))


def standard_normal(n: int, d: int, seed: int = 0, temperature: float = 1.0) -> Tensor:
    """n codes (n, d) from N(0, temperature^2 I)."""
    return temperature * torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def fit_mixture(codes: Tensor, components: int = 10, seed: int = 0, iterations: int = 30) -> GaussianMixture:
    """A Gaussian mixture with full covariances fitted to codes (n, d) by expectation maximisation."""
    mixture = GaussianMixture(
        components, covariance_type="full", max_iter=iterations, reg_covar=1e-4, random_state=seed
    )
    with warnings.catch_warnings():  # a cap on the iterations is meant: the likelihood is flat by then
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mixture.fit(codes.numpy())


def sample_mixture(mixture: GaussianMixture, n: int, seed: int = 0) -> Tensor:
    """n codes (n, d) from a fitted mixture, in random order."""
    mixture.random_state = seed
    codes, _ = mixture.sample(n)
    return torch.from_numpy(np.random.default_rng(seed).permutation(codes)).float()


def class_gaussians(codes: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    """For each class the mean (d,) and a Cholesky factor (d, d) of the covariance of its codes."""
    found = []
    for label in labels.unique():
        members = codes[labels == label].double()
        covariance = members.T.cov() + 1e-4 * torch.eye(codes.shape[1], dtype=torch.float64)
        found.append((members.mean(0), torch.linalg.cholesky(covariance)))
    return found


def sample_class(gaussian: tuple[Tensor, Tensor], n: int, seed: int = 0) -> Tensor:
    """n codes (n, d) from the Gaussian of one class."""
    mean, factor = gaussian
    noise = torch.randn(n, len(mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (mean + noise @ factor.T).float()


def sample_all_classes(gaussians: list[tuple[Tensor, Tensor]], n: int, seed: int = 0) -> Tensor:
    """n codes (n, d) from the Gaussians of all classes, as equally often as n allows, in random order.

    Sorted by class, a score of blocks (KID) would compare single classes with all of them.
    """
    sizes = [len(part) for part in torch.arange(n).tensor_split(len(gaussians))]
    classes = enumerate(zip(gaussians, sizes, strict=True))
    codes = torch.cat([sample_class(gaussian, size, seed * len(sizes) + i) for i, (gaussian, size) in classes])
    return codes[torch.randperm(n, generator=torch.Generator().manual_seed(seed))]


def gaussian_pixels(images: Tensor, n: int, seed: int = 0) -> Tensor:
    """n images (n, 3, h, w) uint8 from ONE Gaussian with full covariance on pixels: the simplest model of images."""
    values = images[0].numel()
    total, squares = torch.zeros(values, dtype=torch.float64), torch.zeros(values, values, dtype=torch.float64)
    for part in images.split(5000):  # all of CIFAR-10 at once would take gigabytes
        flat = to_unit(part).flatten(1).double()
        total += flat.sum(0)
        squares.addmm_(flat.T, flat)
    mean = total / len(images)
    covariance = (squares - len(images) * torch.outer(mean, mean)) / (len(images) - 1)
    root = torch.linalg.cholesky(covariance + 1e-6 * torch.eye(values, dtype=torch.float64))
    noise = torch.randn(n, values, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return to_bytes((mean + noise @ root.T).clamp(0, 1)).view(n, *images.shape[1:])


def slerp(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """Codes (steps, d) on the great arc from a (d,) to b (d,); lengths change linearly.

    A straight line passes nearer to the origin than any typical code: in 128 dimensions codes live on a shell.
    """
    t = torch.linspace(0, 1, steps)[:, None]
    angle = torch.arccos((a @ b / (a.norm() * b.norm())).clamp(-1, 1))
    if angle.sin() < 1e-4:
        return (1 - t) * a + t * b
    lengths = (1 - t) * a.norm() + t * b.norm()
    arc = ((1 - t) * angle).sin() * a / a.norm() + (t * angle).sin() * b / b.norm()
    return lengths * arc / angle.sin()
