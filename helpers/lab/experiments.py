"""Many runs, the design feedback loop or a grid of your own, as papermill jobs of one small notebook.

A grid is YAML or JSON, names -> changes of the published settings ("profile" may be one of them), or of another run
before it: `wide and slow: {parent: wide, lr: 0.001, why: "is it the size of the steps?"}`. A run whose row, or executed
notebook in OUT, is there with the same settings is not repeated; what a dying worker did is done again on another.
Only validation images are looked at. Small runs rank ideas; they predict no final numbers.
"""

import base64
import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import papermill
import torch
from papermill import iorw
from PIL import Image
from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor
from typer import Option

from ..data import Dataset, in_batches
from ..engine import ROOT, Record, UserError, cannot_write, did_you_mean, environment, results_folder, write_whole
from ..engine.kernels import execute_notebook, sha256_of_package
from ..evaluate import evaluate_model
from ..measure.rows import file_word, pictures_path, read_rows
from ..models import Autoencoder
from ..run import build_model
from ..settings import Settings, out_dir, profile_settings, settings_class
from ..show.images import pixels
from ..show.theme import image_file
from ..sources import load_data
from ..training import fit

DESIGN_LOOP = Path(__file__).with_name("design_loop.json")  # five epochs on all training images each
NOTEBOOK = Path(__file__).with_name("experiment.ipynb")
MEASURED = ("psnr_pooled", "rate", "distortion", "bpd", "active_units", "accuracy", "code_accuracy", "sigma")
Name = Annotated[str, Field(coerce_numbers_to_str=True)]
GRID = TypeAdapter(Annotated[dict[Name, dict[Name, Any]], Field(min_length=1, max_length=1000)])
Cells = dict[str, str]  # a row of the table, by column


class Job(NamedTuple):
    """One run of a grid, as something that can be sent to another machine."""

    name: str
    labels: Cells  # what the table says of the run beside its results
    settings: dict[str, Any]
    target: str  # where its executed notebook goes: a path or a URL that papermill knows
    threads: int  # 0: as many as the machine gives
    code: str  # the SHA-256 of the package that asked for it


def grid_jobs(path: str | Path, out: str, threads: int) -> list[Job]:
    """The jobs of a grid file, local or remote. UserError: not names -> changes of published settings or a parent."""
    settings: dict[str, Settings] = {}
    jobs: dict[str, Job] = {}
    for name, change in read_grid(path).items():
        labels = {"name": name, "parent": str(change.pop("parent", "")), "why": str(change.pop("why", ""))}
        labels["change"] = ", ".join(f"{setting}={value}" for setting, value in change.items())
        try:
            if not (parent := labels["parent"]):
                settings[name] = profile_settings(**change)
            elif inherited := settings.get(parent):
                kind = settings_class(change.get("model", inherited.model))
                known = {k: v for k, v in inherited.as_dict().items() if k in kind.model_fields}
                settings[name] = kind(**(known | change))
            else:
                raise UserError(f"there is no run {parent!r} before it.{did_you_mean(parent, settings)}")
        except UserError as error:
            raise UserError(f"{path}, run {name!r}: {error}") from None
        target = f"{out.rstrip('/')}/{file_word(name)}.ipynb"
        if target in jobs:
            raise UserError(f"{path}: another run has the file name of {name!r}; give it another name")
        jobs[target] = Job(name, labels, settings[name].as_dict(), target, threads, sha256_of_package())
    return list(jobs.values())


def read_grid(path: str | Path) -> dict[str, dict[str, Any]]:
    """The content of a grid file. Raises UserError when it is not a table of names and changes."""
    try:
        return GRID.validate_python(iorw.read_yaml_file(str(path)))
    except ValidationError:
        example = "and for each its changes, such as `wide: {width: 64}`"
        raise UserError(f"the grid {path} must hold names, at most 1000, {example}") from None
    except Exception as error:  # every store has its own errors
        raise UserError(f"the grid {path} cannot be read ({str(error).splitlines()[0]})") from None


def run_experiment(
    settings: Settings, data: Dataset, watch: Callable[[Record], None] = lambda _: None, threads: int = 0
) -> Cells:
    """Train one run and measure it on all validation images; the results as the cells of a row."""
    torch.set_num_threads(threads or torch.get_num_threads())
    model = build_model(settings, len(data.class_names))
    for record in fit(model, data, settings):
        watch(record)
    seen = data.limited(settings.n_train, settings.n_eval)
    metrics, machine = evaluate_model(model, seen.validation).metrics, environment()
    row = {column: f"{metrics[column].value:.5g}" if column in metrics else "" for column in MEASURED}
    row |= {"seconds": f"{record['seconds']:.0f}", "seed": str(settings.seed)}
    row |= {"n_train": str(len(seen.train)), "n_validation": str(len(seen.validation))}
    row |= {column: str(machine[column]) for column in ("torch", "device", "threads")}
    return row | {"settings": json.dumps(settings.as_dict()), "pictures": pictures(model, seen.validation.images[:8])}


def pictures(model: Autoencoder, images: Tensor) -> str:
    """Uint8 images (n, 3, 32, 32) and, below each, what the model makes of it, as a PNG in base64."""
    decoded = in_batches(lambda x: model.decode(model.code(x)), images, model.device)
    rows = [np.concatenate(list(pixels(row)), axis=1) for row in (images, decoded)]
    return base64.b64encode(image_file(Image.fromarray(np.concatenate(rows)), "PNG", optimize=True)).decode()


