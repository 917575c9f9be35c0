"""A data set as uint8 tensors, one fixed split, one scaling, one way to batch.

CIFAR-10, CIFAR-100 and SVHN by name, the embedded photos, or images of yours (see folders.py). The whole data set is
kept in memory as bytes, 3,072 an image, or mapped from a file; augmentation is tensor code on batches.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .config import HINTS, ROOT, UserError, cannot_write, check_dataset

SPLIT_SEED = 2026  # part of the definition of the data, so no run's seed changes it
VALIDATION_FRACTION = 0.1
SPLITS = ("train", "validation", "test")
EVALUATION_BATCH = 100  # larger ones are no faster: their tensors no longer fit into what glibc reuses


@dataclass(frozen=True)
class Split:
    """Images (n, 3, 32, 32) uint8 in 0..255 and labels (n,) int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor) -> "Split":
        """The images and labels at `index` (k,) int64 or bool (n,)."""
        return Split(self.images[index], self.labels[index])

    def head(self, n: int) -> "Split":
        """The first n images; 0 means all. The order of a split is random, so this is a random choice."""
        return self if n == 0 else Split(self.images[:n], self.labels[:n])


@dataclass(frozen=True)
class Dataset:
    """Three disjoint splits, the names of the classes, and a sentence that every reader must see (or "")."""

    name: str
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    notice: str = ""

    @property
    def splits(self) -> dict[str, Split]:
        """The three splits by name, in reading order."""
        return {name: getattr(self, name) for name in SPLITS}

    def limited(self, n_train: int, n_eval: int) -> "Dataset":
        """The first n_train / n_eval images of the splits; 0 keeps all."""
        parts = (self.train.head(n_train), self.validation.head(n_eval), self.test.head(n_eval))
        return Dataset(self.name, self.class_names, *parts, self.notice)


class Share(NamedTuple):
    """Which images of every batch a process handles: every `world`-th, from number `rank` on."""

    rank: int = 0
    world: int = 1

    def of(self, n: int) -> slice:
        """This process's places in a batch of n; a batch with fewer images than processes is for all of them."""
        return slice(self.rank, None, self.world) if n >= self.world else slice(None)


ALONE = Share()


