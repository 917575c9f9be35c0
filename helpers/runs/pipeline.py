"""The notebooks in order through papermill, then the report.

    python -m helpers.runs.pipeline                  the main job: stored weights are used when they fit
    python -m helpers.runs.pipeline --train          everything from nothing
    python -m helpers.runs.pipeline --profile smoke --out FOLDER     tiny settings, everything from nothing

Strict where papermill is not: an unknown parameter or a wrong type stops before any kernel starts, and every
notebook must leave the files that it promises. Killed or stopped at any moment, the same command goes on with the
first notebook that was not finished; after a complete run it begins anew.
"""

import argparse
import ast
import contextlib
import functools
import hashlib
import json
import os
import re
import sys
import textwrap
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ..config import EXERCISE, PROFILES, ROOT, UserError, cannot_write, exit_with, home, nearest, results_folder
from ..data import SPLITS, load_data
from ..runtime import environment
from ..schemas import read_json, write_json
from ..storage import fingerprint
from .supervise import Memory, Stopped, only_run, stoppable

# What each notebook must leave in the output folder. Their order is the order of running.
PROMISED: dict[str, tuple[str, ...]] = {
    "01_data_exploration": ("data.json", "class_examples.png", "pca_spectrum.png", "near_duplicates.png"),
    "02_autoencoder": ("autoencoder.safetensors", "autoencoder_history.json", "autoencoder_noise.png"),
    "03_vae_training": ("vae.safetensors", "vae_history.json", "loss_plot.png", "sigma_failure.png", "mistakes.png"),
    "04_evaluation": (
        "metrics.json",
        "metrics.csv",
        "metrics.png",
        "error_spectrum.png",
        "by_class.png",
        "bits_per_dimension.png",
        "confusion.png",
        "calibration.png",
        "rate_per_latent.png",
        "corruptions.png",
        "foreign_images.png",
        "out_of_distribution.png",
        *(f"{split}_{kind}_plot.png" for split in SPLITS for kind in ("regression", "data_points")),
    ),
    "05_generation": (
        "generation.json",
        *(f"{name}.png" for name in ("samples", "sharp", "scores", "peers", "class_samples", "interpolations")),
        *(f"{name}.png" for name in ("arithmetic", "temperatures", "neighbours", "overview")),
        "seed_spread.json",
        *(f"{model}{kind}" for model in ("reference", "sharp") for kind in (".safetensors", "_history.json")),
        "flow.safetensors",
    ),
    "06_compression": ("codec.safetensors", "compression.json", "rate_distortion.png", "equal_bytes.png"),
    "07_latent_explorer": ("latent_directions.png", "explorer.safetensors"),
}  # fmt: skip


STORED = (".safetensors", "_history.json", "seed_spread.json")  # ends of what an earlier run may have left for this one
OPTIONS = ("profile", "dataset", "out")  # parameters that have an option of their own


def notebook_path(name: str) -> Path:
    """The source of a notebook by its name without suffix."""
    return ROOT / "notebooks" / f"{name}.ipynb"


def declared_parameters(path: Path) -> dict[str, Any]:
    """Names and default values of the parameters cell. Raises UserError on a damaged file or a value not literal."""
    import nbformat
    import papermill

    try:
        nbformat.validate(nbformat.read(path, as_version=4))
        found = papermill.inspect_notebook(str(path))
    except Exception as error:  # nbformat raises whatever its parts raise
        reason = textwrap.shorten(str(error), 100, placeholder=" ...")
        raise UserError(f"{path} is not a notebook ({reason}); restore it") from None
    try:
        return {name: ast.literal_eval(about["default"]) for name, about in found.items()}
    except (ValueError, SyntaxError):
        raise UserError(f"{path.name}: the parameters cell must hold literals only") from None


def check_parameters(given: dict[str, Any], known: dict[str, Any]) -> None:
    """Raises UserError on a name that no notebook declares or a value of another type than its default."""
    for name, value in given.items():
        if name not in known:
            raise UserError(
                f"unknown parameter {name!r}.{nearest(name, list(known))} Known: {', '.join(sorted(known))}"
            )
        default = known[name]
        if type(value) is not type(default) and not (type(default) is float and type(value) is int):
            raise UserError(
                f"{name}={value!r} is {type(value).__name__}, but its default {default!r} is {type(default).__name__}"
            )


