"""All questions about a tiny VAE on few photos: their rows, which agree with each other."""

import math
from pathlib import Path

import pytest

from helpers.data import Dataset
from helpers.evaluate import evaluate_all
from helpers.losses import bits_per_dim
from helpers.measure.linear import linear_code
from helpers.measure.questions import answers
from helpers.measure.rows import Table, kept_rows, load, provenance, write_metrics
from helpers.run import load_model


@pytest.fixture(scope="module")
def metrics(trained: Path, photos: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """metrics.json with all questions."""
    folder, data = tmp_path_factory.mktemp("metrics"), photos.limited(512, 60)
    vae, origin = load_model(trained / "vae.safetensors")
    code = linear_code(data, folder, vae.latent_dim)
    models = {"vae": vae}
    rows, notes = answers(evaluate_all(models, code, data), models, code, data, folder / "metrics.json")
    write_metrics(rows, provenance(data, origin, notes), folder / "metrics.json")
    return folder / "metrics.json"


@pytest.fixture(scope="module")
def table(metrics: Path) -> Table:
    return load(metrics)[0]


def test_every_question_has_rows_with_units_and_a_note(table: Table, metrics: Path) -> None:
    questions = {row.question for row in table.rows}
    notes = load(metrics)[1]["notes"]
    assert len(questions) == 11 and questions == set(notes) and all(len(note["about"]) > 20 for note in notes.values())
    assert all(row.n > 0 and row.unit and row.split and row.model for row in table.rows)
    assert len(table.rows) == len({row[:4] for row in table.rows})


def test_a_foreign_set_that_is_not_at_hand_keeps_its_rows_and_day_while_the_model_stays(
    metrics: Path, tmp_path: Path
) -> None:
    table, origin = load(metrics)
    question = "out_of_distribution"
    notes = {question: {"missing": ["svhn is skipped", "x"], "measured": {"cifar100": "2026-11-30"}}}
    foreign = [row._replace(metric=f"{name}.bpd") for name in ("svhn", "cifar100")
               for row in table.rows if row.metric == "test.bpd"]  # fmt: skip
    measured = {"svhn": "2026-11-01", "cifar100": "2026-11-01"}
    write_metrics(table.rows + foreign, origin | {"notes": {question: {"measured": measured}}}, tmp_path / "m.json")
    assert [row.metric for row in kept_rows(tmp_path / "m.json", table.rows, notes)] == ["svhn.bpd"]
    assert notes[question] == {"missing": ["x"], "measured": {"svhn": "2026-11-01", "cifar100": "2026-11-30"}}
    other = [row._replace(value=row.value + 1) if row.metric == "test.bpd" else row for row in table.rows]
    nothing = {question: {"missing": [], "measured": dict[str, str]()}}
    assert not kept_rows(tmp_path / "m.json", other, nothing) and not nothing[question]["measured"]
    assert not kept_rows(tmp_path / "none.json", table.rows, notes) and not kept_rows(metrics, table.rows, {})
    (tmp_path / "m.json").write_text("{", encoding="utf-8")
    assert not kept_rows(tmp_path / "m.json", table.rows, notes)


def test_the_questions_agree_with_the_summary(table: Table) -> None:
    gap = table.value("psnr_mean", "gaps", split="train_minus_test")
    assert gap == pytest.approx(table.value("psnr_mean", split="train") - table.value("psnr_mean"), abs=2e-4)
    assert table.array("error", "spectrum").sum() == pytest.approx(table.value("mse"), rel=1e-4)
    assert table.array("kl_per_dim", "latent").sum() == pytest.approx(table.value("rate"), rel=1e-4)
    assert table.value("aggregate_kl_gaussian", "latent") <= table.value("rate")
    counts = table.array("counts", "confusion")
    assert counts.sum() == 60 and counts.trace() / 60 == pytest.approx(table.value("accuracy"), rel=1e-5)
    clean = table.nested("corruptions", "vae", "test")["clean"]
    assert clean["accuracy"].value == pytest.approx(table.value("accuracy"))
    assert clean["psnr_clean"].value == clean["psnr_corrupted"].value
    bound = [table.value(f"k{k}.bpd_density", "bound") for k in (1, 8, 64)]
    assert bound == sorted(bound, reverse=True) and bound[0] == pytest.approx(table.value("bpd_density"), abs=0.05)
    assert table.value("bpd_density") > table.value("bpd")  # no density of a model is folded, every probability is
    of_mean = table.value("bpd_density", model="mean_image")
    assert table.value("bpd_density", "bound", "mean_image") == pytest.approx(of_mean, rel=1e-5)


def test_the_mean_image_explains_nothing_and_uniform_costs_eight_bits(table: Table) -> None:
    assert abs(table.value("slope", model="mean_image", split="train")) < 0.1
    assert table.value("bpd", "bound", "uniform") == 8 == bits_per_dim(3072 * math.log(256), 3072)
