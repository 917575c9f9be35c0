"""Known answers, each against a closed form or an independent library; and the classic mistakes of VAE code."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from sklearn.linear_model import LinearRegression
from torch.distributions import Normal, kl_divergence

from helpers.config import LEVEL, profile_settings
from helpers.losses import (
    Elbo,
    bits_per_dim,
    discretised_nll,
    gaussian_nll,
    kl_per_dim,
    loss_terms,
    total_objective,
)  # fmt: skip
from helpers.measure import metrics
from helpers.models import Posterior, build_model

from .conftest import gradient_norm

SMALL = profile_settings("smoke", width=8, latent_dim=8)


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


# --- the classic mistakes ---------------------------------------------------------------------------------------


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


def test_logvar_is_the_log_of_a_variance() -> None:
    q = Posterior(torch.zeros(20_000, 1), torch.full((20_000, 1), math.log(9.0)))
    z = q.sample(torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0)))
    assert z.std().item() == pytest.approx(3.0, rel=0.03)


def test_evaluation_samples_z_too() -> None:
    model = build_model(SMALL, 10).eval()
    x = torch.rand(2, 3, 32, 32)
    eps = torch.randn(2, 8)
    with torch.no_grad():
        assert not torch.equal(model(x, eps).mean, model(x, -eps).mean)
        assert torch.equal(model(x, eps).mean, model(x, eps).mean)


def test_every_weight_of_the_objective_matters() -> None:
    model, x, y = build_model(SMALL, 10), torch.rand(8, 3, 32, 32), torch.arange(8)
    terms = loss_terms(model(x), x, y, model.log_sigma)
    base = total_objective(terms)
    for change in ({"beta": 2.0}, {"class_weight": 1.0}, {"code_weight": 1.0}):
        assert not torch.equal(total_objective(terms, **change), base), change


def test_the_mean_lies_in_the_range_of_pixels() -> None:
    z = 50 * torch.randn(16, 8)
    images = build_model(SMALL, 10).decode(z)
    assert images.shape == (16, 3, 32, 32) and images.min() >= 0 and images.max() <= 1


def test_the_gradient_of_the_pixels_does_not_reach_the_classifier_path() -> None:
    model, x = build_model(SMALL, 10), torch.rand(8, 3, 32, 32)
    loss_terms(model(x), x, torch.arange(8), model.log_sigma).elbo.objective().backward()
    assert gradient_norm(model, "encoder.what") == 0 and gradient_norm(model, "encoder.where") > 0


def test_a_fixed_sigma_stays_fixed_and_a_learned_one_learns() -> None:
    learned, fixed = (build_model(profile_settings("smoke", sigma=s), 10).log_sigma for s in (0.0, 0.5))
    assert learned.requires_grad and not fixed.requires_grad and fixed.exp().item() == pytest.approx(0.5)


def test_no_norm_stands_next_to_the_code_or_the_output() -> None:
    model = build_model(SMALL, 10)
    for part in (model.decoder, model.encoder.where, model.encoder.to_code):
        assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in part.modules())


# --- metrics ----------------------------------------------------------------------------------------------------


def test_psnr_known_values_and_scikit_image() -> None:
    assert metrics.psnr(0.01) == pytest.approx(20)
    assert metrics.psnr(LEVEL**2) == pytest.approx(48.1308, abs=1e-4)
    x, y = torch.rand(2, 4, 3, 32, 32)
    ours = metrics.psnr(metrics.mse_per_image(x, y))
    theirs = [peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=1) for a, b in zip(x, y, strict=True)]
    assert ours.tolist() == pytest.approx(theirs, rel=1e-5)


def test_ssim_known_values_and_scikit_image() -> None:
    x, y = torch.rand(2, 3, 3, 32, 32)
    half, more = torch.full_like(x, 0.5), torch.full_like(x, 0.6)
    assert metrics.ssim_per_image(x, x).tolist() == pytest.approx([1] * 3)
    assert metrics.ssim_per_image(half, more).tolist() == pytest.approx([0.98361] * 3, abs=1e-4)
    options = {
        "data_range": 1,
        "channel_axis": 0,
        "gaussian_weights": True,
        "sigma": 1.5,
        "use_sample_covariance": False,
    }
    theirs = [structural_similarity(a.numpy(), b.numpy(), **options) for a, b in zip(x, y, strict=True)]
    assert metrics.ssim_per_image(x, y).tolist() == pytest.approx(theirs, abs=1e-5)


def test_pooled_regression_agrees_with_scikit_learn_whatever_the_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(10, 3, 8, 8, generator=generator)
    y = (0.8 * x + 0.1 + 0.05 * torch.randn(x.shape, generator=generator)).clamp(0, 1)
    moments = metrics.PixelMoments()
    for a, b in zip(x.split(3), y.split(3), strict=True):
        moments.add(a, b)
    line = moments.regression()
    fit = LinearRegression().fit(x.numpy().reshape(-1, 1), y.numpy().ravel())
    assert (line.slope, line.intercept) == pytest.approx((fit.coef_[0], fit.intercept_), abs=1e-5)
    assert line.rmse == pytest.approx((x - y).square().mean().sqrt().item(), rel=1e-5)
    assert line.r2 == pytest.approx(1 - ((x - y) ** 2).sum().item() / ((x - x.mean()) ** 2).sum().item(), abs=1e-5)
    assert moments.density.sum() == x.numel()


def test_active_units_counts_means_that_move() -> None:
    mu = torch.zeros(1000, 4)
    mu[:, 0], mu[:, 1] = torch.randn(1000), 0.05 * torch.randn(1000)
    assert metrics.active_units(mu) == 1


def test_estimate_is_a_mean_with_its_standard_error() -> None:
    values = torch.tensor([1.0, 2.0, 3.0, 6.0])
    found = metrics.Estimate.mean(values)
    assert found.value == 3 and found.stderr == pytest.approx(np.std(values.numpy(), ddof=1) / 2)


def test_nearest_neighbours_are_found_and_oneself_is_skipped() -> None:
    keys = torch.tensor([[0.0], [1.0], [10.0]])
    distance, index = metrics.nearest(torch.tensor([[0.9], [9.0]]), keys, batch=1)
    assert index.tolist() == [1, 2] and distance.tolist() == pytest.approx([0.1, 1.0])
    assert metrics.nearest(keys, keys, skip_self=True, batch=2)[1].tolist() == [1, 0, 1]
