"""Many runs: the design feedback loop, or a grid of yours, as papermill jobs of one small notebook.

    python -m helpers.runs.experiments [--only NAME ...]      the loop: adds rows to outs/exercise_03/experiments.csv
    python -m helpers.runs.experiments --grid FILE --out OUT  a grid; OUT may be s3:// or gs:// (papermill's extras)
    ... --scheduler tcp://HOST:8786                           on a cluster of dask (extra `cluster`)

A grid is a YAML or JSON file, names -> changes of the published settings, such as

    wide: {width: 64}
    wide and slow: {width: 64, lr: 1e-3}

The notebook of a job is experiment.ipynb, not notebook 3: that one teaches, trains two more models and draws, which
would double the price of a short run. The executed copy in OUT holds the row of the table. A run whose copy (or row)
is there with the same settings is not repeated, so a stopped grid goes on where it was; a run that a dying worker took
along is done again on another. Only validation images are looked at. Small runs rank ideas; they do not predict final
numbers.
"""

import argparse
import csv
import dataclasses
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..config import ROOT, Settings, UserError, exit_with, nearest, out_dir, profile_settings, write_whole
from ..data import Dataset, load_data
from ..evaluate import evaluate_model
from ..models import build_model
from ..runtime import environment
from ..storage import Record
from ..training import fit

# The same number of images for every run, all of the training split: five to nine minutes on two cores.
BUDGET: dict[str, Any] = {"n_train": 0, "epochs": 4}
BASE = "sigma learned"
NOISE = "how large is the noise?"
# name: (parent, the one change, what was seen before that suggested it)
LOOP: dict[str, tuple[str, dict[str, Any], str]] = {
    "autoencoder": ("", {"model": "autoencoder"}, "the model of the previous exercise"),
    "VAE, sigma = 1": ("autoencoder", {"model": "vae", "sigma": 1.0}, "its codes follow no distribution"),
    "sigma = 0.1": ("VAE, sigma = 1", {"sigma": 0.1}, "hardly any rate: pixels count as noise"),
    BASE: ("sigma = 0.1", {"sigma": 0.0}, "its error is not 0.1: who knows the right value?"),
    "seed 1": (BASE, {"seed": 1}, NOISE),
    "seed 2": (BASE, {"seed": 2}, NOISE),
    "beta = 0.25": (BASE, {"beta": 0.25}, "does a cheaper rate buy sharper pictures?"),
    "beta = 4": (BASE, {"beta": 4.0}, "does a dearer rate give a better prior?"),
    "beta = 16": (BASE, {"beta": 16.0}, "where does the code collapse?"),
    "32 latents": (BASE, {"latent_dim": 32}, "is the code the bottleneck?"),
    "64 latents": (BASE, {"latent_dim": 64}, "is the code the bottleneck?"),
    "256 latents": (BASE, {"latent_dim": 256}, "is the code the bottleneck?"),
    "no class terms": (BASE, {"class_weight": 0.0, "code_weight": 0.0}, "do pixels and classes pull apart?"),
    "low class weights": (BASE, {"class_weight": 10.0, "code_weight": 10.0}, "do pixels and classes pull apart?"),
    "high class weights": (BASE, {"class_weight": 500.0, "code_weight": 500.0}, "do pixels and classes pull apart?"),
    "no augmentation": (BASE, {"translate": 0, "flip": False}, "does it help in so few epochs?"),
    "nothing hidden": (BASE, {"cutout": 0}, "does the classifier need cutout in so few epochs?"),
    "half the width": (BASE, {"width": 16}, "is the network the bottleneck?"),
    "AdamW": (BASE, {"muon_rate": 0.0}, "do updates that spare no direction learn faster?"),
    "Muon at 0.005": (BASE, {"muon_rate": 2.5}, "and if they are larger?"),
    "batches of 128": (BASE, {"batch_size": 128}, "more steps, each noisier?"),
}
# The runs that differ in the weight of both class terms only, and those that differ in the seed only.
CLASS_WEIGHTS = {0: "no class terms", 10: "low class weights", 100: BASE, 500: "high class weights"}
SEEDS = (BASE, "seed 1", "seed 2")
MEASURED = ("psnr_pooled", "rate", "distortion", "bpd", "active_units", "accuracy", "code_accuracy", "sigma")
NOTEBOOK = Path(__file__).with_name("experiment.ipynb")
LARGEST_GRID = 1000

Row = dict[str, str]


class Job(NamedTuple):
    """One run of a grid: what the table says of it beside the results, its settings, where its notebook goes."""

    about: Row
    settings: dict[str, Any]
    target: str  # a path or a URL that papermill knows
    threads: int  # 0: as many as the machine gives


def loop_settings(base: Settings) -> dict[str, Settings]:
    """The complete settings of every run of the loop: those of its parent with one change."""
    found: dict[str, Settings] = {}
    for name, (parent, change, _) in LOOP.items():
        found[name] = dataclasses.replace(found.get(parent, base), **change)
    return found


