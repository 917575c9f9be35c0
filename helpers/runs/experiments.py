"""The design feedback loop as real runs: each changes one thing of its parent, all at one small budget.

    python -m helpers.runs.experiments [--only NAME ...]        adds rows to outs/exercise_03/experiments.csv

A run that the table already holds with the same settings is not repeated, so a stopped loop goes on where it was. Only
validation images are looked at. Small runs rank ideas; they do not predict final numbers.
"""

import argparse
import csv
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

from ..config import Settings, UserError, exit_with, nearest, out_dir, profile_settings, write_whole
from ..data import Dataset, load_data
from ..evaluate import evaluate_model
from ..models import build_model
from ..runtime import environment
from ..training import fit

# The same number of images for every run, meant for about six minutes at the base's width on two cores.
BUDGET: dict[str, Any] = {"n_train": 22500, "epochs": 5}
BASE = "sigma learned"
NOISE = "how large is the noise?"
# name: (parent, the one change, what was seen before that suggested it)
LOOP: dict[str, tuple[str, dict[str, Any], str]] = {
    "autoencoder": ("", {"model": "autoencoder"}, "the model of the previous exercise"),
    "VAE, sigma = 1": ("autoencoder", {"model": "vae", "sigma": 1.0}, "its codes follow no distribution"),
    "sigma = 0.1": ("VAE, sigma = 1", {"sigma": 0.1}, "hardly any rate: pixels count as noise"),
    BASE: ("sigma = 0.1", {"sigma": 0.0}, "the error is below 0.1: who knows the right value?"),
    "seed 1": (BASE, {"seed": 1}, NOISE),
    "seed 2": (BASE, {"seed": 2}, NOISE),
    "beta = 0.25": (BASE, {"beta": 0.25}, "does a cheaper rate buy sharper pictures?"),
    "beta = 4": (BASE, {"beta": 4.0}, "does a dearer rate give a better prior?"),
    "beta = 16": (BASE, {"beta": 16.0}, "where does the code collapse?"),
    "32 latents": (BASE, {"latent_dim": 32}, "is the code the bottleneck?"),
    "64 latents": (BASE, {"latent_dim": 64}, "is the code the bottleneck?"),
    "256 latents": (BASE, {"latent_dim": 256}, "is the code the bottleneck?"),
    "no class terms": (BASE, {"class_weight": 0.0, "code_weight": 0.0}, "do pixels and classes pull apart?"),
    "low class weights": (BASE, {"class_weight": 20.0, "code_weight": 4.0}, "do pixels and classes pull apart?"),
    "high class weights": (BASE, {"class_weight": 500.0, "code_weight": 100.0}, "do pixels and classes pull apart?"),
    "no augmentation": (BASE, {"translate": 0, "flip": False}, "does it help in so few epochs?"),
    "half the width": (BASE, {"width": 16}, "is the network the bottleneck?"),
    "Muon": (BASE, {"muon_rate": 2.5}, "would updates that spare no direction learn faster?"),
    "batches of 128": (BASE, {"batch_size": 128}, "more steps, each noisier?"),
}
MEASURED = ("psnr_pooled", "rate", "distortion", "bpd", "active_units", "accuracy", "code_accuracy", "sigma")


def loop_settings(base: Settings) -> dict[str, Settings]:
    """The complete settings of every run of the loop: those of its parent with one change."""
    found: dict[str, Settings] = {}
    for name, (parent, change, _) in LOOP.items():
        found[name] = dataclasses.replace(found.get(parent, base), **change)
    return found


def run(name: str, settings: Settings, data: Dataset) -> dict[str, str]:
    """Train one run and measure it on all validation images; a row of the table."""
    parent, change, why = LOOP[name]
    model = build_model(settings, len(data.class_names))
    *_, last = fit(model, data, settings)
    found = evaluate_model(model, data.validation).metrics
    row = {"name": name, "parent": parent, "why": why, "change": ", ".join(f"{k}={v}" for k, v in change.items())}
    row |= {column: f"{found[column].value:.5g}" if column in found else "" for column in MEASURED}
    row |= {"seconds": f"{last['seconds']:.0f}", "seed": str(settings.seed), "n_validation": str(len(data.validation))}
    about = environment()
    return row | {k: str(about[k]) for k in ("torch", "device", "threads")} | {"settings": described(settings)}


def described(settings: Settings) -> str:
    """The settings as one cell of the table."""
    return json.dumps(settings.as_dict())


def read_rows(path: Path) -> dict[str, dict[str, str]]:
    """The rows of a table by name; none when there is no table yet."""
    return {row["name"]: row for row in csv.DictReader(path.open())} if path.is_file() else {}


def write_rows(path: Path, ordered: list[dict[str, str]]) -> None:
    """A table, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ordered[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(ordered)
    write_whole(path, text.getvalue())


def main(argv: list[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="helpers.runs.experiments", description="Run the design feedback loop.")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="names of runs, as in the table")
    options = parser.parse_args(argv)
    for name in options.only:
        if name not in LOOP:
            raise UserError(f"there is no run {name!r}.{nearest(name, list(LOOP))} Known: {', '.join(LOOP)}")
    data = load_data("cifar10")
    wanted = loop_settings(dataclasses.replace(profile_settings("full"), **BUDGET))
    path = out_dir(profile_settings("full")) / "experiments.csv"
    known = {name: described(settings) for name, settings in wanted.items()}
    rows = {name: row for name, row in read_rows(path).items() if row["settings"] == known.get(name)}
    for name in options.only or LOOP:
        if name in rows:
            print(f"{name}: in the table already", flush=True)
            continue
        rows[name] = run(name, wanted[name], data)
        write_rows(path, [rows[done] for done in LOOP if done in rows])
        print(f"{name}: " + ", ".join(f"{column} {rows[name][column]}" for column in MEASURED), flush=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        exit_with(error)
