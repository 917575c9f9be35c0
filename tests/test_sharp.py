"""The sharp decoder learns what it should, and leaves the VAE alone."""

import shutil
from pathlib import Path

import pytest
import torch

from helpers.data import Dataset
from helpers.engine.files import weights_path
from helpers.run import build_model, load_vae, train
from helpers.settings import profile_settings
from helpers.sharp import Critic, SharpTrainer, feature_distance

from .conftest import TINY


def test_feature_distance_ignores_length_and_counts_direction() -> None:
    a = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(feature_distance([a, a], [5 * a, a]), torch.zeros(2), atol=1e-6)
    assert torch.allclose(feature_distance([a], [-a]), torch.full((2,), 4.0))  # opposite unit vectors: |2|^2


def test_the_critic_sees_patches() -> None:
    critic, x = Critic(8), torch.rand(1, 3, 32, 32)
    changed = x.clone()
    changed[..., :4, :4] = 0
    assert critic(x).shape == (1, 1, 8, 8)
    assert (critic(x) != critic(changed)).sum() < 64 / 2  # one corner, not the whole image


def test_the_decoder_follows_the_critic_only_as_far_as_it_knows_something(photos: Dataset, trained: Path) -> None:
    settings = profile_settings("smoke", "sharp", "photos", **TINY)
    vae, x = load_vae(weights_path(trained, "vae")), photos.train.images[:20].float() / 255

    def directions(trainer: SharpTrainer, *skills: float) -> list[torch.Tensor]:
        eps = torch.zeros(20, TINY["latent_dim"])
        return [trainer.direction(*trainer.losses(x, eps), skill=skill) for skill in skills]

    ignorant = SharpTrainer(build_model(settings, 10), photos, settings, vae=vae)
    for parameter in ignorant.model.critic.parameters():
        torch.nn.init.zeros_(parameter)
    # A critic that always answers 0 cannot tell real from made: it pays 2, and its skill is 1 - 2/2.
    assert torch.equal(ignorant.hinge(x, x), torch.full((20,), 2.0))
    near, half, full = directions(ignorant, 0.0, 0.5, 1.0)
    assert near.norm() == half.norm() == full.norm()  # and such a critic has no gradient to follow
    fresh = SharpTrainer(build_model(settings, 10), photos, settings, vae=vae)
    below, near, half, full = directions(fresh, -1.0, 0.0, 0.5, 1.0)
    assert torch.equal(below, near)
    for skill, direction in ((0.5, half), (1.0, full)):
        part = (direction - near).norm().item()
        assert part == pytest.approx(skill * settings.critic_weight * near.norm().item(), rel=0.05)


@pytest.mark.slow
def test_the_sharp_decoder_comes_nearer_in_features_and_depends_on_its_seed_alone(
    photos: Dataset, trained: Path, tmp_path: Path
) -> None:
    shutil.copy(weights_path(trained, "vae"), tmp_path)
    settings = profile_settings("smoke", "sharp", "photos", **TINY | {"epochs": 3})
    decoder, history = train(photos, settings, tmp_path)
    first, *_, last = history.records
    assert last["validation_feature"] < first["validation_feature"]
    z = torch.zeros(2, TINY["latent_dim"])
    assert decoder(z).shape == (2, 3, 32, 32)
    assert not torch.equal(decoder(z), load_vae(weights_path(tmp_path, "vae")).decode(z))
    torch.manual_seed(99)  # the critic's first weights depend on the seed of the settings, not on what ran before
    assert torch.equal(train(photos, settings, tmp_path)[0](z), decoder(z))
