"""The .vaec container, tiles, and image files: everything about the codec that knows no network.

magic "VAEC" | version | number, height, width of the images | step of the rest, 0 = there is none, and its kind
step and weights of the code, its bytes | code | CRC-32 || weights of the rest | rest | CRC-32 of all before
"""

import os
import struct
import tempfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from .errors import UserError
from .files import cannot_write
from .pictures import read_picture
from .sealed import sha256_of_tensors

KINDS = PIXELS, RESTORED, DETAIL = range(3)  # the second: the network's restorer has the last word, beyond any bound
LARGEST = 2**26  # pixels of an image: more would need tens of gigabytes of memory
SIZE = 32  # height and width of what the network sees
MAGIC, VERSION = b"VAEC", 3
FIRST, IDENTITY, CHECKSUM = struct.Struct("<4sBIHHBBf8sI"), 8, struct.Struct("<I")
OVERHEAD = FIRST.size + CHECKSUM.size  # 35 bytes of a file that ends with its code; a rest has 12 more


class Container(NamedTuple):
    """What a file holds; height and width are those of the images."""

    number: int  # of images
    height: int
    width: int
    step: int = 0  # of the rest, in levels; 0 = the preview is all
    kind: int = 0  # of the rest: one of KINDS
    code_step: float = 0.0  # of quantisation, in posterior widths; 0 = there is no code, and so no preview
    code_weights: bytes = bytes(IDENTITY)  # of the SHA-256 of the VAE and the code model
    code: bytes = b""
    weights: bytes = bytes(IDENTITY)  # of the rest
    rest: bytes = b""


def write_container(parts: Container) -> bytes:
    """The file. Raises UserError when an image is too large for the header."""
    if max(parts.height, parts.width) >= 2**16 or parts.height * parts.width > LARGEST:
        limit = f"the limit is {2**16 - 1} pixels on a side and {LARGEST:,} in all"
        raise UserError(f"an image of {parts.width}x{parts.height} is too large; {limit}")
    content = checked(FIRST.pack(MAGIC, VERSION, *parts[:7], len(parts.code)) + parts.code)
    return checked(content + parts.weights + parts.rest) if parts.step else content


def checked(content: bytes) -> bytes:
    """With its CRC-32 behind it."""
    return content + CHECKSUM.pack(zlib.crc32(content))


def read_container(content: bytes, *, preview: bool = False) -> Container:
    """What a whole, undamaged file holds; with `preview` what its first part holds, whatever follows it.

    Raises UserError on any other.
    """
    if not content.startswith(MAGIC):
        raise UserError(f"not a file of this codec (it does not start with {MAGIC.decode()})")
    if len(content) >= OVERHEAD and content[len(MAGIC)] != VERSION:
        raise UserError(f"the file has version {content[len(MAGIC)]} of the format; this program reads {VERSION}")
    fields = FIRST.unpack_from(content)[2:] if len(content) >= OVERHEAD else (0,)
    length: int = fields[-1]
    end = OVERHEAD + length
    first, rest = content[: end - CHECKSUM.size], content[end:]
    if len(content) < OVERHEAD or content[:end] != checked(first):
        raise UserError("the file is damaged: its checksum does not match (bytes are missing or changed)")
    parts = Container(*fields[:-1])._replace(code=first[FIRST.size :])
    coded = 0.01 < parts.code_step < 100 or (parts.code_step == 0 and not length)
    possible = 0 < parts.height * parts.width <= LARGEST and (parts.code_step or parts.kind != DETAIL)
    if not coded or not possible or length % 4 or parts.kind >= len(KINDS):
        raise UserError("the file is damaged: its header makes no sense")
    if preview or (not parts.step and not rest):
        return parts
    payload = rest[IDENTITY : -CHECKSUM.size]
    if len(rest) < IDENTITY + CHECKSUM.size or content != checked(content[: -CHECKSUM.size]) or len(payload) % 4:
        hint = "; --preview shows what its first part holds" if parts.code_step else ""
        raise UserError(f"the file is damaged: its last checksum does not match (bytes are missing or changed){hint}")
    return parts._replace(weights=rest[:IDENTITY], rest=payload)


