"""Images -> bytes -> images with the VAE.

    python -m helpers.codec compress IN... -o OUT.vaec [--quality Q] [--tile]     IN: PNG, JPEG or .npy
    python -m helpers.codec decompress OUT.vaec -o DIR
    python -m helpers.codec info OUT.vaec

Three steps make a code short. *Axes*: codes are turned so that the posterior is round (width 1 along every axis) and
the coordinates are uncorrelated. *Refinement*: the encoder network's guess of the posterior mean is improved by a few
gradient steps on the image itself [Yang, Bamler & Mandt, Improving inference for neural image compression, NeurIPS
2020]; the decoder does not notice. *Coding*: see `coding`; at quality 1 its noise has the posterior's variance, which
the decoder was trained to bear.

What decoding needs beside the weights (mean, axes, widths: `CodeModel`, 70 kB) is fitted on the training split and
lies beside them as codec.safetensors, because a decoder must not need the data set. A file names both by their
fingerprint. Symbols are decoded with the same result everywhere; pixels are the same on one machine whatever the
batch, because networks see batches of one size, and may differ by one level between kinds of processors.
"""

import argparse
import functools
import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import coding
from .config import Settings, UserError, out_dir, profile_settings, program, write_whole
from .container import (
    SIZE,
    VERSION,
    Header,
    from_tiles,
    read_bytes,
    read_container,
    read_images,
    tiles_of,
    to_tiles,
    write_container,
    write_images,
)
from .data import Dataset, Split, batches, load_data, to_bytes, to_unit
from .models import VAE
from .storage import load_model, read_tensors, weights_path, write_tensors

BATCH = 100  # results of matrix products depend on the batch size, so there is only this one
REFINEMENTS = 4
STEP = coding.NOISE**-0.5  # of quality 1, in posterior widths: the noise of quantisation is the posterior's

# --- what decoding needs beside the weights ---------------------------------------------------------------------


class CodeModel(NamedTuple):
    """Where codes lie: z = mean + y @ axes, and the coordinates y of an image follow Gaussians of one class."""

    mean: Tensor  # (d,)
    axes: Tensor  # (d, d), not orthogonal: along each row the posterior has the width 1
    widths: Tensor  # (classes, d), standard deviations of y
    sigma: Tensor  # (), the RMSE of reconstructions in pixels 0..1: the calibrated decoder's own width


@torch.no_grad()
def fit_code_model(model: VAE, split: Split, n: int = 10_000, n_jacobians: int = 50) -> CodeModel:
    """Fitted on the first n images of a split (the training one)."""
    device, split = model.log_sigma.device, split.head(n)
    pairs = [(x, model.encode(x).mu) for x, _ in batches(split, BATCH, device=device)]
    error = sum((model.decode(mu) - x).double().square().sum().item() for x, mu in pairs) / split.images.numel()
    mu = torch.cat([mu for _, mu in pairs])
    precision = torch.eye(mu.shape[1], dtype=torch.float64) + _metric(model, mu[:n_jacobians]) / error
    mu = mu.double().cpu()
    whiten = torch.linalg.cholesky(precision)  # y = z @ whiten has the covariance 1 under the posterior
    _, turn = torch.linalg.eigh(((mu - mu.mean(0)) @ whiten).T.cov())
    to_y = whiten @ turn.flip(1)
    widths = torch.from_numpy(coding.fit_widths(((mu - mu.mean(0)) @ to_y).numpy()))
    found = (mu.mean(0), torch.linalg.inv(to_y), widths, torch.tensor(error).sqrt())
    return CodeModel(*(part.float() for part in found))


def _metric(model: VAE, z: Tensor, eps: float = 0.01) -> Tensor:
    """The mean of J'J over codes z (k, d), J the Jacobian of the decoder: how far pixels move per move of a code.

    With I added and divided by sigma^2 it is the posterior's precision (Laplace's approximation); the encoder's own
    variances, which know only the diagonal, agree with it.
    """
    d = z.shape[1]
    total, moves = torch.zeros(d, d, dtype=torch.float64), eps * torch.eye(d, device=z.device)
    for point in z:
        ahead, behind = model.decode(torch.cat([point + moves, point - moves])).flatten(1).double().split(d)
        jacobian = (ahead - behind) / (2 * eps)  # (d, pixels)
        total += (jacobian @ jacobian.T).cpu()
    return total / len(z)


