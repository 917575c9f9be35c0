"""The explorer of the page: its ONNX model is the notebook's."""

import lzma

import numpy as np
import onnxruntime
import pytest
import torch

from helpers.data import LEVEL
from helpers.publish.explorer_page import packed, step_of, to_onnx
from helpers.show.reader import ExplorerData, Reader


def test_the_onnx_model_gives_pytorchs_pixels(reader: Reader, parts: ExplorerData) -> None:
    session = onnxruntime.InferenceSession(to_onnx(reader, parts.codes.shape[1]))
    noise = 2 * torch.randn(20, parts.codes.shape[1], generator=torch.Generator().manual_seed(0))
    for z in torch.cat([parts.codes[:20], noise]).split(1):
        with torch.no_grad():
            expected = reader(z)
        image, belief, size, nearest = session.run(None, {"z": z.numpy()})
        assert np.abs(image - expected.image.numpy()).max() < 2 * LEVEL
        assert np.abs(belief - expected.belief.numpy()).max() < 2e-3
        assert size.item() == pytest.approx(expected.size.item(), abs=0.05)
        y, known = (z - reader.mean) @ reader.to_y, reader.known[[nearest.item(), expected.nearest.item()]]
        ours, theirs = (known - y).square().sum(1)  # of two nearly equally near ones rounding may choose the other:
        rounding = step_of(reader.known.numpy()).item() * y.abs().sum() + 1e-6 * y.square().sum()
        assert ours <= theirs + 2 * rounding  # |y - k|^2 has -2 y k, each number of k moved by half a step at most


def test_equal_weights_give_equal_bytes(reader: Reader, parts: ExplorerData) -> None:
    assert to_onnx(reader, parts.codes.shape[1]) == to_onnx(reader, parts.codes.shape[1])


@pytest.mark.parametrize("size", [0, 1, 12, 13, 5000])
def test_packed_bytes_are_plain_characters_that_give_them_back(size: int) -> None:
    content = np.random.default_rng(size).integers(0, 256, size, np.uint8).tobytes()
    text = str(packed(content))
    assert text.isascii() and text.isprintable() and "<" not in text
    assert len(text) <= 1.24 * (len(content) * 1.02 + 40)
    digits = [ord(letter) - 35 for letter in text.replace("!", "<")]
    bits = "".join(f"{91 * high + low:013b}" for high, low in zip(digits[::2], digits[1::2], strict=True))
    file = bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits) - 7, 8))
    assert lzma.LZMADecompressor(lzma.FORMAT_ALONE).decompress(file) == content
