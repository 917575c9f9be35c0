"""Where images come from: one loader for each kind of source, and `load_data`, which chooses by name."""

import os
from pathlib import Path

from ..data import Dataset
from ..engine.errors import UserError
from ..settings import check_dataset
from .folders import load_arrays, load_folder
from .official import COPIES, load_official
from .photos import load_photos

# Images: two more than the 128 components of the linear code; two for a standard error; a rank test for copied ones.
LEAST, COUNTS = (2, 130, 2, 20), "{} classes, {} training, {} validation and {} test images"


def load_data(name: str = "auto", root: str | Path | None = None) -> Dataset:
    """The data set by name (see `check_dataset`); "auto": $DATASET, else CIFAR-10 where it can be had, else photos."""
    asked = os.environ.get("DATASET", "") if name == "auto" else name
    kind, _, place = asked.partition(":")
    try:
        check_dataset(asked or "cifar10")
    except ValueError as error:
        raise UserError(str(error)) from None
    if place:
        data = load_folder(place) if kind == "folder" else load_arrays(place)
        counts = (len(data.class_names), *map(len, data.splits.values()))
        if any(n < least for n, least in zip(counts, LEAST, strict=True)):
            found, least = (COUNTS.format(*some) for some in (counts, LEAST))
            raise UserError(f"{data.name} has {found}; the least is {least}: about 200 images before they are divided")
        return data
    try:
        return load_photos("asked for by name") if asked == "photos" else load_official(asked or "cifar10", root)
    except ConnectionError as error:
        if asked:
            raise UserError(f"{error}. Put its archive in data/, set {COPIES}, or use DATASET=photos") from None
        return load_photos(str(error))