# --- the codec --------------------------------------------------------------------------------------------------


class Codec:
    """`compress` and `decompress` for uint8 images (n, h, w, 3), at a `quality` chosen per file."""

    def __init__(self, model: VAE, code_model: CodeModel) -> None:
        self.model, self.code_model = model, code_model
        self.device = model.log_sigma.device
        self.mean, self.axes = code_model.mean.to(self.device), code_model.axes.to(self.device)
        self.to_y = torch.linalg.inv(code_model.axes.double()).float().to(self.device)
        self.widths = code_model.widths.double().numpy()
        self.fingerprint = fingerprint(model.state_dict() | code_model._asdict())

    def compress(self, images: np.ndarray, quality: float = 1.0, *, tile: bool = False) -> bytes:
        """One file for all images. The step is inverse to `quality`; with `tile` images may have any size.

        Raises UserError when images are not uint8 (n, 32, 32, 3), or the quality is out of range.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape[1:]:
            raise UserError(f"images must be uint8 (n, {SIZE}, {SIZE}, 3), not {images.dtype} {images.shape}")
        height, width = images.shape[1:3]
        if (height, width) != (SIZE, SIZE) and not tile:
            raise UserError(
                f"images must be {SIZE}x{SIZE}, not {width}x{height}: resize them (Pillow: "
                f"image.resize(({SIZE}, {SIZE}))), or cut them into tiles with --tile (tile=True)"
            )
        return self.write(self.codes(to_tiles(images)), quality, (height, width))

    def codes(self, images: np.ndarray, refinements: int = REFINEMENTS) -> np.ndarray:
        """The refined coordinates y (n, d), float64, of uint8 images (n, 32, 32, 3): what `write` needs."""
        x = to_unit(torch.from_numpy(images).permute(0, 3, 1, 2))
        return self._in_batches(functools.partial(self._refined, refinements=refinements), x).double().numpy()

    def write(self, codes: np.ndarray, quality: float = 1.0, size: tuple[int, int] = (SIZE, SIZE)) -> bytes:
        """The file of images of a size (height, width) whose tiles have these codes."""
        if not 0.05 <= quality <= 20:
            raise UserError(f"quality={quality} must lie between 0.05 and 20")
        step = float(np.float32(STEP / quality))
        payload, _ = coding.encode(codes, self.widths, step)
        return write_container(Header(self.fingerprint, len(codes) // tiles_of(*size), *size, step), payload)

    def decompress(self, content: bytes) -> np.ndarray:
        """The images (n, h, w, 3) uint8 of a file. Raises UserError when it is damaged or of other weights."""
        header, payload = read_container(content)
        if header.fingerprint != self.fingerprint:
            raise UserError(
                f"the file was made with other weights (fingerprint {header.fingerprint.hex()}, "
                f"these are {self.fingerprint.hex()}); name theirs with --weights"
            )
        rows = header.count * tiles_of(header.height, header.width)
        if rows * np.log2(len(self.widths)) > 8 * len(payload):  # every row names its class
            raise UserError(f"the file is damaged: {len(payload)} bytes cannot hold {rows} codes")
        try:
            codes = torch.from_numpy(coding.decode(payload, rows, self.widths, header.step)).float()
        except ValueError as error:
            raise UserError(f"the file is damaged: {error}") from None
        decoded = self._in_batches(lambda y: to_bytes(self._decoded(y)), codes)
        return from_tiles(decoded.view(-1, 3, SIZE, SIZE).permute(0, 2, 3, 1).numpy(), header)

    def _decoded(self, y: Tensor) -> Tensor:
        return self.model.decode(self.mean + y @ self.axes)

    def _refined(self, x: Tensor, refinements: int) -> Tensor:
        """Gradient descent on distortion + rate in nats from the encoder's guess; keeps the best point of each image.

        The posterior is round in y, so the plain gradient already is Newton's direction.
        """
        y = (self.model.encode(x).mu - self.mean) @ self.to_y
        spread, sigma = self.code_model.widths.square().mean(0).to(x.device), self.code_model.sigma.item()
        best, least, velocity = y, torch.full((len(x),), torch.inf, device=x.device), torch.zeros_like(y)
        for turn in range(refinements + 1):
            with torch.enable_grad():
                y.requires_grad_()
                distortion = (self._decoded(y) - x).square().flatten(1).sum(1) / (2 * sigma**2)
                loss = distortion + (y.square() / spread).sum(1) / 2
                gradient = torch.autograd.grad(loss.sum(), y)[0] if turn < refinements else 0
            better = loss < least
            best, least = torch.where(better[:, None], y, best), torch.where(better, loss, least)
            velocity = 0.5 * (velocity - gradient)
            y = (y + velocity).detach()
        return best

    def _in_batches(self, work: object, rows: Tensor) -> Tensor:
        """`work` on batches that all have BATCH rows: the last one is filled with zeros."""
        done = []
        with torch.no_grad():
            for part in rows.split(BATCH):
                full = torch.zeros(BATCH, *rows.shape[1:])
                full[: len(part)] = part
                done.append(work(full.to(self.device))[: len(part)].cpu())
        return torch.cat(done)


def fingerprint(tensors: dict[str, Tensor]) -> bytes:
    """The first 8 bytes of the SHA-256 of names and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.digest()[:8]


