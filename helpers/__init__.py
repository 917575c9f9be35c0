"""Everything that the notebooks import. `helpers.load_vae()` gives the trained model."""

from .config import UserError
from .storage import load_vae

__all__ = ["UserError", "load_vae"]
