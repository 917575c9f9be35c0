"""The closed forms that the notebooks print are executed from their cells and compared with torch.distributions.

A cell with the tag "equations" holds definitions only; a changed formula in a notebook fails here.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from helpers.losses import discretised_nll
from helpers.models import Posterior
from helpers.publish.plan import notebook_path

from .test_notebooks import cells

REAL = st.floats(-3, 3)
WIDTH = st.floats(0.05, 3)
EQUATIONS = ("03_vae_training", "04_evaluation", "06_compression")


def equations(name: str) -> dict:
    """What the tagged cells of a notebook define."""
    found: dict = {"math": math, "np": np, "torch": torch}
    for cell in cells(notebook_path(name), "code"):
        if "equations" in cell.metadata.get("tags", []):
            exec(cell.source, found)
    return found


TRAINING, EVALUATION, COMPRESSION = (equations(name) for name in EQUATIONS)


@given(REAL, REAL.filter(lambda w: abs(w) > 0.05), WIDTH, REAL, WIDTH)
@settings(max_examples=50, deadline=None)
def test_the_bound_plus_the_distance_to_the_posterior_is_the_evidence(
    x: float, w: float, sigma: float, mean: float, std: float
) -> None:
    log_evidence, truth = TRAINING["toy_truth"](x, w, sigma)
    joint = MultivariateNormal(torch.zeros(2).double(), torch.tensor([[w * w + sigma**2, w], [w, 1.0]]).double())
    z = truth.mean.double()  # Bayes' rule at one point gives the evidence: p(x) = p(x, z) / p(z|x)
    at_z = joint.log_prob(torch.stack([torch.tensor(x).double(), z])) - Normal(z, truth.stddev.double()).log_prob(z)
    assert log_evidence == pytest.approx(at_z.item(), abs=1e-3)
    bound = TRAINING["toy_elbo"](x, w, sigma, mean, std)
    gap = kl_divergence(Normal(mean, std), truth).item()
    assert bound + gap == pytest.approx(log_evidence, abs=1e-3 * (1 + gap)) and gap >= -1e-6
    tight = TRAINING["toy_elbo"](x, w, sigma, truth.mean.item(), truth.stddev.item())
    assert tight == pytest.approx(log_evidence, abs=1e-3)


def test_the_two_terms_are_those_of_torch_distributions() -> None:
    mu, logvar = torch.randn(2, 6, 9, dtype=torch.float64)
    prior = Independent(Normal(torch.zeros_like(mu), torch.ones_like(mu)), 1)
    q = Independent(Normal(mu, (logvar / 2).exp()), 1)
    assert torch.allclose(TRAINING["rate_of"](mu, logvar), kl_divergence(q, prior))
    x, mean = torch.rand(2, 6, 3, 4, 4, dtype=torch.float64)
    for sigma in (0.02, 0.3, 1.5):
        expected = -Independent(Normal(mean, sigma), 3).log_prob(x)
        assert torch.allclose(TRAINING["distortion_of"](x, mean, torch.tensor(sigma).double()), expected)


@given(WIDTH)
@settings(max_examples=30, deadline=None)
def test_a_kl_weight_is_a_sigma(sigma: float) -> None:
    """The gradients of SSE + beta KL and of distortion + rate point in the same direction, 2 sigma^2 apart."""
    mu = torch.tensor([[0.4, -1.0]], dtype=torch.float64, requires_grad=True)
    logvar = torch.tensor([[-1.0, 0.3]], dtype=torch.float64, requires_grad=True)
    x = torch.tensor([[0.2, 0.9, 0.5]], dtype=torch.float64)
    mean = torch.sigmoid(mu @ torch.tensor([[1.0, -2.0, 0.5], [0.3, 0.8, -1.0]], dtype=torch.float64))
    nll = -Normal(mean, sigma).log_prob(x).sum()
    kl = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0)).sum()
    for values in (1, 3):
        weighted = (x - mean).square().sum() / values + TRAINING["beta_of"](sigma, values) * kl
        ours = torch.autograd.grad(nll + kl, (mu, logvar), retain_graph=True)
        theirs = torch.autograd.grad(weighted, (mu, logvar), retain_graph=True)
        for a, b in zip(ours, theirs, strict=True):
            assert torch.allclose(2 * sigma**2 / values * a, b)
        assert TRAINING["sigma_of"](1 / values, TRAINING["beta_of"](sigma, values)) == pytest.approx(sigma)


def test_the_calibration_of_a_record_is_sigma_over_rmse() -> None:
    x, mean, sigma = torch.rand(5, 3, 32, 32).double(), torch.full((5, 3, 32, 32), 0.5).double(), 0.2
    distortion = -Normal(mean, sigma).log_prob(x).sum((1, 2, 3)).mean().item()

    class Images:
        images = x

    class Data:
        train = Images

    TRAINING["data"] = Data
    ratio = TRAINING["calibration"]({"sigma": sigma, "validation_distortion": distortion})
    assert ratio == pytest.approx(sigma / (x - mean).square().mean().sqrt().item())


def test_bits_of_a_calibrated_decoder() -> None:
    for sigma in (0.03, 0.07, 0.2):
        entropy = Normal(0.0, sigma).entropy().item() / math.log(2) + math.log2(255)
        assert EVALUATION["bits_of"](sigma, 0.0) == pytest.approx(entropy, abs=1e-5)
    q = Posterior(torch.randn(1, 16), torch.randn(1, 16))
    rate = kl_divergence(Normal(q.mu, (q.logvar / 2).exp()), Normal(0.0, 1.0)).sum().item()
    extra = EVALUATION["bits_of"](0.07, rate) - EVALUATION["bits_of"](0.07, 0.0)
    assert extra == pytest.approx(rate / 3072 / math.log(2))
    # And of images: grey ones with noise of that sigma, whose 8-bit probability is what files are compared with.
    noise = 0.07 * torch.randn(40, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    x = ((0.5 + noise) * 255).round() / 255
    bits = discretised_nll(x, torch.full_like(x, 0.5), torch.tensor(0.07).log()).mean().item() / 3072 / math.log(2)
    assert EVALUATION["bits_of"](0.07, 0.0) == pytest.approx(bits, abs=0.02)


def test_water_filling_is_a_difference_of_entropies() -> None:
    variance = np.array([2.0, 0.5, 0.09])
    level = 0.05  # below all variances: every direction is sent, with the error `level`
    bits, error = COMPRESSION["gaussian_bound"](variance, level)
    source = MultivariateNormal(torch.zeros(3).double(), torch.diag(torch.tensor(variance)))
    noise = MultivariateNormal(torch.zeros(3).double(), level * torch.eye(3).double())
    assert bits == pytest.approx((source.entropy() - noise.entropy()).item() / math.log(2))
    assert error == pytest.approx(3 * level)
    bits, error = COMPRESSION["gaussian_bound"](variance, 1.0)  # two directions are not worth a bit
    assert bits == pytest.approx(0.5) and error == pytest.approx(1.0 + 0.5 + 0.09)