def identity_of(tensors: dict[str, Tensor]) -> bytes:
    """What a file says of the weights that wrote it."""
    return bytes.fromhex(sha256_of_tensors(tensors))[:IDENTITY]


def check_identity(found: bytes, own: bytes, name: str) -> None:
    """Raises UserError when a file was made with other weights than those at hand."""
    if found != own:
        hint = f"({found.hex()}, not {own.hex()}); copy all files, name them with --weights"
        raise UserError(f"the file was made with other weights or another {name} {hint}")


def tile_grid(height: int, width: int) -> tuple[int, int]:
    """How many rows and columns of 32x32 tiles cover an image."""
    return -(-height // SIZE), -(-width // SIZE)


def to_tiles(images: np.ndarray) -> np.ndarray:
    """(n, h, w, 3) -> (n * tiles, 32, 32, 3), row by row; edges are repeated where a tile sticks out."""
    n, height, width, _ = images.shape
    rows, columns = tile_grid(height, width)
    images = np.pad(images, ((0, 0), (0, -height % SIZE), (0, -width % SIZE), (0, 0)), "edge")
    return images.reshape(n, rows, SIZE, columns, SIZE, 3).swapaxes(2, 3).reshape(-1, SIZE, SIZE, 3)


def from_tiles(tiles: np.ndarray, header: Container) -> np.ndarray:
    """The inverse: (n * tiles, 32, 32, 3) -> (n, height, width, 3)."""
    rows, columns = tile_grid(header.height, header.width)
    grid = tiles.reshape(header.number, rows, columns, SIZE, SIZE, 3).swapaxes(2, 3)
    return grid.reshape(header.number, rows * SIZE, columns * SIZE, 3)[:, : header.height, : header.width]


def check_images(images: np.ndarray, name: str, *, tile: bool) -> None:
    """Raises UserError, which begins with `name`, on anything but uint8 (n, h, w, 3) of 32x32, or any size to tile."""
    kind, shape = getattr(images, "dtype", type(images)), tuple(getattr(images, "shape", ()))
    if not isinstance(images, np.ndarray) or kind != np.uint8 or shape[3:] != (3,) or 0 in shape[1:]:
        raise UserError(f"{name} must be uint8 (n, height, width, 3), not {kind} {shape}")
    _, height, width, _ = images.shape
    if not tile and (height, width) != (SIZE, SIZE):
        raise UserError(f"{name} is {width}x{height}, not {SIZE}x{SIZE}: resize it, or cut it into tiles with --tile")


def read_pictures(paths: list[Path], *, tile: bool = False) -> np.ndarray:
    """Picture or .npy (uint8, one image or many) files as one array (n, h, w, 3). Raises UserError on any other."""
    parts: list[np.ndarray] = []
    for path in paths:
        part = read_picture(path)
        part = part[None] if part.ndim == 3 else part
        check_images(part, str(path), tile=tile)
        if parts and part.shape[1:] != parts[0].shape[1:]:
            raise UserError(f"{paths[0]} and {path} differ in size; a file holds images of one size")
        parts.append(part)
    return np.concatenate(parts)


def write_pictures(images: np.ndarray, folder: Path) -> None:
    """One PNG for each image (n, h, w, 3) into a folder, new or empty: all or none. Raises UserError on any other."""
    folder = Path(os.path.realpath(folder))  # a link stays
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} exists and is not an empty folder; name a new one")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as partial:
            for number, image in enumerate(images):
                Image.fromarray(image).save(Path(partial) / f"{number:05}.png")
            Path(partial).chmod(0o755)
            Path(partial).replace(folder)
    except OSError as error:
        raise cannot_write(folder, error) from None
