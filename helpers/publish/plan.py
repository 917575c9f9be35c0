"""What each notebook promises to write, and the record that lets an interrupted run go on."""

import time
from pathlib import Path
from typing import Any

from ..data import SPLITS
from ..engine import ROOT, UserError, read_json, seal, sha256_of_file, write_json
from ..engine.kernels import sha256_of_package

NOTEBOOKS = ROOT / "notebooks"
TRAINED = (".safetensors", "_history.json")  # ends of the files that a training leaves
# What each notebook, in the order of running, must leave in the output folder.
PROMISED: dict[str, tuple[str, ...]] = {
    "01_data_exploration": ("data.json", "class_examples.png", "pca_spectrum.png", "near_duplicates.png"),
    "02_autoencoder": ("autoencoder.safetensors", "autoencoder_history.json", "architecture.json", "architecture.png"),
    "03_vae_training": (
        "vae.safetensors", "vae_history.json", "loss_plot.png", "sigma_failure.png", "mistakes.png", "two_latents.png",
        "design_loop.png",
    ),
    "04_evaluation": (
        "metrics.json", "metrics.csv", "metrics.png", "error_spectrum.png", "by_class.png", "bits_per_dimension.png",
        "confusion.png", "calibration.png", "rate_per_latent.png", "corruptions.png", "foreign_images.png",
        "out_of_distribution.png", *(f"{s}_{kind}_plot.png" for s in SPLITS for kind in ("regression", "data_points")),
    ),
    "05_generation": (
        "generation.json", "samples.png", "sharp.png", "plane.png", "scores.png", "peers.png", "class_samples.png",
        "overview.png", "interpolations.png", "arithmetic.png", "temperatures.png", "neighbours.png",
        "guidance_scores.json", "sample_scores.json", "gaussians.safetensors",
        *(f"{kind}{end}" for kind in ("flow", "sharp", "judge") for end in TRAINED),
    ),
    "06_compression": (
        "codec.safetensors", "detail.safetensors", "compression.json", "bit_map.png", "rate_distortion.png",
        "qualities.png", "codec_scores.json", *(f"pixels{end}" for end in TRAINED),
    ),
    "07_latent_explorer": ("latent_directions.png", "explorer.safetensors"),
}  # fmt: skip
STORED = (*TRAINED, "_scores.json")  # ends of what an earlier run may have left for this one


def notebook_path(name: str) -> Path:
    """The source of a notebook by its name without suffix."""
    return NOTEBOOKS / f"{name}.ipynb"


def check_promises(name: str, folder: Path, began: float) -> None:
    """Raises UserError when a promised file is missing or older than the run (what is STORED may be older)."""
    for promised in PROMISED[name]:
        path = folder / promised
        if not path.is_file() or (path.stat().st_mtime < began - 2 and not promised.endswith(STORED)):
            raise UserError(f"{name} did not write {promised}, which it promises")


class Unfinished:
    """Which notebooks a run has finished (see `has`): a file beside its results, removed when the run is complete."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / ".unfinished.json"
        self.done: dict[str, dict[str, Any]] = {}
        self.at: dict[str, Any] = {}  # the notebook that runs: its key and when it first began
        try:
            if self.path.is_file():
                stored = read_json(self.path, "all notebooks run again")
                self.done, self.at = stored["done"], stored["at"]
        except UserError as error:
            print(f"note: {error}", flush=True)

    def has(self, name: str, key: str) -> bool:
        """Has the interrupted run finished this notebook, and is everything as it left it?"""
        entry = self.done.get(name, {"key": "", "files": {}})
        files = {self.folder / file: sha256 for file, sha256 in entry["files"].items()}
        return entry["key"] == key and all(p.is_file() and sha256_of_file(p) == files[p] for p in files)

    def begin(self, name: str, key: str) -> None:
        """A notebook starts; it and all after it count as not done: what they read changes."""
        self.done = {k: entry for k, entry in self.done.items() if k < name}
        if self.at.get("key") != key:
            self.at = {"key": key, "began": time.time()}
        write_json(self.path, {"at": self.at, "done": self.done})

    def add(self, name: str, key: str, seconds: float, mib: float) -> None:
        """A notebook is finished."""
        files = {file: sha256_of_file(self.folder / file) for file in (*PROMISED[name], f"notebooks/{name}.ipynb")}
        self.done[name] = {"key": key, "seconds": round(seconds, 1), "peak_mib": round(mib), "files": files}
        write_json(self.path, {"at": self.at, "done": self.done})

    def trained(self, name: str) -> bool:
        """Did the interrupted attempt at this very notebook already store all that it trains?"""
        made = [self.folder / file for file in PROMISED[name] if file.endswith(TRAINED)]
        return bool(made) and all(path.is_file() and path.stat().st_mtime > self.at["began"] for path in made)


def key_of(name: str, parameters: dict[str, Any], upstream: str) -> str:
    """The SHA-256 of all that decides a notebook's results: source, parameters, the package, what ran before it."""
    return seal({"of": (sha256_of_file(notebook_path(name)), parameters, sha256_of_package(), upstream)})
