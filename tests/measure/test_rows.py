"""Rows are stored, found and read again; the lab's tables are read."""

import csv
import json
from pathlib import Path

import pytest
import torch

from helpers.engine.errors import UserError
from helpers.engine.sealed import read_json, write_json
from helpers.measure import rows
from helpers.measure.metrics import Estimate
from helpers.measure.rows import Row, Table, load, matrix, rows_of, vector, write_metrics
from helpers.show.generation import peers_plot

ORIGIN = {
    "dataset": "photos", "notice": "", "seed": 0, "settings": {}, "training_run": {}, "notes": {"probe": {"n": 3}},
    "environment": {"python": "3", "torch": "2", "device": "CPU", "threads": 1},
}  # fmt: skip
ROWS = [
    *rows_of("summary", "vae", "test", {"psnr_pooled": Estimate(23.5, 0.1), "active_units": Estimate(128)}, 10),
    *rows_of("spectrum", "vae", "test", vector("error", torch.tensor([[1.0, 4.0], [3.0, 4.0]])), 2),
    *rows_of("confusion", "vae", "test", matrix("counts", torch.tensor([[5, 1, 0], [0, 4, 2]])), 12),
    *rows_of("corruptions", "vae", "test", {"accuracy": Estimate(0.9)}, 10, "contrast.severity_5."),
    *rows_of("corruptions", "input", "test", {"psnr_clean": Estimate(30.0)}, 10, "contrast.severity_5."),
]


def test_a_table_finds_numbers_vectors_matrices_and_trees() -> None:
    table = Table(ROWS)
    assert table.value("psnr_pooled") == 23.5 and table.row("psnr_pooled").unit.startswith("dB")
    assert table.array("error", "spectrum").tolist() == [2, 4] and table.row("error.0", "spectrum").stderr == 1
    assert table.array("counts", "confusion").tolist() == [[5, 1, 0], [0, 4, 2]]
    tree = table.nested("corruptions", split="test")
    assert list(tree) == ["vae", "input"] and tree["vae"]["contrast"]["severity_5"]["accuracy"].value == 0.9
    assert table.nested("corruptions")["input"]["test"] == tree["input"] == table.nested("corruptions", "input", "test")
    assert table.nested("gaps") == {}
    with pytest.raises(UserError, match="no result 'summary vae test psnr_poled'.*psnr_pooled"):
        table.row("psnr_poled")
    with pytest.raises(UserError, match="error.0"):
        table.array("error", "spectrum", "pca")


def test_the_file_and_the_spreadsheet_hold_the_same_rows_one_a_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_metrics(ROWS, ORIGIN, path)
    table, origin = load(path)
    assert table.rows == ROWS and origin == ORIGIN
    lines = [line.strip(" ,") for line in path.read_text(encoding="utf-8").splitlines()]
    assert all(json.dumps(row) in lines for row in ROWS)
    sheet = list(csv.reader((tmp_path / "metrics.csv").open(encoding="utf-8")))
    assert sheet[0] == list(Row._fields) and len(sheet) == len(ROWS) + 1
    assert sheet[1] == ["summary", "vae", "test", "psnr_pooled", "23.5", "0.1", "10", ROWS[0].unit]
    assert sheet[2][5] == ""  # an unknown error is no zero


def test_a_file_with_other_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_metrics(ROWS, ORIGIN, path)
    content = read_json(path)
    for change in ({"columns": ["value", "model"]}, {"rows": [["summary", "vae"]]}):
        write_json(path, content | change)
        with pytest.raises(UserError, match="metrics.json is damaged"):
            load(path)


def test_rows_that_are_not_finite_are_never_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a finite number"):
        write_metrics([ROWS[0]._replace(value=float("nan"))], ORIGIN, tmp_path / "metrics.json")
    assert not list(tmp_path.iterdir())


def test_the_columns_of_the_peers_say_who_is_first_in_each() -> None:
    vae = {
        "psnr_pooled": 24.0, "calibrated_bpd": 6.0, "rate": 300.0, "probe_accuracy": 0.5, "images_per_second": 400.0,
        "frechet": {"reconstructions": 100.0, "N(0, I)": 200.0, "mixture": 150.0}, "parameters": 4_000_000,
    }  # fmt: skip
    plain = {k: v for k, v in vae.items() if k not in ("calibrated_bpd", "rate")}
    plain |= {"images_per_second": 900.0, "frechet": {"reconstructions": 90.0, "N(0, I)": 151.0, "mixture": 160.0}}
    columns = rows.by_column({"ours": vae, "an autoencoder": plain | {"psnr_pooled": 23.0, "parameters": 5_000_000}})
    assert columns["rate (nats)"] == {"ours": 300.0}  # an autoencoder has none
    assert columns["Fréchet distance, mixture ↓"] == {"ours": 150.0, "an autoencoder": 160.0}
    others = {title for title, name in rows.first_in(columns).items() if name != "ours"}
    assert others == {"Fréchet distance, reconstructions ↓", "images/s in training ↑"}
    assert len(peers_plot(columns).axes) == len(columns) == 8


def test_the_runs_of_the_loop_are_read_by_name(tmp_path: Path) -> None:
    (tmp_path / "experiments.csv").write_text("name,bpd\nseed 1,6.1\nseed 2,6.2\n", encoding="utf-8")
    assert {name: run["bpd"] for name, run in rows.read_rows(tmp_path / "experiments.csv").items()} == {
        "seed 1": "6.1", "seed 2": "6.2",
    }  # fmt: skip
    assert rows.read_rows(tmp_path / "none.csv") == {}
