"""What codes say together, against torch.distributions, scipy and closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from helpers.losses import kl_per_dim
from helpers.measure import latents
from helpers.models import Posterior

from .test_metrics import seeded


def test_the_aggregate_posterior_agrees_with_torch_distributions() -> None:
    q, z = Posterior(seeded(30, 4), 0.3 * seeded(30, 4)), seeded(30, 4)
    parts = Independent(Normal(q.mu.double(), (q.logvar / 2).double().exp()), 1)
    mixture = MixtureSameFamily(Categorical(logits=torch.zeros(30).double()), parts)
    assert torch.allclose(latents.log_aggregate(q, z, batch=7), mixture.log_prob(z.double()))
    assert torch.allclose(latents.log_posterior(q, z).double(), parts.log_prob(z.double()), atol=1e-4)


def test_the_two_parts_of_the_rate_of_known_posteriors() -> None:
    z = seeded(2000, 2)
    nothing = Posterior(torch.zeros(2000, 2), torch.zeros(2000, 2))  # collapsed: q(z|x) = p(z) for every image
    parts = latents.aggregate_posterior(nothing, z)
    assert [part.value for part in parts.values()] == pytest.approx([0, 0], abs=1e-9)
    assert latents.gaussian_kl(nothing) == pytest.approx(0, abs=1e-9)
    apart = Posterior(1000 * torch.arange(50.0)[:, None], torch.zeros(50, 1))  # n codes that never overlap
    parts = latents.aggregate_posterior(apart, apart.sample(seeded(50, 1)))
    assert parts["mutual_information"].value == pytest.approx(math.log(50))
    # q(z|x) = N(mu, s2) with mu ~ N(0, 1 - s2) makes q(z) = p(z): I = -d/2 log s2, and no KL is left.
    mu = math.sqrt(0.75) * seeded(4000, 2)
    q = Posterior(mu, torch.full_like(mu, math.log(0.25)))
    parts = latents.aggregate_posterior(q, q.sample(torch.randn(4000, 2, generator=torch.Generator().manual_seed(1))))
    assert parts["mutual_information"].value == pytest.approx(math.log(4), abs=0.06)
    assert parts["aggregate_kl"].value == pytest.approx(0, abs=0.03) and latents.gaussian_kl(q) < 0.005
    total = sum(part.value for part in parts.values())
    assert total == pytest.approx(kl_per_dim(q).sum(1).mean().item(), abs=0.06)


def test_the_gaussian_kl_of_a_shifted_wide_aggregate() -> None:
    q = Posterior(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.log(torch.tensor([[1.0, 4.0], [1.0, 4.0]])))
    assert latents.gaussian_kl(q) == pytest.approx(0.5 + 0.806853, abs=1e-5)


def test_correlation_of_a_copied_latent_is_one() -> None:
    z = seeded(100, 2)
    pairs = latents.correlation(torch.cat([z, -z[:, :1]], 1))
    assert len(pairs) == 3 and pairs.max().item() == pytest.approx(1)
    assert latents.correlation(z).item() == pytest.approx(np.abs(np.corrcoef(z.numpy().T))[0, 1], abs=1e-6)


def test_the_importance_bound_of_a_linear_model_is_exact_and_never_falls_with_k() -> None:
    # z ~ N(0, 1), x = w z + m + noise: with q the exact posterior every weight equals p(x), whatever z is.
    w, noise, x = torch.tensor([1.5, -0.5]).double(), 0.3, seeded(10, 2).double()
    variance = 1 / (1 + w.square().sum() / noise**2)
    posterior = Posterior((x @ w)[:, None] * variance / noise**2, variance.log().expand(10, 1))

    def log_weights(q: Posterior) -> Tensor:
        columns = []
        for seed in range(64):
            z = q.sample(torch.randn(10, 1, generator=torch.Generator().manual_seed(seed)).double())
            likelihood = Normal(z * w, noise).log_prob(x).sum(1)
            columns.append(likelihood + latents.log_normal(z) - latents.log_posterior(q, z))
        return torch.stack(columns, 1)

    truth = multivariate_normal([0, 0], np.outer(w, w) + noise**2 * np.eye(2)).logpdf(x).mean()
    for k in (1, 8, 64):
        assert latents.importance_bound(log_weights(posterior), k).value == pytest.approx(truth, abs=1e-8)
    wider = log_weights(Posterior(posterior.mu, posterior.logvar + 1))
    bounds = [latents.importance_bound(wider, k).value for k in (1, 8, 64)]
    assert bounds[0] < bounds[1] < bounds[2] < truth + 0.1
    assert bounds[0] == pytest.approx(wider.mean().item())
    assert bounds[2] == pytest.approx((logsumexp(wider.numpy(), 1) - math.log(64)).mean())
