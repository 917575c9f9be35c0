"""A second decoder for the eyes: the same code, decoded to something that looks like a photograph.

The mean decoder answers uncertainty with an average, which is blur. This one is trained on the FROZEN code to be close
in pixels and in the features of the frozen encoder, and to pass a small critic that judges patches. It is not the mean
of p(x|z): no likelihood and no PSNR of the VAE is ever measured on it, and the reference classifier has no part in it.

    python -m helpers.runs.train sharp        trains it on the stored VAE, stores weights and history

Sources: Blau & Michaeli, The Perception-Distortion Tradeoff, CVPR 2018; Zhang et al., CVPR 2018 (LPIPS: distances
between normalised features); Isola et al., CVPR 2017 (the patch critic); Lim & Ye, 2017 (the hinge loss).
"""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .config import Settings
from .data import Dataset, batches
from .models import VAE, Decoder
from .storage import Record, fingerprint, load_vae, weights_path
from .training import Sums, Trainer


class Critic(nn.Module):
    """Images -> one number for each of 8x8 overlapping patches, (n, 1, 8, 8); larger means "looks real"."""

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = ((3, width, 2), (width, 2 * width, 2), (2 * width, 4 * width, 1), (4 * width, 1, 1))
        layers: list[nn.Module] = []
        for cin, cout, stride in sizes:
            layers += [nn.Conv2d(cin, cout, 2 + stride, stride, padding=1), nn.LeakyReLU(0.2)]
        self.net = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.net(2 * x - 1)


class Losses(NamedTuple):
    """The parts of the decoder's loss, each (n,)."""

    pixel: Tensor  # mean absolute error
    feature: Tensor  # distance in the frozen encoder's features, summed over its stages
    critic: Tensor  # minus the critic's opinion, mean over patches


def feature_distance(stages: list[Tensor], others: list[Tensor]) -> Tensor:
    """Squared distance between unit-length feature vectors, mean over places, summed over stages, (n,)."""
    total = torch.zeros(len(stages[0]), device=stages[0].device)
    for a, b in zip(stages, others, strict=True):
        difference = nn.functional.normalize(a.float(), dim=1) - nn.functional.normalize(b.float(), dim=1)
        total = total + difference.square().sum(1).mean((1, 2))
    return total


class Game(nn.Module):
    """What training moves: the decoder and its critic."""

    def __init__(self, decoder: Decoder, width: int) -> None:
        super().__init__()
        self.decoder, self.critic = decoder, Critic(width)


class SharpTrainer(Trainer):
    """The decoder against its critic, on codes of a frozen VAE; everything else as in any other run."""

    def __init__(self, decoder: Decoder, data: Dataset, settings: Settings, *, vae: VAE) -> None:
        decoder.load_state_dict(vae.decoder.state_dict())  # it starts as the mean decoder
        self.vae = vae.eval().requires_grad_(False)
        super().__init__(Game(decoder, settings.width), data, settings)

    def _optimisers(self) -> list[torch.optim.Optimizer]:
        # The critic learns faster, or the decoder, which answers its every step, leaves it nothing to see.
        parts = {self.model.decoder: 1, self.model.critic: 4}
        return [
            torch.optim.AdamW([{"params": list(p.parameters()), "rate": rate}], betas=(0.5, 0.99), weight_decay=0.0)
            for p, rate in parts.items()
        ]

    def _losses(self, x: Tensor, noise: Tensor) -> tuple[Losses, Tensor]:
        """The parts of the loss on real images x, and what the decoder made of their codes."""
        with self.runtime.autocast():
            with torch.no_grad():
                truth = self.vae.encoder.stages(x)
                z = self.vae.split(self.vae.encoder.outputs(truth)[0]).sample(noise)
            made = self.model.decoder(z).float()
            feature = feature_distance(self.vae.encoder.stages(made), truth)
            opinion = self.model.critic(made).float().mean((1, 2, 3))
        return Losses((made - x).abs().mean((1, 2, 3)), feature, -opinion), made

    def _step(self, x: Tensor, labels: Tensor, step: int) -> dict[str, Tensor]:
        generator, critic = self.optimisers
        losses, made = self._losses(x, self._noise(len(x)))
        hinge = self._hinge(x, made.detach())
        direction = self._direction(losses, made, skill=1 - hinge.mean().item() / 2)
        self._update((made * direction).sum(), [generator], step, losses._asdict())
        self._update(hinge.mean(), [critic], step)
        return {name: value.detach() for name, value in losses._asdict().items()} | {"hinge": hinge}

    def _hinge(self, real: Tensor, made: Tensor) -> Tensor:
        """The critic's loss, (n,): only patches that are not yet judged with a margin of 1 teach it.

        2 is what a critic pays that cannot tell real from made, 0 what one pays that always can.
        """
        with self.runtime.autocast():
            opinions = self.model.critic(real).float(), self.model.critic(made).float()
        return (1 - opinions[0]).relu().mean((1, 2, 3)) + (1 + opinions[1]).relu().mean((1, 2, 3))

    def _direction(self, losses: Losses, made: Tensor, skill: float) -> Tensor:
        """The gradient at the pixels; the critic's part is `critic_weight * skill` times as long as the rest of it.

        A fixed weight would mean something else in every phase: the critic's opinion has no unit [Esser et al.,
        CVPR 2021, eq. 7, balances it in the same way at the last layer]. The skill is 0 for a critic that knows
        nothing: followed at full strength however little it knew, it never learned.
        """
        s = self.settings
        distance = (s.pixel_weight * losses.pixel + s.feature_weight * losses.feature).mean()
        near = torch.autograd.grad(distance, made, retain_graph=True)[0]
        real = torch.autograd.grad(losses.critic.mean(), made)[0]
        return near + s.critic_weight * max(skill, 0.0) * near.norm() / (real.norm() + 1e-12) * real

    @torch.no_grad()
    def _validate(self) -> Record:
        noise = torch.Generator(self.device).manual_seed(self.settings.seed)
        sums = Sums()
        self.model.eval()
        for x, _ in batches(self.data.validation, 500, device=self.device):
            eps = torch.randn(len(x), self.settings.latent_dim, generator=noise, device=self.device)
            losses, made = self._losses(x, eps)
            sums.add(losses._asdict() | {"mse": (made - x).square().mean((1, 2, 3))})
        return sums.means("validation")


def of_vae(folder: Path) -> dict[str, Any]:
    """What `train` and `load_or_train` need beside the settings: the trainer, and whose code the decoder reads."""
    weights = weights_path(folder, "vae")
    return {"make_trainer": partial(SharpTrainer, vae=load_vae(weights)), "vae_sha256": fingerprint(weights)}
