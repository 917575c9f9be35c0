"""The settings of a run: frozen, self-checking, stored beside what the run writes.

Nothing here knows torch. One `Settings` describes one training run completely, so two runs with equal
settings are the same run, and a file that carries other settings is not what was asked for.
"""

import contextlib
import dataclasses
import difflib
import errno
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[1]
EXERCISE = "exercise_03"
DATASETS = ("cifar10", "cifar100", "svhn", "photos")
PLACES = ("folder:", "array:")  # data sets that are not known by name but by where they are; see folders.py
MODELS = ("vae", "autoencoder", "reference", "sharp")
PROFILES = ("full", "smoke")
# The distance between two 8-bit levels when pixels are scaled to [0, 1].
LEVEL = 1 / 255


class UserError(Exception):
    """Bad input: one line that says what is wrong and what to do. Programs end with exit code 2."""


def exit_with(error: UserError) -> NoReturn:
    """Print the one line of `error` and leave with exit code 2."""
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(2)


def program(main: Callable[[], None]) -> None:
    """Run a command line; a UserError is one line and exit code 2, never a traceback."""
    try:
        main()
    except UserError as error:
        exit_with(error)


def nearest(name: str, known: list[str] | tuple[str, ...]) -> str:
    """A hint such as " Did you mean 'epochs'?", or nothing when no known name is close."""
    match = difflib.get_close_matches(name, known, 1)
    return f" Did you mean {match[0]!r}?" if match else ""


def check_dataset(name: str) -> None:
    """Raises UserError when `name` is neither a known data set nor one of the forms of PLACES."""
    if name not in DATASETS and not (name.startswith(PLACES) and name.partition(":")[2]):
        known = ", ".join((*DATASETS, *(f"{place}PATH" for place in PLACES)))
        raise UserError(f"unknown data set {name!r}; there are: {known}.{nearest(name, DATASETS)}")


