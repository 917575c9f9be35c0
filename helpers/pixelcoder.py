"""Pixels, one after the other, each from those around it: the network behind every quality up to the last bit.

    p(x | code) = product over pixels of p(pixel | 24 pixels before it, the decoder's mean around it)

Within a pixel green comes first, then red, then blue. Each value is rounded to a bin of `step` levels; step 1 loses
nothing. Sources: Salimans et al., PixelCNN++, ICLR 2017 (mixtures of discretised logistics, channels in turn); Zhang et
al., Parallel Neural Local Lossless Compression, 2022 (a local model in the order of a wavefront).
"""

import math
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, pad

from .data import Augmentation, Dataset, Split, to_bytes
from .engine import Muon, Record, Tensors
from .engine.runtime import RunningMeans, my_part, precise
from .loop import Training
from .models import VAE
from .priors import encode_all
from .settings import PixelSettings

REACH, AROUND = 3, 2  # pixels: how far a pixel sees among those before it, and in the mean
BEFORE = [(dy, dx) for dy in range(-REACH, 1) for dx in range(-REACH, REACH + 1) if dy < 0 or dx < 0]
NEAR = [(dy, dx) for dy in range(-AROUND, AROUND + 1) for dx in range(-AROUND, AROUND + 1)]
CHANNELS = [1, 0, 2]  # green says most about the other two
CENTRE, UNIT = 128, 32  # the network reads (level - 128) / 32
RESTORER = 24  # channels
LARGEST_STEP = 32  # in levels
HELD_OUT = 500  # validation images: as many as an epoch has time for
NOISE = 0.8  # width of the noise, in steps, that stands for rounding before the network has said where bins lie
PASSES = 2
DEAD = 0.15  # of a step


class Mixture(NamedTuple):
    """What the network says of a pixel, K logistics; levels are in the network's unit."""

    logits: Tensor  # (n, K), of the weights
    means: Tensor  # (n, 3, K)
    log_scales: Tensor  # (n, 3, K)
    coupling: Tensor  # (n, 3, K): how the means follow the surprise of the channels before: red G; blue G, R


class PixelNet(nn.Module):
    """Contexts (n, 152) -> a mixture for each pixel: residual layers, and a straight way to the means.

    `restorer`: views (n, 8, h, w) -> what the kept levels lack, in steps, (n, 3, h, w); it sees a pixel from all sides.
    """

    def __init__(self, width: int, components: int) -> None:
        super().__init__()
        sizes = (8, RESTORER, RESTORER, RESTORER, 3)
        layers = [part for i in range(4) for part in (nn.Conv2d(sizes[i], sizes[i + 1], 3, padding=1), nn.ReLU())]
        self.restorer = nn.Sequential(*layers[:-1])
        self.components = components
        inputs = 3 * len(BEFORE) + 5 + 3 * len(NEAR)
        self.inward = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)) for _ in range(2)
        )
        self.outward, self.straight = nn.Linear(width, 10 * components), nn.Linear(inputs, 3)
        last: Any = [block[-1] for block in self.blocks]  # type: ignore[index]
        for layer in (*last, self.outward, self.straight, self.restorer[-1]):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():  # a fresh network says: somewhere, five times
            _, means, scales, _ = self.outward.bias.view(10, components).split((1, 3, 3, 3))
            means.copy_(torch.linspace(-2, 2, components).expand_as(means))

    def forward(self, context: Tensor, view: Tensor) -> tuple[Mixture, Tensor]:
        """Both at once, as Accelerate wants it in training."""
        return self.mixture(context), self.restorer(view)

    def mixture(self, context: Tensor) -> Mixture:
        """What is known of each pixel before its first channel."""
        h = self.inward(context)
        for block in self.blocks:
            h = h + block(h)
        parts = self.outward(torch.relu(h)).view(len(h), 10, self.components)
        logits, means, scales, coupling = parts.split((1, 3, 3, 3), 1)
        return Mixture(logits[:, 0], means + self.straight(context)[..., None], scales, coupling)


