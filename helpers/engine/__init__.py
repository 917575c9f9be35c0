"""What keeps a run alive and its files whole; this is the face of the room. Its modules: see the README."""

# ruff: noqa: F401, I001
from .errors import UserError, blamed_on, did_you_mean, program  # first, for it watches over the imports that follow
from .bars import bar
from .checkpoint import CHECKPOINT_SECONDS, Checkpointer, Diverged, Record
from .files import EXERCISE, HINTS, ROOT, cannot_write, check_ours, checkpoint_path, history_path, home
from .files import results_folder, weights_path, write_whole
from .optim import Muon, one_cycle
from .runtime import accelerator, environment, freed_memory_kept, precise
from .sealed import Json, Tensors, cached, cached_json, load_state, read_json, read_tensors, rounded, seal
from .sealed import sha256_of_file, sha256_of_tensors, within, write_json, write_tensors
from .signals import Stoppable, raise_on_sigterm
