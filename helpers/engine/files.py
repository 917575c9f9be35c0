"""Where files lie, and how they are written: whole or not at all."""

import contextlib
import errno
import os
import re
from pathlib import Path

import psutil

from .errors import UserError

ROOT = Path(__file__).resolve().parents[2]
EXERCISE = "exercise_03"
HINTS = {
    errno.ENOSPC: "free some space or choose another folder, then run the same again",
    errno.EDQUOT: "free some of your quota or choose another folder, then run the same again",
    errno.EROFS: "choose a folder that can be written to",
    errno.EACCES: "change its permissions or choose another folder",
}


def weights_path(folder: Path, kind: str) -> Path:
    """Where a folder keeps the weights of a kind of model, such as "vae"."""
    return folder / f"{kind}.safetensors"


def history_path(folder: Path, kind: str) -> Path:
    """Where a folder keeps the history of a finished run."""
    return folder / f"{kind}_history.json"


def checkpoint_path(folder: Path, kind: str) -> Path:
    """Where a folder keeps the state of a run that has not ended."""
    return folder / f"{kind}.checkpoint.safetensors"


def home(dataset: str) -> Path:
    """The published folder of a data set; a path in its name becomes one plain word."""
    word = re.sub(r"\W+", "-", dataset).strip("-")
    return ROOT / "outs" / (EXERCISE if dataset == "cifar10" else word)


def results_folder(path: Path) -> Path:
    """`path` in full. Raises UserError when results there would lie among the sources, as `--out .` would have it."""
    try:
        folder = path.resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{path!s:.80} cannot be the name of a folder ({error})") from None
    if ROOT.is_relative_to(folder) or (folder.is_relative_to(ROOT) and not folder.is_relative_to(ROOT / "outs")):
        raise UserError(f"results cannot go to {folder}: inside the repository, name a folder below {ROOT / 'outs'}")
    return folder


class NotWritten(UserError):
    """A place cannot be written; what is only kept for the next time is then done without."""


def check_checkout(notebook: str) -> None:
    """Raises UserError when the notebook that runs (else: papermill's input) lies in another checkout than this one."""
    files = [notebook] if notebook else []
    with contextlib.suppress(psutil.Error):  # papermill names its input first; it runs it in the folder of its caller
        words = psutil.Process(os.getppid()).cmdline()
        files += [word for word in words if word.endswith(".ipynb") and "papermill" in str(words)]
    above = Path([*files, "here"][0]).resolve().parents
    theirs = next((place for place in above if (place / "helpers" / "notebook.py").is_file()), ROOT)
    if theirs != ROOT:
        hint = f"start it in its own folder (papermill: --cwd {theirs / 'notebooks'})"
        raise UserError(f"this notebook lies in {theirs}, but the package in use is that of {ROOT}; {hint}")


def cannot_write(path: Path, error: OSError) -> NotWritten:
    """The one line for a place that cannot be written, with what to do."""
    hint = HINTS.get(error.errno or 0, "")
    return NotWritten(f"cannot write {path}: {error.strerror or error}" + (f"; {hint}" if hint else ""))


def check_ours(path: Path, start: bytes) -> None:
    """Raises UserError when `path` is a folder, or a file that does not begin with `start`: it is somebody else's."""
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file in it")
    if path.is_file():
        with path.open("rb") as file:
            if file.read(len(start)) not in (b"", start):
                raise UserError(f"{path} exists and was not written by this command; name another file, or delete it")


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file whole or not at all: under another name, then renamed. Raises UserError where that is impossible."""
    data = content.encode() if isinstance(content, str) else content
    target = Path(os.path.realpath(path))  # a link stays
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        if path.exists() and not path.is_file():  # devices and pipes are written to, not replaced
            path.write_bytes(data)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise cannot_write(path, error) from None
    finally:  # also when a signal ends the writing: a rename has left nothing here
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
