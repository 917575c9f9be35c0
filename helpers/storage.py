"""The files of a run: weights and checkpoints as safetensors, histories as JSON. Nothing is ever unpickled.

Tensors travel with a header that says what they are; a history carries the SHA-256 of the weights it belongs to.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from .config import Settings, UserError, out_dir, profile_settings, write_whole
from .models import VAE, build_model
from .runtime import runtime

Record = dict[str, float]


def write_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """A safetensors file with `about` as JSON in its header; whole or not at all."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_whole(path, save(plain, {"about": json.dumps(about)}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The inverse of `write_tensors`. Raises UserError naming the file when it is missing or damaged."""
    if not path.is_file():
        raise UserError(f"{path} does not exist; `make train` writes it")
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["about"])
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path} is damaged or not ours ({error}); restore it or run `make train`") from None


def load_state(model: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Copy tensors into a model. Raises UserError when names or shapes do not fit."""
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(f"{path} does not fit the model: {str(error).splitlines()[-1].strip()}") from None


def within(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with `prefix` and a dot, without it."""
    return {k.removeprefix(f"{prefix}."): v for k, v in tensors.items() if k.startswith(f"{prefix}.")}


@dataclass(frozen=True)
class History:
    """What a finished run leaves beside its weights: settings, environment, one record per epoch."""

    settings: Settings
    run: dict[str, Any]
    records: list[Record]
    loaded: bool = True

    def sentence(self) -> str:
        """One sentence: loaded or trained, when, how long, on what."""
        r = self.run
        verb = "Loaded the weights trained on" if self.loaded else "Trained from nothing on"
        return (
            f"{verb} {r['finished'][:10]}: {len(self.records)} epochs in {r['seconds'] / 60:.1f} minutes "
            f"on {r['device']}, {r['threads']} threads, torch {r['torch']}, seed {self.settings.seed}."
        )


def weights_path(folder: Path, model: str) -> Path:
    """Where a folder keeps the weights of "vae", "autoencoder" or "reference"."""
    return folder / f"{model}.safetensors"


def fingerprint(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def history_path(folder: Path, model: str) -> Path:
    """Where a folder keeps the history of a run."""
    return folder / f"{model}_history.json"


def save_run(folder: Path, model: nn.Module, history: History, class_names: tuple[str, ...]) -> None:
    """Write weights, then the history that carries their SHA-256."""
    settings = history.settings
    path = weights_path(folder, settings.model)
    about = {"settings": settings.as_dict(), "class_names": class_names, "run": history.run}
    write_tensors(path, model.state_dict(), {"kind": "weights", **about})
    run = history.run | {"weights_sha256": fingerprint(path)}
    content = {"settings": settings.as_dict(), "run": run, "records": history.records}
    write_whole(history_path(folder, settings.model), json.dumps(content, indent=1) + "\n")


def load_history(folder: Path, model: str) -> History:
    """The history of a finished run. Raises UserError when it is missing, damaged, or not of these weights."""
    path, weights = history_path(folder, model), weights_path(folder, model)
    try:
        content = json.loads(path.read_text())
        history = History(Settings.from_dict(content["settings"]), content["run"], content["records"])
        digest = content["run"]["weights_sha256"]
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; `make train` writes it") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); restore it or run `make train`") from None
    if not weights.is_file() or fingerprint(weights) != digest:
        raise UserError(f"{weights} is not the file that {path.name} describes; restore both or run `make train`")
    return history


def load_model(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """A model in eval mode and what is known of it: "settings", "class_names", "run".

    Raises UserError when the file is missing, damaged, or does not fit the model that its settings describe.
    """
    tensors, about = read_tensors(path)
    if about.get("kind") != "weights":
        raise UserError(f"{path} holds no weights of a model (it is a {about.get('kind', 'file without a kind')})")
    model = build_model(Settings.from_dict(about["settings"]), len(about["class_names"]))
    load_state(model, tensors, path)
    return model.to(runtime().device, memory_format=torch.channels_last).eval(), about


def load_vae(path: str | Path | None = None) -> VAE:
    """The trained VAE: `encode(x)` -> Posterior(mu, logvar), `decode(z)` -> x, `classify(x)` -> logits.

    x is float32 (n, 3, 32, 32) in [0, 1]. Without a path: the committed weights. Raises UserError when the file
    cannot be used.
    """
    model, _ = load_model(Path(path) if path else weights_path(out_dir(profile_settings()), "vae"))
    if not isinstance(model, VAE):
        raise UserError(f"{path} holds an autoencoder, not a VAE")
    return model
