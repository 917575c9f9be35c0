"""Training lowers the loss, validation changes nothing, and an interrupted run ends like an uninterrupted one."""

from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import nn

from helpers.data import Dataset
from helpers.engine.errors import UserError
from helpers.models import Output, Posterior
from helpers.run import KINDS, Kind, build_model
from helpers.settings import SETTINGS, NetworkSettings, Settings, profile_settings
from helpers.training import Trainer, fit, validate

TIMES = ("seconds", "images_per_second")


def without_times(records: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{name: value for name, value in record.items() if name not in TIMES} for record in records]


def test_training_lowers_the_loss_and_validation_changes_nothing(photos: Dataset, tiny: Settings) -> None:
    model, steps = build_model(tiny, 10), []
    before = validate(model, photos.validation)
    records = list(fit(model, photos, tiny.replace(epochs=4), on_step=lambda done, total: steps.append((done, total))))
    assert steps == [(done, 24) for done in range(1, 25)]  # six batches, four epochs
    frozen = {k: v.clone() for k, v in model.state_dict().items()}
    after = validate(model, photos.validation)
    assert all(torch.equal(v, frozen[k]) for k, v in model.state_dict().items())
    assert after["validation_distortion"] < before["validation_distortion"]
    assert [r["epoch"] for r in records] == [1, 2, 3, 4] and records[-1]["lr"] == pytest.approx(0, abs=1e-9)
    wanted = {f"{split}_{term}" for split in ("train", "validation") for term in ("distortion", "rate", "accuracy")}
    assert wanted | {"beta", "sigma", "lr", "images_per_second"} <= set(records[0])


def test_a_record_has_only_the_terms_that_a_model_has(photos: Dataset) -> None:
    sizes = {"n_train": 64, "n_eval": 20, "width": 8, "epochs": 1, "batch_size": 32}
    for kind, missing in (("autoencoder", ("rate",)), ("judge", ("rate", "distortion", "code_accuracy"))):
        settings = profile_settings("smoke", kind, "photos", **sizes)
        record = next(fit(build_model(settings, 10), photos, settings))
        assert {"train_accuracy", "validation_cross_entropy"} <= set(record)
        assert not {f"{split}_{name}" for split in ("train", "validation") for name in missing} & set(record)
        assert "beta" not in record and ("sigma" in record) == (kind == "autoencoder")


def test_validation_sees_every_image_and_repeats(photos: Dataset, tiny: Settings) -> None:
    model = build_model(tiny, 10)
    whole = validate(model, photos.validation, batch_size=500)
    assert whole == validate(model, photos.validation, batch_size=500)
    uneven = validate(model, photos.validation, batch_size=73)
    assert uneven["validation_rate"] == pytest.approx(whole["validation_rate"], rel=1e-4)


@pytest.mark.parametrize("muon_rate", [0.0, 2.5])
def test_an_interrupted_run_ends_like_an_uninterrupted_one(
    muon_rate: float, photos: Dataset, tiny: Settings, tmp_path: Path
) -> None:
    tiny = tiny.replace(muon_rate=muon_rate)
    whole, stopped, resumed = (build_model(tiny, 10) for _ in range(3))
    expected = list(fit(whole, photos, tiny))
    checkpoint = tmp_path / "c.safetensors"
    next(fit(stopped, photos, tiny, checkpoint))
    records = list(fit(resumed, photos, tiny, checkpoint))
    assert without_times(records) == without_times(expected)
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_checkpoint_of_other_settings_is_refused(photos: Dataset, tiny: Settings, tmp_path: Path) -> None:
    checkpoint = tmp_path / "c.safetensors"
    next(fit(build_model(tiny, 10), photos, tiny, checkpoint))
    other = tiny.replace(lr=1e-3)
    with pytest.raises(UserError, match="lr 0.002 -> 0.001"):
        next(fit(build_model(other, 10), photos, other, checkpoint))


def test_a_new_kind_of_model_trains_by_the_recipe(photos: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    class TinySettings(NetworkSettings):
        model: Literal["tiny"] = "tiny"

        @property
        def weights(self) -> dict[str, float]:
            return {"rate": 2.0, "cross_entropy": 1.0}

    class Tiny(nn.Module):
        latent_dim = 4

        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder, self.head = nn.Linear(3072, 8), nn.Linear(4, 3072), nn.Linear(4, 10)
            self.log_sigma = nn.Parameter(torch.tensor(-1.0))

        def forward(self, x: torch.Tensor, eps: torch.Tensor, hidden: torch.Tensor | None = None) -> Output:
            q = Posterior(*self.encoder(x.flatten(1)).chunk(2, 1))
            return Output(self.decoder(q.sample(eps)).view_as(x).sigmoid(), q, self.head(q.mu), None)

    monkeypatch.setitem(SETTINGS, "tiny", TinySettings)
    monkeypatch.setitem(KINDS, "tiny", Kind(TinySettings, lambda settings, n_classes: Tiny(), Trainer))
    settings = profile_settings("smoke", "tiny", "photos", epochs=2)
    model = build_model(settings, 10)
    first, last = fit(model, photos, settings)
    assert last["validation_distortion"] < first["validation_distortion"] and last["beta"] == 2.0
    assert model.log_sigma.item() != -1.0, "sigma is learned"


def test_a_batch_in_parts_gives_the_gradient_of_the_batch(photos: Dataset) -> None:
    """Without batch norm the gradients of the parts, weighted by their images, add up to that of the batch."""
    settings = profile_settings("smoke", "vae", "photos", n_train=50, n_eval=20, batch_size=50, epochs=1, width=8)
    gradients = []
    for parts in (1, 3):  # 50 images in parts of 17, 17 and 16
        trainer = Trainer(build_model(settings, 10), photos, settings.replace(accumulate=parts))
        trainer.model.eval()
        trainer.move = lambda optimisers: None
        trainer.step(trainer.draw(torch.arange(50)))
        gradients.append(torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.requires_grad]))
    assert torch.allclose(*gradients, atol=0.02 * gradients[0].abs().max().item())
    assert (gradients[0] - gradients[1]).norm() < 0.02 * gradients[0].norm()
