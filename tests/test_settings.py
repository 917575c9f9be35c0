"""Settings check themselves, and say where the results of a run may go."""

from pathlib import Path

import pytest

from helpers.engine.errors import UserError
from helpers.engine.files import ROOT, home, results_folder
from helpers.settings import SETTINGS, Settings, VAESettings, out_dir, profile_settings


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"epochs": 0}, "epochs=0"), ({"epochs": 1.5}, "epochs=1.5"), ({"epochs": True}, "epochs=True"),
        ({"lr": -1.0}, "lr=-1.0"), ({"beta": float("nan")}, "beta=nan"), ({"flip": 1}, "flip=1"),
        ({"model": "vea"}, "Did you mean 'vae'"), ({"width": 12}, "width=12.*multiple"),
        ({"label_smoothing": 1.0}, "label_smoothing"), ({"epoch": 3}, "Did you mean 'epochs'"),
        ({"dataset": "cifar11"}, "unknown data set 'cifar11'.*Did you mean 'cifar10'"),
        ({"pixel_weight": 1.0}, "unknown"), ({"seed": 2**62}, "seed=.*less than"), ({"seed": -1}, "seed=-1"),
        ({"translate": 32}, "translate=32.*31"), ({"translate": -1}, "translate=-1"), ({"cutout": 33}, "cutout=33.*32"),
        ({"latent_dim": 3073}, "latent_dim=3073"), ({"width": 2**33}, "width="), ({"batch_size": 2**70}, "batch_size="),
        ({"n_train": -1}, "n_train=-1"), ({"n_train": 2**70}, "n_train="), ({"accumulate": 2**70}, "accumulate="),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_refused_with_its_name(change: dict, word: str) -> None:
    with pytest.raises(UserError, match=word) as found:
        profile_settings("full", **change)
    assert "\n" not in str(found.value)
    with pytest.raises(UserError):
        VAESettings(**({"model": "vae"} | change))


@pytest.mark.parametrize("values", [{"model": []}, {"model": 5}, {}, {"model": "autoencoder", "beta": 1.0}])
def test_what_describes_no_known_kind_is_refused(values: dict) -> None:
    with pytest.raises(UserError):
        Settings.from_dict(values)
    with pytest.raises(UserError, match="is wrong"):
        SETTINGS["autoencoder"](model="vae")


def test_a_kind_has_only_the_settings_that_mean_something_for_it() -> None:
    assert not {"beta", "blocks", "cutout"} & set(SETTINGS["sharp"].model_fields)
    assert not {"latent_dim", "beta", "sigma"} & set(SETTINGS["judge"].model_fields)
    assert "beta" not in SETTINGS["autoencoder"].model_fields
    with pytest.raises(UserError, match="unknown setting 'accumulate'"):
        profile_settings("smoke", "sharp", "photos", accumulate=2)


def test_settings_survive_json_and_name_their_differences() -> None:
    for kind in SETTINGS:
        settings = profile_settings("smoke", kind, seed=3)
        assert Settings.from_dict(settings.as_dict()) == settings and hash(settings)
        assert settings.difference(settings.replace(epochs=9)) == "epochs 2 -> 9"
    assert type(profile_settings(lr=1e-3, beta=1).replace(sigma=1)) is VAESettings
    change = profile_settings("full", "autoencoder").difference(profile_settings())
    assert change == "model autoencoder -> vae, beta none -> 1.0, warmup_epochs none -> 1.0"  # nothing else


def test_changed_settings_never_write_into_the_published_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VAE_OUTS", raising=False)
    assert out_dir(profile_settings("full", "vae", "cifar10")) == ROOT / "outs" / "exercise_03"
    assert out_dir(profile_settings("full", "vae", "photos")) == ROOT / "outs" / "photos"
    assert out_dir(profile_settings("full", "vae", "cifar10", epochs=1)) == ROOT / "outs" / "scratch"
    assert home("folder:../../etc").parent == ROOT / "outs" and "/" not in home("folder:../../etc").name


@pytest.mark.parametrize("place", [".", "helpers", "..", "notebooks/x", "report", "x" * 5000, "a\0b"])
def test_results_never_go_among_the_sources(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError):
        results_folder(Path(place))
    assert results_folder(Path("outs/mine")) == ROOT / "outs" / "mine"
