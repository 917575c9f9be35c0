"""The look of figures: stored with captions, told apart from those of other runs, small enough for phones and git."""

import io
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from helpers.engine.errors import UserError
from helpers.show.images import image_rows
from helpers.show.theme import DPI, Gallery, figure_png, lighter, read_captions


def test_a_short_caption_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="caption"):
        Gallery(tmp_path)(plt.figure(), "x", "short")


def test_figures_of_another_run_are_not_stamped_as_figures_of_this_one(tmp_path: Path) -> None:
    own, stored = plt.figure(), plt.figure()
    gallery = Gallery(tmp_path, notice="Not CIFAR-10: no data")
    gallery(own, "own", "a figure of this run")
    gallery(stored, "stored", "a figure of stored runs", stored=True)
    assert [text.get_text() for text in own.texts] == ["photos, not CIFAR-10"]
    assert [text.get_text() for text in stored.texts] == ["stored runs on CIFAR-10, not photos"]


def test_the_lighter_copy_looks_the_same() -> None:
    png = figure_png(image_rows({"noise": np.random.default_rng(0).integers(100, 140, (8, 32, 32, 3), dtype=np.uint8)}))
    light = lighter(png)
    before, after = (np.asarray(Image.open(io.BytesIO(p)).convert("RGB")).astype(int) for p in (png, light))
    assert len(light) < 0.6 * len(png) and before.shape == after.shape and np.abs(before - after).mean() < 6


def test_every_figure_has_a_caption_that_says_something(smoke: Path) -> None:
    captions = read_captions(smoke)
    assert {path.stem for path in smoke.glob("*.png")} == set(captions)
    assert all(len(caption) > 40 for caption in captions.values())


def test_every_figure_fits_a_phone(smoke: Path) -> None:
    for path in smoke.glob("*.png"):
        assert Image.open(path).width <= 8 * DPI, path.name
