"""The explorer of the page: its ONNX model is the notebook's."""

import base64
import lzma
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from helpers.data import LEVEL
from helpers.engine import sha256_of_file, write_tensors
from helpers.models import Decoder
from helpers.publish.explorer_page import (
    KNOWN_STEPS,
    OCTAVES,
    CodeGradient,
    FirstLook,
    fragment,
    logarithms,
    networks,
    packed,
    pictures_of,
    pulled_back,
    sharp_decoder,
)
from helpers.run import load_model, load_vae
from helpers.settings import profile_settings
from helpers.show.reader import ExplorerData, Reader

from ..conftest import TINY


def store_second_decoder(folder: Path, vae_sha256: str) -> None:
    """Another decoder of the VAE's size, with weights from a seed."""
    settings = profile_settings("smoke", "sharp", "photos", **TINY)
    torch.manual_seed(1)
    weights = Decoder(settings.latent_dim, settings.width).state_dict()
    header = {"kind": "weights", "settings": settings.as_dict(), "class_names": ("a", "b")}
    write_tensors(folder / "sharp.safetensors", weights, header | {"run": {"vae_sha256": vae_sha256}})


@pytest.fixture(scope="module")
def folder(explorer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explorer") / "parts"
    shutil.copytree(explorer_folder, folder)
    store_second_decoder(folder, sha256_of_file(folder / "vae.safetensors"))
    return folder


@pytest.fixture(scope="module")
def files(folder: Path, parts: ExplorerData) -> dict[str, bytes]:
    return networks(folder, parts)


def session(files: dict[str, bytes], graph: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # weights of the other graph are not used
    weights = files[{"look": "encoder", "sharp": "sharp"}.get(graph, "decoder") + ".weights"]
    return onnxruntime.InferenceSession(files[graph] + weights, options)


def test_the_decoder_gives_pytorchs_pixels(files: dict[str, bytes], reader: Reader, parts: ExplorerData) -> None:
    read = session(files, "read")
    noise = 2 * torch.randn(20, parts.codes.shape[1], generator=torch.Generator().manual_seed(0))
    for z in torch.cat([parts.codes[:20], noise]).split(1):
        with torch.no_grad():
            expected = reader(z)
        image, belief, size, nearest = read.run(None, {"z": z.numpy()})
        assert np.abs(image - expected.image.numpy()).max() < 3 * LEVEL
        assert np.abs(belief - expected.belief.numpy()).max() < 2e-3
        assert size.item() == pytest.approx(expected.size.item(), abs=0.05)
        y, known = (z - reader.mean) @ reader.to_y, reader.known[[nearest.item(), expected.nearest.item()]]
        ours, theirs = (known - y).square().sum(1)  # of two nearly equally near ones rounding may choose the other:
        steps = reader.known.square().mean().sqrt() / KNOWN_STEPS
        assert ours <= theirs + 2 * steps * y.abs().sum() + 1e-5 * y.square().sum()  # half a step for each number


def test_the_second_decoder_gives_its_own_pixels(files: dict[str, bytes], folder: Path, parts: ExplorerData) -> None:
    sharp = load_model(folder / "sharp.safetensors")[0]
    for z in parts.codes[:10].split(1):
        image = session(files, "sharp").run(["image"], {"z": z.numpy()})[0]
        with torch.no_grad():
            assert np.abs(image - sharp(z).numpy()).max() < 5 * LEVEL


def test_a_second_decoder_of_another_vae_is_left_out(folder: Path, explorer_folder: Path, tmp_path: Path) -> None:
    assert sharp_decoder(folder) is not None and sharp_decoder(explorer_folder) is None
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    store_second_decoder(tmp_path, "0" * 64)
    assert sharp_decoder(tmp_path) is None
    page = fragment(tmp_path)
    assert 'id="ex-image"' in page and 'id="ex-sharp"' not in page and 'id="explorer-sharp"' not in page


def test_the_gradient_by_rules_is_that_of_autograd(explorer_folder: Path, parts: ExplorerData) -> None:
    decoder = load_vae(explorer_folder / "vae.safetensors").decoder
    z, x = parts.codes[:3].clone().requires_grad_(), pictures_of(parts, 3)
    error = decoder(z) - x
    (expected,) = torch.autograd.grad(error.square().sum() / 2, z)
    found = pulled_back(decoder.net, z.detach(), error.detach())
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(TypeError, match="no rule"):
        pulled_back(nn.Sequential(nn.Tanh()), z, z)


def test_a_step_against_the_gradient_lessens_the_error(files: dict[str, bytes], parts: ExplorerData) -> None:
    x = pictures_of(parts, 1).numpy()
    y = session(files, "look").run(["y"], {"x": x})[0]
    descent = session(files, "gradient")
    z, error, gradient = descent.run(None, {"y": y, "x": x})
    with torch.no_grad():
        reference = CodeGradient(Decoder(parts.codes.shape[1], 8), parts.code_model)(torch.tensor(y), torch.tensor(x))
    assert np.allclose(z, reference[0], atol=1e-2)  # the same axes, whatever the decoder
    step = 1e-3 * error / np.square(gradient).sum()
    assert descent.run(["error"], {"y": y - step * gradient, "x": x})[0] < error


def test_the_first_look_reads_as_the_vae_does(
    files: dict[str, bytes], explorer_folder: Path, parts: ExplorerData
) -> None:
    vae = load_vae(explorer_folder / "vae.safetensors").eval()
    look = session(files, "look")
    for x in pictures_of(parts, 5).split(1):
        y, deviation, features, code = look.run(None, {"x": x.numpy()})
        with torch.no_grad():
            exact = FirstLook(vae, parts.code_model).eval()(x)
            belief = vae.classify(x).softmax(1)
        assert np.abs(features - belief.numpy()).max() < 0.05  # the second look does not touch the features
        for ours, theirs in zip((y, deviation), exact[:2], strict=True):
            assert np.abs(ours - theirs.numpy()).max() < 0.2 * max(1.0, theirs.abs().max().item())
        assert np.abs(code - exact[3].numpy()).max() < 0.05


def test_equal_weights_give_equal_bytes(files: dict[str, bytes], folder: Path, parts: ExplorerData) -> None:
    assert networks(folder, parts) == files


def test_widths_come_back_within_a_part_of_an_octave() -> None:
    widths = np.array([[0.01, 0.3], [5.0, 200.0]])
    back = 2 ** (np.frombuffer(base64.b64decode(logarithms(widths)), np.uint8) / OCTAVES - 8)
    assert np.allclose(back.reshape(2, 2), widths, rtol=2 ** (1 / OCTAVES / 2) - 1 + 1e-9)


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
