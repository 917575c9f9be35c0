"""Detail comes back as near as its step says, costs what its widths say, and is the same in any company."""

import numpy as np
import pytest
import torch

from helpers.detail import DetailCoder, cosines, fit_detail, frequencies


def residuals(n: int = 60) -> torch.Tensor:
    """Smooth, correlated residuals (n, 32, 32, 3) of about 15 levels."""
    noise = 30 * torch.randn(n, 3, 36, 36, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.avg_pool2d(noise, 5, stride=1).permute(0, 2, 3, 1) * 3
    return (smooth @ torch.tensor([[1.0, 0.8, 0.7], [0, 0.5, 0.1], [0, 0, 0.3]])).round()


@pytest.fixture(scope="module")
def coder() -> DetailCoder:
    return DetailCoder(fit_detail(residuals()))


def test_the_transform_keeps_lengths_and_angles() -> None:
    assert torch.allclose(cosines() @ cosines().T, torch.eye(32).double(), atol=1e-4)
    x = residuals(3)
    colours = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)))[0]
    assert torch.allclose(frequencies(x, colours).square().sum(1), x.double().square().flatten(1).sum(1), rtol=1e-3)


@pytest.mark.parametrize("step", [2.0, 8.0, 30.0])
def test_the_error_follows_the_step(coder: DetailCoder, step: float) -> None:
    x = residuals()
    content = coder.encode(x, step)
    error = (coder.decode(content, len(x), step) - x).square().mean().item()
    assert error < step**2 / 10 + 0.1
    assert len(content) < len(coder.encode(x, step / 2))


def test_it_is_exact_in_any_company(coder: DetailCoder) -> None:
    x = residuals(7)
    whole = coder.decode(coder.encode(x, 5.0), 7, 5.0)
    assert torch.equal(whole, torch.round(whole * 4096) / 4096)
    for i in (0, 3, 6):
        assert torch.equal(coder.decode(coder.encode(x[i : i + 1], 5.0), 1, 5.0)[0], whole[i])
    assert coder.decode(b"", 0, 5.0).shape == (0, 32, 32, 3)


def test_coarse_steps_send_fewer_frequencies(coder: DetailCoder) -> None:
    counts = [len(coder.sent(step)) for step in (0.5, 5.0, 50.0)]
    assert counts == sorted(counts, reverse=True) and counts[-1] >= 1
    assert np.array_equal(coder.sent(5.0), coder.sent(0.5)[: counts[1]])
