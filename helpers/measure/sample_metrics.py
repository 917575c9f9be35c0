"""How good samples are, in the features of a classifier: feature matrices in, numbers out.

Features are float (n, f), one row an image. No number here is an FID: that name belongs to one layer of one network
(Inception-v3) and one protocol. Every score depends on n, so it stands beside the same score of real images.
"""

import math

import numpy as np
import torch
from scipy.stats import mannwhitneyu
from sklearn.cluster import KMeans
from torch import Tensor

from .metrics import Estimate, nearest


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Distance between Gaussians fitted to two sets of features: |m_a - m_b|^2 + tr(A + B - 2 (A B)^(1/2)).

    The formula of the FID [Heusel et al. 2017, sec. 3], in float64. It is biased upwards for few images.
    """
    a, b = a.double(), b.double()
    cov_a, cov_b = torch.atleast_2d(a.T.cov()), torch.atleast_2d(b.T.cov())
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    # tr (A B)^(1/2) = tr (R B R)^(1/2) with R = A^(1/2): a symmetric matrix, so its eigenvalues are real.
    overlap = torch.linalg.eigvalsh(root @ cov_b @ root).clamp_min(0).sqrt().sum()
    return ((a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * overlap).item()


def kernel_distance(a: Tensor, b: Tensor, block: int = 1000) -> Estimate:
    """Squared maximum mean discrepancy, kernel (x.y / f + 1)^3, unbiased; may be negative [Binkowski et al. 2018].

    The mean over disjoint blocks of `block` images, and the standard error of that mean.
    """
    pairs = zip(a.double().split(block), b.double().split(block), strict=False)
    return Estimate.mean(torch.stack([_squared_mmd(x, y) for x, y in pairs if len(x) == len(y) and len(x) > 1]))


def _squared_mmd(x: Tensor, y: Tensor) -> Tensor:
    def kernel(u: Tensor, v: Tensor) -> Tensor:
        return (u @ v.T / u.shape[1] + 1) ** 3

    def without_self(k: Tensor) -> Tensor:
        return (k.sum() - k.trace()) / (len(k) * (len(k) - 1))

    return without_self(kernel(x, x)) + without_self(kernel(y, y)) - 2 * kernel(x, y).mean()


def manifold_scores(real: Tensor, made: Tensor, k: int = 5, real_radius: Tensor | None = None) -> dict[str, float]:
    """Precision and recall [Kynkaanniemi et al. 2019], density and coverage [Naeem et al. 2020, eqs. 3 and 4].

    A point lies on the manifold of a set when it is within the distance from one of its members to that member's
    k-th neighbour. Identical sets: precision = recall = coverage = 1. `real_radius` is `neighbour_distance(real, k)`,
    for callers that score many sets against the same real images.
    """
    real_radius = neighbour_distance(real, k) if real_radius is None else real_radius
    made_radius = neighbour_distance(made, k)
    inside = torch.zeros(len(made))  # in how many balls around real images each sample lies
    covered = torch.zeros(len(real), dtype=torch.bool)
    recalled = torch.zeros(len(real), dtype=torch.bool)
    for rows in torch.arange(len(real)).split(1000):
        table = torch.cdist(real[rows], made)
        within = table <= real_radius[rows, None]
        inside += within.sum(0)
        covered[rows] = within.any(1)
        recalled[rows] = (table <= made_radius[None]).any(1)
    return {
        "precision": (inside > 0).double().mean().item(),
        "recall": recalled.double().mean().item(),
        "density": (inside / k).double().mean().item(),
        "coverage": covered.double().mean().item(),
    }


def neighbour_distance(x: Tensor, k: int = 5) -> Tensor:
    """The distance from each row to its k-th nearest other row, (n,)."""
    return torch.cat([torch.cdist(part, x).topk(k + 1, largest=False).values[:, k] for part in x.split(1000)])


def copying_statistic(train: Tensor, test: Tensor, made: Tensor, cells: int = 20, seed: int = 0) -> float:
    """The data-copying statistic C_T [Meehan, Chaudhuri & Dasgupta 2020, sec. 3]; far below 0 means copying.

    In every cell of a k-means partition of the training set: are samples closer to the training images than test images
    are? Mann-Whitney's U as a z-score, averaged with the share of test images in each cell; cells with fewer than 20
    test images or samples say nothing and are left out.
    """
    partition = KMeans(cells, n_init=1, random_state=seed).fit(train.numpy())
    members = [partition.predict(x.numpy()) for x in (test, made)]
    distances = [nearest(x, train)[0].numpy() for x in (test, made)]
    scores, weights = [], []
    for cell in range(cells):
        of_test, of_made = (d[m == cell] for d, m in zip(distances, members, strict=True))
        if min(len(of_test), len(of_made)) >= 20:
            scores.append(_z_score(of_made, of_test))
            weights.append(len(of_test))
    return float(np.average(scores, weights=weights)) if weights else math.nan


def _z_score(a: np.ndarray, b: np.ndarray) -> float:
    """Mann-Whitney's U of a over b in standard deviations; negative when the values of a are smaller."""
    n, m = len(a), len(b)
    u = mannwhitneyu(a, b, method="asymptotic").statistic
    return (u - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12)
