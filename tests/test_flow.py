"""A fresh flow is the Gaussian of its codes; a trained one has the classes apart; its trainer resumes."""

import math
from pathlib import Path

import pytest
import torch

from helpers.data import Dataset
from helpers.engine.files import weights_path
from helpers.flow import Flow, FlowTrainer, linear_velocity, sample_flow
from helpers.run import build_model, load_vae
from helpers.settings import profile_settings
from helpers.training import fit

from .conftest import TINY


def codes() -> tuple[torch.Tensor, torch.Tensor]:
    """3000 correlated codes of two classes, which lie around -1 and 2, and their labels."""
    labels = torch.arange(3000) % 2
    noise = torch.randn(3000, 4, generator=torch.Generator().manual_seed(0))
    mixed = noise @ torch.tensor([[0.3, 0.2, 0, 0], [0, 0.3, 0, 0], [0, 0, 0.3, 0], [0, 0, 0, 0.1]])
    return mixed + torch.where(labels == 1, 2.0, -1.0)[:, None], labels


def measured() -> Flow:
    z, _ = codes()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        flow = Flow(4, 2, width=64, blocks=2)
    flow.measure((z, torch.zeros_like(z)))
    return flow


def test_the_linear_velocity_is_the_regression_of_gaussian_codes() -> None:
    e, z = torch.randn(2, 200_000, 1, generator=torch.Generator().manual_seed(0))
    for time in (0.1, 0.5, 0.8):
        t = torch.full((len(z),), time)
        mixed = torch.lerp(e, z, t[:, None])
        slope = ((z - e) * mixed).mean() / mixed.square().mean()
        assert linear_velocity(torch.ones_like(z), t)[0].item() == pytest.approx(slope.item(), abs=0.01)
    t = torch.rand(len(z), generator=torch.Generator().manual_seed(1))
    left = (linear_velocity(torch.lerp(e, z, t[:, None]), t) - (z - e)).square().mean()
    assert left.item() == pytest.approx(math.pi / 2, rel=0.02)  # the integral of 1 / (t^2 + (1 - t)^2)


def test_codes_are_whitened_and_given_back() -> None:
    flow, (z, _) = measured(), codes()
    white = flow.whitened(z)
    assert torch.allclose(white.T.cov(), torch.eye(4), atol=0.02) and white.mean(0).abs().max() < 0.01
    assert torch.allclose(flow.coloured(white), z, atol=1e-4)


def test_a_fresh_flow_draws_from_the_gaussian_of_all_codes() -> None:
    drawn = sample_flow(measured(), torch.full((20_000,), 2))
    assert torch.allclose(drawn.mean(0), codes()[0].mean(0), atol=0.05)
    assert torch.allclose(drawn.T.cov(), codes()[0].T.cov(), rtol=0.05, atol=0.03)


def test_a_trained_flow_has_the_classes_apart_and_guidance_exaggerates() -> None:
    flow, (z, labels), generator = measured(), codes(), torch.Generator().manual_seed(1)
    white, adam = flow.whitened(z), torch.optim.Adam(flow.parameters(), lr=2e-3)
    for _ in range(500):
        index = torch.randint(len(z), (500,), generator=generator)
        e, t = torch.randn(500, 4, generator=generator), torch.rand(500, generator=generator)
        told = labels[index].masked_fill(torch.rand(500, generator=generator) < 0.1, 2)
        loss = (flow(torch.lerp(e, white[index], t[:, None]), t, told) - (white[index] - e)).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    zero, one, any_class = (torch.full((2000,), label) for label in range(3))
    for label, mean in ((zero, -1.0), (one, 2.0)):
        assert sample_flow(flow, label).mean().item() == pytest.approx(mean, abs=0.2)
    assert sample_flow(flow, one, guidance=2.0).mean() > sample_flow(flow, one).mean()
    everyone = sample_flow(flow, any_class)
    assert everyone.mean().item() == pytest.approx(0.5, abs=0.3) and everyone.std().item() > 1.2
    assert torch.equal(sample_flow(flow, one[:5], seed=3), sample_flow(flow, one[:5], seed=3))


@pytest.mark.slow
def test_a_training_learns_and_a_stopped_one_continues_bit_for_bit(
    photos: Dataset, trained: Path, tmp_path: Path
) -> None:
    settings = profile_settings("smoke", "flow", "photos", **TINY | {"epochs": 3})
    losses: list[float] = []

    def run(checkpoint: Path | None, stop: int = 0) -> torch.Tensor:
        model = build_model(settings, 10)

        def maker(*given: object) -> FlowTrainer:
            return FlowTrainer(*given, vae=load_vae(weights_path(trained, "vae")))  # type: ignore[arg-type]

        losses.clear()
        for record in fit(model, photos, settings, checkpoint, maker):
            losses.append(record["validation_loss"])
            if record["epoch"] == stop:
                break
        return model.blocks[0].body[0].weight

    whole = run(None)
    assert losses[-1] < losses[0]
    path = tmp_path / "flow.checkpoint.safetensors"
    assert not torch.equal(run(path, stop=1), whole)
    assert torch.equal(run(path), whole)
