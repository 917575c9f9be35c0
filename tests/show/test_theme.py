"""The look of figures: stored with captions, told apart from those of other runs, small enough for phones and git."""

import io
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from helpers.engine.errors import UserError
from helpers.show.evaluation import table_plot
from helpers.show.images import image_rows
from helpers.show.theme import DPI, Gallery, figure_png, lighter, read_captions, with_minus


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
        assert Image.open(path).width <= 8 * 2 * DPI, path.name


def test_charts_are_sharp_and_pictures_keep_their_pixels(tmp_path: Path) -> None:
    chart, axis = plt.subplots(figsize=(4, 3))
    axis.plot([0, 1])
    picture = image_rows({"one": np.zeros((8, 32, 32, 3), np.uint8)})
    gallery = Gallery(tmp_path)
    gallery(chart, "chart", "a chart of a line from -1.5 to 2")
    gallery(picture, "picture", "eight black images in a row")
    with Image.open(tmp_path / "chart.png") as image:
        assert abs(image.width - 4 * 2 * DPI) < 200 and len(image.getcolors(64) or ()) > 1  # 64 colours at most
    with Image.open(tmp_path / "picture.png") as image:
        assert image.width < 1.3 * 960
    assert read_captions(tmp_path)["chart"] == "a chart of a line from \N{MINUS SIGN}1.5 to 2"


def test_a_table_is_stored_in_sixteen_colours(tmp_path: Path) -> None:
    Gallery(tmp_path)(table_plot({"A": (["", "b"], [["c", "1.5"]])}), "table", "a table of a single number")
    with Image.open(tmp_path / "table.png") as image:
        assert len(image.getcolors(16) or ()) > 4 and image.width > 1.5 * DPI


@pytest.mark.parametrize("draw", ["pcolormesh", "imshow"])
def test_a_heat_map_is_a_chart_that_keeps_its_colours(draw: str, tmp_path: Path) -> None:
    figure, axis = plt.subplots(figsize=(4, 3))
    getattr(axis, draw)(np.linspace(0, 1, 400).reshape(20, 20))
    Gallery(tmp_path)(figure, "heat", "four hundred values, each of its own colour")
    with Image.open(tmp_path / "heat.png") as image:
        assert len(image.getcolors(1 << 20) or ()) > 200 and image.height > 1.5 * 3 * DPI


def test_a_minus_is_told_from_a_hyphen() -> None:
    assert with_minus("-3 to 5, (-0.5)") == "\N{MINUS SIGN}3 to 5, (\N{MINUS SIGN}0.5)"
    for text in ("CIFAR-10", "10-2", "2026-11-27", "x86-64", "no-loss"):
        assert with_minus(text) == text
