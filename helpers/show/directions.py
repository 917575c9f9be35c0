"""What the explorer moves and what it shows: the principal directions of the codes, and all that is read off a code.

A single latent means nothing by itself (the prior looks the same after any rotation), so the sliders move along the
principal axes of the codes of real images. Their names are measured: what a step along the axis does to the pixels is
compared with a fixed set of plain patterns, and the axis is called after those that explain most of the change.
"""

import io
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..codec import STEP, CodeModel
from ..config import UserError
from ..data import Dataset
from ..models import VAE
from ..storage import fingerprint, read_tensors, weights_path, within, write_tensors
from .figures import pixels

N_DIRECTIONS = 12  # sliders
N_NEIGHBOURS = 800  # training images that the page can show; the notebook has all of them
PER_CLASS = 6  # test images of each class to start from
FILE = "explorer.safetensors"
SHEET_COLUMNS = 40  # pictures in a row of a sheet


class Directions(NamedTuple):
    """Principal axes of codes: z = mean + (u * std) @ axes, with u of variance 1 along each axis."""

    mean: Tensor  # (d,)
    axes: Tensor  # (d, d), orthonormal rows, the largest variance first
    std: Tensor  # (d,)

    @property
    def share(self) -> Tensor:
        """The share of the variance along each axis, (d,)."""
        return self.std.square() / self.std.square().sum()

    def code(self, place: Tensor, temperature: float = 1.0) -> Tensor:
        """Places u (..., d) -> codes z (..., d); the temperature scales the distance from the mean code."""
        return self.mean + temperature * (place * self.std) @ self.axes

    def place(self, code: Tensor) -> Tensor:
        """Codes z (..., d) -> places u (..., d), in standard deviations along each axis."""
        return (code - self.mean) @ self.axes.T / self.std


def fit_directions(codes: Tensor) -> Directions:
    """The principal axes of codes (n, d)."""
    variance, axes = torch.linalg.eigh(codes.double().T.cov())
    std = variance.flip(0).clamp_min(1e-12).sqrt()
    return Directions(codes.mean(0), axes.T.flip(0).float().contiguous(), std.float())


# --- names, by measurement --------------------------------------------------------------------------------------

COLOURS = {  # the change of (red, green, blue), and what a change in its direction and against it is called
    "brightness": ((1, 1, 1), "brighter", "darker"),
    "warmth": ((1, 0, -1), "warmer", "colder"),
    "green": ((-1, 2, -1), "greener", "more purple"),
}
SHAPES = {  # the order of the cosine down and across the picture, and where it is positive and negative
    "all": (0, 0, "all over", ""),
    "top": (1, 0, "top", "bottom"),
    "left": (0, 1, "left", "right"),
    "rows": (2, 0, "top and bottom", "middle"),
    "columns": (0, 2, "both sides", "middle"),
    "corners": (1, 1, "top left and bottom right", "other corners"),
}
NAMELESS = 0.2  # below this share of the change a name would mislead


def patterns(side: int) -> dict[tuple[str, str], Tensor]:
    """Orthonormal patterns (3, side, side): low cosines over the picture, each in three opponent colours."""
    at = (torch.arange(side) + 0.5) * math.pi / side
    found = {}
    for colour, (mixture, *_) in COLOURS.items():
        for shape, (down, across, *_) in SHAPES.items():
            picture = torch.outer((down * at).cos(), (across * at).cos())
            pattern = torch.tensor(mixture, dtype=torch.float32)[:, None, None] * picture
            found[colour, shape] = pattern / pattern.norm()
    return found


class Effect(NamedTuple):
    """What a step along a direction does: its name, and the share of the change of pixels that the name explains."""

    name: str
    explained: float


