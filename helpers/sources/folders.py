"""Images of yours, 32 x 32 pixels each, below a PATH that counts from the repository root.

"folder:PATH" is PATH/CLASS/*.png, or PATH/train/CLASS/*.png and PATH/test/CLASS/*.png; without a test folder a
stratified tenth is for testing, and of the rest a tenth for validation, always the same. "array:PATH" is what
`python -m helpers arrays SOURCE PATH` has written: only batches of it come into memory.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..data import SPLITS, Dataset, Split, stratified_split
from ..engine import ROOT, UserError

SHAPE = (3, 32, 32)
WRITE = "write it with `python -m helpers arrays SOURCE PATH`"


class ImageFiles(NamedTuple):
    """Image files (k,) and their labels (k,) int64."""

    paths: np.ndarray
    labels: Tensor

    def take(self, index: Tensor) -> "ImageFiles":
        """Those at `index` (j,), in that order."""
        return ImageFiles(self.paths[index.numpy()], self.labels[index])


def load_folder(place: str | Path) -> Dataset:
    """A torchvision-style ImageFolder of 32 x 32 images, in memory. Raises UserError naming what is wrong."""
    names, parts = find_files(ROOT / place)
    splits = (Split(torch.from_numpy(read_image_files(part.paths)), part.labels) for part in parts.values())
    train, validation, test = splits
    return Dataset(f"folder:{place}", names, train, validation, test)


def find_files(folder: Path) -> tuple[tuple[str, ...], dict[str, ImageFiles]]:
    """The names of the classes and the files of the three splits. Raises UserError on what cannot be divided."""
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        (names, rest), (test_names, test) = _listed(folder / "train"), _listed(folder / "test")
        if test_names != names:
            raise UserError(f"{folder}/train and {folder}/test have different classes; give them the same subfolders")
        test = test.take(torch.randperm(len(test.paths), generator=torch.Generator().manual_seed(0)))
    else:
        names, every = _listed(folder)
        rest, test = (every.take(index) for index in stratified_split(every.labels))
    fitting, validation = (rest.take(index) for index in stratified_split(rest.labels))
    parts = dict(zip(SPLITS, (fitting, validation, test), strict=True))
    for split, files in parts.items():
        if missing := set(range(len(names))) - set(files.labels.tolist()):
            raise UserError(f"{folder}: no image of {names[min(missing)]!r} is left for {split}; add images of it")
    return names, parts


def _listed(folder: Path) -> tuple[tuple[str, ...], ImageFiles]:
    from torchvision.datasets import ImageFolder

    try:
        listing = ImageFolder(folder)
    except OSError as error:
        raise UserError(f"{folder} is not a folder with one subfolder of images per class ({error})") from None
    paths = np.array([path for path, _ in listing.samples], dtype=object)
    return tuple(listing.classes), ImageFiles(paths, torch.tensor(listing.targets))


def read_image_files(paths: np.ndarray) -> np.ndarray:
    """Image files -> uint8 (n, 3, 32, 32). Raises UserError naming the first that is damaged or of another size."""
    images = np.empty((len(paths), *SHAPE), np.uint8)
    for number, path in enumerate(paths):
        try:
            pixels = np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(f"{path} cannot be read as an image ({error}); repair or remove it") from None
        if pixels.shape != SHAPE:
            raise UserError(f"{path} has {pixels.shape[2]} x {pixels.shape[1]} pixels, not 32 x 32; resize the images")
        images[number] = pixels
    return images


def load_arrays(place: str | Path) -> Dataset:
    """What `store_arrays` has written, its images mapped and not read. Raises UserError naming a bad file."""
    folder = ROOT / place
    try:
        names = json.loads((folder / "classes.json").read_text())
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise ValueError("it must hold strings")
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder}/classes.json is no list of names ({error}); {WRITE}") from None
    splits: list[Split] = []
    for split in SPLITS:
        images = _array(folder / f"{split}_images.npy", np.uint8, SHAPE)
        labels = _array(folder / f"{split}_labels.npy", np.int64, ())
        if len(images) != len(labels) or labels.min() < 0 or labels.max() >= len(names):
            raise UserError(f"{folder}: its {split} images, labels and {len(names)} classes do not match; {WRITE}")
        splits.append(Split(torch.from_numpy(images), torch.from_numpy(labels)))
    train, validation, test = splits
    return Dataset(f"array:{place}", tuple(names), train, validation, test)


def _array(path: Path, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    try:  # copy-on-write, because torch wants memory that it could write to; nothing is ever written
        array = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} cannot be read ({error}); {WRITE}") from None
    if array.dtype != dtype or array.shape != (len(array), *shape):
        raise UserError(f"{path} is {array.dtype} {array.shape}, not {np.dtype(dtype)} {('n', *shape)}; {WRITE}")
    return array
