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
    load_or_fit_gaussians,
    posterior_samples,
    sample_gaussians,
    slerp,
    standard_normal,
)
from helpers.run import build_model, load_vae
from helpers.settings import Settings


def normal(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_codes_come_from_the_gaussian_of_their_class() -> None:
    labels = torch.arange(600) % 3
    gaussians = class_gaussians(0.1 * normal(600, 2) + 10.0 * labels[:, None], labels)
    asked = torch.arange(3000) % 3
    drawn = sample_gaussians(gaussians, asked, seed=1)
    assert torch.equal((drawn.mean(1) / 10).round().long(), asked)
    assert drawn[asked == 2].std().item() == pytest.approx(0.1, rel=0.1)
    assert torch.equal(drawn, sample_gaussians(gaussians, asked, seed=1))
    correlated = normal(4000, 2) @ torch.tensor([[1.0, 2.0], [0.0, 0.5]])
    alone = sample_gaussians(class_gaussians(correlated, torch.zeros(4000).long()), torch.zeros(4000).long(), seed=5)
    assert torch.allclose(alone.T.cov(), correlated.T.cov(), atol=0.3)


def test_a_class_of_a_single_code_has_the_gaussian_of_all() -> None:
    codes, labels = normal(5, 2), torch.tensor([0, 0, 0, 1, 3])
    gaussians = class_gaussians(codes, labels)
    for label in (1, 2, 3):
        assert torch.allclose(gaussians.loc[label], codes.double().mean(0))
    assert torch.allclose(gaussians.loc[0], codes[:3].double().mean(0))


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


def test_fitted_gaussians_are_stored_and_draw_the_same_codes_again(tmp_path: Path) -> None:
    asked, labels, path = [], torch.arange(600) % 3, tmp_path / "gaussians.safetensors"

    def codes() -> tuple[torch.Tensor, torch.Tensor]:
        asked.append(1)
        return normal(600, 4) + labels[:, None], torch.full((600, 4), 0.1)

    first, again = (load_or_fit_gaussians(path, codes, labels, {"vae": "a"}) for _ in range(2))
    assert len(asked) == 1
    fitted = class_gaussians(posterior_samples(codes()), labels)
    for gaussians in (first, again):
        drawn, expected = (sample_gaussians(g, labels) for g in (gaussians, fitted))
        assert torch.allclose(drawn, expected, atol=1e-4)
    load_or_fit_gaussians(path, codes, labels, {"vae": "b"})
    assert len(asked) == 3
