"""Images -> bytes -> images with the VAE; `python -m helpers.codec --help` lists its commands.

A file has one or two parts. The *code* is the VAE's: a preview of some 24 dB from 56 bytes an image. The rest is either
*detail*, the frequencies that the decoder's mean lacks, or all *pixels*, one by one, to the last bit (see `residual`).
What decodes it computes without rounding errors, so that a file gives the same pixels on every machine.

Three steps make a code short. *Axes*: codes are turned so that the posterior is round (width 1 along every axis) and
the coordinates are uncorrelated. *Refinement*: the encoder's guess of the posterior mean is improved by gradient steps
on the image itself [Yang, Bamler & Mandt, Improving inference for neural image compression, NeurIPS 2020]. *Coding*:
see `trellis`; at fineness 1 its noise has the variance of the posterior, the noise that the decoder was trained with.
"""

import math
import sys
from copy import deepcopy
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor

from . import trellis
from .axes import STEP, CodeModel, fit_code_model
from .data import Dataset, Split, to_unit
from .detail import DetailCoder, DetailModel, fit_detail
from .engine import UserError, blamed_on, cached, program, sha256_of_file, sha256_of_tensors, vaec, weights_path
from .engine.exact import WEIGHT_BITS, exact_copy, snap
from .engine.files import check_ours, write_whole
from .engine.vaec import DETAIL, PIXELS, RESTORED
from .models import VAE
from .pixelcoder import CHANNELS, PixelNet
from .quality import CODE_BEFORE_DETAIL, PRICE, Plan
from .residual import ResidualCoder
from .run import load_model, load_vae
from .settings import out_dir, profile_settings
from .sources import load_data

BATCH, FITTED = 100, 10_000  # images: at a time; of training, to fit what detail is like
VALUES_IN_A_BIT = 2**13  # at most: see residual.SPARE


