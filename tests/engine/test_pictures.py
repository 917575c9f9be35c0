"""Picture files are read as a viewer shows them: sixteen bits, turned by EXIF, transparent, large, damaged."""

import re
import struct
import warnings
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from helpers.engine.pictures import read_picture

from ..conftest import refused

RAMP = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3) * 3
GREY = RAMP[..., 0]
HALF = np.where(np.arange(4) < 2, 0, 255).astype(np.uint8)[None].repeat(6, 0)  # alpha: the left half is hidden
ON_WHITE = np.where(HALF[..., None] == 0, 255, RAMP)


def grey_of_16_bits(values: list[int], transparent: int) -> bytes:
    """One row of a PNG whose grey value `transparent` is transparent (tRNS)."""
    size, parts = struct.pack(">IIBBBBB", len(values), 1, 16, 0, 0, 0, 0), b"\x89PNG\r\n\x1a\n"
    rows = zlib.compress(b"\0" + struct.pack(f">{len(values)}H", *values))
    for name, data in ((b"IHDR", size), (b"tRNS", struct.pack(">H", transparent)), (b"IDAT", rows), (b"IEND", b"")):
        parts += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return parts


def palette() -> Image.Image:
    """Red is transparent, blue is not."""
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    return image


def rgba(pixels: np.ndarray, alpha: np.ndarray) -> Image.Image:
    return Image.fromarray(np.dstack([pixels, alpha]))


SHOWN = {  # name of the file: (picture, how it is saved, the pixels that a viewer shows)
    "rgb.png": (Image.fromarray(RAMP), {}, RAMP),
    "wide.png": (Image.fromarray(np.full((2, 2), 20000, np.uint16)), {}, np.full((2, 2, 3), 78)),
    "wide.tif": (Image.fromarray(GREY.astype(np.uint16) * 257), {}, GREY[..., None].repeat(3, 2)),
    "wide.ppm": (Image.fromarray(GREY.astype(np.int32) * 257), {}, GREY[..., None].repeat(3, 2)),
    "hidden.png": (rgba(RAMP, HALF), {}, ON_WHITE),
    "hidden.tif": (rgba(RAMP, HALF), {}, ON_WHITE),
    "hidden.webp": (rgba(RAMP, HALF), {"lossless": True}, ON_WHITE),
    "grey_hidden.png": (rgba(GREY[..., None].repeat(3, 2), HALF).convert("LA"), {}, np.where(
        HALF[..., None] == 0, 255, GREY[..., None].repeat(3, 2))),
    "half.png": (rgba(np.zeros((1, 1, 3), np.uint8), np.full((1, 1), 128, np.uint8)), {}, np.full((1, 1, 3), 127)),
    "palette.png": (palette(), {"transparency": 0}, [[[255, 255, 255], [0, 0, 255]]]),
    "palette.gif": (palette(), {"transparency": 0}, [[[255, 255, 255], [0, 0, 255]]]),
    "key.png": (Image.fromarray(RAMP[:1, :2]), {"transparency": (0, 3, 6)}, [[[255, 255, 255], RAMP[0, 1]]]),
    "one_bit.png": (Image.fromarray(HALF).convert("1"), {}, HALF[..., None].repeat(3, 2)),
}  # fmt: skip


@pytest.mark.parametrize("name", SHOWN)
def test_a_picture_is_read_as_a_viewer_shows_it(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture, options, expected = SHOWN[name]
    picture.save(tmp_path / name, **options)
    for _ in range(2):
        pixels = read_picture(tmp_path / name)
        assert pixels.dtype == np.uint8 and np.array_equal(pixels, np.asarray(expected))
    told = [line for line in capsys.readouterr().err.splitlines() if str(tmp_path) in line and "become white" in line]
    assert len(told) == bool(re.match("hidden|grey_|half|palette|key", name))  # once, however many there are


def test_what_is_transparent_in_sixteen_bits_becomes_white(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(grey_of_16_bits([20000, 300, 301, 65535], transparent=300))
    assert read_picture(tmp_path / "a.png")[0, :, 0].tolist() == [78, 255, 1, 255]


@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("value", range(1, 9))
def test_a_turned_photo_is_turned_back(kind: str, value: int, tmp_path: Path) -> None:
    upright = np.asarray(Image.fromarray(np.kron(RAMP, np.ones((16, 16, 1), np.uint8))))
    undo = {
        2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.swapaxes(0, 1),
        6: np.rot90, 7: lambda a: np.rot90(a, 2).swapaxes(0, 1), 8: lambda a: np.rot90(a, -1),
    }  # fmt: skip
    stored, options = undo.get(value, np.asarray)(upright), {"lossless": True} if kind == "webp" else {}
    exif = Image.Exif()
    exif[0x0112] = value
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / f"a.{kind}", exif=exif, **options)
    pixels = read_picture(tmp_path / f"a.{kind}")
    assert pixels.shape == upright.shape and np.abs(pixels.astype(int) - upright).mean() < (5 if kind == "jpg" else 0.1)


def test_damaged_exif_data_turn_nothing(tmp_path: Path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "a.png", exif=b"Exif\0\0garbage")
    assert np.array_equal(read_picture(tmp_path / "a.png"), RAMP)


def test_what_nobody_can_show_is_one_line(tmp_path: Path) -> None:
    for name, kind in (("float.tif", np.float32), ("long.tif", np.int32)):
        Image.fromarray(GREY.astype(kind)).save(tmp_path / name)
        refused(lambda name=name: read_picture(tmp_path / name), f"cannot read {tmp_path / name}: its pixels have 32")
    Image.fromarray(RAMP).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:50])
    refused(lambda: read_picture(tmp_path / "cut.png"), "cut.png: it is no picture, or it is damaged")
    (tmp_path / "text.png").write_text("no picture", encoding="utf-8")
    refused(lambda: read_picture(tmp_path / "text.png"), "text.png: it is no picture, or it is damaged")


def test_what_is_left_out_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sixteen bits a value of three channels, and all but the first picture of an animation."""
    deep = np.arange(16 * 16 * 3, dtype=np.uint16).reshape(16, 16, 3) * 80
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "rgb.png").write_bytes(imagecodecs.png_encode(deep))
    assert np.abs(read_picture(tmp_path / "deep" / "rgb.png") - deep / 257).max() <= 1
    assert "16 bits" in capsys.readouterr().err
    first, second = (Image.fromarray(picture) for picture in (RAMP, RAMP[::-1]))
    first.save(tmp_path / "two.webp", save_all=True, append_images=[second], lossless=True)
    assert np.array_equal(read_picture(tmp_path / "two.webp"), RAMP)
    assert "first picture" in capsys.readouterr().err


def test_a_picture_that_would_fill_the_memory_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow warns above it and refuses above twice as many
    for side in (40, 50):
        Image.new("1", (side, side)).save(tmp_path / f"{side}.png")
    with warnings.catch_warnings(action="error"):
        assert read_picture(tmp_path / "40.png").shape == (40, 40, 3)
    refused(lambda: read_picture(tmp_path / "50.png"), "50.png: it has more than 2,000 pixels")
