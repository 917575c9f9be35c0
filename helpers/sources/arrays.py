"""Write any data set as arrays, for "array:PATH": images that lie in files are never all in memory."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from ..data import SPLITS
from ..engine.files import ROOT, cannot_write, write_whole
from . import load_data
from .folders import SHAPE, find_files, read_image_files

CHUNK = 10_000  # images that are written at a time


def store_arrays(name: str, folder: Path) -> dict[str, int]:
    """Write the data set `name` into `folder`; the number of images by split. UserError when that is impossible."""
    chunks: dict[str, Iterable[np.ndarray]]
    if name.startswith("folder:"):
        names, files = find_files(ROOT / name.removeprefix("folder:"))
        labels = {split: part.labels for split, part in files.items()}
        pieces = {split: np.split(part.paths, range(CHUNK, len(part.paths), CHUNK)) for split, part in files.items()}
        chunks = {split: map(read_image_files, paths) for split, paths in pieces.items()}
    else:
        data = load_data(name)
        names, labels = data.class_names, {split: part.labels for split, part in data.splits.items()}
        chunks = {split: (i.numpy() for i in part.images.split(CHUNK)) for split, part in data.splits.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "classes.json").unlink(missing_ok=True)  # written last: a folder without it is incomplete
        for split in SPLITS:
            np.save(folder / f"{split}_labels.npy", labels[split].numpy())
            header = {"descr": "|u1", "fortran_order": False, "shape": (len(labels[split]), *SHAPE)}
            with open(folder / f"{split}_images.npy", "wb") as file:  # not mapped: a full disk would be a bus error
                np.lib.format.write_array_header_1_0(file, header)
                file.writelines(chunk.tobytes() for chunk in chunks[split])
    except OSError as error:
        raise cannot_write(folder, error) from None
    write_whole(folder / "classes.json", json.dumps(names) + "\n")
    return {split: len(part) for split, part in labels.items()}


def arrays(
    source: Annotated[str, typer.Argument(help="a data set, such as folder:PATH or cifar10")],
    out: Annotated[Path, typer.Argument(help="the folder to write")],
) -> None:
    """Store a data set as memory-mapped arrays."""
    counts = ", ".join(f"{count:,} {split}" for split, count in store_arrays(source, out).items())
    print(f"{counts} images; use them as dataset = array:{out}")
