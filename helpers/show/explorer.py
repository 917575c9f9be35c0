"""Sliders over the principal directions of the latent space, and a morph between two images, in JupyterLab.

Each move decodes one code and replaces a PNG in an image widget. The executed notebook keeps a still picture beside
the widget, for readers without a kernel (GitHub, HTML).
"""

import io
from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..priors import slerp
from .directions import Directions, Effect, Reader, Start
from .figures import pixels

WIDE = widgets.Layout(width="600px")
LABEL = {"description_width": "340px"}
PICTURE = {"align_items": "flex-start", "flex_flow": "row wrap"}  # or JupyterLab stretches images


def png(image: np.ndarray, scale: int = 1) -> bytes:
    """A uint8 image (h, w, 3) as PNG bytes, enlarged without blur."""
    buffer = io.BytesIO()
    size = (image.shape[1] * scale, image.shape[0] * scale)
    Image.fromarray(image).resize(size, Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


def picture(name: str, size: int) -> widgets.Image:
    """An empty image widget of `size` screen pixels with a CSS class and, for readers of the screen, a name."""
    image = widgets.Image(format="png", layout=widgets.Layout(width=f"{size}px", height=f"{size}px"))
    image.add_class(name)
    return image


class Picker:
    """Two linked menus: a class, and a starting point of that class (a mean code or a test image)."""

    def __init__(self, starts: Sequence[Start], label: str, images_only: bool = False) -> None:
        self.starts = [(i, start) for i, start in enumerate(starts) if start.image >= 0 or not images_only]
        classes = list(dict.fromkeys(start.class_name for _, start in self.starts if start.class_name))
        self.classes = widgets.Dropdown(
            options=["any", *classes], description="class", tooltip="Offer the starting points of this class",
            style=LABEL, layout=WIDE,
        )  # fmt: skip
        tip = "A mean code, or a test image"
        self.start = widgets.Dropdown(description=label, tooltip=tip, style=LABEL, layout=WIDE)
        self.classes.add_class("class-picker")
        self.offer()
        self.classes.observe(self.offer, "value")

    def offer(self, _: Any = None) -> None:
        """Fill the second menu with the starting points of the chosen class."""
        chosen = self.classes.value
        self.start.options = [(s.label, i) for i, s in self.starts if chosen in ("any", s.class_name)]
        self.start.index = 0

    @property
    def index(self) -> int:
        """Which starting point is chosen."""
        return self.start.value


class WithStill(widgets.VBox):
    """A widget that leaves a still picture where nothing can move."""

    still: np.ndarray

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        alt = {"image/png": {"alt": "A still picture of what the controls show when the notebook runs in JupyterLab."}}
        return {**data, "image/png": png(self.still)}, {**metadata, **alt}


class LatentExplorer(WithStill):
    """Sliders along the first directions, and beside the decoded image all that is read off its code.

    `codes` (starts, d) belong to `starts`; `neighbours` are the images (m, 3, h, w) uint8 among which `reader` finds
    the nearest; `still` is a uint8 picture that shows what the sliders do where they cannot move.
    """

    def __init__(
        self,
        reader: Reader,
        directions: Directions,
        effects: Sequence[Effect],
        starts: Sequence[Start],
        codes: Tensor,
        neighbours: Tensor,
        class_names: Sequence[str],
        still: np.ndarray,
        size: int = 256,
    ) -> None:
        self.reader, self.directions, self.class_names = reader, directions, class_names
        self.neighbours, self.still, self.scale = neighbours, still, size // 32
        self.places, self.quiet = directions.place(codes), False
        self.noise = torch.Generator().manual_seed(0)
        self.picker = Picker(starts, "start at")
        self.sliders = [self._slider(i, effect) for i, effect in enumerate(effects)]
        self.temperature = widgets.FloatSlider(
            1, min=0, max=2, step=0.05, description="temperature", style=LABEL, layout=WIDE,
            tooltip="Scales the distance from the mean code: 0 is the mean, 1 the code as it is",
        )  # fmt: skip
        self.image, self.nearest = picture("decoded-image", size), picture("nearest-image", 96)
        self.belief, self.note = widgets.HTML(), widgets.HTML()
        controls = [self.picker.classes, self.picker.start, *self.sliders, self.temperature]
        left = widgets.VBox([*controls, widgets.HBox(self._buttons())])
        right = widgets.VBox([self.image, self.note, widgets.HTML("nearest training image:"), self.nearest])
        super().__init__([widgets.HBox([left, right, self.belief], layout=widgets.Layout(**PICTURE))])
        self.picker.start.observe(lambda _: self.restart(), "value")
        self.temperature.observe(self.redraw, "value")
        for slider in self.sliders:
            slider.observe(self.redraw, "value")
        self.restart()

    def _slider(self, i: int, effect: Effect) -> widgets.FloatSlider:
        share = self.directions.share[i]
        return widgets.FloatSlider(
            0, min=-4, max=4, step=0.1, description=f"{i + 1} {effect.name} ({share:.1%})", readout_format="+.1f",
            tooltip=f"Direction {i + 1}, in standard deviations: {share:.1%} of the codes' variance; "
            f"its name explains {effect.explained:.0%} of what it does to the pixels", layout=WIDE, style=LABEL,
        )  # fmt: skip

    def _buttons(self) -> list[widgets.Button]:
        tip = "A random code: a draw from the Gaussian of all training codes"
        random = widgets.Button(description="random", icon="random", tooltip=tip)
        random.on_click(lambda _: self.move(torch.randn(self.place.shape, generator=self.noise)))
        reset = widgets.Button(description="reset", icon="undo", tooltip="Back to the starting point")
        reset.on_click(lambda _: self.restart(temperature=1.0))
        return [random, reset]

    def restart(self, temperature: float | None = None) -> None:
        """Go to the chosen starting point."""
        if self.picker.start.value is not None:  # the menu is being filled
            self.move(self.places[self.picker.index], temperature)

    def move(self, place: Tensor, temperature: float | None = None) -> None:
        """Move all sliders to a place (d,) in standard deviations, and redraw once."""
        self.place, self.quiet = place.clone(), True
        for slider, value in zip(self.sliders, place.tolist(), strict=False):
            slider.value = min(max(value, slider.min), slider.max)
        if temperature is not None:
            self.temperature.value = temperature
        self.quiet = False
        self.redraw()

    @torch.no_grad()
    def redraw(self, change: Any = None) -> None:
        """Decode where the sliders stand and show what is read off the code."""
        if self.quiet:
            return
        if change is not None and change["owner"] in self.sliders:
            self.place[self.sliders.index(change["owner"])] = change["new"]
        code = self.directions.code(self.place, self.temperature.value)
        found = self.reader(code[None].to(self.reader.mean.device))
        self.image.value = png(pixels(found.image)[0], self.scale)
        self.nearest.value = png(pixels(self.neighbours[found.nearest.item()]), 3)
        self.belief.value = belief_table(self.class_names, found.belief[0].tolist())
        self.note.value = f"<b>{found.size.item():.1f}</b> bytes: the ideal code length at quality 1, without a header"


def belief_table(class_names: Sequence[str], belief: Sequence[float]) -> str:
    """Class probabilities as an HTML table with bars."""
    rows = "".join(
        f"<tr><td>{name}</td><td><meter value='{share:.3f}' aria-label='belief in {name}'></meter></td>"
        f"<td style='text-align:right'>{share:.0%}</td></tr>"
        for name, share in zip(class_names, belief, strict=True)
    )
    return f"<table><caption>belief of the classifier, from the code alone</caption>{rows}</table>"


class LatentMorph(WithStill):
    """From one image to another along the arc of a sphere; arguments as for LatentExplorer."""

    def __init__(
        self, reader: Reader, starts: Sequence[Start], codes: Tensor, originals: Tensor, still: np.ndarray
    ) -> None:
        self.reader, self.starts, self.codes, self.originals, self.still = reader, starts, codes, originals, still
        self.ends = [Picker(starts, label, images_only=True) for label in ("from", "to")]
        self.ends[1].start.value = self.ends[1].starts[-1][0]
        self.far = widgets.FloatSlider(
            0.5, min=0, max=1, step=0.02, description="how far", style=LABEL, layout=WIDE,
            tooltip="0 is the first image, 1 the second",
        )  # fmt: skip
        self.pictures = [picture("first-image", 96), picture("morphed-image", 192), picture("second-image", 96)]
        row = widgets.HBox(self.pictures, layout=widgets.Layout(align_items="flex-start"))
        super().__init__([*(menu for end in self.ends for menu in (end.classes, end.start)), self.far, row])
        for control in (self.far, *(end.start for end in self.ends)):
            control.observe(self.redraw, "value")
        self.redraw()

    @torch.no_grad()
    def redraw(self, _: Any = None) -> None:
        """Decode the code that lies so far along the arc."""
        if any(end.start.value is None for end in self.ends):
            return
        first, second = (end.index for end in self.ends)
        code = slerp_at(self.codes[first], self.codes[second], self.far.value)
        image = self.reader.decoder(code[None].to(self.reader.mean.device))
        ends = [pixels(self.originals[self.starts[index].image]) for index in (first, second)]
        for shown, content in zip(self.pictures, (ends[0], pixels(image)[0], ends[1]), strict=True):
            shown.value = png(content, 6)


def slerp_at(a: Tensor, b: Tensor, t: float) -> Tensor:
    """The code (d,) at the share t of the arc from a to b, on the grid of the slider (fiftieths)."""
    return slerp(a, b, 51)[round(50 * t)]
