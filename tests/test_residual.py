"""Files pay what the network says, decode in any company, and notice when bytes are missing."""

import math

import numpy as np
import pytest
import torch

from helpers.engine.errors import UserError
from helpers.pixelcoder import coded, contexts
from helpers.residual import BitWriter, ResidualCoder, wavefront

from .test_pixelcoder import network


@pytest.fixture(scope="module")
def coder() -> ResidualCoder:
    return ResidualCoder(network())


def levels(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).float()


def test_pixels_of_one_turn_do_not_see_each_other_and_every_pixel_has_its_turn() -> None:
    seen = torch.zeros(9, 11, dtype=torch.bool)
    for rows, columns in wavefront(9, 11):
        for y, x in zip(rows.tolist(), columns.tolist(), strict=True):
            before = [(b, a) for b in range(y - 3, y + 1) for a in range(x - 3, x + 4) if (b, a) < (y, x)]
            assert all(seen[b, a] for b, a in before if b >= 0 and 0 <= a < 11) and not seen[y, x]
        seen[rows, columns] = True
    assert seen.all()


@pytest.mark.parametrize("step", [1, 2, 8, 64])
@pytest.mark.parametrize("given", [True, False])
def test_a_file_pays_what_the_network_says(coder: ResidualCoder, step: int, given: bool) -> None:
    x, mean = levels(2, 16, 16, 3), levels(2, 16, 16, 3).flip(0)
    content, kept = coder.compress(x, step, mean if given else None)
    assert torch.equal(coder.decompress(content, x.shape, step, mean if given else None), kept)
    steps, flags = torch.full((2,), float(step)), torch.full((2,), given)
    with torch.no_grad():
        mixture = network().mixture(contexts(kept, mean, steps, flags))
        nats, _ = coded(mixture, kept.flatten(0, 2), torch.full((512, 1), float(step)))
    assert 8 * len(content) == pytest.approx(nats.sum().item() / math.log(2), rel=0.02, abs=40)


def test_a_price_saves_bits(coder: ResidualCoder) -> None:
    smooth = levels(2, 1, 1, 3).expand(2, 16, 16, 3) + 6 * torch.randn(
        2, 16, 16, 3, generator=torch.Generator().manual_seed(1)
    )
    x = smooth.round().clamp(0, 255)
    sizes = [len(coder.compress(x, 16, None, price)[0]) for price in (0.0, 0.2)]
    assert sizes[1] < sizes[0]


@pytest.mark.parametrize("step", [2, 8, 9])
def test_restored_levels_move_at_most_half_a_step_and_strips_leave_no_seam(
    coder: ResidualCoder, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = levels(1, 60, 7, 3)
    whole = coder.restored(kept, step, None)
    assert (whole - kept).abs().max() <= step // 2 and (whole != kept).any()
    monkeypatch.setattr("helpers.residual.STRIP", 70)
    assert torch.equal(coder.restored(kept, step, None), whole)


def test_networks_whose_numbers_are_too_large_to_be_exact_are_refused() -> None:
    wild = network()
    wild.outward.bias.data.mul_(1e3)
    with pytest.raises(UserError, match="too large to be exact"):
        ResidualCoder(wild).compress(levels(1, 4, 4, 3), 1, None)


def test_a_file_that_claims_too_many_pixels_comes_to_an_end(coder: ResidualCoder) -> None:
    content, _ = coder.compress(levels(2, 16, 16, 3), 1, None)
    with pytest.raises(ValueError, match="bytes"):
        coder.decompress(content, (20_000, 16, 16, 3), 1, None)


def test_bits_cost_what_their_probabilities_say() -> None:
    ones = torch.full((20_000,), 0.25, dtype=torch.float64)
    bits = torch.rand(20_000, generator=torch.Generator().manual_seed(0)) < 0.25
    writer = BitWriter()
    writer(ones, bits)
    ideal = -np.log2(np.where(bits.numpy(), 0.25, 0.75)).sum()
    assert ideal <= 8 * len(writer.content()) <= ideal + 64