class Codec:
    """`compress` and `decompress` for uint8 images (n, h, w, 3). Without a `network` there are no pixels."""

    price = PRICE

    def __init__(
        self, model: VAE, code_model: CodeModel, detail_model: DetailModel, network: PixelNet | None = None
    ) -> None:
        self.model, self.code_model, self.device = model, code_model, model.device
        self.mean, self.axes = code_model.mean.to(self.device), code_model.axes.to(self.device)
        self.to_y = torch.linalg.inv(code_model.axes.double()).float().to(self.device)
        self.widths = code_model.widths.double().numpy()
        self.identity = vaec.identity_of(model.state_dict() | code_model._asdict())
        self.decoder = exact_copy(deepcopy(model.decoder).cpu())
        self.detail_model, self.detail = detail_model, DetailCoder(detail_model)
        self.pixels = ResidualCoder(deepcopy(network).cpu()) if network else None
        self.identities = {DETAIL: vaec.identity_of(detail_model._asdict())}
        if network:
            self.identities |= dict.fromkeys((PIXELS, RESTORED), vaec.identity_of(network.state_dict()))

    def compress(self, images: np.ndarray, plan: Plan, *, tile: bool = False) -> bytes:
        """One file for all images; with `tile` they may have any size, else 32x32. Raises UserError on bad input."""
        vaec.check_images(images, "what is compressed", tile=tile)
        self._check_kind(plan)
        codes = self.codes(vaec.to_tiles(images)) if plan.fineness else None
        return self.write(images, codes, plan)

    @torch.no_grad()
    def codes(self, images: np.ndarray, refinements: int = 4) -> np.ndarray:
        """The refined coordinates y (n, d), float64, of uint8 images (n, 32, 32, 3): what `write` needs."""
        x = to_unit(torch.from_numpy(images).permute(0, 3, 1, 2))
        parts = [self._refined(part.to(self.device), refinements).cpu() for part in x.split(BATCH) if len(part)]
        return torch.cat([torch.empty(0, len(self.mean)), *parts]).double().numpy()

    def write(self, images: np.ndarray, codes: np.ndarray | None, plan: Plan) -> bytes:
        """The file of images (n, h, w, 3) whose tiles have these codes."""
        self._check_kind(plan)
        number, height, width, _ = images.shape
        parts = vaec.Container(number, height, width, plan.step, plan.kind)
        if codes is not None:
            step = float(np.float32(STEP / plan.fineness))
            code, _ = trellis.encode(codes, self.widths, step)
            parts = parts._replace(code_step=step, code_weights=self.identity, code=code)
        if plan.step:
            parts = parts._replace(weights=self.identities[plan.kind], rest=self._rest(images[..., CHANNELS], parts))
        return vaec.write_container(parts)

    def _rest(self, levels: np.ndarray, parts: vaec.Container) -> bytes:
        """The second part of a file of levels in coding order, given the first part."""
        tiles = self._mean_tiles(parts)
        if parts.kind == DETAIL:
            assert tiles is not None
            return self.detail.encode(torch.from_numpy(vaec.to_tiles(levels)).float() - tiles, parts.step)
        mean, price = self._joined(tiles, parts), self.price if parts.kind == RESTORED else 0.0
        return self._pixel_coder().compress(torch.from_numpy(levels), parts.step, mean, price)[0]

    def decompress(self, content: bytes, *, preview: bool = False) -> np.ndarray:
        """The images (n, h, w, 3) uint8 of a file. Raises UserError when it is damaged or of other weights."""
        parts = vaec.read_container(content, preview=preview)
        if preview and not parts.code_step:
            raise UserError("the file has no preview: it was written without a code")
        try:
            tiles = self._mean_tiles(parts)
            levels = self._joined(tiles, parts) if preview or not parts.step else self._levels(parts, tiles)
        except ValueError as error:
            raise UserError(f"the file is damaged: {error}") from None
        if levels is None:
            raise UserError("the file is damaged: it holds nothing")
        return levels[..., CHANNELS].to(torch.uint8).numpy()  # exchanging the first two channels is its own inverse

    def _levels(self, parts: vaec.Container, tiles: Tensor | None) -> Tensor | None:
        """The levels (n, h, w, 3) that the second part gives, given the tiles of the first."""
        self._check_kind(parts)
        vaec.check_identity(parts.weights, self.identities[parts.kind], "file of weights")
        n_values = 3 * parts.number * parts.height * parts.width
        if n_values > 8 * len(parts.rest) * VALUES_IN_A_BIT:
            raise UserError(f"the file is damaged: {len(parts.rest)} bytes cannot hold {n_values} values")
        if parts.kind == DETAIL and tiles is not None:
            change = self.detail.decode(parts.rest, len(tiles), parts.step)
            return self._joined(torch.floor(tiles + change + 0.5).clamp(0, 255).to(torch.uint8), parts)
        shape, mean = (parts.number, parts.height, parts.width, 3), self._joined(tiles, parts)
        kept = self._pixel_coder().decompress(parts.rest, shape, parts.step, mean)
        return self._pixel_coder().restored(kept, parts.step, mean) if parts.kind == RESTORED else kept

    def _mean_tiles(self, parts: vaec.Container) -> Tensor | None:
        """The decoder's mean of all tiles, exact levels (m, 32, 32, 3) in coding order; None where there is no code."""
        if not parts.code_step:
            return None
        vaec.check_identity(parts.code_weights, self.identity, "codec.safetensors")
        n = parts.number * math.prod(vaec.tile_grid(parts.height, parts.width))
        if n * np.log2(len(self.widths)) > 8 * len(parts.code):  # every tile names its class
            raise UserError(f"the file is damaged: {len(parts.code)} bytes cannot hold {n} codes")
        points = trellis.decode(parts.code, n, self.widths, parts.code_step)
        return torch.cat([self.exact_mean(torch.from_numpy(y)) for y in np.split(points, range(BATCH, n, BATCH))])

    @staticmethod
    def _joined(tiles: Tensor | None, parts: vaec.Container) -> Tensor | None:
        return None if tiles is None else torch.from_numpy(vaec.from_tiles(tiles.numpy(), parts))

    def _check_kind(self, wanted: "Plan | vaec.Container") -> None:
        if wanted.step and wanted.kind not in self.identities:
            raise UserError("there are no weights for pixels (pixels.safetensors) beside those of the VAE")

    @torch.no_grad()
    def exact_mean(self, points: Tensor) -> Tensor:
        """Points y (n, d) of a trellis -> the decoder's mean, levels uint8 (n, 32, 32, 3) in coding order."""
        z = snap(self.code_model.mean.double()) + snap(snap(points) @ snap(self.code_model.axes.double(), WEIGHT_BITS))
        levels = torch.floor(255 * self.decoder(z) + 0.5).to(torch.uint8)
        return levels[:, CHANNELS].permute(0, 2, 3, 1)

    def residuals(self, split: Split) -> Tensor:
        """What the mean lacks of images whose codes are not refined, before detail, (n, 32, 32, 3) in coding order."""
        images = split.images.permute(0, 2, 3, 1).contiguous().numpy()
        content = self.write(images, self.codes(images, refinements=0), Plan(CODE_BEFORE_DETAIL))
        tiles = self._mean_tiles(vaec.read_container(content))
        assert tiles is not None
        return torch.from_numpy(images[..., CHANNELS]).float() - tiles

    def _decoded(self, y: Tensor) -> Tensor:
        return self.model.decode(self.mean + y @ self.axes)

    def _pixel_coder(self) -> ResidualCoder:
        assert self.pixels is not None
        return self.pixels

    def _refined(self, x: Tensor, refinements: int) -> Tensor:
        """Gradient descent on distortion + rate in nats from the encoder's guess; keeps the best point of an image."""
        y = (self.model.code(x) - self.mean) @ self.to_y
        spread, sigma = self.code_model.widths.square().mean(0).to(x.device), self.code_model.sigma.item()
        best, least, velocity = y, torch.full((len(x),), torch.inf, device=x.device), torch.zeros_like(y)
        for turn in range(refinements + 1):
            with torch.enable_grad():
                y.requires_grad_()
                distortion = (self._decoded(y) - x).square().flatten(1).sum(1) / (2 * sigma**2)
                loss = distortion + (y.square() / spread).sum(1) / 2
                gradient = torch.autograd.grad(loss.sum(), y)[0] if turn < refinements else torch.zeros_like(y)
            better = loss < least
            best, least = torch.where(better[:, None], y, best), torch.where(better, loss, least)
            velocity = 0.5 * (velocity - gradient)  # the posterior is round in y: this is Newton's direction
            y = (y + velocity).detach()
        return best


