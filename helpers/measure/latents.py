"""What posteriors say together, in nats: E KL(q(z|x) || p(z)) = I(x; z) + KL(q(z) || p(z)) [Hoffman & Johnson 2016]."""

import math

import torch
from torch import Tensor

from ..losses import LOG_2PI
from ..models import Posterior
from .metrics import Estimate


def log_normal(z: Tensor) -> Tensor:
    """log N(z; 0, I) of codes (n, d), as (n,)."""
    return -0.5 * (z.square() + LOG_2PI).sum(1)


def log_posterior(q: Posterior, z: Tensor) -> Tensor:
    """log q(z_i|x_i) of one code for each image, (n,)."""
    return -0.5 * ((z - q.mu).square() * (-q.logvar).exp() + q.logvar + LOG_2PI).sum(1)


def log_aggregate(q: Posterior, z: Tensor, batch: int = 1000) -> Tensor:
    """log q(z_i) under the mixture of all n posteriors, (m,); the sum over components is complete."""
    q, z = Posterior(q.mu.double(), q.logvar.double()), z.double()  # float32 would cancel in the expanded square
    precision = (-q.logvar).exp()
    constant = (q.mu.square() * precision + q.logvar + LOG_2PI).sum(1)
    parts = []
    for some in z.split(batch):
        distance = some.square() @ precision.T - 2 * some @ (q.mu * precision).T + constant
        parts.append(torch.logsumexp(-0.5 * distance, 1) - math.log(len(q.mu)))
    return torch.cat(parts)


def aggregate_posterior(q: Posterior, z: Tensor) -> dict[str, Estimate]:
    """I(x; z) and KL(q(z) || p(z)) of n images, one sample z (n, d) each [Chen et al. 2018, C.1, complete sums].

    For more images than these n they are biased: I cannot exceed log n, and where it should, the KL is too high.
    """
    q, z = Posterior(q.mu.double(), q.logvar.double()), z.double()
    conditional, aggregate = log_posterior(q, z), log_aggregate(q, z)
    information, kl = Estimate.mean(conditional - aggregate), Estimate.mean(aggregate - log_normal(z))
    return {"mutual_information": information, "aggregate_kl": kl}


def gaussian_kl(q: Posterior) -> float:
    """KL(N(m, S) || N(0, I)), moments of q(z): at most KL(q(z) || p(z)), plus d (d + 3) / (4 n) for n images."""
    mean = q.mu.double().mean(0)
    covariance = q.mu.double().T.cov(correction=0) + torch.diag(q.logvar.double().exp().mean(0))
    return 0.5 * (covariance.trace() + mean @ mean - len(mean) - torch.logdet(covariance)).item()


def correlation(z: Tensor) -> Tensor:
    """The absolute correlation of every pair of different latents, (d (d - 1) / 2,), of codes z (n, d)."""
    matrix = torch.corrcoef(z.double().T).nan_to_num().abs()
    return matrix[torch.ones_like(matrix, dtype=torch.bool).triu(1)]


def importance_bound(log_weights: Tensor, k: int) -> Estimate:
    """The bound log 1/k sum p(x, z) / q(z|x) on log p(x), mean over images [Burda et al. 2016, eq. 8]; k = 1: ELBO.

    log_weights (n, s) holds s samples for each image; they are cut into s // k groups, whose bounds are averaged.
    """
    groups = log_weights[:, : log_weights.shape[1] // k * k].double().unflatten(1, (-1, k))
    return Estimate.mean((torch.logsumexp(groups, 2) - math.log(k)).mean(1))
