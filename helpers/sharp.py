"""The sharp decoder: the same code, decoded to something that looks like a photograph.

The mean decoder answers uncertainty with an average, which is blur. This one is trained on the FROZEN code to be close
in pixels and in the features of the frozen encoder, and to convince a small critic that looks at patches. It is not the
mean of p(x|z): no likelihood and no PSNR of the VAE is ever measured on it, and the judge has no part in it.

Sources: Blau & Michaeli, The Perception-Distortion Tradeoff, CVPR 2018; Zhang et al., CVPR 2018 (LPIPS: distances
between normalised features); Isola et al., CVPR 2017 (the patch critic); Lim & Ye, 2017 (the hinge loss).
"""

from typing import Any

import torch
from torch import Tensor, nn

from .data import Augmentation, Dataset, batches
from .engine import Record, Tensors
from .engine.runtime import RunningMeans
from .loop import Batch, Training
from .models import VAE, Decoder
from .settings import SharpSettings


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


def feature_distance(stages: list[Tensor], others: list[Tensor]) -> Tensor:
    """Squared distance between unit-length feature vectors, mean over places, summed over stages, (n,)."""
    total = torch.zeros(len(stages[0]), device=stages[0].device)
    for a, b in zip(stages, others, strict=True):
        difference = nn.functional.normalize(a.float(), dim=1) - nn.functional.normalize(b.float(), dim=1)
        total = total + difference.square().sum(1).mean((1, 2))
    return total


class SharpTrainer(Training):
    """The decoder against its critic, on codes of a frozen VAE; everything else as in any other run."""

    settings: SharpSettings

    def __init__(self, decoder: Decoder, data: Dataset, settings: SharpSettings, *, vae: VAE) -> None:
        decoder.load_state_dict(vae.decoder.state_dict())  # it starts as the mean decoder
        self.vae = vae.eval().requires_grad_(False)
        self.trunk: Any = self.vae.encoder.what
        with torch.random.fork_rng(devices=[]):  # the critic's first weights depend on the seed alone
            torch.manual_seed(settings.seed)
            pair = nn.ModuleDict({"decoder": decoder, "critic": Critic(settings.width)})
        super().__init__(pair, data, settings, Augmentation(settings.translate, settings.flip), settings.latent_dim)
        self.decoder, self.critic = (self.prepared(part) for part in self.model.values())

    def make_optimisers(self) -> list[torch.optim.Optimizer]:
        """The critic learns faster, or the decoder, which answers its every step, leaves it nothing to see."""
        rates = zip((self.model["decoder"], self.model["critic"]), (1, 4), strict=True)
        groups = [{"params": list(part.parameters()), "rate": rate} for part, rate in rates]
        return [torch.optim.AdamW([group], betas=(0.5, 0.99), weight_decay=0.0) for group in groups]

    def losses(self, x: Tensor, eps: Tensor) -> tuple[Tensors, Tensor]:
        """The parts of the decoder's loss on images x, each (n,), and what it made of their codes."""
        with self.runtime.autocast():
            with torch.no_grad():
                truth = self.trunk.stages(x)
                z = self.vae.encode(x).sample(eps)
            made = self.decoder(z).float()
            feature = feature_distance(self.trunk.stages(made), truth)
            opinion = self.model["critic"](made).float().mean((1, 2, 3))
        return {"pixel": (made - x).abs().mean((1, 2, 3)), "feature": feature, "critic": -opinion}, made

    def step(self, batch: Batch) -> Tensors:
        """One update of the decoder, then one of the critic."""
        generator, critic = self.optimisers
        losses, made = self.losses(batch.x, batch.eps)
        hinge = self.hinge(batch.x, made.detach())
        direction = self.direction(losses, made, skill=1 - hinge.mean().item() / 2)
        self.update((made * direction).sum(), generator, losses)
        self.update(hinge.mean(), critic, {"hinge": hinge})
        return losses | {"hinge": hinge}

    def update(self, loss: Tensor, optimiser: Any, parts: Tensors) -> None:
        """Descend on `loss`, whose parts are named for a message. Raises Diverged when it is not finite."""
        optimiser.zero_grad(set_to_none=True)
        self.check(loss, parts, bounded=False)
        self.accelerator.backward(loss)
        self.move([optimiser])

    def hinge(self, real: Tensor, made: Tensor) -> Tensor:
        """The critic's loss, (n,): only patches that are not yet judged with a margin of 1 teach it.

        2 is what a critic pays that cannot tell real from made, 0 what one pays that always can.
        """
        with self.runtime.autocast():
            opinions = self.critic(real).float(), self.critic(made).float()
        return (1 - opinions[0]).relu().mean((1, 2, 3)) + (1 + opinions[1]).relu().mean((1, 2, 3))

    def direction(self, losses: Tensors, made: Tensor, skill: float) -> Tensor:
        """The gradient at the pixels; the critic's part is `critic_weight * skill` times as long as the rest of it.

        A fixed weight would mean something else in every phase: the critic's opinion has no unit [Esser et al., CVPR
        2021, eq. 7, for the last layer]. A critic that knows nothing has the skill 0 and is not followed.
        """
        s = self.settings
        distance = (s.pixel_weight * losses["pixel"] + s.feature_weight * losses["feature"]).mean()
        near = torch.autograd.grad(distance, made, retain_graph=True)[0]
        real = torch.autograd.grad(losses["critic"].mean(), made)[0]
        return near + s.critic_weight * max(skill, 0.0) * near.norm() / (real.norm() + 1e-12) * real

    @torch.no_grad()
    def validate(self) -> Record:
        """The parts of the loss and the squared error, means over the validation split."""
        noise = torch.Generator(self.device).manual_seed(self.settings.seed)
        sums = RunningMeans()
        self.model.eval()
        for x, _ in batches(self.data.validation, 500, device=self.device):
            eps = torch.randn(len(x), self.settings.latent_dim, generator=noise, device=self.device)
            losses, made = self.losses(x, eps)
            sums.add(losses | {"mse": (made - x).square().mean((1, 2, 3))})
        return sums.means("validation")
