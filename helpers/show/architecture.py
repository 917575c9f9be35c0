"""The networks as a table and as a picture, both read off the modules themselves (notebook 2)."""

from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import torch
from torch import nn

from ..models import Autoencoder
from .theme import CLASS_COLOURS, WIDTH, blank

COUNTED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


class Layer(NamedTuple):
    """A layer with weights, in one pass of one image: its output without the batch, weights, 10^6 multiply-adds."""

    name: str
    output: tuple[int, ...]
    parameters: int
    mmac: float


@torch.no_grad()
def layers(model: Autoencoder) -> list[Layer]:
    """The layers in the order in which an image meets them; the decoder, which runs twice, is listed once."""
    found: dict[str, Layer] = {}

    def watch(name: str, module: Any) -> Any:
        def note(module: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
            # Every weight meets each place of the output once, of a transposed convolution each place of its input.
            places = (inputs[0] if isinstance(module, nn.ConvTranspose2d) else output)[0, 0].numel()
            weights = sum(p.numel() for p in module.parameters())
            found.setdefault(name, Layer(name, tuple(output.shape[1:]), weights, module.weight.numel() * places / 1e6))

        return module.register_forward_hook(note)

    watched = [watch(name, module) for name, module in model.named_modules() if isinstance(module, COUNTED)]
    model.eval()(torch.full((1, 3, 32, 32), 0.5, device=model.device))
    for handle in watched:
        handle.remove()
    return list(found.values())


Box = tuple[float, float, str]  # x and y in inches, what is written in it
ARROWS = (  # from, to, what is said of it
    ("image", "what", ""), ("image", "where", ""), ("what", "class", ""), ("what", "code", "no gradient back"),
    ("where", "code", ""), ("code", "decoder", ""), ("decoder", "mean", ""), ("code", "class from the code", ""),
    ("image", "correction", "what was meant"), ("mean", "correction", "what came out"), ("correction", "code", "added"),
)  # fmt: skip


def boxes_of(model: Autoencoder) -> dict[str, Box]:
    """The parts of the model in the picture, by name, each with what it gives and costs."""
    parts = layers(model)

    def said(prefix: str, output: bool = True) -> str:
        chosen = [part for part in parts if part.name.startswith(prefix)]
        size = " x ".join(map(str, chosen[-1].output)) + "\n" if output else ""
        weights, mmac = sum(p.parameters for p in chosen) / 1e6, sum(p.mmac for p in chosen)
        return f"{size}{weights:.1f} M weights\n{mmac:.0f} MMAC"

    code = f"code: {model.latent_dim} numbers\n{said('encoder.to_code', output=False)}"
    boxes = {
        "image": (0.5, 2.2, "image\n3 x 32 x 32"), "mean": (5.1, 0.6, "mean\n3 x 32 x 32"),
        "what": (1.9, 3.4, f"what: {said('encoder.what')}"), "where": (1.9, 2.2, f"where: {said('encoder.where')}"),
        "class": (3.4, 3.4, "class"), "code": (3.6, 2.2, code),
        "class from the code": (5.1, 3.4, "class from\nthe code"),
        "decoder": (5.1, 2.2, f"decoder\n{said('decoder', output=False)}"),
    }  # fmt: skip
    if model.correction is not None:
        boxes["correction"] = (2.5, 0.6, f"correction:\na second look\n{said('correction', output=False)}")
    return boxes


def architecture_plot(model: Autoencoder) -> plt.Figure:
    """The model as boxes with what they cost, and arrows with what flows along them."""
    figure, axis = plt.subplots(figsize=(WIDTH, 4.0))
    boxes, style = boxes_of(model), {"boxstyle": "round,pad=0.35", "fc": "#eef4fb", "ec": CLASS_COLOURS[0]}
    words: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9}
    frames = {name: axis.text(x, y, text, **words, bbox=style).get_bbox_patch() for name, (x, y, text) in boxes.items()}
    for start, end, text in (arrow for arrow in ARROWS if {*arrow[:2]} <= {*boxes}):
        tail, head = boxes[start][:2], boxes[end][:2]
        arrow = {"arrowstyle": "->", "color": "#555", "patchA": frames[start], "patchB": frames[end]}
        axis.annotate("", head, tail, arrowprops=arrow | {"shrinkA": 2, "shrinkB": 2})
        x, y = (tail[0] + head[0]) / 2, (tail[1] + head[1]) / 2
        axis.text(x, y, text, **words | {"fontsize": 8}, color="#555", bbox={"fc": "white", "ec": "none", "pad": 1})
    axis.set(xlim=(0, WIDTH), ylim=(0, 4.0))
    axis.grid(visible=False)
    blank(axis)
    return figure
