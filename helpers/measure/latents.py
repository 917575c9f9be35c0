"""What the posteriors of a set of images say together: pure functions, tensors in, numbers out, in nats.

The aggregate posterior is q(z) = 1/n sum_j q(z|x_j). The mean rate splits into two parts [Hoffman & Johnson 2016]:

    E KL(q(z|x) || p(z)) = I(x; z) + KL(q(z) || p(z))
"""

import math

import torch
from torch import Tensor

from ..models import Posterior
from .metrics import Estimate

LOG_2PI = math.log(2 * math.pi)


def log_normal(z: Tensor) -> Tensor:
    """log N(z; 0, I) of codes (n, d), as (n,)."""
    return -0.5 * (z.square() + LOG_2PI).sum(1)


def log_posterior(q: Posterior, z: Tensor) -> Tensor:
    """log q(z_i|x_i) of one code for each image, (n,)."""
    return -0.5 * ((z - q.mu).square() * (-q.logvar).exp() + q.logvar + LOG_2PI).sum(1)


def log_aggregate(q: Posterior, z: Tensor, batch: int = 1000) -> Tensor:
    """log q(z_i) under the mixture of all n posteriors, (m,); the sum over components is complete."""
    q, z = Posterior(q.mu.double(), q.logvar.double()), z.double()  # the square is expanded: float32 cancels
    precision = (-q.logvar).exp()
    constant = (q.mu.square() * precision + q.logvar + LOG_2PI).sum(1)
    parts = []
    for some in z.split(batch):
        distance = some.square() @ precision.T - 2 * some @ (q.mu * precision).T + constant
        parts.append(torch.logsumexp(-0.5 * distance, 1) - math.log(len(q.mu)))
    return torch.cat(parts)


def aggregate_posterior(q: Posterior, z: Tensor) -> dict[str, Estimate]:
    """I(x; z) and KL(q(z) || p(z)) by the full-sum estimator [Chen et al. 2018, appendix C.1 without minibatches].

    q holds n posteriors, z (n, d) one sample of each. For the n images themselves both are unbiased, apart from the
    noise of z. As estimates for all images they are not: I cannot exceed log n, so where the true one does, it reads
    log n and the KL reads (rate - log n), too high.
    """
    z = z.double()
    conditional, aggregate = log_posterior(Posterior(*(v.double() for v in q)), z), log_aggregate(q, z)
    return {
        "mutual_information": Estimate.mean(conditional - aggregate),
        "aggregate_kl": Estimate.mean(aggregate - log_normal(z)),
    }


def gaussian_kl(q: Posterior) -> float:
    """KL(N(m, S) || N(0, I)) with the mean and the covariance of the aggregate posterior of n images.

    Never above KL(q(z) || p(z)): the difference is KL(q(z) || N(m, S)). Estimating S adds about d (d + 3) / (4 n).
    """
    mu = q.mu.double()
    covariance = mu.T.cov(correction=0) + torch.diag(q.logvar.double().exp().mean(0))
    mean = mu.mean(0)
    return 0.5 * (covariance.trace() + mean @ mean - len(mean) - torch.logdet(covariance)).item()


def marginal_kl(q: Posterior, z: Tensor) -> Tensor:
    """KL(q(z_j) || p(z_j)) of each latent by itself, (d,); full sum over the n posteriors, one sample z (n, d)."""
    found = []
    for mu, logvar, values in zip(q.mu.T, q.logvar.T, z.T, strict=True):
        distance = (values[:, None] - mu).square() * (-logvar).exp() + logvar
        aggregate = torch.logsumexp(-0.5 * distance, 1) - math.log(len(mu))
        found.append((aggregate + 0.5 * values.square()).mean())
    return torch.stack(found)


def correlation(z: Tensor) -> Tensor:
    """The absolute correlation of every pair of different latents, (d (d - 1) / 2,), of codes z (n, d)."""
    matrix = torch.corrcoef(z.double().T).nan_to_num()
    upper = torch.triu_indices(len(matrix), len(matrix), 1)
    return matrix[upper[0], upper[1]].abs()


def importance_bound(log_weights: Tensor, k: int) -> Estimate:
    """The bound log 1/k sum p(x, z) / q(z|x) on log p(x), mean over images [Burda et al. 2016, eq. 8].

    log_weights (s, n) holds s samples for each of n images; it is cut into s // k groups, whose bounds are averaged.
    k = 1 is the ELBO; a larger k is never lower on the same samples (Jensen). Still too low for a finite k.
    """
    groups = log_weights[: len(log_weights) // k * k].double().view(-1, k, log_weights.shape[1])
    return Estimate.mean((torch.logsumexp(groups, 1) - math.log(k)).mean(0))