def parse_parameters(texts: list[str]) -> dict[str, Any]:
    """["epochs=3", "lr=2.0"] -> {"epochs": 3, "lr": 2.0}. Raises UserError on another form or an option's name."""
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"-p {text!r} must have the form name=value")
        if name in OPTIONS:
            raise UserError(f"{name} is set by --{name}, not by -p")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            found[name] = value
    return found


def run_notebook(name: str, folder: Path, parameters: dict[str, Any]) -> float:
    """Execute one notebook into folder/notebooks; returns its seconds.

    The executed copy appears when it is whole. A failed one is kept as NAME.failed.ipynb beside the last good one.
    Raises UserError that names the cell and the reason, also when a promised file was not written.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    final = folder / "notebooks" / f"{name}.ipynb"
    partial, failed = final.with_suffix(".partial.ipynb"), final.with_suffix(".failed.ipynb")
    config = Config()
    config.KernelManager.transport_encryption = "auto"  # or every log carries a warning about plain TCP
    # An interrupted kernel complains of the sockets that it closes itself; errors of cells do not come this way.
    config.NotebookClient.extra_arguments = ["--IPKernelApp.log_level=CRITICAL"]
    started, began = time.perf_counter(), time.time()
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        papermill.execute_notebook(
            str(notebook_path(name)), str(partial), parameters, cwd=str(ROOT / "notebooks"), kernel_name="python3",
            progress_bar=False, coalesce_streams=True, autosave_cell_every=15, config=config,
        )  # fmt: skip
        check_promises(name, folder, began)
        tidy(partial, folder)
        os.replace(partial, final)
        failed.unlink(missing_ok=True)
    except (PapermillExecutionError, UserError) as error:
        with contextlib.suppress(OSError):
            os.replace(partial, failed)
        reason = failure(error) if isinstance(error, PapermillExecutionError) else f": {error}"
        raise UserError(f"{name} failed {reason}; see {shown(failed)}") from None
    except DeadKernelError:
        reason = "its kernel died, mostly because the memory was full or somebody killed it"
        raise UserError(f"{name} failed: {reason}; free memory, then run the same command again") from None
    except OSError as error:
        raise cannot_write(Path(error.filename or partial), error) from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return time.perf_counter() - started


def failure(error: Any) -> str:
    """Cell and reason of a PapermillExecutionError in one line."""
    first = next((line for line in error.source.splitlines() if line.strip()), "")
    reason = re.sub(r"\s+", " ", f"{error.ename}: {error.evalue}")
    return f"in cell {error.exec_count} ({textwrap.shorten(first, 60, placeholder=' ...')}): {reason}"


def check_promises(name: str, folder: Path, began: float) -> None:
    """Raises UserError when a promised file is missing or older than the run (what is STORED may be older)."""
    for promised in PROMISED[name]:
        path = folder / promised
        if not path.is_file() or (path.stat().st_mtime < began - 2 and not promised.endswith(STORED)):
            raise UserError(f"{name} did not write {promised}, which it promises")


def tidy(path: Path, folder: Path) -> None:
    """Take the machine's folders out of an executed notebook: they mean nothing elsewhere."""
    text = path.read_text()
    for place, label in ((folder, f"outs/{folder.name}"), (ROOT, ".")):
        text = text.replace(json.dumps(str(place))[1:-1], label)
    notebook = json.loads(text)
    about = notebook["metadata"].get("papermill", {})
    notebook["metadata"]["papermill"] = {k: about[k] for k in ("duration", "start_time", "version") if k in about}
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


