"""A data set as bytes in memory or mapped from a file: one fixed split, one scaling, one way to batch, augmentation."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

LEVEL = 1 / 255  # the distance between two 8-bit levels when pixels are scaled to [0, 1]
SPLIT_SEED = 2026  # part of the definition of the data, so no run's seed changes it
SPLITS = ("train", "validation", "test")
EVALUATION_BATCH = 100  # larger ones are no faster: their tensors no longer fit into what glibc reuses
Device = torch.device | str


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

    @property
    def present(self) -> dict[int, str]:
        """Label and name of the classes that both training and test images have: all, unless only a few are used."""
        shown = set(self.train.labels.tolist()) & set(self.test.labels.tolist())
        return {label: name for label, name in enumerate(self.class_names) if label in shown}

    def limited(self, n_train: int, n_eval: int) -> "Dataset":
        """The first n_train / n_eval images of the splits; 0 keeps all."""
        parts = (self.train.head(n_train), self.validation.head(n_eval), self.test.head(n_eval))
        return Dataset(self.name, self.class_names, *parts, self.notice)


def to_unit(images: Tensor, device: Device = "cpu") -> Tensor:
    """uint8 0..255 -> float32 in [0, 1]. The only scaling in the project."""
    return images.to(device).float() / 255


def to_bytes(x: Tensor) -> Tensor:
    """float (n, 3, 32, 32) in [0, 1] -> the nearest uint8 level. Raises ValueError on another range."""
    if x.min() < 0 or x.max() > 1:
        raise ValueError(f"pixels must lie in [0, 1], found {x.min():.3f} to {x.max():.3f}")
    return (x * 255).round().to(torch.uint8)


def stratified_split(labels: Tensor, fraction: float = 0.1) -> tuple[Tensor, Tensor]:
    """Shuffled indices (train, validation) with the same share of every class, always the same ones."""
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    order = torch.randperm(len(labels), generator=generator)
    validation = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = order[labels[order] == label]
        validation[members[: round(fraction * len(members))]] = True
    return order[~validation[order]], order[validation[order]]


def batches(
    split: Split, batch_size: int = EVALUATION_BATCH, *, order: torch.Generator | None = None, device: Device = "cpu"
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (x float (b, 3, 32, 32) in [0, 1], labels (b,)); the last may be short, so weight means by b."""
    for index in positions(len(split), batch_size, order):
        yield to_unit(split.images[index], device), split.labels[index].to(device)


def positions(n: int, batch_size: int, order: torch.Generator | None = None) -> tuple[Tensor, ...]:
    """The positions 0 .. n - 1 as batches, shuffled by `order` when it is given."""
    index = torch.arange(n) if order is None else torch.randperm(n, generator=order)
    return index.split(batch_size)


@torch.no_grad()
def in_batches(function: Callable[[Tensor], Any], images: Tensor, device: Device = "cpu") -> Any:
    """`function(x)`, x in [0, 1], on uint8 images (n, 3, h, w), EVALUATION_BATCH at a time, without gradients.

    What it gives (a tensor, or a tuple or dict of tensors, each (b, ...)) comes back with n rows, on the CPU.
    """
    whole: list[Tensor] = []  # allocated with the first batch: thousands of small pieces would fragment the memory
    for start in range(0, max(1, len(images)), EVALUATION_BATCH):
        values, form = tree_flatten(function(to_unit(images[start : start + EVALUATION_BATCH], device)))
        if not whole:
            whole = [value.new_empty(len(images), *value.shape[1:], device="cpu") for value in values]
        for rows, value in zip(whole, values, strict=True):
            rows[start : start + len(value)] = value
    return tree_unflatten(whole, form)


class Draws(NamedTuple):
    """The random choices of an augmentation for n images: one draw an image, made for a whole batch at once."""

    mirrored: Tensor  # bool (n,)
    shift: Tensor  # int64 (n, 2): down and to the right, 0 .. 2 * translate
    corner: Tensor  # int64 (n, 2): top and left of the square that the classifier does not see


@dataclass(frozen=True)
class Augmentation:
    """Random mirroring, shifts of up to `translate` pixels, and a hidden square of `cutout` pixels.

    Drawing and applying are apart, so that one generator can draw for a batch of which only a part is computed here.
    """

    translate: int = 0
    flip: bool = False
    cutout: int = 0

    def draw(self, n: int, size: int, generator: torch.Generator) -> Draws:
        """The choices for n images of `size` pixels; what is switched off draws nothing from the CPU `generator`."""
        mirrored = torch.rand(n, generator=generator) < 0.5 if self.flip else torch.zeros(n, dtype=torch.bool)
        shift = corner = torch.zeros(n, 2, dtype=torch.int64)
        if self.translate:
            shift = torch.randint(0, 2 * self.translate + 1, (2, n), generator=generator).T
        if self.cutout:
            corner = torch.randint(0, size - self.cutout + 1, (2, n), generator=generator).T
        return Draws(mirrored, shift, corner)

    def apply(self, x: Tensor, draws: Draws) -> tuple[Tensor, Tensor | None]:
        """Images (n, 3, h, w) -> the moved images, edges reflected, and what is hidden, bool (n, 1, h, w) or None."""
        draws = Draws(*(values.to(x.device) for values in draws))
        if self.flip:
            x = torch.where(draws.mirrored[:, None, None, None], x.flip(3), x)
        if self.translate:
            x = shifted(x, draws.shift, self.translate)
        return x, squares(draws.corner, self.cutout, x.shape[-1]) if self.cutout else None


def shifted(x: Tensor, shift: Tensor, margin: int) -> Tensor:
    """The window of each image (n, c, h, w), padded by `margin` on all sides, that starts at shift (n, 2)."""
    n, _, height, width = x.shape
    rows = (shift[:, :1] + torch.arange(height, device=x.device))[:, :, None]
    columns = (shift[:, 1:] + torch.arange(width, device=x.device))[:, None, :]
    image = torch.arange(n, device=x.device)[:, None, None]
    padded = nn.functional.pad(x, (margin,) * 4, mode="reflect").permute(0, 2, 3, 1)
    return padded[image, rows, columns].permute(0, 3, 1, 2)


def squares(corner: Tensor, side: int, size: int) -> Tensor:
    """Cutout: bool (n, 1, size, size), True in a square of `side` pixels at corner (n, 2) [DeVries & Taylor 2017]."""
    place = torch.arange(size, device=corner.device)
    rows, columns = ((place >= start) & (place < start + side) for start in (corner[:, :1], corner[:, 1:]))
    return rows[:, None, :, None] & columns[:, None, None, :]


def as_split(images: np.ndarray, labels: list[int] | np.ndarray) -> Split:
    """uint8 images (n, 32, 32, 3), or (n, 3, 32, 32) as SVHN has them, and labels (n,)."""
    planes = images if images.shape[1] == 3 else np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return Split(torch.from_numpy(planes), torch.as_tensor(labels, dtype=torch.int64))
