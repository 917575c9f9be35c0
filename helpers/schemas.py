"""The JSON files of a run: written with a seal, read only when they are whole, unchanged and of the right form.

The seal is the SHA-256 of everything else in the file. It is no signature: it finds what goes wrong by accident (a cut,
a flipped bit, another file of this name, a number changed by hand), not somebody who wants to deceive.
"""

import functools
import hashlib
import json
import math
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastjsonschema

from .config import UserError, write_whole

SEAL = "sha256"
Schema = dict[str, Any]

COUNT: Schema = {"type": "integer", "minimum": 0}
TEXT: Schema = {"type": "string"}
DIGEST: Schema = {"type": "string", "pattern": r"^[0-9a-f]{64}\Z"}
TIME: Schema = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d"}
NUMBERS: Schema = {"type": ["number", "array"], "items": {"$ref": "#/$defs/numbers"}}
ESTIMATE: Schema = {
    "type": "object",
    "required": ["value", "stderr"],
    "properties": {"value": NUMBERS, "stderr": {"anyOf": [{"type": "null"}, NUMBERS]}, "n": NUMBERS},
    "additionalProperties": False,
}
# Anything, but where it says "value" it must be an estimate.
TREE: Schema = {
    "if": {"type": "object", "required": ["value"]},
    "then": ESTIMATE,
    "else": {"additionalProperties": {"$ref": "#/$defs/tree"}},
}


def map_of(schema: Schema, **more: Any) -> Schema:
    """The schema of an object whose values all follow `schema`."""
    return {"type": "object", "additionalProperties": schema, **more}


def thing(required: dict[str, Schema], **more: Any) -> Schema:
    """The schema of an object that must have these properties."""
    return {"type": "object", "required": list(required), "properties": required, **more}


SPLIT = thing({"n": {"type": "integer", "minimum": 1}}, additionalProperties=ESTIMATE)
ENVIRONMENT = thing({"python": TEXT, "torch": TEXT, "device": TEXT, "threads": {"type": "integer", "minimum": 1}})
RECORD = map_of({"type": "number"}, required=["epoch", "seconds"])
# What a name needs to become NAME.png in the folder of the run and nowhere else.
FIGURE: Schema = {"pattern": r"^[A-Za-z0-9_]+\Z"}

SCHEMAS: dict[str, Schema] = {
    "metrics.json": thing(
        {
            "dataset": TEXT, "notice": TEXT, "seed": COUNT, "environment": ENVIRONMENT, "settings": {"type": "object"},
            "training_run": {"type": "object"}, "units": map_of(TEXT),
            "models": map_of(map_of(SPLIT, minProperties=1), minProperties=1),
        },
        additionalProperties={"$ref": "#/$defs/tree"},
    ),
    "history.json": thing(
        {
            "settings": {"type": "object"},
            "run": thing({"finished": TIME, "seconds": {"type": "number", "minimum": 0}, "device": TEXT, "torch": TEXT,
                          "threads": {"type": "integer", "minimum": 1}, "weights_sha256": DIGEST}),
            "records": {"type": "array", "minItems": 1, "items": RECORD},
        },
        additionalProperties=False,
    ),
    # A caption is a sentence of one line without markup: it becomes Markdown, HTML and an alt text.
    "captions.json": map_of({"type": "string", "minLength": 20, "pattern": r"^[^<>\n\r]* [^<>\n\r]*\Z"},
                            propertyNames=FIGURE),
    "data.json": thing({"name": TEXT, "counts": map_of(COUNT), "class_names": {"type": "array", "items": TEXT}}),
    "training.json": thing({"failure": map_of(RECORD), "loss": map_of({"type": "number"})}),
    "generation.json": thing({"n": COUNT, "scores": map_of({"type": "object"}), "best": TEXT}),
    "compression.json": thing({"n": COUNT, "bytes": NUMBERS, "psnr": NUMBERS, "needed": {"type": "object"}}),
    "peers.json": map_of(
        thing({"minutes": {"type": "number"}, "n": COUNT, "psnr_pooled": {"type": "number"}, "parameters": COUNT,
               "frechet": map_of({"type": "number"}), "environment": ENVIRONMENT}),
    ),
    "run.json": thing(
        {
            "finished": TIME, "dataset": TEXT, "profile": TEXT, "fresh": {"type": "boolean"},
            "seconds": map_of({"type": "number"}), "total_seconds": {"type": "number"},
            "peak_mib": map_of({"type": "number"}), "environment": ENVIRONMENT,
        },
    ),
    "unfinished.json": thing(
        {
            "at": thing({"key": DIGEST, "began": {"type": "number"}}),
            "done": map_of(
                thing({"key": DIGEST, "seconds": {"type": "number"}, "peak_mib": {"type": "number"},
                       "files": map_of(DIGEST)}),
            ),
        },
    ),
}  # fmt: skip
DEFINITIONS = {"numbers": NUMBERS, "tree": TREE}
# Files that were never written without a seal. Histories of long trainings and captions may be older than seals.
SEALED = tuple(name for name in SCHEMAS if name not in ("history.json", "captions.json"))


