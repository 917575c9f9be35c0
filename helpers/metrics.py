"""One pure function per metric: tensors in, numbers out. Nothing here knows models or files.

Images are float (n, 3, h, w) in [0, 1]. "Pooled" means one number for the whole set; "per image" has a mean and a
standard error.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Estimate(NamedTuple):
    """A number and, where it is a mean over images, its standard error (else None)."""

    value: float
    stderr: float | None = None

    @classmethod
    def mean(cls, per_image: Tensor) -> "Estimate":
        """Mean over images (n,) and its standard error std / sqrt(n), in float64."""
        values = per_image.double()
        stderr = (values.std() / math.sqrt(len(values))).item() if len(values) > 1 else None
        return cls(values.mean().item(), stderr)


class Regression(NamedTuple):
    """The least-squares line reconstructed = slope * true + intercept over all pixel values, pooled."""

    slope: float
    intercept: float
    r2: float  # 1 - residual / total sum of squares of the RECONSTRUCTION as a prediction of the truth
    rmse: float  # in pixel units, 0..1


def mse_per_image(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared error of each image, (n,)."""
    return (x - y).square().flatten(1).mean(1)


def psnr(mse: float | Tensor) -> float | Tensor:
    """Peak signal-to-noise ratio in dB for pixels in [0, 1]: -10 log10(MSE). MSE 0.01 -> 20 dB."""
    return -10 * torch.log10(mse) if isinstance(mse, Tensor) else -10 * math.log10(mse)


def ssim_per_image(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity of each image, (n,) [Wang et al. 2004: 11x11 Gaussian window, sigma 1.5].

    Only windows that lie wholly inside the image count, as in the paper and in scikit-image.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    parts = []
    for a, b in zip(x.split(50), y.split(50), strict=True):  # small enough for the cache: twice as fast
        _, local = ssim(b, a, data_range=1.0, reduction="none", return_full_image=True)
        parts.append(local[..., 5:-5, 5:-5].flatten(1).mean(1))
    return torch.cat(parts)


class PixelMoments:
    """Running sums of true and reconstructed pixel values, from which the regression and the density come."""

    def __init__(self, bins: int = 64) -> None:
        self.bins = bins
        self.sums = torch.zeros(5, dtype=torch.float64)  # x, y, x^2, y^2, xy
        self.density = torch.zeros(bins, bins, dtype=torch.int64)  # [true, reconstructed]
        self.n = 0

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add true values x and reconstructed values y, of one shape."""
        a, b = x.flatten().double(), y.flatten().double()
        self.sums += torch.stack([a.sum(), b.sum(), a @ a, b @ b, a @ b]).cpu()
        cells = [(v * self.bins).long().clamp(0, self.bins - 1) for v in (a, b)]
        counts = torch.bincount(cells[0] * self.bins + cells[1], minlength=self.bins**2)
        self.density += counts.view(self.bins, self.bins).cpu()
        self.n += a.numel()

    def regression(self) -> Regression:
        """The fitted line, R2 and RMSE over everything that was added."""
        mx, my, xx, yy, xy = (self.sums / self.n).tolist()
        slope = (xy - mx * my) / (xx - mx * mx)
        mse = xx - 2 * xy + yy
        return Regression(slope, my - slope * mx, 1 - mse / (xx - mx * mx), math.sqrt(max(mse, 0.0)))


def active_units(mu: Tensor, threshold: float = 0.01) -> int:
    """Latents whose posterior mean varies: Var over images of mu_j > 0.01 [Burda et al. 2016, sec. 5.2]; mu (n, d)."""
    return int((mu.double().var(0) > threshold).sum())


def accuracy(logits: Tensor, labels: Tensor) -> Estimate:
    """The share of images whose largest logit is the label's."""
    return Estimate.mean((logits.argmax(1) == labels).double())


def cross_entropy(logits: Tensor, labels: Tensor) -> Estimate:
    """-log p(label|x), nats per image."""
    return Estimate.mean(F.cross_entropy(logits.double(), labels, reduction="none"))


def nearest(queries: Tensor, keys: Tensor, *, skip_self: bool = False, batch: int = 1000) -> tuple[Tensor, Tensor]:
    """For each query (q, d) the distance to and the index of its nearest key (k, d), Euclidean.

    `skip_self` is for queries that are the keys: a point is not its own neighbour.
    """
    distances, indices = [], []
    for start in range(0, len(queries), batch):
        table = torch.cdist(queries[start : start + batch], keys)
        if skip_self:
            rows = torch.arange(len(table))
            table[rows, rows + start] = torch.inf
        best = table.min(1)
        distances.append(best.values)
        indices.append(best.indices)
    return torch.cat(distances), torch.cat(indices)
