"""Results are rows, one for each number: stored, found again in a `Table`; and readers of the lab's stored tables."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from ..data import Dataset
from ..engine import UserError, did_you_mean, environment, read_json, rounded, write_json, write_whole
from .metrics import Estimate

SEED = 0  # of the posterior samples
TIMES = ("finished", "seconds")  # of a training run: they differ between equal ones


class Row(NamedTuple):
    """One number, and where it belongs; dots separate the parts of a metric's name: "counts.3.4"."""

    question: str
    model: str
    split: str
    metric: str
    value: float
    stderr: float | None  # None where it is not known
    n: int  # images; for a difference of two splits those of the smaller one
    unit: str


# What the numbers are, by the last word of a metric's name, and what its suffix adds.
UNITS, SUFFIXES = json.loads(Path(__file__).with_name("units.json").read_text(encoding="utf-8")).values()


def unit_of(metric: str) -> str:
    """What the numbers of a metric are; KeyError for one that UNITS does not know."""
    name = [part for part in metric.split(".") if not part.isdecimal()][-1]
    name = "auroc" if name.startswith("auroc_") else name
    suffix = next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")
    return UNITS[name.removesuffix(suffix)] + SUFFIXES.get(suffix, "")


def rows_of(
    question: str, model: str, split: str, estimates: Mapping[str, Estimate], n: int, prefix: str = ""
) -> list[Row]:
    """A row for each estimate by its name, which `prefix` completes; n images."""
    return [Row(question, model, split, prefix + name, *e, n, unit_of(name)) for name, e in estimates.items()]


def vector(name: str, per_image: Tensor) -> dict[str, Estimate]:
    """NAME.0, NAME.1, ...: the means over images of per_image (n, k)."""
    return {f"{name}.{i}": Estimate.mean(column) for i, column in enumerate(per_image.T)}


def matrix(name: str, values: Tensor) -> dict[str, Estimate]:
    """NAME.0.0, NAME.0.1, ...: the values (k, m), row by row, without errors."""
    lines = enumerate(values.tolist())
    return {f"{name}.{i}.{j}": Estimate(value) for i, line in lines for j, value in enumerate(line)}


class Table:
    """Rows that are found by question, model, split and metric."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = list(rows)
        self._places = {row[:4]: row for row in self.rows}

    def row(self, metric: str, question: str = "summary", model: str = "vae", split: str = "test") -> Row:
        """One row. Raises UserError when it does not exist."""
        place = (question, model, split, metric)
        if place not in self._places:
            hint = did_you_mean(" ".join(place), [" ".join(known) for known in self._places])
            raise UserError(f"there is no result {' '.join(place)!r}.{hint}")
        return self._places[place]

    def value(self, metric: str, question: str = "summary", model: str = "vae", split: str = "test") -> float:
        """The number of one row."""
        return self.row(metric, question, model, split).value

    def array(self, metric: str, question: str, model: str = "vae", split: str = "test") -> np.ndarray:
        """The values METRIC.0, METRIC.1, ... as a vector, or METRIC.0.0, ... as a matrix."""
        start = f"{metric}."
        rows = [r for r in self.rows if r[:3] == (question, model, split) and r.metric.startswith(start)]
        if not rows:
            self.row(f"{start}0", question, model, split)  # raises the error that says what is there
        last = rows[-1].metric.removeprefix(start).split(".")
        return np.reshape([row.value for row in rows], [int(part) + 1 for part in last])

    def nested(self, question: str, model: str = "", split: str = "") -> dict[str, Any]:
        """The rows of a question as a tree: by model and split where none is given, then by the parts of the name."""
        tree: dict[str, Any] = {}
        for row in self.rows:
            if row.question == question and model in ("", row.model) and split in ("", row.split):
                branch, given = tree, (question, model, split)
                *path, last = [part for part in row[:3] if part not in given] + row.metric.split(".")
                for part in path:
                    branch = branch.setdefault(part, {})
                branch[last] = row
        return tree


def provenance(data: Dataset, trained: Mapping[str, Any], notes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """How the rows came about: data, what `load_model` gives, notes by question; without durations."""
    origin = {"dataset": data.name, "notice": data.notice, "seed": SEED, "environment": environment()}
    run = {name: value for name, value in trained["run"].items() if name not in TIMES}
    return origin | {"settings": trained["settings"], "training_run": run, "notes": notes}


def write_metrics(rows: list[Row], origin: Mapping[str, Any], path: Path) -> None:
    """Write metrics.json at `path` and its rows as .csv beside it; `origin` comes from `provenance`."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([Row._fields, *rounded(rows)])
    write_json(path, {**origin, "columns": Row._fields, "rows": rows})
    write_whole(path.with_suffix(".csv"), text.getvalue())


