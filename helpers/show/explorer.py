"""Sliders over the principal directions of the latent space, and a morph between two images, in JupyterLab."""

from collections.abc import Sequence
from html import escape
from typing import Any

import ipywidgets as widgets
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..priors import slerp
from .images import pixels
from .reader import ExplorerData, Reader, Start
from .theme import image_file

WIDE: dict[str, Any] = {"layout": {"width": "420px"}, "style": {"description_width": "200px"}}
PICTURE = {"align_items": "flex-start", "flex_flow": "row wrap"}  # or JupyterLab stretches images


def enlarged_png(image: np.ndarray, scale: int = 1) -> bytes:
    """A uint8 image (h, w, 3) as PNG bytes, enlarged without blur."""
    return image_file(Image.fromarray(image.repeat(scale, 0).repeat(scale, 1)), "PNG")


def image_widget(css_class: str, size: int) -> widgets.Image:
    """An empty image widget of `size` screen pixels."""
    return widgets.Image(format="png", layout={"width": f"{size}px", "height": f"{size}px"}).add_class(css_class)


class Picker(widgets.VBox):
    """Two linked menus: a class, and a start of that class (`start.value`: its index)."""

    def __init__(self, starts: Sequence[Start], label: str, *, images_only: bool = False) -> None:
        self.starts = [(i, start) for i, start in enumerate(starts) if start.image >= 0 or not images_only]
        names = dict.fromkeys(start.class_name for _, start in self.starts if start.class_name)
        tip = "Offer the starting points of this class"
        self.classes = widgets.Dropdown(options=["any", *names], description="class", tooltip=tip, **WIDE)
        self.start = widgets.Dropdown(description=label, tooltip="A mean code, or a test image", **WIDE)
        super().__init__([self.classes.add_class("class-picker"), self.start])
        self.classes.observe(self.offer, "value")
        self.offer()

    def offer(self, _: Any = None) -> None:
        """Fill the second menu with the starting points of the chosen class."""
        chosen = self.classes.value
        self.start.options = [(s.label, i) for i, s in self.starts if chosen in ("any", s.class_name)]
        self.start.index = 0


class WithStill(widgets.VBox):
    """A widget that leaves a still picture (h, w, 3) uint8 for readers without a kernel (GitHub, HTML)."""

    still: np.ndarray

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        alt = "A still picture of what the controls show when the notebook runs in JupyterLab."
        bundle = {**super()._repr_mimebundle_(**kwargs), "image/png": enlarged_png(self.still)}
        return bundle, {"image/png": {"alt": alt}}


