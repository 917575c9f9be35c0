"""Errors that a user can act on, and the one way in which a command line of this project ends."""

import contextlib
import difflib
import functools
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from .signals import Stopped

STOPPED = "stopped; the same command goes on where this one stopped"


class UserError(Exception):
    """Bad input: one line that says what is wrong and what to do. Programs end with exit code 2."""


@contextlib.contextmanager
def blamed_on(path: Path) -> Iterator[None]:
    """A UserError of this block begins with the file whose content is to blame."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def exit_with(message: object, code: int = 2) -> NoReturn:
    """Print one line on stderr and leave with an exit code."""
    print(message, file=sys.stderr)
    raise SystemExit(code)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint such as " Did you mean 'epochs'?", or nothing when no known name is close."""
    match = difflib.get_close_matches(name, list(known), 1)
    return f" Did you mean {match[0]!r}?" if match else ""


def program(*commands: Callable[..., None] | tuple[str, Callable[..., None]]) -> None:
    """Run a command line of annotated functions; a bad end is one line and exit code 2, a stop's 128 + its signal."""
    import typer  # a quarter of a second that notebooks need not wait for

    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be no text, consoles may lack letters
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    for command in commands:
        name, function = command if isinstance(command, tuple) else (None, command)
        app.command(name)(ending_in_one_line(function))
    try:
        code = app(standalone_mode=False)
    except Exception as error:
        message = getattr(error, "format_message", None)  # wrong usage: of click, or of the click inside newer typers
        if message is None:
            raise
        exit_with(f"error: {' '.join(message().split())} (--help lists what there is)")
    raise SystemExit(code or 0)


def ending_in_one_line(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose errors and stops are one line and an exit code; typer itself would swallow their messages."""

    @functools.wraps(command)
    def run(*arguments: object, **options: object) -> None:
        try:
            command(*arguments, **options)
            print(end="", flush=True)  # here, where a reader that has gone can still be told from a fault
        except UserError as error:
            exit_with(f"error: {error}")
        except Stopped as stop:
            exit_with(stop, stop.exit_code)
        except KeyboardInterrupt:
            exit_with(STOPPED, 130)
        except OSError as error:  # of a place that nobody expected to be bad
            if error.filename is None:  # perhaps stdout, which Python would try once more, and complain
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            if isinstance(error, BrokenPipeError):  # as in `| head`: no fault
                raise SystemExit(141) from None
            exit_with(f"error: {error.filename or type(error).__name__}: {error.strerror or error}")

    return run


def _interrupted(kind: type[BaseException], *error: Any) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print(STOPPED, file=sys.stderr, flush=True)
        os._exit(130)
    sys.__excepthook__(kind, *error)


if sys.argv[:1] == ["-m"]:  # `python -m helpers...` is still importing; Ctrl-C is one line there, too
    sys.excepthook = _interrupted
