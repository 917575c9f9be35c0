"""One pure function per metric: tensors in, numbers out. Nothing here knows models or files.

Images are float (n, 3, h, w) in [0, 1]. "Pooled" means one number for the whole set; "per image" has a mean and a
standard error.
"""

import math
from collections.abc import Callable
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

    @classmethod
    def of(cls, function: Callable[[Tensor], Tensor], per_image: Tensor) -> "Estimate":
        """A function of means over images, such as a PSNR or a ratio; per_image (n, k) holds what is averaged.

        The standard error is that of the linearised function (the delta method).
        """
        values = per_image.double()
        mean = values.mean(0).requires_grad_()
        with torch.enable_grad():
            result = function(mean)
            (gradient,) = torch.autograd.grad(result, mean)
        return cls(result.item(), cls.mean((values - mean.detach()) @ gradient).stderr)

    def minus(self, other: "Estimate") -> "Estimate":
        """The difference of two independent estimates; its variance is the sum of theirs."""
        known = self.stderr is not None and other.stderr is not None
        return Estimate(self.value - other.value, math.hypot(self.stderr, other.stderr) if known else None)


class Regression(NamedTuple):
    """The least-squares line reconstructed = slope * true + intercept over all pixel values, pooled."""

    slope: float
    intercept: float
    r2: float  # 1 - residual / total sum of squares of the RECONSTRUCTION as a prediction of the truth
    rmse: float  # in pixel units, 0..1


