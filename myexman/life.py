"""What state a run is in: running, finished, failed, stopped by a signal, or killed.

A script's main() holds the run's lock while it works, and writes status.yaml when it begins and when it ends; Checkpoints touches that file
as a sign of life. A run that says `running` but whose lock is free, or on another machine silent for long, was killed."""

import functools
import os
import platform
import time
import traceback
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from .checkpoint import HEARTBEAT, Stopped, check_resumable
from .files import acquire
from .parser import read_params, write_yaml

SILENT = 20 * HEARTBEAT  # seconds without a sign of life after which a run on another machine counts as killed


def script(parse_args):
    """Make main(args) of a script a main(argv) that parses its arguments and keeps the state of the run that they made."""

    def decorate(main):
        @functools.wraps(main)
        def run(argv=None):
            args = parse_args(argv)
            if vars(args).get("resume"):
                check_resumable(args.run_dir)  # before anything is written there
            with alive(args.run_dir):
                return main(args)

        return run

    return decorate


@contextmanager
def alive(run_dir):
    """Hold the run's lock, and write how the block ended; but if a run was not resumed after all, what it was before.

    Raises ValueError if another process holds the lock."""
    lock, began = FileLock(run_dir / ".lock"), time.time()
    try:
        acquire(lock, timeout=0)
    except Timeout as e:
        raise ValueError(f"{run_dir} is in use by another process") from e
    params, file = run_dir / "params.yaml", run_dir / "status.yaml"
    former, begun_with = (f.read_bytes() if f.exists() else None for f in (file, params))
    beat = file.stat().st_mtime_ns if former else None
    facts = dict(state="running", host=platform.node(), pid=os.getpid(), job=os.environ.get("SLURM_JOB_ID"))

    def note(state):
        write_yaml(file, facts | dict(state=state, seconds=round(time.time() - began, 1)))

    try:
        note("running")
        yield
        note("finished")
    except BaseException as e:
        with suppress(OSError):  # on a full disk, whose own error is the one to report
            if former and begun_with and params.read_bytes() == begun_with:  # resume(), which notes itself there, was not reached
                file.write_bytes(former)
                os.utime(file, ns=(beat, beat))  # its last sign of life
            else:
                note("stopped" if isinstance(e, (Stopped, KeyboardInterrupt)) else "failed")
                if isinstance(e, Exception):
                    (run_dir / "traceback.txt").write_text(traceback.format_exc())
        raise
    finally:
        lock.release()


def status(run_dir):
    """dict(state, seconds, …) of a run; the state is "" if it is not known.  seconds: of work, since it began or was resumed."""
    file = Path(run_dir) / "status.yaml"
    try:
        facts = read_params(file)
    except (OSError, ValueError):
        return dict(state="")
    if "state" not in facts:
        return dict(state="")
    if facts["state"] == "running" and not working(run_dir, facts, file.stat().st_mtime):
        facts["state"] = "killed"
    return facts


def working(run_dir, facts, beat):
    """Whether a run that says so is running.  beat: time of its last sign of life, seconds since the epoch."""
    if facts.get("host") != platform.node():
        return time.time() - beat < SILENT
    try:
        with FileLock(Path(run_dir) / ".lock", timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # a folder that may not be written to
        return time.time() - beat < SILENT
