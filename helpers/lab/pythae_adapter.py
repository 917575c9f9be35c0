"""pythae's VAE and trainer [Chadebec et al., NeurIPS 2022], for peers and benchmark; it needs the extra `peers`."""

import contextlib
import tempfile
import time
from collections.abc import Callable
from typing import Any

from pythae import models, trainers
from pythae.data.datasets import BaseDataset
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.models.nn.benchmarks.cifar import Decoder_ResNet_AE_CIFAR, Encoder_ResNet_VAE_CIFAR
from pythae.trainers.training_callbacks import TrainingCallback
from torch import Tensor, nn

from ..data import Split, to_unit
from ..models import VAE


class Clock(TrainingCallback):
    """Counts images and ends the training when `over(images, seconds)` says so; the first step does not count."""

    def __init__(self, over: Callable[[int, float], bool]) -> None:
        self.over, self.images, self.started, self.seconds = over, 0, 0.0, 0.0

    def on_train_step_end(self, training_config: Any, **kwargs: Any) -> None:
        if not self.started:
            self.started = time.perf_counter()
            return
        self.images += training_config.per_device_train_batch_size
        self.seconds = time.perf_counter() - self.started
        if self.over(self.images, self.seconds):
            raise TimeoutError


def run_trainer(model: models.VAE, split: Split, over: Callable[[int, float], bool], batch_size: int = 64) -> float:
    """Train in place with pythae's trainer and defaults until `over(images, seconds)`; returns images per second."""
    clock, images = Clock(over), BaseDataset(to_unit(split.images), split.labels)
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(TimeoutError):
        sizes = {"num_epochs": 10_000, "per_device_train_batch_size": batch_size}
        config = trainers.BaseTrainerConfig(output_dir=folder, no_cuda=True, **sizes)
        trainers.BaseTrainer(model, images, training_config=config, callbacks=[clock]).train()
    return clock.images / clock.seconds


def resnet_vae(latent_dim: int) -> models.VAE:
    """pythae's VAE with its ResNet networks for CIFAR."""
    config = models.VAEConfig(input_dim=(3, 32, 32), latent_dim=latent_dim)
    return models.VAE(config, Encoder_ResNet_VAE_CIFAR(config), Decoder_ResNet_AE_CIFAR(config))


class Ours(BaseEncoder, BaseDecoder):
    """A network of ours as pythae wants it; `named` gives the parts of its output the names that pythae looks for."""

    def __init__(self, body: nn.Module, named: Callable[[Any], dict[str, Tensor]]) -> None:
        super().__init__()
        self.body, self.named = body, named

    def forward(self, x: Tensor) -> ModelOutput:
        return ModelOutput(**self.named(self.body(x)))


def our_networks(vae: VAE) -> models.VAE:
    """pythae's VAE made of our networks, without the classifiers."""

    def posterior(output: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        q = vae.posterior(output[0])
        return {"embedding": q.mu, "log_covariance": q.logvar}

    config = models.VAEConfig(input_dim=(3, 32, 32), latent_dim=vae.latent_dim)
    return models.VAE(config, Ours(vae.encoder, posterior), Ours(vae.decoder, lambda x: {"reconstruction": x}))
