"""The explorer inside the report page: encoder and decoders as ONNX, run by onnxruntime-web, all packed into it."""

import io
import itertools
import json
import lzma
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from markupsafe import Markup
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from .. import trellis
from ..axes import STEP, CodeModel
from ..codec import load_codec
from ..data import to_unit
from ..detail import FAINTEST, DetailModel
from ..engine import weights_path
from ..engine.vaec import CHECKSUM, IDENTITY, OVERHEAD
from ..models import VAE, Decoder, Residual
from ..pixelcoder import CHANNELS
from ..quality import CODE_ALONE, CODE_BEFORE_DETAIL, DETAIL_STEPS, FROM_PIXELS
from ..run import load_model, load_vae, origin_of
from ..show.reader import SHEET_COLUMNS, ExplorerData, ExplorerReading, Reader, load_explorer_data
from .page import ASSETS, TEMPLATES, base64_of
from .rounded import exported, layer_steps, weights_file, without_weights

ENGINE = ASSETS / "onnxruntime-web"  # version, origin and licence in its README
# Relative squared errors that rounding the weights may cause: of pixels; of those of the sharp decoder, which are only
# looked at; and of codes and features' logits. The page improves codes by descent on the picture, as the codec does.
DECODER_ERROR, SHARP_ERROR, ENCODER_ERROR = 2e-4, 4e-3, 0.08
KNOWN_STEPS = 16.0  # in the root mean square of the neighbours' codes
CALIBRATED_ON = 16  # training images, from the sheet
# For numbers of 8 bits, which hardly repeat: no bits of position or of the byte before help to foresee the next.
LZMA = {"id": lzma.FILTER_LZMA1, "preset": 9, "lc": 0, "lp": 0, "pb": 0, "mf": lzma.MF_HC4, "nice_len": 32, "depth": 4}
OCTAVES = 16  # widths are sent as whole numbers of so many parts of an octave: they are off by 2.2 % at most


def reader_of(folder: Path, parts: ExplorerData) -> Reader:
    """The module that the page runs, with the weights of a folder, on the CPU."""
    return Reader(load_vae(weights_path(folder, "vae")).cpu(), parts.code_model, parts.neighbours).eval()


class FirstLook(nn.Module):
    """An image x (1, 3, 32, 32) -> its code in the codec's coordinates, the posterior's deviation, and two beliefs.

    The second look of the VAE is left out to keep the page small; descent on the picture replaces it.
    """

    def __init__(self, vae: VAE, code_model: CodeModel) -> None:
        super().__init__()
        self.encoder, self.head, self.code_head = vae.encoder, vae.head, vae.code_head
        self.mean = nn.Buffer(code_model.mean)
        self.to_y = nn.Buffer(torch.linalg.inv(code_model.axes.double()).float())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """y (1, d), deviation (1, d), the classifier's probabilities from features and from the code (1, classes)."""
        h, features = self.encoder(x)
        posterior = VAE.posterior(h)
        beliefs = self.head(features).softmax(1), self.code_head(posterior.mu).softmax(1)
        return (posterior.mu - self.mean) @ self.to_y, (posterior.logvar / 2).exp(), *beliefs


