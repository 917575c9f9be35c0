"""The linear baseline against scipy and against what is known of CIFAR-10."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from helpers.data import Dataset, Split
from helpers.evaluate import evaluate_linear
from helpers.measure.linear import LinearCode, linear_code

from .test_metrics import seeded


def test_probabilistic_pca_agrees_with_scipy() -> None:
    basis, variances, x = torch.linalg.qr(seeded(3, 3)).Q.T, torch.tensor([4.0, 2.0, 0.5]), seeded(20, 3)
    code = LinearCode(torch.full((3,), 0.3), basis[:2], variances / variances.sum(), variances.sum())
    covariance = (basis.T @ torch.diag(variances) @ basis).double().numpy()
    theirs = -multivariate_normal(code.mean.numpy(), covariance).logpdf(x.numpy()) + 3 * math.log(255)
    assert code.nll(x, 2).tolist() == pytest.approx(theirs, rel=1e-5)
    mean_only = -multivariate_normal(code.mean.numpy(), np.eye(3) * 6.5 / 3).logpdf(x.numpy()) + 3 * math.log(255)
    assert code.nll(x, 0).tolist() == pytest.approx(mean_only, rel=1e-5)


def test_samples_have_the_moments_of_the_images(photos: Dataset, tmp_path: Path) -> None:
    few = replace(photos, train=Split(photos.train.images[:4000, :, :4, :4], photos.train.labels[:4000]))
    made, real = linear_code(few, tmp_path, 30).sample(4000), few.train.images.flatten(1) / 255
    assert (made.mean(0) - real.mean(0)).abs().max() < 0.02
    assert (made.std(0) / real.std(0) - 1).abs().max() < 0.06
    assert torch.corrcoef(made.T).sub(torch.corrcoef(real.T)).abs().max() < 0.06


def test_a_perfect_mean_image_costs_what_its_sigma_says() -> None:
    flat = torch.full((4, 3, 32, 32), 128, dtype=torch.uint8)
    code = LinearCode(torch.full((3072,), 128 / 255), torch.eye(3072)[:1], torch.ones(3072) / 3072, torch.tensor(30.72))
    estimates = evaluate_linear(code, Split(flat, torch.zeros(4, dtype=torch.long)), 0).metrics
    assert estimates["mse"].value == pytest.approx(0, abs=1e-12)
    # sigma = 0.1 at perfect reconstruction: log2(255 * 0.1 * sqrt(2 pi)) bits a value.
    assert estimates["bpd_density"].value == pytest.approx(math.log2(25.5 * math.sqrt(2 * math.pi)), abs=1e-4)


def test_a_stored_code_is_fitted_anew_only_for_more_components(photos: Dataset, tmp_path: Path) -> None:
    few = replace(photos, train=Split(photos.train.images[:50, :, :4, :4], photos.train.labels[:50]))
    first = linear_code(few, tmp_path, 4)
    kept = (tmp_path / "pca.safetensors").stat().st_mtime_ns
    assert torch.equal(linear_code(few, tmp_path, 3).components, first.components)
    assert (tmp_path / "pca.safetensors").stat().st_mtime_ns == kept
    assert len(linear_code(few, tmp_path, 6).components) == 6
    assert len(linear_code(few.limited(40, 0), tmp_path, 2).components) == 2  # other images


@pytest.mark.slow
def test_pca_explains_what_it_should(cifar10: Dataset, tmp_path: Path) -> None:
    code = linear_code(cifar10, tmp_path, 128)
    assert code.variance_ratio[0].item() == pytest.approx(0.2908, abs=2e-3)
    psnr = evaluate_linear(code, cifar10.test, 128).metrics["psnr_pooled"].value
    assert psnr == pytest.approx(22.94, abs=0.02)
