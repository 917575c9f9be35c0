"""One knob from the smallest file to every bit, and a bound for the largest error."""

import pytest

from helpers.engine.errors import UserError
from helpers.engine.vaec import DETAIL, PIXELS, RESTORED
from helpers.quality import Plan


def test_a_higher_quality_has_finer_steps_of_a_later_kind() -> None:
    plans = [Plan.of(quality) for quality in range(101)]
    kinds = [(bool(plan.step), (DETAIL, RESTORED, PIXELS).index(plan.kind) if plan.step else 0) for plan in plans]
    assert kinds == sorted(kinds) and {plan.kind for plan in plans if plan.step} == {DETAIL, RESTORED, PIXELS}
    for before, after in zip(plans, plans[1:], strict=False):
        assert before.kind != after.kind or before.step >= after.step
        assert before.step or after.step or before.fineness < after.fineness
    assert plans[100] == Plan(0.0, 1, PIXELS)


def test_a_largest_error_is_half_an_odd_step_and_keeps_the_restorer_away() -> None:
    for error in range(16):
        assert Plan.of(max_error=error) == Plan(0.0, 2 * error + 1, PIXELS)
    assert Plan.of(max_error=3, preview=True).fineness == 1


def test_what_makes_no_sense_is_refused() -> None:
    for quality in (-1.0, 100.5, float("nan")):
        with pytest.raises(UserError, match="quality"):
            Plan.of(quality)
    for error in (-1, 16):
        with pytest.raises(UserError, match=f"max_error={error}"):
            Plan.of(max_error=error)
