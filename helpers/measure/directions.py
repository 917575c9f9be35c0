"""The principal directions of the codes, and names for them that are measured.

A single latent means nothing by itself (the prior looks the same after any rotation), so one moves along the principal
axes of the codes of real images. What a step along an axis does to the pixels is compared with a fixed set of plain
patterns, and the axis is named after those that explain most of the change.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..models import VAE

COLOURS = {  # opponent colours: the change of (red, green, blue), and what it and its opposite are called
    "brightness": ((1, 1, 1), "brighter", "darker"),
    "warmth": ((1, 0, -1), "warmer", "colder"),
    "green": ((-1, 2, -1), "greener", "more purple"),
}
SHAPES = {  # orders of a cosine from top to bottom and from left to right, and where it is positive and negative
    "all": ((0, 0), "all over", ""),
    "top": ((1, 0), "top", "bottom"),
    "left": ((0, 1), "left", "right"),
    "rows": ((2, 0), "top and bottom", "middle"),
    "columns": ((0, 2), "both sides", "middle"),
    "corners": ((1, 1), "top left and bottom right", "other corners"),
}
NAMELESS = 0.2  # below this share of the change a name would mislead


class Directions(NamedTuple):
    """Principal axes of codes: z = mean + (u * std) @ axes, with u of variance 1 along each axis."""

    mean: Tensor  # (d,)
    axes: Tensor  # (d, d), orthonormal rows, the largest variance first
    std: Tensor  # (d,)

    @property
    def share(self) -> Tensor:
        """The share of the variance along each axis, (d,)."""
        return self.std.square() / self.std.square().sum()

    def code(self, place: Tensor, temperature: float = 1.0) -> Tensor:
        """Places u (..., d) -> codes z (..., d); the temperature scales the distance from the mean code."""
        return self.mean + temperature * (place * self.std) @ self.axes

    def place(self, code: Tensor) -> Tensor:
        """Codes z (..., d) -> places u (..., d), in standard deviations along each axis."""
        return (code - self.mean) @ self.axes.T / self.std


def fit_directions(codes: Tensor) -> Directions:
    """The principal axes of codes (n, d)."""
    variance, axes = torch.linalg.eigh(codes.double().T.cov())
    std = variance.flip(0).clamp_min(1e-12).sqrt()
    return Directions(codes.mean(0), axes.T.flip(0).float().contiguous(), std.float())


def patterns(side: int) -> dict[tuple[str, str], Tensor]:
    """Orthonormal patterns (3, side, side): every shape in every colour."""
    at = (torch.arange(side) + 0.5) * math.pi / side
    made = {}
    for colour, (change, _, _) in COLOURS.items():
        for shape, ((down, across), _, _) in SHAPES.items():
            cosine = torch.outer((down * at).cos(), (across * at).cos())
            pattern = torch.tensor(change, dtype=torch.float32)[:, None, None] * cosine
            made[colour, shape] = pattern / pattern.norm()
    return made


class Effect(NamedTuple):
    """What a step along a direction does: its name, and the share of the change of pixels that the name explains."""

    name: str
    explained: float

    @property
    def short(self) -> str:
        """The name for a label, without the other half of each pattern: "brighter top + darker", their sum."""
        return " + ".join(part.split(",")[0].removesuffix(" all over") for part in self.name.split("; "))


def name_change(change: Tensor) -> tuple[Effect, int]:
    """The effect of a change (3, h, w) of pixels, and the sign (+1 or -1) with which its name reads positively.

    One pattern makes the name when it has half of the change's power, else the two strongest do.
    """
    power = change.square().sum().clamp_min(1e-12)
    weights = {key: (change * pattern).sum() for key, pattern in patterns(change.shape[-1]).items()}
    first, second = sorted(weights, key=lambda key: -abs(weights[key]))[:2]
    sign = 1 if weights[first] >= 0 else -1
    used = [first] if weights[first] ** 2 > power / 2 else [first, second]
    explained = float(sum(weights[key] ** 2 for key in used) / power)
    words = "; ".join(in_words(*key, positive=bool(sign * weights[key] >= 0)) for key in used)
    return Effect(words if explained >= NAMELESS else "changes shapes, no plain name", explained), sign


def in_words(colour: str, shape: str, *, positive: bool) -> str:
    """A pattern, or its negative, as words such as "brighter left, darker right"."""
    (_, more, less), (_, here, there) = COLOURS[colour], SHAPES[shape]
    if not positive:
        more, less = less, more
    return f"{more} {here}, {less} {there}" if there else f"{more} {here}"


@torch.no_grad()
def name_directions(model: VAE, directions: Directions, codes: Tensor, k: int = 12) -> tuple[Directions, list[Effect]]:
    """Name the first k directions by the mean change of pixels from -1.5 to +1.5 standard deviations around `codes`.

    The axes come back turned, where needed, so that the name says what a *positive* step does.
    """
    signs, effects = torch.ones(len(directions.std)), []
    for i in range(k):
        step = 1.5 * directions.std[i] * directions.axes[i]
        ahead, behind = (model.decode(moved.to(model.device)).cpu() for moved in (codes + step, codes - step))
        effect, signs[i] = name_change((ahead - behind).mean(0))
        effects.append(effect)
    return directions._replace(axes=directions.axes * signs[:, None]), effects
