"""Tiles cover images of any size, users' image files are read or refused, and a folder appears whole or not at all."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.engine import vaec
from helpers.engine.errors import UserError


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(32, 32), (1, 1), (33, 64), (70, 45)])
def test_tiles_cover_images_of_any_size(size: tuple[int, int]) -> None:
    some = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    tiles = vaec.to_tiles(some)
    assert len(tiles) == 2 * np.prod(vaec.tile_grid(*size))
    assert np.array_equal(vaec.from_tiles(tiles, vaec.Container(2, *size)), some)


WHOLE = vaec.Container(3, 40, 50, 4, vaec.RESTORED, 1.5, b"12345678", b"code", b"87654321", b"and pixels..")


def test_a_container_holds_what_was_put_in() -> None:
    content = vaec.write_container(WHOLE)
    assert vaec.read_container(content) == WHOLE and len(content) == vaec.OVERHEAD + 4 + 12 + 12
    code = WHOLE._replace(step=0, kind=0, weights=bytes(8), rest=b"")
    assert vaec.read_container(vaec.write_container(code)) == code
    assert len(vaec.write_container(code)) == vaec.OVERHEAD + 4
    for wrong, words in ((content[:9], "missing"), (content[:38], "checksum"), (b"PNG" + content, "not a file of")):
        with pytest.raises(UserError, match=words):
            vaec.read_container(wrong)
    with pytest.raises(UserError, match="version 9"):
        vaec.read_container(content[:4] + b"\x09" + content[5:])
    with pytest.raises(UserError, match="makes no sense"):
        vaec.read_container(vaec.write_container(WHOLE._replace(code_step=1e6)))
    with pytest.raises(UserError, match="too large"):
        vaec.write_container(WHOLE._replace(width=70_000))


def test_a_file_that_ends_early_still_has_its_first_part() -> None:
    content = vaec.write_container(WHOLE)
    for end in range(vaec.OVERHEAD + 4, len(content)):
        first = vaec.read_container(content[:end], preview=True)
        assert (first.code, first.rest) == (b"code", b"")
        with pytest.raises(UserError, match="damaged.*--preview"):
            vaec.read_container(content[:end])


def test_image_files_of_all_kinds_become_one_array(images: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(images[0]).save(tmp_path / "a.png")
    Image.fromarray(images[1]).save(tmp_path / "b.jpg", quality=95)
    Image.fromarray(images[1]).convert("L").save(tmp_path / "grey.png")
    np.save(tmp_path / "many.npy", images)
    np.save(tmp_path / "one.npy", images[0])
    read = vaec.read_pictures([tmp_path / name for name in ("a.png", "b.jpg", "grey.png", "many.npy", "one.npy")])
    assert read.shape == (9, 32, 32, 3) and read.dtype == np.uint8
    assert np.array_equal(read[0], images[0]) and np.array_equal(read[3:8], images)
    Image.fromarray(images[0]).resize((70, 45)).save(tmp_path / "large.png")
    assert vaec.read_pictures([tmp_path / "large.png"], tile=True).shape == (1, 45, 70, 3)
    with pytest.raises(UserError, match="large.png is 70x45, not 32x32: resize .* --tile"):
        vaec.read_pictures([tmp_path / "large.png"])
    with pytest.raises(UserError, match="one size"):
        vaec.read_pictures([tmp_path / "a.png", tmp_path / "large.png"], tile=True)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing.png", "No such file"), ("broken.png", "it is no picture"), ("text.png", "it is no picture"),
        ("float.npy", "must be uint8 .* not float64"), ("objects.npy", "it is no picture"),
        ("archive.npy", "it is no picture"), ("", "Is a directory"),
    ],
)  # fmt: skip
def test_what_is_no_image_is_named(name: str, words: str, images: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(images[0]).save(tmp_path / "broken.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "broken.png").read_bytes()[:200])
    (tmp_path / "text.png").write_text("not an image", encoding="utf-8")
    np.save(tmp_path / "float.npy", images / 255)
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    np.savez(tmp_path / "archive.npz", images)
    (tmp_path / "archive.npz").rename(tmp_path / "archive.npy")
    with pytest.raises(UserError, match=f"{re.escape(str(tmp_path / name))}.*{words}"):
        vaec.read_pictures([tmp_path / name])


def test_decompressed_images_stay_in_their_folder(images: np.ndarray, tmp_path: Path) -> None:
    elsewhere, plain, empty = tmp_path / "elsewhere", tmp_path / "plain", tmp_path / "empty"
    elsewhere.mkdir()
    (elsewhere / "mine").write_text("mine", encoding="utf-8")
    (tmp_path / "link").symlink_to(elsewhere)
    plain.write_text("mine", encoding="utf-8")
    for folder in (elsewhere, tmp_path / "link", plain, plain / "below"):
        with pytest.raises(UserError, match="name a new one|cannot write"):
            vaec.write_pictures(images, folder)
    assert [path.name for path in elsewhere.iterdir()] == ["mine"] and plain.read_text(encoding="utf-8") == "mine"
    empty.mkdir()
    for folder in (empty, tmp_path / "new" / "folder"):
        vaec.write_pictures(images[:2], folder)
        assert sorted(path.name for path in folder.iterdir()) == ["00000.png", "00001.png"]
        assert np.array_equal(np.asarray(Image.open(folder / "00001.png")), images[1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "empty", "link", "new", "plain"]
