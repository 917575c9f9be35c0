"""A folder of images for the tests of folders and arrays."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes of 70 random images each, as an ImageFolder, in three formats."""
    rng = np.random.default_rng(0)
    for name, suffix, mode in (("cats", "png", "RGB"), ("dogs", "jpg", "L"), ("ships", "webp", "RGBA")):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(70):
            image = Image.fromarray(rng.integers(0, 256, (32, 32, 4), dtype=np.uint8)).convert(mode)
            image.save(tmp_path / "images" / name / f"{number}.{suffix}")
    return tmp_path / "images"
