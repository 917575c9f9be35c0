"""One fuzz test for every reader: whatever the bytes, a result or one line, soon. The examples are always the same.

Each example must end within the deadline, so a reader that hangs fails as one that crashes does.
"""

import io
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers.codec import Codec, load_codec
from helpers.data import Dataset
from helpers.engine.errors import UserError
from helpers.engine.files import history_path, weights_path
from helpers.engine.sealed import SEAL, read_json, read_tensors, seal, write_tensors
from helpers.engine.vaec import CHECKSUM, read_pictures
from helpers.publish.pipeline import check_parameters, declared_parameters, parse_parameters
from helpers.publish.plan import notebook_path
from helpers.quality import Plan
from helpers.run import load_history, load_model
from helpers.show.theme import read_captions

from .engine.test_schemas import EXAMPLES


def bounded(examples: int) -> settings:
    """So many examples, always the same, each at most half a minute (a busy machine is slow)."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    limits = {"max_examples": examples, "deadline": 30_000, "derandomize": True, "database": None}
    return settings(**limits, suppress_health_check=checks)


# Edits of a file: where (as a fraction of its length), what happens there, with which bytes.
EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.sampled_from(("flip", "write", "insert", "delete", "cut")), st.binary(max_size=12)),
    min_size=1, max_size=4,
)  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
TREES = st.recursive(
    SCALARS,
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=8), part, max_size=3),
    max_leaves=8,
)


def edited(content: bytes, edits: list[tuple[float, str, bytes]]) -> bytes:
    data = bytearray(content)
    for fraction, what, some in edits:
        at = int(fraction * max(len(data) - 1, 0))
        if what == "flip" and data:
            data[at] ^= 1 << len(some) % 8
        elif what == "write":
            data[at : at + len(some)] = some
        elif what == "insert":
            data[at:at] = some
        elif what == "delete":
            del data[at : at + len(some)]
        elif what == "cut":
            del data[at:]
    return bytes(data)


def one_line(error: UserError) -> None:
    assert str(error) and "\n" not in str(error)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


# --- weights ----------------------------------------------------------------------------------------------------


@bounded(150)
@given(edits=EDITS, near_start=st.booleans())
def test_damaged_weights(edits: list, near_start: bool, trained: Path, folder: Path) -> None:
    content = weights_path(trained, "vae").read_bytes()
    # Half of the examples hit the header, which is a small part of the file.
    split = 8 + int.from_bytes(content[:8], "little") if near_start else len(content)
    path = folder / "vae.safetensors"
    path.write_bytes(edited(content[:split], edits) + content[split:])
    try:
        _, provenance = load_model(path)
    except UserError as error:
        one_line(error)
    else:
        assert provenance == read_tensors(weights_path(trained, "vae"))[1]  # nothing that matters has changed


@bounded(100)
@given(content=st.binary(max_size=300), header=TREES)
def test_bytes_that_were_never_weights(content: bytes, header: Any, folder: Path) -> None:
    text = json.dumps(header).encode()
    path = folder / "other.safetensors"
    for some in (content, len(text).to_bytes(8, "little") + text + content):
        path.write_bytes(some)
        with pytest.raises(UserError) as caught:
            read_tensors(path)
        one_line(caught.value)


@bounded(80)
@given(name=st.sampled_from(("kind", "settings", "class_names", "run", "width", "latent_dim", "seed")), value=TREES)
def test_weights_that_say_something_else_of_themselves(name: str, value: Any, trained: Path, folder: Path) -> None:
    tensors, provenance = read_tensors(weights_path(trained, "vae"))
    inner = provenance if name in provenance else provenance["settings"]
    inner[name] = value
    path = folder / "said.safetensors"
    write_tensors(path, tensors, provenance)
    try:
        load_model(path)
    except UserError as error:
        one_line(error)


# --- JSON -------------------------------------------------------------------------------------------------------


@bounded(200)
@given(kind=st.sampled_from(list(EXAMPLES)), edits=EDITS)
def test_damaged_json(kind: str, edits: list, folder: Path) -> None:
    content, path = EXAMPLES[kind], folder / kind
    path.write_bytes(edited(json.dumps(content | {SEAL: seal(content)}).encode(), edits))
    try:
        assert read_json(path) == content
    except UserError as error:
        one_line(error)


@bounded(200)
@given(kind=st.sampled_from(list(EXAMPLES)), content=TREES, sealed=st.booleans(), part=st.integers(0, 5))
def test_json_of_any_form(kind: str, content: Any, sealed: bool, part: int, folder: Path) -> None:
    names = list(EXAMPLES[kind])
    changed = EXAMPLES[kind] | {names[part]: content} if part < len(names) else content
    if sealed and isinstance(changed, dict):
        changed = changed | {SEAL: seal(changed)}
    path = folder / kind
    path.write_text(json.dumps(changed), encoding="utf-8")
    try:
        assert isinstance(read_json(path), dict)
        if kind == "captions.json":
            assert all("/" not in name and "." not in name for name in read_captions(folder))
    except UserError as error:
        one_line(error)


@bounded(60)
@given(edits=EDITS)
def test_damaged_histories(edits: list, trained: Path, folder: Path) -> None:
    weights_path(folder, "vae").write_bytes(weights_path(trained, "vae").read_bytes())
    history_path(folder, "vae").write_bytes(edited(history_path(trained, "vae").read_bytes(), edits))
    try:
        assert load_history(folder, "vae") == load_history(trained, "vae")
    except UserError as error:
        one_line(error)


# --- parameters and notebooks -----------------------------------------------------------------------------------


@bounded(300)
@given(texts=st.lists(st.text(max_size=30) | st.builds("{}={!r}".format, st.sampled_from(("epochs", "lr")), TREES)))
def test_parameters_of_notebooks(texts: list[str]) -> None:
    declared = {"epochs": 0, "lr": 1.0, "fresh": False, "name": ""}
    try:
        parameters = parse_parameters(texts)
        check_parameters(parameters, declared)
    except UserError as error:
        assert str(error)
    else:
        assert all(type(v) is type(declared[k]) or type(v) is int and k == "lr" for k, v in parameters.items())


@bounded(60)
@given(edits=EDITS)
def test_damaged_notebooks(edits: list, folder: Path) -> None:
    path = folder / "notebook.ipynb"
    path.write_bytes(edited(notebook_path("03_vae_training").read_bytes(), edits))
    try:
        assert isinstance(declared_parameters(path), dict)
    except UserError as error:
        one_line(error)


# --- the codec --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def codec(trained: Path, photos: Dataset) -> Codec:
    return load_codec(weights_path(trained, "vae"), photos)


@pytest.fixture(scope="module")
def content(codec: Codec, photos: Dataset) -> bytes:
    return codec.compress(photos.test.images[:5].permute(0, 2, 3, 1).numpy(), Plan.of(30))


@bounded(150)
@given(edits=EDITS, forged=st.booleans())
def test_damaged_containers(edits: list, forged: bool, codec: Codec, content: bytes) -> None:
    size = CHECKSUM.size if forged else 0
    damaged = edited(content[: len(content) - size], edits)
    damaged += CHECKSUM.pack(zlib.crc32(damaged)) if forged else b""
    try:
        decoded = codec.decompress(damaged)
    except UserError as error:
        one_line(error)
    else:
        assert decoded.dtype == np.uint8 and (forged or damaged == content)


@bounded(300)
@given(kind=st.sampled_from(("png", "jpg", "npy")), edits=EDITS, other=st.binary(max_size=200), damaged=st.booleans())
@pytest.mark.filterwarnings("ignore")  # Pillow warns of large images
def test_images_given_to_the_codec(kind: str, edits: list, other: bytes, damaged: bool, folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    buffer = io.BytesIO()
    if kind == "npy":
        np.save(buffer, pixels)
    else:
        Image.fromarray(pixels).save(buffer, "PNG" if kind == "png" else "JPEG")
    path = folder / f"image.{kind}"
    path.write_bytes(edited(buffer.getvalue(), edits) if damaged else other)
    try:
        images = read_pictures([path], tile=True)
    except UserError as error:
        one_line(error)
    else:
        assert images.dtype == np.uint8 and images.ndim == 4 and images.shape[3] == 3
