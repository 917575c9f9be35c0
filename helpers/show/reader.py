"""What the explorer reads off a code, where it starts, and the file from which the report page gets the same."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..axes import STEP, CodeModel
from ..data import Dataset
from ..engine import UserError, read_tensors, sha256_of_file, weights_path, within, write_tensors
from ..measure.directions import Directions, Effect
from ..models import VAE
from ..priors import Codes
from .images import pixels
from .theme import image_file

N_NEIGHBOURS = 500  # training images that the page can show; the notebook has those of the evaluation
PER_CLASS = 6  # test images of each class to start from
N_SEEN = 1000  # test images that are points of the map
EXPLORER_FILE = "explorer.safetensors"
SHEET_COLUMNS = 40  # pictures in a row of a sheet


class ExplorerReading(NamedTuple):
    """What the explorer shows of codes."""

    image: Tensor  # (n, 3, 32, 32) in [0, 1]
    belief: Tensor  # (n, classes): the classifier's probabilities, from the code alone
    size: Tensor  # (n,): ideal code length in bytes at fineness 1 of the codec
    nearest: Tensor  # (n,) int64: which of the neighbours is nearest


class Reader(nn.Module):
    """Codes z (n, d) -> ExplorerReading: one module for the notebook and, as ONNX, for the page."""

    def __init__(self, model: VAE, code_model: CodeModel, neighbours: Tensor) -> None:
        super().__init__()
        self.decoder, self.code_head = model.decoder, model.code_head
        self.mean, self.scale = nn.Buffer(code_model.mean), nn.Buffer(code_model.widths / STEP)
        # Distances and code lengths are taken in the codec's coordinates y, in which the posterior is round.
        self.to_y = nn.Buffer(torch.linalg.inv(code_model.axes.double()).float())
        self.known = nn.Buffer((neighbours.cpu() - self.mean) @ self.to_y)  # the neighbours in the coordinates y
        self.length = nn.Buffer(self.known.square().sum(1))
        self.to(model.device)

    def forward(self, z: Tensor) -> ExplorerReading:
        """All that is read off codes (n, d)."""
        y = (z - self.mean) @ self.to_y
        nearest = (self.length - 2 * y @ self.known.T).argmin(1)
        return ExplorerReading(self.decoder(z), self.code_head(z).softmax(1), self.ideal_bytes(y), nearest)

    def ideal_bytes(self, y: Tensor) -> Tensor:
        """What a perfect coder needs for y (n, d), without a header: -log2 P under the best widths; bytes, (n,)."""
        at = (y / STEP).abs()[:, None]  # the left tail of the Gaussian is the exact one
        ends = [((edge - at) / self.scale / math.sqrt(2)).erf() / 2 for edge in (0.5, -0.5)]
        bits = -(ends[0] - ends[1]).clamp_min(2.0**-24).log2().sum(2)  # (n, sets)
        return (bits.amin(1) + math.log2(len(self.scale))) / 8


class Start(NamedTuple):
    """A place to start from: a test image, or the mean code of a class, which has no image of its own (-1)."""

    label: str
    class_name: str
    image: int = -1  # index into the test split


class ExplorerData(NamedTuple):
    """What the sliders need beside the weights; `sheet` is one WebP picture: the neighbours, then the test images."""

    directions: Directions
    code_model: CodeModel
    neighbours: Tensor  # (m, d), codes of training images
    codes: Tensor  # (starts, d)
    deviations: Tensor  # (starts, d), of the posterior; 0 for a mean code
    plane: Tensor  # (2, d), orthonormal rows: what of a place the map shows
    seen: Tensor  # (m, 2), places of test images on the map
    labels: Tensor  # (m,), their classes
    sheet: bytes
    effects: list[Effect]
    starts: list[Start]
    class_names: tuple[str, ...]


def contact_sheet(images: np.ndarray, quality: int = 80) -> bytes:
    """Images (n, h, w, 3) uint8 as one WebP picture, SHEET_COLUMNS in a row, read like text."""
    n, height, width, _ = images.shape
    full = np.pad(images, ((0, -n % SHEET_COLUMNS), (0, 0), (0, 0), (0, 0)))
    grid = full.reshape(-1, SHEET_COLUMNS, height, width, 3).swapaxes(1, 2).reshape(-1, SHEET_COLUMNS * width, 3)
    return image_file(Image.fromarray(grid), "WEBP", quality=quality, method=6)


def class_plane(means: Tensor) -> Tensor:
    """The plane in which the places of classes (classes, d) lie farthest apart: orthonormal rows, (2, d)."""
    return torch.linalg.svd((means - means.mean(0)).double())[2][:2].float()


def explorer_data(
    data: Dataset, directions: Directions, effects: list[Effect], code_model: CodeModel, codes: Tensor, tests: Codes
) -> ExplorerData:
    """From the codes (n, d) of training images and the mean and deviation of test images.

    Starts are the means, of all and by class, and test images.
    """
    starts, places, deviations = [Start("mean of all", "")], [codes.mean(0)], [torch.zeros_like(codes[0])]
    for number, name in enumerate(data.class_names):
        images = (data.test.labels == number).nonzero()[:PER_CLASS, 0].tolist()
        starts += [Start(f"mean of {name}", name), *(Start(f"{name}, test image {i}", name, i) for i in images)]
        places += [codes[data.train.labels == number].mean(0).nan_to_num(), *tests[0][images]]
        deviations += [torch.zeros_like(codes[0]), *tests[1][images]]
    shown = data.test.images[[start.image for start in starts if start.image >= 0]]
    sheet = contact_sheet(pixels(torch.cat([data.train.images[:N_NEIGHBOURS], shown])))
    means = [place for place, start in zip(places, starts, strict=True) if start.image < 0]
    plane = class_plane(directions.place(torch.stack(means[1:])))
    return ExplorerData(
        directions, code_model, codes[:N_NEIGHBOURS].half(), torch.stack(places), torch.stack(deviations), plane,
        directions.place(tests[0][:N_SEEN]) @ plane.T, data.test.labels[:N_SEEN], sheet, effects, starts,
        data.class_names,
    )  # fmt: skip


def save_explorer_data(folder: Path, parts: ExplorerData) -> None:
    """Write the parts into `folder`, beside the weights that they belong to."""
    sheet = torch.frombuffer(bytearray(parts.sheet), dtype=torch.uint8)
    names = ("codes", "neighbours", "deviations", "plane", "seen", "labels")
    tensors = {"sheet": sheet} | {name: getattr(parts, name) for name in names}
    for prefix, part in (("directions", parts.directions), ("code_model", parts.code_model)):
        tensors |= {f"{prefix}.{name}": value for name, value in part._asdict().items()}
    provenance = {"kind": "explorer", "weights": sha256_of_file(weights_path(folder, "vae"))}
    provenance |= {name: getattr(parts, name) for name in ("class_names", "effects", "starts")}
    write_tensors(folder / EXPLORER_FILE, tensors, provenance)


def load_explorer_data(folder: Path) -> ExplorerData | None:
    """The parts, None where they or the weights are missing; UserError when damaged or made with other weights."""
    path, weights = folder / EXPLORER_FILE, weights_path(folder, "vae")
    if not path.is_file() or not weights.is_file():
        return None
    tensors, provenance = read_tensors(path)
    if provenance.get("weights") != sha256_of_file(weights):
        raise UserError(f"{path} was not made with {weights.name} beside it; run notebook 7 again (`make report`)")
    return ExplorerData(
        Directions(**within(tensors, "directions")), CodeModel(**within(tensors, "code_model")),
        tensors["neighbours"].float(), tensors["codes"], tensors["deviations"], tensors["plane"], tensors["seen"],
        tensors["labels"], tensors["sheet"].numpy().tobytes(),
        [Effect(*effect) for effect in provenance["effects"]], [Start(*start) for start in provenance["starts"]],
        tuple(provenance["class_names"]),
    )  # fmt: skip
