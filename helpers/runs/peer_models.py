"""The peers: other people's models, trained by their own recipes, and ours, each for the same wall time.

pythae 0.1.2: its VAE with its ResNet networks for CIFAR and its own trainer at its defaults [Chadebec et al. 2022].
UvA: an autoencoder like that of the UvA deep learning course, tutorial 9 [Lippe 2022], written anew.
PyTorch-VAE: its network and its loss, mean squared error + 0.00025 KL [Subramanian 2020], written anew.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import UserError, profile_settings
from ..data import Dataset, batches
from ..losses import kl_per_dim
from ..models import VAE, Autoencoder, build_model
from ..training import Trainer

LATENT = 128
CLASSES = 10


class Trained(NamedTuple):
    """What a peer gives: a model that the evaluation understands, and how fast it was trained."""

    model: Autoencoder
    images_per_second: float


# --- foreign networks in our clothes ----------------------------------------------------------------------------


class ForeignEncoder(nn.Module):
    """`body` (x -> h) as our evaluation wants it: (h, features), with no features to classify."""

    def __init__(self, body: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h = self.body(x)
        return h, h.new_zeros(len(h), 1)


def adopt(kind: type[Autoencoder], encoder: nn.Module, decoder: nn.Module, sigma: float) -> Autoencoder:
    """An Autoencoder or VAE made of foreign networks; its classifiers know nothing."""
    model = kind.__new__(kind)
    nn.Module.__init__(model)
    model.latent_dim = LATENT
    model.encoder, model.decoder = ForeignEncoder(encoder), decoder
    model.head, model.code_head = nn.Linear(1, CLASSES), nn.Linear(LATENT, CLASSES)
    model.log_sigma = nn.Parameter(torch.tensor(math.log(sigma)), requires_grad=False)
    return model


class Clamped(nn.Module):
    """A decoder whose output is cut to the range of pixels, as a picture would be."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, z: Tensor) -> Tensor:
        return self.body(z).clamp(0, 1)


def train_for(
    minutes: float,
    data: Dataset,
    loss: Callable[[Tensor], Tensor],
    optimiser: torch.optim.Optimizer,
    batch_size: int,
    after_epoch: Callable[[], None] = lambda: None,
) -> float:
    """A plain loop over shuffled training batches until the time is over; returns images per second."""
    started, seen = time.perf_counter(), 0

    def forever() -> Iterator[Tensor]:
        order = torch.Generator().manual_seed(0)
        while True:
            yield from (x for x, _ in batches(data.train, batch_size, order=order))
            after_epoch()

    for x in forever():
        value = loss(x)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        seen += len(x)
        if time.perf_counter() - started > 60 * minutes:
            return seen / (time.perf_counter() - started)
    raise AssertionError("the loop has no other end")


# --- the peers --------------------------------------------------------------------------------------------------


def train_uva(data: Dataset, minutes: float) -> Trained:
    """The autoencoder of UvA tutorial 9: five convolutions each way, squared error, Adam 1e-3, batches of 256."""
    c, act = 32, nn.GELU
    down = [(3, c, 2), (c, c, 1), (c, 2 * c, 2), (2 * c, 2 * c, 1), (2 * c, 2 * c, 2)]
    layers = [layer for a, b, s in down for layer in (nn.Conv2d(a, b, 3, stride=s, padding=1), act())]
    encoder = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * c, LATENT))

    def up(a: int, b: int) -> nn.ConvTranspose2d:
        return nn.ConvTranspose2d(a, b, 3, stride=2, padding=1, output_padding=1)

    decoder = nn.Sequential(
        nn.Linear(LATENT, 32 * c), act(), nn.Unflatten(1, (2 * c, 4, 4)),
        up(2 * c, 2 * c), act(), nn.Conv2d(2 * c, 2 * c, 3, padding=1), act(),
        up(2 * c, c), act(), nn.Conv2d(c, c, 3, padding=1), act(),
        up(c, 3), nn.Sigmoid(),
    )  # fmt: skip
    model = adopt(Autoencoder, encoder, decoder, 1.0)

    def loss(x: Tensor) -> Tensor:
        return (decoder(encoder(x)) - x).square().flatten(1).sum(1).mean()

    return Trained(model, train_for(minutes, data, loss, torch.optim.Adam(model.parameters(), 1e-3), 256))


