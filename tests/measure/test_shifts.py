"""Corrupted and foreign images are what their names say, and the scores that tell them apart are the published ones."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from helpers.data import Dataset
from helpers.measure import shifts


def images(n: int = 6) -> Tensor:
    return torch.randint(256, (n, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize("kind", shifts.CORRUPTIONS)
def test_corruptions_keep_the_form_repeat_and_grow_with_severity(kind: str, photos: Dataset) -> None:
    some = photos.test.images[:40]
    errors = []
    for severity in shifts.SEVERITIES:
        changed = shifts.CORRUPTIONS[kind](some, severity)
        assert changed.shape == some.shape and changed.dtype == torch.uint8
        errors.append((changed.float() - some.float()).square().mean().item())
    assert errors == sorted(errors) and errors[0] > 0
    assert torch.equal(changed, shifts.CORRUPTIONS[kind](some, 5))


def test_corruptions_do_what_their_names_say() -> None:
    grey = torch.full((50, 3, 32, 32), 128, dtype=torch.uint8)
    noise = shifts.gaussian_noise(grey, 5).float().std().item() / 255
    assert noise == pytest.approx(0.10, rel=0.02)
    assert torch.equal(shifts.defocus_blur(grey, 5), grey) and torch.equal(shifts.contrast(grey, 5), grey)
    less = shifts.contrast(images(), 5).float().std() / images().float().std()
    assert less.item() == pytest.approx(0.15, abs=0.01)


def test_foreign_sets_keep_what_they_should(photos: Dataset) -> None:
    some = photos.test.images[:10]
    sets = shifts.made_sets(some)
    assert all(made.shape == some.shape and made.dtype == torch.uint8 for made in sets.values())
    assert sets["constant"].float().flatten(2).std(2).max() == 0
    assert torch.equal(255 - sets["inverted"], some) and torch.equal(sets["upside_down"].flip(2), some)
    patches = sets["shuffled_patches"]
    assert torch.equal(patches.flatten(2).sort(2).values, some.flatten(2).sort(2).values)
    assert not torch.equal(patches, some)
    tiles = some[0].unfold(1, 8, 8).unfold(2, 8, 8).reshape(3, 16, 8, 8)
    assert any(torch.equal(patches[0, :, :8, :8], tiles[:, i]) for i in range(16))


def test_a_missing_copy_is_one_clear_line_and_nothing_is_fetched(tmp_path: Path) -> None:
    sets, missing = shifts.foreign_sets(10, [tmp_path])
    assert not sets and len(missing) == 2 and all("--download" in line for line in missing)
    assert not list(tmp_path.iterdir())


def test_a_file_of_noise_is_longer_than_one_of_a_constant() -> None:
    noise, constant = images(2), torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        assert shifts.file_bits(noise, kind, **options).min() > 20 * shifts.file_bits(constant, kind, **options).max()


def test_the_corrected_score_takes_the_file_off_the_bits() -> None:
    seen = {name: torch.tensor([value]) for name, value in
            {"bpd": 6.0, "mse": 0.1, "confidence": 0.9, "png": 5.5, "webp": 4.5}.items()}  # fmt: skip
    scores = shifts.outlier_scores(seen, usual_bpd=6.25)
    assert scores["elbo_minus_png"].item() == 0.5 and scores["elbo_minus_webp"].item() == 1.5
    assert scores["typicality"].item() == 0.25 and scores["confidence"].item() == pytest.approx(-0.9)


def test_pictures_of_cifar100_in_a_folder_are_a_foreign_set(photos: Dataset, tmp_path: Path) -> None:
    for number, image in enumerate(photos.test.images[:6].permute(0, 2, 3, 1).numpy()):
        place = tmp_path / "cifar-100-test" / f"class{number % 2}" / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place)
    sets, missing = shifts.foreign_sets(4, [tmp_path])
    known = {image.numpy().tobytes() for image in photos.test.images[:6]}
    assert list(sets) == ["cifar100"] and len({image.numpy().tobytes() for image in sets["cifar100"]} & known) == 4
    assert len(missing) == 1 and missing[0].startswith("svhn")
