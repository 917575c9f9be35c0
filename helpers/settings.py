"""The settings of a run, a frozen class for each kind of model: with threads and device they describe it completely."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from .engine import ROOT, UserError, did_you_mean, home, results_folder

DATASETS = ("cifar10", "cifar100", "svhn", "photos")
PLACES = ("folder:", "array:")  # data sets that are not known by name but by where they are; see sources.folders
Profile = Literal["full", "smoke"]
PROFILES: tuple[str, ...] = get_args(Profile)

# What a data set or a profile changes; names that a kind of model does not have, or means otherwise, are passed over.
PHOTO_CHANGES: dict[str, Any] = {"width": 16, "epochs": 12, "batch_size": 128, "translate": 0}
# No cutout: in two epochs nothing can be overfitted, and codes and classes must become useful.
SMOKE_CHANGES = {"n_train": 1024, "n_eval": 200, "width": 16, "epochs": 2, "batch_size": 128, "cutout": 0}

LARGEST = 2**31 - 1  # every library takes it as a size and as a seed
Count = Annotated[int, Field(ge=0, le=LARGEST)]  # 0 often means "all" or "none"; the comment beside the field says so
Positive = Annotated[int, Field(ge=1, le=LARGEST)]
Length = Annotated[int, Field(ge=1, le=3072)]  # numbers of a code; more than the values of an image are no code
Square = Annotated[int, Field(ge=0, le=32)]
Shift = Annotated[int, Field(ge=0, le=31)]  # of a whole image nothing would be left to reflect
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Width = Annotated[int, Field(ge=8, le=1024, multiple_of=8)]  # channels of the first layers, or a part of them
Rate = Annotated[float, Field(gt=0, lt=1)]
Smoothing = Annotated[float, Field(ge=0, lt=1)]


def check_dataset(name: str) -> str:
    """`name` itself. Raises ValueError when it is neither a known data set nor one of the forms of PLACES."""
    if name not in DATASETS and not (name.startswith(PLACES) and name.partition(":")[2]):
        known = ", ".join((*DATASETS, *(f"{place}PATH" for place in PLACES)))
        raise ValueError(f"unknown data set {name!r}; there are: {known}.{did_you_mean(name, DATASETS)}")
    return name


class Settings(BaseModel):
    """What every training run has. Raises UserError on an unknown name or a value that makes no sense."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    model: str
    dataset: Annotated[str, AfterValidator(check_dataset)] = "cifar10"
    n_train: Count = 0  # images used for training; 0 = all
    n_eval: Count = 0  # images used of validation and of test; 0 = all
    width: Width = 32
    epochs: Positive = 22
    batch_size: Annotated[int, Field(ge=2, le=LARGEST)] = 256  # images of a step, over all processes
    lr: Rate = 2e-3  # peak of the one-cycle schedule
    translate: Shift = 3  # pixels of random shift during training
    flip: bool = True  # random left-right mirror during training
    seed: Count = 0

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name, reason = str(first["loc"][0]), first["msg"].removeprefix("Value error, ")
            if first["type"] == "extra_forbidden":
                hint = did_you_mean(name, type(self).model_fields)
                raise UserError(f"unknown setting {name!r} of this kind of model.{hint}") from None
            raise UserError(f"{name}={first['input']!r} is wrong: {reason[0].lower()}{reason[1:]}") from None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return self.model_dump()

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "Settings":
        """The inverse of `as_dict`. Raises UserError on what is not the settings of a known kind of model."""
        return settings_class(values.get("model", ""))(**values)

    def replace(self, **changes: Any) -> Self:
        """The same settings with changes, checked anew."""
        return type(self)(**(self.as_dict() | changes))

    def difference(self, other: "Settings") -> str:
        """The settings in which two runs differ, such as "epochs 20 -> 1"; empty when they are equal."""
        mine, theirs = self.as_dict(), other.as_dict()
        pairs = {name: (mine.get(name, "none"), theirs.get(name, "none")) for name in mine | theirs}
        return ", ".join(f"{name} {old} -> {new}" for name, (old, new) in pairs.items() if old != new)


class NetworkSettings(Settings):
    """What the models have that are trained on images and classes by one objective."""

    weight_decay: Weight = 0.1
    muon_rate: Weight = 1.0  # the learning rate of Muon, for inner layers, in units of lr; 0 = AdamW for all
    label_smoothing: Smoothing = 0.1
    cutout: Square = 0  # side of the square that the classifier does not see of a training image; 0 = none
    accumulate: Positive = 1  # parts in which a process computes its part of a batch; batch norm sees one of them

    @property
    def weights(self) -> dict[str, float]:
        """The weights of the terms of the objective, after the warm-up; that of the distortion is 1."""
        return {"cross_entropy": 1.0}


class JudgeSettings(NetworkSettings):
    """The judge of samples: another seed and other channels than what it judges, and cross-entropy alone."""

    model: Literal["judge"] = "judge"
    width: Width = 64
    epochs: Positive = 18
    muon_rate: Weight = 8.0
    label_smoothing: Smoothing = 0.2
    translate: Shift = 2
    cutout: Square = 8
    seed: Count = 1


