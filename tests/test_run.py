"""A run in files: what is stored can be read again, and only what fits is used."""

import shutil
from pathlib import Path

import pytest
import torch

import helpers
from helpers.data import Dataset, to_unit
from helpers.engine.errors import UserError
from helpers.engine.files import checkpoint_path, history_path, weights_path
from helpers.losses import kl_per_dim
from helpers.run import KINDS, build_model, load_history, load_model, load_or_train, train
from helpers.settings import SETTINGS, Settings, profile_settings
from helpers.training import fit

from .conftest import TINY


def test_every_kind_of_model_can_be_built_from_its_settings() -> None:
    assert KINDS.keys() == SETTINGS.keys()
    for kind in KINDS:
        assert sum(p.numel() for p in build_model(profile_settings("smoke", kind), 10).parameters()) > 1e4
    for kind in ("sharp", "flow"):
        with pytest.raises(UserError, match=r"vae.safetensors does not exist"):
            train(None, profile_settings("smoke", kind), Path("nowhere"))  # type: ignore[arg-type]


def test_the_stored_vae_reads_writes_and_classifies(trained: Path, photos: Dataset) -> None:
    vae = helpers.load_vae(weights_path(trained, "vae"))
    x = to_unit(photos.test.images[:20])
    q = vae.encode(x)
    assert q.mu.shape == q.logvar.shape == (20, vae.latent_dim) and (kl_per_dim(q) >= -1e-6).all()
    assert vae.decode(q.mu).shape == x.shape and vae.classify(x).shape == (20, 10)


def test_the_published_vae_is_loaded_by_default() -> None:
    assert helpers.load_vae().latent_dim == 128


def test_stored_weights_are_used_only_for_equal_settings(photos: Dataset, tiny: Settings, trained: Path) -> None:
    seen: list[float] = []
    _, history = load_or_train(photos, tiny, trained, lambda record, _: seen.append(record["epoch"]))
    assert history.loaded and history.sentence().startswith("Loaded") and seen == [1, 2]
    _, other = load_or_train(photos, tiny.replace(epochs=1), trained / "other")
    assert not other.loaded and other.sentence().startswith("Trained from nothing")


def test_weights_of_another_run_do_not_pass_for_this_one(trained: Path, tmp_path: Path) -> None:
    history_path(tmp_path, "vae").write_bytes(history_path(trained, "vae").read_bytes())
    content = bytearray(weights_path(trained, "vae").read_bytes())
    content[-1] ^= 1
    weights_path(tmp_path, "vae").write_bytes(content)
    with pytest.raises(UserError, match="is not the file"):
        load_history(tmp_path, "vae")


def test_a_run_says_in_which_numbers_it_was_trained(
    trained: Path, photos: Dataset, tiny: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("helpers.engine.runtime.cpu_has_bf16", lambda: True)
    shutil.copy(weights_path(trained, "vae"), tmp_path)
    settings = profile_settings("smoke", "pixels", "photos", n_train=32, n_eval=20, epochs=1)
    _, pixels = train(photos, settings, tmp_path)
    assert pixels.run["training_precision"] == "float32"  # its step never multiplies bf16 numbers
    _, vae = train(photos, tiny.replace(epochs=1, n_train=32), tmp_path)
    assert vae.run["training_precision"].startswith("bf16")


def test_the_settings_travel_in_the_weights(trained: Path, tiny: Settings) -> None:
    _, provenance = load_model(weights_path(trained, "vae"))
    assert Settings.from_dict(provenance["settings"]) == tiny and len(provenance["class_names"]) == 10


def test_a_kill_between_weights_and_history_is_mended(photos: Dataset, tiny: Settings, tmp_path: Path) -> None:
    old, new = tiny.replace(epochs=1, seed=1), tiny.replace(epochs=1)
    train(photos, old, tmp_path)
    *_, _ = fit(build_model(new, 10), photos, new, checkpoint_path(tmp_path, "vae"))
    weights_path(tmp_path, "vae").write_bytes(b"the new weights, of which the old history knows nothing")
    _, history = load_or_train(photos, new, tmp_path)
    assert history.settings == load_history(tmp_path, "vae").settings == new
    checkpoint_path(tmp_path, "vae").unlink(missing_ok=True)
    weights_path(tmp_path, "vae").write_bytes(b"and without a checkpoint it is said")
    with pytest.raises(UserError, match="is not the file"):
        load_or_train(photos, new, tmp_path)


@pytest.mark.slow
def test_the_judge_learns_and_takes_no_part_in_a_vae(photos: Dataset, tmp_path: Path) -> None:
    settings = profile_settings("smoke", "judge", "photos", width=8, epochs=6, n_train=1024)
    _, history = train(photos, settings, tmp_path)
    assert history.records[-1]["validation_accuracy"] > 0.2
    stored, _ = load_model(weights_path(tmp_path, "judge"))
    assert stored.features(to_unit(photos.test.images[:2])).shape == (2, 32)
    assert profile_settings("full", "judge").seed != profile_settings().seed
    root = Path(helpers.__file__).parent
    for module in ("losses", "data", "models"):
        assert "judge" not in (root / f"{module}.py").read_text(encoding="utf-8").replace("a judge no mean", "")


def test_loaded_weights_are_in_evaluation_mode(trained: Path) -> None:
    model, _ = load_model(weights_path(trained, "vae"))
    assert not model.training and all(torch.isfinite(value).all() for value in model.state_dict().values())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sharp", "flow"])
def test_what_is_trained_on_a_vae_leaves_it_alone_and_knows_which_it_was(
    kind: str, photos: Dataset, tiny: Settings, trained: Path, tmp_path: Path
) -> None:
    weights = Path(shutil.copy(weights_path(trained, "vae"), tmp_path))
    before = weights.read_bytes()
    settings = profile_settings("smoke", kind, "photos", **TINY)
    model, _ = train(photos, settings, tmp_path)
    assert weights.read_bytes() == before and not checkpoint_path(tmp_path, kind).exists()
    again, history = load_or_train(photos, settings, tmp_path)
    assert history.loaded
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), again.parameters(), strict=True))
    train(photos, tiny.replace(seed=5), tmp_path)  # another VAE in its place
    assert not load_or_train(photos, settings, tmp_path)[1].loaded
    assert load_history(tmp_path, kind).run["vae_sha256"] != history.run["vae_sha256"]
