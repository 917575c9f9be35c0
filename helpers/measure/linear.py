"""The linear baseline: principal components as a code, as a density (probabilistic PCA), and the mean image (d = 0)."""

import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..config import LEVEL
from ..data import Dataset
from ..storage import read_tensors, write_tensors


class LinearCode(NamedTuple):
    """Principal components of the training pixels: the best linear code of any length."""

    mean: Tensor  # (3072,)
    components: Tensor  # (k, 3072), orthonormal rows
    variance_ratio: Tensor  # (min(n, 3072),) share of the variance along each direction
    total_variance: Tensor  # scalar: the sum over all pixel values

    def encode(self, x: Tensor, d: int) -> Tensor:
        """Images (n, 3, h, w) -> their first d scores (n, d)."""
        return (x.flatten(1) - self.mean) @ self.components[:d].T

    def reconstruct(self, x: Tensor, d: int) -> Tensor:
        """Encode x (n, 3, h, w) in d numbers and decode it again; may leave [0, 1], as the linear map does.

        d = 0 gives the mean image of the training split.
        """
        return (self.encode(x, d) @ self.components[:d] + self.mean).view_as(x)

    def nll(self, x: Tensor, d: int) -> Tensor:
        """-log P of the 8-bit images (n,) in nats under probabilistic PCA [Tipping & Bishop 1999, eq. 4 and 8].

        The exact Gaussian density times the width of a level, 1/255 for each value: good as long as the smallest
        standard deviation (about 0.07 for d = 128) is far above a level (0.004).
        """
        values = len(self.mean)
        total = self.total_variance.double()
        along = self.variance_ratio[:d].double() * total
        rest = (total - along.sum()) / (values - d)
        scores = self.encode(x, d).double()
        outside = (x.flatten(1) - self.mean).double().square().sum(1) - scores.square().sum(1)
        distance = (scores.square() / along).sum(1) + outside / rest
        log_volume = along.log().sum() + (values - d) * rest.log()
        return 0.5 * (distance + log_volume + values * math.log(2 * math.pi)) - values * math.log(LEVEL)


def linear_code(data: Dataset, folder: Path, d: int) -> LinearCode:
    """The PCA of the training split with d components; kept in `folder` and read from there next time."""
    path = folder / "pca.safetensors"
    about = {"kind": "pca", "dataset": data.name, "n_train": len(data.train)}
    if path.is_file():
        tensors, known = read_tensors(path)
        if known == about and set(tensors) == set(LinearCode._fields) and len(tensors["components"]) >= d:
            return LinearCode(**tensors)
    from sklearn.decomposition import PCA

    flat = data.train.images.flatten(1).numpy().astype("float32") / 255
    pca = PCA(svd_solver="covariance_eigh").fit(flat)
    parts = (pca.mean_, pca.components_[:d], pca.explained_variance_ratio_)
    total = torch.tensor(pca.explained_variance_.sum(dtype="float64"))
    code = LinearCode(*(torch.from_numpy(part).float().contiguous() for part in parts), total.float())
    write_tensors(path, code._asdict(), about)
    return code
