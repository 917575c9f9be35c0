"""The report: every heading of the exercise, no number without a result, one page of moderate size."""

import re
from pathlib import Path

import pytest

from helpers.engine.errors import UserError
from helpers.engine.files import ROOT
from helpers.publish import report

from ..conftest import run_module

HEADINGS = (
    "## Objective", "## Task Formalization", "### Task Formalization (Inference)",
    "### Task Formalization (Training)", "## Evaluation metrics", "## Data Considerations",
    "### Dataset description", "### Data preparation and preprocessing", "### Data augmentation",
    "## Model Considerations", "### Suitable Loss Functions", "### Selected Loss Function",
    "### Possible architectures", "### Last layer activation", "### Other Considerations", "## Training",
    "### Training hyperparameters", "### Loss function graph", "### Discussion of the training process",
    "## Evaluation", "### Evaluation results", "### Discussion of the results", "## Design Feedback loops",
    "## Questions", "### Which are the differences you found between previous model and this one?",
    "### Does the model generalizes well to new data?",
)  # fmt: skip


def test_the_report_answers_every_heading_of_the_exercise(smoke: Path) -> None:
    text = (smoke / "report" / "README.md").read_text(encoding="utf-8")
    for heading in HEADINGS:
        body = text.partition(f"\n{heading}\n")[2]
        assert body, heading
        if not re.match(r"\s*##", body):
            assert len(body.strip().split("\n#")[0].split()) > 8, heading
    kinds = [
        f"{split}_{kind}_plot" for split in ("train", "validation", "test") for kind in ("regression", "data_points")
    ]
    for figure in ("loss_plot", "metrics", *kinds):
        assert f"/{figure}.png)" in text


def test_the_page_is_one_file_with_real_maths_and_alt_texts(smoke: Path) -> None:
    page = (smoke / "report" / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert "<math" in page and "\\mathcal" not in page
    images = re.findall(r"<img [^>]+>", page)
    assert len(images) > 15 and all(len(re.search(r'alt="([^"]*)"', image).group(1)) > 20 for image in images)
    assert page.count("<h1") == 1 and '<html lang="en">' in page


def test_the_page_has_the_explorer_and_stays_below_8_megabytes(smoke: Path) -> None:
    page = smoke / "report" / "report.html"
    text = page.read_text(encoding="utf-8")
    assert 'id="latent-explorer"' in text and text.count('<p class="explorer-slider">') == 12 + 2
    for written in (page, ROOT / "report" / "exercise_03" / "report.html"):
        assert written.stat().st_size < 8e6, written
    assert "MIT License" in (ROOT / "report" / "assets" / "onnxruntime-web" / "LICENSE").read_text(encoding="utf-8")


def test_a_missing_number_or_figure_stops_the_build(
    smoke: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source.md.j2"
    source.write_text("{{ compression.psnr_at_2 | num }}", encoding="utf-8")
    with monkeypatch.context() as patch, pytest.raises(UserError, match="psnr_at_2.*there are: .*psnr_at_1"):
        patch.setattr(report, "SOURCE", source)
        report.render_markdown(smoke, tmp_path)
    for file in smoke.iterdir():
        if file.is_file() and file.name != "loss_plot.png":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match="loss_plot.png"):
        report.build(tmp_path, tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_the_committed_report_is_what_its_results_give() -> None:
    done = run_module("helpers", "render", "--check")
    assert done.returncode == 0, done.stderr
