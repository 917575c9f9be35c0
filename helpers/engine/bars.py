"""Progress bars: the one place for their options."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def bar(things: Iterable[Any] | None = None, desc: str | None = None, total: float | None = None, **more: Any) -> tqdm:
    """tqdm on standard output as it is now (a kernel replaces it); a widget would leave nothing in a saved notebook."""
    return tqdm(things, desc, total, file=sys.stdout, mininterval=1, ncols=88, **more)
