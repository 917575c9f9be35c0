"""The form of the notebooks, and what their executed copies leave."""

import ast
import base64
import html
import importlib.util
import io
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbconvert.filters import markdown2html
from PIL import Image

from helpers.engine.files import ROOT
from helpers.publish.pipeline import declared_parameters
from helpers.publish.plan import PROMISED, notebook_path

NOTEBOOKS = [notebook_path(name) for name in PROMISED]
EXECUTED = [ROOT / "outs/exercise_03/notebooks" / path.name for path in NOTEBOOKS]
LESSONS = [path for path in NOTEBOOKS if "latent_explorer" not in path.stem]  # which has sliders instead


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
        for word in ("**You will** be able to", "**Needs**", "**Time**", "CPU", "**Reads**", "**Writes**"):
            assert word in first.source
        text = "\n".join(cell.source for cell in cells(path, "markdown"))
        for part in ("## Your turn", "## What you learnt", "**Check yourself.**", "## Go further"):
            assert part in text
        assert "redict" in text and "## Go further" in last.source

    def test_it_links_to_its_neighbours(self, path: Path) -> None:
        opening = cells(path, "markdown")[0].source
        place = NOTEBOOKS.index(path)
        for neighbour in NOTEBOOKS[max(0, place - 1) : place] + NOTEBOOKS[place + 1 : place + 2]:
            assert f"]({neighbour.name})" in opening
        for link in re.findall(r"\]\((\w+\.ipynb)\)", opening):
            assert (path.parent / link).is_file(), link

    def test_every_import_can_be_resolved_and_is_of_the_course(self, path: Path) -> None:
        for cell in cells(path, "code"):
            for node in ast.walk(ast.parse(cell.source)):
                if isinstance(node, ast.ImportFrom):
                    assert not re.match(r"helpers\.(engine|lab|publish|sources)\b", node.module), node.module
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
        exercises = cells(path, "markdown")[-1].source.partition("## Go further")[2]
        found = re.findall(r"^\d\. .+$", exercises, re.M)
        assert 2 <= len(found) <= 4 and all("xpect" in exercise for exercise in found)

    def test_one_failure_is_shown_on_purpose_and_caught(self, path: Path) -> None:
        text = "\n".join(cell.source for cell in cells(path, "markdown"))
        failures = len(re.findall(r"^## Break it: ", text, re.M))
        assert failures == (0 if path == NOTEBOOKS[0] else 1)
        assert text.count("**What catches it") == failures


def test_only_evaluation_reads_the_test_split_of_a_trained_model() -> None:
    assert "data.test" not in "".join(cell.source for cell in cells(notebook_path("03_vae_training"), "code"))
    for module in ("training", "loop", "models", "losses"):
        assert ".test" not in (ROOT / "helpers" / f"{module}.py").read_text(encoding="utf-8")


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


def test_executed_notebooks_name_no_folder_of_this_machine(smoke: Path) -> None:
    for path in (smoke / "notebooks").glob("*.ipynb"):
        assert str(ROOT) not in path.read_text(encoding="utf-8") and str(smoke) not in path.read_text(encoding="utf-8")


def test_the_explorer_keeps_a_still_picture(smoke: Path) -> None:
    data = [o.get("data", {}) for _, found in outputs(smoke / "notebooks" / "07_latent_explorer.ipynb") for o in found]
    assert any({"image/png", "application/vnd.jupyter.widget-view+json"} <= set(bundle) for bundle in data)


# GitHub shows a notebook as static HTML, in which no script runs (docs.github.com, Working with non-code files), and
# previews files of less than 2 MB, others perhaps (docs.github.com, Repository limits).
PREVIEWED = 2_000_000
SHOWN = {"image/png", "image/jpeg", "image/svg+xml", "text/markdown", "text/html", "text/latex"}


def what_github_drops(path: Path) -> list[str]:
    """What of an executed notebook would be lost on GitHub."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    lost = [f"{path.stat().st_size} bytes"] * (path.stat().st_size >= PREVIEWED)
    for cell in notebook.cells:
        texts = [cell.source] if cell.cell_type == "markdown" else []
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            words = data.get("text/plain", "")
            if output.output_type in ("display_data", "execute_result") and not SHOWN & set(data):
                lost += [f"nothing but {sorted(data)}"] * (not words or "<" in words or "widget" in str(list(data)))
            if "image/png" in data:
                with Image.open(io.BytesIO(base64.b64decode(data["image/png"]))) as picture:
                    picture.load()
                lost += ["an empty picture"] * (min(picture.size) < 10)
            texts += [data[kind] for kind in ("text/markdown", "text/html") if kind in data]
        for text in texts:
            lost += re.findall(r"<(?:script|iframe|style|object|embed)\b", text, re.I)
            plain = re.sub(r"```.*?```|(?<!\$)`[^`\n]*`", "", text, flags=re.S)
            formulas = [formula for _, formula in re.findall(r"(\$\$?)(.+?)\1", plain, re.S)]
            read = html.unescape(markdown2html(text))
            lost += [formula for formula in formulas if formula not in read or formula.startswith("`")]
            lost += ["an odd $"] * (re.sub(r"\\\$", "", plain).count("$") % 2)
    return lost


@pytest.mark.parametrize("path", EXECUTED, ids=lambda p: p.stem)
def test_github_shows_the_whole_of_an_executed_notebook(path: Path) -> None:
    assert not what_github_drops(path)


@pytest.mark.parametrize("path", [*NOTEBOOKS, *EXECUTED], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_of_notebooks_lead_to_files(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", "\n".join(cell.source for cell in cells(path, "markdown")))
    assert any("solutions/" in link for link in links)
    assert not [link for link in links if not (path.parent / link).exists()]


def test_what_github_would_drop_is_noticed(tmp_path: Path) -> None:
    new, widget = nbformat.v4, {"application/vnd.jupyter.widget-view+json": {"model_id": "x"}, "text/plain": "Slider()"}
    bundles = [widget, {"text/html": "<script>1</script>"}, {"text/plain": "<Figure size 1x1>"}]
    cells = [new.new_code_cell(outputs=[new.new_output("display_data", data)]) for data in bundles]
    for text in ("a $`x`$ b", "costs 3 $", "<iframe src=x>"):
        cells.append(new.new_markdown_cell(text))
    for cell in cells:
        nbformat.write(new.new_notebook(cells=[cell]), tmp_path / "a.ipynb")
        assert len(what_github_drops(tmp_path / "a.ipynb")) == 1, cell
    nbformat.write(new.new_notebook(cells=[new.new_markdown_cell("x" * PREVIEWED)]), tmp_path / "a.ipynb")
    assert what_github_drops(tmp_path / "a.ipynb")
