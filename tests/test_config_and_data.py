"""Settings check themselves; the data are what they are said to be, and the splits never overlap."""

import dataclasses
from pathlib import Path

import pytest
import torch

from helpers import data as data_module
from helpers.config import ROOT, Settings, UserError, asked_settings, out_dir, profile_settings, write_whole
from helpers.data import augment, batches, load_data, photo_bands, squares, stratified_split, to_bytes, to_unit

from .conftest import assert_one_line_error, run_module


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"epochs": 0}, "epochs"), ({"epochs": 1.5}, "float"), ({"lr": -1.0}, "lr"), ({"beta": float("nan")}, "beta"),
        ({"model": "vea"}, "Did you mean 'vae'"), ({"width": 12}, "multiple"), ({"label_smoothing": 1.0}, "smoothing"),
        ({"epoch": 3}, "Did you mean 'epochs'"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_refused_with_its_name(change: dict, word: str) -> None:
    with pytest.raises(UserError, match=word):
        profile_settings("full", **change)


def test_settings_survive_json_and_name_their_differences() -> None:
    settings = profile_settings("smoke", seed=3)
    assert Settings.from_dict(settings.as_dict()) == settings
    assert settings.difference(dataclasses.replace(settings, epochs=9)) == "epochs 2 -> 9"


def test_changed_settings_never_write_into_the_published_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VAE_OUTS", raising=False)
    assert out_dir(asked_settings("full", "vae", "cifar10")) == ROOT / "outs" / "exercise_03"
    assert out_dir(asked_settings("full", "vae", "photos")) == ROOT / "outs" / "photos"
    assert out_dir(asked_settings("full", "vae", "cifar10", epochs=1)) == ROOT / "outs" / "scratch"


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b.txt"
    write_whole(target, "one")
    with pytest.raises(UserError, match="cannot write"):
        write_whole(target / "c.txt", "two")
    assert target.read_text() == "one" and [p.name for p in target.parent.iterdir()] == ["b.txt"]


def test_cifar10_has_the_known_sizes_and_statistics(cifar10: data_module.Dataset) -> None:
    assert [len(part) for part in cifar10.splits.values()] == [45_000, 5_000, 10_000]
    for part, each in zip(cifar10.splits.values(), (4_500, 500, 1_000), strict=True):
        assert part.labels.bincount().tolist() == [each] * 10
    official = torch.cat([cifar10.train.images, cifar10.validation.images]).double() / 255
    expected = [0.49139968, 0.48215841, 0.44653091], [0.24703223, 0.24348513, 0.26158784]
    assert official.mean((0, 2, 3)).tolist() == pytest.approx(expected[0], abs=1e-7)
    deviation = official.permute(1, 0, 2, 3).flatten(1).std(1, correction=0)
    assert deviation.tolist() == pytest.approx(expected[1], abs=1e-7)


def test_train_and_validation_are_a_partition() -> None:
    labels = torch.arange(10).repeat(50)
    train, validation = stratified_split(labels)
    assert sorted(torch.cat([train, validation]).tolist()) == list(range(500))
    assert labels[validation].bincount().tolist() == [5] * 10


def test_no_seed_of_a_run_changes_the_split() -> None:
    labels = torch.arange(10).repeat(50)
    torch.manual_seed(1)
    first = stratified_split(labels)
    torch.manual_seed(2)
    assert all(torch.equal(a, b) for a, b in zip(first, stratified_split(labels), strict=True))


def test_photos_come_from_disjoint_regions_and_repeat(photos: data_module.Dataset) -> None:
    bands = list(photo_bands(400).values())
    assert all(a.stop <= b.start for a, b in zip(bands, bands[1:], strict=False))
    again = load_data("photos")
    assert torch.equal(again.train.images, photos.train.images)
    known = {image.numpy().tobytes() for image in photos.train.images}
    assert not any(image.numpy().tobytes() in known for image in photos.test.images)
    assert len(photos.class_names) == 10 and "Not CIFAR-10" in photos.notice


def test_batches_drop_no_image_and_shuffle_by_their_own_generator(photos: data_module.Dataset) -> None:
    seen = [labels for _, labels in batches(photos.validation, 64)]
    assert torch.equal(torch.cat(seen), photos.validation.labels) and len(seen[-1]) == len(photos.validation) % 64
    orders = [[y.tolist() for _, y in batches(photos.validation, 64, order=torch.Generator().manual_seed(0))]] * 2
    assert orders[0] == orders[1] and sum(orders[0], []) != photos.validation.labels.tolist()


def test_one_scaling_and_its_inverse() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    x = to_unit(levels)
    assert x.min() == 0 and x.max() == 1 and torch.equal(to_bytes(x), levels)
    with pytest.raises(ValueError, match="must lie in"):
        to_bytes(x - 0.5)


def test_augmentation_moves_pixels_and_invents_none() -> None:
    x = torch.rand(64, 3, 32, 32)
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(augment(x, generator, translate=0, flip=False), x)
    moved = augment(x, generator)
    assert moved.shape == x.shape and not torch.equal(moved, x)
    for before, after in zip(x, moved, strict=True):
        assert torch.isin(after, before).all()


def test_flips_hit_about_half_of_the_images() -> None:
    x = torch.rand(400, 1, 8, 8)
    flipped = augment(x, torch.Generator().manual_seed(0), translate=0)
    share = (flipped == x.flip(3)).all((1, 2, 3)).float().mean()
    assert 0.4 < share < 0.6


def test_cutout_hides_one_square_of_every_image() -> None:
    hidden = squares(50, 8, 32, torch.Generator().manual_seed(0))
    assert hidden.shape == (50, 1, 32, 32) and (hidden.sum((2, 3)) == 64).all()  # 8 x 8 pixels
    assert (hidden.any(3).sum(2) == 8).all() and (hidden.any(2).sum(2) == 8).all()  # as one square
    assert len({tuple(rows.nonzero().flatten().tolist()) for rows in hidden[:, 0].any(2)}) > 5  # not always the same


def test_a_corrupt_file_is_named_and_nothing_is_used(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(b"not the data")
    done = run_module("helpers.evaluate", CIFAR10_ROOT=str(tmp_path), DATASET="")
    assert_one_line_error(done, "data_batch_1", "corrupt")


def test_a_wrong_root_and_a_wrong_name_are_one_line_each(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="CIFAR10_ROOT"):
        load_data("cifar10", tmp_path)
    with pytest.raises(UserError, match="Did you mean 'photos'"):
        load_data("photo")


def test_without_copy_and_network_the_photos_step_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CIFAR10_ROOT", raising=False)
    monkeypatch.delenv("DATASET", raising=False)
    monkeypatch.setattr(data_module, "ROOT", tmp_path)

    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", offline)
    found = load_data()
    assert found.name == "photos" and "no network" in found.notice
    with pytest.raises(UserError, match="DATASET=photos"):
        load_data("cifar10")
