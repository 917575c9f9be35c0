"""Rows of images."""

import io

import numpy as np
from PIL import Image

from helpers.show.images import enlarged_row, image_rows
from helpers.show.theme import figure_png


def test_grids_enlarge_every_pixel_alike() -> None:
    image = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3), dtype=np.uint8)
    row = enlarged_row(image, 4, 3 * 32 * 4 + 16)
    assert row.shape == (128, 400, 3)
    assert (row[:, :128].reshape(32, 4, 32, 4, 3) == image[0][:, None, :, None]).all()
    picture = np.asarray(Image.open(io.BytesIO(figure_png(image_rows({"a": image})))).convert("RGB"))
    colours = {tuple(colour) for colour in picture.reshape(-1, 3)}
    assert {tuple(colour) for colour in image.reshape(-1, 3)} <= colours, "no pixel is blended with its neighbour"
