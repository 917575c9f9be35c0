"""Images (n, 3, h, w) uint8 unlike the training ones: corruptions of CIFAR-10-C [Hendrycks & Dietterich 2019], sets."""

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..data import as_split, to_bytes, to_unit
from ..engine import ROOT, UserError
from ..sources.folders import read_image_files
from ..sources.official import COPIES, obtain, official

SEVERITIES, SEED = (1, 3, 5), 0  # CIFAR-10-C has five; each costs a pass of the encoder


def gaussian_noise(images: Tensor, severity: int) -> Tensor:
    """Add independent noise of standard deviation 0.04 to 0.10 (pixels in [0, 1])."""
    scale = (0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1]
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(SEED))
    return to_bytes((to_unit(images) + scale * noise).clamp(0, 1))


def defocus_blur(images: Tensor, severity: int) -> Tensor:
    """Average over a disk of radius 0.3 to 1.5 pixels with a softened edge; borders are reflected."""
    radius, softness = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))[severity - 1]
    at = torch.arange(-3.0, 4)
    disk = (at.square()[:, None] + at.square() <= radius**2).float()[None, None]
    edge = torch.exp(-torch.arange(-1.0, 2).square() / (2 * softness**2))
    edge = edge / edge.sum()
    kernel = F.conv2d(disk / disk.sum(), torch.outer(edge, edge)[None, None], padding=1)
    padded = F.pad(to_unit(images), (3, 3, 3, 3), mode="reflect")
    return to_bytes(F.conv2d(padded, kernel.expand(3, 1, 7, 7), groups=3).clamp(0, 1))


def contrast(images: Tensor, severity: int) -> Tensor:
    """Shrink the distance of every pixel to the mean of its channel, to 75 % down to 15 %."""
    keep, x = (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1], to_unit(images)
    mean = x.mean((2, 3), keepdim=True)
    return to_bytes((mean + keep * (x - mean)).clamp(0, 1))


def jpeg_compression(images: Tensor, severity: int) -> Tensor:
    """Store as JPEG of quality 80 down to 40 and read again."""
    quality = (80, 65, 58, 50, 40)[severity - 1]
    return _each(images, lambda picture: Image.open(_stored(picture, "JPEG", quality=quality)))


def pixelate(images: Tensor, severity: int) -> Tensor:
    """Shrink to 95 % down to 65 % of the side with a box filter and enlarge again."""
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[severity - 1]
    side, box = images.shape[-1], Image.Resampling.BOX
    small = (int(side * share),) * 2
    return _each(images, lambda picture: picture.resize(small, box).resize((side, side), box))


_KINDS = (gaussian_noise, defocus_blur, contrast, jpeg_compression, pixelate)
CORRUPTIONS: dict[str, Callable[[Tensor, int], Tensor]] = {kind.__name__: kind for kind in _KINDS}


def _pictures(images: Tensor) -> list[Image.Image]:
    return [Image.fromarray(array) for array in images.permute(0, 2, 3, 1).contiguous().numpy()]


def _each(images: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    arrays = np.stack([np.asarray(change(picture)) for picture in _pictures(images)])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2).contiguous()


def _stored(picture: Image.Image, kind: str, **options: object) -> io.BytesIO:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer


def file_bits(images: Tensor, kind: str, **options: object) -> Tensor:
    """The size in bits of every image (n, 3, h, w) uint8 as a file of its own, header included, (n,)."""
    return torch.tensor([8.0 * _stored(picture, kind, **options).tell() for picture in _pictures(images)]).double()


def made_sets(images: Tensor) -> dict[str, Tensor]:
    """Five sets without a photograph of the kind that was trained on, each as large as `images`."""
    generator = torch.Generator().manual_seed(SEED)
    colour = torch.randint(256, (len(images), 3, 1, 1), generator=generator, dtype=torch.uint8)
    return {
        "constant": colour.expand_as(images).contiguous(),
        "noise": torch.randint(256, images.shape, generator=generator, dtype=torch.uint8),
        "shuffled_patches": shuffled_patches(images, generator),
        "inverted": 255 - images,
        "upside_down": images.flip(2),
    }


def shuffled_patches(images: Tensor, generator: torch.Generator, side: int = 8) -> Tensor:
    """Cut every image into side x side patches and put them back in another order, one order per image."""
    patches = F.unfold(images.float(), side, stride=side)  # (n, c * side * side, patches)
    order = torch.rand(len(images), patches.shape[2], generator=generator).argsort(1)
    shuffled = patches.gather(2, order[:, None].expand_as(patches))
    return F.fold(shuffled, images.shape[2:], side, stride=side).to(torch.uint8)


def foreign_sets(
    n: int, folders: Sequence[Path] = (), *, download: bool = False
) -> tuple[dict[str, Tensor], list[str]]:
    """SVHN and CIFAR-100 (n seeded test images each), and one line for each that is missing.

    They may lie in `folders` (beside CIFAR-10 or in data/), CIFAR-100's test images also as PNGs in a folder
    cifar-100-test; `download` fetches them into the last one.
    """
    folders = folders or [ROOT / place for place in (os.environ.get(COPIES), "data") if place]
    sets, missing = dict[str, Tensor](), list[str]()
    for name in ("svhn", "cifar100"):
        source = official(name)
        for folder in folders:
            if name == "cifar100" and (paths := sorted((folder / "cifar-100-test").rglob("*.png"))):
                chosen = torch.randperm(len(paths), generator=torch.Generator().manual_seed(SEED))[:n]
                sets[name] = torch.from_numpy(read_image_files(np.array(paths, dtype=object)[chosen.numpy()]))
                break
            try:
                if download and folder == folders[-1]:
                    obtain(source, folder, test_alone=True)
                part = source.reader(folder, **source.parts[1])
            except (RuntimeError, OSError, UserError):
                continue
            images = as_split(part.data, getattr(part, source.labels)).images
            sets[name] = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(SEED))[:n]]
            break
        else:
            hint = "it could not be downloaded" if download else "`python -m helpers.evaluate --download` fetches it"
            missing.append(f"{name} is skipped: no copy was found; {hint}")
    return sets, missing


def outlier_scores(seen: dict[str, Tensor], usual_bpd: float) -> dict[str, Tensor]:
    """Six scores of what `describe` gives, higher = more foreign [Serra et al. 2020, eq. 1; Nalisnick et al. 2019]."""
    bpd = seen["bpd"]
    scores = {"elbo": bpd, "reconstruction_error": seen["mse"], "confidence": -seen["confidence"]}
    scores |= {f"elbo_minus_{kind}": bpd - seen[kind] for kind in ("png", "webp")}
    return scores | {"typicality": (bpd - usual_bpd).abs()}
