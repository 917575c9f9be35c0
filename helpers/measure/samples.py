"""Scores of samples, in the features (n, f) of a judge: each depends on n. The true FID stands at the end."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.fft import dctn
from scipy.stats import mannwhitneyu
from sklearn.cluster import KMeans
from torch import Tensor

from ..data import EVALUATION_BATCH
from ..engine import Json, UserError, bar, cached_json
from ..judge import Judge, judge_images
from .metrics import Estimate, nearest


def score(real: Tensor, features: Tensor, predicted: Tensor, radius: Tensor | None = None) -> dict[str, Any]:
    """Every score of what `judge_images` says of n images, against features (m, f) with `neighbour_distance` radius."""
    share = predicted.bincount().double() / len(predicted)
    return {
        "n": len(features),
        "frechet": frechet_distance(features, real),
        "kernel": kernel_distance(features, real)._asdict(),
        **manifold_scores(real, features, real_radius=radius),
        "class_entropy": torch.special.entr(share).sum().item(),
    }


def block_spectrum(images: Tensor) -> Tensor:
    """Log power of the grey picture at each frequency of 8x8 blocks, as JPEG has them; uint8 (n, 3, h, w) -> (n, 64).

    A space that no classifier made: it sees sharpness, noise and grids, and nothing of what a picture shows.
    """
    n, _, h, w = images.shape
    blocks = images.float().mean(1).view(n, h // 8, 8, w // 8, 8).numpy()
    power = np.square(dctn(blocks, axes=(2, 4), norm="ortho")).mean((1, 3))
    return torch.from_numpy(power).view(n, 64).add(1 / 12).log()  # 1/12: rounding of one channel; flat blocks


def stored_scores(
    path: Path, makers: dict[str, Callable[[], Tensor]], judge: Judge, real: Tensor, held_out: Tensor, origin: Json,
    asked: dict[str, Tensor] | None = None,
) -> dict[str, Json]:  # fmt: skip
    """By maker its `score` against `real` images, uint8 (n, 3, h, w), kept for one `origin` and the same names.

    With "spectrum", the Fréchet distance of `block_spectrum`; "to_validation", the Fréchet distance to the `held_out`
    images; and where labels (n,) were `asked` for, "agreement": the share in which the judge sees that class.
    """

    def compute() -> Json:
        (features, _), (near, _) = judge_images(judge, real), judge_images(judge, held_out)
        radius, spectrum, rows = neighbour_distance(features), block_spectrum(real), {}
        for name, make in bar(makers.items(), "scoring", len(makers)):
            made, predicted = judge_images(judge, images := make())
            rows[name] = score(features, made, predicted, radius)
            rows[name]["spectrum"] = frechet_distance(block_spectrum(images), spectrum)
            rows[name]["to_validation"] = frechet_distance(made, near)
            if asked and name in asked:
                rows[name]["agreement"] = predicted.eq(asked[name]).double().mean().item()
        return {"scores": rows}

    return cached_json(path, {**origin, "names": list(makers)}, compute)["scores"]


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """|m_a - m_b|^2 + tr(A + B - 2 (A B)^(1/2)), the formula of the FID [Heusel et al. 2017]; too high for small n."""
    a, b = a.double(), b.double()
    cov_a, cov_b = torch.atleast_2d(a.T.cov()), torch.atleast_2d(b.T.cov())
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T  # tr (A B)^(1/2) = tr (R B R)^(1/2) with R = A^(1/2)
    overlap = torch.linalg.eigvalsh(root @ cov_b @ root).clamp_min(0).sqrt().sum()
    return ((a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * overlap).item()


def kernel_distance(a: Tensor, b: Tensor, block: int = 1000) -> Estimate:
    """Squared maximum mean discrepancy, kernel (x.y / f + 1)^3, unbiased [Binkowski et al. 2018]; mean of blocks."""
    pairs = zip(a.double().split(block), b.double().split(block), strict=False)
    return Estimate.mean(torch.stack([_squared_mmd(x, y) for x, y in pairs if len(x) == len(y) and len(x) > 1]))


def _squared_mmd(x: Tensor, y: Tensor) -> Tensor:
    xx, yy, xy = ((u @ v.T / u.shape[1] + 1) ** 3 for u, v in ((x, x), (y, y), (x, y)))
    inside = xx.sum() - xx.trace() + yy.sum() - yy.trace()  # without the pairs of an image and itself
    return inside / (len(x) * (len(x) - 1)) - 2 * xy.mean()


def manifold_scores(real: Tensor, made: Tensor, k: int = 5, real_radius: Tensor | None = None) -> dict[str, float]:
    """Precision and recall [Kynkaanniemi et al. 2019], density and coverage [Naeem et al. 2020, eqs. 3 and 4].

    A set's manifold: balls around its members that reach to their k-th neighbours (`neighbour_distance`).
    """
    real_radius = neighbour_distance(real, k) if real_radius is None else real_radius
    made_radius = neighbour_distance(made, k)
    inside = torch.zeros(len(made))  # in how many balls around real images each sample lies
    covered, recalled = torch.zeros(2, len(real), dtype=torch.bool)
    for rows in torch.arange(len(real)).split(1000):
        table = torch.cdist(real[rows], made)
        within = table <= real_radius[rows, None]
        inside += within.sum(0)
        covered[rows] = within.any(1)
        recalled[rows] = (table <= made_radius).any(1)
    columns = {"precision": inside > 0, "recall": recalled, "density": inside / k, "coverage": covered}
    return {name: column.double().mean().item() for name, column in columns.items()}


def neighbour_distance(x: Tensor, k: int = 5) -> Tensor:
    """The distance from each row to its k-th nearest other row, (n,)."""
    return torch.cat([torch.cdist(part, x).topk(k + 1, largest=False).values[:, k] for part in x.split(1000)])


def copying_statistic(train: Tensor, test: Tensor, made: Tensor, cells: int = 20, seed: int = 0) -> float:
    """The data-copying statistic C_T [Meehan, Chaudhuri & Dasgupta 2020, sec. 3]; far below 0 means copying.

    Are samples closer to training images than test images are? A z-score for each cell of a k-means partition,
    averaged by the number of its test images; cells with fewer than 20 test images or samples say nothing.
    """
    partition = KMeans(cells, n_init=1, random_state=seed).fit(train.numpy())
    members = [partition.predict(x.numpy()) for x in (test, made)]
    distances = [nearest(x, train)[0].numpy() for x in (test, made)]
    scores, weights = [], []
    for cell in range(cells):
        of_test, of_made = (d[m == cell] for d, m in zip(distances, members, strict=True))
        n, m = len(of_test), len(of_made)
        if min(n, m) >= 20:
            u = mannwhitneyu(of_made, of_test, method="asymptotic").statistic
            scores.append((u - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12))
            weights.append(n)
    if not weights and cells > 1:
        return copying_statistic(train, test, made, 1, seed)
    return float(np.average(scores, weights=weights)) if weights else math.nan


@torch.no_grad()
def inception_scores(real: Tensor, made: Tensor) -> dict[str, float]:
    """FID of uint8 images (n, 3, h, w) [Heusel et al. 2017] and Inception score [Salimans et al. 2016], torchmetrics'.

    Needs the extra `inception` and, once, a network for the weights; raises UserError without them.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.inception import InceptionScore

    try:
        distance, score = FrechetInceptionDistance(), InceptionScore()
    except (ModuleNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"no FID: pip install -e '.[inception]' and a network for the weights ({reason})") from None
    for part in real.split(EVALUATION_BATCH):
        distance.update(part, real=True)
    for part in made.split(EVALUATION_BATCH):
        distance.update(part, real=False)
        score.update(part)
    mean, deviation = score.compute()
    return {"n": len(made), "fid": distance.compute().item(), "is": mean.item(), "is_deviation": deviation.item()}