class CodeGradient(nn.Module):
    """A code y (1, d) and an image x -> z, the squared error of its picture, and half the error's gradient at y."""

    def __init__(self, decoder: Decoder, code_model: CodeModel) -> None:
        super().__init__()
        self.decoder = decoder
        self.mean, self.axes = nn.Buffer(code_model.mean), nn.Buffer(code_model.axes)

    def forward(self, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z = self.mean + y @ self.axes
        error = self.decoder(z) - x
        return z, error.square().sum((1, 2, 3)), pulled_back(self.decoder.net, z, error) @ self.axes.T


def pulled_back(layers: nn.Sequential, x: Tensor, gradient: Tensor) -> Tensor:
    """The gradient at the input x of layers, given that at their output; ONNX knows no automatic differentiation."""
    inputs = []
    for layer in layers:
        inputs.append(x)
        x = layer(x)
    for layer, seen in zip(reversed(layers), reversed(inputs), strict=True):
        match layer:
            case nn.Linear():
                gradient = gradient @ layer.weight
            case nn.Unflatten():
                gradient = gradient.flatten(1)
            case nn.GELU():
                density = (-seen.square() / 2).exp() / math.sqrt(2 * math.pi)
                gradient = gradient * ((1 + (seen / math.sqrt(2)).erf()) / 2 + seen * density)
            case nn.Sigmoid():
                gradient = gradient * seen.sigmoid() * (1 - seen.sigmoid())
            case nn.PixelShuffle():
                gradient = F.pixel_unshuffle(gradient, layer.upscale_factor)
            case nn.ConvTranspose2d():
                gradient = F.conv2d(gradient, layer.weight, stride=2, padding=1)
            case nn.Conv2d():
                gradient = F.conv_transpose2d(gradient, layer.weight, padding=1)
            case Residual():
                path = nn.Sequential(layer.gelu, layer.first, layer.gelu, layer.second)
                gradient = gradient + pulled_back(path, seen, gradient)
            case _:
                raise TypeError(f"no rule for {layer}")
    return gradient


def pictures_of(parts: ExplorerData, n: int) -> Tensor:
    """The first n training images of the sheet, (n, 3, 32, 32) in [0, 1]."""
    with Image.open(io.BytesIO(parts.sheet)) as sheet:
        pixels = torch.from_numpy(np.array(sheet.convert("RGB")))
    height, width = (size // 32 for size in pixels.shape[:2])
    tiles = pixels.view(height, 32, width, 32, 3).permute(0, 2, 4, 1, 3).flatten(0, 1)
    return to_unit(tiles[:n].contiguous())


def sharp_decoder(folder: Path) -> nn.Module | None:
    """The second decoder of a folder, None where there is none of its VAE."""
    path = weights_path(folder, "sharp")
    model, provenance = load_model(path) if path.is_file() else (None, {"run": {}})
    fits = origin_of("sharp", folder).items() <= provenance["run"].items()
    return model.cpu().eval() if model is not None and fits else None


def networks(folder: Path, parts: ExplorerData) -> dict[str, bytes]:
    """The files of three or four graphs (without a sharp decoder), and of the weights that they need."""
    reader, d = reader_of(folder, parts), parts.codes.shape[1]
    vae = load_vae(weights_path(folder, "vae")).cpu().eval()
    assert isinstance(reader.decoder, Decoder)
    look, gradient = FirstLook(vae, parts.code_model), CodeGradient(reader.decoder, parts.code_model)
    x = pictures_of(parts, CALIBRATED_ON)
    codes = parts.neighbours[:CALIBRATED_ON]

    def seen() -> list[Tensor]:
        h, features = look.encoder(x)
        return [h[:, :d], look.head(features)]

    fine = layer_steps(reader, lambda: [reader.decoder(codes).flatten(1)], DECODER_ERROR) | {"known": KNOWN_STEPS}
    coarse = layer_steps(look, seen, ENCODER_ERROR)
    names = {"read": list(ExplorerReading._fields), "gradient": ["z", "error", "gradient"],
             "look": ["y", "deviation", "features", "code"]}  # fmt: skip
    point, image = torch.zeros(1, d), torch.zeros(1, 3, 32, 32)
    read = without_weights(exported(reader, {"z": point}, names["read"]), fine)
    slope = without_weights(exported(gradient, {"y": point, "x": image}, names["gradient"]), fine)
    looked = without_weights(exported(look, {"x": image}, names["look"]), coarse)
    assert all(np.array_equal(read[1][name], slope[1][name]) for name in read[1].keys() & slope[1].keys())
    files = {"read": read[0], "gradient": slope[0], "decoder.weights": weights_file(read[1] | slope[1]),
             "look": looked[0], "encoder.weights": weights_file(looked[1])}  # fmt: skip
    if sharp := sharp_decoder(folder):
        steps = layer_steps(sharp, lambda: [sharp(codes).flatten(1)], SHARP_ERROR)
        files["sharp"], weights = without_weights(exported(sharp, {"z": point}, ["image"]), steps)
        files["sharp.weights"] = weights_file(weights)
    return files


def printable(content: bytes) -> Markup:
    """Bytes as characters from "!" to "}" without "<": two for 13 bits, where base64 needs two for 12."""
    bits = np.unpackbits(np.frombuffer(content, np.uint8))
    groups = np.pad(bits, (0, -len(bits) % 13)).reshape(-1, 13) @ (1 << np.arange(12, -1, -1, dtype=np.uint16))
    digits = np.stack(np.divmod(groups, 91), 1)
    return Markup((digits + ord("#")).astype(np.uint8).tobytes().decode("ascii").replace("<", "!"))


def packed(content: bytes) -> Markup:
    """Bytes as the text of a .lzma file, which unpack.js reads."""
    return printable(lzma.compress(content, lzma.FORMAT_ALONE, filters=[LZMA]))


def floats(values: torch.Tensor) -> str:
    """A tensor as little-endian float32 in base64."""
    return base64_of(values.contiguous().numpy().astype("<f4").tobytes())


def tiles_of_starts(parts: ExplorerData) -> list[int]:
    """Where the image of each starting point is in the sheet; -1 for a mean code."""
    places = itertools.count(len(parts.neighbours))
    return [next(places) if start.image >= 0 else -1 for start in parts.starts]


def logarithms(widths: np.ndarray) -> str:
    """Widths, standard deviations of any shape, as bytes in base64: whole parts of octaves above 2^-8."""
    return base64_of(np.rint(OCTAVES * (np.log2(widths) + 8)).clip(0, 255).astype(np.uint8).tobytes())


def codec_data(code_model: CodeModel, detail: DetailModel) -> dict[str, Any]:
    """What the page needs to measure a picture's bytes as the codec does, up to the quality that codes pixels."""
    return {
        "step": STEP, "noise": trellis.NOISE, "thinnest": trellis.THINNEST, "faintest": FAINTEST, "octaves": OCTAVES,
        "qualities": [CODE_ALONE, FROM_PIXELS], "fineness": CODE_BEFORE_DETAIL, "steps": DETAIL_STEPS,
        "channels": CHANNELS, "header": [OVERHEAD, IDENTITY + CHECKSUM.size], "sigma": code_model.sigma.item(),
        "code": logarithms(code_model.widths.numpy()),
        "colours": floats(detail.colours), "detail": logarithms(detail.widths.numpy()),
    }  # fmt: skip


def fragment(folder: Path) -> str:
    """The explorer as HTML; "" without its parts. UserError: a damaged part."""
    parts = load_explorer_data(folder)
    if parts is None:
        return ""
    directions, files = parts.directions, networks(folder, parts)
    graphs = {name: base64_of(file) for name, file in files.items() if not name.endswith(".weights")}
    codec = load_codec(weights_path(folder, "vae"))
    data = {
        "classes": parts.class_names, "tiles": tiles_of_starts(parts), "directions": len(parts.effects),
        "columns": SHEET_COLUMNS, "sheet": base64_of(parts.sheet),
        "mean": floats(directions.mean), "axes": floats(directions.axes), "std": floats(directions.std),
        "places": floats(directions.place(parts.codes)), "deviations": floats(parts.deviations),
        "plane": floats(parts.plane), "seen": floats(parts.seen), "labels": parts.labels.tolist(),
        "graphs": graphs, "codec": codec_data(codec.code_model, codec.detail_model),
    }  # fmt: skip
    return TEMPLATES.get_template("explorer.html.j2").render(
        effects=list(zip(parts.effects, directions.share.tolist(), strict=False)),
        classes=parts.class_names, starts=parts.starts, n_seen=len(parts.seen), last_quality=FROM_PIXELS - 1,
        data=packed(json.dumps(data).encode()),
        weights={name.removesuffix(".weights"): packed(files[name]) for name in files if name.endswith(".weights")},
        engine=packed((ENGINE / "ort.wasm.bundle.min.mjs").read_bytes()),
        wasm=printable((ENGINE / "ort-wasm-simd-threaded.wasm.lzma").read_bytes()),
    )  # fmt: skip
