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
        places = before | now
        total += len(places)
        if other := [place for place in places if before.get(place) != now.get(place)]:
            change = " -> ".join(f"{side.get(other[0], 'nothing')!s:.60}" for side in (before, now))
            differing.append(f"{path.name} in {len(other):,} of {len(places):,} (first: {other[0]}: {change})")
    if not total:
        return "There are no committed results of this folder to compare with."
    return f"{total:,} results, " + (
        f"not all as committed: {'; '.join(differing)}." if differing else "all equal to the committed ones."
    )


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


def leaves(content: Any, place: str = "") -> dict[str, Any]:
    """{place: value} of all results in a JSON value; a row of metrics.json is called by its first four words."""
    if isinstance(content, dict):
        parts = {name: part for name, part in content.items() if name not in PASSING}
    elif isinstance(content, list):
        rows = [part[:4] if isinstance(part, list) and len(part) == 8 else [] for part in content]
        parts = {
            " ".join(map(str, row)) or str(i): part for i, (row, part) in enumerate(zip(rows, content, strict=True))
        }
    else:
        return {place: content}
    return {k: v for name, part in parts.items() for k, v in leaves(part, f"{place}.{name}".lstrip(".")).items()}