@dataclass(frozen=True)
class Settings:
    """Everything that decides the weights of a training run (device and thread count apart)."""

    model: str = "vae"
    dataset: str = "cifar10"
    n_train: int = 0  # images used for training; 0 = all
    n_eval: int = 0  # images used of validation and of test; 0 = all
    latent_dim: int = 128
    width: int = 32  # channels at 16x16; deeper stages are multiples of it
    epochs: int = 30
    batch_size: int = 256  # images of a step, over all processes
    accumulate: int = 1  # parts in which a process computes its share of a batch; batch norm sees a part
    lr: float = 2e-3  # peak of the one-cycle schedule
    muon_rate: float = 1.0  # the learning rate of Muon, for inner layers, in units of lr; 0 = AdamW for all
    weight_decay: float = 0.1
    beta: float = 1.0  # weight of the rate in the objective; 1 is the ELBO
    warmup_epochs: float = 1.0  # the weight of the rate rises linearly from 0 over these
    sigma: float = 0.0  # decoder standard deviation in pixel units; 0 = learned
    sigma_rate: float = 20.0  # the learning rate of log sigma, in units of lr: one number with a long way to go
    class_weight: float = 100.0  # nats of objective per nat of cross-entropy, head on the features
    code_weight: float = 100.0  # the same for the head on the posterior mean
    label_smoothing: float = 0.1
    translate: int = 3  # pixels of random shift during training
    flip: bool = True  # random left-right mirror during training
    cutout: int = 0  # side of the square that the classifier does not see of a training image; 0 = none
    pixel_weight: float = 0.0  # the three parts of the sharp decoder's loss; other models do not have them
    feature_weight: float = 0.0
    critic_weight: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            self._check_type(field)
        check_dataset(self.dataset)
        if self.model not in MODELS:
            raise UserError(f"model={self.model!r} is not one of {', '.join(MODELS)}.{nearest(self.model, MODELS)}")
        at_least = {
            "latent_dim": 1,
            "width": 8,
            "epochs": 1,
            "batch_size": 2,
            "accumulate": 1,
            "n_train": 0,
            "n_eval": 0,
            "translate": 0,
            "cutout": 0,
        }
        for name, least in at_least.items():
            if getattr(self, name) < least:
                raise UserError(f"{name}={getattr(self, name)} is too small; the least is {least}")
        if self.accumulate > 1 and self.model == "sharp":
            raise UserError("accumulate must be 1 for the sharp decoder: its critic judges whole batches")
        if self.width % 8:
            raise UserError(f"width={self.width} is not a multiple of 8")
        weights = ("class_weight", "code_weight", "pixel_weight", "feature_weight", "critic_weight")
        for name in ("weight_decay", "beta", "warmup_epochs", "sigma", "sigma_rate", "muon_rate", *weights):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UserError(f"{name}={getattr(self, name)} must be a finite number that is not negative")
        if not 0 < self.lr < 1:
            raise UserError(f"lr={self.lr} must lie between 0 and 1")
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"label_smoothing={self.label_smoothing} must lie in [0, 1)")

    def _check_type(self, field: dataclasses.Field) -> None:
        value = getattr(self, field.name)
        if field.type is float and type(value) is int:
            object.__setattr__(self, field.name, float(value))
        elif type(value) is not field.type:
            raise UserError(f"{field.name}={value!r} is {type(value).__name__}, not {field.type.__name__}")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Settings":
        """The inverse of `as_dict`. Raises UserError on a name that is not a setting."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                raise UserError(f"unknown setting {name!r}.{nearest(name, known)}")
        return cls(**values)

    def difference(self, other: "Settings") -> str:
        """The settings in which two runs differ, such as "epochs 20 -> 1"; empty when they are equal."""
        mine, yours = self.as_dict(), other.as_dict()
        return ", ".join(f"{name} {mine[name]} -> {yours[name]}" for name in mine if mine[name] != yours[name])


# Nothing is hidden: in two epochs nothing can be overfitted, and codes and classes must come to something.
SMOKE = {"n_train": 1024, "n_eval": 200, "width": 16, "epochs": 2, "batch_size": 128, "cutout": 0}
# What the settings of a model are where they differ from the defaults above.
OF_MODEL: dict[str, dict[str, Any]] = {
    "vae": {"cutout": 12},
    # The judge of samples: another seed and another network than what it judges; only its logits are trained.
    "reference": {
        "width": 48, "epochs": 25, "muon_rate": 5.0, "weight_decay": 0.01, "class_weight": 1.0, "code_weight": 0.0,
        "label_smoothing": 0.2, "translate": 2, "cutout": 8, "seed": 1,
    },
    "autoencoder": {"epochs": 8},
    "sharp": {"epochs": 6, "lr": 3e-4, "pixel_weight": 1.0, "feature_weight": 1.0, "critic_weight": 0.5},
}  # fmt: skip
PHOTOS = {"width": 16, "epochs": 12, "batch_size": 128, "translate": 0}


def profile_settings(profile: str = "full", model: str = "vae", dataset: str = "cifar10", **changes: Any) -> Settings:
    """The settings of a named profile, with `changes` on top. Raises UserError on unknown names."""
    if profile not in PROFILES:
        raise UserError(f"profile={profile!r} is not one of {', '.join(PROFILES)}.{nearest(profile, PROFILES)}")
    values: dict[str, Any] = {"model": model, "dataset": dataset} | OF_MODEL.get(model, {})
    if dataset == "photos":
        values |= PHOTOS
    if profile == "smoke":
        values |= SMOKE
    return Settings.from_dict(values | changes)


def asked_settings(profile: str, model: str, dataset: str, epochs: int = 0, seed: int = 0) -> Settings:
    """What a notebook's parameters ask for; `epochs` 0 keeps the profile's own number."""
    changes: dict[str, Any] = {"seed": seed} | ({"epochs": epochs} if epochs else {})
    return profile_settings(profile, model, dataset, **changes)


def out_dir(settings: Settings, out: str = "") -> Path:
    """Where the results of a run go. The published folder is only for the published settings.

    `$VAE_OUTS` or `out`, when given, win; photos have their own folder; changed settings go to outs/scratch.
    """
    given = out or os.environ.get("VAE_OUTS", "")
    if given:
        return results_folder(Path(given))
    published = profile_settings("full", settings.model, settings.dataset)
    if settings != published:
        return ROOT / "outs" / "scratch"
    return home(settings.dataset)


def home(dataset: str) -> Path:
    """The published folder of a data set; a path in its name becomes one plain word."""
    word = re.sub(r"\W+", "-", dataset).strip("-")
    return ROOT / "outs" / (EXERCISE if dataset == "cifar10" else word)


def results_folder(path: Path) -> Path:
    """`path` in full. Raises UserError when results there would lie among the sources, as `--out .` would have it."""
    try:
        folder = path.resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{path!s:.80} is no name of a folder ({error})") from None
    if ROOT.is_relative_to(folder) or (folder.is_relative_to(ROOT) and not folder.is_relative_to(ROOT / "outs")):
        raise UserError(f"results cannot go to {folder}: inside the repository, name a folder below {ROOT / 'outs'}")
    return folder


HINTS = {
    errno.ENOSPC: "free some space or choose another folder, then run the same again",
    errno.EDQUOT: "free some of your quota or choose another folder, then run the same again",
    errno.EROFS: "choose a folder that can be written to",
    errno.EACCES: "change its permissions or choose another folder",
}


def cannot_write(path: Path, error: OSError) -> UserError:
    """The one line for a place that cannot be written, with what to do."""
    hint = HINTS.get(error.errno or 0, "")
    return UserError(f"cannot write {path}: {error.strerror or error}" + (f"; {hint}" if hint else ""))


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file so that it appears whole or not at all: a temporary name beside it, then a rename.

    Raises UserError (one line) when the place cannot be written or the disk is full; what was there stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise cannot_write(path, error) from None
    finally:  # also when a signal ends the writing: a rename has left nothing here
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
