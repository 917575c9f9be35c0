"""The autoencoder of the previous exercise and the VAE: one encoder, one decoder, two ways to use a code.

    p(z) = N(0, I), z in R^d        p(x|z) = N(decode(z), sigma^2 I)        q(z|x) = N(mu(x), diag(exp(logvar(x))))

Shapes: images x float (n, 3, 32, 32) in [0, 1], codes z (n, d), logits (n, classes).
Sources: Kingma & Welling, Auto-Encoding Variational Bayes, ICLR 2014 (the VAE); Rybkin, Daniilidis & Levine,
Simple and Effective VAE Training with Calibrated Decoders, ICML 2021 (the learned sigma).
"""

import math
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from .engine import UserError
from .settings import AutoencoderSettings

LOGVAR_RANGE = (-14.0, 6.0)  # trained codes: about -9 to -2; exp() of one wild early step would end the run


class Posterior(NamedTuple):
    """q(z|x), one diagonal Gaussian per image; both fields are (n, d)."""

    mu: Tensor
    logvar: Tensor  # the log of the VARIANCE: the standard deviation is exp(logvar / 2)

    def sample(self, eps: Tensor) -> Tensor:
        """mu + std * eps with eps ~ N(0, I), both (n, d): differentiable in mu and logvar [KW14, eq. 10]."""
        return self.mu + (0.5 * self.logvar).exp() * eps


class Reading(NamedTuple):
    """All that one pass of an encoder says of n images."""

    code: Tensor  # (n, d): the point that stands for an image, of a VAE the posterior mean
    features: Tensor  # (n, f): for the classifier
    posterior: Posterior | None  # None: an autoencoder has none


class Output(NamedTuple):
    """What one pass of a model gives; None is what it does not have: an autoencoder no posterior, a judge no mean."""

    mean: Tensor | None  # of p(x|z)
    posterior: Posterior | None
    logits: Tensor  # from the encoder's features
    code_logits: Tensor | None  # from the code (the posterior mean) alone


class Residual(nn.Module):
    """x + f(x) with two 3x3 convolutions; f starts at zero, so that a fresh block passes x on unchanged."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.gelu = nn.GELU()
        for parameter in self.second.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.gelu(self.first(self.gelu(x))))


CENTRE = 0.47  # the mean of CIFAR-10's values: what a trunk subtracts, and the grey of what is hidden from it


def normed(cin: int, cout: int, *, pool: bool = False) -> nn.Sequential:
    """3x3 convolution (-> 2x2 max-pool) -> batch norm -> GELU; halves height and width when `pool`."""
    pooling = [nn.MaxPool2d(2)] if pool else []
    return nn.Sequential(nn.Conv2d(cin, cout, 3, padding=1, bias=False), *pooling, nn.BatchNorm2d(cout), nn.GELU())


class Trunk(nn.Module):
    """Images -> features (n, c) for a classifier, c the last of three numbers of channels [Jordan, airbench, 2024].

    The kernels of the first layer are not trained: they are the principal directions of 2x2 patches of the training
    images, scaled to variance one, and their negatives, so that training starts from numbers that are not correlated.
    """

    def __init__(self, channels: tuple[int, int, int]) -> None:
        super().__init__()
        a, b, c = channels
        self.patches = nn.Conv2d(3, 24, 2)  # (n, 24, 31, 31)
        self.patches.weight.requires_grad_(False)
        assert self.patches.bias is not None
        nn.init.zeros_(self.patches.bias)
        self.groups = nn.Sequential(
            nn.Sequential(normed(24, a, pool=True), normed(a, a)),  # (n, a, 15, 15)
            nn.Sequential(normed(a, b, pool=True), normed(b, b)),  # (n, b, 7, 7)
            nn.Sequential(normed(b, c, pool=True), normed(c, c)),  # (n, c, 3, 3)
        )

    @torch.no_grad()
    def whiten(self, images: Tensor, epsilon: float = 5e-4) -> None:
        """Set the first layer from uint8 images (n, 3, 32, 32); `epsilon` bounds the gain of faint directions."""
        parts = (nn.Unfold(2)(x.float() / 255).double().transpose(0, 1).flatten(1) for x in images[:5000].split(100))
        products, total, n = (sum(v) for v in zip(*((p @ p.T, p.sum(1), p.shape[1]) for p in parts), strict=True))
        variance, directions = torch.linalg.eigh((products - torch.outer(total, total / n)) / (n - 1))
        scaled = (directions / (variance + epsilon).sqrt()).T.reshape(-1, 3, 2, 2)
        self.patches.weight.copy_(torch.cat([scaled, -scaled]))

    def stages(self, x: Tensor, hidden: Tensor | None = None) -> list[Tensor]:
        """The feature maps of the three groups, from 15x15 to 3x3; `hidden`, bool (n, 1, 32, 32), is not seen."""
        seen = x if hidden is None else x.masked_fill(hidden, CENTRE)
        maps, flow = [], nn.functional.gelu(self.patches(seen - CENTRE))
        for group in self.groups:
            maps.append(flow := group(flow))
        return maps

    def forward(self, x: Tensor, hidden: Tensor | None = None) -> Tensor:
        return self.stages(x, hidden)[-1].amax((2, 3))


def detail(cin: int, w: int) -> nn.Sequential:
    """Images with `cin` channels -> (n, 64w): strided convolutions, which keep more of *where* than pooling does."""
    return nn.Sequential(
        nn.Conv2d(cin, w, 4, stride=2, padding=1),  # (n, w, 16, 16): nothing is computed at 32x32
        nn.GELU(),
        nn.Conv2d(w, 2 * w, 4, stride=2, padding=1),  # (n, 2w, 8, 8)
        Residual(2 * w),
        nn.GELU(),
        nn.Conv2d(2 * w, 4 * w, 4, stride=2, padding=1),  # (n, 4w, 4, 4)
        Residual(4 * w),
        Residual(4 * w),
        nn.GELU(),
        nn.Flatten(),
    )


class Encoder(nn.Module):
    """x -> (h (n, outputs) for the code, features (n, 8w) for the classifier); w is the width.

    Two paths read the image. *What* is a trunk that recognises, *where* keeps the detail. The code reads both; the
    pixels' gradient does not reach *what*, whose features it would pull away from recognition.
    """

    def __init__(self, outputs: int, w: int) -> None:
        super().__init__()
        self.what = Trunk((2 * w, 6 * w, 8 * w))
        self.where = detail(3, w)
        self.to_code = nn.Sequential(nn.Linear(64 * w + 8 * w, 16 * w), nn.GELU(), nn.Linear(16 * w, outputs))

    def forward(self, x: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`hidden`, bool (n, 1, 32, 32), is not seen by *what*, which so learns to use every part; *where* sees all."""
        features = self.what(x, hidden)
        return self.to_code(torch.cat([self.where(x), features.detach()], 1)), features


