"""Images of yours: folders with one subfolder per class, and arrays that need not fit into memory.

    dataset = "folder:PATH"        PATH/CLASS/*.png, or PATH/train/CLASS/*.png and PATH/test/CLASS/*.png
    dataset = "array:PATH"         what the next line has written: mapped from disk, only batches come into memory
    python -m helpers.folders folder:PATH PATH2        also of a known data set, such as cifar10

All images have 32 x 32 pixels. Without a test folder a stratified tenth is for testing, and of the rest a tenth for
validation; the division is the same every time. A relative PATH counts from the repository root.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .config import ROOT, UserError, program, write_whole
from .data import SPLITS, Dataset, Split, load_data, stratified_split

SHAPE = (3, 32, 32)
CHUNK = 10_000  # images that are written at a time


class Files(NamedTuple):
    """Image files (k) and their labels (k,) int64."""

    paths: list[str]
    labels: Tensor

    def take(self, index: Tensor) -> "Files":
        """Those at `index` (j,), in that order."""
        return Files([self.paths[i] for i in index.tolist()], self.labels[index])


def load_folder(place: str | Path) -> Dataset:
    """A torchvision-style ImageFolder of 32 x 32 images, in memory. Raises UserError naming what is wrong."""
    names, parts = find_files(ROOT / place)
    splits = [Split(torch.from_numpy(read_images(part.paths)), part.labels) for part in parts.values()]
    return Dataset(f"folder:{place}", names, *splits)


def find_files(folder: Path) -> tuple[tuple[str, ...], dict[str, Files]]:
    """The names of the classes and the files of the three splits. Raises UserError on what cannot be divided."""
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        names, rest = _listed(folder / "train")
        others, test = _listed(folder / "test")
        if others != names:
            raise UserError(f"{folder}/train and {folder}/test have different classes; give them the same subfolders")
        test = test.take(torch.randperm(len(test.paths), generator=torch.Generator().manual_seed(0)))
    else:
        names, every = _listed(folder)
        kept, held = stratified_split(every.labels)
        rest, test = every.take(kept), every.take(held)
    fitted, validation = stratified_split(rest.labels)
    found = dict(zip(SPLITS, (rest.take(fitted), rest.take(validation), test), strict=True))
    for split, files in found.items():
        if missing := sorted(set(range(len(names))) - set(files.labels.tolist())):
            name = names[missing[0]]
            raise UserError(f"{folder}: no image of class {name!r} is left for {split}; add images of it")
    return names, found


def _listed(folder: Path) -> tuple[tuple[str, ...], Files]:
    from torchvision.datasets import ImageFolder

    try:
        found = ImageFolder(folder)
    except OSError as error:
        raise UserError(f"{folder} is not a folder with one subfolder of images per class ({error})") from None
    paths, labels = zip(*found.samples, strict=True)
    return tuple(found.classes), Files(list(paths), torch.tensor(labels))


def read_images(paths: list[str]) -> np.ndarray:
    """Image files -> uint8 (n, 3, 32, 32). Raises UserError naming the first that is damaged or of another size."""
    from PIL import Image

    images = np.empty((len(paths), *SHAPE), np.uint8)
    for number, path in enumerate(paths):
        try:
            with Image.open(path) as opened:
                size, pixels = opened.size, opened.convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(f"{path} cannot be read as an image ({error}); repair or remove it") from None
        if size != SHAPE[1:]:
            raise UserError(f"{path} has {size[0]} x {size[1]} pixels, not 32 x 32; resize the images first")
        images[number] = np.asarray(pixels).transpose(2, 0, 1)
    return images


def load_arrays(place: str | Path) -> Dataset:
    """The data set that `store` has written, its images mapped and not read. Raises UserError naming a bad file."""
    folder = ROOT / place
    try:
        names = tuple(json.loads((folder / "classes.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        reason = f"{folder}/classes.json cannot be read ({error})"
        raise UserError(f"{reason}; `python -m helpers.folders` writes it") from None
    if not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"{folder}/classes.json must be a list of names")
    return Dataset(f"array:{place}", names, *(_mapped(folder, split, len(names)) for split in SPLITS))


def _mapped(folder: Path, split: str, n_classes: int) -> Split:
    # Copy-on-write, because torch wants memory that it could write to; nothing is ever written.
    images = _array(folder / f"{split}_images.npy", np.uint8, SHAPE, mmap_mode="c")
    labels = _array(folder / f"{split}_labels.npy", np.int64, ())
    if len(images) != len(labels) or not len(labels):
        raise UserError(f"{folder}: {len(images)} {split} images and {len(labels)} labels do not fit")
    if labels.min() < 0 or labels.max() >= n_classes:
        raise UserError(f"{folder}/{split}_labels.npy has labels outside 0..{n_classes - 1}")
    return Split(torch.from_numpy(images), torch.from_numpy(labels))


def _array(path: Path, dtype: type, shape: tuple[int, ...], mmap_mode: str | None = None) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} cannot be read ({error}); write it again with `python -m helpers.folders`") from None
    if array.dtype != dtype or array.ndim != 1 + len(shape) or array.shape[1:] != shape:
        wanted = ", ".join(("n", *map(str, shape)))
        raise UserError(f"{path} is {array.dtype} {array.shape}, not {np.dtype(dtype)} ({wanted})")
    return array


def store(name: str, folder: Path) -> dict[str, int]:
    """Write a data set as arrays, a chunk at a time: images that lie in files are never all in memory.

    Returns the number of images by split. classes.json comes last: a folder without it is not whole.
    """
    kind, _, place = name.partition(":")
    if kind == "folder":
        names, files = find_files(ROOT / place)
        labels = {split: part.labels for split, part in files.items()}
        chunks = {split: map(read_images, _pieces(part.paths)) for split, part in files.items()}
    else:
        data = load_data(name)
        names, labels = data.class_names, {split: part.labels for split, part in data.splits.items()}
        chunks = {split: (i.numpy() for i in part.images.split(CHUNK)) for split, part in data.splits.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "classes.json").unlink(missing_ok=True)
        for split in SPLITS:
            np.save(folder / f"{split}_labels.npy", labels[split].numpy())
            _write(folder / f"{split}_images.npy", len(labels[split]), chunks[split])
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror}") from None
    write_whole(folder / "classes.json", json.dumps(names) + "\n")
    return {split: len(part) for split, part in labels.items()}


def _pieces(paths: list[str]) -> list[list[str]]:
    return [paths[first : first + CHUNK] for first in range(0, len(paths), CHUNK)]


def _write(path: Path, n: int, chunks: Iterable[np.ndarray]) -> None:
    # Written as a stream and not through a map: a full disk is then an error and not a bus error.
    header = {"descr": "|u1", "fortran_order": False, "shape": (n, *SHAPE)}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for chunk in chunks:
            file.write(np.ascontiguousarray(chunk).tobytes())


def main(argv: list[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="helpers.folders", description="Store a data set as memory-mapped arrays.")
    parser.add_argument("dataset", help="such as folder:PATH")
    parser.add_argument("out", type=Path, help="the folder to write")
    options = parser.parse_args(argv)
    counts = ", ".join(f"{count:,} {split}" for split, count in store(options.dataset, options.out).items())
    print(f"{counts} images; use them as dataset = array:{options.out}")


if __name__ == "__main__":
    program(main)
