"""The .vaec container, tiles, and image files: everything about the codec that knows no network.

magic "VAEC" | version | identity | number, height, width of the images | step | payload | CRC-32 of all before
"""

import os
import struct
import tempfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from .errors import UserError
from .files import cannot_write
from .pictures import read_picture

SIZE = 32  # height and width of what the network sees
MAGIC, VERSION = b"VAEC", 2
HEADER, CHECKSUM = struct.Struct("<4sB8sIHHf"), struct.Struct("<I")
OVERHEAD = HEADER.size + CHECKSUM.size  # 29 bytes beside the payload


class Header(NamedTuple):
    """What stands before the payload; height and width are those of the images."""

    identity: bytes  # of the weights and the code model: 8 bytes of their SHA-256
    number: int  # of images
    height: int
    width: int
    step: float  # of quantisation, in posterior widths


def write_container(header: Header, payload: bytes) -> bytes:
    """The file. Raises UserError when an image is too large for the header."""
    if max(header.height, header.width) >= 2**16:
        raise UserError(f"an image of {header.width}x{header.height} is too large; the limit is {2**16 - 1} on a side")
    content = HEADER.pack(MAGIC, VERSION, *header) + payload
    return content + CHECKSUM.pack(zlib.crc32(content))


def read_container(content: bytes) -> tuple[Header, bytes]:
    """Header and payload of a whole, undamaged file. Raises UserError on any other."""
    if not content.startswith(MAGIC):
        raise UserError(f"not a file of this codec (it does not start with {MAGIC.decode()})")
    if len(content) >= OVERHEAD and content[len(MAGIC)] != VERSION:
        raise UserError(f"the file has version {content[len(MAGIC)]} of the format; this program reads {VERSION}")
    covered, checksum = content[: -CHECKSUM.size], content[-CHECKSUM.size :]
    if len(content) < OVERHEAD or checksum != CHECKSUM.pack(zlib.crc32(covered)):
        raise UserError("the file is damaged: its checksum does not match (bytes are missing or changed)")
    header, payload = Header(*HEADER.unpack_from(covered)[2:]), covered[HEADER.size :]
    if not 0.1 < header.step < 100 or len(payload) % 4:
        raise UserError("the file is damaged: its header makes no sense")
    return header, payload


def tile_grid(height: int, width: int) -> tuple[int, int]:
    """How many rows and columns of 32x32 tiles cover an image."""
    return -(-height // SIZE), -(-width // SIZE)


def to_tiles(images: np.ndarray) -> np.ndarray:
    """(n, h, w, 3) -> (n * tiles, 32, 32, 3), row by row; edges are repeated where a tile sticks out."""
    n, height, width, _ = images.shape
    rows, columns = tile_grid(height, width)
    images = np.pad(images, ((0, 0), (0, -height % SIZE), (0, -width % SIZE), (0, 0)), "edge")
    return images.reshape(n, rows, SIZE, columns, SIZE, 3).swapaxes(2, 3).reshape(-1, SIZE, SIZE, 3)


def from_tiles(tiles: np.ndarray, header: Header) -> np.ndarray:
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
    """PNG, JPEG or .npy (uint8, one image or many) files as one array (n, h, w, 3). Raises UserError on any other."""
    parts: list[np.ndarray] = []
    for path in paths:
        part = read_picture(path, ("PNG", "JPEG", ".npy"))
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