# --- files ------------------------------------------------------------------------------------------------------


def load_codec(weights: Path | None = None, data: Dataset | None = None) -> Codec:
    """The codec of a VAE's weights (default: the published ones) with the code model that lies beside them.

    Where there is none, or one of other weights, it is fitted on the training split of `data` (default: the data of
    the weights' settings) and written. Raises UserError when something cannot be read or written.
    """
    weights = weights or weights_path(out_dir(profile_settings()), "vae")
    model, about = load_model(weights)
    if not isinstance(model, VAE):
        raise UserError(f"{weights} holds no VAE")
    path = weights.parent / "codec.safetensors"
    of = {"kind": "code model", "weights": fingerprint(model.state_dict()).hex()}
    if path.is_file():
        tensors, known = read_tensors(path)
        if known == of:
            return Codec(model, CodeModel(**tensors))
    settings = Settings.from_dict(about["settings"])
    data = data or load_data(settings.dataset).limited(settings.n_train, settings.n_eval)
    code_model = fit_code_model(model, data.train)
    write_tensors(path, code_model._asdict(), of)
    return Codec(model, code_model)


def compress(images: np.ndarray, quality: float = 1.0) -> bytes:
    """uint8 images (n, 32, 32, 3) -> a file, with the published weights."""
    return load_codec().compress(images, quality)


def decompress(content: bytes) -> np.ndarray:
    """A file -> uint8 images (n, h, w, 3), with the published weights. Raises UserError; see `Codec`."""
    return load_codec().decompress(content)


def main(argv: list[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="helpers.codec", description="Compress 32x32 images with the VAE.")
    jobs = parser.add_subparsers(dest="job", required=True)
    packing = jobs.add_parser("compress", help="images -> one file")
    packing.add_argument("images", nargs="+", type=Path, help="PNG, JPEG or .npy")
    packing.add_argument("--quality", type=float, default=1.0, help="0.05 to 20; larger: better and longer")
    packing.add_argument("--tile", action="store_true", help="images of any size, cut into 32x32 tiles")
    unpacking = jobs.add_parser("decompress", help="a file -> a folder of PNGs")
    for job in (packing, unpacking):
        job.add_argument("-o", dest="out", type=Path, required=True, help="what to write")
        job.add_argument("--weights", type=Path, help="weights of a VAE (default: the published ones)")
    for job in (unpacking, jobs.add_parser("info", help="what a file says of itself")):
        job.add_argument("file", type=Path)
    options = parser.parse_args(argv)
    if options.job == "compress":
        images = read_images(options.images, tile=options.tile)
        content = load_codec(options.weights).compress(images, options.quality, tile=options.tile)
        write_whole(options.out, content)
    else:
        content = read_bytes(options.file)
        header, payload = read_container(content)
    if options.job == "decompress":
        images = load_codec(options.weights).decompress(content)
        write_images(images, options.out)
    if options.job == "info":
        each = f", {len(content) / header.count:.1f} an image" if header.count else ""
        print(f"{header.count} images of {header.width}x{header.height}, quality {STEP / header.step:.3g}")
        print(f"{len(content)} bytes{each}; {len(content) - len(payload)} of them are header and checksum")
        print(f"weights {header.fingerprint.hex()}, format version {VERSION}, checksum right")
    else:
        print(f"{len(images)} images, {images.nbytes} bytes of pixels, {len(content)} bytes compressed: {options.out}")


if __name__ == "__main__":
    program(main)
