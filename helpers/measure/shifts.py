"""Images unlike the training ones: corruptions at five severities and sets from outside; pure functions on bytes.

The corruptions follow CIFAR-10-C [Hendrycks & Dietterich, ICLR 2019; severities of their CIFAR script], made here
from any images instead of downloaded. They round to the nearest level where the script cuts off.
"""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..data import to_bytes, to_unit

SEVERITIES = (1, 2, 3, 4, 5)
SEED = 0


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
    keep = (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1]
    x = to_unit(images)
    mean = x.mean((2, 3), keepdim=True)
    return to_bytes((mean + keep * (x - mean)).clamp(0, 1))


def jpeg_compression(images: Tensor, severity: int) -> Tensor:
    """Store as JPEG of quality 80 down to 40 and read again."""
    quality = (80, 65, 58, 50, 40)[severity - 1]
    return _each(images, lambda picture: Image.open(_stored(picture, "JPEG", quality=quality)))


def pixelate(images: Tensor, severity: int) -> Tensor:
    """Shrink to 95 % down to 65 % of the side with a box filter and enlarge again."""
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[severity - 1]
    side = images.shape[-1]
    small = (int(side * share),) * 2
    box = Image.Resampling.BOX
    return _each(images, lambda picture: picture.resize(small, box).resize((side, side), box))


CORRUPTIONS: dict[str, Callable[[Tensor, int], Tensor]] = {
    function.__name__: function for function in (gaussian_noise, defocus_blur, contrast, jpeg_compression, pixelate)
}


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
    sizes = [8.0 * _stored(picture, kind, **options).tell() for picture in _pictures(images)]
    return torch.tensor(sizes, dtype=torch.float64)


# --- sets from outside ------------------------------------------------------------------------------------------


def made_sets(images: Tensor) -> dict[str, Tensor]:
    """Five sets without a photograph of the kind that was trained on, each as large as images (n, 3, 32, 32)."""
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
    n, c, h, w = images.shape
    patches = images.unfold(2, side, side).unfold(3, side, side).reshape(n, c, -1, side, side)
    order = torch.rand(n, patches.shape[2], generator=generator).argsort(1)
    patches = patches.gather(2, order[:, None, :, None, None].expand_as(patches))
    grid = patches.view(n, c, h // side, w // side, side, side)
    return grid.permute(0, 1, 2, 4, 3, 5).reshape(n, c, h, w)


def foreign_sets(folders: list[Path], n: int, *, download: bool = False) -> tuple[dict[str, Tensor], list[str]]:
    """SVHN and CIFAR-100 (test images, a seeded choice of n) from the first folder that has them, and one line for
    each that is missing. Nothing is fetched unless `download`; then it goes into the last folder.
    """
    found, missing = {}, []
    for name, read in {"svhn": _svhn, "cifar100": _cifar100}.items():
        for folder in folders:
            try:
                images = read(folder, download and folder == folders[-1])
            except (RuntimeError, OSError):
                continue
            chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(SEED))[:n]
            found[name] = images[chosen]
            break
        else:
            hint = "it could not be downloaded" if download else "`python -m helpers.evaluate --download` fetches it"
            missing.append(f"{name} is skipped: no copy was found; {hint}")
    return found, missing


def _svhn(folder: Path, download: bool) -> Tensor:
    from torchvision.datasets import SVHN

    return torch.from_numpy(SVHN(str(folder), split="test", download=download).data)


def _cifar100(folder: Path, download: bool) -> Tensor:
    from torchvision.datasets import CIFAR100

    data = CIFAR100(str(folder), train=False, download=download).data
    return torch.from_numpy(data).permute(0, 3, 1, 2).contiguous()
