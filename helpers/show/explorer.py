"""Sliders over the principal directions of the latent space, drawn into one image widget.

The executed notebook keeps a still picture beside the widget, for readers without a kernel (GitHub, HTML).
"""

import io
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets
import numpy as np
from PIL import Image


def png(image: np.ndarray, scale: int = 1) -> bytes:
    """A uint8 image (h, w, 3) as PNG bytes, enlarged without blur."""
    buffer = io.BytesIO()
    size = (image.shape[1] * scale, image.shape[0] * scale)
    Image.fromarray(image).resize(size, Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


class LatentExplorer(widgets.HBox):
    """`decode` takes a position (k,) along k directions, in standard deviations: an image (h, w, 3) uint8.

    `starts` maps a label to a starting position (k,); the picker offers them. `still` is a uint8 picture that shows
    what the sliders do where they cannot move.
    """

    def __init__(
        self,
        decode: Callable[[np.ndarray], np.ndarray],
        names: Sequence[str],
        starts: dict[str, np.ndarray],
        still: np.ndarray,
        size: int = 256,
    ) -> None:
        self.decode, self.still, self.rng = decode, still, np.random.default_rng(0)
        self.sliders = [self._slider(name) for name in names]
        self.scale = size // decode(np.zeros(len(names))).shape[0]
        self.image = widgets.Image(format="png", layout=widgets.Layout(width=f"{size}px", height=f"{size}px"))
        self.image.add_class("decoded-image")
        self.start = widgets.Dropdown(options=list(starts), description="start at", tooltip="Where the sliders begin")
        self.start.observe(lambda change: self.set(starts[change["new"]]), "value")
        self.note = widgets.HTML()
        self.quiet = False
        left = widgets.VBox([self.start, *self.sliders, widgets.HBox(self._buttons())])
        layout = widgets.Layout(align_items="flex-start", flex_flow="row wrap")  # or the image is stretched
        super().__init__([left, widgets.VBox([self.image, self.note])], layout=layout)
        for slider in self.sliders:
            slider.observe(self.redraw, "value")
        self.set(starts[self.start.value])

    @staticmethod
    def _slider(name: str) -> widgets.FloatSlider:
        return widgets.FloatSlider(
            0, min=-4, max=4, step=0.1, description=name, tooltip=f"{name}, in standard deviations",
            readout_format="+.1f", layout=widgets.Layout(width="380px"), style={"description_width": "130px"},
        )  # fmt: skip

    def _buttons(self) -> list[widgets.Button]:
        reset = widgets.Button(description="all zero", icon="undo", tooltip="The mean of all codes")
        reset.on_click(lambda _: self.set(np.zeros(len(self.sliders))))
        random = widgets.Button(description="random", icon="random", tooltip="A random place")
        random.on_click(lambda _: self.set(self.rng.normal(size=len(self.sliders))))
        return [reset, random]

    @property
    def position(self) -> np.ndarray:
        """Where the sliders stand, (k,), in standard deviations."""
        return np.array([slider.value for slider in self.sliders])

    def set(self, position: np.ndarray) -> None:
        """Move all sliders and redraw once."""
        self.quiet = True
        for slider, value in zip(self.sliders, position, strict=True):
            slider.value = float(np.clip(value, slider.min, slider.max))
        self.quiet = False
        self.redraw()

    def redraw(self, _: Any = None) -> None:
        """Decode where the sliders stand."""
        if not self.quiet:
            self.image.value = png(self.decode(self.position), self.scale)
            self.note.value = f"distance from the mean code: {np.linalg.norm(self.position):.1f} standard deviations"

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        return {**data, "image/png": png(self.still)}, metadata