def load(path: Path) -> tuple[Table, dict[str, Any]]:
    """The rows of a metrics.json and their provenance. Raises UserError when it is missing or damaged."""
    content = read_json(path)
    columns, rows = content.pop("columns"), content.pop("rows")
    if tuple(columns) != Row._fields or any(len(row) != len(columns) for row in rows):
        raise UserError(f"{path} is damaged (its columns are not {', '.join(Row._fields)}); run `make report`")
    return Table(Row(*row) for row in rows), content


def kept_rows(path: Path, rows: list[Row], notes: dict[str, dict[str, Any]]) -> list[Row]:
    """What an earlier metrics.json at `path` says of foreign sets that are not at hand now.

    Nothing, if its model finds other bits in the test images. `notes` then name the days of these sets too.
    """
    question, place = "out_of_distribution", "test.bpd"
    note = notes.get(question)
    try:
        before, origin = load(path)
    except UserError:  # none yet, or a damaged one, which is written anew
        return []
    days = origin.get("notes", {}).get(question, {}).get("measured", {})
    if not (note and days) or abs(before.value(place, question) - Table(rows).value(place, question)) > 5e-4:
        return []
    days = {name: day for name, day in days.items() if name not in note["measured"]}
    note["measured"] |= days
    note["missing"] = [line for line in note["missing"] if line.split()[0] not in days]
    return [row for row in before.rows if row.question == question and row.metric.partition(".")[0] in days]


# experiments.csv: the runs that differ in the weight of both class terms only, and those that differ in the seed only.
BASE = "VAE"
CLASS_WEIGHTS = {0: "no class terms", 10: "low class weights", 100: BASE, 500: "high class weights"}
SEEDS = (BASE, "seed 1", "seed 2")
# peers.json: title of a column, whose arrow, if any, says which way is better -> its number (None: none).
COLUMNS: dict[str, Callable[[Mapping[str, Any]], float | None]] = {
    "PSNR (dB) ↑": lambda peer: peer["psnr_pooled"],
    "bits/dim, calibrated ↓": lambda peer: peer.get("calibrated_bpd"),
    "rate (nats)": lambda peer: peer.get("rate"),
    "linear probe (%) ↑": lambda peer: 100 * peer["probe_accuracy"],
    "Fréchet distance, reconstructions ↓": lambda peer: peer["frechet"]["reconstructions"],
    "Fréchet distance, mixture ↓": lambda peer: peer["frechet"]["mixture"],
    "images/s in training ↑": lambda peer: peer["images_per_second"],
    "weights (million) ↓": lambda peer: peer["parameters"] / 1e6,
}


def read_rows(path: Path) -> dict[str, dict[str, str]]:
    """The runs of an experiments.csv by name; none when there is no such table yet."""
    return {row["name"]: row for row in csv.DictReader(path.open(encoding="utf-8"))} if path.is_file() else {}


def file_word(name: str) -> str:
    """The name of a run as that of a file."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "run"


def pictures_path(table: Path, name: str) -> Path:
    """Where the pictures of a run of an experiments.csv lie: eight validation images, and what it makes of them."""
    return table.with_name("experiments") / f"{file_word(name)}.png"


def by_column(peers: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """{title: {model: number}}, without the models that have no such number."""
    table = {title: {name: number(peer) for name, peer in peers.items()} for title, number in COLUMNS.items()}
    return {title: {k: v for k, v in numbers.items() if v is not None} for title, numbers in table.items()}


def first_in(columns: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """{title: the model that is first}, of the columns of which one end is better."""
    best = {title: max if title.endswith("↑") else min for title in columns if title[-1] in "↑↓"}
    return {title: choose(columns[title], key=columns[title].__getitem__) for title, choose in best.items()}
