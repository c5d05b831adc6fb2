"""Saving so that nothing is lost: files are replaced whole, never by a state that holds NaN or infinity, and in time."""

import copy
import io
import os
import signal
import threading
import time
import warnings
from pathlib import Path

import torch

from .files import check_archive, clear_parts, replacing
from .logger import read_log
from .parser import read_params, write_params

PATIENCE = 5.0  # seconds of an epoch that a signal waits for
HEARTBEAT = 30.0  # seconds between signs of life


def save_state(state, file):
    """Write a state dict (or any nest of tensors and plain values) atomically; it is on the disk when this returns.

    Raises FloatingPointError on NaN or infinity, and OSError if the disk is full; the former file is then whole."""
    bad = next((name for name, t in walk(state) if t.is_floating_point() and not torch.isfinite(t).all()), None)
    if bad is not None:
        raise FloatingPointError(f"{bad} holds NaN or infinity" + (f"; kept the former {file}" if Path(file).exists() else ""))
    content = io.BytesIO()  # torch's own writing to a file does not say what went wrong
    torch.save(state, content)
    with replacing(file) as (part,):
        part.write_bytes(content.getbuffer())


def walk(state, name="state"):
    if isinstance(state, torch.Tensor):
        yield name, state.coalesce().values() if state.is_sparse else state
    elif isinstance(state, dict):
        for k, v in state.items():
            yield from walk(v, k if name == "state" else f"{name}.{k}")
    elif isinstance(state, (list, tuple)):
        for i, v in enumerate(state):
            yield from walk(v, f"{name}.{i}")


def save_checkpoint(run_dir, epoch, **objects):
    """Write <run_dir>/checkpoint.torch: the epoch, each object's state_dict(), and the random state."""
    save_state(state_of(epoch, objects), Path(run_dir) / "checkpoint.torch")


def state_of(epoch, objects):
    """What a checkpoint holds."""
    rng = dict(cpu=torch.get_rng_state(), cuda=torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])
    return dict(epoch=epoch, rng=rng, **{name: o.state_dict() for name, o in objects.items()})


class Stopped(BaseException):
    """A signal ended a run, whose last finished epoch is on the disk.  Arguments: the signal's number, the run's folder, the epoch."""

    def __str__(self):
        signum, run_dir, epoch = self.args
        when = f"after epoch {epoch}" if epoch else "before it had finished another epoch"
        there = (Path(run_dir) / "checkpoint.torch").exists()
        return f"stopped by {signal.Signals(signum).name} {when}; " + (
            f"go on with --resume {run_dir}" if there else "there is no checkpoint yet"
        )


class CannotResume(ValueError):
    """A run cannot be resumed: its checkpoint is damaged, or of something else."""


class OtherInputs(CannotResume):
    """What a run began with is not what is found now."""


