"""The look of every figure, and what stores a figure with its caption, which is also its alt text."""

import io
import json
import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from IPython import display, get_ipython
from matplotlib.collections import QuadMesh
from matplotlib.image import AxesImage
from PIL import Image

from ..engine import UserError, read_json, write_json, write_whole

WIDTH = 5.8  # inches: text of 9 points stays readable where a phone shows the figure on 380 pixels
DPI = 150  # of pictures, whose pixels are enlarged by whole numbers; charts have twice as many, for sharp screens
CLASS_COLOURS = list(mpl.color_sequences["petroff10"])
CLASS_MARKERS = "osD^vP*Xph"  # only six of the ten colours stand out on white: a class always has its marker too
SPLIT_COLOURS = {"train": "#3f90da", "validation": "#bd1f01", "test": "#832db6"}
SPLIT_STYLES = {"train": "o-", "validation": "s--", "test": "D:"}
# The parameters of matplotlib: seaborn's "whitegrid", whose import takes a second, with sizes of our own.
LOOK: dict[Any, Any] = json.loads(Path(__file__).with_name("look.json").read_text(encoding="utf-8"))


def use_theme() -> None:
    """White background, petroff10 colours (told apart by colour-blind readers), one size of text."""
    mpl.rcParams.update(LOOK | {"savefig.dpi": DPI, "axes.prop_cycle": plt.cycler(color=CLASS_COLOURS)})


class Gallery:
    """Stores figures in one folder, each with its caption; `notice` is printed on top of every one."""

    def __init__(self, folder: Path, notice: str = "") -> None:
        self.folder, self.notice = folder, notice
        use_theme()

    def __call__(self, figure: plt.Figure, name: str, caption: str, *, stored: bool = False) -> None:
        """Write NAME.png and its caption, show both; `stored`: of the stored runs. UserError on too short a caption."""
        if len(caption) < 20:
            raise UserError(f"figure {name} needs a caption that says what is seen, not {caption!r}")
        if self.notice:
            stamp = "stored runs on CIFAR-10, not photos" if stored else "photos, not CIFAR-10"
            figure.text(0, 1.01, stamp, fontsize=9, color="#bd1f01", va="bottom")
        caption = with_minus(caption)
        shown = [part for axis in figure.axes for part in [*axis.images, *axis.collections]]
        chart = not any(isinstance(part, AxesImage) and np.asarray(part.get_array()).ndim == 3 for part in shown)
        png = figure_png(figure, 2 * DPI if chart else None)
        if chart:
            heat = any(isinstance(part, AxesImage | QuadMesh) for part in shown)  # there a colour is a number
            png = lighter(png, 256 if heat else 16 if any(axis.tables for axis in figure.axes) else 64)
        plt.close(figure)
        write_whole(self.folder / f"{name}.png", png)
        captions = read_captions(self.folder) | {name: caption}
        write_json(self.folder / "captions.json", dict(sorted(captions.items())))
        show_png(half(png) if chart else lighter(png), caption)


def with_minus(text: str) -> str:
    """The text with a typographic minus before its negative numbers."""
    return re.sub(r"(?<![\w.-])-(?=\d)", "\N{MINUS SIGN}", text)


def read_captions(folder: Path) -> dict[str, str]:
    """Captions by figure name; empty when nothing was saved yet. Raises UserError on a damaged file."""
    path = folder / "captions.json"
    return read_json(path, "delete it and run the notebooks again") if path.exists() else {}


def figure_png(figure: plt.Figure, dpi: int | None = None) -> bytes:
    """PNG bytes on white, without a date or a version in them, so that equal figures are equal files."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None}, bbox_inches="tight", pad_inches=0.06)
    return buffer.getvalue()


def image_file(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of an image file; the options are those of Pillow for this kind, as "PNG" or "WEBP"."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def lighter(png: bytes, colours: int = 256) -> bytes:
    """PNG bytes with only so many colours, those that suit the picture best: a third of the bytes or less."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    few = image.quantize(colours, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    return min(png, image_file(few, "PNG", optimize=True), key=len)


def half(png: bytes) -> bytes:
    """A chart in half its size, for the copy in a notebook."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    return lighter(image_file(image.reduce(2), "PNG"))


def show_png(png: bytes, alt: str, handle: display.DisplayHandle | None = None) -> display.DisplayHandle | None:
    """Display PNG bytes with an alt text, or replace what `handle` shows; nothing happens outside a notebook."""
    if get_ipython() is None:
        return None
    if handle is None:
        return display.display(display.Image(png, alt=alt), display_id=True)
    handle.update(display.Image(png, alt=alt))
    return handle


def blank(axis: plt.Axes) -> None:
    """No ticks, no frame, no grid: only the picture."""
    axis.set(xticks=[], yticks=[], frame_on=False)