def describe(change: Tensor) -> tuple[Effect, int]:
    """The effect of a change (3, h, w) of pixels, and the sign (+1 or -1) with which its name reads positively.

    One pattern makes the name when it has half of the change's power, else the two strongest do.
    """
    power = change.square().sum().clamp_min(1e-12)
    found = {key: (change * pattern).sum() for key, pattern in patterns(change.shape[-1]).items()}
    first, second = sorted(found, key=lambda key: -abs(found[key]))[:2]
    sign = 1 if found[first] >= 0 else -1
    used = [first] if found[first] ** 2 > power / 2 else [first, second]
    explained = float(sum(found[key] ** 2 for key in used) / power)
    words = "; ".join(in_words(*key, sign * found[key] >= 0) for key in used)
    return Effect(words if explained >= NAMELESS else "changes shapes, no plain name", explained), sign


def in_words(colour: str, shape: str, positive: bool) -> str:
    """A pattern, or its negative, as words such as "brighter left, darker right"."""
    more, less = COLOURS[colour][1:] if positive else COLOURS[colour][:0:-1]
    here, there = SHAPES[shape][2:]
    return f"{more} {here}" + (f", {less} {there}" if there else "")


@torch.no_grad()
def name_directions(
    model: VAE, directions: Directions, codes: Tensor, k: int = N_DIRECTIONS
) -> tuple[Directions, list[Effect]]:
    """Name the first k directions by the mean change of pixels from -1.5 to +1.5 standard deviations around `codes`.

    The axes come back turned, where needed, so that the name says what a *positive* step does.
    """
    device, signs, effects = model.log_sigma.device, torch.ones(len(directions.std)), []
    for i in range(k):
        step = 1.5 * directions.std[i] * directions.axes[i]
        ahead, behind = (model.decode((codes + s * step).to(device)).cpu() for s in (1, -1))
        effect, sign = describe((ahead - behind).mean(0))
        signs[i] = sign
        effects.append(effect)
    return directions._replace(axes=directions.axes * signs[:, None]), effects


# --- everything that is read off a code -------------------------------------------------------------------------


class Reading(NamedTuple):
    """What the explorer shows of codes."""

    image: Tensor  # (n, 3, 32, 32) in [0, 1]
    belief: Tensor  # (n, classes): the classifier's probabilities, from the code alone
    size: Tensor  # (n,): ideal code length in bytes at quality 1 of the codec
    nearest: Tensor  # (n,) int64: which of the neighbours is nearest


class Reader(nn.Module):
    """Codes z (n, d) -> Reading. One module for the notebook and, as ONNX, for the page.

    Distances and code lengths are taken in the codec's coordinates y, in which the posterior is round: one unit of y
    is as far as a code may move before the picture becomes another one. The code length is the negative logarithm of
    the probability of the rounded y under the codec's Gaussians: what a perfect coder would need, without a header.
    """

    def __init__(self, model: VAE, code_model: CodeModel, neighbours: Tensor) -> None:
        super().__init__()
        self.decoder, self.head = model.decoder, model.code_head
        device = model.log_sigma.device
        to_y = torch.linalg.inv(code_model.axes.double()).float()
        y = (neighbours.cpu() - code_model.mean) @ to_y
        buffers = {"mean": code_model.mean, "to_y": to_y, "scale": code_model.widths / STEP}
        for name, value in (buffers | {"known": y, "length": y.square().sum(1)}).items():
            self.register_buffer(name, value.to(device))

    def forward(self, z: Tensor) -> Reading:
        y = (z - self.mean) @ self.to_y
        nearest = (self.length - 2 * y @ self.known.T).argmin(1)
        return Reading(self.decoder(z), self.head(z).softmax(1), self.ideal_bytes(y), nearest)

    def ideal_bytes(self, y: Tensor) -> Tensor:
        """-log2 P of every coordinate's interval of one step, under the best of the sets of widths; in bytes."""
        at = (y / STEP).abs()[:, None]  # the left tail of the Gaussian is the exact one
        ends = [((edge - at) / self.scale / math.sqrt(2)).erf() / 2 for edge in (0.5, -0.5)]
        bits = -(ends[0] - ends[1]).clamp_min(2.0**-24).log2().sum(2)  # (n, sets)
        return (bits.amin(1) + math.log2(len(self.scale))) / 8


# --- where to start, and the file for the page ------------------------------------------------------------------


class Start(NamedTuple):
    """A place to start from: a test image, or the mean code of a class, which has no image of its own (-1)."""

    label: str
    class_name: str
    image: int = -1  # index into the test split; in the file for the page: into the sheet


