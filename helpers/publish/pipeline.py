"""The notebooks in order through papermill, then the report: `python -m helpers report`.

An unknown parameter or a wrong type stops before any kernel starts; every notebook must leave the files it promises.
Killed or stopped, the same command goes on with the first notebook not finished; after a complete run it begins anew.
"""

import ast
import contextlib
import json
import os
import textwrap
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import nbformat
import papermill
from typer import Option

from ..engine import Stoppable, UserError, did_you_mean, environment, read_json, write_json
from ..engine.files import ROOT, cannot_write, home, results_folder
from ..engine.kernels import execute_notebook
from ..settings import Profile, profile_settings
from ..sources import load_data
from .compare import compare
from .plan import NOTEBOOKS, PROMISED, Unfinished, check_promises, key_of, notebook_path
from .report import build
from .supervise import Memory, only_run


def report(
    profile: Annotated[Profile, Option(help="smoke: tiny settings, everything from nothing; needs --out")] = "full",
    dataset: Annotated[str, Option(help="as for load_data; see the README")] = "auto",
    train: Annotated[bool, Option("--train", help="train from nothing instead of loading stored weights")] = False,
    out: Annotated[Path | None, Option(help="output folder (default: outs/exercise_03, or outs/photos)")] = None,
    only: Annotated[list[str] | None, Option(metavar="NN", help="number of a notebook to run; may be repeated")] = None,
    parameters: Annotated[list[str] | None, Option("-p", metavar="NAME=VALUE", help="of the notebooks")] = None,
) -> None:
    """Run the notebooks, then render the report; stored weights are used when they fit."""
    with Stoppable():
        given, names = parse_parameters(parameters or []), numbered(only or [])
        declared = [declared_parameters(notebook_path(name)) for name in PROMISED]
        check_parameters(given, {k: v for parameters in declared for k, v in parameters.items()})
        profile_settings(**{name: given[name] for name in ("epochs", "seed") if given.get(name)})  # UserError: no run
        data = load_data(dataset)
        dataset, notice = data.name, data.notice or f"Data: {data.name}."
        del data  # its memory is for the kernels
        if not out and profile != "full":
            raise UserError("--profile smoke needs --out FOLDER, so that published results stay as they are")
        folder = results_folder(out) if out else home(dataset)
        fresh = train or profile == "smoke" or bool(given.get("fresh"))
        given |= {"profile": profile, "dataset": dataset, "out": str(folder)} | ({"fresh": True} if fresh else {})
        with only_run(folder):
            print(f"{notice} Results go to {shown(folder)}.", flush=True)
            run = run_all(names, folder, given)
            publish(dataset, folder)
            if not only:
                seconds = {name: entry["seconds"] for name, entry in run.done.items()}
                peaks = {name: entry["peak_mib"] for name, entry in run.done.items()}  # of the kernel and the pipeline
                record = {
                    "finished": datetime.now(UTC).isoformat(timespec="seconds"), "environment": environment(),
                    "dataset": dataset, "profile": profile, "fresh": fresh, "seconds": seconds,
                    "total_seconds": round(sum(seconds.values()), 1), "peak_mib": peaks,
                }  # fmt: skip
                write_json(folder / "run.json", record)
                run.path.unlink(missing_ok=True)
                print(compare(folder))


def numbered(only: list[str]) -> list[str]:
    """The notebooks with these numbers, of one or two digits; none means all. Raises UserError on an unknown one."""
    wanted = [number.zfill(2) for number in only]
    if unknown := set(wanted) - {name[:2] for name in PROMISED}:
        raise UserError(f"--only {' '.join(sorted(unknown))}: there are only {', '.join(n[:2] for n in PROMISED)}")
    return [name for name in PROMISED if not only or name[:2] in wanted]


