"""One pure function per metric. Images are float (n, 3, h, w) in [0, 1]; "pooled": one number for the whole set."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..losses import Number


class Estimate(NamedTuple):
    """A number and its standard error; None where that is not known."""

    value: float
    stderr: float | None = None

    @classmethod
    def mean(cls, per_image: Tensor) -> "Estimate":
        """Mean over images (n,) and its standard error std / sqrt(n), in float64."""
        values = per_image.double()
        stderr = (values.std() / math.sqrt(len(values))).item() if len(values) > 1 else None
        return cls(values.mean().item(), stderr)

    @classmethod
    def of(cls, function: Callable[..., Tensor], *columns: Tensor) -> "Estimate":
        """A function of the means of columns (n,) or (n, k) over images; error of the linearised function."""
        values = [column.double() for column in columns]
        means = [column.mean(0) for column in values]
        gradients = torch.func.grad(function, tuple(range(len(means))))(*means)
        influence = torch.zeros(len(values[0]), dtype=torch.float64)
        for column, mean, gradient in zip(values, means, gradients, strict=True):
            influence += ((column - mean) * gradient).reshape(len(column), -1).sum(1)
        return cls(function(*means).item(), cls.mean(influence).stderr)

    def minus(self, other: "Estimate") -> "Estimate":
        """The difference of two independent estimates; its variance is the sum of theirs."""
        if self.stderr is None or other.stderr is None:
            return Estimate(self.value - other.value)
        return Estimate(self.value - other.value, math.hypot(self.stderr, other.stderr))

    def scaled(self, factor: float) -> "Estimate":
        """In another unit; an unknown error stays unknown."""
        return Estimate(self.value * factor, None if self.stderr is None else self.stderr * abs(factor))


def mse_per_image(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared error of each image, (n,)."""
    return (x - y).square().flatten(1).mean(1)


def mae_per_image(x: Tensor, y: Tensor) -> Tensor:
    """Mean absolute error of each image, (n,)."""
    return (x - y).abs().flatten(1).mean(1)


def psnr(mse: Number) -> Number:
    """Peak signal-to-noise ratio in dB for pixels in [0, 1]: -10 log10(MSE). MSE 0.01 -> 20 dB."""
    return -10 * torch.log10(mse) if isinstance(mse, Tensor) else -10 * math.log10(mse)


