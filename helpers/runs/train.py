"""Train one model without a notebook, with a line an epoch.

    python -m helpers.runs.train vae|autoencoder|reference|sharp [--profile full] [--out FOLDER]

Stopped and started again, it continues from its last checkpoint. The sharp decoder needs the VAE of the same folder.
"""

import argparse

from torch import nn

from ..config import MODELS, PROFILES, UserError, exit_with, out_dir, profile_settings
from ..data import load_data
from ..sharp import of_vae
from ..storage import Record
from ..training import train


def main(argv: list[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="helpers.runs.train", description="Train one model.")
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--profile", choices=PROFILES, default="full")
    parser.add_argument("--out", default="", help="output folder (default: the one of the settings)")
    options = parser.parse_args(argv)
    data = load_data()
    settings = profile_settings(options.profile, options.model, data.name)

    def watch(record: Record, _: nn.Module) -> None:
        print(" ".join(f"{name} {value:.4g}" for name, value in record.items()), flush=True)

    folder = out_dir(settings, options.out)
    _, history = train(data, settings, folder, watch, **(of_vae(folder) if options.model == "sharp" else {}))
    print(history.sentence())


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        exit_with(error)
