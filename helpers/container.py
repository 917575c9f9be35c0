"""The .vaec container, tiles, and image files: everything about the codec that knows no network.

    magic "VAEC" | version | fingerprint | number, height, width of the images | step | payload | CRC-32 of all before

29 bytes beside the payload, little-endian. The checksum covers every byte, so a damaged file gives no images.
"""

import os
import shutil
import struct
import tempfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from .config import UserError, cannot_write

SIZE = 32  # height and width of what the network sees
MAGIC, VERSION = b"VAEC", 2
HEADER = struct.Struct("<4sB8sIHHf")
CHECKSUM = struct.Struct("<I")
OVERHEAD = HEADER.size + CHECKSUM.size


class Header(NamedTuple):
    """What stands before the payload: the size is that of the images, the step is in posterior widths."""

    fingerprint: bytes
    count: int
    height: int
    width: int
    step: float


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
    if len(content) < OVERHEAD:
        raise UserError("the file is damaged: it is cut off in its header")
    _, version, *fields = HEADER.unpack_from(content)
    if version != VERSION:
        raise UserError(f"the file has version {version} of the format; this program reads version {VERSION}")
    if CHECKSUM.unpack(content[-CHECKSUM.size :])[0] != zlib.crc32(content[: -CHECKSUM.size]):
        raise UserError("the file is damaged: its checksum does not match (bytes are missing or changed)")
    header, payload = Header(*fields), content[HEADER.size : -CHECKSUM.size]
    if not 0.1 < header.step < 100 or len(payload) % 4:
        raise UserError("the file is damaged: its header makes no sense")
    return header, payload


def tiles_of(height: int, width: int) -> int:
    """How many 32x32 tiles cover an image."""
    return -(-height // SIZE) * -(-width // SIZE)


def to_tiles(images: np.ndarray) -> np.ndarray:
    """(n, h, w, 3) -> (n * tiles, 32, 32, 3), row by row; edges are repeated where a tile sticks out."""
    n, height, width, _ = images.shape
    images = np.pad(images, ((0, 0), (0, -height % SIZE), (0, -width % SIZE), (0, 0)), "edge")
    rows, columns = images.shape[1] // SIZE, images.shape[2] // SIZE
    return images.reshape(n, rows, SIZE, columns, SIZE, 3).swapaxes(2, 3).reshape(-1, SIZE, SIZE, 3)


def from_tiles(tiles: np.ndarray, header: Header) -> np.ndarray:
    """The inverse: (n * tiles, 32, 32, 3) -> (n, height, width, 3)."""
    rows, columns = -(-header.height // SIZE), -(-header.width // SIZE)
    grid = tiles.reshape(header.count, rows, columns, SIZE, SIZE, 3).swapaxes(2, 3)
    whole = grid.reshape(header.count, rows * SIZE, columns * SIZE, 3)
    return np.ascontiguousarray(whole[:, : header.height, : header.width])


# --- image files ------------------------------------------------------------------------------------------------


def read_images(paths: list[Path], *, tile: bool = False) -> np.ndarray:
    """PNG, JPEG or .npy (uint8, one image or many) files as one array (n, h, w, 3). Raises UserError on any other."""
    parts = [_read_file(path) for path in paths]
    for path, part in zip(paths, parts, strict=True):
        if part.shape[1:3] != (SIZE, SIZE) and not tile:
            raise UserError(
                f"{path} is {part.shape[2]}x{part.shape[1]}, not {SIZE}x{SIZE}: resize it (Pillow: "
                f"image.resize(({SIZE}, {SIZE}))) or cut it into tiles with --tile"
            )
        if part.shape[1:] != parts[0].shape[1:]:
            raise UserError(f"{paths[0]} and {path} differ in size; a file holds images of one size")
    return np.concatenate(parts)


def _read_file(path: Path) -> np.ndarray:
    try:
        if path.suffix != ".npy":
            with Image.open(path, formats=("PNG", "JPEG")) as image:
                return np.asarray(image.convert("RGB"))[None]
        with open(path, "rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # decoders raise whatever a damaged file makes of them
        reason = getattr(error, "strerror", None) or "it is not a whole PNG, JPEG or .npy file"
        raise UserError(f"cannot read {path}: {reason}") from None
    array = array[None] if array.ndim == 3 else array
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3:
        raise UserError(f"{path} holds {array.dtype} {array.shape}, not uint8 (n, height, width, 3)")
    return array


def write_images(images: np.ndarray, folder: Path) -> None:
    """One PNG for each image into a new folder, which appears whole or not at all. Raises UserError."""
    partial = None
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} exists and is not empty; name a new folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        for number, image in enumerate(images):
            Image.fromarray(image).save(partial / f"{number:05}.png")
        partial.chmod(0o755)
        if folder.exists():
            folder.rmdir()
        os.replace(partial, folder)
    except OSError as error:
        raise cannot_write(folder, error) from None
    finally:
        if partial:
            shutil.rmtree(partial, ignore_errors=True)


def read_bytes(path: Path) -> bytes:
    """The content of a file. Raises UserError when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