def to_unit(images: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """uint8 0..255 -> float32 in [0, 1]. The only scaling in the project."""
    return images.to(device).float() / 255


def to_bytes(x: Tensor) -> Tensor:
    """float (n, 3, 32, 32) in [0, 1] -> the nearest uint8 level. Raises ValueError on another range."""
    if x.min() < 0 or x.max() > 1:
        raise ValueError(f"pixels must lie in [0, 1], found {x.min():.3f} to {x.max():.3f}")
    return (x * 255).round().to(torch.uint8)


def stratified_split(labels: Tensor, fraction: float = VALIDATION_FRACTION) -> tuple[Tensor, Tensor]:
    """Shuffled indices (train, validation) with the same share of every class, always the same ones."""
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    order = torch.randperm(len(labels), generator=generator)
    validation = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = order[labels[order] == label]
        validation[members[: round(fraction * len(members))]] = True
    return order[~validation[order]], order[validation[order]]


def batches(
    split: Split,
    batch_size: int = EVALUATION_BATCH,
    *,
    order: torch.Generator | None = None,
    device: torch.device | str = "cpu",
    share: Share = ALONE,
    start: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (x float (b, 3, 32, 32) in [0, 1], labels (b,)); shuffled by `order` when it is given.

    No image is dropped: the last batch may be short, so weight means over batches by b. The order is that of the whole
    batches, whatever the `share`; `start` batches are passed over.
    """
    n = len(split)
    index = torch.arange(n) if order is None else torch.randperm(n, generator=order)
    for whole in index.split(batch_size)[start:]:
        chosen = whole[share.of(len(whole))]
        yield to_unit(split.images[chosen], device), split.labels[chosen].to(device)


def augment(
    x: Tensor,
    generator: torch.Generator,
    *,
    translate: int = 2,
    flip: bool = True,
    drawn: int = 0,
    share: Share = ALONE,
) -> Tensor:
    """Mirror half of the images, shift each by up to `translate` pixels (reflected edges).

    x (n, 3, h, w) -> the same shape. One draw per image; `generator` lives on the CPU. When x is one process's `share`
    of a batch, draws are made for all `drawn` images of it, so that every process goes on with the same generator.
    """
    n, _, height, width = x.shape
    drawn, mine = drawn or n, share.of(drawn or n)
    if flip:
        mirrored = (torch.rand(drawn, generator=generator) < 0.5)[mine]
        x = torch.where(mirrored.to(x.device)[:, None, None, None], x.flip(3), x)
    if translate:
        dy, dx = torch.randint(0, 2 * translate + 1, (2, drawn, 1), generator=generator)[:, mine].to(x.device)
        rows = (dy + torch.arange(height, device=x.device))[:, :, None]
        columns = (dx + torch.arange(width, device=x.device))[:, None, :]
        image = torch.arange(n, device=x.device)[:, None, None]
        padded = F.pad(x, (translate,) * 4, mode="reflect").permute(0, 2, 3, 1)
        x = padded[image, rows, columns].permute(0, 3, 1, 2)
    return x


def squares(n: int, side: int, size: int, generator: torch.Generator, share: Share = ALONE) -> Tensor:
    """Cutout: one square of `side` pixels for each of n images of `size` pixels [DeVries & Taylor 2017].

    bool (n or this process's share of n, 1, size, size), True inside the square, which lies wholly inside the image. No
    square, no draw: a run without cutout sees the random numbers that it always saw.
    """
    if not side:
        return torch.zeros(n, 1, size, size, dtype=torch.bool)[share.of(n)]
    top, left = torch.randint(0, size - side + 1, (2, n, 1), generator=generator)[:, share.of(n)]
    place = torch.arange(size)
    rows, columns = ((place >= start) & (place < start + side) for start in (top, left))
    return rows[:, None, :, None] & columns[:, None, None, :]


def load_data(name: str = "auto", root: str | Path | None = None) -> Dataset:
    """The data set by name: "cifar10", "cifar100", "svhn", "photos", "folder:PATH", "array:PATH", or "auto".

    "auto" is `$DATASET`, or else CIFAR-10 where it can be had, or else photos. The first three are looked for in `root`
    or `$CIFAR10_ROOT`, then in data/, then downloaded into data/. Raises UserError on an unknown name, corrupt files or
    a missing explicit copy.
    """
    from .folders import load_arrays, load_folder

    name = os.environ.get("DATASET", "") or "auto" if name == "auto" else name
    kind, _, place = name.partition(":")
    if name != "auto":
        check_dataset(name)
    if name == "photos":
        return load_photos("asked for by name")
    if place:
        return {"folder": load_folder, "array": load_arrays}[kind](place)
    try:
        return load_official("cifar10" if name == "auto" else name, root)
    except ConnectionError as error:
        if name != "auto":
            raise UserError(f"{error}. Put a copy in data/, set CIFAR10_ROOT, or use DATASET=photos") from None
        return load_photos(str(error))


def load_cifar10(root: str | Path | None = None) -> Dataset:
    """The original CIFAR-10, split 45,000 / 5,000 / 10,000; see `load_official`."""
    return load_official("cifar10", root)


class Official(NamedTuple):
    """How torchvision knows a data set."""

    kind: Any  # its class
    title: str
    files: dict[str, str]  # paths below the root and their md5 sums
    parts: tuple[dict[str, Any], dict[str, Any]]  # arguments that ask for the training and for the test images


def official(name: str) -> Official:
    """CIFAR-10, CIFAR-100 [Krizhevsky 2009] or SVHN, cropped digits [Netzer et al. 2011]."""
    from torchvision.datasets import CIFAR10, CIFAR100, SVHN

    if name == "svhn":
        files = {SVHN.split_list[split][1]: SVHN.split_list[split][2] for split in ("train", "test")}
        return Official(SVHN, "SVHN", files, ({"split": "train"}, {"split": "test"}))
    kind, title = (CIFAR10, "CIFAR-10") if name == "cifar10" else (CIFAR100, "CIFAR-100")
    known = [*kind.train_list, *kind.test_list, [kind.meta["filename"], kind.meta["md5"]]]
    files = {f"{kind.base_folder}/{file}": md5 for file, md5 in known}
    return Official(kind, title, files, ({"train": True}, {"train": False}))


def load_official(name: str, root: str | Path | None = None) -> Dataset:
    """CIFAR-10, CIFAR-100 or SVHN, md5-checked; a stratified tenth of the training images is for validation.

    Raises UserError when a file is corrupt, ConnectionError when there is neither a copy nor a network.
    """
    about, folder = official(name), find_official(name, root)
    fitted, held_out = (about.kind(folder, **part) for part in about.parts)
    labelled = "labels" if name == "svhn" else "targets"
    train, test = (_as_split(part.data, getattr(part, labelled)) for part in (fitted, held_out))
    fitting, validation = stratified_split(train.labels)
    names = getattr(fitted, "classes", None) or [str(label) for label in train.labels.unique().tolist()]
    return Dataset(name, tuple(names), train.take(fitting), train.take(validation), test)


def _as_split(images: np.ndarray, labels: list[int] | np.ndarray) -> Split:
    """uint8 images (n, 32, 32, 3), or (n, 3, 32, 32) as SVHN has them, and labels (n,)."""
    tensor = torch.from_numpy(images)
    tensor = tensor if tensor.shape[1] == 3 else tensor.permute(0, 3, 1, 2).contiguous()
    return Split(tensor, torch.as_tensor(labels, dtype=torch.int64))


def find_cifar10(root: str | Path | None = None) -> Path:
    """The folder that holds an intact cifar-10-batches-py; see `find_official`."""
    return find_official("cifar10", root)


def find_official(name: str, root: str | Path | None = None) -> Path:
    """The folder that holds intact files of a data set; downloads into data/ when there is none.

    A relative `$CIFAR10_ROOT` counts from the repository root: notebooks run in a folder of their own.
    """
    about = official(name)
    first = next(iter(about.files)).split("/")[0]  # the folder of CIFAR, a file of SVHN
    given = root or os.environ.get("CIFAR10_ROOT")
    for place in (ROOT / given if given else None, ROOT / "data"):
        if place and (place / first).exists():
            check_md5(place, about)
            return place
    if given and name == "cifar10":
        raise UserError(f"no folder {first} in {given}; set CIFAR10_ROOT to the folder that holds it")
    try:
        for part in about.parts:
            about.kind(ROOT / "data", download=True, **part)
    except (OSError, RuntimeError) as error:
        if archive := getattr(about.kind, "filename", None):
            (ROOT / "data" / archive).unlink(missing_ok=True)
        if getattr(error, "errno", None) in HINTS:  # a full disk is no missing network: photos would hide it
            raise cannot_write(ROOT / "data", error) from None
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConnectionError(f"{about.title} is not in data/ and could not be downloaded ({reason})") from None
    return ROOT / "data"


def check_md5(root: Path, about: Official) -> None:
    """Compare every file of the copy with torchvision's md5 sums. Raises UserError naming the first bad one."""
    from torchvision.datasets.utils import check_integrity

    for name, md5 in about.files.items():
        path = root / name
        try:
            whole = check_integrity(str(path), md5)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from None
        if not whole:
            state = "is corrupt (its md5 is wrong)" if path.is_file() else "is missing"
            raise UserError(f"{path} {state}; delete it and what lies beside it, and download {about.title} again")


# --- the embedded fallback -------------------------------------------------------------------------------------

PHOTOS = (
    "astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field",
    "retina", "ihc", "motorcycle_left", "china", "flower",
)  # fmt: skip
PHOTO_COUNTS = {"train": 400, "validation": 50, "test": 100}  # crops per photo
PHOTO_HEIGHT = 320  # photos are shrunk to this height, so that a 32x32 crop holds some structure


def load_photos(reason: str) -> Dataset:
    """Ten classes of 32x32 crops cut from ten photographs inside the scikit-image and scikit-learn wheels.

    The splits come from disjoint vertical bands of each photo: columns 0-64 % train, 64-80 % validation,
    80-100 % test.
    """
    crops: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
    for number, name in enumerate(PHOTOS):
        picture = _read_photo(name)
        rng = np.random.default_rng([SPLIT_SEED, number])
        for split, band in photo_bands(picture.shape[1]).items():
            crops[split].append(_random_crops(picture[:, band], PHOTO_COUNTS[split], rng))
    parts = [_photo_split(crops[split], rank) for rank, split in enumerate(SPLITS)]
    notice = (
        f"Not CIFAR-10: {reason}. These results are from 'photos', crops of ten photographs; "
        "they say nothing about CIFAR-10."
    )
    return Dataset("photos", PHOTOS, *parts, notice)


def photo_bands(width: int) -> dict[str, slice]:
    """The columns of a photo that each split may use; they do not overlap."""
    first, second = round(0.64 * width), round(0.80 * width)
    return {"train": slice(0, first), "validation": slice(first, second), "test": slice(second, width)}


def _read_photo(name: str) -> np.ndarray:
    from PIL import Image

    path = _photo_path(name)
    if not path.is_file():
        raise UserError(f"the photo {name} is not inside the installed wheels; reinstall scikit-image and scikit-learn")
    try:
        picture = Image.open(path).convert("RGB")
    except (OSError, SyntaxError, ValueError):
        raise UserError(f"{path} is damaged; reinstall scikit-image and scikit-learn") from None
    return np.asarray(picture.resize((round(picture.width * PHOTO_HEIGHT / picture.height), PHOTO_HEIGHT)))


def _photo_path(name: str) -> Path:
    import skimage
    import sklearn

    if name in ("china", "flower"):
        return Path(sklearn.__file__).parent / "datasets" / "images" / f"{name}.jpg"
    suffix = "jpg" if name in ("rocket", "hubble_deep_field", "retina") else "png"
    return Path(skimage.__file__).parent / "data" / f"{name}.{suffix}"


def _random_crops(picture: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """n crops (n, 32, 32, 3) at different places of the picture, drawn without replacement."""
    rows, columns = picture.shape[0] - 31, picture.shape[1] - 31
    places = rng.choice(rows * columns, n, replace=False)
    windows = np.lib.stride_tricks.sliding_window_view(picture, (32, 32), axis=(0, 1))
    return windows[places // columns, places % columns].transpose(0, 2, 3, 1)


def _photo_split(per_class: list[np.ndarray], rank: int) -> Split:
    labels = np.repeat(np.arange(len(per_class)), [len(crops) for crops in per_class])
    order = np.random.default_rng([SPLIT_SEED, 100 + rank]).permutation(len(labels))
    return _as_split(np.concatenate(per_class)[order], labels[order].tolist())
