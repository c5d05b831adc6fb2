"""Index: all runs under a root as a table, whatever state their files are in."""

import os
import platform
import sys
from argparse import ArgumentTypeError
from contextlib import suppress
from pathlib import Path

from .checkpoint import CannotResume
from .files import runs_root
from .life import status
from .logger import read_rows
from .parser import code_hash, read_params


class Index:
    """Index(root).info() -> one dict per run, oldest first: `run` (number), `path`, `state` (of myexman.status), every argument, `commit`,
    and the columns of the last line of logs.csv (an argument keeps its name if both have it); `note` says which file cannot be read."""

    def __init__(self, root):
        self.root = Path(root).expanduser()

    def links(self):
        return sorted((self.root / "index").glob("[0-9]*")) if self.root.exists() else []

    def info(self):
        rows = [self.read(link) for link in self.links()]
        return [row for row in rows if row]

    def find(self, name):
        """The folder of a run, by its number or path.  Raises ValueError."""
        if name.isdigit():
            found = [link.resolve() for link in self.links() if int(link.name) == int(name)]
            if found and found[0].exists():
                return found[0]
        elif (Path(name) / "params.yaml").exists():
            return Path(name).resolve()
        raise ValueError(f"no run {name} under {self.root}")

    @staticmethod
    def read(run):
        """What is known of the run in a folder, or behind a link of the index; None if there is none."""
        if not run.exists():  # claimed a moment ago, or removed by hand
            return None
        row, notes = {"run": run.name.split("-")[0], "path": str(run.resolve()), "state": status(run)["state"]}, []
        try:
            params = read_params(run / "params.yaml")
        except (OSError, ValueError) as e:
            params = {}
            notes.append("no params.yaml" if isinstance(e, FileNotFoundError) else str(e))
        meta = params.pop("meta", None)
        meta = meta if isinstance(meta, dict) else {}
        try:
            rows = read_rows(run / "logs.csv") if (run / "logs.csv").exists() else []
        except (OSError, ValueError) as e:
            rows = []
            notes.append(str(e))
        row |= {"script": meta.get("script"), "commit": meta.get("commit"), **(rows[-1] if rows else {}), **params}
        return row | {"note": "; ".join(notes)} if notes else row


def find_run(name, root=None):
    """The folder of a run, a path as text, by that or by its number under root ($DWP_PATH), as `python -m myexman` shows.  Raises
    ValueError."""
    return str(Index(root or runs_root()).find(name)) if name.isdigit() and not Path(name).exists() else name


def run_folder(name):
    """find_run() as an argparse type."""
    try:
        return find_run(name)
    except ValueError as e:
        raise ArgumentTypeError(str(e)) from e


def go_on(main, argv):
    """main(argv) of a script, or that with --resume of the last run under $DWP_PATH that this script, command line and code began, that was
    stopped or killed, and that left a checkpoint, if it can be resumed.  Returns what main does."""
    if run := unfinished(f"{main.__module__.split('.')[-1]}.py", argv):
        try:
            return main(["--resume", str(run)])
        except CannotResume as e:
            print(f"note: {e}", file=sys.stderr)
    return main(argv)


def unfinished(script, argv):
    """The folder of that run, or None; a line on stderr if there is one, but of other code."""
    origin, others = dict(script=script, argv=list(argv)), []
    for link in reversed(Index(runs_root()).links()):
        facts = status(link)
        # A Slurm job that is queued again keeps its number, and may begin on another node before the first counts as dead.
        moved = facts.get("job") == os.environ.get("SLURM_JOB_ID", -1) and facts.get("host") != platform.node()
        if (facts["state"] in ("stopped", "killed") or moved) and (link / "checkpoint.torch").exists():
            with suppress(OSError, ValueError):
                meta = read_params(link / "params.yaml").get("meta") or {}
                if {name: meta.get(name) for name in origin} == origin:
                    if meta.get("code") == code_hash(script, tuple(argv)):
                        return link.resolve()
                    others.append((link.resolve(), meta.get("commit")))
    if others:
        run, commit = others[0]
        print(f"note: {run} was begun by other code (commit {commit}): a new run begins; --resume continues the old one", file=sys.stderr)
    return None


def format_table(rows, columns):
    """Plain-text table of dicts; a missing value is blank."""

    def cell(value):
        if value is None:
            return ""
        if isinstance(value, (list, tuple)):
            return " ".join(map(str, value))
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    table = [list(columns), *([cell(row.get(c)) for c in columns] for row in rows)]
    width = [max(map(len, column)) for column in zip(*table)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, width)).rstrip() for line in table)
