"""Numbers become bytes and come back; the trellis finds the best path and pays what its model says."""

import itertools

import numpy as np
import pytest
from scipy.stats import norm

from helpers import trellis


def gaussian_rows(n: int, widths: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, len(widths))) * widths


def test_the_bytes_stay_the_same_from_version_to_version() -> None:
    """Written by the first version of this format: files of users must stay readable."""
    widths = np.geomspace(0.2, 12, 8) * np.array([[1.0], [0.5]])
    payload = bytes.fromhex("11da53117fe6ed98bb42b2f1c0f197e2f76b91f2")
    halves = [
        [0, 0, 2, 1, -2, 4, 25, 32], [0, -2, 0, 0, -14, -3, -24, -25], [0, 0, 2, 3, -1, 14, -13, 12],
        [0, 0, 0, -2, -3, 2, -20, -7], [0, 0, 0, 0, -4, -2, 15, 51], [0, 2, 2, 3, 1, -3, 28, 68],
    ]  # fmt: skip
    assert trellis.encode(gaussian_rows(6, widths[0]), widths, 0.7)[0] == payload
    assert trellis.decode(payload, 6, widths, 0.7) == pytest.approx(0.35 * np.array(halves))


def test_the_trellis_finds_the_best_of_all_paths() -> None:
    rows, joint = gaussian_rows(5, np.ones(4)), np.array([True, True, False, True])
    weight = np.random.default_rng(1).uniform(0.5, 2, rows.shape)
    every = np.array([follow(symbols, joint) for symbols in itertools.product(range(-4, 5), repeat=4)])
    for row, w, path in zip(rows, weight, trellis.quantise(rows, joint, weight), strict=True):
        costs = (np.square(every - row) * np.where(joint, w, 1e6)).sum(1)
        assert path == pytest.approx(every[costs.argmin()])


def follow(symbols: tuple[int, ...], joint: np.ndarray) -> list[float]:
    """The points of symbols, as the decoder finds them."""
    state, points = 0, []
    for symbol, active in zip(symbols, joint, strict=True):
        points.append(symbol + (state % 2) / 2 * active)
        if active:
            state = (2 * state + (symbol % 2 ^ trellis.FLIP[state])) % 8
    return points


def test_the_rate_paid_is_the_information_in_the_symbols() -> None:
    widths = np.geomspace(0.1, 40, 32)[None]
    payload, ideal = trellis.encode(gaussian_rows(500, widths[0]), widths, 1.0)
    points = trellis.decode(payload, 500, widths, 1.0)
    own = -np.log2(norm.cdf(points + 0.5, scale=widths) - norm.cdf(points - 0.5, scale=widths)).sum()
    assert ideal == pytest.approx(own, rel=1e-6)
    assert ideal <= 8 * len(payload) <= 1.002 * ideal + 64


def test_the_trellis_halves_the_distance_to_the_rate_distortion_bound() -> None:
    rows = gaussian_rows(2000, np.ones(32))
    payload, _ = trellis.encode(rows, np.ones((1, 32)), 0.5)
    error = np.square(trellis.decode(payload, 2000, np.ones((1, 32)), 0.5) - rows).mean()
    bound = 2.0 ** (-2 * 8 * len(payload) / rows.size)  # D(R) of a Gaussian of variance 1
    assert 0 < 10 * np.log10(error / bound) < 0.75  # plain rounding: 1.53 dB
    assert error / 0.25 == pytest.approx(trellis.NOISE, rel=0.1)


def test_rows_choose_the_widths_that_fit_them() -> None:
    rows = np.concatenate([gaussian_rows(300, np.full(16, s)) for s in (1, 3, 9, 27)])
    widths = trellis.fit_widths(rows)
    assert widths.mean(1) == pytest.approx([1, 3, 9, 27], rel=0.1)
    assert (trellis.nearest_widths(rows, widths, 0.1) == np.repeat(np.arange(4), 300)).mean() > 0.99


@pytest.mark.parametrize("value", [0.0, 1e9, -1e9])
def test_extreme_numbers_are_clipped_and_not_lost(value: float) -> None:
    payload, _ = trellis.encode(np.full((3, 5), value), np.ones((1, 5)), 1.0)
    decoded = trellis.decode(payload, 3, np.ones((1, 5)), 1.0)
    assert np.abs(decoded).max() <= trellis.LIMIT and (np.sign(decoded.round()) == np.sign(value)).all()
