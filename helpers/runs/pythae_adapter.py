"""pythae's VAE and trainer, for the peers and the benchmark. Importing this needs pythae (the extra `peers`).

Source: Chadebec, Vincent & Allassonniere, Pythae: Unifying Generative Autoencoders in Python, NeurIPS 2022.
"""

import contextlib
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from pythae.data.datasets import BaseDataset
from pythae.models import VAE as PythaeVAE
from pythae.models import VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.models.nn.benchmarks.cifar import Decoder_ResNet_AE_CIFAR, Encoder_ResNet_VAE_CIFAR
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from pythae.trainers.training_callbacks import TrainingCallback
from torch import Tensor, nn

from ..data import Split, to_unit
from ..models import VAE


class OutOfTime(Exception):
    """Ends pythae's trainer."""


class Clock(TrainingCallback):
    """Counts images and ends the training when `over(images, seconds)` says so; the first step does not count."""

    def __init__(self, over: Callable[[int, float], bool]) -> None:
        self.over, self.images, self.started = over, 0, 0.0

    def on_train_step_end(self, training_config: Any, **kwargs: Any) -> None:
        if not self.started:
            self.started = time.perf_counter()
            return
        self.images += training_config.per_device_train_batch_size
        if self.over(self.images, self.seconds):
            raise OutOfTime

    @property
    def seconds(self) -> float:
        """Since the end of the first step."""
        return time.perf_counter() - self.started


def run_trainer(model: PythaeVAE, split: Split, over: Callable[[int, float], bool], batch_size: int = 64) -> float:
    """Train in place with pythae's trainer and defaults until `over(images, seconds)`; returns images per second."""
    clock = Clock(over)
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(OutOfTime):
        recipe = BaseTrainerConfig(
            output_dir=folder, num_epochs=10_000, no_cuda=True, per_device_train_batch_size=batch_size
        )
        images = BaseDataset(to_unit(split.images), split.labels)
        BaseTrainer(model, images, training_config=recipe, callbacks=[clock]).train()
    return clock.images / clock.seconds


def resnet_vae(latent_dim: int) -> PythaeVAE:
    """pythae's VAE with its ResNet networks for CIFAR."""
    config = VAEConfig(input_dim=(3, 32, 32), latent_dim=latent_dim)
    return PythaeVAE(config, Encoder_ResNet_VAE_CIFAR(config), Decoder_ResNet_AE_CIFAR(config))


class TheirEncoder(nn.Module):
    """pythae's encoder as ours: x -> mean and log-variance side by side."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        found = self.body(x)
        return torch.cat([found.embedding, found.log_covariance], 1)


class TheirDecoder(nn.Module):
    """pythae's decoder as ours: z -> images."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, z: Tensor) -> Tensor:
        return self.body(z)["reconstruction"]


class OurEncoder(BaseEncoder):
    """Our encoder as pythae's."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.encoder = vae.encoder

    def forward(self, x: Tensor) -> ModelOutput:
        q = VAE.split(self.encoder(x)[0])
        return ModelOutput(embedding=q.mu, log_covariance=q.logvar)


class OurDecoder(BaseDecoder):
    """Our decoder as pythae's."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.decoder = vae.decoder

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.decoder(z))


def our_networks(vae: VAE) -> PythaeVAE:
    """pythae's VAE made of our networks, without the classifiers."""
    config = VAEConfig(input_dim=(3, 32, 32), latent_dim=vae.latent_dim)
    return PythaeVAE(config, OurEncoder(vae), OurDecoder(vae))