def loop_jobs(out: str, threads: int) -> list[Job]:
    """The built-in loop as jobs."""
    settings = loop_settings(dataclasses.replace(profile_settings("full"), **BUDGET))
    return [
        job(about_run(name, change, parent, why), settings[name], out, threads)
        for name, (parent, change, why) in LOOP.items()
    ]


def read_grid(path: str, out: str, threads: int) -> list[Job]:
    """The jobs of a grid file, local or remote. Raises UserError on what is not names -> changes of settings."""
    from papermill.iorw import read_yaml_file

    try:
        grid = read_yaml_file(path)
    except Exception as error:  # every store has its own errors
        raise UserError(f"the grid {path} cannot be read ({str(error).splitlines()[0]})") from None
    if not isinstance(grid, dict) or not grid or not all(isinstance(change, dict) for change in grid.values()):
        raise UserError(f"the grid {path} must hold names, and for each its changes, such as `wide: {{width: 64}}`")
    if len(grid) > LARGEST_GRID:
        raise UserError(f"the grid {path} has {len(grid)} runs; {LARGEST_GRID} are the most")
    jobs = []
    for name, change in grid.items():
        try:
            settings = grid_settings(change)
        except UserError as error:
            raise UserError(f"{path}, run {str(name)!r}: {error}") from None
        jobs.append(job(about_run(str(name), change), settings, out, threads))
    targets = [one.target for one in jobs]
    if twice := next((one for one in jobs if targets.count(one.target) > 1), None):
        raise UserError(f"{path}: another run has the file name of {twice.about['name']!r}; give it another name")
    return jobs


def grid_settings(change: dict[str, Any]) -> Settings:
    """The settings published for a model and its data, with changes; "profile" may be one of them."""
    known = {"profile": "full", "model": "vae", "dataset": "cifar10"} | change
    unnamed = [name for name in known if not isinstance(name, str)]
    if unnamed:
        raise UserError(f"{unnamed[0]!r} is not the name of a setting")
    return profile_settings(**known)


def about_run(name: str, change: dict[str, Any], parent: str = "", why: str = "") -> Row:
    """What the table says of a run beside its results."""
    return {"name": name, "parent": parent, "why": why, "change": ", ".join(f"{k}={v}" for k, v in change.items())}


def job(about: Row, settings: Settings, out: str, threads: int) -> Job:
    """A run as something that can be sent to another machine."""
    word = re.sub(r"[^\w.-]+", "-", about["name"]).strip("-.") or "run"
    return Job(about, settings.as_dict(), f"{out.rstrip('/')}/{word}.ipynb", threads)


def measure(settings: Settings, data: Dataset, watch: Callable[[Record], None] | None = None, threads: int = 0) -> Row:
    """Train one run and measure it on all validation images; the results as the columns of a row."""
    if threads:
        torch.set_num_threads(threads)
    model = build_model(settings, len(data.class_names))
    for record in fit(model, data, settings):
        if watch:
            watch(record)
    part = data.limited(settings.n_train, settings.n_eval).validation
    found = evaluate_model(model, part).metrics
    row = {column: f"{found[column].value:.5g}" if column in found else "" for column in MEASURED}
    row |= {"seconds": f"{record['seconds']:.0f}", "seed": str(settings.seed), "n_validation": str(len(part))}
    about = environment()
    return row | {k: str(about[k]) for k in ("torch", "device", "threads")} | {"settings": described(settings)}


def described(settings: Settings) -> str:
    """The settings as one cell of the table."""
    return json.dumps(settings.as_dict())


# --- jobs -------------------------------------------------------------------------------------------------------


def execute(one: Job) -> Row:
    """Run the notebook of a job; the row, or {"error": why}. This is what a worker of a cluster does."""
    import papermill
    from papermill.exceptions import PapermillExecutionError

    parameters = {"name": one.about["name"], "settings": one.settings, "threads": one.threads}
    try:
        papermill.execute_notebook(
            str(NOTEBOOK), one.target, parameters, cwd=str(ROOT), kernel_name="python3",
            progress_bar=False, coalesce_streams=True, autosave_cell_every=15,
        )  # fmt: skip
    except PapermillExecutionError as error:
        return {"error": re.sub(r"\s+", " ", f"{error.ename}: {error.evalue}")}
    return finished(one) or {"error": f"{one.target} holds no results"}


def finished(one: Job) -> Row | None:
    """The row that the executed notebook of a job holds, if it is there, whole, and of the same settings."""
    from papermill.iorw import load_notebook_node

    try:
        outputs = [output for cell in load_notebook_node(one.target).cells for output in cell.get("outputs", [])]
    except Exception:  # every store has its own errors; a copy that cannot be read is not finished
        return None
    rows = [output["data"]["application/json"] for output in outputs if "application/json" in output.get("data", {})]
    same = [row for row in rows if isinstance(row, dict) and row.get("settings") == json.dumps(one.settings)]
    return one.about | {str(k): str(v) for k, v in same[-1].items()} if same else None


def in_order(jobs: list[Job]) -> Iterator[tuple[Job, Row]]:
    """Here, one after another."""
    for one in jobs:
        yield one, execute(one)


