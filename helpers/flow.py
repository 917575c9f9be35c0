"""A learned prior, flow matching on the codes: a learned velocity carries noise to the aggregate posterior.

    z_t = (1 - t) e + t z,  e ~ N(0, I), z ~ q(z);  v(z_t, t, class) is regressed on z - e;  sampling solves dz/dt = v

Lipman et al., Flow Matching, ICLR 2023 (sec. 4.1, the straight path); Ho & Salimans, Classifier-Free Guidance, 2022.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from .engine import Json, bar, cached, freed_memory_kept, load_state, one_cycle

SEED = 0  # of the first weights and of all draws of a stored flow


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
        last = nn.Linear(width, d)
        nn.init.zeros_(last.weight)
        self.outward = nn.Sequential(nn.LayerNorm(width), last)

    def forward(self, z: Tensor, t: Tensor, label: Tensor) -> Tensor:
        angles = t[:, None] * torch.exp(torch.linspace(0, 5, 32, device=z.device))
        context = self.time(torch.cat([angles.sin(), angles.cos()], 1)) + self.label(label)
        h = self.inward(z)
        for block in self.blocks:
            h = h + block(h + context)
        return self.outward(h)


def fit_flow(flow: Flow, mu: Tensor, std: Tensor, labels: Tensor, *, epochs: int, seed: int = SEED) -> Iterator[float]:
    """Train on codes z ~ N(mu, std^2), (n, d), drawn anew in every epoch; yields the mean loss of each epoch."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(flow.parameters(), lr=1e-3, weight_decay=0.01)
    batch = min(1000, len(mu))
    steps = len(mu) // batch  # of an epoch
    for epoch in range(epochs):
        total = 0.0
        order = torch.randperm(len(mu), generator=generator)[: steps * batch]
        with freed_memory_kept():
            for step, index in enumerate(order.split(batch), epoch * steps):
                z = mu[index] + std[index] * torch.randn(batch, flow.d, generator=generator)
                noise = torch.randn(batch, flow.d, generator=generator)
                t, chance = torch.rand(2, batch, generator=generator)
                label = labels[index].masked_fill(chance < 0.1, flow.n_classes)  # so that it also knows all codes
                loss = (flow(torch.lerp(noise, z, t[:, None]), t, label) - (z - noise)).square().mean()
                optimiser.param_groups[0]["lr"] = one_cycle(step, epochs * steps, optimiser.defaults["lr"])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                total += loss.item()
        yield total / steps


@torch.no_grad()
def sample_flow(
    flow: Flow, n: int, *, label: int | None = None, seed: int = 0, steps: int = 10, guidance: float = 1.0
) -> Tensor:
    """n codes (n, d) by `steps` steps of Heun's method; of one class if given, exaggerated by a guidance above 1."""
    z = torch.randn(n, flow.d, generator=torch.Generator().manual_seed(seed))
    everyone = torch.full((n,), flow.n_classes)
    chosen = everyone if label is None else torch.full((n,), label)

    def velocity(z: Tensor, time: float) -> Tensor:
        t = torch.full((n,), time)
        v = flow(z, t, chosen)
        return v if guidance == 1 or label is None else torch.lerp(flow(z, t, everyone), v, guidance)

    for step in range(steps):
        v = velocity(z, step / steps)
        z = z + 0.5 / steps * (v + velocity(z + v / steps, (step + 1) / steps))
    return z


def load_or_fit_flow(
    path: Path, codes: Callable[[], tuple[Tensor, Tensor]], labels: Tensor, provenance: Json, *,
    d: int, epochs: int = 60, fresh: bool = False,
) -> tuple[Flow, bool]:  # fmt: skip
    """The flow of posteriors over d numbers, which `provenance` names, and was it loaded? UserError: damaged."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        flow = Flow(d, int(labels.max()) + 1)

    def fitted() -> dict[str, Tensor]:
        list(bar(fit_flow(flow, *codes(), labels, epochs=epochs, seed=SEED), "fitting the flow", epochs))
        return flow.state_dict()

    wanted = {"kind": "flow", "epochs": epochs, "seed": SEED, "n": len(labels), **provenance}
    tensors, loaded = cached(path, wanted, fitted, fresh=fresh)
    load_state(flow, tensors, path)
    return flow.eval(), loaded