def planes(images: Tensor) -> Tensor:
    """uint8 images (n, 3, h, w) -> levels, float32 (n, h, w, 3), the channels in coding order."""
    return images[:, CHANNELS].permute(0, 2, 3, 1).float()


def windows(levels: Tensor, offsets: list[tuple[int, int]], reach: int) -> Tensor:
    """The neighbours of every pixel of levels (n, h, w, 3), in the network's unit: (n, h, w, 3 len(offsets))."""
    n, height, width, _ = levels.shape
    padded = pad((levels - CENTRE) / UNIT, (0, 0, reach, reach, reach, reach))
    return torch.cat([padded[:, reach + y : reach + y + height, reach + x : reach + x + width] for y, x in offsets], 3)


def situation(height: int, width: int) -> Tensor:
    """How many pixels lie above, to the left and to the right of each, up to 3, in quarters: (h, w, 3)."""
    rows, columns = torch.arange(height).clamp(max=REACH), torch.arange(width).clamp(max=REACH)
    above, left, right = rows[:, None], columns[None], columns.flip(0)[None]
    return torch.stack(torch.broadcast_tensors(above, left, right), 2) / 4


def step_feature(step: Tensor) -> Tensor:
    """What the network is told of a step, a multiple of 1/32, so that exact arithmetic can hold it."""
    return torch.round(torch.log2(precise(step)) * 10).float().to(step.device) / UNIT


def contexts(kept: Tensor, mean: Tensor, step: Tensor, given: Tensor) -> Tensor:
    """Contexts of all pixels, (n h w, 152), from what is kept of the images and the decoder's means, (n, h, w, 3).

    step (n,); given, bool (n,): whether the decoder's mean is known. Grey in the network's unit is 0.
    """
    n, height, width, _ = kept.shape
    told = torch.stack([step_feature(step), given.float()], 1)[:, None, None].expand(n, height, width, 2)
    seen = torch.where(given[:, None, None, None], mean, CENTRE)
    parts = (windows(kept, BEFORE, REACH), situation(height, width).to(kept.device).expand(n, -1, -1, -1), told)
    return torch.cat([*parts, windows(seen, NEAR, AROUND)], 3).flatten(0, 2)


def views(kept: Tensor, mean: Tensor, step: Tensor, given: Tensor) -> Tensor:
    """What the restorer sees, (n, 8, h, w); arguments as for `contexts`."""
    n, height, width, _ = kept.shape
    seen = torch.where(given[:, None, None, None], mean, CENTRE)
    told = torch.stack([step_feature(step), given.float()], 1)[..., None, None].expand(n, 2, height, width)
    return torch.cat([(torch.cat([kept, seen], 3).permute(0, 3, 1, 2) - CENTRE) / UNIT, told], 1)


def bins(values: Tensor, shift: Tensor, step: Tensor) -> Tensor:
    """The number of the bin of `step` levels that holds each value; bin j has the levels j step - shift and above."""
    return torch.floor((values + shift) / step)


def centred(prediction: Tensor, step: Tensor) -> Tensor:
    """The shift of bins for which `prediction`, a level, is the middle one of its bin."""
    return torch.remainder(torch.floor(step / 2) - prediction, step)


def middle(number: Tensor, shift: Tensor, step: Tensor) -> Tensor:
    """The level that stands for a bin; at most (step - 1) / 2 from every level in it where step is odd."""
    return (number * step - shift + torch.floor(step / 2)).clamp(0, 255)


def coded(mixture: Mixture, values: Tensor, step: Tensor, dead: float = 0.0) -> tuple[Tensor, Tensor]:
    """Values (n, 3) and steps (n, 1) -> nats of each pixel (n,), and what is kept of the values (n, 3).

    `dead` widens the bin of the prediction in the choice (not the model), as a coder does that weighs bits and error.
    """
    surprises: list[Tensor] = []
    total, kept = torch.log_softmax(mixture.logits, 1), []
    for channel in range(3):
        means = mixture.means[:, channel]
        for before, surprise in enumerate(surprises):
            means = means + mixture.coupling[:, channel - 1 + before] * surprise
        with torch.no_grad():
            expected = (total.softmax(1) * means).sum(1, keepdim=True) * UNIT + CENTRE
            prediction = expected.round().clamp(0, 255)
            shift, value = centred(prediction, step), values[:, channel : channel + 1]
            slack = dead * step * (step > 2)
            nearer = value - torch.minimum(torch.maximum(value - prediction, -slack), slack)
            number = bins(nearer, shift, step)
            kept.append(middle(number, shift, step))
            low = number * step - shift - 0.5
        surprises.append((kept[-1] - CENTRE) / UNIT - means)
        total = total + log_mass(mixture.log_scales[:, channel], means, low, low + step)
    return -total.logsumexp(1), torch.cat(kept, 1)


