"""The figure of notebook 6 shows the curves that it is given."""

import matplotlib.pyplot as plt
import numpy as np

from helpers.show.compression import rate_distortion_plot


def test_measured_curves_have_markers_and_a_bound_has_none() -> None:
    bound = (list(np.linspace(10, 50, 30)), list(np.linspace(20, 25, 30)))
    (axis,) = rate_distortion_plot({"ours": ([20, 44], [21.0, 24.2]), "bound": bound}).axes
    ours, theory = axis.lines
    assert list(ours.get_xdata()) == [20, 44] and list(ours.get_ydata()) == [21.0, 24.2] and ours.get_marker() != "None"
    assert theory.get_marker() == "None" and axis.get_xscale() == "log"
    plt.close("all")
