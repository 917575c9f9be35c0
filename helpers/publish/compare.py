"""Do the results of a run equal the committed ones? One line that says so, or where not."""

import json
import subprocess
from pathlib import Path
from typing import Any

from ..engine.files import ROOT

# Machine and time, and what depends on them: not results.
PASSING = {"seconds", "finished", "measured", "environment", "speed", "sha256", "images_per_second"}
FILES = ("data", "training", "metrics", "generation", "compression", "captions")


def compare(folder: Path, revision: str = "HEAD") -> str:
    """One line: how many results in the JSON files of `folder` differ from those that git has at `revision`."""
    total, differing = 0, []
    for name in FILES:
        path = folder / f"{name}.json"
        committed = committed_text(path, revision)
        if committed is None or not path.is_file():
            continue
        before, now = (leaves(json.loads(text)) for text in (committed, path.read_text(encoding="utf-8")))
        places = {**before, **now}
        other = [place for place in places if before.get(place) != now.get(place)]
        total += len(places)
        if other:
            example = farthest(before, now, other)
            differing.append(f"{path.name} in {len(other):,} of {len(places):,} (such as {example})")
    if not total:
        return "There are no committed results of this folder to compare with."
    return f"{total:,} results, " + (
        f"not all as committed: {'; '.join(differing)}." if differing else "all equal to the committed ones."
    )


def farthest(before: dict[str, Any], now: dict[str, Any], places: list[str]) -> str:
    """The place with the largest relative difference of two numbers, and what stands there."""

    def apart(place: str) -> float:
        old, new = before.get(place), now.get(place)
        if not isinstance(old, int | float) or not isinstance(new, int | float):
            return 0.0
        return abs(old - new) / max(abs(old), abs(new), 1e-12)

    worst = max(places, key=apart)
    return f"{worst}: {before.get(worst, 'nothing')!s:.60} -> {now.get(worst, 'nothing')!s:.60}"


def committed_text(path: Path, revision: str) -> str | None:
    """The text of a file in git, or None: no git, no repository, or the file is not part of it."""
    if not path.is_relative_to(ROOT):
        return None
    place = f"{revision}:{path.relative_to(ROOT).as_posix()}"
    try:
        done = subprocess.run(["git", "show", place], cwd=ROOT, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8") if done.returncode == 0 else None


def is_row(content: Any) -> bool:
    """Is it a row of metrics.json: question, model, split, metric, value, stderr, n, unit?"""
    return isinstance(content, list) and len(content) == 8 and isinstance(content[4], int | float)


def leaves(content: Any, place: str = "") -> dict[str, Any]:
    """{place: value} of all results in a JSON value; a row of a table has the places of value, stderr and n."""
    if isinstance(content, dict):
        parts = [(name, part) for name, part in content.items() if name not in PASSING]
    elif is_row(content):
        return {" ".join([*content[:4], name]).strip(): content[i] for i, name in ((4, ""), (5, "stderr"), (6, "n"))}
    elif isinstance(content, list):
        parts = [(str(i), part) for i, part in enumerate(content)]
    else:
        return {place: content}
    if parts and all(is_row(part) for _, part in parts):
        place = ""
    return {k: v for name, part in parts for k, v in leaves(part, f"{place}.{name}".lstrip(".")).items()}