def log_mass(log_scales: Tensor, means: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """log P of logistics (n, K) between two levels (n, 1); the tails belong to the levels 0 and 255."""
    inverse = torch.exp(-log_scales.clamp(-6, 4))
    a, b = (inverse * ((edge - CENTRE) / UNIT - means) for edge in (low, high))
    a, b = a.masked_fill(low < 0, -40), b.masked_fill(high > 255, 40)
    # sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)), which loses no digits in a tail.
    return logsigmoid(b) + logsigmoid(-a) + torch.log(-torch.expm1(-(b - a).clamp_min(1e-6)))


class PixelTrainer(Training):
    """Trains the network for every step, with and without the mean of a frozen VAE; a running average is kept."""

    settings: PixelSettings

    def __init__(self, model: PixelNet, data: Dataset, settings: PixelSettings, *, vae: VAE) -> None:
        pair = nn.ModuleDict({"average": model, "moving": deepcopy(model)})
        super().__init__(pair, data, settings, Augmentation(flip=settings.flip), vae.latent_dim)
        generator = torch.Generator().manual_seed(settings.seed)
        held_out = self.data.validation.head(HELD_OUT)
        self.means = sampled_means(vae, self.data.train, generator)
        self.held_out = planes(held_out.images), planes(sampled_means(vae, held_out, generator))
        self.moving = self.prepared(self.model["moving"])

    def make_optimisers(self) -> list[torch.optim.Optimizer]:
        """Muon for maps between many features, AdamW for biases and for what gives the mixture."""
        s, named = self.settings, list(self.model["moving"].named_parameters())
        kept = {name for name, p in named if p.ndim == 1 or name.startswith(("outward", "straight"))}
        adam = {"params": [p for name, p in named if name in kept], "rate": 1}
        muon = {"params": [p for name, p in named if name not in kept], "rate": s.muon_rate}
        return [torch.optim.AdamW([adam], betas=(0.9, 0.99), weight_decay=0.0), Muon([muon])]

    def draw(self, index: Tensor) -> Tensors:  # type: ignore[override]
        """Images, means, steps and noise of the images at `index`: this process's part of them."""
        n, s, generator = len(index), self.settings, self.generators["augment"]
        mirrored = self.augmentation.draw(n, self.data.train.images.shape[-1], generator).mirrored
        given, lossless, size = torch.rand(3, n, generator=generator)
        step = torch.exp2(size * math.log2(LARGEST_STEP)).round().clamp(2).masked_fill(lossless < s.lossless, 1)
        noise = torch.rand(n, *self.data.train.images.shape[2:], 3, generator=generator) - 0.5
        rows = {"index": index, "mirrored": mirrored, "given": given < s.given, "step": step, "noise": noise}
        rows = my_part(rows, self.accelerator)
        index, mirrored = rows.pop("index"), rows.pop("mirrored")[:, None, None, None]
        for name, images in (("x", self.data.train.images), ("mean", self.means)):
            levels = planes(images[index])
            rows[name] = torch.where(mirrored, levels.flip(2), levels)
        return {name: value.to(self.device) for name, value in rows.items()}

    def step(self, rows: Tensors) -> Tensors:  # type: ignore[override]
        """One update of the moving weights and of their average."""
        nats, errors = self.losses(self.moving, rows)
        # The two terms share no weights, and neither optimiser minds the scale of a loss.
        loss = nats.mean() + errors.sum() / (rows["step"] > 1).sum().clamp_min(1)
        self.check(loss, {"nats": nats, "error": errors}, bounded=False)
        self.descend(loss, self.settings.average)
        return {"nats": nats.detach(), "error": errors.detach()}

    def losses(self, network: Any, rows: Tensors) -> tuple[Tensor, Tensor]:
        """Nats of each image, (n,), and the mean squared error of what is restored of it, in squared steps, (n,)."""
        x, step = rows["x"], rows["step"]
        each = step.repeat_interleave(x.shape[1] * x.shape[2])[:, None]
        parts = (neighbours(self.accelerator.unwrap_model(network), rows), rows["mean"], step, rows["given"])
        lossy = (step > 1).nonzero()[:, 0]  # nothing is lacking of the others
        mixture, lacking = network(contexts(*parts), views(*(part[lossy] for part in parts)))
        nats, _ = coded(mixture, x.flatten(0, 2), each, DEAD)
        wanted = ((x - parts[0]) / step[:, None, None, None])[lossy].permute(0, 3, 1, 2)
        errors = torch.zeros_like(step).index_copy(0, lossy, (lacking - wanted).square().mean((1, 2, 3)))
        return nats.view(len(x), -1).sum(1), errors

    @torch.no_grad()
    def validate(self) -> Record:
        """Bits of a value, with and without the decoder's mean, and the squared error in steps, for three steps."""
        record: Record = {}
        generator = torch.Generator().manual_seed(self.settings.seed)
        x, mean = (part.to(self.device) for part in self.held_out)
        noise = (torch.rand(x.shape, generator=generator) - 0.5).to(self.device)
        for step in (1, 8, 32):
            for given, name in ((False, "alone"), (True, "given")):
                sums = RunningMeans()
                for parts in zip(x.split(50), mean.split(50), noise.split(50), strict=True):
                    n = len(parts[0])
                    told = {"step": x.new_full((n,), float(step)), "given": x.new_full((n,), given, dtype=torch.bool)}
                    rows = dict(zip(("x", "mean", "noise"), parts, strict=True)) | told
                    nats, errors = self.losses(self.model["average"], rows)
                    bits = nats / (x[0].numel() * math.log(2))
                    sums.add({f"bits_{step}_{name}": bits, f"error_{step}_{name}": errors})
                record |= sums.means("validation")
        return record


@torch.no_grad()
def neighbours(network: PixelNet, rows: Tensors) -> Tensor:
    """About what a decoder will have of images x when it comes to a pixel: what is kept of values under this step.

    That depends on the pixels before, and they on those before them; PASSES from noisy values come close.
    """
    x, step = rows["x"], rows["step"][:, None, None, None]
    kept = torch.where(step > 1, (x + NOISE * step * rows["noise"]).round().clamp(0, 255), x)
    lossy = (rows["step"] > 1).nonzero()[:, 0]
    for _ in range(PASSES if len(lossy) else 0):
        parts = (kept[lossy], rows["mean"][lossy], rows["step"][lossy], rows["given"][lossy])
        each = parts[2].repeat_interleave(x.shape[1] * x.shape[2])[:, None]
        _, found = coded(network.mixture(contexts(*parts)), x[lossy].flatten(0, 2), each, DEAD)
        kept = kept.index_copy(0, lossy, found.view(-1, *x.shape[1:]))
    return kept


@torch.no_grad()
def sampled_means(vae: VAE, split: Split, generator: torch.Generator) -> Tensor:
    """The decoder's mean for one sample of each image's posterior, uint8 (n, 3, 32, 32)."""
    mu, std = encode_all(vae, split)
    z = mu + std * torch.randn(mu.shape, generator=generator)
    return torch.cat([to_bytes(vae.decode(part.to(vae.device))).cpu() for part in z.split(500)])


def without_mean(network: PixelNet) -> PixelNet:
    """The same network for pixels whose mean is not known, which is grey to it: it reads fewer numbers."""
    smaller = deepcopy(network)
    inputs = 3 * len(BEFORE) + 5
    for layer in (smaller.inward, smaller.straight):
        layer.weight = nn.Parameter(layer.weight[:, :inputs].detach().clone())
    return smaller