class LatentExplorer(WithStill):
    """Sliders along the first directions, and all that is read off the code; `neighbours`: (m, 3, h, w) uint8.

    `sharp`: codes (n, d) -> images (n, 3, h, w), shown instead of the decoder's mean while the switch says so.
    """

    def __init__(
        self, reader: Reader, parts: ExplorerData, neighbours: Tensor, still: np.ndarray, sharp: nn.Module
    ) -> None:
        self.reader, self.parts, self.neighbours, self.still, self.sharp = reader, parts, neighbours, still, sharp
        self.places, self.quiet = parts.directions.place(parts.codes), False
        self.noise = torch.Generator().manual_seed(0)
        self.picker = Picker(parts.starts, "start at")
        self.sliders = []
        for i, (effect, share) in enumerate(zip(parts.effects, parts.directions.share.tolist(), strict=False), 1):
            tip = (
                f"{effect.name}: direction {i}, {share:.1%} of the variance, in standard deviations; its name explains "
            )
            tip += f"{effect.explained:.0%} of its effect"
            options = {"description": f"{i} {effect.short}", "tooltip": tip, "readout_format": "+.1f"}
            self.sliders.append(widgets.FloatSlider(min=-4, max=4, **options, **WIDE))
        tip = "Scales the distance from the mean code: 0 is the mean, 1 the code as it is"
        self.temperature = widgets.FloatSlider(1, max=2, step=0.05, description="temperature", tooltip=tip, **WIDE)
        tips = ["The mean of p(x|z), the decoder of the VAE", "The second decoder, trained to look right"]
        self.shown = widgets.ToggleButtons(options=["mean", "sharp"], tooltips=tips, description="decoder")
        self.image, self.nearest = image_widget("decoded-image", 256), image_widget("nearest-image", 96)
        self.belief, self.note = widgets.HTML(), widgets.HTML()
        seen = widgets.VBox([self.image, self.note, self.belief, widgets.HTML("nearest training image:"), self.nearest])
        moved = [self.picker, *self.sliders, self.temperature, self.shown, widgets.HBox(self.buttons())]
        # What is seen comes first and is never wrapped below what is moved, or it leaves a small screen.
        super().__init__([widgets.HBox([seen, widgets.VBox(moved)], layout=PICTURE | {"flex_flow": "row nowrap"})])
        horses = [i for i, start in enumerate(parts.starts) if start.label.startswith("horse, test image")]
        if horses:  # a mean code is a grey blur
            self.picker.start.value = horses[0]
        self.picker.start.observe(lambda _: self.move(), "value")
        for control in (self.temperature, self.shown, *self.sliders):
            control.observe(self.redraw, "value")
        self.move()

    def buttons(self) -> list[widgets.Button]:
        """A button that goes to a random code, and one that goes back to the starting point."""
        random = widgets.Button(description="random", icon="random", tooltip="A draw from the Gaussian of all codes")
        random.on_click(lambda _: self.move(torch.randn(self.place.shape, generator=self.noise)))
        reset = widgets.Button(description="reset", icon="undo", tooltip="Back to the starting point")
        reset.on_click(lambda _: self.move(temperature=1.0))
        return [random, reset]

    def move(self, place: Tensor | None = None, temperature: float | None = None) -> None:
        """Move all sliders to a place (d,) in standard deviations, or to the chosen start, and redraw once."""
        self.place = (self.places[self.picker.start.value] if place is None else place).clone()
        self.quiet = True
        for slider, value in zip(self.sliders, self.place.tolist(), strict=False):
            slider.value = value  # the slider keeps to its ends, the place does not
        self.temperature.value = self.temperature.value if temperature is None else temperature
        self.quiet = False
        self.redraw()

    @torch.no_grad()
    def redraw(self, change: Any = None) -> None:
        """Decode where the sliders stand and show what is read off the code."""
        if self.quiet:
            return
        if change is not None and change["owner"] in self.sliders:
            self.place[self.sliders.index(change["owner"])] = change["new"]
        code = self.parts.directions.code(self.place, self.temperature.value)
        z = code[None].to(self.reader.mean.device)
        reading = self.reader(z)
        self.image.value = enlarged_png(pixels(reading.image if self.shown.value == "mean" else self.sharp(z))[0], 8)
        self.nearest.value = enlarged_png(pixels(self.neighbours[reading.nearest.item()]), 3)
        self.note.value = (
            f"<b>{reading.size.item():.1f}</b> bytes: the ideal code<br>length at fineness 1, without a header"
        )
        table = "<table><caption>belief of the classifier, from the code alone</caption>"
        for name, share in zip(map(escape, self.parts.class_names), reading.belief[0].tolist(), strict=True):
            table += f"<tr><td>{name}</td><td><meter value='{share:.3f}' aria-label='belief in {name}'></meter></td>"
            table += f"<td style='text-align:right'>{share:.0%}</td></tr>"
        self.belief.value = table + "</table>"


class LatentMorph(WithStill):
    """From one test image (of `originals`, (n, 3, h, w) uint8) to another along the arc of a sphere."""

    def __init__(self, reader: Reader, parts: ExplorerData, originals: Tensor, still: np.ndarray) -> None:
        self.reader, self.parts, self.originals, self.still = reader, parts, originals, still
        self.ends = [Picker(parts.starts, label, images_only=True) for label in ("from", "to")]
        self.ends[1].start.value = self.ends[1].starts[-1][0]
        tip = "0 is the first image, 1 the second"
        self.far = widgets.FloatSlider(0.5, max=1, step=0.02, description="how far", tooltip=tip, **WIDE)
        sizes = {"first-image": 96, "morphed-image": 192, "second-image": 96}
        self.pictures = [image_widget(css_class, size) for css_class, size in sizes.items()]
        super().__init__([*self.ends, self.far, widgets.HBox(self.pictures, layout=PICTURE)])
        for control in (self.far, *(end.start for end in self.ends)):
            control.observe(self.redraw, "value")
        self.redraw()

    @torch.no_grad()
    def redraw(self, _: Any = None) -> None:
        """Decode the code that lies so far along the arc (in fiftieths, the steps of the slider)."""
        first, second = (end.start.value for end in self.ends)
        code = slerp(self.parts.codes[first], self.parts.codes[second], 51)[round(50 * self.far.value)]
        morphed = self.reader.decoder(code[None].to(self.reader.mean.device))
        ends = [pixels(self.originals[self.parts.starts[index].image]) for index in (first, second)]
        for widget, image in zip(self.pictures, (ends[0], pixels(morphed)[0], ends[1]), strict=True):
            widget.value = enlarged_png(image, 6)
