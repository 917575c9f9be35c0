"""The terms of the loss against closed forms and torch.distributions; and the classic mistakes of VAE code."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from helpers.data import LEVEL
from helpers.losses import Elbo, bits_per_dim, discretised_nll, gaussian_nll, kl_per_dim, loss_terms, total_objective
from helpers.models import Posterior
from helpers.run import build_model
from helpers.settings import profile_settings


def posterior(mu: float, variance: float) -> Posterior:
    return Posterior(torch.full((2, 1), mu), torch.full((2, 1), math.log(variance)))


@pytest.mark.parametrize(("mu", "variance", "kl"), [(1, 1, 0.5), (0, 4, 0.806853), (0.5, 0.25, 0.443147), (0, 1, 0)])
def test_kl_of_known_gaussians(mu: float, variance: float, kl: float) -> None:
    assert kl_per_dim(posterior(mu, variance))[0, 0].item() == pytest.approx(kl, abs=1e-6)


def test_kl_and_density_agree_with_torch_distributions() -> None:
    q = Posterior(torch.randn(7, 5).double(), torch.randn(7, 5).double())
    reference = kl_divergence(Normal(q.mu, (q.logvar / 2).exp()), Normal(0.0, 1.0))
    assert torch.allclose(kl_per_dim(q), reference)
    x, mean = torch.rand(2, 4, 3, 32, 32).double()
    expected = -Normal(mean, 0.1).log_prob(x).flatten(1).sum(1)
    assert torch.allclose(gaussian_nll(x, mean, torch.tensor(0.1).double().log()), expected)


def test_bits_per_dimension_of_known_models() -> None:
    assert bits_per_dim(3072 * math.log(2), 3072) == pytest.approx(1) and 3072 * math.log(2) == pytest.approx(
        2129.348, abs=1e-3
    )
    assert bits_per_dim(3072 * math.log(256), 3072) == pytest.approx(8)
    # Mid-grey, so that the mass is the density times the width of a level; perfect reconstruction, sigma = 1.
    x = torch.full((1, 3, 32, 32), 128 / 255)
    assert bits_per_dim(discretised_nll(x, x, torch.zeros(())).item(), 3072) == pytest.approx(9.320, abs=1e-3)


@pytest.mark.parametrize("sigma", [0.005, 0.07, 1.0])
@pytest.mark.parametrize("mean", [0.0, 0.3, 1.0])
def test_discretised_masses_sum_to_one(sigma: float, mean: float) -> None:
    levels = (torch.arange(256) / 255).view(256, 1, 1, 1)
    nll = discretised_nll(levels, torch.full_like(levels, mean), torch.tensor(math.log(sigma)))
    assert torch.exp(-nll.double()).sum().item() == pytest.approx(1, abs=2e-4)


def test_discretised_likelihood_is_finite_far_away() -> None:
    x, mean = torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32)
    assert torch.isfinite(discretised_nll(x, mean, torch.tensor(math.log(0.01)))).all()


def test_best_sigma_gives_the_closed_form() -> None:
    error = torch.randn(50, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.06
    mean = torch.full_like(error, 0.5)
    rmse = error.square().mean().sqrt()
    nats = gaussian_nll(mean + error, mean, rmse.log()).mean().item() - 3072 * math.log(LEVEL)
    assert bits_per_dim(nats, 3072) == pytest.approx(math.log2(255 * rmse) + 2.0471, abs=1e-3)


def test_terms_are_sums_over_dimensions_and_do_not_depend_on_batch_size() -> None:
    x, mean, q = torch.rand(6, 3, 32, 32), torch.rand(6, 3, 32, 32), Posterior(torch.randn(6, 8), torch.randn(6, 8))
    zero = torch.zeros(())
    together = Elbo(gaussian_nll(x, mean, zero), kl_per_dim(q).sum(1))
    alone = gaussian_nll(x[:1], mean[:1], zero)
    assert together.distortion.shape == (6,) and torch.allclose(together.distortion[:1], alone)
    expected = 0.5 * (x - mean).square().sum() / 6 + 0.5 * 3072 * math.log(2 * math.pi)
    assert together.distortion.mean().item() == pytest.approx(expected.item(), rel=1e-5)
    doubled = Elbo(*(torch.cat([v, v]) for v in together))
    assert doubled.objective().item() == pytest.approx(together.objective().item(), rel=1e-5)


def test_beta_weighs_what_is_minimised_and_never_what_is_reported() -> None:
    elbo = Elbo(torch.tensor([3.0]), torch.tensor([2.0]))
    assert elbo.objective(4.0).item() == 11 and elbo.negative.item() == 5


def test_every_weight_of_the_objective_matters_and_a_missing_term_costs_nothing() -> None:
    x, y = torch.rand(8, 3, 32, 32), torch.arange(8)
    weights = {"distortion": 1.0, "rate": 1.0, "cross_entropy": 100.0, "code_cross_entropy": 100.0}
    for kind, missing in (("vae", ()), ("autoencoder", ("rate",))):
        model = build_model(profile_settings("smoke", kind, width=8, latent_dim=8), 10)
        terms = loss_terms(model(x), x, y, model.log_sigma)
        assert list(terms) == [name for name in weights if name not in missing]
        base = total_objective(terms, weights)
        assert base.item() == pytest.approx(sum(weights[k] * v.mean().item() for k, v in terms.items()), rel=1e-5)
        for name in terms.keys() - {"distortion"}:  # whose weight is always 1
            assert not torch.equal(total_objective(terms, weights | {name: 3.0}), base), name
    judge = build_model(profile_settings("smoke", "judge", width=8), 10)
    assert list(loss_terms(judge(x), x, y)) == ["cross_entropy"]