def execute(one: Job) -> Cells:
    """Run the notebook of a job; the row, or {"error": why}. This is what a worker of a cluster does."""
    if one.code != sha256_of_package():
        return {"error": f"this worker runs other code, that of {ROOT}; start it in a checkout of the same state"}
    parameters = {"name": one.name, "settings": one.settings, "threads": one.threads}
    try:
        execute_notebook(NOTEBOOK, one.target, parameters, ROOT)
    except papermill.PapermillExecutionError as error:
        return {"error": re.sub(r"\s+", " ", f"{error.ename}: {error.evalue}")}
    except UserError as error:
        return {"error": str(error)}
    return finished(one) or {"error": f"{one.target} holds no results"}


def finished(one: Job) -> Cells | None:
    """The row that the executed notebook of a job holds, if it is there, whole, and of the same settings."""
    try:
        cells = iorw.load_notebook_node(one.target).cells
    except Exception:  # every store has its own errors; a copy that cannot be read is not finished
        return None
    rows = [o.get("data", {}).get("application/json") for cell in cells for o in cell.get("outputs", [])]
    same = [row for row in rows if isinstance(row, dict) and row.get("settings") == json.dumps(one.settings)]
    return one.labels | {k: str(v) for k, v in same[-1].items()} if same else None


def on_cluster(jobs: list[Job], scheduler: str) -> Iterator[tuple[Job, Cells]]:
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
            lost = future.exception()
            yield futures[future], {"error": f"{type(lost).__name__}: {lost}"} if lost else future.result()


def write_table(path: str, rows: list[Cells]) -> None:
    """Rows as a .csv, whole or not at all, beside it the pictures of each run; `path` may be a URL (no pictures)."""
    text = io.StringIO()
    columns = [column for column in rows[0] if column != "pictures"]
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    for row in rows if "://" not in path else []:
        if "pictures" in row:  # one that was in the table already has its file
            write_whole(pictures_path(Path(path), row["name"]), base64.b64decode(row["pictures"]))
    if "://" in path:
        iorw.papermill_io.write(text.getvalue(), path, [".csv"])
    else:
        write_whole(Path(path), text.getvalue())


def run_jobs(jobs: list[Job], table: str, known: dict[str, Cells], scheduler: str = "") -> None:
    """Run what is not finished; the table is written after every run. Raises UserError at the end when runs failed."""
    # What is said of a run may have been reworded since it was stored.
    rows = {one.name: row | one.labels for one in jobs if (row := known.get(one.name) or finished(one))}
    for name in rows:
        print(f"{name}: there already", flush=True)
    waiting, failed = [one for one in jobs if one.name not in rows], []
    if any(row != known.get(name) for name, row in rows.items()):
        write_table(table, list(rows.values()))
    here = ((one, execute(one)) for one in waiting)
    for one, row in on_cluster(waiting, scheduler) if scheduler and waiting else here:
        if "error" in row:
            failed.append(one.name)
            print(f"{one.name}: failed ({row['error']}); see {one.target}", flush=True)
        else:
            rows[one.name] = row
            write_table(table, [rows[one.name] for one in jobs if one.name in rows])
            print(f"{one.name}: " + ", ".join(f"{column} {row[column]}" for column in MEASURED), flush=True)
    if failed:
        raise UserError(f"{len(failed)} of {len(jobs)} runs failed: {', '.join(failed)}; the others are in {table}")


def experiments(
    only: Annotated[list[str] | None, Option(metavar="NAME", help="a run, as in the table; may be repeated")] = None,
    grid: Annotated[str, Option(metavar="FILE", help="YAML or JSON: names -> changes of settings")] = "",
    out: Annotated[str, Option(help="executed notebooks; also s3://, gs:// (default: outs/scratch/experiments)")] = "",
    scheduler: Annotated[str, Option(metavar="ADDRESS", help="a dask scheduler, such as tcp://host:8786")] = "",
    threads: Annotated[int, Option(min=0, help="of every run; 0: as many as the machine gives")] = 0,
) -> None:
    """Run the design feedback loop, or a grid of your own; only what is not in its table yet."""
    if grid and not out:
        raise UserError("--grid needs --out, a folder or a URL for its results")
    out = out or str(ROOT / "outs" / "scratch" / "experiments")
    if "://" not in out:  # a URL is papermill's business
        out = str(results_folder(Path(out)))
        try:
            Path(out).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(Path(out), error) from None
    jobs = grid_jobs(grid or DESIGN_LOOP, out, threads)
    settings = {one.name: json.dumps(one.settings) for one in jobs}
    for name in only or []:
        if name not in settings:
            raise UserError(f"there is no run {name!r}.{did_you_mean(name, settings)} Known: {', '.join(settings)}")
    for dataset in {one.settings["dataset"] for one in jobs}:
        load_data(dataset)  # a data set that is missing is said once and now, not by every run
    table = f"{out.rstrip('/') if grid else out_dir(profile_settings())}/experiments.csv"
    stored = {} if grid else read_rows(Path(table))
    known = {name: row for name, row in stored.items() if settings.get(name) == row["settings"]}
    run_jobs([one for one in jobs if not only or one.name in {*only, *known}], table, known, scheduler)
