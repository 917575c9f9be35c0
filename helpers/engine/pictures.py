"""A picture file as a viewer shows it: turned as its camera says, in eight bits, on white where it is transparent."""

import contextlib
import errno
import functools
import sys
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from .errors import UserError

tell_once = functools.cache(print)


def read_picture(path: Path) -> np.ndarray:
    """Pixels uint8 (h, w, 3), or the array of a .npy. Raises UserError on a damaged file and on no picture."""
    try:
        if path.suffix == ".npy":
            with path.open("rb") as file:
                return np.lib.format.read_array(file, allow_pickle=False)
        with warnings.catch_warnings(action="ignore"):  # Pillow's, of large pictures and small defects
            with Image.open(path) as picture:
                return _as_shown(picture, path)
    except Image.DecompressionBombError:
        reason = f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels; make it smaller or cut it"
    except Exception as error:  # decoders raise whatever a damaged file makes of them
        reason = getattr(error, "strerror", None) or "it is no picture, or it is damaged"
    raise UserError(f"cannot read {path}: {reason}")


def _as_shown(picture: Image.Image, path: Path) -> np.ndarray:
    deep = any(";16" in str(part) for part in getattr(picture, "tile", ()))  # 16 bits, which Pillow may cut to 8
    picture.load()
    frames = getattr(picture, "n_frames", 1)
    with contextlib.suppress(Exception):  # where the EXIF data are damaged, viewers turn nothing
        ImageOps.exif_transpose(picture, in_place=True)
    transparent = picture.has_transparency_data
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in ("PNG", "PPM")):  # 16 bits
        values, hidden = np.asarray(picture), picture.info.get("transparency", -1)
        picture = Image.fromarray(np.where(values == hidden, 255, np.rint(values / 257)).astype(np.uint8))
        deep = True
    elif picture.mode in ("I", "F"):
        raise OSError(errno.EINVAL, "its pixels have 32 bits and no known range; save it with 8 or 16 bits")
    elif transparent:
        picture = picture.convert("RGBA")
        transparent = picture.getchannel("A").getextrema() != (255, 255)
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    if deep:
        tell_once(f"note: pictures in {path.parent} have 16 bits a value, of which 8 are kept", file=sys.stderr)
    if frames > 1:
        tell_once(f"note: of animations in {path.parent} the first picture is kept", file=sys.stderr)
    if transparent:
        tell_once(f"note: pictures in {path.parent} are transparent in parts, which become white", file=sys.stderr)
    return np.asarray(picture.convert("RGB"))
