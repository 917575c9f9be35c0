"""A learned prior: a velocity, learned by flow matching, carries noise to the codes, of all classes or of one.

    z_t = (1 - t) e + t z,  e ~ N(0, I), z ~ q(z), whitened;   v(z_t, t, class) is regressed on z - e
    sampling solves dz/dt = v(z, t, class) from t = 0 to 1

Lipman et al., Flow Matching for Generative Modeling, ICLR 2023 (sec. 4.1, the straight path); Peebles & Xie, Scalable
Diffusion Models with Transformers, ICCV 2023 (adaLN); Ho & Salimans, Classifier-Free Diffusion Guidance, 2022.
"""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from .data import Augmentation, Dataset, Split
from .engine import Muon, Record, Tensors
from .engine.runtime import my_part
from .loop import Training
from .models import VAE
from .priors import Codes, encode_all, posterior_samples
from .settings import FlowSettings

CONTEXT = 128  # numbers that say time and class to every block
STEPS = 10  # of Heun's method, two evaluations of the network each


def linear_velocity(z: Tensor, t: Tensor) -> Tensor:
    """The best v that is linear in z_t (n, d), for codes of covariance I: (2t - 1) / (t^2 + (1 - t)^2) z_t.

    Cov(z - e, z_t) = (2t - 1) I and Cov(z_t) = (t^2 + (1 - t)^2) I. It leaves pi / 2 of |z - e|^2 for each number.
    """
    return ((2 * t - 1) / (t.square() + (1 - t).square()))[:, None] * z


