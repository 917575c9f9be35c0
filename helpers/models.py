"""The autoencoder of the previous exercise and the VAE: one encoder, one decoder, two ways to use a code.

    p(z) = N(0, I), z in R^d        p(x|z) = N(decode(z), sigma^2 I)        q(z|x) = N(mu(x), diag(exp(logvar(x))))

Shapes: images x float (n, 3, 32, 32) in [0, 1], codes z (n, d), logits (n, classes).

Sources: Kingma & Welling, Auto-Encoding Variational Bayes, ICLR 2014 (the VAE); Rybkin, Daniilidis & Levine,
Simple and Effective VAE Training with Calibrated Decoders, ICML 2021 (the learned sigma).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .config import Settings

# Where a posterior's log-variance may lie. Trained codes stay well inside (about -9 to 0.5); one wild step of an
# early epoch does not, and exp() of it would end the run.
LOGVAR_RANGE = (-14.0, 6.0)


class Posterior(NamedTuple):
    """q(z|x), one diagonal Gaussian per image; both fields are (n, d)."""

    mu: Tensor
    logvar: Tensor  # the log of the VARIANCE: the standard deviation is exp(logvar / 2)

    def sample(self, eps: Tensor) -> Tensor:
        """mu + std * eps with eps ~ N(0, I), both (n, d): differentiable in mu and logvar [KW14, eq. 10]."""
        return self.mu + (0.5 * self.logvar).exp() * eps


class Output(NamedTuple):
    """What one pass gives. None is what a model does not have: an autoencoder no posterior, a classifier no mean."""

    mean: Tensor | None  # of p(x|z)
    posterior: Posterior | None
    logits: Tensor  # from the encoder's features
    code_logits: Tensor | None  # from the code (the posterior mean) alone


class Residual(nn.Module):
    """x + f(x) with two 3x3 convolutions; f starts at zero, so that a fresh block passes x on unchanged."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(nn.functional.gelu(self.first(nn.functional.gelu(x))))


def normed(cin: int, cout: int, *, pool: bool = False) -> nn.Sequential:
    """3x3 convolution (-> 2x2 max-pool) -> batch norm -> GELU; halves height and width when `pool`."""
    layers: list[nn.Module] = [nn.Conv2d(cin, cout, 3, padding=1, bias=False)]
    if pool:
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.BatchNorm2d(cout), nn.GELU())