def ssim_per_image(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity of each image, (n,) [Wang et al. 2004: 11x11 Gaussian windows, sigma 1.5, all inside]."""
    # Each filter is two small matrix products: 50 times faster than torchmetrics here.
    rows, columns = (_window(size).to(x.device) for size in x.shape[-2:])
    c1, c2 = 0.01**2, 0.03**2
    parts = []
    for a, b in zip(x.split(100), y.split(100), strict=True):  # fits the cache
        ma, mb, aa, bb, ab = rows @ torch.stack([a, b, a * a, b * b, a * b]) @ columns.T
        shape = (2 * (ab - ma * mb) + c2) / (aa - ma * ma + bb - mb * mb + c2)
        parts.append(((2 * ma * mb + c1) / (ma * ma + mb * mb + c1) * shape).flatten(1).mean(1))
    return torch.cat(parts)


def _window(size: int) -> Tensor:
    weights = torch.exp(-torch.arange(-5.0, 6).square() / (2 * 1.5**2))
    return torch.stack([F.pad(weights / weights.sum(), (i, size - 11 - i)) for i in range(size - 10)])


def radial_spectrum(x: Tensor) -> Tensor:
    """Power of x (n, c, side, side) by cycles per image, (n, side / 2 + 1); sums to the mean square of the image.

    By cosines (DCT-II), whose k-th has k / 2 cycles: a Fourier transform takes the jump from one edge of an image to
    the opposite one for power at every frequency.
    """
    from scipy.fft import dct  # scipy and sklearn take a second, and only some notebooks need them

    side = x.shape[-1]
    cosines = torch.from_numpy(dct(np.eye(side), norm="ortho", axis=0)).to(x)  # one in each row
    waves = (cosines @ x @ cosines.T).square().mean(1) / side**2
    cycles = torch.arange(side) / 2
    radius = (torch.hypot(cycles[:, None], cycles) + 0.5).long().clamp_max(side // 2)  # halves are rounded up
    return waves.flatten(1) @ F.one_hot(radius.flatten(), side // 2 + 1).to(waves)


def pixel_moments(x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Means over the pixel values of each image, (n,), of x, y, their squares and their product, in float64."""
    a, b = x.flatten(1).double(), y.flatten(1).double()
    return {name: v.mean(1) for name, v in {"x": a, "y": b, "xx": a * a, "yy": b * b, "xy": a * b}.items()}


def regression(x: Tensor, y: Tensor, xx: Tensor, yy: Tensor, xy: Tensor) -> dict[str, Tensor]:
    """By means over all pixel values: slope and intercept of the line y(x), R2 and RMSE of y itself as a prediction."""
    variance, error = xx - x**2, xx - 2 * xy + yy
    slope = (xy - x * y) / variance
    r2, rmse = 1 - error / variance, error.clamp_min(0).sqrt()
    return {"slope": slope, "intercept": y - slope * x, "pixel_r2": r2, "rmse": rmse}


def pixel_density(x: Tensor, y: Tensor, bins: int = 64) -> Tensor:
    """How often a true value of bin i was reconstructed as one of bin j: counts (bins, bins), [x, y]."""
    true, made = ((v.flatten() * bins).long().clamp(0, bins - 1) for v in (x, y))
    return torch.bincount(true * bins + made, minlength=bins**2).view(bins, bins)


def active_units(mu: Tensor, threshold: float = 0.01) -> int:
    """Latents whose posterior mean varies: Var over images of mu_j > 0.01 [Burda et al. 2016, sec. 5.2]; mu (n, d)."""
    return int((mu.double().var(0) > threshold).sum())


def accuracy(logits: Tensor, labels: Tensor) -> Estimate:
    """The fraction of images whose largest logit is that of the label."""
    return Estimate.mean((logits.argmax(1) == labels).double())


def cross_entropy(logits: Tensor, labels: Tensor) -> Estimate:
    """-log p(label|x) in nats per image."""
    return Estimate.mean(F.cross_entropy(logits.double(), labels, reduction="none"))


def f1(predicted: Tensor, labels: Tensor, classes: Tensor) -> Estimate:
    """2 TP / (2 TP + FP + FN), the harmonic mean of precision and recall, averaged over `classes` (k,)."""
    claimed, true = predicted[:, None] == classes, labels[:, None] == classes
    counts = (claimed & true, claimed ^ true)
    return Estimate.of(lambda hits, misses: (2 * hits / (2 * hits + misses).clamp_min(1e-12)).mean(), *counts)


def calibration_bins(logits: Tensor, labels: Tensor, bins: int = 15) -> Tensor:
    """(bins, 3): share of images, mean confidence and accuracy by equally wide bins of confidence (0 if empty)."""
    confidence, predicted = logits.double().softmax(1).max(1)
    return _bins(confidence, (predicted == labels).double(), bins)


def _bins(confidence: Tensor, right: Tensor, bins: int) -> Tensor:
    where = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)
    sums = torch.stack([where.bincount(column, bins) for column in (torch.ones_like(right), confidence, right)], 1)
    return torch.cat([sums[:, :1] / len(right), sums[:, 1:] / sums[:, :1].clamp_min(1)], 1)


def ece(logits: Tensor, labels: Tensor, bins: int = 15, repeats: int = 100) -> Estimate:
    """Expected calibration error [Guo et al. 2017, eq. 3], biased upwards; error by `repeats` bootstrap samples."""
    generator, n, errors = torch.Generator().manual_seed(0), len(labels), []
    confidence, predicted = logits.double().softmax(1).max(1)
    for chosen in [torch.arange(n), *(torch.randint(n, (n,), generator=generator) for _ in range(repeats))]:
        share, sure, accurate = _bins(confidence[chosen], (predicted == labels)[chosen].double(), bins).T
        errors.append((share * (accurate - sure).abs()).sum())
    return Estimate(errors[0].item(), torch.stack(errors[1:]).std().item())


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The T > 0 for which logits / T has the smallest cross-entropy [Guo et al. 2017, sec. 4.2]."""
    from scipy.optimize import minimize_scalar

    best = minimize_scalar(lambda t: cross_entropy(logits / math.exp(t), labels).value, (-0.5, 0.5))
    return math.exp(best.x)


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


def nearest(queries: Tensor, keys: Tensor, batch: int = 1000) -> tuple[Tensor, Tensor]:
    """Euclidean distance to and index of the nearest key (k, d) of each query (q, d)."""
    best = [torch.cdist(some, keys).min(1) for some in queries.split(batch)]
    return torch.cat([found.values for found in best]), torch.cat([found.indices for found in best])
