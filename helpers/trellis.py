"""Real numbers <-> bytes: trellis-coded quantisation, then a range coder [Bamler 2022] under Gaussian scale mixtures.

Rounding every number alone wastes a quarter of a bit of each, because cubes fill space badly. A trellis rounds a whole
row together: two quantisers, half a step apart, take turns by the parities of the symbols so far. The encoder searches
the best path (Viterbi), the decoder follows it. That gains 0.8 of the 1.5 dB that any quantiser could gain [Marcellin &
Fischer, Trellis coded quantization, 1990; states of JPEG 2000]. Rows (images) differ in contrast more than one Gaussian
allows, so each names one of a few sets of widths [Wainwright & Simoncelli, Scale mixtures of Gaussians, NIPS 1999].
"""

import constriction
import numpy as np
import torch

Uniform, QuantizedGaussian = constriction.stream.model.Uniform, constriction.stream.model.QuantizedGaussian
ROWS = 2500  # quantised at a time, for their paths take memory
LIMIT = 8000  # symbols lie within +-LIMIT; larger numbers are clipped
NOISE = 1 / 14.5  # variance of the trellis quantiser's noise, in squared steps; plain rounding has 1 / 12
THINNEST = 0.5  # axes thinner than this many steps are rounded alone: one of the two quantisers has no zero
STATES = np.arange(8)  # three bits that shift to the left; the lowest names the quantiser, 1 is shifted by half a step
FLIP = (STATES >> 1 ^ STATES >> 2) & 1
BEFORE = np.stack([STATES >> 1, (STATES >> 1) + 4], 1)  # (8, 2): the two states that lead to each state
PARITY = (STATES[:, None] & 1) ^ FLIP[BEFORE]  # (8, 2): of the symbol in between
# Symbols of one parity under one quantiser are every second of its points: four subsets, at these shifts.
SUBSET_SHIFTS = np.array([0, 1, 0.5, 1.5])
SUBSET = 2 * (BEFORE & 1) + PARITY


def fit_widths(rows: np.ndarray, classes: int = 4) -> np.ndarray:
    """Standard deviations (classes, d) of rows (n, d) of mean 0, sorted by length into equally large classes."""
    length = np.square(rows / rows.std(0).clip(1e-6)).mean(1)
    parts = np.array_split(rows[np.argsort(length, kind="stable")], classes)
    return np.stack([np.sqrt(np.square(part).mean(0)).clip(1e-6) for part in parts])


def nearest_widths(rows: np.ndarray, widths: np.ndarray, noise: float) -> np.ndarray:
    """For each row (n, d) the class (n,) under whose Gaussian, widened by the noise's variance, it is likeliest."""
    variance = np.square(widths) + noise
    return (np.square(rows) @ (1 / variance).T + np.log(variance).sum(1)).argmin(1)


def in_trellis(widths: np.ndarray, step: float) -> np.ndarray:
    """Which axes (d,) the trellis rounds; only the widths decide, because encoder and decoder must agree."""
    return np.sqrt(np.square(widths).mean(0)) > THINNEST * step


def quantise(rows: np.ndarray, joint: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Rows (n, d) in units of the step -> points (n, d), symbols plus 0 or 1/2, on the best path of each row.

    The path has the least sum of weight (n, d) * squared error; `joint` (d,) says which axes the trellis rounds.
    """
    n, d = rows.shape
    cost = np.tile(np.where(STATES == 0, 0.0, np.inf), (n, 1))  # of the best path into each state
    points, choice = np.empty((d, n, 4), np.float32), np.empty((d, n, 8), np.int8)
    path, axes = rows.round(), np.flatnonzero(joint)
    for axis in axes:
        x = rows[:, axis, None]
        points[axis] = 2 * ((x - SUBSET_SHIFTS) / 2).round() + SUBSET_SHIFTS
        error = weight[:, axis, None] * np.square(points[axis] - x)
        reached = cost[:, BEFORE] + error[:, SUBSET]  # (n, 8 states, 2 ways into each)
        choice[axis] = reached[..., 1] < reached[..., 0]
        cost = reached.min(2)
    state, every = cost.argmin(1), np.arange(n)
    for axis in reversed(axes):
        way = choice[axis, every, state]
        path[:, axis] = points[axis, every, SUBSET[state, way]]
        state = BEFORE[state, way]
    return path


def encode(rows: np.ndarray, widths: np.ndarray, step: float) -> tuple[bytes, float]:
    """Rows (n, d) under Gaussians of `widths` (classes, d) -> (payload, -log2 of the probabilities of all symbols)."""
    if not len(rows):
        return b"", 0.0
    chosen = nearest_widths(rows, widths, step**2 * NOISE)
    ideal, joint, parts = len(rows) * float(np.log2(len(widths))), in_trellis(widths, step), []
    for first in range(0, len(rows), ROWS):
        scale = (widths / step)[chosen[first : first + ROWS]]
        # The bits of a point p grow as p^2, so error and bits together are (p - x)^2 + price p^2. That is least where
        # (1 + price) (p - x / (1 + price))^2 is least: x is shrunk, then rounded with a weight.
        price = NOISE / np.square(scale)
        target = (rows[first : first + ROWS] / step / (1 + price)).clip(2 - LIMIT, LIMIT - 2)
        parts.append(quantise(target, joint, 1 + price))
        a, s = torch.from_numpy(parts[-1]).abs(), torch.from_numpy(scale)
        likelihood = torch.special.ndtr((0.5 - a) / s) - torch.special.ndtr((-0.5 - a) / s)  # the left tail is exact
        ideal -= likelihood.clamp_min(2.0**-24).log2().sum().item()  # the coder's probabilities have 24 bits
    points = np.concatenate(parts).T
    symbols = np.floor(points)
    coder = constriction.stream.queue.RangeEncoder()
    if len(widths) > 1:
        coder.encode(chosen.astype(np.int32), Uniform(len(widths)))
    for symbol, point, width in zip(symbols, points, (widths / step).T, strict=True):  # one axis of all rows at a time
        coder.encode(symbol.astype(np.int32), QuantizedGaussian(-LIMIT, LIMIT), symbol - point, width[chosen])
    return coder.get_compressed().astype("<u4").tobytes(), ideal


def decode(payload: bytes, n: int, widths: np.ndarray, step: float) -> np.ndarray:
    """The inverse: the chosen points times the step, (n, d). Raises ValueError when no rows have these bytes."""
    state, rows = np.zeros(n, np.int64), np.empty((n, widths.shape[1]))
    if not n:
        return rows
    try:
        coder = constriction.stream.queue.RangeDecoder(np.frombuffer(payload, "<u4").astype(np.uint32))
        chosen = coder.decode(Uniform(len(widths)), n) if len(widths) > 1 else np.zeros(n, np.int64)
        for axis, joint in enumerate(in_trellis(widths, step)):
            shift = np.where(joint, (state & 1) / 2, 0.0)
            symbol = coder.decode(QuantizedGaussian(-LIMIT, LIMIT), -shift, widths[chosen, axis] / step)
            rows[:, axis] = step * (symbol + shift)
            if joint:
                state = (2 * state + ((symbol & 1) ^ FLIP[state])) & 7
    except AssertionError as error:
        raise ValueError(f"no symbols have these bytes ({error})") from None
    return rows
