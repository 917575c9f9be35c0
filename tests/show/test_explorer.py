"""The widgets of notebook 7, without a browser. The fixtures are in tests/conftest.py."""

import io
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from ipywidgets import Image as ImageWidget
from PIL import Image

from helpers.data import Dataset
from helpers.engine.files import ROOT
from helpers.priors import slerp
from helpers.publish.plan import notebook_path
from helpers.show.explorer import LatentExplorer, LatentMorph
from helpers.show.images import pixels
from helpers.show.reader import ExplorerData, ExplorerReading, Reader

from ..conftest import run_module

STILL = np.zeros((32, 32, 3), np.uint8)


class White(torch.nn.Module):
    """A second decoder that cannot be taken for the first."""

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(z), 3, 32, 32)


@pytest.fixture
def explorer(reader: Reader, parts: ExplorerData, photos: Dataset) -> LatentExplorer:
    return LatentExplorer(reader, parts, photos.train.images, STILL, White())


@torch.no_grad()
def reading(reader: Reader, code: torch.Tensor) -> ExplorerReading:
    return reader(code[None])


def difference(widget: ImageWidget, image: np.ndarray) -> int:
    """The largest difference between the picture in a widget, as it was before it was enlarged, and an image."""
    shown = np.asarray(Image.open(io.BytesIO(widget.value)))
    step = len(shown) // 32
    return np.abs(shown[::step, ::step].astype(int) - image).max()


def test_the_switch_chooses_the_decoder_and_leaves_the_rest(explorer: LatentExplorer) -> None:
    mean, belief, note = explorer.image.value, explorer.belief.value, explorer.note.value
    explorer.shown.value = "sharp"
    assert difference(explorer.image, np.full((32, 32, 3), 255)) == 0
    assert (explorer.belief.value, explorer.note.value) == (belief, note)
    explorer.shown.value = "mean"
    assert explorer.image.value == mean


def test_a_slider_moves_the_picture_and_all_that_is_read_off_it(explorer: LatentExplorer, reader: Reader) -> None:
    before = explorer.image.value
    explorer.sliders[0].value = 3.0
    place = explorer.places[0].clone()
    place[0] = 3.0
    expected = reading(reader, explorer.parts.directions.code(place))
    assert explorer.image.value != before and difference(explorer.image, pixels(expected.image)[0]) == 0
    assert f"<b>{expected.size.item():.1f}</b>" in explorer.note.value
    for share in expected.belief[0].tolist():
        assert f"<meter value='{share:.3f}'" in explorer.belief.value


def test_a_starting_image_keeps_the_part_of_its_code_that_no_slider_shows(
    explorer: LatentExplorer, parts: ExplorerData, reader: Reader
) -> None:
    explorer.picker.classes.value = parts.class_names[4]
    offered = [parts.starts[index] for _, index in explorer.picker.start.options]
    assert {start.class_name for start in offered} == {parts.class_names[4]}
    explorer.picker.start.value = explorer.picker.start.options[-1][1]
    expected = reading(reader, parts.codes[explorer.picker.start.value])
    assert difference(explorer.image, pixels(expected.image)[0]) <= 1


def test_random_reset_and_temperature(explorer: LatentExplorer, parts: ExplorerData, reader: Reader) -> None:
    start = explorer.image.value
    random, reset = explorer.buttons()
    random.click()
    first = explorer.image.value
    random.click()
    assert len({start, first, explorer.image.value}) == 3
    explorer.temperature.value = 0
    assert difference(explorer.image, pixels(reading(reader, parts.directions.mean).image)[0]) <= 1
    reset.click()
    assert explorer.image.value == start and explorer.temperature.value == 1


def test_every_control_has_a_label_and_a_tooltip(explorer: LatentExplorer) -> None:
    for control in (explorer.picker.classes, explorer.picker.start, *explorer.sliders, explorer.temperature):
        assert control.description and control.tooltip
    bundle, metadata = explorer._repr_mimebundle_()
    assert {"image/png", "application/vnd.jupyter.widget-view+json"} <= set(bundle) and metadata["image/png"]["alt"]


def test_the_morph_goes_from_one_image_to_the_other(reader: Reader, parts: ExplorerData, photos: Dataset) -> None:
    morph = LatentMorph(reader, parts, photos.test.images, STILL)
    ends = [end.start.value for end in morph.ends]
    first, second = parts.codes[ends]
    for far, code in ((0.0, first), (1.0, second), (0.5, slerp(first, second, 3)[1])):
        morph.far.value = far
        assert difference(morph.pictures[1], pixels(reading(reader, code).image)[0]) <= 1
    for widget, end in zip(morph.pictures[::2], ends, strict=True):
        assert difference(widget, pixels(photos.test.images[parts.starts[end].image])) == 0


@pytest.mark.slow
def test_stock_tools_run_and_export_the_explorer(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "out")
    notebook = nbformat.read(notebook_path("07_latent_explorer"), as_version=4)
    cell = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    cell.source += f'\nprofile, dataset, out = "smoke", "photos", {str(tmp_path / "out")!r}'
    nbformat.write(notebook, tmp_path / "07.ipynb")
    done = run_module("jupyter", "execute", "--inplace", str(tmp_path / "07.ipynb"), PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    done = run_module("jupyter", "nbconvert", "--to", "html", str(tmp_path / "07.ipynb"))
    assert done.returncode == 0 and (tmp_path / "07.html").stat().st_size > 100_000, done.stderr
