"""The live plot and the bars: what they show, what they cost, what an interrupted run leaves."""

import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.data import Dataset, to_unit
from helpers.run import build_model
from helpers.settings import Settings
from helpers.show.images import pixels
from helpers.show.live import PANELS, LiveTraining, progress, step_bar, waiting
from helpers.training import fit


def watch(data: Dataset) -> LiveTraining:
    x = to_unit(data.validation.images[:8])

    @torch.no_grad()
    def reconstruct(model: torch.nn.Module) -> np.ndarray:
        return pixels(model.eval().decode(model.code(x)))

    return LiveTraining(pixels(x), reconstruct)


@pytest.mark.slow
def test_drawing_takes_less_than_a_twentieth_of_the_training(photos: Dataset, tiny: Settings) -> None:
    """At every moment when it draws again. A pause stands for an epoch; a single panel is drawn soon."""
    started, epochs, model = time.monotonic(), 0, build_model(tiny, 10)
    with watch(photos) as live:
        while live.redraws < 3:
            redraws, drawing, passed = live.redraws, live.seconds_drawing, time.monotonic() - started
            epochs += 1
            live({"epoch": float(epochs), "validation_rate": 0.5}, model)
            assert live.redraws == redraws or drawing < 0.05 * passed or redraws == 0
            time.sleep(0.05)
    assert len(live.records) == epochs > 10


def test_the_plot_goes_on_after_an_interruption(photos: Dataset, tiny: Settings, tmp_path: Path) -> None:
    checkpoint, model = tmp_path / "c.safetensors", build_model(tiny, 10)
    with pytest.raises(KeyboardInterrupt), watch(photos) as live:
        for record in fit(model, photos, tiny, checkpoint, on_step=step_bar()):
            live(record, model)
            raise KeyboardInterrupt
    assert len(live.records) == 1 and live.redraws == 2, "one redraw, and the final one in spite of the interruption"
    model = build_model(tiny, 10)
    with watch(photos) as again:
        for record in fit(model, photos, tiny, checkpoint, on_step=step_bar()):
            again(record, model)
    assert [record["epoch"] for record in again.records] == [1.0, 2.0]
    assert again.records[0] == live.records[0] and list(again.lines["train_rate"].get_xdata()) == [1.0, 2.0]


@pytest.mark.parametrize("missing", ["", "rate"])
def test_a_replayed_run_is_drawn_once_and_then_finally(photos: Dataset, tiny: Settings, missing: str) -> None:
    """And only with the panels of what its records hold: an autoencoder has no rate."""
    panels = [name for name in PANELS if name != missing]
    record = dict.fromkeys(("sigma", *(f"{s}_{n}" for s in ("train", "validation") for n in panels)), 0.5)
    with watch(photos) as live:
        model = build_model(tiny, 10)
        for epoch in range(1, 31):
            live(record | {"epoch": float(epoch)}, model)
    assert live.redraws == 2 and "after epoch 30" in live.alt()
    assert len(live.figure.axes) == len(panels) + 2 and ("rate" in live.alt()) == (missing != "rate")


def test_bars_leave_a_readable_last_line(photos: Dataset, tiny: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress("abc", "letters")) == ["a", "b", "c"]
    with waiting("a long call"):
        pass
    list(fit(build_model(tiny, 10), photos, tiny, on_step=step_bar()))
    said = capsys.readouterr().out
    assert re.search(r"letters: 100%\|.*3/3", said) and "a long call: 00:0" in said
    steps = tiny.epochs * -(-tiny.n_train // tiny.batch_size)
    assert f"{steps}/{steps}" in said.splitlines()[-1]
