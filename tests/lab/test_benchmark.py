"""How fast training is: timed."""

import os

from helpers.data import Dataset
from helpers.lab.benchmark import alone, our_speed
from helpers.settings import Settings


def test_our_loop_is_timed_after_an_epoch_to_warm_up_and_a_process_of_its_own_is_there(
    tiny: Settings, photos: Dataset
) -> None:
    assert our_speed(tiny.replace(batch_size=50), photos, steps=2) > 0
    assert alone(os.getpid) != os.getpid()