class Checkpoints:
    """A run's checkpoints: of every evaluation, of every `every` seconds, and of the last finished epoch when the process is told to end.

        with Checkpoints(run_dir, every, net=net, opt=opt) as checkpoints:
            for epoch in …:
                …
                checkpoints.finished(epoch + 1, save=evaluated)

    On SIGTERM, SIGINT, SIGHUP (the terminal was closed; not under nohup), SIGUSR1 or SIGUSR2 (a scheduler's warnings) the epoch is
    brought to its end, unless epochs take longer than PATIENCE: then the state after the last one, of which a copy is kept, is written at
    once. In the first epoch there is nothing to write. In each case Stopped is raised."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

    def __init__(self, run_dir, every, **objects):
        self.run_dir, self.every, self.objects = Path(run_dir), every, objects
        self.signum, self.copy, self.busy, self.first, self.former = None, None, False, True, {}
        self.saved = self.began = self.beat = time.monotonic()

    def __enter__(self):
        clear_parts(self.run_dir)
        if threading.current_thread() is threading.main_thread():
            self.former = {s: signal.signal(s, self.told_to_end) for s in self.SIGNALS if signal.getsignal(s) != signal.SIG_IGN}
        return self

    def __exit__(self, *_):
        for s, handler in self.former.items():
            signal.signal(s, handler)

    def told_to_end(self, signum, frame):
        self.signum = signum
        if self.first:
            raise Stopped(signum, str(self.run_dir), None)
        if self.copy is not None and not self.busy:
            self.stop(self.copy)

    def stop(self, state):
        """Write a state, unless another signal has made that begin already, and end the run."""
        self.busy = True
        save_state(state, self.run_dir / "checkpoint.torch")
        raise Stopped(self.signum, str(self.run_dir), state["epoch"])

    def finished(self, epoch, save=False):
        """After each epoch (1, 2, …).  save: whether it was evaluated, and a checkpoint is due."""
        self.busy, self.first, now = True, False, time.monotonic()
        slow, self.began = now - self.began > PATIENCE, now
        if save or now - self.saved >= self.every:
            save_checkpoint(self.run_dir, epoch, **self.objects)
            self.saved = time.monotonic()
        self.copy = copy.deepcopy(state_of(epoch, self.objects)) if slow else None
        if now - self.beat >= HEARTBEAT and (self.run_dir / "status.yaml").exists():
            os.utime(self.run_dir / "status.yaml")
            self.beat = now
        self.busy = False
        if self.signum:
            self.stop(state_of(epoch, self.objects))


def resume(args, epochs, **objects):
    """Restore the objects of the run args.run_dir and note in its params.yaml how it goes on; returns the number of epochs done.

    args: of ExParser, with --resume.  Raises what load_checkpoint does, and ValueError if more epochs than `epochs` are done."""
    done = load_checkpoint(args.run_dir, args.device, **objects)
    if done > epochs:
        raise ValueError(f"{done} epochs of {args.run_dir} are done already, more than the {epochs} asked for")
    read_log(args.run_dir / "logs.csv")  # raises if it is damaged, before anything is written
    meta = read_params(args.run_dir / "params.yaml").get("meta") or {}
    write_params(args, meta | dict(resumed=[*meta.get("resumed", []), args.again]))
    return done


def load_plain(file, device):
    """What torch.save() wrote, without running anything that a file holds.  Raises a dozen kinds of errors if it is damaged."""
    check_archive(file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of how a file was written
        return torch.load(file, map_location=device, weights_only=True)


def check_resumable(run_dir):
    """The checkpoint of a run.  Raises FileNotFoundError if there is none."""
    file = Path(run_dir) / "checkpoint.torch"
    if not file.exists():
        raise FileNotFoundError(f"nothing to resume: no {file}")
    return file


def load_checkpoint(run_dir, device, **objects):
    """Restore what save_checkpoint wrote into the same objects; returns the number of epochs already done.

    Raises FileNotFoundError, or ValueError if the file is damaged or was written by other objects."""
    file = check_resumable(run_dir)
    try:
        state = load_plain(file, device)
        if not isinstance(state, dict):
            raise TypeError("no dict")
        epoch, rng = int(state["epoch"]), state["rng"]
        for name, o in objects.items():
            o.load_state_dict(state[name])
            if isinstance(o, torch.optim.Optimizer):
                check_shapes(o)
        torch.set_rng_state(rng["cpu"].cpu())
        for i, values in enumerate(rng["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(values.cpu(), i)
    except Exception as e:  # torch raises a dozen kinds
        raise CannotResume(f"cannot resume from {file}: {(str(e) or type(e).__name__).splitlines()[0][:160]}") from e
    return epoch


def check_shapes(opt):
    """Raise ValueError if an optimiser's state, which torch takes as it is, does not fit its parameters."""
    for p, state in opt.state.items():
        if any(isinstance(t, torch.Tensor) and t.ndim and t.shape != p.shape for t in state.values()):
            raise ValueError("the optimiser's state does not fit the parameters")
