"""The report: every heading of the exercise, no number without a result, one page of moderate size."""

import html
import re
from pathlib import Path

import cmarkgfm
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


def sections(text: str) -> dict[str, str]:
    """What stands between a heading and the next one of any level, by heading."""
    parts = re.split(r"^(#{1,4} .+)$", text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.fixture(scope="module", params=["smoke", "published"])
def report_folder(request: pytest.FixtureRequest) -> Path:
    if request.param == "published":
        return ROOT / "report" / "exercise_03"
    smoke: Path = request.getfixturevalue("smoke")  # only then is that run needed
    return smoke / "report"


def test_the_report_answers_every_heading_of_the_exercise_with_one_bold_sentence(report_folder: Path) -> None:
    text = (report_folder / "README.md").read_text(encoding="utf-8")
    found = sections(text)
    assert all(f"\n{heading}\n" in text for heading in HEADINGS)
    for heading, body in found.items():
        if heading.startswith("##") and heading != "## References" and not (heading == "## Questions"):
            assert body.strip().startswith("**"), heading
    kinds = [
        f"{split}_{kind}_plot" for split in ("train", "validation", "test") for kind in ("regression", "data_points")
    ]
    for figure in ("loss_plot", "metrics", *kinds):
        assert f"/{figure}.png)" in text


def test_the_report_is_short_and_its_figures_and_tables_are_numbered(report_folder: Path) -> None:
    text = (report_folder / "README.md").read_text(encoding="utf-8")
    assert len(text.encode()) <= 25_000 + 600 * ("smoke" in str(report_folder)) and text.count("![") <= 18
    for name, prefix in (("README.md", ""), ("appendix.md", "A")):
        text = (report_folder / name).read_text(encoding="utf-8")
        for kind, count in (("Figure", text.count("![")), ("Table", len(re.findall(r"^\| :?-+", text, re.M)))):
            numbers = re.findall(rf"^\*{kind} {prefix}(\d+)\. ", text, re.M)
            assert numbers == [str(i + 1) for i in range(count)], (name, kind)
        alts = dict(re.findall(r"!\[(.+?)\]\(.+?\)\n\n(\*.+\*)\n", text))
        assert len(alts) == text.count("![") and not [alt for alt, caption in alts.items() if alt in caption]


def test_links_between_the_texts_lead_somewhere(report_folder: Path) -> None:
    anchors = {
        name: {anchor(heading) for heading in sections((report_folder / name).read_text(encoding="utf-8"))}
        for name in ("README.md", "appendix.md")
    }
    for name in anchors:
        text = (report_folder / name).read_text(encoding="utf-8")
        for file, place in re.findall(r"\]\(([\w.]*)#([\w-]+)\)", text):
            assert place in anchors[file or name], (name, file, place)
        page = (report_folder / {"README.md": "report.html", "appendix.md": "appendix.html"}[name]).read_text(
            encoding="utf-8"
        )
        for file, place in re.findall(r'href="([\w.]*)#([\w-]+)"', page):
            there = (report_folder / file).read_text(encoding="utf-8") if file else page
            assert f'id="{place}"' in there, (name, file, place)
    if "exercise_03" in str(report_folder):
        for path in re.findall(r"\]\((\.\./[^)#]+)\)", (report_folder / "README.md").read_text(encoding="utf-8")):
            assert (report_folder / path).exists(), path


def anchor(heading: str) -> str:
    """The place of a heading, as GitHub names it."""
    return re.sub(r"[^\w -]", "", heading.lstrip("# ").lower()).replace(" ", "-")


def test_github_leaves_every_formula_as_it_is(report_folder: Path) -> None:
    for name in ("README.md", "appendix.md"):
        text = (report_folder / name).read_text(encoding="utf-8")
        read = html.unescape(cmarkgfm.github_flavored_markdown_to_html(text))
        inline, shown = re.findall(r"\$`([^`]+)`\$", text), re.findall(r"```math\n(.+?)\n```", text, re.S)
        assert inline and all(f"$<code>{formula}</code>$" in read for formula in inline)
        assert all(formula in read for formula in shown) and read.count("<img ") == text.count("![")


def test_a_formula_that_github_would_break_is_refused() -> None:
    for text in ("a $\\mathcal{L}_{a} + b_{c}$ b", "$$\nx\n$$"):
        with pytest.raises(UserError, match="GitHub"):
            report.check_markdown(text, "a.md")
    report.check_markdown("a $`x_{1}`$ and\n```math\nx\n```\n", "a.md")


@pytest.mark.parametrize("name", ["report.html", "appendix.html"])
def test_a_page_is_one_file_with_real_maths_and_alt_texts(smoke: Path, name: str) -> None:
    page = (smoke / "report" / name).read_text(encoding="utf-8")
    assert not re.findall(r'src="(?!data:)', page)
    assert not re.findall(r'href="(?!data:|#|https?://|\.\./|(?:report|appendix)\.html)', page)
    assert (
        "<math" in page
        and "\\mathcal" not in page
        and "$" not in re.sub(r"<(script|style).*?</\1>", "", page, flags=re.S)
    )
    images = re.findall(r"<img [^>]+>", page)
    assert len(images) > 15 and all(len(re.search(r'alt="([^"]*)"', image).group(1)) > 20 for image in images)
    assert page.count("<h1") == 1 and '<html lang="en">' in page


def test_the_page_has_the_explorer_and_stays_below_8_megabytes(smoke: Path) -> None:
    page = smoke / "report" / "report.html"
    text = page.read_text(encoding="utf-8")
    assert 'id="latent-explorer"' in text and text.count('<p class="explorer-slider') == 12 + 3
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
