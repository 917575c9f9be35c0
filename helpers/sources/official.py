"""Published data sets, read by torchvision and fetched from the first good source: CIFAR-10, CIFAR-100 and SVHN."""

import http.client
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from ..data import Dataset, as_split, stratified_split
from ..engine import HINTS, ROOT, UserError, bar, cannot_write

COPIES = "CIFAR10_ROOT"  # the environment variable that names the folder with copies of these data sets, whichever
MIRRORS = json.loads(Path(__file__).with_name("mirrors.json").read_text(encoding="utf-8"))
PATIENCE = 20.0  # seconds: so long may a source be silent, and then its mean speed is judged
LEAST_SPEED = 200_000  # bytes per second


class Official(NamedTuple):
    """How torchvision knows a data set."""

    reader: Any  # its class
    title: str
    labels: str  # the name of the attribute with the labels
    files: dict[str, str]  # paths below the folder of copies and their md5 sums
    downloads: Mapping[str, tuple[str, Sequence[str]]]  # md5 and sources of what is fetched: an archive, or the files
    parts: tuple[dict[str, Any], dict[str, Any]]  # arguments that ask for the training and for the test images


def official(name: str) -> Official:
    """CIFAR-10, CIFAR-100 [Krizhevsky 2009] or SVHN, cropped digits [Netzer et al. 2011]."""
    from torchvision.datasets import CIFAR10, CIFAR100, SVHN

    if name == "svhn":
        lists = [SVHN.split_list[split] for split in ("train", "test")]
        files, fetched = {file: md5 for _, file, md5 in lists}, {file: (md5, (url,)) for url, file, md5 in lists}
        return Official(SVHN, "SVHN", "labels", files, fetched, ({"split": "train"}, {"split": "test"}))
    reader, title = (CIFAR10, "CIFAR-10") if name == "cifar10" else (CIFAR100, "CIFAR-100")
    known = [*reader.train_list, *reader.test_list, [reader.meta["filename"], reader.meta["md5"]]]
    files = {f"{reader.base_folder}/{file}": md5 for file, md5 in known}
    urls = [*(f"{place}/{reader.filename}" for place in MIRRORS[name]), reader.url]
    archive = {reader.filename: (reader.tgz_md5, urls)}
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
        obtain(source, ROOT / "data")
    except OSError as error:
        if error.errno in HINTS:  # photos would hide that the disk is full
            raise cannot_write(ROOT / "data", error) from None
        raise ConnectionError(f"{source.title} is not in data/ and could not be downloaded ({error})") from None
    return ROOT / "data"


def obtain(source: Official, folder: Path, *, test_alone: bool = False) -> None:
    """Download and unpack what is not there (of SVHN the `test_alone`), each whole or not at all; see `fetch`."""
    folder.mkdir(parents=True, exist_ok=True)
    base = next(iter(source.files)).split("/")[0]
    for file, (md5, urls) in [*source.downloads.items()][-1 if test_alone else 0 :][::-1]:  # the first one last
        fetch(urls, folder / file, md5)
        if base not in source.files and not (folder / base).exists():
            with TemporaryDirectory(dir=folder) as unpacked:
                shutil.unpack_archive(folder / file, unpacked)
                check_md5(Path(unpacked), source)
                os.replace(Path(unpacked) / base, folder / base)


def fetch(urls: Sequence[str], path: Path, md5: str) -> None:
    """Make a file from the first source that sends it whole. UserError: another one lies there; ConnectionError: none.

    A source is left for the next one when it is silent for PATIENCE seconds, is slower than LEAST_SPEED after as many
    seconds, or sends another file. The last one may take its time: it may be the reader's own line that is slow.
    """
    from torchvision.datasets.utils import calculate_md5

    if path.exists():
        if (found := calculate_md5(path)) != md5:
            raise UserError(f"{path} has the md5 {found}, not {md5}; move it away, or unpack it there yourself")
        return
    reasons: list[str] = []
    with TemporaryDirectory(dir=path.parent) as place:
        for url in urls:
            try:
                receive(url, part := Path(place) / path.name, LEAST_SPEED if url != urls[-1] else 0)
                if (found := calculate_md5(part)) != md5:
                    raise ConnectionError(f"sent a file with the md5 {found}")
                os.replace(part, path)
                return
            except (OSError, http.client.HTTPException) as error:
                if getattr(error, "errno", None) in HINTS:  # of this machine, not of the source
                    raise
                reasons.append(f"{urlsplit(url).netloc}: {str(error).strip('<>')}")  # a notice is Markdown
                print(reasons[-1])
    raise ConnectionError("; ".join(reasons))


def receive(url: str, path: Path, least: int) -> None:
    """Write what a source sends into a file, behind a bar. OSError: it is silent for PATIENCE seconds, or too slow."""
    started = time.monotonic()
    with urlopen(Request(url, headers={"User-Agent": "course"}), timeout=PATIENCE) as answer, path.open("wb") as file:
        with bar(None, urlsplit(url).netloc, answer.length, unit="B", unit_scale=True) as progress:
            while piece := answer.read1(1 << 16):  # what there is: `read` would wait for all of it, however slow
                progress.update(file.write(piece))
                if (seconds := time.monotonic() - started) > PATIENCE and file.tell() < least * seconds:
                    raise OSError(f"too slow ({file.tell():,} bytes in {seconds:.0f} seconds)")


def check_md5(folder: Path, source: Official) -> None:
    """Compare every file of the copy with torchvision's md5 sums. Raises UserError naming the first bad one."""
    from torchvision.datasets.utils import check_integrity

    for path, md5 in ((folder / name, md5) for name, md5 in source.files.items()):
        if not check_integrity(str(path), md5):
            state = "is corrupt (its md5 is wrong)" if path.is_file() else "is missing"
            raise UserError(f"{path} {state}; delete it and what lies beside it, and download {source.title} again")