def kind_of(path: Path) -> str:
    """The name of the schema of a file: metrics_test.json is a metrics.json, vae_history.json a history."""
    name = path.name.removeprefix(".")
    if name.endswith("_history.json"):
        return "history.json"
    return "metrics.json" if name.startswith("metrics_") else name


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a sealed file, whole or not at all. Raises UserError when `content` has not the form of its kind."""
    try:
        plain = json.loads(json.dumps(content, allow_nan=False))
    except ValueError as error:
        raise UserError(f"{path} is not written: a result is not a finite number ({error})") from None
    _check(plain, path)
    write_whole(path, json.dumps({**plain, SEAL: seal(plain)}, indent=1) + "\n")


def read_json(path: Path, hint: str = "run the notebooks again (`make report`)") -> dict[str, Any]:
    """The content of a file without its seal. Raises UserError with the file, the reason and `hint`."""
    try:
        content = json.loads(path.read_bytes(), parse_constant=_finite, parse_float=_finite, parse_int=_whole)
        if not isinstance(content, dict):
            raise ValueError("it holds no JSON object")
        stored = content.pop(SEAL, None)
        if stored is None and kind_of(path) in SEALED:
            raise ValueError(f"it has no {SEAL}")
        if stored is not None and stored != seal(content):
            raise ValueError(f"its {SEAL} does not match: it was changed after it was written")
        _check(content, path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; {hint}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError, UserError) as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise UserError(f"{path} is damaged ({reason}); {hint}") from None
    return content


def seal(content: dict[str, Any]) -> str:
    """The SHA-256 of a JSON object, whatever the order and the spacing of its text."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _check(content: dict[str, Any], path: Path) -> None:
    """Raises UserError with the place in the file and the reason when it has not the form of its kind."""
    if (kind := kind_of(path)) in SCHEMAS:
        try:
            _validator(kind)(content)
        except fastjsonschema.JsonSchemaValueException as error:
            raise UserError(f"{path}: {textwrap.shorten(_reason(error), 200, placeholder=' ...')}") from None


def _reason(error: fastjsonschema.JsonSchemaValueException) -> str:
    """The message of the validator; where that names no property, one that does."""
    if error.rule == "required":
        return f"{error.name} has no {next(name for name in error.rule_definition if name not in error.value)!r}"
    if error.rule == "propertyNames":
        pattern = error.rule_definition["pattern"]
        return f"{next(name for name in error.value if not re.search(pattern, name))!r} is no name of a figure"
    return error.message


@functools.cache
def _validator(kind: str) -> Callable[[dict[str, Any]], Any]:
    schema = {"$schema": "http://json-schema.org/draft-07/schema#", **SCHEMAS[kind], "$defs": DEFINITIONS}
    return fastjsonschema.compile(schema, use_default=False)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number


def _whole(text: str) -> int:
    if len(text) > 20:
        raise ValueError("it holds a number of more than 20 digits")
    return int(text)
