"""The data are what they are said to be, the splits never overlap, and augmentation invents no pixels."""

import pytest
import torch

from helpers.data import (
    Augmentation,
    Dataset,
    Draws,
    batches,
    in_batches,
    stratified_split,
    to_bytes,
    to_unit,
)
from helpers.settings import profile_settings


def test_train_and_validation_are_a_partition_that_no_seed_changes() -> None:
    labels = torch.arange(10).repeat(50)
    torch.manual_seed(1)
    train, validation = stratified_split(labels)
    assert sorted(torch.cat([train, validation]).tolist()) == list(range(500))
    assert labels[validation].bincount().tolist() == [5] * 10
    torch.manual_seed(2)
    assert torch.equal(stratified_split(labels)[0], train)


def test_batches_drop_no_image_and_shuffle_by_their_own_generator(photos: Dataset) -> None:
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


def test_what_is_computed_in_batches_comes_back_whole_and_in_its_form(photos: Dataset) -> None:
    images = photos.test.images[:230]  # two full batches and a short one
    x = to_unit(images)
    assert torch.equal(in_batches(lambda part: part.mean(1), images), x.mean(1))
    pair = in_batches(lambda part: {"sum": part.sum((1, 2, 3)), "first": (part[:, 0, 0, 0] * 255).long()}, images)
    assert torch.allclose(pair["sum"], x.sum((1, 2, 3))) and torch.equal(pair["first"], images[:, 0, 0, 0].long())
    assert in_batches(lambda part: part.mean(1), images[:0]).shape == (0, 32, 32)
    named = in_batches(lambda part: Draws(part, part[:, 0], part[:, 1]), images)
    assert isinstance(named, Draws) and torch.equal(named.shift, x[:, 0])


def augmented(x: torch.Tensor, augmentation: Augmentation, seed: int = 0) -> torch.Tensor:
    return augmentation.apply(x, augmentation.draw(len(x), 32, torch.Generator().manual_seed(seed)))[0]


def test_augmentation_moves_pixels_and_invents_none() -> None:
    x = torch.rand(64, 3, 32, 32)
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    nothing = Augmentation()
    assert nothing.apply(x, nothing.draw(64, 32, generator)) == (x, None)
    assert torch.equal(generator.get_state(), before), "what is switched off draws nothing"
    moved = augmented(x, Augmentation(translate=2, flip=True))
    assert moved.shape == x.shape and not torch.equal(moved, x)
    for image, after in zip(x, moved, strict=True):
        assert torch.isin(after, image).all()


def test_flips_hit_about_half_of_the_images() -> None:
    x = torch.rand(400, 1, 32, 32)
    share = (augmented(x, Augmentation(flip=True)) == x.flip(3)).all((1, 2, 3)).float().mean()
    assert 0.4 < share < 0.6


def test_a_part_of_a_batch_is_augmented_as_in_the_whole_batch() -> None:
    """Many processes draw for all images of a batch and apply to theirs."""
    x, augmentation = torch.rand(33, 3, 32, 32), Augmentation(translate=3, flip=True, cutout=6)
    draws = augmentation.draw(33, 32, torch.Generator().manual_seed(1))
    moved, hidden = augmentation.apply(x, draws)
    for part in (slice(0, 17), slice(17, 33)):
        mine, covered = augmentation.apply(x[part], Draws(*(values[part] for values in draws)))
        assert torch.equal(mine, moved[part]) and torch.equal(covered, hidden[part])


def test_cutout_hides_one_square_of_every_image() -> None:
    augmentation = Augmentation(cutout=8)
    draws = augmentation.draw(50, 32, torch.Generator().manual_seed(0))
    _, hidden = augmentation.apply(torch.rand(50, 3, 32, 32), draws)
    assert hidden.shape == (50, 1, 32, 32) and (hidden.sum((2, 3)) == 64).all()  # 8 x 8 pixels
    assert (hidden.any(3).sum(2) == 8).all() and (hidden.any(2).sum(2) == 8).all()  # as one square
    assert len({tuple(rows.nonzero().flatten().tolist()) for rows in hidden[:, 0].any(2)}) > 5  # not always the same


def test_the_largest_settings_that_are_allowed_move_and_hide(photos: Dataset) -> None:
    largest = profile_settings(translate=31, cutout=32, seed=2**31 - 1)
    augmentation = Augmentation(largest.translate, largest.flip, largest.cutout)
    x = torch.rand(8, 3, 32, 32)
    moved, hidden = augmentation.apply(
        x, augmentation.draw(8, 32, torch.Generator().manual_seed(10 * largest.seed + 3))
    )
    assert moved.shape == x.shape and hidden.all()


def test_classes_that_a_short_run_does_not_see_are_not_present(photos: Dataset) -> None:
    assert photos.present == dict(enumerate(photos.class_names))
    few = photos.limited(12, 12)
    seen = set(few.train.labels.tolist()) & set(few.test.labels.tolist())
    assert 0 < len(seen) < 10 and few.present == {label: photos.class_names[label] for label in sorted(seen)}
