"""Images of yours, 32 x 32 pixels each, below a PATH that counts from the repository root.

"folder:PATH" is PATH/CLASS/*.png, or PATH/train/CLASS/*.png and PATH/test/CLASS/*.png; without a test folder a
stratified tenth is for testing, and of the rest a tenth for validation, always the same. What file managers leave there
is passed over. "array:PATH" is what `python -m helpers arrays SOURCE PATH` writes: only batches come into memory.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..data import SPLITS, Dataset, Split, stratified_split
from ..engine import ROOT, UserError
from ..engine.pictures import read_picture

SHAPE = (3, 32, 32)
# How names begin that no user gave: hidden ones, resource forks of macOS, thumbnails and bins of other systems.
IGNORED = (".", "__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")
MARKUP = str.maketrans({"<": "‹", ">": "›", "$": r"\$"})  # what would open a tag or a formula
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
    try:
        apart = all((folder / half).is_dir() for half in ("train", "test"))
        listed = [_listed(folder / half) for half in ("train", "test")] if apart else [_listed(folder)]
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} is not a folder with one subfolder of images per class ({error})") from None
    (names, rest), (test_names, test) = listed[0], listed[-1]
    if test_names != names:
        raise UserError(f"{folder}/train and {folder}/test have different classes; give them the same subfolders")
    if apart:
        test = test.take(torch.randperm(len(test.paths), generator=torch.Generator().manual_seed(0)))
    elif set(names) <= {"train", "val", "valid", "validation"}:
        raise UserError(f"{folder} has no folder test beside {', '.join(names)}; call the images for testing test")
    else:
        rest, test = (rest.take(index) for index in stratified_split(rest.labels))
    fitting, validation = (rest.take(index) for index in stratified_split(rest.labels))
    parts = dict(zip(SPLITS, (fitting, validation, test), strict=True))
    for split, files in parts.items():
        if missing := set(range(len(names))) - set(files.labels.tolist()):
            raise UserError(f"{folder}: no image of {names[min(missing)]!r} is left for {split}; give it 7 or more")
    return plain_names(names), parts


def _listed(folder: Path) -> tuple[tuple[str, ...], ImageFiles]:
    """The subfolders in alphabetical order and what torchvision's ImageFolder would find in them."""
    from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

    def wanted(path: str) -> bool:
        parts = Path(path).relative_to(folder).parts
        return path.lower().endswith(IMG_EXTENSIONS) and not any(part.startswith(IGNORED) for part in parts)

    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(IGNORED))
    samples = make_dataset(str(folder), {name: label for label, name in enumerate(names)}, is_valid_file=wanted)
    paths = np.array([path for path, _ in samples], dtype=object)
    return tuple(names), ImageFiles(paths, torch.tensor([label for _, label in samples]))


def plain_names(names: Iterable[str]) -> tuple[str, ...]:
    """Names of classes as captions, tables and pages can hold them: printable, short, without markup, each once."""
    plain: dict[str, str] = {}
    for name in names:
        text = "".join(letter if letter.isprintable() else "?" for letter in name).translate(MARKUP)
        text = text if len(text) <= 32 else f"{text[:31]}…"
        while text.replace(".", "_") in plain:  # dots become _ in the names of metrics
            text += " (2)"
        plain[text.replace(".", "_")] = text
    return tuple(plain.values())


def read_image_files(paths: np.ndarray) -> np.ndarray:
    """Image files -> uint8 (n, 3, 32, 32). Raises UserError naming the first that is damaged or of another size."""
    images = np.empty((len(paths), *SHAPE), np.uint8)
    for number, path in enumerate(paths):
        pixels = read_picture(Path(path)).transpose(2, 0, 1)
        if pixels.shape != SHAPE:
            raise UserError(f"{path} has {pixels.shape[2]} x {pixels.shape[1]} pixels, not 32 x 32; resize the images")
        images[number] = pixels
    return images


def load_arrays(place: str | Path) -> Dataset:
    """What `store_arrays` has written, its images mapped and not read. Raises UserError naming a bad file."""
    folder = ROOT / place
    try:
        names = json.loads((folder / "classes.json").read_text(encoding="utf-8"))
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise ValueError("it must hold strings")
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder}/classes.json is no list of names ({error}); {WRITE}") from None
    splits: list[Split] = []
    for split in SPLITS:
        images = _array(folder / f"{split}_images.npy", np.uint8, SHAPE)
        labels = _array(folder / f"{split}_labels.npy", np.int64, ())
        if not 0 < len(images) == len(labels) or not np.isin(labels, range(len(names))).all():
            raise UserError(f"{folder}: its {split} images, labels and {len(names)} classes do not match; {WRITE}")
        splits.append(Split(torch.from_numpy(images), torch.from_numpy(labels)))
    train, validation, test = splits
    return Dataset(f"array:{place}", plain_names(names), train, validation, test)


def _array(path: Path, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    try:  # copy-on-write, because torch wants memory that it could write to; nothing is ever written
        array = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} cannot be read ({error}); {WRITE}") from None
    if array.dtype != dtype or array.shape != (len(array), *shape):
        raise UserError(f"{path} is {array.dtype} {array.shape}, not {np.dtype(dtype)} {('n', *shape)}; {WRITE}")
    return array
