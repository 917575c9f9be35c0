"""The figures of notebook 4 show the rows that they are given."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from helpers.measure.metrics import Estimate
from helpers.measure.rows import Table, matrix, rows_of, vector
from helpers.show import evaluation

ROWS = [
    *rows_of("spectrum", "vae", "test", vector("image", torch.tensor([[4.0, 2.0, 1.0]] * 2)), 2),
    *rows_of("spectrum", "vae", "test", vector("error", torch.tensor([[1.0, 1.0, 1.0]] * 2)), 2),
    *rows_of("gaps", "vae", "train_minus_test", {"ssim": Estimate(0.1, 0.02)}, 10),
    *rows_of("gaps", "vae", "train_minus_validation", {"ssim": Estimate(0.2, 0.02)}, 10),
    *rows_of("corruptions", "vae", "test", {"accuracy": Estimate(0.9), "psnr_clean": Estimate(25.0)}, 10, "clean."),
]
for step in (1, 3, 5):
    PLACE = f"contrast.severity_{step}."
    QUALITY = {"accuracy": Estimate(0.9 - 0.1 * step), "psnr_clean": Estimate(25.0 - step)}
    ROWS += rows_of("corruptions", "vae", "test", QUALITY, 10, PLACE)
    ROWS += rows_of("corruptions", "input", "test", {"psnr_clean": Estimate(30.0 - step)}, 10, PLACE)
for name, psnr, f1 in (("cat", 24.0, 0.7), ("ship", 26.0, 0.9)):
    CLASS = {"psnr_mean": Estimate(psnr, 0.1), "f1": Estimate(f1, 0.01)}
    ROWS += rows_of("by_class", "vae", "test", CLASS, 10, f"{name}.")
for head in ("features", "code"):
    for suffix in ("", "_scaled"):
        BINS = matrix(f"bins{suffix}", torch.tensor([[0.5, 0.4, 0.5], [0.5, 0.8, 0.9]]))
        ROWS += rows_of("calibration", "vae", "test", BINS | {f"ece{suffix}": Estimate(0.05)}, 10, f"{head}.")
for name in ("test", "constant"):
    AREAS = {} if name == "test" else {"auroc_elbo": Estimate(0.12), "auroc_typicality": Estimate(0.8)}
    ROWS += rows_of("out_of_distribution", "vae", "test", AREAS | {"bpd": Estimate(6.0)}, 10, f"{name}.")
TABLE = Table(ROWS)


def drawn(figure: Figure, panel: int) -> dict[str, list[float]]:
    """The heights of the labelled lines of a panel."""
    return {line.get_label(): list(line.get_ydata()) for line in figure.axes[panel].lines}


def test_the_lost_power_is_error_over_image() -> None:
    figure = evaluation.frequency_plot(TABLE)
    assert drawn(figure, 0)["error, VAE"] == [1, 1, 1] and drawn(figure, 1)["VAE"] == [0.25, 0.5, 1]


def test_severity_zero_is_the_clean_image_and_the_input_has_none() -> None:
    figure = evaluation.corruption_plot(TABLE)
    assert drawn(figure, 0)["VAE"] == pytest.approx([90, 80, 60, 40])
    assert drawn(figure, 1) == {"VAE": [25, 24, 22, 20], "no model": [29, 27, 25]}
    assert [list(line.get_xdata()) for line in figure.axes[1].lines] == [[0, 1, 3, 5], [1, 3, 5]]


def test_tables_and_scatter_show_their_rows() -> None:
    assert "| ssim | +0.1000 ± 0.0200 | +5.0 | +0.2000 ± 0.0200 |" in evaluation.gap_rows(TABLE, ["ssim"])
    heat = evaluation.auroc_plot(TABLE).axes[0]
    assert [text.get_text() for text in heat.texts] == ["0.12", "0.80"]
    assert [label.get_text() for label in heat.get_yticklabels()] == ["constant"]
    assert {text.get_text() for text in evaluation.class_plot(TABLE).axes[0].texts} == {"cat", "ship"}
    left, right = evaluation.reliability_plot(TABLE).axes
    assert list(left.lines[1].get_ydata()) == pytest.approx([0.5, 0.9]) and "ECE 5.0 %" in right.lines[2].get_label()


def test_the_regression_line_is_the_one_given() -> None:
    line = {"slope": 0.5, "intercept": 0.25, "pixel_r2": 0.75, "rmse": 0.25}
    axis = evaluation.regression_plot(np.eye(4), line, "test").axes[0]
    assert list(axis.lines[1].get_ydata()) == pytest.approx([0.25, 0.75])
    assert "0.500 x + 0.250" in axis.texts[0].get_text()


def test_two_hundred_classes_of_one_image_each_are_drawn_and_those_named_that_stand_out() -> None:
    names, rows = [f"class {i}" for i in range(200)], []
    for i, name in enumerate(names):
        numbers = {"psnr_mean": Estimate(20 + i / 100), "f1": Estimate(i / 200)}  # of one image: no error is known
        rows += rows_of("by_class", "vae", "test", numbers, 1, f"{name}.")
    axis = evaluation.class_plot(Table(rows)).axes[0]
    assert len(axis.containers) == 200
    assert {text.get_text() for text in axis.texts} == {*names[:5], *names[-5:]}
    heat = evaluation.confusion_plot(np.eye(200, dtype=int), names).axes[0]
    assert [label.get_text() for label in heat.get_yticklabels()] == names[::10] and not heat.texts
    small = evaluation.confusion_plot(np.eye(2, dtype=int), names[:2]).axes[0]
    assert [text.get_text() for text in small.texts] == ["1", "0", "0", "1"]
