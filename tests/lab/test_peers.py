"""Foreign networks in our harness."""

import pytest
import torch
from torch import Tensor, nn

from helpers.data import Dataset, to_unit
from helpers.evaluate import evaluate_model
from helpers.judge import Judge
from helpers.lab.peers import CLASSES, LATENT, PEERS, adopt, mixture_samples, peer_row
from helpers.measure.rows import by_column, first_in
from helpers.models import VAE


class Constant(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return torch.full((len(z), 3, 32, 32), 0.5)


class Nothing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), 2 * LATENT)  # the posterior is the prior


def test_a_foreign_network_is_evaluated_like_ours(photos: Dataset) -> None:
    metrics = evaluate_model(adopt(VAE, Nothing(), Constant(), 0.3), photos.test.head(50)).metrics
    error = (to_unit(photos.test.images[:50]) - 0.5).square().mean().item()
    assert metrics["rate"].value == 0 and metrics["mse"].value == pytest.approx(error, rel=1e-5)
    assert metrics["active_units"].value == 0 and metrics["sigma"].value == pytest.approx(0.3)


def test_every_peer_that_is_here_trains_and_fills_its_row(photos: Dataset) -> None:
    few = photos.limited(300, 150)
    judge = Judge(8, CLASSES).eval()
    rows = {
        name: peer_row(PEERS[name](few, 0.001), few, judge) for name in ("PyTorch-VAE", "UvA autoencoder", "plain VAE")
    }
    columns = by_column(rows)
    assert columns["rate (nats)"].keys() == {"PyTorch-VAE", "plain VAE"} and len(columns["PSNR (dB) ↑"]) == 3
    assert all(0 < row["probe_accuracy"] < 1 and row["images_per_second"] > 0 for row in rows.values())
    assert rows["PyTorch-VAE"]["calibrated_bpd"] < rows["PyTorch-VAE"]["bpd"]  # its own sigma is far from its error
    assert set(first_in(columns)) == set(columns) - {"rate (nats)"}


def test_a_fitted_mixture_gives_back_the_moments_of_its_codes() -> None:
    codes = (
        torch.randn(4000, 3, generator=torch.Generator().manual_seed(0))
        @ torch.tensor([[2.0, 1, 0], [0, 1, 0], [0, 0, 0.5]])
        + 1
    )
    drawn = mixture_samples(codes, 20_000)
    assert drawn.mean(0).tolist() == pytest.approx(codes.mean(0).tolist(), abs=0.1)
    assert torch.allclose(drawn.T.cov(), codes.T.cov(), atol=0.25)
