"""Everything that the notebooks import. `helpers.load_vae()` gives the trained model."""

from .engine.errors import UserError
from .run import load_vae

__all__ = ["UserError", "load_vae"]
