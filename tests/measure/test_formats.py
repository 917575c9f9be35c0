"""Other ways of storing images are measured on what comes out of real files, and a stop loses one measurement."""

from pathlib import Path

import numpy as np
import pytest

from helpers.data import Dataset
from helpers.measure import formats
from helpers.show.images import pixels


@pytest.fixture(scope="module")
def images(photos: Dataset) -> np.ndarray:
    return pixels(photos.test.images[:12])


def test_a_mosaic_shows_every_image_whole(images: np.ndarray) -> None:
    picture = formats.mosaic(images)
    assert picture.shape == (4 * 32, 3 * 32, 3)
    for number, image in enumerate(images):
        top, left = 32 * (number // 3), 32 * (number % 3)
        assert np.array_equal(picture[top : top + 32, left : left + 32], image)


def test_psnr_is_that_of_all_values_together(images: np.ndarray) -> None:
    changed = images.copy()
    changed[0] = np.where(changed[0] > 127, changed[0] - 6, changed[0] + 6)
    assert formats.pooled_psnr(images, changed) == pytest.approx(10 * np.log10(255**2 / (36 / len(images))))
    assert formats.pooled_psnr(images, images) == np.inf


@pytest.mark.parametrize("name", formats.LOSSLESS)
def test_lossless_formats_lose_nothing(images: np.ndarray, name: str) -> None:
    picture = formats.mosaic(images)
    size, decoded = formats.LOSSLESS[name](picture)
    assert np.array_equal(decoded, picture) and 0.1 * picture.size < size < picture.size


def test_jpeg_ls_keeps_its_bound_and_gets_smaller(images: np.ndarray) -> None:
    picture, sizes = formats.mosaic(images), []
    for error in (0, 1, 4):
        size, decoded = formats.jpeg_ls(picture, error)
        sizes.append(size)
        assert np.abs(decoded.astype(int) - picture).max() == error
    assert sizes == sorted(sizes, reverse=True)


def test_every_lossy_curve_rises_and_spans_the_table(images: np.ndarray) -> None:
    found = formats.curves(formats.mosaic(images), len(images))
    assert set(found) == {"JPEG", "WebP", "AVIF", "JPEG 2000", "JPEG XL"}
    for name, points in found.items():
        quality = [psnr for _, psnr in points]
        assert quality == sorted(quality) and quality[0] < 30 and quality[-1] > (35 if name == "WebP" else 40), (
            name
        )  # WebP halves its colours


def test_pca_comes_nearer_with_every_byte(photos: Dataset, images: np.ndarray) -> None:
    points = formats.linear_curve(photos.train.images[:500, :, :8, :8], images[:, :8, :8], (80.0, 20.0, 4.0))
    assert [psnr for _, psnr in points] == sorted(psnr for _, psnr in points) and points[-1][1] > 40


def test_between_measured_points_bytes_grow_evenly_in_logarithms() -> None:
    points = [(400.0, 40.0), (100.0, 20.0)]
    assert formats.at_psnr(points, 30) == pytest.approx(200)
    assert formats.at_psnr([*points, (150.0, 19.5)], 30) == pytest.approx(200)  # worse than a smaller file
    assert formats.at_psnr(points, 19) is None and formats.at_psnr(points, 41) is None


def test_what_was_measured_is_kept_for_the_same_weights_only(tmp_path: Path) -> None:
    path, calls = tmp_path / "scores.json", []

    def part(name: str, fails: bool = False) -> formats.Callable[[], float]:
        def run() -> float:
            calls.append(name)
            if fails:
                raise RuntimeError("stopped")
            return 1.5

        return run

    about = {"codec": "a", "environment": {"day": 1}}
    with pytest.raises(RuntimeError):
        formats.gathered(path, about, {"one": part("one"), "two": part("two", fails=True)})
    again = formats.gathered(path, about | {"environment": {"day": 2}}, {"one": part("one"), "two": part("two")})
    assert calls == ["one", "two", "two"] and again == {"provenance": about, "one": 1.5, "two": 1.5}
    formats.gathered(path, about | {"codec": "b"}, {"one": part("one")})
    assert calls[3:] == ["one"]
