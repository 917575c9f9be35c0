"""Images -> bytes -> images: the VAE's code, quantised and entropy coded.

The posterior mean of an image is turned into the principal axes of the training codes (which makes its numbers
nearly independent), rounded with one step, and written with a range coder under a Gaussian per axis
[constriction, Bamler 2022]. The step is tied to the posterior's own width: noise that the decoder was trained to
bear costs nothing.
"""

import struct
import zlib
from typing import NamedTuple

import constriction
import numpy as np
import torch
from torch import Tensor

from .config import UserError
from .data import Split, batches, to_bytes, to_unit
from .models import VAE

MAGIC = b"VAEC\x01"
HEADER = struct.Struct("<5sIfI")  # magic and version, number of images, step, CRC-32 of the payload
LIMIT = 2000  # quantised values stay within +-LIMIT steps


class CodeModel(NamedTuple):
    """The Gaussian that codes follow, in its principal axes."""

    mean: Tensor  # (d,)
    axes: Tensor  # (d, d), orthonormal rows
    std: Tensor  # (d,), along the axes
    noise: float  # the typical posterior standard deviation: the natural unit of the step


@torch.no_grad()
def fit_code_model(model: VAE, split: Split, batch_size: int = 500) -> CodeModel:
    """Mean, principal axes and widths of the posterior means of a split (the training one)."""
    posteriors = [model.encode(x) for x, _ in batches(split, batch_size, device=model.log_sigma.device)]
    mu = torch.cat([q.mu for q in posteriors]).double().cpu()
    noise = torch.cat([q.logvar for q in posteriors]).mul(0.5).exp().mean().item()
    variance, vectors = torch.linalg.eigh(mu.T.cov())
    std = variance.clamp_min(1e-8).sqrt()
    return CodeModel(mu.mean(0).float(), vectors.T.float(), std.float(), noise)


class Codec:
    """`compress` and `decompress` for uint8 images (n, h, w, 3), at a `quality` chosen per file."""

    def __init__(self, model: VAE, code_model: CodeModel) -> None:
        self.model, self.code_model = model, code_model

    def _entropy_model(self, step: float) -> tuple[object, np.ndarray, np.ndarray]:
        family = constriction.stream.model.QuantizedGaussian(-LIMIT, LIMIT)
        std = (self.code_model.std.double().numpy() / step).clip(1e-3, LIMIT)
        return family, np.zeros_like(std), std

    @torch.no_grad()
    def compress(self, images: np.ndarray, quality: float = 1.0) -> bytes:
        """One file for all images. The step is 2 posterior widths divided by `quality`.

        Raises UserError when the images are not uint8 (n, 32, 32, 3) or the quality is not positive.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (32, 32, 3):
            raise UserError(f"images must be uint8 (n, 32, 32, 3), not {images.dtype} {images.shape}")
        if not 0 < quality < 100:
            raise UserError(f"quality={quality} must lie between 0 and 100")
        step = np.float32(2 * self.code_model.noise / quality)
        x = to_unit(torch.from_numpy(images).permute(0, 3, 1, 2))
        codes = [self.model.code(part.to(self.model.log_sigma.device)).cpu() for part in x.split(500)]
        payload = self._encode(torch.cat(codes), float(step)) if codes else b""
        return HEADER.pack(MAGIC, len(images), step, zlib.crc32(payload)) + payload

    def _encode(self, codes: Tensor, step: float) -> bytes:
        m = self.code_model
        symbols = (((codes - m.mean) @ m.axes.T) / step).round().clamp(-LIMIT, LIMIT).numpy().astype(np.int32)
        coder = constriction.stream.queue.RangeEncoder()
        family, mean, std = self._entropy_model(step)
        n = len(symbols)
        coder.encode(symbols.ravel(), family, np.tile(mean, n), np.tile(std, n))
        return coder.get_compressed().astype("<u4").tobytes()

    @torch.no_grad()
    def decompress(self, content: bytes) -> np.ndarray:
        """The images (n, 32, 32, 3) uint8 of a file. Raises UserError when it is damaged or not ours."""
        if len(content) < HEADER.size or not content.startswith(MAGIC):
            raise UserError("not a compressed file of this codec, or cut off in its header")
        _, n, step, crc = HEADER.unpack_from(content)
        payload = content[HEADER.size :]
        if zlib.crc32(payload) != crc:
            raise UserError("the compressed file is damaged (its checksum does not match)")
        if n == 0:
            return np.zeros((0, 32, 32, 3), np.uint8)
        family, mean, std = self._entropy_model(step)
        words = np.frombuffer(payload, "<u4").astype(np.uint32)
        try:
            coder = constriction.stream.queue.RangeDecoder(words)
            symbols = coder.decode(family, np.tile(mean, n), np.tile(std, n))
        except AssertionError:
            raise UserError("the compressed file cannot be decoded: it is damaged or made with other weights") from None
        m = self.code_model
        codes = torch.from_numpy(symbols.reshape(n, -1)).float() * step @ m.axes + m.mean
        device = self.model.log_sigma.device
        pictures = [to_bytes(self.model.decode(part.to(device))).cpu() for part in codes.split(500)]
        return torch.cat(pictures).permute(0, 2, 3, 1).contiguous().numpy()
