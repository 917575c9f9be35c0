"""The form that each kind of JSON file must have, checked when it is written and when it is read."""

import re
import textwrap
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError, create_model

from .errors import UserError

STRICT = ConfigDict(strict=True, extra="allow")
Count = Annotated[int, Field(ge=0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Time = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")]
# What a name needs to become NAME.png in the folder of the run and nowhere else.
FigureName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")]
# A caption is a sentence of one line without markup: it becomes Markdown, HTML and an alt text.
Caption = Annotated[str, Field(min_length=20, pattern=r"^[^<>\n\r]* [^<>\n\r]*$")]
Numbers = dict[str, float]


def form(**parts: Any) -> type[BaseModel]:
    """The form of a JSON object that has at least these parts, name=type."""
    fields: dict[str, Any] = {name: (kind, ...) for name, kind in parts.items()}
    return create_model("form", __config__=STRICT, **fields)


Record = form(epoch=float, seconds=float)
Threads = Annotated[int, Field(ge=1)]
Machine = form(python=str, torch=str, device=str, threads=Threads)
Run = form(finished=Time, seconds=float, device=str, torch=str, threads=Threads, weights_sha256=Sha256)
Records = Annotated[list[Record], Field(min_length=1)]  # type: ignore[valid-type]
Rows = Annotated[list[list[str | float | int | None]], Field(min_length=1)]
Done = form(key=Sha256, seconds=float, peak_mib=float, files=dict[str, Sha256])
Peer = form(minutes=float, n=Count, psnr_pooled=float, parameters=Count, frechet=Numbers, environment=Machine)
FORMS: dict[str, type[BaseModel]] = {  # by a pattern of names of files
    r"metrics(_\w+)?\.json": form(
        dataset=str, notice=str, seed=Count, environment=Machine, settings=dict[str, Any],
        training_run=dict[str, Any], columns=list[str], rows=Rows,
    ),
    r"\w+_history\.json": form(settings=dict[str, Any], run=Run, records=Records),
    r"data\.json": form(name=str, counts=dict[str, Count], class_names=list[str]),
    r"training\.json": form(failure=dict[str, Record], loss=Numbers),  # type: ignore[valid-type]
    r"generation\.json": form(n=Count, scores=dict[str, dict[str, Any]], best=str),
    r"compression\.json": form(n=Count, bytes=list[float], psnr=list[float], lossless=Numbers),
    r"peers\.json": RootModel[dict[str, Peer]],  # type: ignore[valid-type]
    r"captions\.json": RootModel[dict[FigureName, Caption]],
    r"run\.json": form(
        finished=Time, dataset=str, profile=str, fresh=bool, seconds=Numbers, total_seconds=float, peak_mib=Numbers,
        environment=Machine,
    ),
    r"\.unfinished\.json": form(at=form(key=Sha256, began=float), done=dict[str, Done]),  # type: ignore[valid-type]
}  # fmt: skip


def form_of(path: Path) -> type[BaseModel] | None:
    """The form of a file by its name; None where there is none."""
    return next((kind for pattern, kind in FORMS.items() if re.fullmatch(pattern, path.name)), None)


def check_form(content: dict[str, Any], path: Path) -> None:
    """Raises UserError with the place in the file and the reason when it has not the form of its kind."""
    try:
        if kind := form_of(path):
            kind.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        what = "is missing" if first["type"] == "missing" else f"{first['msg']}, not {first['input']!r:.80}"
        reason = re.sub(r"\s+", " ", f"{place}: {what}")
        raise UserError(f"{path}: {textwrap.shorten(reason, 200, placeholder=' ...')}") from None
