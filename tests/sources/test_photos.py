"""The photos are always the same, and their splits never overlap."""

import torch

from helpers.data import Dataset
from helpers.sources import load_data
from helpers.sources.photos import photo_bands


def test_photos_come_from_disjoint_regions_and_repeat(photos: Dataset) -> None:
    bands = list(photo_bands(400).values())
    assert all(a.stop <= b.start for a, b in zip(bands, bands[1:], strict=False))
    again = load_data("photos")
    assert torch.equal(again.train.images, photos.train.images)
    known = {image.numpy().tobytes() for image in photos.train.images}
    assert not any(image.numpy().tobytes() in known for image in photos.test.images)
    assert len(photos.class_names) == 10 and "Not CIFAR-10" in photos.notice
