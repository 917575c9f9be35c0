"""What every notebook opens with: its data, its settings, its folder, its gallery; and what it leaves."""

import contextlib
import re
import subprocess
from pathlib import Path
from typing import Any

import torch
from IPython import get_ipython
from IPython.display import Markdown, display

from .data import Dataset
from .engine import ROOT, read_json, sha256_of_file, weights_path, write_json
from .engine import home as published
from .engine.files import check_checkout
from .engine.runtime import runtime
from .settings import Settings, out_dir, profile_settings
from .show.theme import Gallery
from .sources import load_data

Session = tuple[Dataset, Settings, Path, Gallery]  # the last saves figures in the folder


def begin(profile: str, dataset: str, out: str, *, model: str = "vae", epochs: int = 0, seed: int = 0) -> Session:
    """The data in the profile's size, the settings asked for (`epochs` 0: the profile's), where results go; says so."""
    check_checkout(getattr(get_ipython(), "user_ns", {}).get("__vsc_ipynb_file__", ""))
    data = load_data(dataset)
    settings = profile_settings(profile, model, data.name, seed=seed, **({"epochs": epochs} if epochs else {}))
    data = data.limited(settings.n_train, settings.n_eval)
    folder = out_dir(settings, out)
    if data.notice:
        say(f"> **{data.notice}**")
    sizes = " / ".join(f"{len(split):,}" for split in data.splits.values())
    if link := colab(ROOT):
        say(f"This course [in Colab]({link})")
    place = f"outs/{folder.name}" if Path.cwd().is_relative_to(ROOT) else folder
    say(f"Data: **{data.name}**, {sizes} images for train / validation / test. Results go to `{place}`.")
    return data, settings, folder, Gallery(folder, data.notice)


def say(text: str) -> None:
    """Show Markdown with this run's numbers in it; plain text outside a notebook."""
    if get_ipython() is None:
        print(text)
    else:
        display(Markdown(text))


def colab(checkout: Path) -> str:
    """Where Colab opens the notebooks of a checkout that came from GitHub; "" for any other."""
    command = ["git", "-C", str(checkout), "remote", "get-url", "origin"]
    with contextlib.suppress(OSError):  # there is no git
        address = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False).stdout
        found = re.search(r"github\.com[:/]([\w.-]+/[\w.-]+?)(\.git)?\s*$", address)
        return f"https://colab.research.google.com/github/{found[1]}" if found else ""
    return ""


def device() -> torch.device:
    """Where models compute on this machine."""
    return runtime().device


def store(folder: Path, name: str, content: dict[str, Any]) -> None:
    """Write NAME.json, which the report reads. Raises UserError when a number is not finite."""
    write_json(folder / f"{name}.json", content)


def stored(dataset: str, name: str) -> dict[str, Any]:
    """A published NAME.json of a data set. Raises UserError when it is missing or damaged."""
    return read_json(published(dataset) / f"{name}.json")


def sha256_of(folder: Path, *kinds: str) -> dict[str, str]:
    """The SHA-256 of the weights files in a folder by kind: where what is computed with them comes from."""
    return {kind: sha256_of_file(weights_path(folder, kind)) for kind in kinds}
