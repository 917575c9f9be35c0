"""Published data sets, read and downloaded by torchvision: CIFAR-10, CIFAR-100 and SVHN."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..data import Dataset, as_split, stratified_split
from ..engine import HINTS, ROOT, UserError, cannot_write

COPIES = "CIFAR10_ROOT"  # the environment variable that names the folder with copies of these data sets, whichever


class Official(NamedTuple):
    """How torchvision knows a data set."""

    reader: Any  # its class
    title: str
    labels: str  # the name of the attribute with the labels
    files: dict[str, str]  # paths below the folder of copies and their md5 sums
    downloads: dict[str, str]  # the same of what comes from the network: an archive, or the files themselves
    parts: tuple[dict[str, Any], dict[str, Any]]  # arguments that ask for the training and for the test images


def official(name: str) -> Official:
    """CIFAR-10, CIFAR-100 [Krizhevsky 2009] or SVHN, cropped digits [Netzer et al. 2011]."""
    from torchvision.datasets import CIFAR10, CIFAR100, SVHN

    if name == "svhn":
        files = {SVHN.split_list[split][1]: SVHN.split_list[split][2] for split in ("train", "test")}
        return Official(SVHN, "SVHN", "labels", files, files, ({"split": "train"}, {"split": "test"}))
    reader, title = (CIFAR10, "CIFAR-10") if name == "cifar10" else (CIFAR100, "CIFAR-100")
    known = [*reader.train_list, *reader.test_list, [reader.meta["filename"], reader.meta["md5"]]]
    files = {f"{reader.base_folder}/{file}": md5 for file, md5 in known}
    archive = {reader.filename: reader.tgz_md5}
    return Official(reader, title, "targets", files, archive, ({"train": True}, {"train": False}))


def load_official(name: str, root: str | Path | None = None) -> Dataset:
    """CIFAR-10, CIFAR-100 or SVHN, see `find_official`; a stratified tenth of the training images is for validation."""
    source, folder = official(name), find_official(name, root)
    fitted, held_out = (source.reader(folder, **part) for part in source.parts)
    train, test = (as_split(part.data, getattr(part, source.labels)) for part in (fitted, held_out))
    fitting, validation = stratified_split(train.labels)
    names = getattr(fitted, "classes", None) or [str(label) for label in train.labels.unique().tolist()]
    return Dataset(name, tuple(names), train.take(fitting), train.take(validation), test)


def find_official(name: str, root: str | Path | None = None) -> Path:
    """Intact files: in `root` or $CIFAR10_ROOT, data/, else a download. UserError: corrupt; ConnectionError: none."""
    source, given = official(name), root or os.environ.get(COPIES)
    first = next(iter(source.files)).split("/")[0]  # the folder of CIFAR, a file of SVHN
    for place in (ROOT / given if given else None, ROOT / "data"):
        if place and (place / first).exists():
            check_md5(place, source)
            return place
    if given and name == "cifar10":
        raise UserError(f"no folder {first} in {given}; set {COPIES} to the folder that holds it")
    try:
        with only_whole_downloads(source, ROOT / "data"):
            for part in source.parts:
                source.reader(ROOT / "data", download=True, **part)
    except (OSError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno in HINTS:  # photos would hide that the disk is full
            raise cannot_write(ROOT / "data", error) from None
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConnectionError(f"{source.title} is not in data/ and could not be downloaded ({reason})") from None
    return ROOT / "data"


@contextlib.contextmanager
def only_whole_downloads(source: Official, folder: Path) -> Iterator[None]:
    """Where a download fails in this block, its remains are removed. UserError: it would write over another file."""
    from torchvision.datasets.utils import calculate_md5

    names = {name.split("/")[0] for name in source.files | source.downloads}
    added = [folder / name for name in names if not (folder / name).exists()]
    for path, md5 in ((folder / name, md5) for name, md5 in source.downloads.items()):
        if path not in added and (found := calculate_md5(path)) != md5:
            raise UserError(f"{path} has the md5 {found}, not {md5}; move it away, or unpack it there yourself")
    try:
        yield
    except BaseException:  # also Ctrl-C
        for path in added:
            shutil.rmtree(path, ignore_errors=True)  # a folder
            path.unlink(missing_ok=True)  # a file
        raise


def check_md5(folder: Path, source: Official) -> None:
    """Compare every file of the copy with torchvision's md5 sums. Raises UserError naming the first bad one."""
    from torchvision.datasets.utils import check_integrity

    for path, md5 in ((folder / name, md5) for name, md5 in source.files.items()):
        if not check_integrity(str(path), md5):
            state = "is corrupt (its md5 is wrong)" if path.is_file() else "is missing"
            raise UserError(f"{path} {state}; delete it and what lies beside it, and download {source.title} again")