class AutoencoderSettings(NetworkSettings):
    """The model of the previous exercise, with two classifiers."""

    model: Literal["autoencoder"] = "autoencoder"
    epochs: Positive = 22
    cutout: Square = 12
    looks: Annotated[int, Field(ge=1, le=2)] = 2  # 2: the encoder corrects its code once it has seen what it decodes to
    what_rate: Weight = 3.0  # the learning rate of Muon for the path that recognises, in units of lr
    latent_dim: Length = 128
    sigma: Weight = 0.0  # decoder standard deviation in pixel units; 0 = learned
    sigma_rate: Weight = 20.0  # the learning rate of log sigma, in units of lr: one number with a long way to go
    class_weight: Weight = 100.0  # nats of objective per nat of cross-entropy, head on the features
    code_weight: Weight = 100.0  # the same for the head on the code

    @property
    def weights(self) -> dict[str, float]:
        return {"cross_entropy": self.class_weight, "code_cross_entropy": self.code_weight}


class VAESettings(AutoencoderSettings):
    """The published model."""

    model: Literal["vae"] = "vae"  # type: ignore[assignment]
    beta: Weight = 1.0  # weight of the rate in the objective; 1 is the ELBO
    warmup_epochs: Weight = 1.0  # the weight of the rate rises linearly from 0 over these

    @property
    def weights(self) -> dict[str, float]:
        return super().weights | {"rate": self.beta}


class SharpSettings(Settings):
    """The sharp decoder; its critic judges whole batches, so they are never computed in parts."""

    model: Literal["sharp"] = "sharp"
    epochs: Positive = 6
    lr: Rate = 3e-4
    latent_dim: Length = 128
    pixel_weight: Weight = 1.0
    feature_weight: Weight = 1.0
    critic_weight: Weight = 0.5


class FlowSettings(Settings):
    """The learned prior, a flow of the codes of a VAE."""

    model: Literal["flow"] = "flow"
    translate: Literal[0] = 0  # the codes of shifted images are not computed
    latent_dim: Length = 128
    width: Width = 384
    blocks: Positive = 4
    epochs: Positive = 150
    batch_size: Annotated[int, Field(ge=2, le=LARGEST)] = 1000
    muon_rate: Weight = 4.0  # the learning rate of Muon, for inner layers, in units of lr
    weight_decay: Weight = 0.0  # of the layers that Muon moves
    hidden: Smoothing = 0.1  # the share of examples whose class is not told, so that it also knows all classes
    average: Positive = 1000  # the most steps over which the weights that are kept are averaged


class PixelSettings(Settings):
    """The network that codes pixels, for every step of quantisation, with and without the mean of a VAE."""

    model: Literal["pixels"] = "pixels"
    translate: Literal[0] = 0  # the means of shifted images are not computed
    width: Width = 128
    components: Positive = 5  # logistics of a mixture
    epochs: Positive = 4
    batch_size: Annotated[int, Field(ge=2, le=LARGEST)] = 16
    muon_rate: Weight = 5.0  # the learning rate of Muon, for inner layers, in units of lr
    lossless: Smoothing = 0.5  # the share of images whose step is 1
    given: Smoothing = 0.3  # the share of images of which the decoder's mean is known
    average: Positive = 1000  # the most steps over which the weights that are kept are averaged


SETTINGS: dict[str, type[Settings]] = {
    "vae": VAESettings, "autoencoder": AutoencoderSettings, "judge": JudgeSettings,
    "sharp": SharpSettings, "flow": FlowSettings, "pixels": PixelSettings,
}  # fmt: skip


def settings_class(model: str) -> type[Settings]:
    """The class of the settings of a kind of model. Raises UserError on an unknown one."""
    if not isinstance(model, str) or model not in SETTINGS:
        raise UserError(f"model={model!r} is not one of {', '.join(SETTINGS)}.{did_you_mean(str(model), SETTINGS)}")
    return SETTINGS[model]


def profile_settings(profile: str = "full", model: str = "vae", dataset: str = "cifar10", **changes: Any) -> Settings:
    """The settings of a named profile, with `changes` on top. Raises UserError on unknown names."""
    if profile not in PROFILES:
        raise UserError(f"profile={profile!r} is not one of {', '.join(PROFILES)}")
    kind = settings_class(model)
    values = (PHOTO_CHANGES if dataset == "photos" else {}) | (SMOKE_CHANGES if profile == "smoke" else {})
    own = {FlowSettings: {"width"}, PixelSettings: {"width", "batch_size", "epochs"}}.get(kind, set())
    known = {name: value for name, value in values.items() if name in set(kind.model_fields) - own}
    if profile == "smoke" and kind is PixelSettings:  # a step costs as much as many of another kind's
        known |= {"n_train": 128, "n_eval": 40, "width": 16, "epochs": 2}
    return kind(**({"model": model, "dataset": dataset} | known | changes))


def out_dir(settings: Settings, out: str = "") -> Path:
    """Where results go: `out` or `$VAE_OUTS` when given, outs/scratch for settings that are not the published ones."""
    if given := out or os.environ.get("VAE_OUTS", ""):
        return results_folder(Path(given))
    published = settings == profile_settings("full", settings.model, settings.dataset)
    return home(settings.dataset) if published else ROOT / "outs" / "scratch"
