"""A learned prior: flow matching on the codes. Noise is carried to the aggregate posterior by a learned velocity.

    z_t = (1 - t) e + t z,  e ~ N(0, I), z ~ q(z);  v(z_t, t, class) is regressed on z - e;  sampling solves dz/dt = v

Source: Lipman et al., Flow Matching for Generative Modeling, ICLR 2023 (sec. 4.1, the straight path); Ho & Salimans,
Classifier-Free Diffusion Guidance, 2022 (the class that is sometimes hidden, and the guidance weight).
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .config import UserError
from .runtime import freed_memory_kept
from .storage import load_state, read_tensors, write_tensors
from .training import one_cycle

STEPS = 10  # of Heun's method, two evaluations each


class Flow(nn.Module):
    """v(z, t, label): the velocity of codes z (n, d) at times t (n,); label (n,) int64, `n_classes` = not told."""

    def __init__(self, d: int, n_classes: int, width: int = 384, blocks: int = 4) -> None:
        super().__init__()
        self.d, self.n_classes = d, n_classes
        self.time = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(n_classes + 1, width)
        self.inward = nn.Linear(d, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
            for _ in range(blocks)
        )
        self.outward = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, d))
        nn.init.zeros_(self.outward[1].weight)

    def forward(self, z: Tensor, t: Tensor, label: Tensor) -> Tensor:
        frequencies = torch.exp(torch.linspace(0, 5, 32, device=z.device))
        waves = torch.cat([(t[:, None] * frequencies).sin(), (t[:, None] * frequencies).cos()], 1)
        context = self.time(waves) + self.label(label)
        h = self.inward(z)
        for block in self.blocks:
            h = h + block(h + context)
        return self.outward(h)


def fit_flow(
    flow: Flow, mu: Tensor, std: Tensor, labels: Tensor, *, epochs: int = 60, lr: float = 1e-3, seed: int = 0
) -> Iterator[float]:
    """Train on codes z ~ N(mu, std^2), (n, d), drawn anew in every epoch; yields the mean loss of each epoch.

    One label in ten is hidden, so that one network knows the codes of a class and those of all.
    """
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(flow.parameters(), lr=lr, weight_decay=0.01)
    batch = min(1000, len(mu))
    steps, step = epochs * (len(mu) // batch), 0
    for _ in range(epochs):
        total = 0.0
        order = torch.randperm(len(mu), generator=generator)[: len(mu) // batch * batch]
        with freed_memory_kept():
            for index in order.split(batch):
                z = mu[index] + std[index] * torch.randn(batch, flow.d, generator=generator)
                noise = torch.randn(batch, flow.d, generator=generator)
                t = torch.rand(batch, generator=generator)
                hidden = torch.rand(batch, generator=generator) < 0.1
                label = labels[index].masked_fill(hidden, flow.n_classes)
                loss = (flow(torch.lerp(noise, z, t[:, None]), t, label) - (z - noise)).square().mean()
                for group in optimiser.param_groups:
                    group["lr"] = one_cycle(step, steps, lr)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                step, total = step + 1, total + loss.item() * batch
        yield total / (len(mu) // batch * batch)


@torch.no_grad()
def sample_flow(
    flow: Flow, n: int, *, label: int | None = None, seed: int = 0, steps: int = STEPS, guidance: float = 1.0
) -> Tensor:
    """n codes (n, d) by Heun's method in `steps` equal steps; of one class when `label` is given.

    `guidance` w follows v(all) + w (v(class) - v(all)): 1 is the class itself, more exaggerates it.
    """
    z = torch.randn(n, flow.d, generator=torch.Generator().manual_seed(seed))
    everyone = torch.full((n,), flow.n_classes)
    chosen = everyone if label is None else torch.full((n,), label)

    def velocity(z: Tensor, time: float) -> Tensor:
        t = torch.full((n,), time)
        v = flow(z, t, chosen)
        return v if guidance == 1 or label is None else torch.lerp(flow(z, t, everyone), v, guidance)

    for step in range(steps):
        start = step / steps
        v = velocity(z, start)
        z = z + 0.5 / steps * (v + velocity(z + v / steps, (step + 1) / steps))
    return z


def load_or_fit_flow(
    path: Path,
    mu: Tensor,
    std: Tensor,
    labels: Tensor,
    about: dict[str, Any],
    *,
    epochs: int = 60,
    seed: int = 0,
    fresh: bool = False,
) -> tuple[Flow, bool]:
    """The flow stored at `path` when it was fitted to the same codes (`about` says which), else a new one, stored.

    Returns the flow and whether it was loaded. Raises UserError when the file is damaged.
    """
    n_classes = int(labels.max()) + 1
    about = {"kind": "flow", "epochs": epochs, "seed": seed, "n": len(mu), **about}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        flow = Flow(mu.shape[1], n_classes)
    if path.is_file() and not fresh:
        tensors, known = read_tensors(path)
        if known == about:
            load_state(flow, tensors, path)
            return flow.eval(), True
        if known.get("kind") != "flow":
            raise UserError(f"{path} holds no flow; delete it")
    passes = fit_flow(flow, mu, std, labels, epochs=epochs, seed=seed)
    for _ in tqdm(passes, "fitting the flow", epochs, file=sys.stdout, mininterval=1, ncols=88):
        pass
    write_tensors(path, flow.state_dict(), about)
    return flow.eval(), False
