"""Images <-> bytes with the network of `pixelcoder`, in exact arithmetic: what one machine writes, every other reads.

Pixels with equal x + 4 y do not see each other; they are coded together, of hundreds of images at once. A value is
written as the number of its bin, one binary decision after the other from the highest bit, each with the probability
that the mixture gives it, by a range coder [Martin 1979; Bamler, constriction, 2022].
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import constriction
import numpy as np
import torch
from torch import Tensor, nn

from .engine import UserError
from .engine.exact import ACTIVATION_BITS, exact_copy, sigmoid, snap, table

from .pixelcoder import (  # isort: skip
    AROUND, BEFORE, CENTRE, NEAR, REACH, UNIT, Mixture, PixelNet, bins, centred, middle, situation, step_feature,
    views, without_mean,
)  # fmt: skip

Bits = Callable[[Tensor, Tensor | None], Tensor]  # probabilities of a 1, and the bits where they are known -> bits
WEIGHT, MASS = 20, 24  # bits of a mixture's weights, and of probabilities
BEYOND = (
    2**22
)  # decisions that may be read after the last bytes: the coder still holds 64 bits, of many nearly sure ones
TOGETHER = 2**19  # pixels of the images that are coded together: what they need lies in the caches of a processor
STRIP, MARGIN = 2**16, 4  # pixels that are restored at a time, and the rows that they see beyond them
FINE, WIDEST = 2048, 16  # the logistic function is tabulated at multiples of 1 / FINE up to +-WIDEST
FARTHEST = 64  # of means and coupling, in the unit of the network, in which all levels lie between -4 and 4
SPARE = 13  # 2^-13 of the mass is shared by all bins: no value is impossible, and none costs less than about 2^-13 bits
BERNOULLI = constriction.stream.model.Bernoulli(perfect=False)
SIGMOID = table(sigmoid, -WIDEST, WIDEST, FINE, MASS) * 2**MASS
SIGMOID[0], SIGMOID[-1] = 0, 2**MASS  # the tails
EXPONENTIAL = table(lambda x: math.exp(-x), 0, 16, 256, WEIGHT) * 2**WEIGHT
INVERSE_SCALE = table(lambda x: math.exp(-x), -6, 4, 64, ACTIVATION_BITS)


class BitWriter:
    """Bits -> bytes."""

    def __init__(self) -> None:
        self.coder = constriction.stream.queue.RangeEncoder()

    def __call__(self, ones: Tensor, bits: Tensor | None) -> Tensor:
        """Append bits (n,), each with its probability of being 1."""
        assert bits is not None
        self.coder.encode(bits.int().numpy(), BERNOULLI, ones.float().numpy())
        return bits

    def content(self) -> bytes:
        """What was written so far."""
        return self.coder.get_compressed().astype("<u4").tobytes()


class BitReader:
    """Bytes -> bits. Raises ValueError when more is read than the bytes can have held."""

    def __init__(self, content: bytes) -> None:
        self.coder = constriction.stream.queue.RangeDecoder(np.frombuffer(content, "<u4").astype(np.uint32))
        self.beyond = 0

    def __call__(self, ones: Tensor, bits: Tensor | None) -> Tensor:
        """The next bits (n,)."""
        found = torch.from_numpy(self.coder.decode(BERNOULLI, ones.float().numpy())).bool()
        if self.coder.maybe_exhausted():  # as it is before the last bits, which the coder holds already
            self.beyond += len(found)
            if self.beyond > BEYOND:
                raise ValueError("bytes are missing")
        return found


class Pixel:
    """A mixture in exact numbers, (K, n), and what is known of n pixels while their channels are coded."""

    def __init__(self, mixture: Mixture, step: int, price: float) -> None:
        self.step, self.price = torch.tensor(float(step), dtype=torch.float64), price
        self.last = (254 + step) // step  # the number of the last bin, at most
        logits, self.means, log_scales, self.coupling = (part.movedim(0, -1).contiguous() for part in mixture)
        if logits.numel() and max(self.means.abs().max(), self.coupling.abs().max()) > FARTHEST:
            raise UserError("numbers inside the network are too large to be exact; these weights cannot code pixels")
        self.weights = EXPONENTIAL.take(((logits.amax(0) - logits) * 256).floor_().clamp_(0, 16 * 256).long())
        self.inverse = INVERSE_SCALE.take(((log_scales.clamp(-6, 4) + 6) * 64).floor_().long())
        self.surprises: list[Tensor] = []

    def channel(self, number: int, code: Bits, values: Tensor | None) -> Tensor:
        """Code one channel of the pixels, values (n,) when they are known; what is kept of it, (n,)."""
        means = self.means[number]
        for before, surprise in enumerate(self.surprises):
            means = means + snap(self.coupling[number - 1 + before] * surprise)
        expected = (self.weights * means).sum(0) / self.weights.sum(0).clamp_min_(1) * UNIT + CENTRE
        shift = centred(torch.floor(expected + 0.5).clamp_(0, 255), self.step)
        below = Below(means, self.inverse[number], shift, self.step)
        wanted = None if values is None else self.chosen(values, shift, below)
        bin_number = self.decisions(code, below, wanted)
        kept = middle(bin_number, shift, self.step)
        self.surprises.append((kept - CENTRE) / UNIT - means)
        likelier = below.mass(bin_number).mul_(self.weights)
        self.weights = (likelier / likelier.amax(0).clamp_min_(1)).mul_(2**WEIGHT).floor_()
        return kept

    def decisions(self, code: Bits, below: "Below", wanted: Tensor | None) -> Tensor:
        """The number of the bin, (n,), bit by bit."""
        floor, first = self.floor(), torch.zeros_like(below.last)
        low, high = torch.zeros_like(first), self.weights.sum(0) * 2**MASS  # the masses below two edges
        for size in (2.0**power for power in reversed(range(self.last.bit_length()))):
            half = first + size
            edge = below(half).mul_(self.weights).sum(0)
            ones = torch.add(high - edge, floor, alpha=size) / torch.add(high - low, floor, alpha=2 * size)
            bit = code(ones, None if wanted is None else wanted >= half)
            first = torch.where(bit, half, first)
            low, high = torch.where(bit, edge, low), torch.where(bit, high, edge)
        return first

    def floor(self) -> Tensor:
        """What every bin has beside its mass, (n,)."""
        return (self.weights.sum(0) * (2 ** (MASS - SPARE) / (self.last + 1))).floor_().clamp_min_(1)

    def chosen(self, values: Tensor, shift: Tensor, below: "Below") -> Tensor:
        """The bin of each value (n,); at a `price` a neighbour of it, when that saves more bits than it costs."""
        best = nearest = bins(values, shift, self.step)
        least = torch.full_like(nearest, torch.inf)
        for number in (nearest - 1, nearest, nearest + 1) if self.price else ():
            mass = (self.weights * below.mass(number)).sum(0) + self.floor()
            error = (middle(number, shift, self.step) - values).square()
            cost = error - self.price * self.step**2 * torch.log2(mass)
            better = (cost < least) & (number >= 0) & (number <= below.last)
            best, least = torch.where(better, number, best), torch.where(better, cost, least)
        return best


class Below:
    """The distribution functions of logistics (K, n) at the lower edges of bins, in units of 2^-24."""

    def __init__(self, means: Tensor, inverse: Tensor, shift: Tensor, step: Tensor) -> None:
        self.last = bins(torch.tensor(255.0), shift, step)
        self.slope = inverse * (step * FINE / UNIT)
        self.start = inverse * FINE * ((-shift - 0.5 - CENTRE) / UNIT - means) + WIDEST * FINE

    def __call__(self, number: Tensor) -> Tensor:
        """At the lower edges of the bins `number` (n,), of which 0 has none; beyond the last bin all is below."""
        place = torch.addcmul(self.start, self.slope, number).clamp_(0, 2 * WIDEST * FINE)
        return SIGMOID.take(place.masked_fill_(number > self.last, 2 * WIDEST * FINE).long())

    def mass(self, number: Tensor) -> Tensor:
        """In the bins `number`, (K, n)."""
        return self(number + 1) - self(number).masked_fill_(number <= 0, 0)


def wavefront(height: int, width: int) -> list[tuple[Tensor, Tensor]]:
    """The rows and columns of the pixels that are coded together, in turn."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    turn = (columns + (REACH + 1) * rows).flatten()
    order = turn.argsort(stable=True)
    counts = torch.bincount(turn).tolist()
    return list(zip(rows.flatten()[order].split(counts), columns.flatten()[order].split(counts), strict=True))


