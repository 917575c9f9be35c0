"""CIFAR-10 (or the embedded photos) as uint8 tensors, one fixed split, one scaling, one way to batch.

The whole data set is kept in memory as bytes, 3,072 an image; augmentation is tensor code on batches.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .config import DATASETS, ROOT, UserError, nearest

SPLIT_SEED = 2026  # part of the definition of the data, so no run's seed changes it
VALIDATION_FRACTION = 0.1
SPLITS = ("train", "validation", "test")


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
    batch_size: int,
    *,
    order: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (x float (b, 3, 32, 32) in [0, 1], labels (b,)); shuffled by `order` when it is given.

    No image is dropped: the last batch may be short, so weight means over batches by b.
    """
    n = len(split)
    index = torch.arange(n) if order is None else torch.randperm(n, generator=order)
    for chosen in index.split(batch_size):
        yield to_unit(split.images[chosen], device), split.labels[chosen].to(device)


def augment(x: Tensor, generator: torch.Generator, *, translate: int = 2, flip: bool = True, cutout: int = 0) -> Tensor:
    """Mirror half of the images, shift each by up to `translate` pixels (reflected edges), hide a square of each.

    x (n, 3, h, w) -> the same shape. One draw per image; `generator` lives on the CPU. The hidden square has a side of
    `cutout` pixels, lies wholly inside and is grey [DeVries & Taylor 2017].
    """
    n, _, height, width = x.shape
    if flip:
        mirrored = torch.rand(n, generator=generator) < 0.5
        x = torch.where(mirrored.to(x.device)[:, None, None, None], x.flip(3), x)
    if translate:
        dy, dx = torch.randint(0, 2 * translate + 1, (2, n, 1), generator=generator).to(x.device)
        rows = (dy + torch.arange(height, device=x.device))[:, :, None]
        columns = (dx + torch.arange(width, device=x.device))[:, None, :]
        image = torch.arange(n, device=x.device)[:, None, None]
        padded = F.pad(x, (translate,) * 4, mode="reflect").permute(0, 2, 3, 1)
        x = padded[image, rows, columns].permute(0, 3, 1, 2)
    if cutout:
        top, left = torch.randint(0, height - cutout + 1, (2, n, 1), generator=generator).to(x.device)
        rows, columns = (torch.arange(side, device=x.device) for side in (height, width))
        hidden = ((rows >= top) & (rows < top + cutout))[:, None, :, None]
        hidden = hidden & ((columns >= left) & (columns < left + cutout))[:, None, None, :]
        x = x.masked_fill(hidden, 0.5)
    return x


def load_data(name: str = "auto", root: str | Path | None = None) -> Dataset:
    """The data set by name: "cifar10", "photos", or "auto" (CIFAR-10 where it can be had, else photos).

    `$DATASET` stands in for "auto". CIFAR-10 is looked for in `root` or `$CIFAR10_ROOT`, then in data/, then
    downloaded into data/. Raises UserError on an unknown name, corrupt files or a missing explicit copy.
    """
    name = os.environ.get("DATASET", "") or "auto" if name == "auto" else name
    if name not in (*DATASETS, "auto"):
        raise UserError(f"unknown data set {name!r}; there are: {', '.join(DATASETS)}.{nearest(name, DATASETS)}")
    if name == "photos":
        return load_photos("asked for by name")
    try:
        return load_cifar10(root)
    except ConnectionError as error:
        if name == "cifar10":
            raise UserError(f"{error}. Put a copy in data/, set CIFAR10_ROOT, or use DATASET=photos") from None
        return load_photos(str(error))


def load_cifar10(root: str | Path | None = None) -> Dataset:
    """The original CIFAR-10 [Krizhevsky 2009], md5-checked by torchvision, split 45,000 / 5,000 / 10,000.

    Raises UserError when a file is corrupt, ConnectionError when there is neither a copy nor a network.
    """
    from torchvision.datasets import CIFAR10

    folder = find_cifar10(root)
    official = CIFAR10(folder, train=True), CIFAR10(folder, train=False)
    train, test = (_as_split(part.data, part.targets) for part in official)
    fitting, validation = stratified_split(train.labels)
    names = tuple(official[0].classes)
    return Dataset("cifar10", names, train.take(fitting), train.take(validation), test)


def _as_split(images: np.ndarray, labels: list[int]) -> Split:
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    return Split(tensor, torch.tensor(labels))


def find_cifar10(root: str | Path | None = None) -> Path:
    """The folder that holds an intact cifar-10-batches-py; downloads into data/ when there is none.

    A relative `$CIFAR10_ROOT` counts from the repository root: notebooks run in a folder of their own.
    """
    from torchvision.datasets import CIFAR10

    given = root or os.environ.get("CIFAR10_ROOT")
    for place in (ROOT / given if given else None, ROOT / "data"):
        if place and (place / CIFAR10.base_folder).is_dir():
            check_md5(place)
            return place
    if given:
        raise UserError(f"no folder {CIFAR10.base_folder} in {given}; set CIFAR10_ROOT to the folder that holds it")
    try:
        CIFAR10(ROOT / "data", download=True)
    except (OSError, RuntimeError) as error:
        (ROOT / "data" / CIFAR10.filename).unlink(missing_ok=True)
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConnectionError(f"CIFAR-10 is not in data/ and could not be downloaded ({reason})") from None
    return ROOT / "data"


def check_md5(root: Path) -> None:
    """Compare every file of the copy with torchvision's md5 sums. Raises UserError naming the first bad one."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    known = [*CIFAR10.train_list, *CIFAR10.test_list, [CIFAR10.meta["filename"], CIFAR10.meta["md5"]]]
    for name, md5 in known:
        path = root / CIFAR10.base_folder / name
        if not check_integrity(str(path), md5):
            state = "is corrupt (its md5 is wrong)" if path.is_file() else "is missing"
            raise UserError(f"{path} {state}; delete the folder and download CIFAR-10 again")


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
    picture = Image.open(path).convert("RGB")
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
