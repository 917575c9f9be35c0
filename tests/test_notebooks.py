"""The form of the notebooks, what their executed copies leave, the live plot and its cost."""

import ast
import importlib.util
import io
import re
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from PIL import Image

from helpers.config import ROOT, Settings
from helpers.data import Dataset, to_unit
from helpers.models import build_model
from helpers.runs.pipeline import PROMISED, declared_parameters, notebook_path
from helpers.show import figures
from helpers.show.live import LiveTraining, progress, waiting, with_bar
from helpers.storage import Record
from helpers.training import Trainer, fit

NOTEBOOKS = [notebook_path(name) for name in PROMISED]
LESSONS = NOTEBOOKS[:6]  # the last one has sliders instead


def cells(path: Path, kind: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def lines(cell: nbformat.NotebookNode) -> list[str]:
    return [line for line in cell.source.splitlines() if line.strip()]


def pairs(path: Path) -> Iterator[tuple[nbformat.NotebookNode, nbformat.NotebookNode]]:
    """Every cell with the one after it."""
    everything = nbformat.read(path, as_version=4).cells
    return zip(everything, everything[1:], strict=False)


def computed(source: str) -> int:
    """How many numbers of this run a cell puts into what it says."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    said = [call for call in calls if getattr(call.func, "id", "") == "say"]
    parts = [part for call in said for argument in call.args for part in ast.walk(argument)]
    return sum(isinstance(part, ast.FormattedValue | ast.Name) for part in parts)


def test_every_notebook_is_part_of_the_pipeline() -> None:
    assert sorted((ROOT / "notebooks").glob("*.ipynb")) == NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestForm:
    def test_sources_hold_no_outputs(self, path: Path) -> None:
        assert all(not cell.outputs and cell.execution_count is None for cell in cells(path, "code"))

    def test_one_parameters_cell_of_literals(self, path: Path) -> None:
        tagged = [cell for cell in cells(path, "code") if "parameters" in cell.metadata.get("tags", [])]
        assert len(tagged) == 1 and set(declared_parameters(path)) >= {"profile", "dataset", "out"}
        assert all(isinstance(node, ast.Assign) for node in ast.parse(tagged[0].source).body)

    def test_code_is_short_and_explained(self, path: Path) -> None:
        code = cells(path, "code")
        sizes = [len(lines(cell)) for cell in code]
        assert max(sizes) <= 20 and statistics.median(sizes) <= 8
        for before, cell in pairs(path):
            assert cell.cell_type != "code" or before.cell_type == "markdown", cell.source
        words = sum(len(cell.source.split()) for cell in cells(path, "markdown"))
        assert words >= 10 * sum(sizes)

    def test_it_opens_and_closes_as_every_notebook_does(self, path: Path) -> None:
        first, *_, last = cells(path, "markdown")
        number = int(path.stem[:2])
        assert first.source.startswith(f"# {number} · ") and first.source.split("\n")[2].startswith("*")
        for word in ("**You will**", "**Time**", "CPU", "**Reads**", "**Writes**"):
            assert word in first.source
        text = "\n".join(cell.source for cell in cells(path, "markdown"))
        for part in ("## What you learnt", "**Check yourself.**", "## Exercises"):
            assert part in text
        assert "redict" in text and "## Exercises" in last.source

    def test_it_links_to_its_neighbours(self, path: Path) -> None:
        opening = cells(path, "markdown")[0].source
        place = NOTEBOOKS.index(path)
        for neighbour in NOTEBOOKS[max(0, place - 1) : place] + NOTEBOOKS[place + 1 : place + 2]:
            assert f"]({neighbour.name})" in opening
        for link in re.findall(r"\]\((\w+\.ipynb)\)", opening):
            assert (path.parent / link).is_file(), link

    def test_every_import_can_be_resolved(self, path: Path) -> None:
        for cell in cells(path, "code"):
            for node in ast.walk(ast.parse(cell.source)):
                if isinstance(node, ast.ImportFrom):
                    module = importlib.import_module(node.module)
                    assert all(hasattr(module, name.name) for name in node.names), node.module
                elif isinstance(node, ast.Import):
                    assert all(importlib.util.find_spec(name.name) for name in node.names)


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
class TestLesson:
    def test_a_figure_is_followed_by_a_number_of_this_run_and_by_words(self, path: Path) -> None:
        for cell, after in pairs(path):
            if cell.cell_type == "code" and re.search(r"^\s*save\(", cell.source, re.M):
                said = cell.source[cell.source.rindex("save(") :]
                assert "say(" in said and computed(cell.source), cell.source
                assert after.cell_type == "markdown" and len(after.source.split()) > 10, cell.source

    def test_what_was_learnt_has_numbers_of_this_run(self, path: Path) -> None:
        following = [cell for before, cell in pairs(path) if "## What you learnt" in before.source]
        assert len(following) == 1 and following[0].cell_type == "code" and computed(following[0].source) >= 4

    def test_every_exercise_says_what_to_expect(self, path: Path) -> None:
        exercises = cells(path, "markdown")[-1].source.partition("## Exercises")[2]
        found = re.findall(r"^\d\. .+$", exercises, re.M)
        assert 2 <= len(found) <= 4 and all("xpect" in exercise for exercise in found)

    def test_one_failure_is_shown_on_purpose_and_caught(self, path: Path) -> None:
        text = "\n".join(cell.source for cell in cells(path, "markdown"))
        failures = len(re.findall(r"^## Break it: ", text, re.M))
        assert failures == (0 if path == NOTEBOOKS[0] else 1)
        assert text.count("**What catches it") == failures


def test_only_evaluation_reads_the_test_split_of_a_trained_model() -> None:
    assert "data.test" not in "".join(cell.source for cell in cells(notebook_path("03_vae_training"), "code"))
    for module in ("training", "models", "losses"):
        assert ".test" not in (ROOT / "helpers" / f"{module}.py").read_text()


# --- executed notebooks -----------------------------------------------------------------------------------------


def outputs(path: Path) -> list[tuple[nbformat.NotebookNode, list[nbformat.NotebookNode]]]:
    return [(cell, cell.outputs) for cell in cells(path, "code")]


def test_the_live_plot_leaves_exactly_one_picture(smoke: Path) -> None:
    for name in ("02_autoencoder", "03_vae_training"):
        found = [o for cell, o in outputs(smoke / "notebooks" / f"{name}.ipynb") if "with LiveTraining" in cell.source]
        assert len(found) == 1
        assert sum("image/png" in output.get("data", {}) for output in found[0]) == 1
        assert any("epoch 2" in str(output.metadata) for output in found[0] if output.output_type == "display_data")
        assert any("100%" in output.get("text", "") for output in found[0]), "the bar's last line is kept"


def test_a_cell_that_takes_long_says_something_meanwhile(smoke: Path) -> None:
    for path in (smoke / "notebooks").glob("*.ipynb"):
        for cell, found in outputs(path):
            if (cell.metadata.papermill.duration or 0) > 10:
                assert any(o.output_type == "stream" for o in found) or "begin(" in cell.source, cell.source


def test_executed_notebooks_are_small_enough_to_be_committed(smoke: Path) -> None:
    for path in (smoke / "notebooks").glob("*.ipynb"):
        assert path.stat().st_size < 1.5e6, path.name


# --- figures ----------------------------------------------------------------------------------------------------


def test_every_figure_fits_a_phone(smoke: Path) -> None:
    for path in smoke.glob("*.png"):
        assert Image.open(path).width <= 8 * figures.DPI, path.name


def test_grids_enlarge_every_pixel_alike() -> None:
    image = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3), dtype=np.uint8)
    row = figures.enlarged_row(image, 4, 3 * 32 * 4 + 16)
    assert row.shape == (128, 400, 3)
    assert (row[:, :128].reshape(32, 4, 32, 4, 3) == image[0][:, None, :, None]).all()
    picture = np.asarray(Image.open(io.BytesIO(figures.render(figures.image_rows({"a": image})))).convert("RGB"))
    colours = {tuple(colour) for colour in picture.reshape(-1, 3)}
    assert {tuple(colour) for colour in image.reshape(-1, 3)} <= colours, "no pixel is blended with its neighbour"


def test_the_lighter_copy_looks_the_same() -> None:
    rows = {"noise": np.random.default_rng(0).integers(100, 140, (8, 32, 32, 3), dtype=np.uint8)}
    png = figures.render(figures.image_rows(rows))
    light = figures.lighter(png)
    before, after = (np.asarray(Image.open(io.BytesIO(p)).convert("RGB")).astype(int) for p in (png, light))
    assert len(light) < 0.6 * len(png) and before.shape == after.shape and np.abs(before - after).mean() < 6


# --- the live plot and the bars ---------------------------------------------------------------------------------


def fixed_images(data: Dataset) -> torch.Tensor:
    return to_unit(data.validation.images[:8])


def watch(data: Dataset, every: float = 1.0) -> LiveTraining:
    x = fixed_images(data)

    def reconstruct(model: torch.nn.Module) -> np.ndarray:
        with torch.no_grad():
            return figures.pixels(model.eval().decode(model.code(x)))

    return LiveTraining(figures.pixels(x), reconstruct, every)


def test_drawing_takes_less_than_a_twentieth_of_the_training(photos: Dataset, tiny: Settings) -> None:
    started, epochs = time.monotonic(), 0
    with watch(photos) as live:
        trainer = Trainer(build_model(tiny, 10), photos, tiny)
        # Beyond its schedule: only the clock is tested, up to the moment when a third redraw is due.
        while live.redraws < 2 or time.monotonic() < live.next_at:
            record = trainer.epoch()
            if live.redraws < 2 or time.monotonic() < live.next_at:
                live(record, trainer.model)
                epochs += 1
        assert live.spent < 0.05 * (time.monotonic() - started) and live.redraws == 2
    assert len(live.records) == epochs


def test_the_plot_goes_on_after_an_interruption(photos: Dataset, tiny: Settings, tmp_path: Path) -> None:
    checkpoint, model = tmp_path / "c.safetensors", build_model(tiny, 10)
    with pytest.raises(KeyboardInterrupt), watch(photos) as live:
        for record in fit(model, photos, tiny, checkpoint, with_bar()):
            live(record, model)
            raise KeyboardInterrupt
    assert len(live.records) == 1 and live.redraws == 2, "one redraw, and the final one in spite of the interruption"
    model = build_model(tiny, 10)
    with watch(photos) as again:
        for record in fit(model, photos, tiny, checkpoint, with_bar()):
            again(record, model)
    assert [record["epoch"] for record in again.records] == [1.0, 2.0]
    assert again.records[0] == live.records[0] and again.curves["rate"]["train_"].get_xdata() == [1.0, 2.0]


def test_a_replayed_run_is_drawn_once_and_then_finally(photos: Dataset, tiny: Settings) -> None:
    record: Record = dict.fromkeys(("sigma", *(f"{s}_{n}" for s in ("train", "validation")
                                              for n in ("distortion", "rate", "accuracy"))), 0.5)  # fmt: skip
    with watch(photos) as live:
        for epoch in range(1, 31):
            live(record | {"epoch": float(epoch)}, build_model(tiny, 10) if epoch == 1 else live.model)
    assert live.redraws == 2 and "after epoch 30" in live.alt()


def test_bars_leave_a_readable_last_line(
    photos: Dataset, tiny: Settings, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert list(progress("abc", "letters")) == ["a", "b", "c"]
    with waiting("a long call"):
        pass
    list(fit(build_model(tiny, 10), photos, tiny, make_trainer=with_bar()))
    said = capsys.readouterr().out
    assert re.search(r"letters: 100%\|.*3/3", said) and "a long call: 00:0" in said
    steps = tiny.epochs * -(-tiny.n_train // tiny.batch_size)
    assert f"{steps}/{steps}" in said.splitlines()[-1]
