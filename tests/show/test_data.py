"""The figures of notebook 1 show the numbers that they are given."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from helpers.show.data import bars_plot, channel_histograms, counts_plot, spectrum_plot


def test_histograms_are_shares_of_the_levels() -> None:
    images = np.zeros((2, 32, 32, 3), np.uint8)
    images[0, ..., 1] = 7  # green: half of the values are 7
    (axis,) = channel_histograms(images).axes
    red, green, blue = (line.get_ydata() for line in axis.lines)
    assert red[0] == blue[0] == 1 and green[7] == green[0] == 0.5 and green.sum() == 1
    plt.close("all")


def test_bars_are_as_long_as_their_numbers() -> None:
    counts = {name: np.array([n, 2 * n]) for name, n in (("train", 30), ("validation", 4), ("test", 5))}
    figure = counts_plot(counts, ["cat", "dog"])
    assert [bar.get_height() for bar in figure.axes[0].patches] == [30, 60, 4, 8, 5, 10]
    many = counts_plot({name: np.ones(200, int) for name in counts}, [f"class {i}" for i in range(200)])
    assert [label.get_text() for label in many.axes[0].get_xticklabels()] == [f"class {i}" for i in range(0, 200, 10)]
    (axis,) = bars_plot({"PNG": 5.87, "WebP": 4.71}, "bits").axes
    assert [bar.get_width() for bar in axis.patches] == [5.87, 4.71] and axis.get_xlabel() == "bits"
    plt.close("all")


def test_the_spectrum_shows_what_components_leave_over() -> None:
    above, below = spectrum_plot(np.array([0.5, 0.3, 0.2]), [8, 16], [20.0, 22.0]).axes
    assert above.lines[0].get_ydata() == pytest.approx([0.5, 0.2]) and list(below.lines[0].get_ydata()) == [20, 22]
    plt.close("all")
