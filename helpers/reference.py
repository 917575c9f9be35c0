"""The reference classifier: a judge that sits in nobody's jury.

Its features score samples (Frechet distance, KID, precision and recall), so it must have no part in what it scores: it
is trained apart from the VAE, from another seed, with another architecture, and none of its outputs enters a loss.

    python -m helpers.runs.train reference        trains it (about 25 minutes on 2 cores), stores weights and history

Source: the airbench networks of Jordan, 94 % on CIFAR-10 in 3.29 Seconds on a Single GPU, 2024; narrower here.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .config import Settings, write_whole
from .data import EVALUATION_BATCH, to_unit
from .measure.sample_metrics import frechet_distance, kernel_distance, manifold_scores
from .models import Output

# Mean and standard deviation of CIFAR-10's values: one constant for all channels is enough for a first layer.
CENTRE, SCALE = 0.47, 0.25


def block(cin: int, cout: int) -> list[nn.Module]:
    """Two 3x3 convolutions with batch norm and GELU; max-pooling after the first halves height and width."""
    return [
        nn.Conv2d(cin, cout, 3, padding=1, bias=False),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(cout),
        nn.GELU(),
        nn.Conv2d(cout, cout, 3, padding=1, bias=False),
        nn.BatchNorm2d(cout),
        nn.GELU(),
    ]


class ReferenceClassifier(nn.Module):
    """x float (n, 3, 32, 32) in [0, 1] -> features (n, 256) -> logits (n, classes)."""

    def __init__(self, settings: Settings, n_classes: int) -> None:
        super().__init__()
        w = settings.width
        self.net = nn.Sequential(
            nn.Conv2d(3, 24, 2),  # (n, 24, 31, 31): full resolution, unlike the encoder's strided stem
            nn.GELU(),
            *block(24, w),  # (n, w, 15, 15)
            *block(w, 128),  # (n, 128, 7, 7)
            *block(128, 256),  # (n, 256, 3, 3)
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(256, n_classes, bias=False)

    def features(self, x: Tensor) -> Tensor:
        """What the scores compare: the layer below the logits, (n, 256)."""
        return self.net((x - CENTRE) / SCALE)

    def classify(self, x: Tensor) -> Tensor:
        """Logits (n, classes)."""
        return self.head(self.features(x))

    def forward(self, x: Tensor, eps: Tensor | None = None, hidden: Tensor | None = None) -> Output:
        """Only logits: there is no decoder, no posterior and no code. `eps` is not used; what is `hidden` is grey."""
        return Output(None, None, self.classify(x if hidden is None else x.masked_fill(hidden, 0.5)), None)


@torch.no_grad()
def judge(classifier: ReferenceClassifier, images: Tensor, *, mirror: bool = False) -> tuple[Tensor, Tensor]:
    """Features (n, 256) and predicted classes (n,) of uint8 images (n, 3, 32, 32), on the CPU.

    With `mirror` the features of an image and of its mirror image are averaged, which recognises better and takes
    twice as long. Samples come as bytes too: a judge must not tell real from made by the rounding of their pixels.
    """
    device = next(classifier.parameters()).device
    found = []
    for part in images.split(EVALUATION_BATCH):
        x = to_unit(part, device)
        features = classifier.features(x)
        found.append((features + classifier.features(x.flip(3))) / 2 if mirror else features)
    features = torch.cat(found)
    return features.cpu(), classifier.head(features).argmax(1).cpu()


def score(
    classifier: ReferenceClassifier, real: Tensor, images: Tensor, radius: Tensor | None = None
) -> dict[str, Any]:
    """Every score of uint8 images (n, 3, 32, 32) against the features `real` (m, 256) of real ones.

    `radius` is `neighbour_distance(real)`, for callers that score many sets.

    "class_entropy" is that of the predicted classes in nats: log 10 = 2.303 when all ten are equally frequent.
    """
    features, predicted = judge(classifier, images)
    share = predicted.bincount(minlength=classifier.head.out_features).double() / len(predicted)
    return {
        "n": len(images),
        "frechet": frechet_distance(features, real),
        "kernel": kernel_distance(features, real)._asdict(),
        **manifold_scores(real, features, real_radius=radius),
        "class_entropy": torch.special.entr(share).sum().item(),
    }


def seed_spread(
    path: Path,
    samplers: dict[str, Callable[[int], Tensor]],
    classifier: ReferenceClassifier,
    real: Tensor,
    about: dict[str, Any],
    seeds: tuple[int, ...],
) -> dict[str, list[float]]:
    """The Frechet distance of every sampler for further sampling seeds, by name; `samplers` map a seed to images.

    Stored at `path` and loaded again while `about` (fingerprints of all weights that take part) stays the same, since
    they cost minutes and the same weights and seeds give the same numbers.
    """
    about = {**about, "seeds": list(seeds), "samplers": list(samplers)}
    known = json.loads(path.read_text()) if path.is_file() else {}
    if known.get("about") != about:
        bar = tqdm(samplers.items(), "further seeds", file=sys.stdout, mininterval=1, ncols=88)
        found = {
            name: [frechet_distance(judge(classifier, sample(seed))[0], real) for seed in seeds] for name, sample in bar
        }
        known = {"about": about, "frechet": found}
        write_whole(path, json.dumps(known, indent=1) + "\n")
    return known["frechet"]
