"""Exact networks give the same bits in any order, stay close to what was trained, and say when they cannot be exact."""

import math

import pytest
import torch
from torch import nn

from helpers.engine.errors import UserError
from helpers.engine.exact import ACTIVATION_BITS, Lookup, exact_copy, gelu, sigmoid, snap
from helpers.models import Decoder
from helpers.residual import EXPONENTIAL, INVERSE_SCALE, SIGMOID


def seeded(make: type, *sizes: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = make(*sizes)
        for parameter in network.parameters():
            if parameter.abs().max() == 0:
                nn.init.normal_(parameter, std=0.02)
    return network


def test_numbers_are_snapped_to_the_nearest_multiple() -> None:
    x = torch.tensor([0.0, 0.124, 0.125, -0.125, 7.4], dtype=torch.float64)
    assert snap(x, 2).tolist() == [0.0, 0.0, 0.25, 0.0, 7.5]


def test_no_entry_of_a_table_lies_near_a_tie() -> None:
    """Libraries differ by some units in the last place; an entry a thousand of them away from a tie is the same."""
    for function, first, last, places, bits in (
        (sigmoid, -16, 16, 2048, 24), (sigmoid, -16, 16, 4096, 12), (gelu, -8, 8, 4096, 12),
        (lambda x: math.exp(-x), 0, 16, 256, 20), (lambda x: math.exp(-x), -6, 4, 64, 12),
    ):  # fmt: skip
        points = [first + i / places for i in range((last - first) * places + 1)]
        scaled = [function(x) * 2**bits for x in points]
        assert min(abs(value % 1 - 0.5) / math.ulp(value) for value in scaled) > 1000
    assert SIGMOID.diff().min() >= 0 and EXPONENTIAL.diff().max() <= 0 and INVERSE_SCALE.diff().max() <= 0


def test_tables_are_the_functions() -> None:
    x = snap(torch.linspace(-9, 9, 1001, dtype=torch.float64))
    assert torch.allclose(Lookup(gelu, 8, linear_above=True)(x), nn.functional.gelu(x), atol=2**-ACTIVATION_BITS)
    assert torch.allclose(Lookup(sigmoid, 16)(x), x.sigmoid(), atol=2**-ACTIVATION_BITS)


def test_an_exact_decoder_is_near_the_trained_one_and_does_not_depend_on_order() -> None:
    decoder = seeded(Decoder, 8, 8)
    z = snap(torch.randn(6, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    exact = exact_copy(decoder)
    with torch.no_grad():
        whole = exact(z)
        assert torch.allclose(whole.float(), decoder(z.float()), atol=2e-3)
        assert torch.equal(torch.cat([exact(row[None]) for row in z]), whole)
        permuted = exact_copy(decoder)  # the same sums in another order of the code's numbers
        order = torch.tensor([3, 1, 7, 0, 2, 6, 4, 5])
        permuted.net[0].layer.weight = nn.Parameter(permuted.net[0].layer.weight[:, order])
        assert torch.equal(permuted(z[:, order]), whole)
    assert torch.equal(whole, snap(whole))


def test_numbers_that_are_too_large_are_refused() -> None:
    layer = seeded(nn.Linear, 4, 4)
    with pytest.raises(UserError, match="too large to be exact"):
        exact_copy(layer)(torch.full((1, 4), 2.0**26, dtype=torch.float64))
