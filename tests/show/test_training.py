"""The figures of notebook 3: the loss by epoch, and accuracy against PSNR."""

import matplotlib.pyplot as plt

from helpers.show.training import frontier_plot, loss_plot


def test_the_total_is_the_sum_of_the_two_terms() -> None:
    terms = {"train_distortion": 10.0, "train_rate": 2.0, "validation_distortion": 11.0, "validation_rate": 3.0}
    records = [{"epoch": float(epoch)} | {name: value / epoch for name, value in terms.items()} for epoch in (1, 2)]
    total, reconstruction, rate = loss_plot(records).axes
    assert [list(line.get_ydata()) for line in total.lines] == [[12.0, 6.0], [14.0, 7.0]]
    assert [list(line.get_ydata()) for line in reconstruction.lines] == [[10.0, 5.0], [11.0, 5.5]]
    assert [list(line.get_ydata()) for line in rate.lines] == [[2.0, 1.0], [3.0, 1.5]]
    plt.close("all")


def test_the_run_without_classifier_is_a_line_and_no_point() -> None:
    row = {"psnr_pooled": "21.5", "accuracy": "0.7", "code_accuracy": "0.6"}
    (axis,) = frontier_plot({0: row | {"psnr_pooled": "22"}, 10: row, 100: row}, [row]).axes
    labelled = {line.get_label(): line for line in axis.lines if not line.get_label().startswith("_")}
    assert list(labelled["no classifier"].get_xdata()) == [22.0, 22.0]
    assert list(labelled["from the features"].get_ydata()) == [70.0, 70.0]
    plt.close("all")
