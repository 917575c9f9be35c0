"""Tensors and JSON in files sealed with the SHA-256 of their content, against accidents; nothing is ever unpickled."""

import contextlib
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from .errors import UserError
from .files import NotWritten, write_whole
from .schemas import check_form

SEAL = "sha256"
Json = dict[str, Any]
Tensors = dict[str, Tensor]


def sha256_of_file(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sha256_of_tensors(tensors: Tensors) -> str:
    """The SHA-256 of names and values, whatever the order of the names, in hexadecimal."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def write_tensors(path: Path, tensors: Tensors, provenance: Json) -> None:
    """A safetensors file, sealed, `provenance` in its header. Raises UserError when a number in it is not finite."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    if broken := not_finite(plain):
        raise UserError(f"{path} is not written: {broken} holds a number that is not finite; lower lr")
    text = json.dumps(provenance)
    write_whole(path, save(plain, {"provenance": text, SEAL: _seal_of_tensors(plain, text)}))


def read_tensors(path: Path) -> tuple[Tensors, Json]:
    """The inverse of `write_tensors`. Raises UserError naming file and reason when it is missing or damaged."""
    try:
        if not path.is_file():
            missing = "does not exist (`make train` writes those of outs/)"
            raise UserError(f"{path} {'is a folder; name a file in it' if path.is_dir() else missing}")
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if header.keys() != {"provenance", SEAL} or not isinstance(json.loads(header["provenance"]), dict):
            raise ValueError(f"its header must hold provenance and {SEAL}, and nothing else")
        if header[SEAL] != _seal_of_tensors(tensors, header["provenance"]):
            raise ValueError(f"its {SEAL} does not match: it was changed after it was written")
        if broken := not_finite(tensors):
            raise ValueError(f"{broken} holds a number that is not finite")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except (SafetensorError, ValueError, RecursionError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is damaged or not ours ({reason}); restore it or run `make train`") from None
    return tensors, json.loads(header["provenance"])


def _seal_of_tensors(tensors: Tensors, text: str) -> str:
    """The SHA-256 of the text and of all names, number formats, shapes and values."""
    total = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def not_finite(tensors: Tensors) -> str:
    """The name of the first tensor that holds NaN or infinity, or nothing."""
    return next((name for name, t in tensors.items() if t.is_floating_point() and not t.isfinite().all()), "")


def check_fit(own: Tensors, tensors: Tensors, path: Path) -> None:
    """Raises UserError when a file's tensors have not the names, shapes and number formats of a model's `own`."""
    for name in {**own, **tensors}:
        if name not in own or name not in tensors:
            missing = "missing" if name in own else "not part of it"
            raise UserError(f"{path} does not fit the model: {name} is {missing}")
        stored, wanted = (f"{tuple(t.shape)} of {t.dtype}" for t in (tensors[name], own[name]))
        if stored != wanted:
            raise UserError(f"{path} does not fit the model: {name} has the shape {stored}, not {wanted}")


def load_state(model: nn.Module, tensors: Tensors, path: Path) -> None:
    """Copy tensors into a model. Raises UserError when they do not fit."""
    check_fit(model.state_dict(), tensors, path)
    model.load_state_dict(tensors)


def within(tensors: Tensors, prefix: str) -> Tensors:
    """The tensors whose names start with `prefix` and a dot, without it."""
    return {k.removeprefix(f"{prefix}."): v for k, v in tensors.items() if k.startswith(f"{prefix}.")}


def cached(path: Path, provenance: Json, compute: Callable[[], Tensors], fresh: bool = False) -> tuple[Tensors, bool]:
    """The tensors at `path` and True when they have this provenance, else what `compute` gives and False.

    What was computed is stored for the next time; where that is impossible, it will be computed again.
    """
    if path.is_file() and not fresh:
        tensors, known = read_tensors(path)
        if known == json.loads(json.dumps(provenance)):
            return tensors, True
        if known.get("kind") != provenance.get("kind"):
            raise UserError(f"{path} holds no {provenance.get('kind')}; delete it")
    tensors = compute()
    with contextlib.suppress(NotWritten):
        write_tensors(path, tensors, provenance)
    return tensors, False


def rounded(value: Any, digits: int = 6) -> Any:
    """JSON with rounded numbers, so that another kind of CPU mostly gives the same text; what was asked for stays."""
    if isinstance(value, dict):
        return {k: part if k in ("settings", "provenance") else rounded(part, digits) for k, part in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(part, digits) for part in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def write_json(path: Path, content: Json) -> None:
    """Write a sealed file with `rounded` numbers, whole or not at all. UserError: not the form of its kind."""
    try:
        plain = rounded(json.loads(json.dumps(content, allow_nan=False)))
    except ValueError as error:
        raise UserError(f"{path} is not written: a result is not a finite number ({error})") from None
    check_form(plain, path)
    write_whole(path, _text({**plain, SEAL: seal(plain)}))


def read_json(path: Path, hint: str = "run the notebooks again (`make report`)") -> Json:
    """The content of a file without its seal. Raises UserError with the file, the reason and `hint`."""
    try:
        content = json.loads(path.read_bytes(), parse_constant=_number, parse_float=_number, parse_int=_number)
        if not isinstance(content, dict):
            raise ValueError("it holds no JSON object")
        stored = content.pop(SEAL, None)
        if stored is None:
            raise ValueError(f"it has no {SEAL}")
        if stored != seal(content):
            raise ValueError(f"its {SEAL} does not match: it was changed after it was written")
        check_form(content, path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; {hint}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError, UserError) as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise UserError(f"{path} is damaged ({reason}); {hint}") from None
    return content


def cached_json(path: Path, provenance: Json, compute: Callable[[], Json]) -> Json:
    """As `cached`, for a JSON object."""
    if path.is_file():
        stored = read_json(path, "delete it and run the same again")
        if stored.get("provenance") == json.loads(json.dumps(provenance)):
            return {name: value for name, value in stored.items() if name != "provenance"}
    content = rounded(compute())
    with contextlib.suppress(NotWritten):
        write_json(path, {"provenance": provenance, **content})
    return content


def seal(content: Json) -> str:
    """The SHA-256 of a JSON object, whatever the order and the spacing of its text."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _text(content: Json) -> str:
    """JSON with one line for each value, but one line for each row of a table of results."""
    rows = content.get("rows")
    if not isinstance(rows, list):
        return json.dumps(content, indent=1) + "\n"
    lines = ",\n  ".join(json.dumps(row) for row in rows)
    frame = json.dumps({**content, "rows": "HERE"}, indent=1)
    return frame.replace('"rows": "HERE"', f'"rows": [\n  {lines}\n ]') + "\n"


def _number(text: str) -> float | int:
    """A number of JSON. Raises ValueError when it is not finite or has more digits than any of ours."""
    if not math.isfinite(float(text)) or len(text) > 40:
        raise ValueError(f"{text:.40} is not a finite number of at most 40 digits")
    return int(text) if text.lstrip("-").isdigit() else float(text)