def on_cluster(jobs: list[Job], scheduler: str) -> Iterator[tuple[Job, Row]]:
    """On the workers of a dask scheduler, in the order of finishing; what a lost worker did is done by another."""
    try:
        from distributed import Client, as_completed
    except ImportError:
        raise UserError("--scheduler needs the extra `cluster`: pip install -e '.[cluster]'") from None
    try:
        client = Client(scheduler, timeout=30, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UserError(f"no scheduler answers at {scheduler} ({error}); start one with `dask scheduler`") from None
    with client:
        futures = {client.submit(execute, one, pure=False): one for one in jobs}
        for future in as_completed(futures, loop=client.loop):
            error = future.exception()
            yield futures[future], {"error": f"{type(error).__name__}: {error}"} if error else future.result()


# --- the table --------------------------------------------------------------------------------------------------


def read_rows(path: Path) -> dict[str, Row]:
    """The rows of a table by name; none when there is no table yet."""
    return {row["name"]: row for row in csv.DictReader(path.open())} if path.is_file() else {}


def write_rows(path: str | Path, ordered: list[Row]) -> None:
    """A table, whole or not at all; `path` may be a URL that papermill knows."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ordered[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(ordered)
    if "://" in str(path):
        from papermill.iorw import papermill_io

        papermill_io.write(text.getvalue(), path, [".csv"])
    else:
        write_whole(Path(path), text.getvalue())


def run_jobs(jobs: list[Job], table: str | Path, known: dict[str, Row], scheduler: str = "") -> dict[str, Row]:
    """Run what is not finished; the table is written after every run. Raises UserError at the end when runs failed."""
    rows = {name: row for name, row in known.items() if name in {one.about["name"] for one in jobs}}
    open_jobs, failed = [], []
    for one in jobs:
        name = one.about["name"]
        if row := rows.get(name) or finished(one):
            rows[name] = row | one.about  # what is said of a run may have been reworded since
            print(f"{name}: there already", flush=True)
        else:
            open_jobs.append(one)
    for one, row in on_cluster(open_jobs, scheduler) if scheduler and open_jobs else in_order(open_jobs):
        name = one.about["name"]
        if "error" in row:
            failed.append(name)
            print(f"{name}: failed ({row['error']}); see {one.target}", flush=True)
            continue
        rows[name] = row
        print(f"{name}: " + ", ".join(f"{column} {row[column]}" for column in MEASURED), flush=True)
        write_rows(table, in_table_order(jobs, rows))
    if rows:
        write_rows(table, in_table_order(jobs, rows))
    if failed:
        raise UserError(f"{len(failed)} of {len(jobs)} runs failed: {', '.join(failed)}; the others are in {table}")
    return rows


def make_folder(path: Path) -> None:
    """A folder that is there afterwards. Raises UserError when it cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {path}: {error.strerror}") from None


def in_table_order(jobs: list[Job], rows: dict[str, Row]) -> list[Row]:
    """The rows in the order of the grid."""
    return [rows[one.about["name"]] for one in jobs if one.about["name"] in rows]


def main(argv: list[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="helpers.runs.experiments", description="Run the design feedback loop.")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="names of runs, as in the table")
    parser.add_argument("--grid", default="", metavar="FILE", help="YAML or JSON: names -> changes of settings")
    parser.add_argument("--out", default="", help="where executed notebooks go (default: outs/scratch/experiments)")
    parser.add_argument("--scheduler", default="", metavar="ADDRESS", help="a dask scheduler, such as tcp://host:8786")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="of every run (default: the machine's)")
    options = parser.parse_args(argv)
    if options.threads < 0:
        raise UserError(f"--threads {options.threads} is negative; 0 takes what the machine gives")
    if options.grid and not options.out:
        raise UserError("--grid needs --out, a folder or a URL for its results")
    out = options.out or str(ROOT / "outs" / "scratch" / "experiments")
    out = out if "://" in out else str(Path(out).resolve())  # a URL is papermill's business
    jobs = read_grid(options.grid, out, options.threads) if options.grid else loop_jobs(out, options.threads)
    names = [one.about["name"] for one in jobs]
    for name in options.only:
        if name not in names:
            raise UserError(f"there is no run {name!r}.{nearest(name, names)} Known: {', '.join(names)}")
    if "://" not in out:
        make_folder(Path(out))
    for dataset in {one.settings["dataset"] for one in jobs}:
        load_data(dataset)  # a data set that is missing is said once and now, not by every run
    folder = out.rstrip("/") if options.grid else out_dir(profile_settings("full"))
    table = f"{folder}/experiments.csv"
    stored = {} if options.grid else read_rows(Path(table))
    same = {one.about["name"]: json.dumps(one.settings) for one in jobs}
    known = {name: row for name, row in stored.items() if row["settings"] == same.get(name)}
    chosen = {*options.only, *known} if options.only else set(names)
    wanted = [one for one in jobs if one.about["name"] in chosen]
    run_jobs(wanted, table, known, options.scheduler)


if __name__ == "__main__":
    from helpers.runs import experiments  # under its real name, which the workers of a cluster can import

    try:
        experiments.main()
    except UserError as error:
        exit_with(error)
