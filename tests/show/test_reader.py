"""What is read off a code, and the file from which the page gets it. The fixtures are in tests/conftest.py."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import norm

from helpers import trellis
from helpers.axes import STEP
from helpers.codec import load_codec
from helpers.data import Dataset
from helpers.engine.errors import UserError
from helpers.priors import encode_all
from helpers.publish.explorer_page import fragment, tiles_of_starts
from helpers.show.images import pixels
from helpers.show.reader import (
    PER_CLASS,
    SHEET_COLUMNS,
    ExplorerData,
    Reader,
    class_plane,
    contact_sheet,
    load_explorer_data,
)


def test_ideal_bytes_are_those_of_the_coder(explorer_folder: Path, photos: Dataset, reader: Reader) -> None:
    codec = load_codec(explorer_folder / "vae.safetensors", photos)
    z = encode_all(codec.model, photos.test.head(100))[0]
    y = ((z - codec.mean) @ codec.to_y).double().numpy()
    chosen = trellis.nearest_widths(y, codec.widths, STEP**2 * trellis.NOISE)
    point, scale = np.abs(y / STEP), (codec.widths / STEP)[chosen]
    mass = norm.sf((point - 0.5) / scale) - norm.sf((point + 0.5) / scale)
    bits = -np.log2(mass.clip(2.0**-24)).sum() + len(y) * np.log2(len(codec.widths))
    assert reader(z).size.sum().item() == pytest.approx(bits / 8, rel=0.01)


def test_the_nearest_neighbour_of_a_neighbour_is_itself(reader: Reader, parts: ExplorerData) -> None:
    assert reader(parts.neighbours[:50]).nearest.tolist() == list(range(50))


def test_the_plane_of_the_map_is_the_one_in_which_classes_lie_farthest_apart() -> None:
    means = torch.zeros(4, 6)
    means[:, 2], means[:, 5] = torch.tensor([-3.0, 0, 0, 3]), torch.tensor([0.0, -2, 2, 0])
    plane = class_plane(means + 7)
    assert torch.allclose(plane @ plane.T, torch.eye(2), atol=1e-5)
    assert plane[0, 2].abs() > 0.999 and plane[1, 5].abs() > 0.999


def test_deviations_are_those_of_the_posterior(explorer_folder: Path, photos: Dataset, parts: ExplorerData) -> None:
    deviations = encode_all(
        load_codec(explorer_folder / "vae.safetensors", photos).model, photos.limited(512, 100).test
    )[1]
    for start, deviation in zip(parts.starts, parts.deviations, strict=True):
        expected = deviations[start.image] if start.image >= 0 else torch.zeros_like(deviation)
        assert torch.allclose(deviation, expected, rtol=1e-4)
    assert parts.seen.shape == (len(parts.labels), 2)


def test_starting_points_are_means_and_test_images(photos: Dataset, parts: ExplorerData) -> None:
    labels = [start.label for start in parts.starts]
    assert labels[0] == "mean of all" and len(labels) == len(set(labels)) == len(parts.codes)
    for number, name in enumerate(photos.class_names):
        images = [start for start in parts.starts if start.class_name == name and start.image >= 0]
        assert len(images) == min(PER_CLASS, int((photos.test.labels[:100] == number).sum()))


def test_the_sheet_holds_neighbours_then_test_images(photos: Dataset, parts: ExplorerData) -> None:
    sheet = np.asarray(Image.open(io.BytesIO(parts.sheet))).astype(float)
    places = {start: place for start, place in zip(parts.starts, tiles_of_starts(parts), strict=True) if place >= 0}
    assert list(places.values()) == list(range(len(parts.neighbours), len(parts.neighbours) + len(places)))
    for start, place in places.items():
        row, column = divmod(place, SHEET_COLUMNS)
        tile = sheet[32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
        assert np.abs(tile - pixels(photos.test.images[start.image])).mean() < 12  # the sheet is lossy
    assert np.abs(sheet[:32, 32:64] - pixels(photos.train.images[1])).mean() < 12
    images = np.arange(5 * 32 * 32 * 3, dtype=np.uint8).reshape(5, 32, 32, 3)
    assert Image.open(io.BytesIO(contact_sheet(images))).size == (SHEET_COLUMNS * 32, 32)


def test_a_folder_without_its_parts_has_no_explorer_and_other_weights_are_refused(
    explorer_folder: Path, tmp_path: Path
) -> None:
    assert load_explorer_data(tmp_path) is None and fragment(tmp_path) == ""
    shutil.copy(explorer_folder / "explorer.safetensors", tmp_path)
    (tmp_path / "vae.safetensors").write_bytes(b"other weights")
    with pytest.raises(UserError, match="run notebook 7 again"):
        load_explorer_data(tmp_path)