class ResidualCoder:
    """`compress` and `decompress`: levels (n, h, w, 3) in coding order <-> bytes."""

    def __init__(self, network: PixelNet) -> None:
        self.exact = {True: exact_copy(network), False: exact_copy(without_mean(network))}
        self.restorer = self.exact[True].restorer

    def compress(self, levels: Tensor, step: int, mean: Tensor | None, price: float = 0.0) -> tuple[bytes, Tensor]:
        """The bytes, and the levels that `decompress` will give."""
        writer = BitWriter()
        kept = self.walk(writer, levels.shape, step, mean, levels, price)
        return writer.content(), kept

    def decompress(self, content: bytes, shape: tuple[int, ...], step: int, mean: Tensor | None) -> Tensor:
        """Levels (n, h, w, 3). Raises ValueError when no levels have these bytes."""
        try:
            return self.walk(BitReader(content), shape, step, mean)
        except AssertionError as error:
            raise ValueError(f"no pixels have these bytes ({error})") from None

    @torch.inference_mode()
    def walk(
        self, code: Bits, shape: Any, step: int, mean: Tensor | None, levels: Tensor | None = None, price: float = 0.0
    ) -> Tensor:
        """Go through all pixels of some images after the other and code their channels; what is kept of them."""
        n, height, width, _ = shape
        size, turns = max(1, TOGETHER // (height * width)), wavefront(height, width)
        kept = torch.empty(tuple(shape))
        for start in range(0, n, size):
            group = slice(start, min(n, start + size))
            canvas = Canvas(torch.full_like(kept[group], CENTRE), REACH)
            seen = self.seen(canvas, step, None if mean is None else mean[group].float())
            for rows, columns in turns:
                pixel = Pixel(seen(rows, columns), step, price)
                for channel in range(3):
                    known = None if levels is None else levels[group, rows, columns, channel].flatten().double()
                    canvas.put(rows, columns, channel, pixel.channel(channel, code, known))
            kept[group] = canvas.levels()
        return kept

    def seen(self, canvas: "Canvas", step: int, mean: Tensor | None) -> Callable[[Tensor, Tensor], Mixture]:
        """What the network says of pixels, by rows and columns, from what the canvas has at that moment."""
        network, told = self.exact[mean is not None], step_feature(torch.tensor([step])).item()
        around, places = None if mean is None else Canvas(mean, AROUND), situation(*canvas.size)

        def mixture(rows: Tensor, columns: Tensor) -> Mixture:
            near = canvas.windows(rows, columns, BEFORE)
            known = torch.tensor([[told, float(mean is not None)]]).expand(len(near), 2)
            parts = [near, places[rows, columns].repeat(len(near) // len(rows), 1), known]
            if around is not None:
                parts.append(around.windows(rows, columns, NEAR))
            return network.mixture(torch.cat(parts, 1).double())

        return mixture

    @torch.no_grad()
    def restored(self, kept: Tensor, step: int, mean: Tensor | None) -> Tensor:
        """Kept levels (n, h, w, 3) -> likelier ones at most half a step away: each pixel is seen from all sides."""
        n, height, width, _ = kept.shape
        result, size, rows = kept.clone(), max(1, STRIP // (height * width)), max(2 * MARGIN, STRIP // width)
        for start, top in itertools.product(range(0, n, size), range(0, height, rows)):
            images, first = slice(start, start + size), max(0, top - MARGIN)
            seen = [part[images, first : top + rows + MARGIN] for part in (kept, kept if mean is None else mean)]
            steps = torch.full((len(seen[0]),), step)
            view = views(seen[0], seen[1], steps, torch.full_like(steps, mean is not None, dtype=torch.bool))
            lacking = self.restorer(view.double())[:, :, top - first :][:, :, :rows]
            change = torch.floor(lacking * step + 0.5).clamp(-(step // 2), step // 2)
            result[images, top : top + rows] += change.permute(0, 2, 3, 1)
        return result.clamp(0, 255)


class Canvas:
    """Levels (n, h, w, 3) with grey around them, in the network's unit."""

    def __init__(self, levels: Tensor, reach: int) -> None:
        self.reach, self.size = reach, levels.shape[1:3]
        self.values = nn.functional.pad((levels - CENTRE) / UNIT, (0, 0, reach, reach, reach, reach))
        self.flat = self.values.flatten(1, 2)

    def windows(self, rows: Tensor, columns: Tensor, offsets: list[tuple[int, int]]) -> Tensor:
        """The neighbours of the pixels at `rows` and `columns` of every image, (n pixels, 3 len(offsets))."""
        near = torch.tensor(offsets) + self.reach
        places = (rows[:, None] + near[:, 0]) * self.values.shape[2] + columns[:, None] + near[:, 1]
        return self.flat[:, places.flatten()].view(len(self.flat) * len(rows), -1)

    def put(self, rows: Tensor, columns: Tensor, channel: int, levels: Tensor) -> None:
        """Set one channel of these pixels, levels (n pixels,)."""
        values = ((levels - CENTRE) / UNIT).float().view(len(self.flat), -1)
        self.values[:, rows + self.reach, columns + self.reach, channel] = values

    def levels(self) -> Tensor:
        """What lies inside the margin."""
        inside = slice(self.reach, -self.reach)
        return self.values[:, inside, inside] * UNIT + CENTRE
