"""Images -> bytes -> images with the VAE; `python -m helpers.codec --help` lists its commands.

Three steps make a code short. *Axes*: codes are turned so that the posterior is round (width 1 along every axis) and
the coordinates are uncorrelated. *Refinement*: the encoder's guess of the posterior mean is improved by gradient steps
on the image itself [Yang, Bamler & Mandt, Improving inference for neural image compression, NeurIPS 2020]. *Coding*:
see `trellis`; at quality 1 its noise has the variance of the posterior, the noise that the decoder was trained with.
Symbols are decoded with the same result everywhere; pixels may differ by one level between kinds of processors.
"""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import typer
from torch import Tensor

from . import trellis
from .data import Dataset, Split, in_batches, to_bytes, to_unit
from .engine import UserError, blamed_on, cached, program, sha256_of_tensors, vaec, weights_path
from .engine.files import check_ours, write_whole
from .models import VAE
from .run import load_model, load_vae
from .settings import out_dir, profile_settings
from .sources import load_data

BATCH = 100  # results of matrix products depend on the batch size, so there is only this one
STEP = trellis.NOISE**-0.5  # of quality 1, in posterior widths: the noise of quantisation is the posterior's


class CodeModel(NamedTuple):
    """Where codes lie: z = mean + y @ axes; y of an image follows Gaussians of one class. Kept as codec.safetensors."""

    mean: Tensor  # (d,)
    axes: Tensor  # (d, d), not orthogonal: along each row the posterior has the width 1
    widths: Tensor  # (classes, d), standard deviations of y
    sigma: Tensor  # (), the RMSE of reconstructions in pixels 0..1: the calibrated decoder's own width


def fit_code_model(vae: VAE, split: Split, n: int = 10_000, n_jacobians: int = 50) -> CodeModel:
    """Fitted on the first n images of a split (the training one)."""

    def measured(x: Tensor) -> tuple[Tensor, Tensor]:
        mu = vae.code(x)
        return mu, (vae.decode(mu) - x).double().square().flatten(1).sum(1)

    images = split.head(n).images
    mu, squared_error = in_batches(measured, images, vae.device)
    error = squared_error.sum().item() / images.numel()
    precision = torch.eye(mu.shape[1], dtype=torch.float64) + _metric(vae, mu[:n_jacobians].to(vae.device)) / error
    centred = mu.double() - mu.double().mean(0)
    whiten = torch.linalg.cholesky(precision)  # y = z @ whiten has the covariance 1 under the posterior
    _, turn = torch.linalg.eigh((centred @ whiten).T.cov())
    to_y = whiten @ turn.flip(1)
    widths = torch.from_numpy(trellis.fit_widths((centred @ to_y).numpy())).float()
    return CodeModel(mu.double().mean(0).float(), torch.linalg.inv(to_y).float(), widths, torch.tensor(error).sqrt())


@torch.no_grad()
def _metric(vae: VAE, z: Tensor, eps: float = 0.01) -> Tensor:
    """The mean of J'J over codes z (k, d), J the decoder's Jacobian; / sigma^2 + I: the precision [Laplace]."""
    d = z.shape[1]
    total, moves = torch.zeros(d, d, dtype=torch.float64), eps * torch.eye(d, device=z.device)
    for point in z:
        ahead, behind = vae.decode(torch.cat([point + moves, point - moves])).flatten(1).double().split(d)
        jacobian = (ahead - behind) / (2 * eps)  # (d, pixels)
        total += (jacobian @ jacobian.T).cpu()
    return total / len(z)


def coding_step(quality: float) -> float:
    """The step of a file, in standard deviations of the posterior, as the file holds it. UserError: out of range."""
    if not 0.05 <= quality <= 20:
        raise UserError(f"quality={quality} must lie between 0.05 and 20")
    return float(np.float32(STEP / quality))


class Codec:
    """`compress` and `decompress` for uint8 images (n, h, w, 3); the step is inverse to the `quality` of a file."""

    def __init__(self, model: VAE, code_model: CodeModel) -> None:
        self.model, self.code_model, self.device = model, code_model, model.device
        self.mean, self.axes = code_model.mean.to(self.device), code_model.axes.to(self.device)
        self.to_y = torch.linalg.inv(code_model.axes.double()).float().to(self.device)
        self.widths = code_model.widths.double().numpy()
        self.identity = bytes.fromhex(sha256_of_tensors(model.state_dict() | code_model._asdict()))[:8]

    def compress(self, images: np.ndarray, quality: float = 1.0, *, tile: bool = False) -> bytes:
        """One file for all images; with `tile` they may have any size, else 32x32. Raises UserError on bad input."""
        vaec.check_images(images, "what is compressed", tile=tile)
        coding_step(quality)  # a wrong one is refused before the long part
        return self.write(self.codes(vaec.to_tiles(images)), quality, (images.shape[1], images.shape[2]))

    def codes(self, images: np.ndarray, refinements: int = 4) -> np.ndarray:
        """The refined coordinates y (n, d), float64, of uint8 images (n, 32, 32, 3): what `write` needs."""
        x = to_unit(torch.from_numpy(images).permute(0, 3, 1, 2))
        return in_equal_batches(lambda part: self._refined(part, refinements), x, self.device).double().numpy()

    def write(self, codes: np.ndarray, quality: float = 1.0, size: tuple[int, int] = (vaec.SIZE, vaec.SIZE)) -> bytes:
        """The file of images of a size (height, width) whose tiles have these codes."""
        step = coding_step(quality)
        payload, _ = trellis.encode(codes, self.widths, step)
        number = len(codes) // math.prod(vaec.tile_grid(*size))
        return vaec.write_container(vaec.Header(self.identity, number, *size, step), payload)

    def decompress(self, content: bytes) -> np.ndarray:
        """The images (n, h, w, 3) uint8 of a file. Raises UserError when it is damaged or of other weights."""
        header, payload = vaec.read_container(content)
        if header.identity != self.identity:
            hint = f"({header.identity.hex()}, not {self.identity.hex()}); copy both files, name them with --weights"
            raise UserError(f"the file was made with other weights or another codec.safetensors {hint}")
        n = header.number * math.prod(vaec.tile_grid(header.height, header.width))
        if n * np.log2(len(self.widths)) > 8 * len(payload):  # every tile names its class
            raise UserError(f"the file is damaged: {len(payload)} bytes cannot hold {n} codes")
        try:
            codes = torch.from_numpy(trellis.decode(payload, n, self.widths, header.step)).float()
        except ValueError as error:
            raise UserError(f"the file is damaged: {error}") from None
        decoded = in_equal_batches(lambda y: to_bytes(self._decoded(y)), codes, self.device)
        return vaec.from_tiles(decoded.permute(0, 2, 3, 1).numpy(), header)

    def _decoded(self, y: Tensor) -> Tensor:
        return self.model.decode(self.mean + y @ self.axes)

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


