"""One command line for everything: `python -m helpers COMMAND`; `--help` after a command lists its options."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from . import codec, evaluate, run, settings
from .engine import accelerator, program, raise_on_sigterm
from .lab import benchmark, experiments, peers
from .publish import pipeline, report
from .sources import arrays, load_data


def train_one(
    model: Annotated[str, Argument(help=f"of: {', '.join(settings.SETTINGS)}")],
    profile: Annotated[settings.Profile, Option(help="smoke: tiny settings")] = "full",
    dataset: Annotated[str, Option(help="as for load_data; see the README")] = "auto",
    out: Annotated[Path | None, Option(help="output folder (default: the one of the settings)")] = None,
    accumulate: Annotated[int, Option(min=1, metavar="N", help="compute each batch in N parts")] = 1,
) -> None:
    """Train one model without a notebook, with a line an epoch; stopped, it goes on from its last checkpoint.

    On eight GPUs, or else CPU processes: accelerate launch --multi_gpu --num_processes 8 -m helpers train vae.
    Ctrl-C and SIGTERM make a checkpoint first. Sharp decoder, flow and pixels need the VAE of the same folder.
    """
    raise_on_sigterm()
    team = accelerator()
    with team.main_process_first():  # it downloads, the others find
        data = load_data(dataset)
    changes = {"accumulate": accumulate} if accumulate > 1 else {}
    asked = settings.profile_settings(profile, model, data.name, **changes)

    def watch(record: dict[str, float], _: object) -> None:
        print(" ".join(f"{name} {value:.4g}" for name, value in record.items()), flush=True)

    _, history = run.train(data, asked, settings.out_dir(asked, str(out or "")), watch)
    if team.is_main_process:
        print(history.sentence())
    team.end_training()


if __name__ == "__main__":
    first = (("train", train_one), ("evaluate", evaluate.main), *codec.COMMANDS, pipeline.report, report.render)
    program(*first, experiments.experiments, peers.peers, benchmark.benchmark, arrays.arrays)