class Encoder(nn.Module):
    """x -> (h (n, outputs) for the code, features (n, 8w) for the classifier).

    Two paths leave one stem. *What*: a small max-pooled classifier. *Where*: strided convolutions that keep the
    detail that pooling throws away. The code reads both; the pixels' gradient does not reach the *what* path,
    because reconstruction and recognition pull its features apart.
    """

    def __init__(self, outputs: int, width: int) -> None:
        super().__init__()
        w = width
        self.stem = nn.Sequential(
            nn.Conv2d(3, w, 4, stride=2, padding=1),  # (n, w, 16, 16): nothing is computed at 32x32
            nn.GELU(),
            normed(w, w),
        )
        self.what = nn.Sequential(
            normed(w, 2 * w),  # (n, 2w, 16, 16)
            normed(2 * w, 4 * w, pool=True),  # (n, 4w, 8, 8)
            normed(4 * w, 4 * w),
            normed(4 * w, 8 * w, pool=True),  # (n, 8w, 4, 4)
            normed(8 * w, 8 * w),
        )
        self.pool = nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten())  # (n, 8w)
        self.where = nn.Sequential(
            nn.Conv2d(w, 2 * w, 4, stride=2, padding=1),  # (n, 2w, 8, 8)
            Residual(2 * w),
            nn.GELU(),
            nn.Conv2d(2 * w, 4 * w, 4, stride=2, padding=1),  # (n, 4w, 4, 4)
            Residual(4 * w),
            Residual(4 * w),
            nn.GELU(),
            nn.Flatten(),  # (n, 64w)
        )
        self.to_code = nn.Linear(64 * w + 8 * w, outputs)

    def stages(self, x: Tensor, hidden: Tensor | None = None) -> list[Tensor]:
        """The feature maps of the stem and of the five stages of *what*, from 16x16 down to 4x4.

        `hidden`, bool (n, 1, 32, 32), is what *what* does not see: a classifier that cannot rely on any one part of
        an image learns the others too. *Where* sees all, since the decoder must.
        """
        maps = [self.stem(x)]
        seen = maps[0] if hidden is None else maps[0] * ~hidden[:, :, ::2, ::2]  # masked_fill would lose channels last
        for stage in self.what:
            maps.append(seen := stage(seen))
        return maps

    def outputs(self, stages: list[Tensor]) -> tuple[Tensor, Tensor]:
        """(h, features) from the feature maps of `stages`."""
        features = self.pool(stages[-1])
        return self.to_code(torch.cat([self.where(stages[0]), features.detach()], 1)), features

    def forward(self, x: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.outputs(self.stages(x, hidden))


class Decoder(nn.Module):
    """z (n, d) -> the mean of p(x|z), (n, 3, 32, 32) in (0, 1). Widest where the picture is smallest."""

    def __init__(self, latent_dim: int, width: int) -> None:
        super().__init__()
        w = width
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
    """The model of the previous exercise: the code is a point, and nothing says where codes may lie."""

    outputs_per_latent = 1

    def __init__(self, settings: Settings, n_classes: int) -> None:
        super().__init__()
        d, w = settings.latent_dim, settings.width
        self.latent_dim = d
        self.encoder = Encoder(self.outputs_per_latent * d, w)
        self.decoder = Decoder(d, w)
        self.head = nn.Linear(8 * w, n_classes)  # reads the encoder's features
        self.code_head = nn.Linear(d, n_classes)  # reads the code alone
        fixed = settings.sigma > 0
        self.log_sigma = nn.Parameter(torch.tensor(math.log(settings.sigma or 0.3)), requires_grad=not fixed)

    @property
    def sigma(self) -> Tensor:
        """The decoder's standard deviation in units of x (0..1), a scalar."""
        return self.log_sigma.exp()

    def forward(self, x: Tensor, eps: Tensor | None = None, hidden: Tensor | None = None) -> Output:
        """Encode and decode x. `eps` is not used: there is no noise in an autoencoder. `hidden`: Encoder.stages."""
        z, features = self.encoder(x, hidden)
        return Output(self.decoder(z), None, self.head(features), self.code_head(z))

    def code(self, x: Tensor) -> Tensor:
        """The point that stands for x: the code, or the posterior mean of a VAE; (n, d)."""
        return self.encoder(x)[0]

    def decode(self, z: Tensor) -> Tensor:
        """Codes (n, d) -> images (n, 3, 32, 32): the mean of p(x|z), not a sample of it."""
        return self.decoder(z)

    def classify(self, x: Tensor) -> Tensor:
        """Logits (n, classes) from the encoder's features."""
        return self.head(self.encoder(x)[1])

    def classify_code(self, z: Tensor) -> Tensor:
        """Logits (n, classes) from codes (n, d): a compressed image is recognised without decoding it."""
        return self.code_head(z)


class VAE(Autoencoder):
    """The one change: the encoder gives a Gaussian over codes, and a SAMPLE of it is decoded."""

    outputs_per_latent = 2

    def encode(self, x: Tensor) -> Posterior:
        """q(z|x) for every image."""
        return self.split(self.encoder(x)[0])

    def forward(self, x: Tensor, eps: Tensor | None = None, hidden: Tensor | None = None) -> Output:
        """Decode one sample per image, in training and in evaluation alike: the ELBO needs a sample.

        `eps` (n, d) ~ N(0, I) comes from the caller's generator; without it the global one is used. `hidden`, which
        training gives, is what the classifier does not see: Encoder.stages.
        """
        h, features = self.encoder(x, hidden)
        q = self.split(h)
        z = q.sample(torch.randn_like(q.mu) if eps is None else eps)
        return Output(self.decoder(z), q, self.head(features), self.code_head(q.mu))

    def code(self, x: Tensor) -> Tensor:
        """The posterior mean (n, d): for pictures and PSNR, never for the ELBO."""
        return self.encode(x).mu

    @staticmethod
    def split(h: Tensor) -> Posterior:
        """The encoder's output (n, 2d) as a posterior."""
        mu, logvar = h.float().chunk(2, dim=1)  # also under autocast: sums of exp() need 32 bits
        return Posterior(mu, logvar.clamp(*LOGVAR_RANGE))


def build_model(settings: Settings, n_classes: int) -> nn.Module:
    """The model that `settings` describes, freshly initialised from `settings.seed`."""
    from .reference import ReferenceClassifier

    if settings.model == "sharp":
        return Decoder(settings.latent_dim, settings.width)  # no own weights yet: training starts from the mean decoder
    kinds = {"vae": VAE, "autoencoder": Autoencoder, "reference": ReferenceClassifier}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return kinds[settings.model](settings, n_classes)
