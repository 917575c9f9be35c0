"""A run in files: train a kind of model or load what an earlier run stored. `KINDS` says what kinds there are."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from .data import Dataset
from .engine import CHECKPOINT_SECONDS, Record, UserError, checkpoint_path, history_path, weights_path
from .engine.runtime import accelerator, environment, runtime
from .engine.sealed import Json, check_fit, read_json, read_tensors, sha256_of_file, write_json, write_tensors
from .flow import Flow, FlowTrainer
from .judge import Judge
from .models import VAE, Autoencoder, Decoder
from .pixelcoder import PixelNet, PixelTrainer
from .settings import SETTINGS, Settings, out_dir, profile_settings
from .sharp import SharpTrainer
from .training import Trainer, fit

Watch = Callable[[Record, Any], None]  # (record, model), after every epoch
OnStep = Callable[[int, int], None]  # (steps done, steps in all), after every step


class Kind(NamedTuple):
    """A kind of model: its settings, its network, and what trains it."""

    settings: type[Settings]
    network: Callable[[Any, int], nn.Module]  # (settings, number of classes)
    trainer: Any  # (model, data, settings) -> Training; with the keyword `vae` where it is trained on one
    on_vae: bool = False
    always_float32: bool = False  # whatever the hardware multiplies


KINDS = {
    "vae": Kind(SETTINGS["vae"], VAE.from_settings, Trainer),
    "autoencoder": Kind(SETTINGS["autoencoder"], Autoencoder.from_settings, Trainer),
    "judge": Kind(SETTINGS["judge"], lambda s, n_classes: Judge(s.width, n_classes), Trainer),
    "sharp": Kind(SETTINGS["sharp"], lambda s, n: Decoder(s.latent_dim, s.width), SharpTrainer, on_vae=True),
    "flow": Kind(SETTINGS["flow"], lambda s, n: Flow(s.latent_dim, n, s.width, s.blocks), FlowTrainer, on_vae=True),
    "pixels": Kind(
        SETTINGS["pixels"], lambda s, n: PixelNet(s.width, s.components), PixelTrainer, on_vae=True, always_float32=True
    ),
}


def build_model(settings: Settings, n_classes: int) -> Any:
    """The network that `settings` describe, freshly initialised from `settings.seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return KINDS[settings.model].network(settings, n_classes)


class History(NamedTuple):
    """What a finished run leaves beside its weights: settings, environment, one record per epoch."""

    settings: Settings
    run: Json
    records: list[Record]
    loaded: bool = True

    def sentence(self) -> str:
        """One sentence: loaded or trained, when, how long, on what."""
        r, verb = self.run, "Loaded the weights trained on" if self.loaded else "Trained from nothing on"
        length = f"{len(self.records)} epochs in {r['seconds'] / 60:.1f} minutes"
        machine = f"{r['device']}, {r['threads']} threads, torch {r['torch']}"
        return f"{verb} {r['finished'][:10]}: {length} on {machine}, seed {self.settings.seed}."


def origin_of(model: str, folder: Path) -> Json:
    """What a run depends on beside data and settings: for some kinds, the VAE of the folder."""
    return {"vae_sha256": sha256_of_file(weights_path(folder, "vae"))} if KINDS[model].on_vae else {}


def train(
    data: Dataset, settings: Settings, folder: Path, watch: Watch | None = None, *,
    on_step: OnStep | None = None, every: float = CHECKPOINT_SECONDS,
) -> tuple[Any, History]:  # fmt: skip
    """Train what `settings` say, into `folder`, for some kinds on the VAE that lies there."""
    kind, checkpoint, processes = KINDS[settings.model], checkpoint_path(folder, settings.model), accelerator()
    make_trainer = partial(kind.trainer, vae=load_vae(weights_path(folder, "vae"))) if kind.on_vae else kind.trainer
    origin = origin_of(settings.model, folder) | environment()
    origin |= {"training_precision": "float32"} if kind.always_float32 else {}
    model, records = build_model(settings, len(data.class_names)), []
    on_step = on_step if processes.is_main_process else None
    for record in fit(model, data, settings, checkpoint, make_trainer, on_step=on_step, every=every):
        records.append(record)
        if watch and processes.is_main_process:
            watch(record, model)
    run = {"finished": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": records[-1]["seconds"]}
    run |= {"parameters": sum(p.numel() for p in model.parameters())} | origin
    history = History(settings, run, records, loaded=False)
    model.eval()
    if processes.is_main_process:
        save_run(folder, model, history, data.class_names)
        for name in KINDS:  # what had begun on another VAE does not go on with this one
            if name == settings.model or (settings.model == "vae" and KINDS[name].on_vae):
                checkpoint_path(folder, name).unlink(missing_ok=True)
    processes.wait_for_everyone()
    return model, history


def load_or_train(
    data: Dataset, settings: Settings, folder: Path, watch: Watch | None = None, *,
    on_step: OnStep | None = None, fresh: bool = False,
) -> tuple[Any, History]:  # fmt: skip
    """The stored run, replayed to `watch`, when its settings and the VAE it depends on fit, else a new one."""
    history = None if fresh else stored_history(folder, settings.model)
    origin = origin_of(settings.model, folder)
    if history and history.settings == settings and origin.items() <= history.run.items():
        model, _ = load_model(weights_path(folder, settings.model))
        for record in history.records:
            if watch:
                watch(record, model)
        return model, history
    return train(data, settings, folder, watch, on_step=on_step)


def save_run(folder: Path, model: nn.Module, history: History, class_names: tuple[str, ...]) -> None:
    """Write weights, then the history that carries their SHA-256."""
    path, settings = weights_path(folder, history.settings.model), history.settings.as_dict()
    header = {"kind": "weights", "settings": settings, "class_names": class_names, "run": history.run}
    write_tensors(path, model.state_dict(), header)
    run = history.run | {"weights_sha256": sha256_of_file(path)}
    write_json(history_path(folder, settings["model"]), {"settings": settings, "run": run, "records": history.records})


def stored_history(folder: Path, kind: str) -> History | None:
    """The history of the stored run, if there is one. Raises UserError when it is damaged or not of these weights.

    A kill between the two files of a run that had ended leaves its checkpoint; then None: the checkpoint gives both.
    """
    if not weights_path(folder, kind).is_file() or not history_path(folder, kind).is_file():
        return None
    try:
        return load_history(folder, kind)
    except UserError:
        if checkpoint_path(folder, kind).is_file():
            return None
        raise


def load_history(folder: Path, kind: str) -> History:
    """The history of a finished run. Raises UserError when it is missing, damaged, or not of these weights."""
    path, weights = history_path(folder, kind), weights_path(folder, kind)
    content = read_json(path, "restore it or run `make train`")
    settings = stored_settings(content["settings"], path)
    if settings.model != kind:
        raise UserError(f"{path} is the history of a model {settings.model!r}; restore it or run `make train`")
    if not weights.is_file() or sha256_of_file(weights) != content["run"]["weights_sha256"]:
        raise UserError(f"{weights} is not the file that {path.name} describes; restore both or run `make train`")
    return History(settings, content["run"], content["records"])


def stored_settings(values: Json, path: Path) -> Settings:
    """The settings that a file names. Raises UserError with the file when they are not complete or not valid."""
    try:
        return Settings.from_dict(values)
    except UserError as error:
        raise UserError(f"{path} has wrong settings: {error}") from None


def load_model(path: Path) -> tuple[Any, Json]:
    """A model in eval mode and its "settings", "class_names", "run". Raises UserError when the file cannot be used."""
    tensors, provenance = read_tensors(path)
    if (kind := provenance.get("kind", "file without a kind")) != "weights":
        raise UserError(f"{path} holds no weights of a model (it is a {kind})")
    settings, names, run = (provenance.get(key) for key in ("settings", "class_names", "run"))
    if not (isinstance(settings, dict) and isinstance(run, dict) and isinstance(names, list) and names):
        raise UserError(f"{path} does not say its settings, classes and run; restore it or run `make train`")
    wanted = stored_settings(settings, path)
    with torch.device("meta"):  # a wrong file is refused before its model takes any memory
        own = build_model(wanted, len(names)).state_dict()
    check_fit(own, tensors, path)
    model = build_model(wanted, len(names))
    model.load_state_dict(tensors)
    return model.to((here := runtime()).device, memory_format=here.layout).eval(), provenance


def load_vae(path: str | Path | None = None) -> VAE:
    """The trained VAE; without a path the committed one. Raises UserError when the file cannot be used.

    `encode(x)` -> Posterior(mu, logvar), `decode(z)` -> x, `classify(x)` -> logits; x float32 (n, 3, 32, 32) in [0, 1].
    """
    weights = Path(path) if path else weights_path(out_dir(profile_settings()), "vae")
    model, _ = load_model(weights)
    if not isinstance(model, VAE):
        raise UserError(f"{weights} does not hold a VAE")
    return model
