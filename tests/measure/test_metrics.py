"""Every metric against a closed form or an independent library."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from sklearn.linear_model import LinearRegression
from sklearn.metrics import f1_score, log_loss, roc_auc_score
from torch import Tensor
from torch.distributions import Categorical
from torchmetrics.functional.classification import multiclass_calibration_error
from torchmetrics.functional.image import structural_similarity_index_measure

from helpers.data import LEVEL
from helpers.measure import metrics
from helpers.measure.metrics import Estimate


def seeded(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_an_estimate_is_a_mean_with_its_standard_error() -> None:
    values = torch.tensor([1.0, 2.0, 3.0, 6.0])
    estimate = Estimate.mean(values)
    assert estimate.value == 3 and estimate.stderr == pytest.approx(np.std(values.numpy(), ddof=1) / 2)
    assert Estimate.of(lambda m: m, values) == pytest.approx(estimate)  # the delta method of a mean
    assert Estimate.mean(values[:1]).stderr is None


def test_the_delta_method_agrees_with_the_bootstrap() -> None:
    mse = seeded(400).square()
    estimate = Estimate.of(metrics.psnr, mse)
    rng = np.random.default_rng(0)
    repeats = [metrics.psnr(mse.numpy()[rng.integers(400, size=400)].mean()) for _ in range(1000)]
    assert estimate.value == pytest.approx(metrics.psnr(mse.mean().item()), abs=1e-5)
    assert estimate.stderr == pytest.approx(np.std(repeats), rel=0.1)


def test_a_gap_has_the_variances_of_both_sides_and_an_unknown_error_stays_unknown() -> None:
    assert Estimate(3.0, 0.3).minus(Estimate(1.0, 0.4)) == pytest.approx((2.0, 0.5))
    assert Estimate(3.0).minus(Estimate(1.0, 0.4)).stderr is None
    assert Estimate(3.0, 0.5).scaled(-2) == (-6, 1) and Estimate(3.0).scaled(2) == (6, None)


def test_psnr_known_values_and_scikit_image() -> None:
    assert metrics.psnr(0.01) == pytest.approx(20)
    assert metrics.psnr(LEVEL**2) == pytest.approx(48.1308, abs=1e-4)
    x, y = torch.rand(2, 4, 3, 32, 32)
    theirs = [peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=1) for a, b in zip(x, y, strict=True)]
    assert metrics.psnr(metrics.mse_per_image(x, y)).tolist() == pytest.approx(theirs, rel=1e-5)
    assert metrics.mae_per_image(x, x - 0.25).tolist() == pytest.approx([0.25] * 4)


def test_ssim_known_values_scikit_image_and_torchmetrics() -> None:
    x, y = torch.rand(2, 3, 3, 32, 32)
    half, more = torch.full_like(x, 0.5), torch.full_like(x, 0.6)
    assert metrics.ssim_per_image(x, x).tolist() == pytest.approx([1] * 3)
    assert metrics.ssim_per_image(half, more).tolist() == pytest.approx([0.98361] * 3, abs=1e-4)
    options = {"data_range": 1, "channel_axis": 0, "gaussian_weights": True, "sigma": 1.5}
    theirs = [structural_similarity(a.numpy(), b.numpy(), use_sample_covariance=False, **options)
              for a, b in zip(x, y, strict=True)]  # fmt: skip
    assert metrics.ssim_per_image(x, y).tolist() == pytest.approx(theirs, abs=1e-5)
    _, local = structural_similarity_index_measure(y, x, data_range=1.0, reduction="none", return_full_image=True)
    theirs = local[..., 5:-5, 5:-5].flatten(1).mean(1).tolist()
    assert metrics.ssim_per_image(x, y).tolist() == pytest.approx(theirs, abs=1e-4)


def test_the_spectrum_of_a_wave_stands_at_its_frequency_and_sums_to_the_mean_square() -> None:
    wave = torch.cos(2 * math.pi * 5 * (torch.arange(32) + 0.5) / 32).expand(1, 3, 32, 32)
    power = metrics.radial_spectrum(wave)[0]
    assert power[5].item() == pytest.approx(0.5, abs=1e-5) and power.sum().item() == pytest.approx(0.5, abs=1e-5)
    assert metrics.radial_spectrum(torch.full((1, 3, 32, 32), 0.5))[0, 0].item() == pytest.approx(0.25)
    x = seeded(5, 3, 32, 32)
    assert metrics.radial_spectrum(x).sum(1).tolist() == pytest.approx(x.square().mean((1, 2, 3)).tolist(), rel=1e-4)


def test_a_smooth_ramp_has_no_power_at_15_cycles() -> None:
    ramp = (torch.arange(32) / 31).expand(1, 3, 32, 32).double()
    power = metrics.radial_spectrum(ramp)[0]
    assert power[15] < 1e-5 * power[1]  # a Fourier transform, which sees a jump at the edge, says 4e-3


def test_pooled_regression_agrees_with_scikit_learn() -> None:
    x = torch.rand(10, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    y = (0.8 * x + 0.1 + 0.05 * seeded(*x.shape)).clamp(0, 1)
    line = metrics.regression(**{name: column.mean() for name, column in metrics.pixel_moments(x, y).items()})
    fit = LinearRegression().fit(x.numpy().reshape(-1, 1), y.numpy().ravel())
    assert (line["slope"], line["intercept"]) == pytest.approx((fit.coef_[0], fit.intercept_), abs=1e-5)
    assert line["rmse"].item() == pytest.approx((x - y).square().mean().sqrt().item(), rel=1e-5)
    assert line["pixel_r2"].item() == pytest.approx(1 - ((x - y).square().mean() / x.var()).item(), abs=1e-3)


def test_the_density_counts_every_pixel_value_where_it_was_and_where_it_came() -> None:
    x, y = torch.tensor([0.0, 0.3, 1.0]).view(1, 1, 1, 3), torch.tensor([0.9, 0.3, 1.0]).view(1, 1, 1, 3)
    assert metrics.pixel_density(x, y, bins=2).tolist() == [[1, 1], [0, 1]]  # [true, reconstructed]


def test_f1_agrees_with_scikit_learn() -> None:
    labels, predicted = torch.randint(4, (2, 300), generator=torch.Generator().manual_seed(0))
    theirs = f1_score(labels, predicted, average=None)
    assert [metrics.f1(predicted, labels, torch.tensor([i])).value for i in range(4)] == pytest.approx(theirs)
    macro = metrics.f1(predicted, labels, torch.arange(4))
    assert macro.value == pytest.approx(theirs.mean()) and macro.stderr > 0


def test_ece_of_full_confidence_at_four_fifths_is_one_fifth_and_torchmetrics_agrees() -> None:
    sure = torch.tensor([[50.0, 0.0]]).repeat(100, 1)
    assert metrics.ece(sure, (torch.arange(100) >= 80).long()).value == pytest.approx(0.2)
    logits, truth = 2 * seeded(500, 5), torch.arange(500) % 5
    theirs = multiclass_calibration_error(logits.double().softmax(1), truth, num_classes=5, n_bins=15)
    assert metrics.ece(logits, truth).value == pytest.approx(theirs.item(), abs=1e-6)


def test_the_fitted_temperature_undoes_a_scaling_and_changes_no_decision() -> None:
    logits = 2 * seeded(4000, 5)
    labels = Categorical(logits=logits).sample()
    temperature = metrics.fit_temperature(3 * logits, labels)
    assert temperature == pytest.approx(3, rel=0.1)
    assert metrics.accuracy(3 * logits / temperature, labels) == metrics.accuracy(logits, labels)
    loss = metrics.cross_entropy(logits, labels).value
    assert loss == pytest.approx(log_loss(labels, logits.double().softmax(1)), abs=1e-6)


def test_auroc_ties_negation_and_scikit_learn() -> None:
    same, inside = torch.ones(20), seeded(300)
    outside = inside[:200] + 1
    assert metrics.auroc(same, same).value == 0.5
    area = metrics.auroc(inside, outside)
    assert area.value + metrics.auroc(-inside, -outside).value == pytest.approx(1)
    assert area.value == pytest.approx(roc_auc_score([0] * 300 + [1] * 200, torch.cat([inside, outside])))
    rng, repeats = np.random.default_rng(0), []
    for _ in range(300):
        a, b = (torch.from_numpy(v.numpy()[rng.integers(len(v), size=len(v))]) for v in (inside, outside))
        repeats.append(metrics.auroc(a, b).value)
    assert area.stderr == pytest.approx(np.std(repeats), rel=0.25)


def test_active_units_counts_means_that_move() -> None:
    mu = torch.zeros(1000, 4)
    mu[:, 0], mu[:, 1] = torch.randn(1000), 0.05 * torch.randn(1000)
    assert metrics.active_units(mu) == 1


def test_a_linear_probe_reads_what_is_linear() -> None:
    codes, noise = seeded(600, 3), seeded(600, 3).flip(0)
    labels = (codes[:, 0] > 0).long()
    assert metrics.linear_probe(codes[:400], labels[:400], codes[400:], labels[400:]).value > 0.95
    assert metrics.linear_probe(noise[:400], labels[:400], noise[400:], labels[400:]).value < 0.65


def test_nearest_neighbours_are_found() -> None:
    keys = torch.tensor([[0.0], [1.0], [10.0]])
    distance, index = metrics.nearest(torch.tensor([[0.9], [9.0]]), keys, batch=1)
    assert index.tolist() == [1, 2] and distance.tolist() == pytest.approx([0.1, 1.0])
