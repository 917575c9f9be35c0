"""The whole pipeline on smoke settings, the report, the environment file."""

import base64
import importlib.util
import io
import json
import re
import shutil
import sys
import tomllib
from pathlib import Path

import nbformat
import numpy as np
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from PIL import Image

from helpers.config import ROOT, UserError
from helpers.runs.pipeline import PROMISED, check_parameters, notebook_path, parse_parameters
from helpers.show import notebook_page, report
from helpers.show.figures import Gallery, read_captions
from helpers.show.page import mathml

from .conftest import assert_one_line_error, run_module

LICENCE = "report/assets/onnxruntime-web/LICENSE"


# --- the pipeline -----------------------------------------------------------------------------------------------


def test_unknown_parameters_and_wrong_types_stop_before_any_kernel() -> None:
    known = {"epochs": 0, "lr": 1.0}
    check_parameters(parse_parameters(["epochs=3", "lr=2"]), known)
    with pytest.raises(UserError, match="Did you mean 'epochs'"):
        check_parameters({"epoch": 3}, known)
    with pytest.raises(UserError, match="is str"):
        check_parameters({"epochs": "two"}, known)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-p", "epoch=3"), ("unknown parameter", "epochs")), (("-p", "epochs=two"), ("'two' is str",)),
        (("--only", "99"), ("01 to 07",)), (("--profile", "smoke"), ("--out",)), (("-p", "epochs"), ("name=value",)),
        (("--dataset", "cifar"), ("cifar10",)),
    ],
)  # fmt: skip
def test_bad_command_lines_are_one_line_each(arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    assert_one_line_error(run_module("helpers.runs.pipeline", *arguments), *words)


def test_the_smoke_run_leaves_everything_it_promises(smoke: Path) -> None:
    for name, promised in PROMISED.items():
        assert (smoke / "notebooks" / f"{name}.ipynb").is_file()
        assert all((smoke / file).stat().st_size > 0 for file in promised)
    record = json.loads((smoke / "run.json").read_text())
    assert set(record["seconds"]) == set(PROMISED) and record["profile"] == "smoke"
    assert not list(smoke.glob("**/*.tmp")) and not list(smoke.glob("notebooks/*.partial.ipynb"))


def test_executed_notebooks_name_no_folder_of_this_machine(smoke: Path) -> None:
    for path in (smoke / "notebooks").glob("*.ipynb"):
        assert str(ROOT) not in path.read_text() and str(smoke) not in path.read_text()


def test_the_explorer_keeps_a_still_picture(smoke: Path) -> None:
    executed = nbformat.read(smoke / "notebooks" / "07_latent_explorer.ipynb", as_version=4)
    outputs = [output.get("data", {}) for cell in executed.cells for output in cell.get("outputs", [])]
    assert any({"image/png", "application/vnd.jupyter.widget-view+json"} <= set(data) for data in outputs)


def test_every_figure_has_a_caption_that_says_something(smoke: Path) -> None:
    captions = read_captions(smoke)
    figures = {path.stem for path in smoke.glob("*.png")}
    assert figures == set(captions) and all(len(caption) > 40 for caption in captions.values())


def test_a_failed_notebook_is_kept_beside_the_last_good_one(tmp_path: Path) -> None:
    good = tmp_path / "notebooks" / "07_latent_explorer.ipynb"
    good.parent.mkdir()
    good.write_text("the last good one")
    done = run_module("helpers.runs.pipeline", "--only", "07", "--dataset", "photos", "--out", str(tmp_path))
    assert_one_line_error(done, "07_latent_explorer failed", "vae.safetensors does not exist")
    assert good.read_text() == "the last good one" and good.with_suffix(".failed.ipynb").is_file()


def test_stock_papermill_runs_a_notebook(tmp_path: Path) -> None:
    target = tmp_path / "out.ipynb"
    arguments = ["notebooks/07_latent_explorer.ipynb", str(target), "--prepare-only", "-p", "n_directions", "4"]
    done = run_module("papermill", *arguments)
    assert done.returncode == 0, done.stderr
    assert "n_directions = 4" in target.read_text()


# --- the report -------------------------------------------------------------------------------------------------


def test_the_report_answers_every_heading_of_the_exercise(smoke: Path) -> None:
    text = (smoke / "report" / "README.md").read_text()
    for heading in (
        "## Objective", "## Task Formalization", "### Task Formalization (Inference)",
        "### Task Formalization (Training)", "## Evaluation metrics", "## Data Considerations",
        "### Dataset description", "### Data preparation and preprocessing", "### Data augmentation",
        "## Model Considerations", "### Suitable Loss Functions", "### Selected Loss Function",
        "### Possible architectures", "### Last layer activation", "### Other Considerations", "## Training",
        "### Training hyperparameters", "### Loss function graph", "### Discussion of the training process",
        "## Evaluation", "### Evaluation results", "### Discussion of the results", "## Design Feedback loops",
        "## Questions", "### Which are the differences you found between previous model and this one?",
        "### Does the model generalizes well to new data?",
    ):  # fmt: skip
        body = text.partition(f"\n{heading}\n")[2]
        assert body, heading
        if not re.match(r"\s*##", body):
            assert len(body.strip().split("\n#")[0].split()) > 8, heading
    for figure in ("loss_plot", "metrics", *(f"{s}_{k}_plot" for s in ("train", "validation", "test")
                                             for k in ("regression", "data_points"))):  # fmt: skip
        assert f"/{figure}.png)" in text


def test_the_page_is_one_file_with_real_maths_and_alt_texts(smoke: Path) -> None:
    page = (smoke / "report" / "report.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert "<math" in page and "\\mathcal" not in page
    images = re.findall(r"<img [^>]+>", page)
    assert len(images) > 15 and all(len(re.search(r'alt="([^"]*)"', image).group(1)) > 20 for image in images)
    assert page.count("<h1") == 1 and '<html lang="en">' in page


def test_figures_are_embedded_without_loss(smoke: Path) -> None:
    page = (smoke / "report" / "report.html").read_text()
    alt = read_captions(smoke)["loss_plot"]
    picture = r'<img src="data:image/(\w+);base64,([^"]+)"[^>]*alt="' + re.escape(alt[:40])
    kind, content = re.search(picture, page).groups()
    embedded = Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB")
    original = Image.open(smoke / "loss_plot.png").convert("RGB")
    assert kind in ("webp", "png") and np.array_equal(np.asarray(embedded), np.asarray(original))
    assert len(content) * 3 / 4 <= (smoke / "loss_plot.png").stat().st_size


def test_the_page_has_the_explorer_and_stays_below_14_megabytes(smoke: Path) -> None:
    page = smoke / "report" / "report.html"
    text = page.read_text()
    assert 'id="latent-explorer"' in text and text.count('<p class="explorer-slider">') == 12 + 2
    assert page.stat().st_size < 14e6 and "MIT License" in (report.ROOT / LICENCE).read_text()


def test_notebooks_become_pages_and_outside_requests_are_refused(smoke: Path, tmp_path: Path) -> None:
    for path in (smoke / "notebooks").glob("*.html"):
        page = path.read_text()
        assert not re.findall(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="(?!data:|#)', page), path.name
        assert "<h1" in page and "cdnjs" not in page and "require.js" not in page
    assert "<math" in (smoke / "notebooks" / "03_vae_training.html").read_text()
    text = "# A page\n\n<img src='x' alt='y'>".replace("'x'", '"https://example.org/x.png"')
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)]), tmp_path / "01_x.ipynb")
    with pytest.raises(UserError, match="01_x.ipynb.*not self-contained.*example.org"):
        notebook_page.export_all(make_folder(tmp_path))
    assert not list(tmp_path.glob("**/*.html"))


