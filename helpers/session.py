"""What every notebook opens with: its data, its settings, its folder, its gallery."""

from pathlib import Path
from typing import NamedTuple

from .config import Settings, asked_settings, out_dir
from .data import Dataset, load_data
from .show.figures import Gallery


class Session(NamedTuple):
    """The data (already limited to the profile's size), the settings asked for, where results go."""

    data: Dataset
    settings: Settings
    folder: Path
    save: Gallery


def begin(profile: str, dataset: str, out: str, *, model: str = "vae", epochs: int = 0, seed: int = 0) -> Session:
    """Open a notebook's session and announce it: the data set, its sizes, and any notice that readers must see."""
    data = load_data(dataset)
    settings = asked_settings(profile, model, data.name, epochs, seed)
    data = data.limited(settings.n_train, settings.n_eval)
    folder = out_dir(settings, out)
    if data.notice:
        say(f"> **{data.notice}**")
    sizes = " / ".join(f"{len(split):,}" for split in data.splits.values())
    say(f"Data: **{data.name}**, {sizes} images for train / validation / test. Results go to `outs/{folder.name}`.")
    return Session(data, settings, folder, Gallery(folder, data.notice))


def say(text: str) -> None:
    """Show Markdown with this run's numbers in it; plain text outside a notebook."""
    from IPython import get_ipython
    from IPython.display import Markdown, display

    if get_ipython() is None:
        print(text)
    else:
        display(Markdown(text))
