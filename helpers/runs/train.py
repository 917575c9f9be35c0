"""Train one model without a notebook, with a line an epoch.

    python -m helpers.runs.train vae|autoencoder|reference|sharp [--profile full] [--out FOLDER]
    accelerate launch --multi_gpu --num_processes 8 -m helpers.runs.train vae      on eight GPUs, or else CPU processes

Stopped and started again, it continues from its last checkpoint, on as many processes as it is given. Ctrl-C and
SIGTERM make a checkpoint first (exit code 130 and 143). The sharp decoder needs the VAE of the same folder.
"""

import argparse
import sys
from typing import Any

from torch import nn

from ..config import MODELS, PROFILES, UserError, exit_with, out_dir, profile_settings
from ..data import load_data
from ..interrupt import Stopped, raise_on_sigterm
from ..runtime import processes
from ..sharp import of_vae
from ..storage import Record
from ..training import train


def main(argv: list[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="helpers.runs.train", description="Train one model.")
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--profile", choices=PROFILES, default="full")
    parser.add_argument("--dataset", default="auto", help="as for load_data; see the README")
    parser.add_argument("--out", default="", help="output folder (default: the one of the settings)")
    parser.add_argument("--accumulate", type=int, default=1, metavar="N", help="compute each batch in N parts")
    options = parser.parse_args(argv)
    team = processes()
    with team.main_first():
        data = load_data(options.dataset)
    changes: dict[str, Any] = {"accumulate": options.accumulate} if options.accumulate != 1 else {}
    settings = profile_settings(options.profile, options.model, data.name, **changes)

    def watch(record: Record, _: nn.Module) -> None:
        print(" ".join(f"{name} {value:.4g}" for name, value in record.items()), flush=True)

    folder = out_dir(settings, options.out)
    _, history = train(data, settings, folder, watch, **(of_vae(folder) if options.model == "sharp" else {}))
    if team.main:
        print(history.sentence())
    team.end()


if __name__ == "__main__":
    raise_on_sigterm()
    try:
        main()
    except UserError as error:
        exit_with(error)
    except Stopped as stop:
        print(stop, file=sys.stderr)
        raise SystemExit(stop.exit_code) from None
    except KeyboardInterrupt:
        print("stopped between two checkpoints; the same command continues from the last one", file=sys.stderr)
        raise SystemExit(130) from None
