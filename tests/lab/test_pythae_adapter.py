"""pythae's networks and trainer in our harness; skipped where pythae is not installed."""

import pytest
import torch

from helpers.data import Dataset
from helpers.engine.errors import UserError
from helpers.lab import peers


def test_without_pythae_the_peer_says_what_brings_it(photos: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "pythae_adapter", None)
    with pytest.raises(UserError, match="pip install"):
        peers.train_pythae(photos, 1.0)


def test_pythae_as_a_peer_has_our_shapes(photos: Dataset) -> None:
    pytest.importorskip("pythae")
    model, speed = peers.train_pythae(photos.limited(200, 50), 0.01)
    assert speed > 0 and model.eval().read(torch.rand(3, 3, 32, 32)).code.shape == (3, 128)
    assert model.decode(torch.randn(3, 128)).shape == (3, 3, 32, 32)