def make_folder(tmp_path: Path) -> Path:
    """An output folder whose only executed notebook is the one that lies in `tmp_path`."""
    (tmp_path / "out" / "notebooks").mkdir(parents=True)
    (tmp_path / "01_x.ipynb").rename(tmp_path / "out" / "notebooks" / "01_x.ipynb")
    return tmp_path / "out"


def test_stock_tools_run_and_export_the_explorer(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "out")
    notebook = nbformat.read(notebook_path("07_latent_explorer"), as_version=4)
    cell = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    cell.source += f'\nprofile, dataset, out = "smoke", "photos", {str(tmp_path / "out")!r}'
    nbformat.write(notebook, tmp_path / "07.ipynb")
    done = run_module("jupyter", "execute", "--inplace", str(tmp_path / "07.ipynb"), PYTHONPATH=str(report.ROOT))
    assert done.returncode == 0, done.stderr
    done = run_module("jupyter", "nbconvert", "--to", "html", str(tmp_path / "07.ipynb"))
    assert done.returncode == 0 and (tmp_path / "07.html").stat().st_size > 100_000, done.stderr
    page = notebook_page.export(tmp_path / "07.ipynb", tmp_path / "own.html").read_text()
    assert page.count('alt="A still picture') == 2 and "widget-view" not in page


