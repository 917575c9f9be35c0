"""Muon against the published iteration and the singular values; the size of a step; the schedule."""

import pytest
import torch

from helpers.engine.optim import Muon, one_cycle, orthogonalised


def test_muon_makes_every_direction_count_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((24, 60), (60, 24)):
        u, _, v = torch.linalg.svd(matrix := torch.randn(shape, generator=generator), full_matrices=False)
        found = orthogonalised(matrix)
        values = torch.linalg.svdvals(found)
        assert 0.6 < values.min() and values.max() < 1.3
        assert (found * (u @ v)).sum() / (found.norm() * (u @ v).norm()) > 0.98  # the nearest orthogonal matrix


def test_the_orthogonalisation_is_the_published_iteration() -> None:
    """The same polynomial applied to the matrix itself, as Jordan (2024) writes it, in float64."""
    generator = torch.Generator().manual_seed(0)
    for shape in ((24, 200), (200, 24), (40, 40)):
        matrix = torch.randn(shape, generator=generator, dtype=torch.float64)
        x = (matrix if shape[0] <= shape[1] else matrix.T) / matrix.norm()
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        published = x if shape[0] <= shape[1] else x.T
        assert torch.allclose(orthogonalised(matrix), published, atol=1e-6)
        assert torch.allclose(orthogonalised(matrix.float()).double(), published, atol=2e-4)


def test_a_muon_step_has_the_size_that_its_learning_rate_says() -> None:
    kernel = torch.nn.Parameter(torch.randn(32, 16, 3, 3, generator=torch.Generator().manual_seed(0)))
    before = kernel.detach().clone()
    (1e4 * kernel.sin().sum()).backward()
    Muon([kernel], lr=0.01).step()
    moved = (kernel - before).square().mean().sqrt().item()
    assert moved == pytest.approx(0.2 * 0.01, rel=0.15)  # whatever the size of the gradient


def test_the_schedule_rises_and_ends_at_zero() -> None:
    rates = [one_cycle(step, 100, 1.0) for step in range(100)]
    assert max(rates) == pytest.approx(1, abs=1e-3) and rates.index(max(rates)) < 20 and rates[-1] == pytest.approx(0)
