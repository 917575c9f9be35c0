"""The independent judge: a classifier whose features score samples (Frechet distance, precision and recall).

It must have no part in what it scores: it is trained apart from the VAE, from another seed, with another architecture,
and none of its outputs enters a loss.

Source: the airbench networks of Jordan, 94 % on CIFAR-10 in 3.29 Seconds on a Single GPU, 2024; narrower here.
"""

from torch import Tensor, nn

from .data import in_batches
from .models import Output

# Mean and standard deviation of CIFAR-10's values: one constant for all channels is enough for a first layer.
CENTRE, SCALE = 0.47, 0.25


def block(cin: int, cout: int) -> list[nn.Module]:
    """Two 3x3 convolutions with batch norm and GELU; max-pooling after the first halves height and width."""
    first, second = (nn.Conv2d(c, cout, 3, padding=1, bias=False) for c in (cin, cout))
    return [first, nn.MaxPool2d(2), nn.BatchNorm2d(cout), nn.GELU(), second, nn.BatchNorm2d(cout), nn.GELU()]


class Judge(nn.Module):
    """x float (n, 3, 32, 32) in [0, 1] -> features (n, 256) -> logits (n, classes)."""

    latent_dim, log_sigma = 0, None  # no code and no decoder

    def __init__(self, width: int, n_classes: int) -> None:
        super().__init__()
        w = width
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


def judge_images(judge: Judge, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features (n, 256) and predicted classes (n,) of uint8 images (n, 3, 32, 32), on the CPU.

    Samples come as bytes too: a judge must not tell real from made by the rounding of their pixels.
    """

    def look(x: Tensor) -> tuple[Tensor, Tensor]:
        features = judge.features(x)
        return features, judge.head(features).argmax(1)

    return in_batches(look, images, judge.head.weight.device)