def test_a_missing_number_or_figure_stops_the_build(smoke: Path, tmp_path: Path) -> None:
    results = report.read_results(smoke)
    with pytest.raises(UserError, match="psnr_poled.*there are"):
        _ = results["m"].models.vae.test.psnr_poled
    for file in smoke.iterdir():
        if file.is_file() and file.name != "loss_plot.png":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match="loss_plot.png"):
        report.build(tmp_path, tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_a_wrong_formula_and_a_short_caption_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="formula"):
        mathml(r"\frac{1", True)
    import matplotlib.pyplot as plt

    with pytest.raises(UserError, match="caption"):
        Gallery(tmp_path)(plt.figure(), "x", "short")


def test_figures_of_another_run_are_not_stamped_as_figures_of_this_one(tmp_path: Path) -> None:
    import matplotlib.pyplot as plt

    own, stored = plt.figure(), plt.figure()
    gallery = Gallery(tmp_path, notice="Not CIFAR-10: no data")
    gallery(own, "own", "a figure of this run")
    gallery(stored, "stored", "a figure of stored runs", stored=True)
    assert [text.get_text() for text in own.texts] == ["photos, not CIFAR-10"]
    assert [text.get_text() for text in stored.texts] == ["stored runs on CIFAR-10, not photos"]


def test_the_committed_report_is_what_its_results_give() -> None:
    done = run_module("helpers.show.report", "--check")
    assert done.returncode == 0, done.stderr


# --- the published model ----------------------------------------------------------------------------------------


def test_the_published_model_beats_the_linear_code_on_test() -> None:
    path = ROOT / "outs" / "exercise_03" / "metrics.json"
    models = json.loads(path.read_text())["models"]
    vae, pca = models["vae"]["test"], models["pca"]["test"]
    assert vae["n"] == 10_000 and vae["psnr_pooled"]["value"] >= 24.0 > pca["psnr_pooled"]["value"]
    assert vae["active_units"]["value"] == 128
    assert vae["sigma"]["value"] == pytest.approx(vae["rmse"]["value"], rel=0.05)


def test_the_readme_quotes_the_committed_metrics() -> None:
    models = json.loads((ROOT / "outs" / "exercise_03" / "metrics.json").read_text())["models"]
    labels = {
        "PSNR, pooled (dB)": ("psnr_pooled", 1), "SSIM": ("ssim", 1), "accuracy (%)": ("accuracy", 100),
        "accuracy from the code alone (%)": ("code_accuracy", 100), "rate (nats per image)": ("rate", 1),
        "bits per dimension": ("bpd", 1),
    }  # fmt: skip
    readme = (ROOT / "README.md").read_text()
    for label, (name, factor) in labels.items():
        row = re.search(rf"^\| {re.escape(label)} \|(.*)\|$", readme, re.M).group(1)
        for text, model in zip(row.split("|"), ("vae", "autoencoder", "pca"), strict=True):
            text = text.strip()
            if text != "–":
                value = factor * models[model]["test"][name]["value"]
                assert text == f"{value:.{len(text.partition('.')[2])}f}", (label, model)


# --- the environment --------------------------------------------------------------------------------------------


def test_environment_yml_asks_for_what_pyproject_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    conda_names = {"torch": "pytorch", "matplotlib": "matplotlib-base", "fastjsonschema": "python-fastjsonschema"}
    wanted = {}
    for text in project["dependencies"]:
        requirement = Requirement(text)
        wanted[conda_names.get(requirement.name, requirement.name)] = requirement.specifier
    wanted["python"] = SpecifierSet(project["requires-python"])
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in entries if isinstance(entry, dict))
    plain = [entry for entry in entries if isinstance(entry, str) and entry != "pip"]
    plain += [entry for entry in pip if not entry.startswith("-e")]
    found = {re.split(r"[ <>=]", entry)[0]: SpecifierSet(entry.partition(" ")[2]) for entry in plain}
    assert found == wanted and "-e ." in pip


def test_the_makefile_has_one_python_line_for_each_job() -> None:
    text = (ROOT / "Makefile").read_text()
    for job in ("report", "train", "smoke", "lab", "test", "clean"):
        assert re.search(rf"^{job}:", text, re.M)
    readme = (ROOT / "README.md").read_text()
    for line in re.findall(r"-m (helpers\.[\w.]+)", text):
        assert line in readme and importlib.util.find_spec(line), line
    assert sys.version_info >= (3, 11)