def parse_parameters(texts: list[str]) -> dict[str, Any]:
    """["epochs=3", "lr=2.0"] -> {"epochs": 3, "lr": 2.0}. Raises UserError on another form or an option's name."""
    given: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"-p {text!r} must have the form name=value")
        if name in ("profile", "dataset", "out"):
            raise UserError(f"{name} is set by --{name}, not by -p")
        try:
            given[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            given[name] = value
    return given


def declared_parameters(path: Path) -> dict[str, Any]:
    """Names and default values of the parameters cell. Raises UserError on a damaged file or a value not literal."""
    try:
        nbformat.validate(nbformat.read(path, as_version=4))
        declared = papermill.inspect_notebook(str(path))
        return {name: ast.literal_eval(parameter["default"]) for name, parameter in declared.items()}
    except Exception as error:  # nbformat raises whatever its parts raise
        reason = textwrap.shorten(str(error), 100, placeholder=" ...")
        raise UserError(f"{path} is not a notebook whose parameters are literals ({reason}); restore it") from None


def check_parameters(given: dict[str, Any], declared: dict[str, Any]) -> None:
    """Raises UserError on a name that no notebook declares or a value of another type than its default."""
    for name, value in given.items():
        if name not in declared:
            raise UserError(f"unknown parameter {name!r}.{did_you_mean(name, declared)} Known: {', '.join(declared)}")
        given_type, wanted = type(value).__name__, type(declared[name]).__name__
        if given_type != wanted and (given_type, wanted) != ("int", "float"):
            raise UserError(f"{name}={value!r} is {given_type}, not {wanted} (its default is {declared[name]!r})")


def run_all(names: list[str], folder: Path, given: dict[str, Any]) -> Unfinished:
    """Run notebooks in order, each with its own of the given parameters."""
    declared = {name: declared_parameters(notebook_path(name)) for name in names}
    complete = names == list(PROMISED)
    run, upstream, going_on = Unfinished(folder), "", complete
    for number, name in enumerate(names, 1):
        chosen = {k: v for k, v in given.items() if k in declared[name]}
        upstream = key_of(name, chosen, upstream)
        label = f"[{number}/{len(names)}] {name}"
        if going_on := going_on and run.has(name, upstream):
            print(f"{label}: finished before the interruption", flush=True)
            continue
        print(f"{label}: started {datetime.now():%H:%M}{remaining(names[number - 1 :], folder, given)}", flush=True)
        if complete:
            run.begin(name, upstream)
            # What an interrupted attempt trained from nothing is not trained a second time.
            chosen |= {"fresh": False} if chosen.get("fresh") and run.trained(name) else {}
        with Memory() as memory:
            seconds = run_notebook(name, folder, chosen)
        if complete:
            run.add(name, upstream, seconds, memory.mib)
        print(f"{' ' * len(label)}  {span(seconds)}, peak memory {memory.mib / 1024:.1f} GiB", flush=True)
    return run


def run_notebook(name: str, folder: Path, parameters: dict[str, Any]) -> float:
    """Execute one notebook into folder/notebooks, a failed one as NAME.failed.ipynb; its seconds, or a UserError."""
    final = folder / "notebooks" / f"{name}.ipynb"
    partial, failed = final.with_suffix(".partial.ipynb"), final.with_suffix(".failed.ipynb")
    began = time.time()
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        execute_notebook(notebook_path(name), str(partial), parameters, NOTEBOOKS)
        check_promises(name, folder, began)
        tidy(partial, folder)
        os.replace(partial, final)
        failed.unlink(missing_ok=True)
    except (papermill.PapermillExecutionError, UserError) as error:
        with contextlib.suppress(OSError):
            os.replace(partial, failed)
        reason = f": {error}"
        if isinstance(error, papermill.PapermillExecutionError):
            first = next((line for line in error.source.splitlines() if line.strip()), "")
            cell = f" in cell {error.exec_count} ({textwrap.shorten(first, 60, placeholder=' ...')})"
            reason = f"{cell}: {error.ename}: {' '.join(error.evalue.split())}"
        raise UserError(f"{name} failed{reason}; see {shown(failed)}") from None
    except OSError as error:
        raise cannot_write(Path(error.filename or partial), error) from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return time.time() - began


def tidy(path: Path, folder: Path) -> None:
    """Take the machine's folders out of an executed notebook, and redirect its links to the solutions."""
    text = path.read_text(encoding="utf-8").replace("](solutions/", "](../../../notebooks/solutions/")
    for place, label in ((folder, f"outs/{folder.name}"), (ROOT, ".")):
        text = text.replace(json.dumps(str(place))[1:-1], label)
    notebook = json.loads(text)
    notes = notebook["metadata"]["papermill"]
    notebook["metadata"]["papermill"] = {name: notes[name] for name in ("duration", "start_time", "version")}
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def shown(path: Path) -> str:
    """A path as a reader at the repository root would type it."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def span(seconds: float) -> str:
    """Seconds as somebody would say them: "45 s", "12 min", "2 h 05 min"."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def remaining(names: list[str], folder: Path, given: dict[str, Any]) -> str:
    """How long the first of these notebooks and all of them will take, if a complete run of the same kind tells."""
    with contextlib.suppress(UserError, KeyError):  # only an estimate depends on it
        record = read_json(folder / "run.json")
        seconds = [record["seconds"][name] for name in names]
        if (record["profile"], record["fresh"]) == (given["profile"], given.get("fresh", False)):
            end = datetime.now() + timedelta(seconds=sum(seconds))
            return f", about {span(seconds[0])}; all done about {end:%H:%M}"
    return ""


def publish(dataset: str, folder: Path) -> None:
    """Render the report of this run."""
    if missing := [name for name, files in PROMISED.items() if not all((folder / file).is_file() for file in files)]:
        print(f"no report: {folder} has not the results of {', '.join(missing)}")
        return
    target = ROOT / "report" / folder.name if folder.parent == ROOT / "outs" else folder / "report"
    print(f"report of this run, on {dataset}: {shown(build(folder, target))}")
