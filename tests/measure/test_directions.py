"""The principal directions of codes, and their names."""

import pytest
import torch

from helpers.measure.directions import Effect, fit_directions, name_change, patterns


def test_principal_directions_are_those_of_the_codes() -> None:
    generator = torch.Generator().manual_seed(0)
    turn, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator))
    lengths = torch.tensor([6.0, 5, 4, 3, 2, 1])
    codes = 2 + torch.randn(20_000, 6, generator=generator) * lengths @ turn
    directions = fit_directions(codes)
    assert torch.allclose(directions.std, lengths, rtol=0.03)
    assert torch.allclose((directions.axes * turn).sum(1).abs(), torch.ones(6), atol=0.01)
    assert torch.allclose(directions.code(directions.place(codes[:5])), codes[:5], atol=1e-4)
    at_rest = directions.code(directions.place(codes[:5]), temperature=0.0)
    assert torch.allclose(at_rest, directions.mean.expand(5, 6))
    assert directions.share.sum() == pytest.approx(1, abs=1e-5)


def test_names_say_what_changes_and_how_much_of_it() -> None:
    flat = torch.stack([pattern.flatten() for pattern in patterns(32).values()])
    assert torch.allclose(flat @ flat.T, torch.eye(len(flat)), atol=1e-5)
    ramp = torch.linspace(1, -1, 32)
    effect, sign = name_change(-ramp[None, :, None].expand(3, 32, 32))
    assert effect.name == "brighter top, darker bottom" and sign == -1 and effect.explained > 0.9
    warm = torch.tensor([1.0, 0, -1])[:, None, None].expand(3, 32, 32)
    assert name_change(warm)[0].name == "warmer all over"
    noise = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))
    both, sign = name_change(1.1 * warm - 2**0.5 * ramp[None, None, :] + 0.5 * noise)
    assert both.name == "warmer all over; darker left, brighter right" and sign == 1 and both.explained > 0.8
    assert name_change(noise)[0].name.startswith("changes shapes")


def test_a_short_name_leaves_out_the_other_half_of_a_pattern() -> None:
    assert Effect("brighter all over; warmer all over", 0.6).short == "brighter + warmer"
    assert Effect("brighter top, darker bottom; darker all over", 0.4).short == "brighter top + darker"
