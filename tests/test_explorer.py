"""The explorer without a browser: directions and their names, what is read off a code, the ONNX model, the widgets."""

import io
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from helpers import coding
from helpers.codec import STEP, load_codec
from helpers.config import LEVEL, UserError
from helpers.data import Dataset
from helpers.priors import encode_all, slerp
from helpers.show import explorer_page
from helpers.show.directions import (
    PER_CLASS,
    SHEET_COLUMNS,
    Explorable,
    Reader,
    contact_sheet,
    describe,
    fit_directions,
    load_explorable,
    name_directions,
    patterns,
    save_explorable,
    starting_points,
)
from helpers.show.explorer import LatentExplorer, LatentMorph
from helpers.show.figures import pixels


@pytest.fixture(scope="module")
def small(photos: Dataset) -> Dataset:
    return photos.limited(512, 100)


@pytest.fixture(scope="module")
def folder(trained: Path, small: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny trained VAE with everything that notebook 7 leaves for the page."""
    place = tmp_path_factory.mktemp("explorable")
    for name in ("vae.safetensors", "vae_history.json"):
        shutil.copy(trained / name, place)
    codec = load_codec(place / "vae.safetensors", small)
    codes, test = encode_all(codec.model, small.train)[0], encode_all(codec.model, small.test)[0]
    directions, effects = name_directions(codec.model, fit_directions(codes), codes[:20], k=8)
    starts, start_codes = starting_points(small, codes, test)
    save_explorable(place, small, directions, effects, codec.code_model, codes, starts, start_codes)
    return place


@pytest.fixture(scope="module")
def parts(folder: Path) -> Explorable:
    return load_explorable(folder)


@pytest.fixture(scope="module")
def reader(folder: Path, parts: Explorable) -> Reader:
    return explorer_page.reader_of(folder, parts)


# --- directions and names ---------------------------------------------------------------------------------------


def test_principal_directions_are_those_of_the_codes() -> None:
    generator = torch.Generator().manual_seed(0)
    turn, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator))
    lengths = torch.tensor([6.0, 5, 4, 3, 2, 1])
    codes = 2 + torch.randn(20_000, 6, generator=generator) * lengths @ turn
    found = fit_directions(codes)
    assert torch.allclose(found.std, lengths, rtol=0.03)
    assert torch.allclose((found.axes * turn).sum(1).abs(), torch.ones(6), atol=0.01)
    assert torch.allclose(found.code(found.place(codes[:5])), codes[:5], atol=1e-4)
    assert torch.allclose(found.code(found.place(codes[:5]), temperature=0.0), found.mean.expand(5, 6))
    assert found.share.sum() == pytest.approx(1, abs=1e-5)


def test_names_say_what_changes_and_how_much_of_it() -> None:
    flat = torch.stack([pattern.flatten() for pattern in patterns(32).values()])
    assert torch.allclose(flat @ flat.T, torch.eye(len(flat)), atol=1e-5)
    ramp = torch.linspace(1, -1, 32)
    effect, sign = describe(-ramp[None, :, None].expand(3, 32, 32))
    assert effect.name == "brighter top, darker bottom" and sign == -1 and effect.explained > 0.9
    warm = torch.tensor([1.0, 0, -1])[:, None, None].expand(3, 32, 32)
    assert describe(warm)[0].name == "warmer all over"
    noise = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))
    both, sign = describe(1.1 * warm - 2**0.5 * ramp[None, None, :] + 0.5 * noise)
    assert both.name == "warmer all over; darker left, brighter right" and sign == 1 and both.explained > 0.8
    assert describe(noise)[0].name.startswith("changes shapes")


# --- what is read off a code ------------------------------------------------------------------------------------


def test_ideal_bytes_are_those_of_the_coder(folder: Path, small: Dataset, reader: Reader) -> None:
    codec = load_codec(folder / "vae.safetensors", small)
    z = encode_all(codec.model, small.test)[0]
    y = ((z - codec.mean) @ codec.to_y).double().numpy()
    chosen = coding.nearest_widths(y, codec.widths, STEP**2 * coding.NOISE)
    bits = coding.information(y / STEP, (codec.widths / STEP)[chosen]) + len(y) * np.log2(len(codec.widths))
    assert reader(z).size.sum().item() == pytest.approx(bits / 8, rel=0.01)


def test_the_nearest_neighbour_of_a_neighbour_is_itself(reader: Reader, parts: Explorable) -> None:
    assert reader(parts.neighbours[:50]).nearest.tolist() == list(range(50))


def test_the_onnx_model_gives_pytorchs_pixels(reader: Reader, parts: Explorable) -> None:
    session = onnxruntime.InferenceSession(explorer_page.to_onnx(reader, parts.codes.shape[1]))
    noise = 2 * torch.randn(20, parts.codes.shape[1], generator=torch.Generator().manual_seed(0))
    for z in torch.cat([parts.codes[:20], noise]).split(1):
        with torch.no_grad():
            expected = reader(z)
        image, belief, size, nearest = session.run(None, {"z": z.numpy()})
        assert np.abs(image - expected.image.numpy()).max() < LEVEL
        assert np.abs(belief - expected.belief.numpy()).max() < 2e-3
        assert size.item() == pytest.approx(expected.size.item(), abs=0.05)
        y, known = (z - reader.mean) @ reader.to_y, reader.known[[nearest.item(), expected.nearest.item()]]
        ours, theirs = (known - y).norm(dim=1)  # of two equally near ones float16 may choose the other
        assert ours == pytest.approx(theirs.item(), rel=1e-3, abs=0.02)


# --- the file for the page --------------------------------------------------------------------------------------


def test_starting_points_are_means_and_test_images(small: Dataset, parts: Explorable) -> None:
    labels = [start.label for start in parts.starts]
    assert labels[0] == "mean of all" and len(labels) == len(set(labels)) == len(parts.codes)
    for number, name in enumerate(small.class_names):
        images = [start for start in parts.starts if start.class_name == name and start.image >= 0]
        assert len(images) == min(PER_CLASS, int((small.test.labels == number).sum()))


def test_the_sheet_holds_neighbours_then_test_images(small: Dataset, parts: Explorable) -> None:
    sheet = np.asarray(Image.open(io.BytesIO(parts.sheet))).astype(float)
    start = next(start for start in parts.starts if start.image >= 0)
    row, column = divmod(start.image, SHEET_COLUMNS)
    tile = sheet[32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
    original = pixels(small.test.images[int(start.label.split()[-1])]).astype(float)
    assert start.image == len(parts.neighbours) and np.abs(tile - original).mean() < 12  # the sheet is lossy
    assert np.abs(sheet[:32, 32:64] - pixels(small.train.images[1])).mean() < 12


def test_a_folder_without_its_parts_has_no_explorer_and_other_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    assert load_explorable(tmp_path) is None and explorer_page.fragment(tmp_path, "") == ""
    shutil.copy(folder / "explorer.safetensors", tmp_path)
    (tmp_path / "vae.safetensors").write_bytes(b"other weights")
    with pytest.raises(UserError, match="run notebook 7 again"):
        load_explorable(tmp_path)


def test_pictures_made_beforehand_are_those_of_the_decoder(reader: Reader, parts: Explorable) -> None:
    made = explorer_page.pre_rendered(reader, parts)
    steps = len(made["steps"])
    assert len(made["belief"]) == len(parts.effects) * steps and made["steps"][steps // 2] == 0
    place = torch.zeros(len(parts.directions.std))
    place[2] = made["steps"][0]
    with torch.no_grad():
        expected = reader(parts.directions.code(place)[None])
    assert made["size"][2 * steps] == pytest.approx(expected.size.item(), abs=0.01)
    assert made["nearest"][2 * steps] == expected.nearest.item()
    images = np.arange(5 * 32 * 32 * 3, dtype=np.uint8).reshape(5, 32, 32, 3)
    assert Image.open(io.BytesIO(contact_sheet(images))).size == (SHEET_COLUMNS * 32, 32)


# --- the widgets ------------------------------------------------------------------------------------------------


@pytest.fixture
def explorer(reader: Reader, parts: Explorable, small: Dataset) -> LatentExplorer:
    still = np.zeros((32, 32, 3), np.uint8)
    known = (parts.directions, parts.effects, parts.starts, parts.codes)
    return LatentExplorer(reader, *known, small.train.images, small.class_names, still)


def shown(widget: object) -> np.ndarray:
    """The picture in an image widget, as it was before it was enlarged."""
    image = np.asarray(Image.open(io.BytesIO(widget.value)))
    return image[:: len(image) // 32, :: len(image) // 32]


def test_a_slider_moves_the_picture_and_all_that_is_read_off_it(explorer: LatentExplorer, reader: Reader) -> None:
    before = explorer.image.value
    explorer.sliders[0].value = 3.0
    place = torch.zeros(len(explorer.directions.std))
    place[0] = 3.0
    with torch.no_grad():
        expected = reader(explorer.directions.code(explorer.places[0] + place)[None])
    assert explorer.image.value != before and np.array_equal(shown(explorer.image), pixels(expected.image)[0])
    assert f"<b>{expected.size.item():.1f}</b>" in explorer.note.value
    for share in expected.belief[0].tolist():
        assert f"<meter value='{share:.3f}'" in explorer.belief.value


def test_a_starting_image_keeps_the_part_of_its_code_that_no_slider_shows(
    explorer: LatentExplorer, parts: Explorable, reader: Reader
) -> None:
    explorer.picker.classes.value = parts.class_names[4]
    offered = [parts.starts[index] for _, index in explorer.picker.start.options]
    assert {start.class_name for start in offered} == {parts.class_names[4]}
    explorer.picker.start.value = explorer.picker.start.options[-1][1]
    with torch.no_grad():
        expected = reader(parts.codes[explorer.picker.index][None])
    assert np.abs(shown(explorer.image).astype(int) - pixels(expected.image)[0]).max() <= 1


def test_random_reset_and_temperature(explorer: LatentExplorer, parts: Explorable, reader: Reader) -> None:
    start = explorer.image.value
    random, reset = explorer._buttons()
    random.click()
    first = explorer.image.value
    random.click()
    assert len({start, first, explorer.image.value}) == 3
    explorer.temperature.value = 0
    with torch.no_grad():
        mean = pixels(reader(parts.directions.mean[None]).image)[0]
    assert np.abs(shown(explorer.image).astype(int) - mean).max() <= 1
    reset.click()
    assert explorer.image.value == start and explorer.temperature.value == 1


def test_every_control_has_a_label_and_a_tooltip(explorer: LatentExplorer) -> None:
    for control in (explorer.picker.classes, explorer.picker.start, *explorer.sliders, explorer.temperature):
        assert control.description and control.tooltip
    bundle, metadata = explorer._repr_mimebundle_()
    assert {"image/png", "application/vnd.jupyter.widget-view+json"} <= set(bundle) and metadata["image/png"]["alt"]


def test_the_morph_goes_from_one_image_to_the_other(reader: Reader, parts: Explorable, small: Dataset) -> None:
    codes = parts.neighbours
    images, _ = starting_points(small, codes, codes)
    morph = LatentMorph(reader, images, parts.codes, small.test.images, np.zeros((32, 32, 3), np.uint8))
    first, second = (parts.codes[end.index] for end in morph.ends)
    for far, code in ((0.0, first), (1.0, second), (0.5, slerp(first, second, 3)[1])):
        morph.far.value = far
        with torch.no_grad():
            expected = pixels(reader.decoder(code[None]))[0]
        assert np.abs(shown(morph.pictures[1]).astype(int) - expected).max() <= 1
    assert np.array_equal(shown(morph.pictures[0]), pixels(small.test.images[images[morph.ends[0].index].image]))
