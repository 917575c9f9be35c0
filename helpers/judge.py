"""The independent judge: a classifier whose features score samples (Fréchet distance, precision and recall).

It must have no part in what it scores: it is trained apart from the VAE, with another seed, other channels and other
augmentation, and none of its outputs enters a loss.

Source: the airbench networks of Jordan, 94 % on CIFAR-10 in 3.29 Seconds on a Single GPU, 2024.
"""

from torch import Tensor, nn

from .data import in_batches
from .models import Output, Trunk


class Judge(nn.Module):
    """x float (n, 3, 32, 32) in [0, 1] -> features (n, 4 * width) -> logits (n, classes)."""

    latent_dim, log_sigma = 0, None  # no code and no decoder

    def __init__(self, width: int, n_classes: int) -> None:
        super().__init__()
        self.trunk = Trunk((width, 4 * width, 4 * width))
        self.head = nn.Linear(4 * width, n_classes, bias=False)

    def features(self, x: Tensor) -> Tensor:
        """What the scores compare: the layer below the logits, (n, 4 * width)."""
        return self.trunk(x)

    def classify(self, x: Tensor) -> Tensor:
        """Logits (n, classes)."""
        return self.head(self.features(x))

    def forward(self, x: Tensor, eps: Tensor | None = None, hidden: Tensor | None = None) -> Output:
        """Only logits: there is no decoder, no posterior and no code. `eps` is not used; `hidden` is not seen."""
        return Output(None, None, self.head(self.trunk(x, hidden)), None)


def judge_images(judge: Judge, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features (n, 4 * width) and predicted classes (n,) of uint8 images (n, 3, 32, 32), on the CPU.

    Samples come as bytes too: a judge must not tell real from made by the rounding of their pixels.
    """
    features = in_batches(judge.features, images, judge.head.weight.device)
    return features, judge.head(features.to(judge.head.weight.device)).argmax(1).cpu()
