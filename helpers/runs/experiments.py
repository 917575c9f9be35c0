"""The design feedback loop as real runs: each changes one setting of its parent, all at one small budget.

    python -m helpers.runs.experiments          writes outs/exercise_03/experiments.csv, one row a run

Small runs rank ideas cheaply; only their order is read, and only on validation images.
"""

import csv
import dataclasses
import io
from typing import Any

from ..config import UserError, exit_with, out_dir, profile_settings, write_whole
from ..data import load_data
from ..models import build_model
from ..training import environment, fit

BUDGET = {"n_train": 4500, "n_eval": 1000, "width": 16, "epochs": 8, "batch_size": 128}
# name: (parent, the one change, what was seen in the parent that suggested it)
LOOP: dict[str, tuple[str, dict[str, Any], str]] = {
    "autoencoder": ("", {"model": "autoencoder"}, "the model of the previous exercise"),
    "VAE, sigma = 1": ("autoencoder", {"model": "vae", "sigma": 1.0}, "codes follow no distribution"),
    "sigma learned": ("VAE, sigma = 1", {"sigma": 0.0, "sigma_rate": 1.0}, "almost no rate: collapsed"),
    "sigma learns 20x faster": ("sigma learned", {"sigma_rate": 20.0}, "sigma far above the error"),
    "the same, seed 1": ("sigma learns 20x faster", {"seed": 1}, "how large is the noise?"),
    "the same, seed 2": ("sigma learns 20x faster", {"seed": 2}, "how large is the noise?"),
    "no class terms": ("sigma learns 20x faster", {"class_weight": 0.0, "code_weight": 0.0}, "do goals conflict?"),
    "code weight 200": ("sigma learns 20x faster", {"code_weight": 200.0}, "the code alone classifies worse"),
    "beta = 4": ("sigma learns 20x faster", {"beta": 4.0}, "would a lower rate help?"),
    "no augmentation": ("sigma learns 20x faster", {"translate": 0, "flip": False}, "does it matter here?"),
}
COLUMNS = ("distortion", "rate", "accuracy", "code_accuracy")


def main() -> None:
    """Run the whole loop and write its table."""
    data = load_data("cifar10")
    base = dataclasses.replace(profile_settings("full"), **BUDGET)
    runs, rows = {}, []
    for name, (parent, change, why) in LOOP.items():
        runs[name] = dataclasses.replace(runs.get(parent, base), **change)
        *_, last = fit(build_model(runs[name], len(data.class_names)), data, runs[name])
        row = {"name": name, "parent": parent, "why": why, "change": ", ".join(f"{k}={v}" for k, v in change.items())}
        row |= {column: f"{last[f'validation_{column}']:.4f}" for column in COLUMNS}
        row |= {"sigma": f"{last['sigma']:.4f}", "seconds": f"{last['seconds']:.0f}", "seed": runs[name].seed}
        row |= {"n_validation": BUDGET["n_eval"], "torch": environment()["torch"], "settings": runs[name].as_dict()}
        rows.append(row)
        print(f"{name}: distortion {row['distortion']}, rate {row['rate']}, accuracy {row['accuracy']}", flush=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(out_dir(profile_settings("full")) / "experiments.csv", text.getvalue())


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        exit_with(error)