def train_pytorch_vae(data: Dataset, minutes: float) -> Trained:
    """PyTorch-VAE's vanilla VAE: mean squared error + 0.00025 KL, Adam 5e-3 (times 0.95 an epoch), batches of 64."""
    sizes = [3, 32, 64, 128, 256, 512]

    def block(a: int, b: int, up: bool) -> nn.Sequential:
        kind = nn.ConvTranspose2d if up else nn.Conv2d
        more = {"output_padding": 1} if up else {}
        return nn.Sequential(kind(a, b, 3, stride=2, padding=1, **more), nn.BatchNorm2d(b), nn.LeakyReLU())

    body = nn.Sequential(*(block(a, b, False) for a, b in zip(sizes, sizes[1:], strict=False)), nn.Flatten())
    encoder = nn.Sequential(body, nn.Linear(512, 2 * LATENT))
    upwards = [*sizes[:0:-1], 32]
    blocks = [block(a, b, True) for a, b in zip(upwards, upwards[1:], strict=False)]
    last = [nn.Conv2d(32, 3, 3, padding=1), nn.Tanh()]
    decoder = nn.Sequential(nn.Linear(LATENT, 512), nn.Unflatten(1, (512, 1, 1)), *blocks, *last)
    weight = 0.00025
    # a * (sum of squares) + b * KL with a = 1 / 3072 is the ELBO of a Gaussian decoder with sigma^2 = b / (2 a)
    model = adopt(VAE, encoder, Clamped(decoder), math.sqrt(weight * 3072 / 2))
    optimiser = torch.optim.Adam(model.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.95)

    def loss(x: Tensor) -> Tensor:
        q = VAE.split(encoder(x))
        mean = decoder(q.sample(torch.randn_like(q.mu)))
        return F.mse_loss(mean, x) + weight * kl_per_dim(q).sum(1).mean()

    model.train()
    return Trained(model, train_for(minutes, data, loss, optimiser, 64, schedule.step))


def train_pythae(data: Dataset, minutes: float) -> Trained:
    """pythae's VAE, its ResNet networks for CIFAR, its own trainer at its defaults (Adam 1e-4, batches of 64)."""
    try:
        from . import pythae_adapter as adapter
    except ImportError:
        raise UserError("pythae is not installed; pip install -e '.[peers]' brings it") from None
    theirs = adapter.resnet_vae(LATENT)
    speed = adapter.run_trainer(theirs, data.train, lambda _, seconds: seconds > 60 * minutes)
    decoder = Clamped(adapter.TheirDecoder(theirs.decoder))
    return Trained(adopt(VAE, adapter.TheirEncoder(theirs.encoder), decoder, 1.0), speed)


def train_ours(data: Dataset, minutes: float) -> Trained:
    """Our VAE with the published settings, and as many epochs as fit into the time."""
    settings = dataclasses.replace(profile_settings("full"), epochs=1000)
    trial = dataclasses.replace(settings, n_train=12 * settings.batch_size, n_eval=settings.batch_size)
    timing = Trainer(build_model(trial, CLASSES), data, trial)
    timing.epoch()
    pace = timing.epoch()["images_per_second"]
    epochs = max(1, int(0.97 * 60 * minutes * pace / len(data.train)))
    settings = dataclasses.replace(settings, epochs=epochs)
    trainer = Trainer(build_model(settings, CLASSES), data, settings)
    while len(trainer.records) < epochs:
        trainer.epoch()
    return Trained(trainer.model, epochs * len(data.train) / trainer.seconds)


PEERS: dict[str, Callable[[Dataset, float], Trained]] = {
    "ours": train_ours,
    "pythae": train_pythae,
    "PyTorch-VAE": train_pytorch_vae,
    "UvA autoencoder": train_uva,
}
