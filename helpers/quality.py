"""What a file of the codec holds, by the quality that is asked for. All numbers were chosen on validation images."""

from typing import NamedTuple

from .engine import UserError
from .engine.vaec import DETAIL, PIXELS, RESTORED
from .pixelcoder import LARGEST_STEP

CODE_ALONE, FROM_PIXELS = 30, 60  # qualities: up to the first a file is a code alone, from the second pixels alone
CODE_BEFORE_DETAIL = 0.6  # fineness
DETAIL_STEPS, PIXEL_STEP = (20, 150), 14  # levels: of the finest and coarsest detail, and of the coarsest pixels
PRICE = 0.07  # of a bit, in squared steps: what a bit may save of squared error


class Plan(NamedTuple):
    """What a file holds: a code of some fineness (0: none), and a rest of some kind (see vaec) and step (0: none)."""

    fineness: float
    step: int = 0
    kind: int = PIXELS

    @classmethod
    def of(cls, quality: float = 100.0, *, max_error: int | None = None, preview: bool = False) -> "Plan":
        """For a quality from 0 to 100 (100: every bit), or for a largest error of any value; UserError: out of range.

        `preview` puts a code before the pixels, although the file would be shorter without it.
        """
        if not 0 <= quality <= 100:
            raise UserError(f"quality={quality:g} must lie between 0 and 100")
        if max_error is not None and not 0 <= 2 * max_error < LARGEST_STEP:
            raise UserError(f"max_error={max_error} must lie between 0 and {(LARGEST_STEP - 1) // 2}")
        if max_error is not None or quality == 100:
            return cls(float(preview), 2 * (max_error or 0) + 1)
        if quality >= FROM_PIXELS:
            share = (100 - quality) / (100 - FROM_PIXELS)
            return cls(float(preview), max(2, round(PIXEL_STEP**share)), RESTORED)
        if quality > CODE_ALONE:
            share = (FROM_PIXELS - quality) / (FROM_PIXELS - CODE_ALONE)
            return cls(CODE_BEFORE_DETAIL, round(DETAIL_STEPS[0] ** (1 - share) * DETAIL_STEPS[1] ** share), DETAIL)
        return cls(CODE_BEFORE_DETAIL * 5 ** (quality / CODE_ALONE - 1))
