"""Scores of samples give the known answers; the judge scores real images better than made ones."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.data import Dataset
from helpers.engine.errors import UserError
from helpers.judge import Judge, judge_images
from helpers.measure import samples


def normal(n: int, d: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> torch.Tensor:
    return scale * torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift


@pytest.fixture(scope="module")
def judge() -> Judge:
    """An untrained one."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Judge(8, 10).eval()


def test_frechet_distance_of_known_gaussians() -> None:
    x = normal(500, 6, 0).double()
    x = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(x.T.cov())).T  # mean 0 and covariance I exactly
    assert samples.frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert samples.frechet_distance(x, x + 2.0) == pytest.approx(6 * 4)  # |m|^2
    assert samples.frechet_distance(x, 2 * x) == pytest.approx(6)  # N(0, I) against N(0, 4 I): d


class Flat(torch.nn.Module):
    """A "network" for torchmetrics whose features are the pixels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1).float()


def test_frechet_and_kernel_distance_agree_with_torchmetrics() -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    generator = torch.Generator().manual_seed(0)
    a = torch.rand(200, 3, 2, 2, generator=generator)
    b = 0.7 * torch.rand(200, 3, 2, 2, generator=generator) + 0.1
    frechet = FrechetInceptionDistance(feature=Flat(), input_img_size=(3, 2, 2)).set_dtype(torch.float64)
    kernel = KernelInceptionDistance(feature=Flat(), subsets=1, subset_size=200)
    for metric in (frechet, kernel):
        metric.update(a, real=True)
        metric.update(b, real=False)
    x, y = a.flatten(1), b.flatten(1)
    assert samples.frechet_distance(x, y) == pytest.approx(frechet.compute().item(), rel=1e-4)
    assert samples.kernel_distance(x, y, block=200).value == pytest.approx(kernel.compute()[0].item(), rel=1e-4)


def test_the_spectrum_of_blocks_knows_a_wave_noise_and_a_flat_picture() -> None:
    place = torch.arange(32) % 8 + 0.5
    rows, columns = (torch.cos(torch.pi / 8 * k * place) for k in (2, 3))
    wave = (128 + 64 * rows[:, None] * columns).round().to(torch.uint8).expand(1, 3, 32, 32)
    spectrum = samples.block_spectrum(wave).exp()[0].view(8, 8)
    # An orthonormal wave has the norm 1: each block holds (64 * 4)^2 at its own frequency, little elsewhere.
    assert spectrum[2, 3].item() == pytest.approx((64 * 4) ** 2, rel=0.02)
    assert spectrum.flatten().sort().values[-3] < 20  # beside the mean and the wave, only rounding
    flat = torch.full((1, 3, 32, 32), 100, dtype=torch.uint8)
    assert samples.block_spectrum(flat)[0, 1:].tolist() == pytest.approx([math.log(1 / 12)] * 63, abs=1e-3)


def test_the_kernel_distance_is_unbiased() -> None:
    same = samples.kernel_distance(normal(4000, 8, 0), normal(4000, 8, 1), block=500)
    assert abs(same.value) < 4 * same.stderr
    other = samples.kernel_distance(normal(4000, 8, 0), normal(4000, 8, 1, shift=0.5), block=500)
    assert other.value > 10 * other.stderr


def test_manifold_scores_of_known_sets() -> None:
    real = normal(600, 4, 0)
    same = samples.manifold_scores(real, real)
    assert same["precision"] == same["recall"] == same["coverage"] == 1
    assert samples.manifold_scores(real, normal(600, 4, 1))["density"] == pytest.approx(1, abs=0.1)
    assert all(value == 0 for value in samples.manifold_scores(real, real + 100).values())
    collapsed = samples.manifold_scores(real, real[:6].repeat(100, 1))  # few real images, again and again
    assert collapsed["precision"] == 1 and collapsed["recall"] < 0.1 and collapsed["coverage"] < 0.2


def test_copies_are_noticed_and_fresh_samples_are_not() -> None:
    train, test = normal(3000, 8, 0), normal(1000, 8, 1)
    copies = train[:1000] + normal(1000, 8, 2, scale=0.05)
    assert samples.copying_statistic(train, test, copies, cells=5) < -10
    assert abs(samples.copying_statistic(train, test, normal(1000, 8, 3), cells=5)) < 3
    assert samples.copying_statistic(train, test, normal(1000, 8, 3, scale=2.0), cells=5) > 3
    few = samples.copying_statistic(train, test[:30], normal(30, 8, 3), cells=5)  # too few for cells: all together
    assert few == samples.copying_statistic(train, test[:30], normal(30, 8, 3), cells=1) and abs(few) < 4


def test_without_inception_there_is_one_clear_line_and_no_fid(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*arguments: object, **options: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torchmetrics.image.fid.FrechetInceptionDistance.__init__", no_network)
    images = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    with pytest.raises(UserError, match="no FID.*inception.*no network"):
        samples.inception_scores(images, images)


def test_the_judge_scores_real_images_better_than_noise(judge: Judge, photos: Dataset) -> None:
    real, predicted = judge_images(judge, photos.test.images)
    assert real.shape == (1000, 32) and predicted.shape == (1000,)
    assert torch.allclose(real[77:300], judge_images(judge, photos.test.images[77:300])[0], atol=1e-4)
    noise = torch.randint(256, (1000, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    fair, poor = (samples.score(real, *judge_images(judge, x)) for x in (photos.train.images[:1000], noise))
    assert fair["n"] == 1000 and fair["frechet"] < poor["frechet"]
    assert fair["kernel"]["value"] < poor["kernel"]["value"]


def test_scores_are_kept_for_the_same_origin(judge: Judge, photos: Dataset, tmp_path: Path) -> None:
    real, held_out, labels = photos.test.images[:300], photos.validation.images[:300], photos.train.labels[:300]
    made, path = [], tmp_path / "sample_scores.json"

    def maker(name: str) -> Callable[[], torch.Tensor]:
        images = {"photos": photos.train.images[:300], "dark photos": photos.train.images[:300] // 4}[name]
        return lambda: made.append(name) or images  # type: ignore[func-returns-value]

    def scores(weights: str, *names: str) -> dict[str, dict[str, Any]]:
        makers, origin = {name: maker(name) for name in names}, {"weights": weights}
        return samples.stored_scores(path, makers, judge, real, held_out, origin, {"photos": labels})

    first = scores("a", "photos", "dark photos")
    features, predicted = judge_images(judge, photos.train.images[:300])
    against, near = judge_images(judge, real)[0], judge_images(judge, held_out)[0]
    expected = samples.score(against, features, predicted)
    assert first["photos"]["agreement"] == pytest.approx(predicted.eq(labels).double().mean().item(), rel=1e-5)
    dark = first["dark photos"]
    assert "agreement" not in dark and dark["spectrum"] > 2 * first["photos"]["spectrum"]
    assert first["photos"].pop("to_validation") == pytest.approx(samples.frechet_distance(features, near), rel=1e-5)
    assert first["photos"]["frechet"] == pytest.approx(expected["frechet"], rel=1e-5)
    assert first["photos"]["recall"] == pytest.approx(expected["recall"], rel=1e-5)
    assert first["dark photos"]["frechet"] > 2 * expected["frechet"]
    made.clear()
    assert scores("a", "photos", "dark photos").keys() == first.keys() and not made
    assert scores("b", "photos").keys() == {"photos"} and made == ["photos"]
    assert scores("b", "photos", "dark photos").keys() == first.keys() and made == ["photos", "photos", "dark photos"]
    path.write_text(path.read_text(encoding="utf-8").replace("frechet", "frechat"), encoding="utf-8")
    with pytest.raises(UserError, match="sample_scores.json"):
        scores("b", "photos", "dark photos")
