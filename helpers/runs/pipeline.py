"""The notebooks in order through papermill, then the report.

    python -m helpers.runs.pipeline                  the main job: stored weights are used when they fit
    python -m helpers.runs.pipeline --train          everything from nothing
    python -m helpers.runs.pipeline --profile smoke --out FOLDER     tiny settings, everything from nothing

Strict where papermill is not: an unknown parameter or a wrong type stops before any kernel starts, and every
notebook must leave the files that it promises.
"""

import argparse
import ast
import json
import os
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..config import EXERCISE, PROFILES, ROOT, UserError, exit_with, nearest, write_whole
from ..data import SPLITS, load_data
from ..runtime import environment

# What each notebook must leave in the output folder. Their order is the order of running.
PROMISED: dict[str, tuple[str, ...]] = {
    "01_data_exploration": ("data.json", "class_examples.png", "pca_spectrum.png", "near_duplicates.png"),
    "02_autoencoder": ("autoencoder.safetensors", "autoencoder_history.json", "autoencoder_noise.png"),
    "03_vae_training": ("vae.safetensors", "vae_history.json", "loss_plot.png", "sigma_failure.png"),
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
        *(f"{name}.png" for name in ("samples", "sharp", "scores", "class_samples", "interpolations")),
        *(f"{name}.png" for name in ("arithmetic", "temperatures", "neighbours")),
        *(f"{model}{kind}" for model in ("reference", "sharp") for kind in (".safetensors", "_history.json")),
        "flow.safetensors",
    ),
    "06_compression": ("codec.safetensors", "compression.json", "rate_distortion.png", "equal_bytes.png"),
    "07_latent_explorer": ("latent_directions.png",),
}  # fmt: skip


def notebook_path(name: str) -> Path:
    """The source of a notebook by its name without suffix."""
    return ROOT / "notebooks" / f"{name}.ipynb"


def declared_parameters(path: Path) -> dict[str, Any]:
    """Names and default values of the parameters cell. Raises UserError when a value is not a literal."""
    import papermill

    try:
        return {
            name: ast.literal_eval(about["default"]) for name, about in papermill.inspect_notebook(str(path)).items()
        }
    except ValueError:
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
    """["epochs=3", "profile=smoke"] -> {"epochs": 3, "profile": "smoke"}."""
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"-p {text!r} must have the form name=value")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found


def run_notebook(name: str, folder: Path, parameters: dict[str, Any]) -> float:
    """Execute one notebook into folder/notebooks; returns its seconds.

    The executed copy appears when it is whole. A failed one is kept as NAME.failed.ipynb beside the last good one.
    Raises UserError that names the failure, also when a promised file was not written.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    final = folder / "notebooks" / f"{name}.ipynb"
    partial, failed = final.with_suffix(".partial.ipynb"), final.with_suffix(".failed.ipynb")
    final.parent.mkdir(parents=True, exist_ok=True)
    config = Config()
    config.KernelManager.transport_encryption = "auto"  # or every log carries a warning about plain TCP
    started, began = time.perf_counter(), time.time()
    try:
        papermill.execute_notebook(
            str(notebook_path(name)), str(partial), parameters, cwd=str(ROOT / "notebooks"), kernel_name="python3",
            progress_bar=False, coalesce_streams=True, autosave_cell_every=15, config=config,
        )  # fmt: skip
        check_promises(name, folder, began)
    except BaseException as error:
        if partial.exists():
            os.replace(partial, failed)
        if isinstance(error, PapermillExecutionError):
            reason = re.sub(r"\s+", " ", f"{error.ename}: {error.evalue}")
            raise UserError(f"{name} failed ({reason}); see {shown(failed)}") from None
        raise
    tidy(partial, folder)
    os.replace(partial, final)
    failed.unlink(missing_ok=True)
    return time.perf_counter() - started


def check_promises(name: str, folder: Path, began: float) -> None:
    """Raises UserError when a promised file is missing or older than the run (stored weights may be older)."""
    for promised in PROMISED[name]:
        path = folder / promised
        kept = promised.endswith((".safetensors", "_history.json"))
        if not path.is_file() or (path.stat().st_mtime < began - 2 and not kept):
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


def run_all(names: list[str], folder: Path, given: dict[str, Any]) -> dict[str, float]:
    """Run notebooks in order; each gets those of the given parameters that it declares. Seconds by name."""
    known = {name: declared_parameters(notebook_path(name)) for name in PROMISED}
    check_parameters(given, {k: v for parameters in known.values() for k, v in parameters.items()})
    seconds = {}
    for name in names:
        print(f"{name} ...", end=" ", flush=True)
        chosen = {k: v for k, v in given.items() if k in known[name]}
        seconds[name] = round(run_notebook(name, folder, chosen), 1)
        print(f"{seconds[name]:.0f} s", flush=True)
    return seconds


def main(argv: list[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="helpers.runs.pipeline", description="Run the notebooks, then the report.")
    parser.add_argument("--profile", choices=PROFILES, default="full")
    parser.add_argument("--dataset", default="auto", help="auto, cifar10 or photos")
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
    folder = choose_folder(data.name, options.profile, options.out)
    print(f"{data.notice or 'Data: the original CIFAR-10.'} Results go to {shown(folder)}.", flush=True)
    given |= {"profile": options.profile, "dataset": data.name, "out": str(folder)}
    if options.train or options.profile == "smoke":
        given["fresh"] = True
    seconds = run_all(names, folder, given)
    record = {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "dataset": data.name,
        "profile": options.profile,
        "seconds": seconds,
        "total_seconds": round(sum(seconds.values()), 1),
        "environment": environment(),
    }
    if not options.only:
        write_whole(folder / "run.json", json.dumps(record, indent=1) + "\n")
    reports(data.name, folder)


def choose_folder(dataset: str, profile: str, out: Path | None) -> Path:
    """`out` when it is given; else the published folder of the data set. Smoke results need a folder of their own."""
    if out:
        return out.resolve()
    if profile != "full":
        raise UserError("--profile smoke needs --out FOLDER, so that published results stay as they are")
    return ROOT / "outs" / (EXERCISE if dataset == "cifar10" else dataset)


def reports(dataset: str, folder: Path) -> None:
    """Render the report of this run; when it ran on photos, also the CIFAR-10 one from its committed results."""
    from ..show import report

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
    print(f"CIFAR-10, this run: {shown(report.build(folder, ROOT / 'report' / EXERCISE))}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        exit_with(error)
