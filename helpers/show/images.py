"""Images as pictures: pixels out of tensors, and labelled rows of images without any blur."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from torch import Tensor

from .theme import DPI, blank


def pixels(x: Tensor) -> np.ndarray:
    """A float tensor (..., 3, h, w) in [0, 1] or a uint8 tensor -> a uint8 array (..., h, w, 3)."""
    array = x.detach().cpu()
    if array.is_floating_point():
        array = (array.clamp(0, 1) * 255).round()
    return np.moveaxis(array.numpy().astype(np.uint8), -3, -1)


def image_rows(rows: Mapping[str, np.ndarray], titles: Sequence[str] = ()) -> plt.Figure:
    """A label and below it one row of images (n, h, w, 3) per entry; `titles` stand above the columns."""
    columns = max(len(row) for row in rows.values())
    h, w = next(iter(rows.values())).shape[1:3]
    scale = max(1, round(960 / columns / (w + 2)))  # whole pixels of the file for a pixel: nothing is blurred
    width, height = (columns * (w + 2) - 2) * scale, h * scale  # a gap of two pixels between images
    text = round(0.034 * width)  # pixels: the same share of the width in every grid
    points, strip = text * 72 / DPI, round(1.75 * text)
    top = len(rows) * (strip + height)
    total = top + (round(1.3 * text) if titles else 0)
    figure = plt.figure(figsize=(width / DPI, total / DPI), dpi=DPI, layout="none")
    for i, title in enumerate(titles):
        centre = (i * (w + 2) + w / 2) * scale
        figure.text(centre / width, top / total, title, ha="center", va="bottom", fontsize=0.85 * points)
    for label, images in rows.items():
        figure.text(0, (top - 0.75 * strip) / total, label, va="baseline", fontsize=points)
        top -= strip + height
        axis = figure.add_axes((0, top / total, 1, height / total))
        blank(axis)
        axis.imshow(enlarged_row(images, scale, width), aspect="auto")
    return figure


def enlarged_row(images: np.ndarray, scale: int, width: int) -> np.ndarray:
    """Images (n, h, w, 3) beside each other, each pixel `scale` wide, on white up to `width` pixels."""
    big = images.repeat(scale, 1).repeat(scale, 2)
    spaced = np.pad(big, ((0, 0), (0, 0), (0, 2 * scale), (0, 0)), constant_values=255)
    row = np.concatenate(spaced, 1)[:, :width]
    return np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255)