def starting_points(data: Dataset, codes: Tensor, test_codes: Tensor) -> tuple[list[Start], Tensor]:
    """The mean of all training codes (n, d), of each class, and its first test images: (starts, their codes)."""
    starts, found = [Start("mean of all", "")], [codes.mean(0)]
    for number, name in enumerate(data.class_names):
        starts.append(Start(f"mean of {name}", name))
        found.append(codes[data.train.labels == number].mean(0).nan_to_num())
        for index in (data.test.labels == number).nonzero()[:PER_CLASS, 0].tolist():
            starts.append(Start(f"{name}, test image {index}", name, index))
            found.append(test_codes[index])
    return starts, torch.stack(found)


class Explorable(NamedTuple):
    """What the page's sliders need beside the weights; `sheet` is one WebP picture of `n_neighbours` and starts."""

    directions: Directions
    code_model: CodeModel
    neighbours: Tensor  # (m, d), codes of training images
    codes: Tensor  # (starts, d)
    sheet: bytes
    effects: list[Effect]
    starts: list[Start]
    class_names: tuple[str, ...]


def contact_sheet(images: np.ndarray, quality: int = 80) -> bytes:
    """Images (n, h, w, 3) uint8 as one WebP picture, SHEET_COLUMNS in a row, read like text."""
    n, height, width, _ = images.shape
    rows = math.ceil(n / SHEET_COLUMNS)
    sheet = np.zeros((rows * SHEET_COLUMNS, height, width, 3), np.uint8)
    sheet[:n] = images
    grid = sheet.reshape(rows, SHEET_COLUMNS, height, width, 3).swapaxes(1, 2)
    buffer = io.BytesIO()
    Image.fromarray(grid.reshape(rows * height, -1, 3)).save(buffer, "WEBP", quality=quality, method=6)
    return buffer.getvalue()


def save_explorable(
    folder: Path,
    data: Dataset,
    directions: Directions,
    effects: list[Effect],
    code_model: CodeModel,
    codes: Tensor,
    starts: list[Start],
    start_codes: Tensor,
) -> None:
    """Write what the page needs into `folder`, beside the weights that it belongs to."""
    shown = [start for start in starts if start.image >= 0]
    test = data.test.images[[start.image for start in shown]]
    images = np.concatenate([pixels(data.train.images[:N_NEIGHBOURS]), pixels(test)])
    places = {start.label: min(N_NEIGHBOURS, len(data.train)) + i for i, start in enumerate(shown)}
    sheet = torch.frombuffer(bytearray(contact_sheet(images)), dtype=torch.uint8)
    tensors = {"sheet": sheet, "codes": start_codes, "neighbours": codes[:N_NEIGHBOURS].half()}
    tensors |= {f"directions.{name}": value for name, value in directions._asdict().items()}
    tensors |= {f"code_model.{name}": value for name, value in code_model._asdict().items()}
    about = {
        "kind": "explorer", "weights": fingerprint(weights_path(folder, "vae")), "class_names": data.class_names,
        "effects": effects, "starts": [start._replace(image=places.get(start.label, -1)) for start in starts],
    }  # fmt: skip
    write_tensors(folder / FILE, tensors, about)


def load_explorable(folder: Path) -> Explorable | None:
    """The inverse; None where there are no weights or no such file.

    Raises UserError when it is damaged or belongs to other weights.
    """
    path, weights = folder / FILE, weights_path(folder, "vae")
    if not path.is_file() or not weights.is_file():
        return None
    tensors, about = read_tensors(path)
    if about.get("weights") != fingerprint(weights):
        raise UserError(f"{path} was not made with {weights.name} beside it; run notebook 7 again (`make report`)")
    return Explorable(
        Directions(**within(tensors, "directions")), CodeModel(**within(tensors, "code_model")),
        tensors["neighbours"].float(), tensors["codes"], tensors["sheet"].numpy().tobytes(),
        [Effect(*effect) for effect in about["effects"]], [Start(*start) for start in about["starts"]],
        tuple(about["class_names"]),
    )  # fmt: skip