@torch.no_grad()
def in_equal_batches(function: Callable[[Tensor], Tensor], rows: Tensor, device: torch.device) -> Tensor:
    """`function` of all rows, on the CPU, in batches that all have BATCH rows: the last one is filled with zeros."""
    missing = -len(rows) % BATCH if len(rows) else BATCH
    filled = torch.cat([rows, torch.zeros(missing, *rows.shape[1:])])
    return torch.cat([function(batch.to(device)).cpu() for batch in filled.split(BATCH)])[: len(rows)]


def load_codec(weights: Path | None = None, data: Dataset | None = None) -> Codec:
    """The codec of a VAE's weights (default: the published ones). Raises UserError when a file cannot be used."""
    weights = weights or weights_path(out_dir(profile_settings()), "vae")
    model = load_vae(weights)

    def fitted() -> dict[str, Tensor]:  # where no code model of these weights lies beside them
        wanted = load_model(weights)[1]["settings"]
        images = data or load_data(wanted["dataset"]).limited(wanted["n_train"], wanted["n_eval"])
        return fit_code_model(model, images.train)._asdict()

    of = {"kind": "code model", "weights": sha256_of_tensors(model.state_dict())[:16]}
    tensors, _ = cached(weights.parent / "codec.safetensors", of, fitted)
    return Codec(model, CodeModel(**tensors))


File = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="what compress has written")]
Out = Annotated[Path, typer.Option("-o", "--out", help=".vaec file (no other is overwritten), pipe, or - for stdout")]
Folder = Annotated[Path, typer.Option("-o", "--out", help="the folder to write, new or empty")]
Weights = Annotated[Path | None, typer.Option(help="weights of a VAE (default: the published ones)")]


def compress_files(
    images: Annotated[list[Path], typer.Argument(help="PNG, JPEG or .npy")],
    out: Out,
    quality: Annotated[float, typer.Option(help="0.05 to 20; larger: better and longer")] = 1.0,
    tile: Annotated[bool, typer.Option("--tile", help="cut images of any size into 32x32 tiles")] = False,
    weights: Weights = None,
) -> None:
    """Images -> one file."""
    piped = str(out) in ("-", "/dev/stdout")
    if not piped:
        check_ours(out, vaec.MAGIC)  # it may be one of the images, when its name was forgotten
    pixels = vaec.read_pictures(images, tile=tile)
    content = load_codec(weights).compress(pixels, quality, tile=tile)
    # Renaming a file would take the place of the one that a shell appends to.
    sys.stdout.buffer.write(content) if piped else write_whole(out, content)
    said = f"{len(pixels)} images, {pixels.nbytes} bytes of pixels, {len(content)} bytes compressed: {out}"
    print(said, file=sys.stdout if out.is_file() and not piped else sys.stderr)  # not among the bytes of a pipe


def decompress_file(file: File, out: Folder, weights: Weights = None) -> None:
    """A file -> a folder of PNGs."""
    codec = load_codec(weights)
    with blamed_on(file):
        pixels = codec.decompress(file.read_bytes())
    vaec.write_pictures(pixels, out)
    print(f"{len(pixels)} images, {pixels.nbytes} bytes of pixels: {out}")


def describe_file(file: File) -> None:
    """What a file says of itself."""
    content = file.read_bytes()
    with blamed_on(file):
        header, _ = vaec.read_container(content)
    print(f"{header.number} images of {header.width}x{header.height}, quality {STEP / header.step:.3g}")
    print(f"{len(content)} bytes ({len(content) / max(header.number, 1):.1f} an image), {vaec.OVERHEAD} of overhead")
    print(f"weights {header.identity.hex()}, format version {vaec.VERSION}, checksum right")


COMMANDS = (("compress", compress_files), ("decompress", decompress_file), ("info", describe_file))

if __name__ == "__main__":
    program(*COMMANDS)
