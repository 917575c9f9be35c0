"""Fitted densities give back what they were fitted to, and codes are kept only for the weights that made them."""

from pathlib import Path

import pytest
import torch

from helpers.data import Dataset
from helpers.engine.files import weights_path
from helpers.evaluate import evaluate_model
from helpers.priors import (
    class_gaussians,
    codes_of,
    encode_all,
    fit_mixture,
    load_or_fit_densities,
    posterior_samples,
    sample_all_classes,
    sample_mixture,
    slerp,
    standard_normal,
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
    assert len(class_gaussians(normal(4, 2), torch.tensor([0, 0, 1, 2]))) == 1  # one code has no covariance
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


def test_codes_are_kept_for_the_same_weights_and_images(
    photos: Dataset, tiny: Settings, trained: Path, tmp_path: Path
) -> None:
    vae, few = load_vae(weights_path(trained, "vae")), photos.limited(150, 0)
    mu, std = codes_of(vae, tmp_path, few, "train")
    expected = encode_all(vae, few.train)
    assert torch.equal(mu, expected[0]) and torch.equal(std, expected[1])
    (file,) = tmp_path.iterdir()
    kept = file.stat().st_mtime_ns
    assert torch.equal(codes_of(vae, tmp_path, few, "train")[1], std) and file.stat().st_mtime_ns == kept
    assert len(codes_of(vae, tmp_path, photos.limited(151, 0), "train")[0]) == 151
    other = build_model(tiny.replace(seed=1), 10).eval()
    assert not torch.equal(codes_of(other, tmp_path, few, "train")[0], mu)
    apart = (posterior_samples((mu, std)) - mu) / std
    assert apart.std().item() == pytest.approx(1, abs=0.1)


def test_an_evaluation_leaves_its_codes_for_others(photos: Dataset, trained: Path, tmp_path: Path) -> None:
    vae, few = load_vae(weights_path(trained, "vae")), photos.limited(150, 60)
    codes_of(vae, tmp_path, few, "test", known=evaluate_model(vae, few.test).columns)
    vae.encode = None  # not asked again
    mu, std = codes_of(vae, tmp_path, few, "test")
    expected = encode_all(load_vae(weights_path(trained, "vae")), few.test)
    assert torch.equal(mu, expected[0]) and torch.equal(std, expected[1])


def test_fitted_densities_are_stored_and_draw_the_same_codes_again(tmp_path: Path) -> None:
    asked, labels, path = [], torch.arange(600) % 3, tmp_path / "densities.safetensors"

    def codes() -> tuple[torch.Tensor, torch.Tensor]:
        asked.append(1)
        return normal(600, 4) + labels[:, None], torch.full((600, 4), 0.1)

    first, again = (load_or_fit_densities(path, codes, labels, {"vae": "a"}) for _ in range(2))
    assert len(asked) == 1
    z = posterior_samples(codes())
    fitted, gaussians = fit_mixture(z, components=10), class_gaussians(z, labels)
    assert again[0].score(z.double().numpy()) == pytest.approx(fitted.score(z.numpy()), rel=1e-4)
    for drawn in (first, again):
        assert torch.allclose(sample_mixture(drawn[0], 50, 1), sample_mixture(fitted, 50, 1), atol=1e-3)
        assert torch.allclose(sample_all_classes(drawn[1], 50), sample_all_classes(gaussians, 50), atol=1e-4)
    load_or_fit_densities(path, codes, labels, {"vae": "b"})
    assert len(asked) == 3
