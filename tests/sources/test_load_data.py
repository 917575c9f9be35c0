"""A data set comes by its name; what cannot come is one line, or the photos step in."""

from pathlib import Path
from urllib.error import URLError

import pytest

from helpers.engine.errors import UserError
from helpers.sources import load_data, official


def test_a_wrong_root_and_a_wrong_name_are_one_line_each(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="CIFAR10_ROOT"):
        load_data("cifar10", tmp_path)
    with pytest.raises(UserError, match="Did you mean 'photos'"):
        load_data("photo")


def test_without_copy_and_network_the_photos_step_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CIFAR10_ROOT", raising=False)
    monkeypatch.delenv("DATASET", raising=False)
    monkeypatch.setattr(official, "ROOT", tmp_path)

    def offline(*args: object, **kwargs: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(official, "urlopen", offline)
    data = load_data()
    assert data.name == "photos" and data.notice.count("no network") == 4 and "<" not in data.notice
    with pytest.raises(UserError, match="DATASET=photos"):
        load_data("cifar10")
    monkeypatch.setenv("DATASET", "photos")
    assert "asked for by name" in load_data().notice
