"""pythae's trainer on our networks and its networks in our harness; skipped where pythae is not installed."""

import pytest
import torch

from helpers.data import Dataset
from helpers.engine.errors import UserError
from helpers.lab import peers
from helpers.run import build_model
from helpers.settings import Settings


def test_without_pythae_the_peer_says_what_brings_it(photos: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "pythae_adapter", None)
    with pytest.raises(UserError, match="pip install"):
        peers.train_pythae(photos, 1.0)


def test_pythae_trains_our_networks_but_not_our_classifiers(photos: Dataset, tiny: Settings) -> None:
    pytest.importorskip("pythae")
    from helpers.lab.pythae_adapter import our_networks, run_trainer

    vae = build_model(tiny, 10)
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    assert run_trainer(our_networks(vae), photos.train.head(96), lambda images, _: images >= 32, 16) > 0
    moved = {name for name, value in vae.state_dict().items() if not torch.equal(value, before[name])}
    assert any(name.startswith("decoder") for name in moved) and not any("head" in name for name in moved)


def test_pythae_as_a_peer_has_our_shapes(photos: Dataset) -> None:
    pytest.importorskip("pythae")
    model, speed = peers.train_pythae(photos.limited(200, 50), 0.01)
    assert speed > 0 and model.eval().read(torch.rand(3, 3, 32, 32)).code.shape == (3, 128)
    assert model.decode(torch.randn(3, 128)).shape == (3, 3, 32, 32)