def shown(path: Path) -> str:
    """A path as a reader at the repository root would type it."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


# --- a run that was interrupted ---------------------------------------------------------------------------------


class Unfinished:
    """Which notebooks a run has finished: a file beside its results, removed when the run is complete.

    A notebook counts as finished while its source, its parameters, the package and all notebooks before it are the
    same, and every promised file is as it was left.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / ".unfinished.json"
        self.done: dict[str, dict[str, Any]] = {}
        self.at: dict[str, Any] = {}  # the notebook that runs: its key and when it first began
        if self.path.is_file():
            try:
                stored = read_json(self.path, "all notebooks run again")
                self.done, self.at = stored["done"], stored["at"]
            except UserError as error:
                print(f"note: {error}", flush=True)

    def has(self, name: str, key: str) -> bool:
        """Has the interrupted run finished this notebook, and is everything as it left it?"""
        known = self.done.get(name)
        files = known["files"] if known and known["key"] == key else {}
        paths = {self.folder / file: digest for file, digest in files.items()}
        return bool(paths) and all(path.is_file() and fingerprint(path) == digest for path, digest in paths.items())

    def begin(self, name: str, key: str) -> None:
        """A notebook starts; it and all after it count as not done: what they read changes."""
        self.done = {k: self.done[k] for k in PROMISED if k < name and k in self.done}
        if self.at.get("key") != key:
            self.at = {"key": key, "began": time.time()}
        self._write()

    def add(self, name: str, key: str, seconds: float, mib: float) -> None:
        """A notebook is finished."""
        files = {file: fingerprint(self.folder / file) for file in (*PROMISED[name], f"notebooks/{name}.ipynb")}
        self.done[name] = {"key": key, "seconds": round(seconds, 1), "peak_mib": round(mib), "files": files}
        self._write()

    def trained(self, name: str) -> bool:
        """Did the interrupted attempt at this very notebook already store all that it trains?"""
        made = [self.folder / file for file in PROMISED[name] if file.endswith((".safetensors", "_history.json"))]
        return bool(made) and all(path.is_file() and path.stat().st_mtime > self.at["began"] for path in made)

    def _write(self) -> None:
        write_json(self.path, {"at": self.at, "done": self.done})

    def remove(self) -> None:
        """The run is complete."""
        self.path.unlink(missing_ok=True)


def key_of(name: str, parameters: dict[str, Any], upstream: str) -> str:
    """What decides the results of a notebook, as a SHA-256: its source, its parameters, our code, what ran before."""
    parts = (notebook_path(name).read_bytes(), json.dumps(parameters, sort_keys=True), code_fingerprint(), upstream)
    return hashlib.sha256(b"\0".join(p if isinstance(p, bytes) else p.encode() for p in parts)).hexdigest()


@functools.cache
def code_fingerprint() -> str:
    """The SHA-256 of the package."""
    found = hashlib.sha256()
    for path in sorted((ROOT / "helpers").rglob("*.py")):
        found.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return found.hexdigest()


# --- all notebooks ----------------------------------------------------------------------------------------------


def run_all(names: list[str], folder: Path, given: dict[str, Any], expected: dict[str, float]) -> Unfinished:
    """Run notebooks in order; each gets those of the given parameters that it declares.

    `expected` are the seconds of an earlier run of the same kind. Returns the record of what was done.
    """
    known = {name: declared_parameters(notebook_path(name)) for name in PROMISED}
    check_parameters(given, {k: v for parameters in known.values() for k, v in parameters.items()})
    whole = names == list(PROMISED)
    run, upstream, going_on = Unfinished(folder), "", whole
    for number, name in enumerate(names, 1):
        chosen = {k: v for k, v in given.items() if k in known[name]}
        upstream = key_of(name, chosen, upstream)
        label = f"[{number}/{len(names)}] {name}"
        going_on = going_on and run.has(name, upstream)
        if going_on:
            print(f"{label}: finished before the interruption", flush=True)
            continue
        print(f"{label}: started {clock()}{estimate(names[number - 1 :], expected)}", flush=True)
        if whole:
            run.begin(name, upstream)
            # What an interrupted attempt trained from nothing is not trained a second time.
            chosen |= {"fresh": False} if chosen.get("fresh") and run.trained(name) else {}
        with Memory() as memory:
            seconds = run_notebook(name, folder, chosen)
        if whole:
            run.add(name, upstream, seconds, memory.mib)
        print(f"{' ' * len(label)}  {span(seconds)}, peak memory {memory.mib / 1024:.1f} GiB", flush=True)
    return run


def clock(ahead: float = 0) -> str:
    """The local time `ahead` seconds from now, such as "02:31"."""
    return f"{datetime.now() + timedelta(seconds=ahead):%H:%M}"


