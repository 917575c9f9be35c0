"""Notebooks run from Python: in a kernel of this interpreter that imports this checkout, whatever else is installed."""

import functools
import os
import sys
from pathlib import Path
from typing import Any

import papermill
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from traitlets.config import Config

from .errors import UserError
from .files import ROOT
from .sealed import seal, sha256_of_file

CONFIG = Config()
CONFIG.KernelManager.transport_encryption = "auto"  # or every log carries a warning about plain TCP
# An interrupted kernel complains of the sockets that it closes itself; errors of cells do not come this way.
CONFIG.NotebookClient.extra_arguments = ["--IPKernelApp.log_level=CRITICAL"]


class OwnKernel(AsyncKernelManager):
    """A kernel of this interpreter; a kernel "python3" that a user has installed may belong to another Python."""

    @property
    def kernel_spec(self) -> Any:
        spec: Any = super().kernel_spec
        spec.argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        spec.env = {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
        return spec


def execute_notebook(source: Path, target: str, parameters: dict[str, Any], folder: Path) -> None:
    """Run a notebook in `folder`; `target` may be a URL. UserError: its kernel failed; papermill's own: a cell did."""
    try:
        papermill.execute_notebook(
            str(source), target, parameters, cwd=str(folder), kernel_name="python3", kernel_manager_class=OwnKernel,
            start_timeout=180, progress_bar=False, coalesce_streams=True, autosave_cell_every=15, config=CONFIG,
        )  # fmt: skip
    except DeadKernelError:
        raise UserError("its kernel died, mostly because the memory was full; free some, then run it again") from None
    except RuntimeError as error:  # jupyter_client has no type of its own for a kernel that never answers
        hint = f"{sys.executable} -m ipykernel_launcher says why; `make clean`, then the same again, installs it anew"
        raise UserError(f"its kernel did not start ({error}); {hint}") from None


@functools.cache
def sha256_of_package() -> str:
    """The SHA-256 of the package's sources and tables."""
    paths = sorted(path for kind in ("py", "json", "ipynb") for path in (ROOT / "helpers").rglob(f"*.{kind}"))
    return seal({path.relative_to(ROOT).as_posix(): sha256_of_file(path) for path in paths})
