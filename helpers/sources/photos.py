"""Ten photographs inside the scikit-image and scikit-learn wheels, cut into crops: for machines without network."""

from importlib import resources
from pathlib import PurePath

import numpy as np
from PIL import Image

from ..data import SPLIT_SEED, SPLITS, Dataset, Split, as_split
from ..engine.errors import UserError

PHOTOS = (  # packages and paths inside their wheels; a file's name is that of its class
    "skimage/data/astronaut.png", "skimage/data/chelsea.png", "skimage/data/coffee.png", "skimage/data/rocket.jpg",
    "skimage/data/hubble_deep_field.jpg", "skimage/data/retina.jpg", "skimage/data/ihc.png",
    "skimage/data/motorcycle_left.png", "sklearn/datasets/images/china.jpg", "sklearn/datasets/images/flower.jpg",
)  # fmt: skip
PHOTO_COUNTS = {"train": 400, "validation": 50, "test": 100}  # crops per photo
PHOTO_HEIGHT = 320  # photos are shrunk to this height, so that a 32x32 crop holds some structure


def load_photos(reason: str) -> Dataset:
    """Ten classes of 32x32 crops, each split from its own band of every photo; `reason` says why it is not CIFAR-10."""
    crops: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
    for number, place in enumerate(PHOTOS):
        photo, rng = _read_photo(place), np.random.default_rng([SPLIT_SEED, number])
        for split, band in photo_bands(photo.shape[1]).items():
            windows = np.lib.stride_tricks.sliding_window_view(photo[:, band], (32, 32), axis=(0, 1))
            places = rng.choice(windows.shape[0] * windows.shape[1], PHOTO_COUNTS[split], replace=False)
            crops[split].append(windows[np.unravel_index(places, windows.shape[:2])].transpose(0, 2, 3, 1))
    splits: list[Split] = []
    for rank, parts in enumerate(crops.values()):
        labels = np.repeat(np.arange(len(parts)), len(parts[0]))
        order = np.random.default_rng([SPLIT_SEED, 100 + rank]).permutation(len(labels))
        splits.append(as_split(np.concatenate(parts)[order], labels[order]))
    train, validation, test = splits
    notice = f"Not CIFAR-10: {reason}. These results are from 'photos', crops of ten photographs; "
    notice += "they say nothing about CIFAR-10."
    return Dataset("photos", tuple(PurePath(place).stem for place in PHOTOS), train, validation, test, notice)


def photos() -> dict[str, np.ndarray]:
    """The photographs themselves by name, PHOTO_HEIGHT pixels high, uint8 (h, w, 3)."""
    return {PurePath(place).stem: _read_photo(place) for place in PHOTOS}


def photo_bands(width: int) -> dict[str, slice]:
    """The columns of a photo that each split may use: 0-64 % train, 64-80 % validation, 80-100 % test."""
    first, second = round(0.64 * width), round(0.80 * width)
    return {"train": slice(0, first), "validation": slice(first, second), "test": slice(second, width)}


def _read_photo(place: str) -> np.ndarray:
    package, _, path = place.partition("/")
    try:
        with (resources.files(package) / path).open("rb") as file:
            photo = Image.open(file).convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{place} cannot be read ({error}); reinstall scikit-image and scikit-learn") from None
    return np.asarray(photo.resize((round(photo.width * PHOTO_HEIGHT / photo.height), PHOTO_HEIGHT)))
