"""A small experiment manager: every run of a script is a folder that says how it was made."""

from . import quiet  # isort: split  before PyTorch
from .checkpoint import Checkpoints, OtherInputs, Stopped, load_checkpoint, load_plain, resume, save_checkpoint, save_state
from .files import acquire, replacing, runs_root
from .index import Index, find_run, go_on, run_folder
from .life import script, status
from .logger import Logger, progress
from .parser import ExParser, Parser, at_least, checked, commit_name, finite, positive, read_params, resolve_paths, share, write_yaml
from .terminal import survive_a_lost_terminal

__all__ = [
    "Checkpoints",
    "ExParser",
    "Index",
    "Logger",
    "OtherInputs",
    "Parser",
    "Stopped",
    "acquire",
    "at_least",
    "checked",
    "commit_name",
    "find_run",
    "finite",
    "go_on",
    "load_checkpoint",
    "load_plain",
    "positive",
    "progress",
    "quiet",
    "read_params",
    "replacing",
    "resolve_paths",
    "resume",
    "run_folder",
    "runs_root",
    "save_checkpoint",
    "save_state",
    "script",
    "share",
    "status",
    "survive_a_lost_terminal",
    "write_yaml",
]
