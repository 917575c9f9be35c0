"""pythae's VAE and trainer [Chadebec et al., NeurIPS 2022], as a peer; it needs the extra `peers`."""

import contextlib
import tempfile
import time
from typing import Any

from pythae import models, trainers
from pythae.data.datasets import BaseDataset
from pythae.models.nn.benchmarks.cifar import Decoder_ResNet_AE_CIFAR, Encoder_ResNet_VAE_CIFAR
from pythae.trainers.training_callbacks import TrainingCallback

from ..data import Split, to_unit


class Clock(TrainingCallback):
    """Counts images and ends the training when its minutes are over; the first step does not count."""

    def __init__(self, minutes: float) -> None:
        self.minutes, self.images, self.started, self.seconds = minutes, 0, 0.0, 0.0

    def on_train_step_end(self, training_config: Any, **kwargs: Any) -> None:
        if not self.started:
            self.started = time.perf_counter()
            return
        self.images += training_config.per_device_train_batch_size
        self.seconds = time.perf_counter() - self.started
        if self.seconds > 60 * self.minutes:
            raise TimeoutError


def run_trainer(model: models.VAE, split: Split, minutes: float) -> float:
    """Train in place with pythae's trainer and defaults (batches of 64); returns images per second."""
    clock, images = Clock(minutes), BaseDataset(to_unit(split.images), split.labels)
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(TimeoutError):
        sizes = {"num_epochs": 10_000, "per_device_train_batch_size": 64}
        config = trainers.BaseTrainerConfig(output_dir=folder, no_cuda=True, **sizes)
        trainers.BaseTrainer(model, images, training_config=config, callbacks=[clock]).train()
    return clock.images / clock.seconds


def resnet_vae(latent_dim: int) -> models.VAE:
    """pythae's VAE with its ResNet networks for CIFAR."""
    config = models.VAEConfig(input_dim=(3, 32, 32), latent_dim=latent_dim)
    return models.VAE(config, Encoder_ResNet_VAE_CIFAR(config), Decoder_ResNet_AE_CIFAR(config))