def span(seconds: float) -> str:
    """Seconds as somebody would say them: "45 s", "12 min", "2 h 05 min"."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def estimate(names: list[str], expected: dict[str, float]) -> str:
    """How long the first of these notebooks and all of them will take, as far as an earlier run tells."""
    if any(name not in expected for name in names):
        return ""
    total = sum(expected[name] for name in names)
    return f", about {span(expected[names[0]])}; all done about {clock(total)}"


def earlier_seconds(folder: Path, profile: str, fresh: bool) -> dict[str, float]:
    """The seconds of each notebook in the last complete run of the same kind; nothing when there is none."""
    try:
        record = read_json(folder / "run.json")
    except UserError:
        return {}  # only an estimate depends on it
    return record["seconds"] if (record["profile"], record["fresh"]) == (profile, fresh) else {}


def main(argv: list[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="helpers.runs.pipeline", description="Run the notebooks, then the report.")
    parser.add_argument("--profile", choices=PROFILES, default="full")
    parser.add_argument("--dataset", default="auto", help="as for load_data; see the README")
    parser.add_argument("--train", action="store_true", help="train from nothing instead of loading stored weights")
    parser.add_argument("--out", type=Path, help="output folder (default: outs/exercise_03, or outs/photos)")
    parser.add_argument("--only", nargs="+", default=[], metavar="NN", help="numbers of the notebooks to run")
    parser.add_argument("-p", dest="parameters", action="append", default=[], metavar="NAME=VALUE")
    options = parser.parse_args(argv)
    given = parse_parameters(options.parameters)
    names = [name for name in PROMISED if not options.only or name[:2] in options.only]
    if not names:
        raise UserError(f"--only {' '.join(options.only)} names no notebook; they are numbered 01 to 07")
    data = load_data(options.dataset)
    dataset, notice = data.name, data.notice
    del data  # its memory is for the kernels
    folder = choose_folder(dataset, options.profile, options.out)
    fresh = options.train or options.profile == "smoke" or bool(given.get("fresh"))
    given |= {"profile": options.profile, "dataset": dataset, "out": str(folder)} | ({"fresh": True} if fresh else {})
    with only_run(folder):
        print(f"{notice or f'Data: {dataset}.'} Results go to {shown(folder)}.", flush=True)
        run = run_all(names, folder, given, earlier_seconds(folder, options.profile, fresh))
        if not options.only:
            write_json(folder / "run.json", run_record(run, dataset, options.profile, fresh))
        reports(dataset, folder)
        if not options.only:
            run.remove()


def run_record(run: Unfinished, dataset: str, profile: str, fresh: bool) -> dict[str, Any]:
    """What run.json holds of a complete run: seconds and peak memory (MiB, kernel and pipeline) of each notebook."""
    seconds = {name: about["seconds"] for name, about in run.done.items()}
    return {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "dataset": dataset,
        "profile": profile,
        "fresh": fresh,
        "seconds": seconds,
        "total_seconds": round(sum(seconds.values()), 1),
        "peak_mib": {name: about["peak_mib"] for name, about in run.done.items()},
        "environment": environment(),
    }


def choose_folder(dataset: str, profile: str, out: Path | None) -> Path:
    """`out` when it is given; else the published folder of the data set. Smoke results need a folder of their own."""
    if out:
        return results_folder(out)
    if profile != "full":
        raise UserError("--profile smoke needs --out FOLDER, so that published results stay as they are")
    return home(dataset)


def reports(dataset: str, folder: Path) -> None:
    """Render the report of this run; when it ran on photos, also the CIFAR-10 one from its committed results.

    The executed notebooks become pages of the same look, beside them.
    """
    from ..show import notebook_page, report

    pages = notebook_page.export_all(folder)
    print(f"{len(pages)} notebooks as pages: {shown(folder / 'notebooks')}/*.html")
    missing = {name: file for name, files in PROMISED.items() for file in files if not (folder / file).is_file()}
    if missing:
        print(f"no report: {folder} has not the results of {', '.join(missing)}")
        return
    if folder.parent != ROOT / "outs":
        print(f"report of this run: {shown(report.build(folder, folder / 'report'))}")
        return
    if dataset == "photos":
        own = report.build(folder, ROOT / "report" / "photos")
        committed = ROOT / "outs" / EXERCISE
        if (committed / "metrics.json").is_file():
            page = report.build(committed, ROOT / "report" / EXERCISE)
            print(f"CIFAR-10, committed results, not computed in this run: {shown(page)}")
        print(f"photos, this run (not CIFAR-10): {shown(own)}")
        return
    print(f"{dataset}, this run: {shown(report.build(folder, ROOT / 'report' / folder.name))}")


def command(argv: list[str] | None = None) -> None:
    """`main` as a program: every end that is not the good one is one line and an exit code (2; 128 + a signal)."""
    try:
        with stoppable():
            main(argv)
    except UserError as error:
        exit_with(error)
    except Stopped as stop:
        print(f"stopped by {stop}; the same command goes on where this one stopped", file=sys.stderr)
        raise SystemExit(128 + stop.number) from None


if __name__ == "__main__":
    command()
