"""What the decoder's mean lacks, as frequencies: for the qualities between the code alone and pixels one by one.

The residual of an image is turned into three uncorrelated colours and into the cosine transform of the whole picture,
whose axes are nearly the principal directions of residuals (they cost 1 % more bytes, and need no weights). Frequencies
are quantised and coded as codes are, see `trellis`. [Ahmed, Natarajan & Rao, Discrete Cosine Transform, 1974]
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import trellis
from .engine.exact import WEIGHT_BITS, snap
from .engine.vaec import SIZE

CLASSES = 8  # of images, by contrast
TOGETHER = 500  # images that are transformed at a time, which bounds the memory
FAINTEST = 0.25  # frequencies whose width is less than so many steps are not sent


class DetailModel(NamedTuple):
    """What the residuals of training images are like."""

    colours: Tensor  # (3, 3), a direction in each column
    widths: Tensor  # (classes, 3 * 32 * 32), standard deviations of frequencies, in levels


def cosines() -> Tensor:
    """The orthonormal cosine transform (32, 32), frequencies by places, float64, on the grid of exact arithmetic."""
    k, place = torch.arange(SIZE, dtype=torch.float64)[:, None], torch.arange(SIZE, dtype=torch.float64)
    waves = torch.cos(math.pi * k * (2 * place + 1) / (2 * SIZE)) * math.sqrt(2 / SIZE)
    waves[0] /= math.sqrt(2)
    return snap(waves, WEIGHT_BITS)


def frequencies(residual: Tensor, colours: Tensor) -> Tensor:
    """Residuals (n, 32, 32, 3) in levels -> (n, 3 * 32 * 32), float64."""
    waves = cosines()
    turned = ((part.double() @ colours.double()).permute(0, 3, 1, 2) for part in residual.split(TOGETHER))
    return torch.cat([(waves @ part @ waves.T).flatten(1) for part in turned])


def fit_detail(residual: Tensor) -> DetailModel:
    """From residuals (n, 32, 32, 3) of training images."""
    values = residual.flatten(0, 2).double()
    colours = torch.linalg.eigh(values.T @ values / len(values))[1].flip(1).float()
    widths = trellis.fit_widths(frequencies(residual, colours).numpy(), CLASSES)
    return DetailModel(colours, torch.from_numpy(widths).float())


class DetailCoder:
    """`encode` and `decode` residuals with a step in levels."""

    def __init__(self, model: DetailModel) -> None:
        self.colours, self.widths = snap(model.colours.double(), WEIGHT_BITS), model.widths.double().numpy()

    def sent(self, step: float) -> np.ndarray:
        """The frequencies (k,) that a step sends, the strongest first."""
        strength = np.sqrt(np.square(self.widths).mean(0))
        order = np.argsort(-strength, kind="stable")
        return order[: max(1, int((strength > FAINTEST * step).sum()))]

    def encode(self, residual: Tensor, step: float) -> bytes:
        """The bytes of residuals (n, 32, 32, 3)."""
        sent = self.sent(step)
        return trellis.encode(frequencies(residual, self.colours).numpy()[:, sent], self.widths[:, sent], step)[0]

    def decode(self, content: bytes, n: int, step: float) -> Tensor:
        """Residuals (n, 32, 32, 3), exact in float32. Raises ValueError when no residuals have these bytes."""
        sent, rows = self.sent(step), np.zeros((n, 3 * SIZE * SIZE))
        rows[:, sent] = trellis.decode(content, n, self.widths[:, sent], step)
        waves, residual = cosines(), torch.empty(n, SIZE, SIZE, 3)
        for part, out in zip(torch.from_numpy(rows).split(TOGETHER), residual.split(TOGETHER), strict=True):
            picture = snap(snap(waves.T @ snap(part).view(-1, 3, SIZE, SIZE)) @ waves)
            out.copy_(snap(picture.permute(0, 2, 3, 1) @ self.colours.T))
        return residual
