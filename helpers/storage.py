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
from .schemas import read_json, write_json

Record = dict[str, float]


def write_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """A safetensors file with `about` as JSON in its header, and the SHA-256 of both; whole or not at all.

    Raises UserError when a number is not finite (broken weights are never written) or the place cannot be written.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    if broken := not_finite(plain):
        raise UserError(f"{path} is not written: {broken} holds a number that is not finite; lower lr")
    text = json.dumps(about)
    write_whole(path, save(plain, {"about": text, "sha256": digest(plain, text)}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The inverse of `write_tensors`. Raises UserError naming file and reason when it is missing or damaged."""
    if not path.is_file():
        raise UserError(f"{path} does not exist; `make train` writes it")
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about = json.loads(header["about"])
        if not isinstance(about, dict):
            raise ValueError("its header describes nothing")
        _as_written(path, header, digest(tensors, header["about"]))
        if broken := not_finite(tensors):
            raise ValueError(f"{broken} holds a number that is not finite")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except (SafetensorError, KeyError, ValueError, RecursionError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is damaged or not ours ({reason}); restore it or run `make train`") from None
    return tensors, about


def _as_written(path: Path, header: dict[str, str], found: str) -> None:
    """Raises ValueError when a file is not what was written: by its own sum, or (older files) by its history's."""
    if unknown := header.keys() - {"about", "sha256"}:
        raise ValueError(f"its header has an unknown part {min(unknown)!r}")
    beside = history_path(path.parent, path.stem)
    if "sha256" in header:
        same = header["sha256"] == found
    else:
        same = not beside.is_file() or read_json(beside)["run"]["weights_sha256"] == fingerprint(path)
    if not same:
        raise ValueError("its sha256 does not match: it was changed after it was written")


def digest(tensors: dict[str, Tensor], about: str) -> str:
    """The SHA-256 of the text `about` and of all names, forms and values."""
    found = hashlib.sha256(about.encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def not_finite(tensors: dict[str, Tensor]) -> str:
    """The name of the first tensor that holds NaN or infinity, or nothing."""
    return next((name for name, t in tensors.items() if t.is_floating_point() and not t.isfinite().all()), "")


def load_state(model: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Copy tensors into a model. Raises UserError when names, shapes or number formats do not fit."""
    for name, own in model.state_dict().items():
        if name in tensors and tensors[name].dtype != own.dtype:
            raise UserError(f"{path} does not fit the model: {name} is {tensors[name].dtype}, not {own.dtype}")
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
    write_json(history_path(folder, settings.model), content)


def load_history(folder: Path, model: str) -> History:
    """The history of a finished run. Raises UserError when it is missing, damaged, or not of these weights."""
    path, weights = history_path(folder, model), weights_path(folder, model)
    content = read_json(path, "restore it or run `make train`")
    settings = stored_settings(content["settings"], path)
    if settings.model != model:
        raise UserError(f"{path} is the history of a model {settings.model!r}; restore it or run `make train`")
    if not weights.is_file() or fingerprint(weights) != content["run"]["weights_sha256"]:
        raise UserError(f"{weights} is not the file that {path.name} describes; restore both or run `make train`")
    return History(settings, content["run"], content["records"])


def stored_settings(values: dict[str, Any], path: Path) -> Settings:
    """The settings that a file names. Raises UserError with the file when they are not complete or not valid."""
    try:
        return Settings.from_dict(values)
    except UserError as error:
        raise UserError(f"{path} has wrong settings: {error}") from None


def load_model(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """A model in eval mode and what is known of it: "settings", "class_names", "run".

    Raises UserError when the file is missing, damaged, or does not fit the model that its settings describe.
    """
    tensors, about = read_tensors(path)
    if about.get("kind") != "weights":
        raise UserError(f"{path} holds no weights of a model (it is a {about.get('kind', 'file without a kind')})")
    settings, names, run = (about.get(key) for key in ("settings", "class_names", "run"))
    if not (isinstance(settings, dict) and isinstance(run, dict) and isinstance(names, list) and names):
        raise UserError(f"{path} does not say its settings, classes and run; restore it or run `make train`")
    wanted = stored_settings(settings, path)
    check_shapes(wanted, len(names), tensors, path)
    model = build_model(wanted, len(names))
    load_state(model, tensors, path)
    return model.to(runtime().device, memory_format=torch.channels_last).eval(), about


def check_shapes(settings: Settings, n_classes: int, tensors: dict[str, Tensor], path: Path) -> None:
    """Raises UserError when a file's tensors are not those of its settings, before the model takes any memory."""
    try:
        with torch.device("meta"):
            shapes = {name: tensor.shape for name, tensor in build_model(settings, n_classes).state_dict().items()}
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{path} has settings of no possible model ({str(error).splitlines()[0]})") from None
    if name := next((k for k in {**shapes, **tensors} if k not in shapes or k not in tensors), ""):
        raise UserError(f"{path} does not fit the model: {name} is {'missing' if name in shapes else 'not part of it'}")
    for name, shape in shapes.items():
        if tensors[name].shape != shape:
            found = tuple(tensors[name].shape)
            raise UserError(f"{path} does not fit the model: {name} has the shape {found}, not {tuple(shape)}")


def load_vae(path: str | Path | None = None) -> VAE:
    """The trained VAE: `encode(x)` -> Posterior(mu, logvar), `decode(z)` -> x, `classify(x)` -> logits.

    x is float32 (n, 3, 32, 32) in [0, 1]. Without a path: the committed weights. Raises UserError when the file
    cannot be used.
    """
    model, _ = load_model(Path(path) if path else weights_path(out_dir(profile_settings()), "vae"))
    if not isinstance(model, VAE):
        raise UserError(f"{path} holds an autoencoder, not a VAE")
    return model
