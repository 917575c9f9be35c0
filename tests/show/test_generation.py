"""The figure of the peers in notebook 5 has a bar for each number that there is."""

import matplotlib.pyplot as plt

from helpers.show.generation import peers_plot


def test_a_model_without_a_number_has_no_bar_in_that_panel() -> None:
    figure = peers_plot({"PSNR": {"ours": 24.0, "theirs": 22.0}, "rate": {"ours": 300.0}})
    first, second = figure.axes[:2]
    assert [bar.get_width() for bar in first.patches] == [24.0, 22.0]
    assert [bar.get_width() for bar in second.patches] == [300.0]
    assert [label.get_text() for label in first.get_yticklabels()] == ["ours", "theirs"]
    plt.close("all")