class Correction(nn.Module):
    """A second look: (x, its first reconstruction) -> what to add to h, (n, outputs); zero in a fresh network.

    An encoder has to guess what the decoder makes of a code. This one sees it, and the error that is left: one step of
    iterative amortised inference [Marino, Yue & Mandt, ICML 2018, sec. 4.2: encoding the errors].
    """

    def __init__(self, outputs: int, w: int) -> None:
        super().__init__()
        self.where = detail(6, w)
        self.to_code = nn.Linear(64 * w, outputs)
        for parameter in self.to_code.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        # Errors are a quarter as wide as pictures (about 0.06 and 0.25); times 8 they are seen first.
        return self.to_code(self.where(torch.cat([y - CENTRE, 8 * (x - y)], 1)))


class Decoder(nn.Module):
    """z (n, d) -> the mean of p(x|z), (n, 3, 32, 32) in (0, 1). Widest where the picture is smallest."""

    def __init__(self, latent_dim: int, w: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(latent_dim, 64 * w),
            nn.Unflatten(1, (4 * w, 4, 4)),  # (n, 4w, 4, 4)
            Residual(4 * w),
            Residual(4 * w),
            nn.GELU(),
            nn.ConvTranspose2d(4 * w, 2 * w, 4, stride=2, padding=1),  # (n, 2w, 8, 8); stride divides kernel:
            Residual(2 * w),  # no checkerboard
            Residual(2 * w),
            nn.GELU(),
            nn.ConvTranspose2d(2 * w, w, 4, stride=2, padding=1),  # (n, w, 16, 16)
            Residual(w),
            nn.GELU(),
            nn.Conv2d(w, 12, 3, padding=1),  # a 2x2 block of pixels at every place
            nn.PixelShuffle(2),  # (n, 3, 32, 32)
            nn.Sigmoid(),  # pixels lie in [0, 1], and so does the mean
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.net(z)


class Autoencoder(nn.Module):
    """The model of the previous exercise: the code is a point, and nothing says where codes may lie.

    `encoder(x, hidden)` -> (h (n, outputs_per_latent * d), features (n, f)); `decoder`: codes (n, d) -> images; `head`
    reads features, `code_head` codes; `correction(x, y)`, if there is one, improves h once it has seen what the decoder
    makes of it. `sigma` is the decoder's standard deviation in units of x, 0 = learned.
    """

    outputs_per_latent = 1

    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, head: nn.Linear, code_head: nn.Linear, *,
        correction: nn.Module | None = None, sigma: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.correction = correction
        self.encoder, self.decoder, self.head, self.code_head = encoder, decoder, head, code_head
        self.log_sigma = nn.Parameter(torch.tensor(math.log(sigma or 0.3)), requires_grad=sigma == 0)

    @classmethod
    def from_settings(cls, settings: AutoencoderSettings, n_classes: int) -> Self:
        """The published networks in the sizes that `settings` name."""
        d, w = settings.latent_dim, settings.width
        outputs, heads = cls.outputs_per_latent * d, (nn.Linear(8 * w, n_classes), nn.Linear(d, n_classes))
        correction = Correction(outputs, w) if settings.looks > 1 else None
        return cls(Encoder(outputs, w), Decoder(d, w), *heads, correction=correction, sigma=settings.sigma)

    @property
    def latent_dim(self) -> int:
        """d, the number of numbers in a code."""
        return self.code_head.in_features

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.log_sigma.device

    @property
    def sigma(self) -> Tensor:
        """The decoder's standard deviation in units of x (0..1), a scalar."""
        return self.log_sigma.exp()

    def read(self, x: Tensor, hidden: Tensor | None = None) -> Reading:
        """Encode x once. `hidden`, which training gives, is what the classifier does not see."""
        code, features = self._encoded(x, hidden)
        return Reading(code, features, None)

    def _encoded(self, x: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What the encoder gives. Raises UserError, except in training, on what is no image in [0, 1]."""
        if not self.training:
            wanted = f"images must be a {self.log_sigma.dtype} tensor (n, 3, 32, 32) with values in [0, 1]"
            if not isinstance(x, Tensor) or x.dtype != self.log_sigma.dtype or x.shape[1:] != (3, 32, 32):
                raise UserError(f"{wanted}, not {getattr(x, 'dtype', type(x))} {tuple(getattr(x, 'shape', ()))}")
            low, high = x.detach().aminmax() if len(x) else (0, 0)
            if not (low > -1e-3 and high < 1 + 1e-3):  # also where one is NaN; rounding is forgiven
                raise UserError(f"{wanted}, not from {low:.4g} to {high:.4g}; helpers.data.to_unit scales 0..255")
        h, features = self.encoder(x, hidden)
        if self.correction is not None:
            h = h + self.correction(x, self.decoder(h[:, : self.latent_dim]))
        return h, features

    def forward(self, x: Tensor, eps: Tensor | None = None, hidden: Tensor | None = None) -> Output:
        """Encode and decode x. `eps` is not used: there is no noise in an autoencoder."""
        seen = self.read(x, hidden)
        return Output(self.decoder(seen.code), None, self.head(seen.features), self.code_head(seen.code))

    def code(self, x: Tensor) -> Tensor:
        """The point that stands for x: the code, or the posterior mean of a VAE; (n, d)."""
        return self.read(x).code

    def decode(self, z: Tensor) -> Tensor:
        """Codes (n, d) -> images (n, 3, 32, 32): the mean of p(x|z), not a sample of it."""
        return self.decoder(z)

    def classify(self, x: Tensor) -> Tensor:
        """Logits (n, classes) from the encoder's features. `code_head(z)` recognises codes without decoding them."""
        return self.head(self.read(x).features)


class VAE(Autoencoder):
    """The one change: the encoder gives a Gaussian over codes, and a SAMPLE of it is decoded."""

    outputs_per_latent = 2

    def read(self, x: Tensor, hidden: Tensor | None = None) -> Reading:
        """Encode x once: q(z|x), whose mean is the code (for pictures and PSNR, never for the ELBO)."""
        h, features = self._encoded(x, hidden)
        q = self.posterior(h)
        return Reading(q.mu, features, q)

    def encode(self, x: Tensor) -> Posterior:
        """q(z|x) for every image."""
        return self.posterior(self._encoded(x)[0])

    @staticmethod
    def posterior(h: Tensor) -> Posterior:
        """What the encoder says of the code, (n, 2d), as a distribution."""
        mu, logvar = h.float().chunk(2, dim=1)  # also under autocast: sums of exp() need 32 bits
        return Posterior(mu, logvar.clamp(*LOGVAR_RANGE))

    def forward(self, x: Tensor, eps: Tensor | None = None, hidden: Tensor | None = None) -> Output:
        """Decode a sample of each posterior, also in evaluation, as the ELBO needs; `eps` (n, d) ~ N(0, I)."""
        mu, features, q = self.read(x, hidden)
        assert q is not None
        z = q.sample(torch.randn_like(mu) if eps is None else eps)
        return Output(self.decoder(z), q, self.head(features), self.code_head(mu))