def load_codec(weights: Path | None = None, data: Dataset | None = None) -> Codec:
    """The codec of a VAE's weights (default: the published ones). Raises UserError when a file cannot be used."""
    weights = weights or weights_path(out_dir(profile_settings()), "vae")
    model = load_vae(weights)

    def training() -> Dataset:  # asked where no models of these weights lie beside them
        wanted = load_model(weights)[1]["settings"]
        return data or load_data(wanted["dataset"]).limited(wanted["n_train"], wanted["n_eval"])

    def fitted() -> dict[str, Tensor]:
        return fit_code_model(model, training().train)._asdict()

    of = {"kind": "code model", "weights": sha256_of_tensors(model.state_dict())[:16]}
    tensors, _ = cached(weights.parent / "codec.safetensors", of, fitted)
    code_model, network, run = CodeModel(**tensors), None, {"vae_sha256": sha256_of_file(weights)}

    def detail() -> dict[str, Tensor]:
        coder = Codec(model, code_model, DetailModel(torch.eye(3), torch.ones(1, 1)))  # which writes codes alone
        return fit_detail(coder.residuals(training().train.head(FITTED)))._asdict()

    tensors, _ = cached(weights.parent / "detail.safetensors", of | {"kind": "detail model"}, detail)
    if (path := weights_path(weights.parent, "pixels")).is_file():
        network, provenance = load_model(path)
        if not isinstance(network, PixelNet) or not run.items() <= provenance["run"].items():
            print(f"note: {path} belongs to another VAE; train it again for more than detail", file=sys.stderr)
            network = None
    return Codec(model, code_model, DetailModel(**tensors), network)


File = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="what compress has written")]
Out = Annotated[Path, typer.Option("-o", "--out", help=".vaec file (no other is overwritten), pipe, or - for stdout")]
Folder = Annotated[Path, typer.Option("-o", "--out", help="the folder to write, new or empty")]
Weights = Annotated[Path | None, typer.Option(help="weights of a VAE (default: the published ones)")]
Error = Annotated[int | None, typer.Option(min=0, max=15, metavar="N", help="no value will be off by more than N")]


def compress_files(
    images: Annotated[list[Path], typer.Argument(help="pictures, or .npy of uint8 (n, h, w, 3)")],
    out: Out,
    quality: Annotated[float | None, typer.Option(help="0 to 100: smallest file to every bit; default 50")] = None,
    max_error: Error = None,
    lossless: Annotated[bool, typer.Option("--lossless", help="keep every bit")] = False,
    preview: Annotated[bool, typer.Option("--preview", help="begin with a code, also where that costs bytes")] = False,
    tile: Annotated[
        bool, typer.Option("--tile", help="pictures of any size; up to quality 60 borders of 32x32 tiles may show")
    ] = False,
    weights: Weights = None,
) -> None:
    """Images -> one file."""
    if (quality is not None) + (max_error is not None) + lossless > 1:
        raise UserError("--quality, --max-error and --lossless exclude each other")
    asked = 50.0 if quality is None else quality
    plan = Plan.of(100.0 if lossless else asked, max_error=max_error, preview=preview)
    piped = str(out) in ("-", "/dev/stdout")
    if not piped:
        check_ours(out, vaec.MAGIC)  # it may be one of the images, when its name was forgotten
    pixels = vaec.read_pictures(images, tile=tile)
    content = load_codec(weights).compress(pixels, plan, tile=tile)
    # Renaming a file would take the place of the one that a shell appends to.
    sys.stdout.buffer.write(content) if piped else write_whole(out, content)
    said = f"{len(pixels)} images, {pixels.nbytes} bytes of pixels, {len(content)} bytes compressed: {out}"
    print(said, file=sys.stdout if out.is_file() and not piped else sys.stderr)  # not among the bytes of a pipe


def decompress_file(
    file: File,
    out: Folder,
    weights: Weights = None,
    preview: Annotated[bool, typer.Option("--preview", help="only what the code of the first part gives")] = False,
) -> None:
    """A file -> a folder of PNGs."""
    codec = load_codec(weights)
    with blamed_on(file):
        pixels = codec.decompress(file.read_bytes(), preview=preview)
    vaec.write_pictures(pixels, out)
    print(f"{len(pixels)} images, {pixels.nbytes} bytes of pixels: {out}")


def describe_file(file: File) -> None:
    """What a file says of itself."""
    content = file.read_bytes()
    with blamed_on(file):
        parts = vaec.read_container(content)
    print(f"{parts.number} images of {parts.width}x{parts.height}, {len(content)} bytes", end="")
    print(f" ({len(content) / max(parts.number, 1):.1f} an image), checksum right, format version {vaec.VERSION}")
    if parts.code_step:
        fineness, weights = STEP / parts.code_step, parts.code_weights.hex()
        print(f"code (preview): {len(parts.code)} bytes, fineness {fineness:.3g}, weights {weights}")
    if parts.step:
        exact = "every bit" if parts.step == 1 else f"no value off by more than {parts.step // 2}"
        kept = exact if parts.kind == PIXELS else f"in steps of {parts.step} levels"
        name = "detail" if parts.kind == DETAIL else "pixels"
        print(f"{name}: {len(parts.rest)} bytes, {kept}, weights {parts.weights.hex()}")


COMMANDS = (("compress", compress_files), ("decompress", decompress_file), ("info", describe_file))

if __name__ == "__main__":
    program(*COMMANDS)