class Block(nn.Module):
    """h (n, width) -> h + f(h, context): two layers behind a normalisation that the context scales and shifts."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(CONTEXT, 2 * width)
        self.body = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
        for parameter in self.modulation.parameters():
            nn.init.zeros_(parameter)

    def forward(self, h: Tensor, context: Tensor) -> Tensor:
        scale, shift = self.modulation(context).chunk(2, 1)
        return h + self.body(self.norm(h) * (1 + scale) + shift)


class Flow(nn.Module):
    """v(z, t, label): the velocity of whitened codes z (n, d) at times t (n,); label (n,), `n_classes` = not told.

    `centre` (d,) and `spread` (d, d): the mean of the training codes, and a Cholesky factor of their covariance.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, d: int, n_classes: int, width: int, blocks: int) -> None:
        super().__init__()
        self.d, self.n_classes = d, n_classes
        self.register_buffer("centre", torch.zeros(d))
        self.register_buffer("spread", torch.eye(d))
        self.time = nn.Sequential(nn.Linear(64, CONTEXT), nn.SiLU(), nn.Linear(CONTEXT, CONTEXT))
        self.label = nn.Embedding(n_classes + 1, CONTEXT)
        self.inward = nn.Linear(d, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.norm, self.outward = nn.LayerNorm(width), nn.Linear(width, d)
        for parameter in self.outward.parameters():  # a fresh flow is the Gaussian of the codes
            nn.init.zeros_(parameter)

    def forward(self, z: Tensor, t: Tensor, label: Tensor) -> Tensor:
        phases = t[:, None] * torch.exp(torch.linspace(0, 5, 32, device=t.device))
        time = self.time(torch.cat([phases.sin(), phases.cos()], 1))
        context = nn.functional.silu(time + self.label(label))
        h = self.inward(z)
        for block in self.blocks:
            h = block(h, context)
        # The network adds only what is not Gaussian.
        return self.outward(self.norm(h)).float() + linear_velocity(z, t)

    @torch.no_grad()
    def measure(self, codes: Codes) -> None:
        """Set the buffers from the posteriors of the training images."""
        z = posterior_samples(codes).double()
        self.centre.copy_(z.mean(0))
        self.spread.copy_(torch.linalg.cholesky(z.T.cov() + 1e-4 * torch.eye(self.d, dtype=torch.float64)))

    def whitened(self, codes: Tensor) -> Tensor:
        """Codes (n, d) with mean 0 and covariance I; `coloured` is the inverse."""
        return torch.linalg.solve_triangular(self.spread, (codes - self.centre).T, upper=False).T

    def coloured(self, z: Tensor) -> Tensor:
        """Codes (n, d) from whitened ones."""
        return self.centre + z @ self.spread.T


class FlowTrainer(Training):
    """Trains a flow on the codes of a frozen VAE; what is kept is a running average of the weights.

    The codes of all images, and of their mirror images, are computed once, before the first step.
    """

    settings: FlowSettings

    def __init__(self, model: Flow, data: Dataset, settings: FlowSettings, *, vae: VAE) -> None:
        train = data.train.head(settings.n_train)
        sides = (train.images, train.images.flip(3))[: 1 + settings.flip]
        codes = [encode_all(vae, Split(images, train.labels)) for images in sides]
        model.measure(codes[0])
        pair = nn.ModuleDict({"average": model, "moving": deepcopy(model)})
        super().__init__(pair, data, settings, Augmentation(flip=settings.flip), settings.latent_dim)
        self.codes = [torch.stack(parts).to(self.device) for parts in zip(*codes, strict=True)]  # each (sides, n, d)
        self.held_out = [part.to(self.device) for part in encode_all(vae, self.data.validation)]
        self.moving = self.prepared(self.model["moving"])

    def make_optimisers(self) -> list[torch.optim.Optimizer]:
        """Muon for maps between many features, AdamW for the rest: embedding, biases, modulation, the last layer."""
        s, named = self.settings, list(self.model["moving"].named_parameters())
        kept = {name for name, p in named if p.ndim == 1 or any(e in name for e in ("label", "outward", "modulation"))}
        adam = {"params": [p for name, p in named if name in kept], "rate": 1}
        muon = {"params": [p for name, p in named if name not in kept], "rate": s.muon_rate}
        return [
            torch.optim.AdamW([adam], betas=(0.9, 0.99), weight_decay=0.0),
            Muon([muon], weight_decay=s.weight_decay),
        ]

    def draws(self, n: int, generator: torch.Generator) -> Tensors:
        """The random numbers of n examples: noise for the posterior and for the start of a path, and a time each."""
        given: Any = {"generator": generator, "device": self.device}
        eps, noise = torch.randn(2, n, self.latent_dim, **given)
        return {"t": torch.rand(n, **given), "eps": eps, "noise": noise}

    def draw(self, index: Tensor) -> Tensors:  # type: ignore[override]
        """Posteriors, labels and random numbers of the images at `index`: this process's part of them."""
        n, train, generator = len(index), self.data.train, self.generators["augment"]
        mirrored = self.augmentation.draw(n, train.images.shape[-1], generator).mirrored
        chance, draws = torch.rand(n, generator=generator), self.draws(n, self.generators["posterior"])
        rows = my_part({"index": index, "mirrored": mirrored, "chance": chance, **draws}, self.accelerator)
        index, mirrored, chance = (rows.pop(name) for name in ("index", "mirrored", "chance"))
        mu, std = (part[mirrored.long().to(self.device), index.to(self.device)] for part in self.codes)
        labels = train.labels[index].masked_fill(chance < self.settings.hidden, self.model["moving"].n_classes)
        return rows | {"mu": mu, "std": std, "label": labels.to(self.device)}

    def errors(self, network: Any, rows: Tensors) -> Tensor:
        """|v(z_t, t) - (z - e)|^2 of each example, mean over the numbers of a code, (n,)."""
        t, e = rows["t"], rows["noise"]
        z = self.model["average"].whitened(rows["mu"] + rows["std"] * rows["eps"])
        with self.runtime.autocast():
            v = network(torch.lerp(e, z, t[:, None]), t, rows["label"])
        return (v - (z - e)).square().mean(1)

    def step(self, rows: Tensors) -> Tensors:  # type: ignore[override]
        """One update of the moving weights and of their average."""
        errors = self.errors(self.moving, rows)
        loss = errors.mean()
        self.check(loss, {"loss": errors}, bounded=False)
        self.descend(loss, self.settings.average)
        return {"loss": errors.detach()}

    @torch.no_grad()
    def validate(self) -> Record:
        """The same loss of the averaged weights over the validation split, every class told, the same noise always."""
        generator = torch.Generator(self.device).manual_seed(self.settings.seed)
        self.model.eval()
        mu, std = self.held_out
        labels = self.data.validation.labels.to(self.device)
        rows = {"mu": mu, "std": std, "label": labels, **self.draws(len(mu), generator)}
        return {"validation_loss": self.errors(self.model["average"], rows).mean().item()}


@torch.no_grad()
def sample_flow(flow: Flow, labels: Tensor, *, seed: int = 0, steps: int = STEPS, guidance: float = 1.0) -> Tensor:
    """Codes (n, d) of the classes `labels` (n,), `n_classes` = any class, by `steps` steps of Heun's method.

    A `guidance` above 1 exaggerates what the class changes [Ho & Salimans 2022, eq. 6, with w = guidance - 1].
    """
    device = flow.centre.device
    z = torch.randn(len(labels), flow.d, generator=torch.Generator().manual_seed(seed)).to(device)
    labels, anyone = labels.to(device), torch.full_like(labels, flow.n_classes).to(device)

    def velocity(z: Tensor, time: float) -> Tensor:
        t = torch.full((len(z),), time, device=device)
        v = flow(z, t, labels)
        return v if guidance == 1 else torch.lerp(flow(z, t, anyone), v, guidance)

    for step in range(steps):
        v = velocity(z, step / steps)
        z = z + 0.5 / steps * (v + velocity(z + v / steps, (step + 1) / steps))
    return flow.coloured(z).cpu()