def mse_per_image(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared error of each image, (n,)."""
    return (x - y).square().flatten(1).mean(1)


def mae_per_image(x: Tensor, y: Tensor) -> Tensor:
    """Mean absolute error of each image, (n,)."""
    return (x - y).abs().flatten(1).mean(1)


def psnr(mse: float | Tensor) -> float | Tensor:
    """Peak signal-to-noise ratio in dB for pixels in [0, 1]: -10 log10(MSE). MSE 0.01 -> 20 dB."""
    return -10 * torch.log10(mse) if isinstance(mse, Tensor) else -10 * math.log10(mse)


def ssim_per_image(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity of each image, (n,) [Wang et al. 2004: 11x11 Gaussian window, sigma 1.5].

    Only windows that lie wholly inside the image count, as in the paper and in scikit-image. The window is a product
    of a row and a column, so each filter is two small matrix products: 50 times faster than torchmetrics here.
    """
    return torch.cat([_ssim(a, b) for a, b in zip(x.split(100), y.split(100), strict=True)])  # fits the cache


def _ssim(x: Tensor, y: Tensor) -> Tensor:
    rows, columns = (_window(size).to(x.device) for size in x.shape[-2:])
    local = rows @ torch.stack([x, y, x * x, y * y, x * y]) @ columns.T
    mx, my, xx, yy, xy = local
    c1, c2 = 0.01**2, 0.03**2
    shape = (2 * (xy - mx * my) + c2) / (xx - mx * mx + yy - my * my + c2)
    return ((2 * mx * my + c1) / (mx * mx + my * my + c1) * shape).flatten(1).mean(1)


def _window(size: int) -> Tensor:
    """The Gaussian filter along one axis as a matrix (size - 10, size)."""
    weights = torch.exp(-torch.arange(-5.0, 6).square() / (2 * 1.5**2))
    weights = weights / weights.sum()
    return torch.stack([F.pad(weights, (i, size - 11 - i)) for i in range(size - 10)])


def radial_spectrum(x: Tensor) -> Tensor:
    """Power by spatial frequency, (n, side / 2 + 1), of square images x (n, c, side, side).

    Entry f holds all waves of about f cycles per image, in any direction; the corners beyond side / 2 go into the
    last one. The entries sum to the mean square of the image (Parseval).
    """
    side = x.shape[-1]
    waves = torch.fft.rfft2(x, norm="forward").abs().square().mean(1)
    twice = torch.full((side // 2 + 1,), 2.0, device=x.device)
    twice[[0, -1]] = 1.0  # every other column stands for its mirror image too
    fy, fx = torch.fft.fftfreq(side, 1 / side), torch.arange(side // 2 + 1.0)
    radius = torch.hypot(fy[:, None], fx[None, :]).round().long().clamp_max(side // 2)
    member = F.one_hot(radius.flatten(), side // 2 + 1).to(waves)
    return (waves * twice).flatten(1) @ member


class PixelMoments:
    """Sums of true and reconstructed pixel values by image, from which the regression and the density come."""

    def __init__(self, bins: int = 64) -> None:
        self.bins = bins
        self.sums: list[Tensor] = []  # (b, 5) by batch: means over an image of x, y, x^2, y^2, xy
        self.density = torch.zeros(bins, bins, dtype=torch.int64)  # [true, reconstructed]

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add true values x and reconstructed values y, both (n, c, h, w)."""
        a, b = x.flatten(1).double(), y.flatten(1).double()
        self.sums.append(torch.stack([v.mean(1) for v in (a, b, a * a, b * b, a * b)], 1).cpu())
        cells = [(v * self.bins).long().clamp(0, self.bins - 1) for v in (a, b)]
        counts = torch.bincount((cells[0] * self.bins + cells[1]).flatten(), minlength=self.bins**2)
        self.density += counts.view(self.bins, self.bins).cpu()

    def regression(self) -> Regression:
        """The fitted line, R2 and RMSE over everything that was added."""
        mean = torch.cat(self.sums).mean(0)
        slope = _slope(mean).item()
        return Regression(slope, (mean[1] - slope * mean[0]).item(), _r2(mean).item(), _rmse(mean).item())

    def estimates(self) -> dict[str, Estimate]:
        """R2, slope and RMSE, pooled over pixel values, with the standard errors that images give."""
        table = torch.cat(self.sums)
        functions = {"pixel_r2": _r2, "slope": _slope, "rmse": _rmse}
        return {name: Estimate.of(function, table) for name, function in functions.items()}


def _slope(m: Tensor) -> Tensor:
    return (m[4] - m[0] * m[1]) / (m[2] - m[0] ** 2)


def _r2(m: Tensor) -> Tensor:
    return 1 - (m[2] - 2 * m[4] + m[3]) / (m[2] - m[0] ** 2)


def _rmse(m: Tensor) -> Tensor:
    return (m[2] - 2 * m[4] + m[3]).clamp_min(0).sqrt()


def active_units(mu: Tensor, threshold: float = 0.01) -> int:
    """Latents whose posterior mean varies: Var over images of mu_j > 0.01 [Burda et al. 2016, sec. 5.2]; mu (n, d)."""
    return int((mu.double().var(0) > threshold).sum())


def accuracy(logits: Tensor, labels: Tensor) -> Estimate:
    """The share of images whose largest logit is the label's."""
    return Estimate.mean((logits.argmax(1) == labels).double())


def cross_entropy(logits: Tensor, labels: Tensor) -> Estimate:
    """-log p(label|x), nats per image."""
    return Estimate.mean(F.cross_entropy(logits.double(), labels, reduction="none"))


def f1(predicted: Tensor, labels: Tensor, label: int) -> Estimate:
    """Harmonic mean of precision and recall of one class: 2 TP / (2 TP + FP + FN)."""
    claimed, true = predicted == label, labels == label
    counts = torch.stack([claimed & true, claimed ^ true], 1)
    return Estimate.of(lambda m: 2 * m[0] / (2 * m[0] + m[1]).clamp_min(1e-12), counts)


def macro_f1(predicted: Tensor, labels: Tensor) -> Estimate:
    """The mean over classes of F1; classes are those that occur in labels (n,)."""
    classes = labels.unique()
    claimed, true = predicted[:, None] == classes, labels[:, None] == classes
    counts = torch.stack([claimed & true, claimed ^ true], 2).flatten(1)

    def mean_f1(m: Tensor) -> Tensor:
        hits, misses = m.view(-1, 2).T
        return (2 * hits / (2 * hits + misses).clamp_min(1e-12)).mean()

    return Estimate.of(mean_f1, counts)


def confusion(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Counts (classes, classes): rows are true classes, columns predicted ones."""
    return torch.bincount(labels * classes + predicted, minlength=classes**2).view(classes, classes)


def calibration_bins(logits: Tensor, labels: Tensor, bins: int = 15) -> Tensor:
    """(bins, 3): share of images, mean confidence and accuracy by equally wide bins of confidence (0 if empty)."""
    sure = logits.double().softmax(1).max(1)
    return _binned(sure.values, (sure.indices == labels).double(), bins)


def _binned(confidence: Tensor, correct: Tensor, bins: int) -> Tensor:
    where = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)
    sums = torch.stack([where.bincount(w, bins) for w in (torch.ones_like(confidence), confidence, correct)], 1)
    return torch.cat([sums[:, :1] / len(confidence), sums[:, 1:] / sums[:, :1].clamp_min(1)], 1)


def ece(logits: Tensor, labels: Tensor, bins: int = 15, repeats: int = 100) -> Estimate:
    """Expected calibration error: |accuracy - confidence|, averaged over bins [Guo et al. 2017, eq. 3].

    Never negative, so biased upwards by noise; the standard error comes from `repeats` seeded bootstrap samples.
    """
    sure = logits.double().softmax(1).max(1)
    correct = (sure.indices == labels).double()

    def error(chosen: Tensor) -> float:
        share, confidence, accurate = _binned(sure.values[chosen], correct[chosen], bins).T
        return (share * (accurate - confidence).abs()).sum().item()

    generator, n = torch.Generator().manual_seed(0), len(labels)
    resampled = torch.tensor([error(torch.randint(n, (n,), generator=generator)) for _ in range(repeats)])
    return Estimate(error(torch.arange(n)), resampled.std().item())


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The T > 0 for which logits / T has the smallest cross-entropy [Guo et al. 2017, sec. 4.2]."""
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(lambda t: cross_entropy(logits / math.exp(t), labels).value, (-0.5, 0.5))
    return math.exp(found.x)


def auroc(inside: Tensor, outside: Tensor) -> Estimate:
    """P(a score from outside > one from inside), ties count half; error by Hanley & McNeil 1982, eq. 1."""
    from sklearn.metrics import roc_auc_score

    scores, (n, m) = torch.cat([inside, outside]), (len(inside), len(outside))
    area = float(roc_auc_score([0] * n + [1] * m, scores.tolist()))
    excess = (m - 1) * (area / (2 - area) - area**2) + (n - 1) * (2 * area**2 / (1 + area) - area**2)
    return Estimate(area, math.sqrt(max(0.0, area * (1 - area) + excess) / (n * m)))


def linear_probe(codes: Tensor, labels: Tensor, unseen: Tensor, unseen_labels: Tensor) -> Estimate:
    """Accuracy on unseen codes (m, d) of a logistic regression fitted to standardised codes (n, d)."""
    from sklearn.linear_model import LogisticRegression

    mean, std = codes.mean(0), codes.std(0).clamp_min(1e-8)
    probe = LogisticRegression(max_iter=300).fit(((codes - mean) / std).numpy(), labels.numpy())
    predicted = torch.from_numpy(probe.predict(((unseen - mean) / std).numpy()))
    return Estimate.mean((predicted == unseen_labels).double())


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
