"""The linear baseline: principal components as a code, as a density (probabilistic PCA), and the mean image (d = 0)."""

import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..data import LEVEL, Dataset
from ..engine.sealed import cached


class LinearCode(NamedTuple):
    """Principal components of the training pixels: the best linear code of any length."""

    mean: Tensor  # (3072,)
    components: Tensor  # (k, 3072), orthonormal rows
    variance_ratio: Tensor  # (min(n, 3072),) share of the variance along each direction
    total_variance: Tensor  # scalar: the sum over all pixel values

    def encode(self, x: Tensor, d: int) -> Tensor:
        """x (n, 3, h, w) -> its first d scores (n, d)."""
        return (x.flatten(1) - self.mean) @ self.components[:d].T

    def reconstruct(self, x: Tensor, d: int) -> Tensor:
        """x (n, 3, h, w) from d numbers, d = 0: the mean image; may leave [0, 1]."""
        return (self.encode(x, d) @ self.components[:d] + self.mean).view_as(x)

    def nll(self, x: Tensor, d: int) -> Tensor:
        """-log (density * width of a level), (n,), nats, by probabilistic PCA [Tipping & Bishop 1999, eq. 4 and 8]."""
        # The density times the width of a level: good while the smallest standard deviation (0.07) is far above it.
        values, total = len(self.mean), self.total_variance.double()
        along = self.variance_ratio[:d].double() * total
        rest = (total - along.sum()) / (values - d)
        scores = self.encode(x, d).double()
        outside = (x.flatten(1) - self.mean).double().square().sum(1) - scores.square().sum(1)
        distance = (scores.square() / along).sum(1) + outside / rest
        log_volume = along.log().sum() + (values - d) * rest.log()
        return 0.5 * (distance + log_volume + values * math.log(2 * math.pi)) - values * math.log(LEVEL)

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """n images, (n, 3072), drawn from the probabilistic PCA with all stored components [Tipping & Bishop 1999]."""
        (k, values), generator = self.components.shape, torch.Generator().manual_seed(seed)
        along = self.variance_ratio[:k] * self.total_variance
        rest = (self.total_variance - along.sum()).clamp_min(0) / max(1, values - k)
        codes = torch.randn(n, k, generator=generator) * (along - rest).clamp_min(0).sqrt()
        return codes @ self.components + rest.sqrt() * torch.randn(n, values, generator=generator) + self.mean


def linear_code(data: Dataset, folder: Path, d: int) -> LinearCode:
    """The PCA of the training split with at least d components, kept in `folder`."""

    def fit() -> dict[str, Tensor]:
        from sklearn.decomposition import PCA  # a second, needed once

        x = data.train.images.flatten(1).numpy().astype("float32")
        x /= 255  # in place: a second array of all images would take half a gigabyte more
        pca = PCA(svd_solver="full" if len(x) < x.shape[1] else "covariance_eigh").fit(x)  # the faster way to the same
        total = pca.explained_variance_.sum(dtype="float64")
        parts = (pca.mean_, pca.components_[:d], pca.explained_variance_ratio_, total)
        return LinearCode(*(torch.as_tensor(part).float().contiguous() for part in parts))._asdict()

    path, provenance = folder / "pca.safetensors", {"kind": "pca", "dataset": data.name, "n_train": len(data.train)}
    tensors, _ = cached(path, provenance, fit)
    if len(tensors["components"]) < d:
        tensors, _ = cached(path, provenance, fit, fresh=True)
    return LinearCode(**tensors)
