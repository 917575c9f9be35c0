"""Scores of samples give the known answers; the flow and the sharp decoder learn what they should, and nothing else."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

from helpers.config import Settings, UserError, profile_settings
from helpers.data import Dataset
from helpers.flow import Flow, fit_flow, load_or_fit_flow, sample_flow
from helpers.measure.inception import inception_scores
from helpers.measure.sample_metrics import copying_statistic, frechet_distance, kernel_distance, manifold_scores
from helpers.models import build_model
from helpers.priors import class_gaussians, encode_all, gaussian_pixels, sample_all_classes, training_codes
from helpers.reference import judge, score, seed_spread
from helpers.runs.peers import by_column, first_in
from helpers.sharp import Critic, SharpTrainer, feature_distance, of_vae
from helpers.show.figures import peers_plot
from helpers.storage import load_history, load_model, load_vae, weights_path
from helpers.training import load_or_train, train

from .conftest import TINY


def normal(n: int, d: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> torch.Tensor:
    return scale * torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift


def whitened(x: torch.Tensor) -> torch.Tensor:
    """x with mean 0 and covariance I exactly."""
    x = (x - x.mean(0)).double()
    return x @ torch.linalg.inv(torch.linalg.cholesky(x.T.cov())).T


def test_frechet_distance_of_known_gaussians() -> None:
    x = whitened(normal(500, 6, 0))
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x + 2.0) == pytest.approx(6 * 4)  # |m|^2
    assert frechet_distance(x, 2 * x) == pytest.approx(6)  # N(0, I) against N(0, 4 I): d


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
    assert frechet_distance(x, y) == pytest.approx(frechet.compute().item(), rel=1e-4)
    assert kernel_distance(x, y, block=200).value == pytest.approx(kernel.compute()[0].item(), rel=1e-4)


def test_the_kernel_distance_is_unbiased() -> None:
    same = kernel_distance(normal(4000, 8, 0), normal(4000, 8, 1), block=500)
    assert abs(same.value) < 4 * same.stderr
    other = kernel_distance(normal(4000, 8, 0), normal(4000, 8, 1, shift=0.5), block=500)
    assert other.value > 10 * other.stderr


def test_manifold_scores_of_known_sets() -> None:
    real = normal(600, 4, 0)
    same = manifold_scores(real, real)
    assert same["precision"] == same["recall"] == same["coverage"] == 1
    assert manifold_scores(real, normal(600, 4, 1))["density"] == pytest.approx(1, abs=0.1)
    far = manifold_scores(real, real + 100)
    assert all(value == 0 for value in far.values())
    collapsed = manifold_scores(real, real[:6].repeat(100, 1))  # few real images, again and again
    assert collapsed["precision"] == 1 and collapsed["recall"] < 0.1 and collapsed["coverage"] < 0.2


def test_copies_are_noticed_and_fresh_samples_are_not() -> None:
    train, test = normal(3000, 8, 0), normal(1000, 8, 1)
    copies = train[:1000] + normal(1000, 8, 2, scale=0.05)
    assert copying_statistic(train, test, copies, cells=5) < -10
    assert abs(copying_statistic(train, test, normal(1000, 8, 3), cells=5)) < 3
    assert copying_statistic(train, test, normal(1000, 8, 3, scale=2.0), cells=5) > 3


def test_without_inception_there_is_one_clear_line_and_no_fid(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*arguments: object, **options: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torchmetrics.image.fid.FrechetInceptionDistance.__init__", no_network)
    images = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    with pytest.raises(UserError, match="no FID.*inception.*no network"):
        inception_scores(images, images)


def test_samples_of_all_classes_are_mixed_and_equally_many() -> None:
    labels = torch.arange(600) % 3
    gaussians = class_gaussians(normal(600, 2, 0, scale=0.1) + 10.0 * labels[:, None], labels)
    drawn = (sample_all_classes(gaussians, 300, seed=1).mean(1) / 10).round().long()
    assert drawn.bincount().tolist() == [100, 100, 100]
    assert all(part.bincount(minlength=3).min() >= 10 for part in drawn.split(75))  # not sorted by class


def test_a_gaussian_on_pixels_has_the_moments_of_the_images(photos: Dataset) -> None:
    images = photos.train.images[:4000, :, :4, :4]
    made, real = (x.flatten(1).double() for x in (gaussian_pixels(images, 4000), images))
    # Values outside 0..255 are cut off, so the moments agree only roughly.
    assert (made.mean(0) - real.mean(0)).abs().max() < 8
    assert (made.std(0) / real.std(0) - 1).abs().max() < 0.15
    assert torch.corrcoef(made.T).sub(torch.corrcoef(real.T)).abs().max() < 0.15


# --- the judge --------------------------------------------------------------------------------------------------


def test_the_judge_scores_real_images_better_than_a_gaussian_on_pixels(photos: Dataset) -> None:
    classifier = build_model(profile_settings("smoke", "reference", "photos", width=8), 10).eval()
    real, predicted = judge(classifier, photos.test.images)
    assert real.shape == (1000, 256) and predicted.shape == (1000,)
    assert torch.allclose(real[77:300], judge(classifier, photos.test.images[77:300])[0], atol=1e-4)
    fair = score(classifier, real, photos.train.images[:1000])
    poor = score(classifier, real, gaussian_pixels(photos.train.images, 1000))
    assert fair["n"] == 1000 and fair["frechet"] < poor["frechet"]
    assert fair["kernel"]["value"] < poor["kernel"]["value"]


def test_further_seeds_are_scored_once_for_the_same_weights(photos: Dataset, tmp_path: Path) -> None:
    classifier = build_model(profile_settings("smoke", "reference", "photos", width=8), 10).eval()
    real, _ = judge(classifier, photos.test.images[:300])
    drawn = []

    def sampler(seed: int) -> torch.Tensor:
        drawn.append(seed)
        return photos.train.images[torch.randperm(4000, generator=torch.Generator().manual_seed(seed))[:300]]

    def spread(weights: str) -> dict[str, list[float]]:
        return seed_spread(tmp_path / "spread.json", {"real": sampler}, classifier, real, {"weights": weights}, (1, 2))

    first = spread("a")
    expected = [frechet_distance(judge(classifier, sampler(seed))[0], real) for seed in (1, 2)]
    assert first == {"real": pytest.approx(expected)} and expected[0] != expected[1]
    drawn.clear()
    assert spread("a") == first and not drawn
    assert spread("b") == first and drawn == [1, 2]


# --- the flow ---------------------------------------------------------------------------------------------------


def two_classes() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    labels = torch.arange(3000) % 2
    mu = normal(3000, 4, 0, scale=0.3) + torch.where(labels == 1, 2.0, -1.0)[:, None]
    return mu, torch.full_like(mu, 0.1), labels


def test_a_flow_learns_where_codes_lie_and_which_class_has_them() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        flow = Flow(4, 2, width=64, blocks=2)
    losses = list(fit_flow(flow, *two_classes(), epochs=80))
    assert losses[-1] < 0.5 * losses[0]
    for label, mean in ((0, -1.0), (1, 2.0)):
        drawn = sample_flow(flow, 2000, label=label)
        assert drawn.mean().item() == pytest.approx(mean, abs=0.3) and drawn.std(0).max() < 1
    everyone = sample_flow(flow, 2000)
    assert everyone.mean().item() == pytest.approx(0.5, abs=0.3) and everyone.std().item() > 1.2
    assert torch.equal(sample_flow(flow, 5, seed=3), sample_flow(flow, 5, seed=3))


def test_a_stored_flow_is_used_only_for_the_codes_it_was_fitted_to(tmp_path: Path) -> None:
    path, codes = tmp_path / "flow.safetensors", two_classes()
    first, loaded = load_or_fit_flow(path, *codes, {"vae_sha256": "a"}, epochs=1)
    assert not loaded and load_or_fit_flow(path, *codes, {"vae_sha256": "a"}, epochs=1)[1]
    assert not load_or_fit_flow(path, *codes, {"vae_sha256": "b"}, epochs=1)[1]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="flow.safetensors"):
        load_or_fit_flow(path, *codes, {"vae_sha256": "b"}, epochs=1)


# --- the sharp decoder ------------------------------------------------------------------------------------------


def test_feature_distance_ignores_length_and_counts_direction() -> None:
    a = normal(2, 3 * 4 * 4, 0).view(2, 3, 4, 4)
    assert torch.allclose(feature_distance([a, a], [5 * a, a]), torch.zeros(2), atol=1e-6)
    assert torch.allclose(feature_distance([a], [-a]), torch.full((2,), 4.0))  # opposite unit vectors: |2|^2


def test_the_critic_sees_patches() -> None:
    critic, x = Critic(8), torch.rand(1, 3, 32, 32)
    assert critic(x).shape == (1, 1, 8, 8)
    changed = x.clone()
    changed[..., :4, :4] = 0
    assert (critic(x) != critic(changed)).sum() < 64 / 2  # one corner, not the whole image


def test_the_decoder_follows_the_critic_only_as_far_as_it_knows_something(photos: Dataset, trained: Path) -> None:
    settings = profile_settings("smoke", "sharp", "photos", **TINY)
    decoder, vae = build_model(settings, 10), load_vae(weights_path(trained, "vae"))
    trainer = SharpTrainer(decoder, photos, settings, vae=vae)
    x = photos.train.images[:20].float() / 255
    _, made = trainer._losses(x, torch.zeros(20, TINY["latent_dim"]))
    # A critic that always answers 0 cannot tell real from made: it pays 2, and its skill is 1 - 2/2.
    for parameter in trainer.model.critic.parameters():
        torch.nn.init.zeros_(parameter)
    assert torch.equal(trainer._hinge(x, made.detach()), torch.full((20,), 2.0))
    near, half, full = (trainer._direction(*trainer._losses(x, torch.zeros(20, TINY["latent_dim"])), skill=s).norm()
                        for s in (0.0, 0.5, 1.0))  # fmt: skip
    assert near == half == full  # and such a critic has no gradient to follow
    trainer = SharpTrainer(build_model(settings, 10), photos, settings, vae=vae)
    found = {}
    for skill in (-1.0, 0.0, 0.5, 1.0):
        found[skill] = trainer._direction(*trainer._losses(x, torch.zeros(20, TINY["latent_dim"])), skill=skill)
    near = found[0.0].norm().item()
    assert torch.equal(found[-1.0], found[0.0])
    for skill in (0.5, 1.0):
        part = (found[skill] - found[0.0]).norm().item()
        assert part == pytest.approx(skill * settings.critic_weight * near, rel=0.05)


def test_the_sharp_decoder_leaves_the_vae_alone_and_knows_whose_code_it_reads(
    photos: Dataset, trained: Path, tmp_path: Path
) -> None:
    weights = weights_path(trained, "vae")
    before = weights.read_bytes()
    (tmp_path / weights.name).write_bytes(before)
    settings = profile_settings("smoke", "sharp", "photos", **TINY | {"epochs": 3})
    decoder, history = train(photos, settings, tmp_path, **of_vae(tmp_path))
    first, *_, last = history.records
    assert last["validation_feature"] < first["validation_feature"]
    assert weights.read_bytes() == before and not (tmp_path / "sharp.checkpoint.safetensors").exists()
    vae = load_vae(tmp_path / weights.name)
    z = torch.zeros(2, TINY["latent_dim"])
    assert decoder(z).shape == (2, 3, 32, 32) and not torch.equal(decoder(z), vae.decode(z))
    again, history = load_or_train(photos, settings, tmp_path, **of_vae(tmp_path))
    assert history.loaded and torch.equal(again(z), decoder(z))
    other = of_vae(tmp_path) | {"vae_sha256": "another"}
    assert not load_or_train(photos, settings, tmp_path, **other)[1].loaded
    assert load_history(tmp_path, "sharp").run["vae_sha256"] == "another"


def test_training_codes_are_kept_for_the_same_weights_and_images(
    photos: Dataset, tiny: Settings, tmp_path: Path
) -> None:
    train(photos, tiny, tmp_path)
    few = photos.limited(150, 0)
    mu, std = training_codes(tmp_path, few)
    expected = encode_all(load_model(weights_path(tmp_path, "vae"))[0], few.train)
    assert torch.equal(mu, expected[0]) and torch.equal(std, expected[1])
    kept = (tmp_path / "codes.safetensors").stat().st_mtime_ns
    assert torch.equal(training_codes(tmp_path, few)[1], std)
    assert (tmp_path / "codes.safetensors").stat().st_mtime_ns == kept
    assert len(training_codes(tmp_path, photos.limited(151, 0))[0]) == 151
    train(photos, dataclasses.replace(tiny, seed=1), tmp_path / "other")
    shutil.copy(weights_path(tmp_path / "other", "vae"), weights_path(tmp_path, "vae"))
    assert not torch.equal(training_codes(tmp_path, few)[0], mu)


# --- peers ------------------------------------------------------------------------------------------------------


def test_the_columns_of_the_peers_say_who_is_first_in_each() -> None:
    vae = {
        "psnr_pooled": 24.0, "calibrated_bpd": 6.0, "rate": 300.0, "probe_accuracy": 0.5, "images_per_second": 400.0,
        "frechet": {"reconstructions": 100.0, "N(0, I)": 200.0, "mixture": 150.0}, "parameters": 4_000_000,
    }  # fmt: skip
    plain = {k: v for k, v in vae.items() if k not in ("calibrated_bpd", "rate")}
    plain |= {"images_per_second": 900.0, "frechet": {"reconstructions": 90.0, "N(0, I)": 151.0, "mixture": 160.0}}
    columns = by_column({"ours": vae, "an autoencoder": plain | {"psnr_pooled": 23.0, "parameters": 5_000_000}})
    assert columns["rate (nats) ↓"] == {"ours": 300.0}  # an autoencoder has none
    assert columns["Frechet, best samples ↓"] == {"ours": 150.0, "an autoencoder": 151.0}
    others = {title for title, name in first_in(columns).items() if name != "ours"}
    assert others == {"Frechet, reconstructions ↓", "images/s in training ↑"}
    assert len(peers_plot(columns).axes) == len(columns) == 8
