"""What other ways of storing images need: (bytes per image, PSNR in dB) of one file for all images.

Every format is given one mosaic of all images, so that its header and its statistics are shared, as ours are.
"""

import functools
import io
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import trellis
from ..data import Split
from ..engine import Json, bar, environment, read_json, rounded, sha256_of_tensors, write_json
from ..sources.photos import photos

Point = tuple[float, float]  # bytes per image, pooled PSNR in dB (infinite: no loss)
TARGETS = tuple(range(22, 45, 2))  # dB
NEAR = 2000  # images on which near-lossless files are compared
LINEAR_STEPS = (300.0, 200.0, 130.0, 85.0, 55.0, 36.0, 24.0, 16.0, 10.0, 6.5)  # levels


def pooled_psnr(images: np.ndarray, decoded: np.ndarray) -> float:
    """Of uint8 images, in dB; infinite where they are equal."""
    parts = zip(images, decoded, strict=True)  # one after the other: float copies of all take much memory
    error = sum(np.square(a.astype(np.float32) - b).sum(dtype=float) for a, b in parts) / images.size
    return 20 * np.log10(255) - 10 * np.log10(error) if error else np.inf


def mosaic(images: np.ndarray) -> np.ndarray:
    """Images (n, h, w, 3) side by side, as nearly square as n allows; (h * rows, w * columns, 3)."""
    n, height, width, _ = images.shape
    columns = next(c for c in range(max(1, int(n**0.5)), 0, -1) if n % c == 0)
    return images.reshape(-1, columns, height, width, 3).swapaxes(1, 2).reshape(-1, columns * width, 3)


