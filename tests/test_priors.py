"""Fitted densities give back what they were fitted to, and codes are kept only for the weights that made them."""

from pathlib import Path

import pytest
import torch

from helpers.data import Dataset
from helpers.engine.files import weights_path
from helpers.priors import (
    class_gaussians,
    encode_all,
    fit_mixture,
    posterior_samples,
    sample_all_classes,
    sample_mixture,
    slerp,
    standard_normal,
    training_codes,
)
from helpers.run import build_model, load_vae
from helpers.settings import Settings


def normal(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_a_fitted_mixture_gives_back_the_moments_of_its_codes() -> None:
    codes = normal(4000, 3) @ torch.tensor([[2.0, 1, 0], [0, 1, 0], [0, 0, 0.5]]) + 1
    drawn = sample_mixture(fit_mixture(codes, components=2), 20_000, seed=1)
    assert drawn.mean(0).tolist() == pytest.approx(codes.mean(0).tolist(), abs=0.1)
    assert torch.allclose(drawn.T.cov(), codes.T.cov(), atol=0.25)


def test_codes_of_one_class_and_of_all_come_from_where_they_should() -> None:
    labels = torch.arange(600) % 3
    gaussians = class_gaussians(0.1 * normal(600, 2) + 10.0 * labels[:, None], labels)
    assert sample_all_classes(gaussians[2:], 50).mean().item() == pytest.approx(20, abs=0.1)
    drawn = (sample_all_classes(gaussians, 300, seed=1).mean(1) / 10).round().long()
    assert drawn.bincount().tolist() == [100, 100, 100]
    assert all(part.bincount(minlength=3).min() >= 10 for part in drawn.split(75))  # not sorted by class


def test_the_temperature_is_the_width_of_the_prior() -> None:
    assert torch.equal(standard_normal(5, 3, seed=1, temperature=2.0), 2 * standard_normal(5, 3, seed=1))


def test_slerp_starts_and_ends_where_it_should_and_keeps_its_length() -> None:
    a, b = normal(2, 128)
    path = slerp(a, b, 5)
    assert torch.allclose(path[0], a, atol=1e-4) and torch.allclose(path[-1], b, atol=1e-4)
    assert path[2].norm().item() == pytest.approx((a.norm() + b.norm()).item() / 2, rel=1e-4)
    assert torch.allclose(slerp(a, a, 3), a.expand(3, -1), atol=1e-4)


def test_training_codes_are_kept_for_the_same_weights_and_images(
    photos: Dataset, tiny: Settings, trained: Path, tmp_path: Path
) -> None:
    vae, few = load_vae(weights_path(trained, "vae")), photos.limited(150, 0)
    mu, std = training_codes(vae, tmp_path, few)
    expected = encode_all(vae, few.train)
    assert torch.equal(mu, expected[0]) and torch.equal(std, expected[1])
    kept = (tmp_path / "codes.safetensors").stat().st_mtime_ns
    assert torch.equal(training_codes(vae, tmp_path, few)[1], std)
    assert (tmp_path / "codes.safetensors").stat().st_mtime_ns == kept
    assert len(training_codes(vae, tmp_path, photos.limited(151, 0))[0]) == 151
    other = build_model(tiny.replace(seed=1), 10).eval()
    assert not torch.equal(training_codes(other, tmp_path, few)[0], mu)
    apart = (posterior_samples(vae, few.train) - mu) / std
    assert apart.std().item() == pytest.approx(1, abs=0.1)