def pillow(kind: str, picture: np.ndarray, **options: Any) -> tuple[int, np.ndarray]:
    """The bytes of a picture in one of Pillow's formats, and what comes out."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, kind, **options)
    return buffer.tell(), np.asarray(Image.open(buffer).convert("RGB"))


def jpeg_xl(picture: np.ndarray, **options: Any) -> tuple[int, np.ndarray]:
    """The same for JPEG XL."""
    content = imagecodecs.jpegxl_encode(picture, effort=7, **options)
    return len(content), imagecodecs.jpegxl_decode(content)


def jpeg_ls(picture: np.ndarray, error: int) -> tuple[int, np.ndarray]:
    """The same for JPEG-LS, with no value off by more than `error`."""
    content = imagecodecs.jpegls_encode(picture, level=error)
    return len(content), imagecodecs.jpegls_decode(content)


Way = Callable[[np.ndarray], tuple[int, np.ndarray]]


def lossy_ways() -> Iterator[tuple[str, Way]]:
    """Formats and settings that span 20 to 46 dB; JPEG halves its colours where it is coarse, as its users do."""
    for q in (3, 6, 12, 25, 45, 70, 85, 93, 97, 99):
        yield "JPEG", partial(pillow, "JPEG", quality=q, optimize=True, subsampling="4:2:0" if q < 60 else "4:4:4")
    for q in (0, 5, 20, 45, 70, 88, 98):
        yield "WebP", partial(pillow, "WEBP", quality=q, method=6)
    for q in (10, 25, 40, 55, 68, 80, 90, 96):
        yield "AVIF", partial(pillow, "AVIF", quality=q, speed=4, subsampling="4:4:4")
    for q in (21, 24, 27, 30, 33, 36, 40, 44, 47):
        yield "JPEG 2000", partial(pillow, "JPEG2000", quality_mode="dB", quality_layers=[q], irreversible=True, mct=1)
    for d in (15, 9, 5, 3, 1.8, 1, 0.6, 0.3):
        yield "JPEG XL", partial(jpeg_xl, distance=d)


LOSSLESS: dict[str, Way] = {
    "PNG": partial(pillow, "PNG", optimize=True), "WebP": partial(pillow, "WEBP", lossless=True, quality=100, method=6),
    "JPEG-LS": partial(jpeg_ls, error=0), "JPEG XL": partial(jpeg_xl, lossless=True),
}  # fmt: skip


def curves(picture: np.ndarray, n: int) -> dict[str, list[Point]]:
    """A curve for each lossy format, the smallest file first; `picture` is a mosaic of n images."""
    found: dict[str, list[Point]] = {}
    for name, way in lossy_ways():
        size, decoded = way(picture)
        found.setdefault(name, []).append((size / n, pooled_psnr(picture[None], decoded[None])))
    return {name: sorted(points) for name, points in found.items()}


def linear_curve(train: Tensor, images: np.ndarray, steps: tuple[float, ...]) -> list[Point]:
    """The PCA of all pixels (n, 3, h, w) in our trellis and range coder, quantised with steps in levels."""
    values, mean = train.flatten(1).float(), train.flatten(1).float().mean(0)
    variance, axes = torch.linalg.eigh(((values - mean).T @ (values - mean)).double() / len(values))
    axes = axes.float()[:, variance.argsort(descending=True)]
    widths = trellis.fit_widths(((values[:10_000] - mean) @ axes).double().numpy())
    rows = (torch.from_numpy(images).permute(0, 3, 1, 2).flatten(1).float() - mean) @ axes
    points = []
    for step in steps:
        used = max(8, int((widths.max(0) > 0.3 * step).sum()))
        payload, _ = trellis.encode(rows[:, :used].double().numpy(), widths[:, :used], step)
        decoded = torch.from_numpy(trellis.decode(payload, len(rows), widths[:, :used], step)).float()
        levels = (decoded @ axes[:, :used].T + mean).round().clamp(0, 255).view(len(rows), 3, *images.shape[1:3])
        points.append((len(payload) / len(rows), pooled_psnr(images, levels.permute(0, 2, 3, 1).byte().numpy())))
    return sorted(points)


def at_psnr(points: list[Point], psnr: float) -> float | None:
    """Bytes per image at a PSNR, on a straight line in log bytes between measured points; None beyond them."""
    rising: list[Point] = []
    for size, quality in sorted(points):  # without those that a smaller file surpasses
        if not rising or quality > rising[-1][1]:
            rising.append((size, quality))
    sizes, found = zip(*rising, strict=True)
    return float(np.exp(np.interp(psnr, found, np.log(sizes)))) if found[0] <= psnr <= found[-1] else None


def measured(codec: Any, images: np.ndarray, codes: np.ndarray | None, plan: Any) -> Json:
    """A file by `codec.write`, read again: bytes per image, PSNR, largest error, images per second in and out."""
    started = time.perf_counter()
    content = codec.write(images, codes, plan)
    written = time.perf_counter()
    decoded = codec.decompress(content)
    seconds = {"encode": written - started, "decode": time.perf_counter() - written}
    worst = max(int(np.abs(a.astype(int) - b).max()) for a, b in zip(images, decoded, strict=True))
    speeds = {name: len(images) / value for name, value in seconds.items()}
    psnr = pooled_psnr(images, decoded) if worst else None
    return {**plan._asdict(), "bytes": len(content) / len(images), "psnr": psnr, "error": worst, **speeds}


def near_lossless(codec: Any, images: np.ndarray, error: int, every_bit: Any) -> Json:
    """Bytes per image of files with no value off by more than `error`: ours, and JPEG-LS of a mosaic."""
    row = measured(codec, images, None, every_bit._replace(step=2 * error + 1))
    return {"ours": row["bytes"], "JPEG-LS": jpeg_ls(mosaic(images), error)[0] / len(images), "worst": row["error"]}


def photographs(codec: Any, plan: Any, n: int) -> Json:
    """Bits of a value of the first n of ten photographs, each a file of its own: ours by a lossless plan, PNG, WebP."""
    found = {}
    for name, picture in list(photos().items())[:n]:
        ways = {kind: 8 * LOSSLESS[kind](picture)[0] / picture.size for kind in ("PNG", "WebP")}
        found[name] = {"ours": 8 * len(codec.write(picture[None], None, plan)) / picture.size, **ways}
    return found


def codec_scores(folder: Path, codec: Any, plans: dict[str, Any], split: Split, train: Split) -> Json:
    """Our files by plan, the other formats and the PCA, on all images of a split; stored in `folder` part by part.

    "ours": a row for each plan; "lossy": curves by format; "lossless": bytes per image; "near": the same by largest
    error, on the first NEAR images; "photographs": bits; "alone": seconds to decode one lossless image.
    """
    images = split.images.permute(0, 2, 3, 1).contiguous().numpy()
    codes, picture = functools.cache(lambda: codec.codes(images)), mosaic(images)
    about: Json = {"codec": codec.identity.hex(), "rest": [identity.hex() for identity in codec.identities.values()]}
    about |= {"images": sha256_of_tensors({"images": split.images}), "price": codec.price}
    about["environment"] = environment() | {name: version(name) for name in ("imagecodecs", "pillow")}
    every_bit = plans["lossless"]

    def row(plan: Any) -> Json:
        return measured(codec, images, codes() if plan.fineness else None, plan)

    names = {name: f"ours, {name} {tuple(plan)}" for name, plan in plans.items()}
    parts: dict[str, Callable[[], Any]] = {names[name]: partial(row, plan) for name, plan in plans.items()}
    parts |= {
        "formats": lambda: curves(picture, len(images)),
        "pca": lambda: linear_curve(train.images, images, LINEAR_STEPS),
        "lossless": lambda: {name: way(picture)[0] / len(images) for name, way in LOSSLESS.items()},
        "near": lambda: {str(error): near_lossless(codec, images[:NEAR], error, every_bit) for error in (1, 2, 4)},
        "photographs": partial(photographs, codec, every_bit, max(1, min(10, len(images) // 20))),
        "alone": lambda: 1 / max(measured(codec, images[:1], None, every_bit)["decode"] for _ in range(5)),
    }
    scores = gathered(folder / "codec_scores.json", about, parts)
    lossy = {**scores.pop("formats"), "PCA, coded as ours": scores.pop("pca")}
    ours = {name: scores.pop(stored) for name, stored in names.items()}
    return {**scores, "n": len(images), "lossy": lossy, "ours": ours}


def gathered(path: Path, about: Json, parts: dict[str, Callable[[], Any]]) -> Json:
    """What `parts` compute, each stored at once: a stop loses one of them. Parts of other weights are computed anew.

    The environment in `about` is that of the first part, and no reason to compute anything again.
    """
    stored = read_json(path, "delete it and run the same again") if path.is_file() else {}
    if {**stored.get("provenance", {}), "environment": 0} != {**about, "environment": 0}:
        stored = {"provenance": about}
    for name in bar([name for name in parts if name not in stored], "codec"):
        stored[name] = rounded(parts[name]())
        write_json(path, stored)
    return {name: stored[name] for name in ("provenance", *parts)}
