"""Saving so that nothing is lost: files are replaced whole, and never by a state that holds NaN or infinity."""

import os
from pathlib import Path

import torch
import yaml

from .parser import write_params


def save_state(state, file):
    """Write a state dict (or any nest of tensors and plain values) atomically.  Raises FloatingPointError on NaN or infinity."""
    bad = next((name for name, t in walk(state) if t.is_floating_point() and not torch.isfinite(t).all()), None)
    if bad is not None:
        raise FloatingPointError(f"{bad} holds NaN or infinity; kept the former {file}")
    file = Path(file)
    part = file.with_name(f".{file.name}.{os.getpid()}")
    torch.save(state, part)
    part.replace(file)


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
    rng = dict(cpu=torch.get_rng_state(), cuda=torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])
    save_state(dict(epoch=epoch, rng=rng, **{k: o.state_dict() for k, o in objects.items()}), Path(run_dir) / "checkpoint.torch")


def resume(args, epochs, **objects):
    """Restore the objects of the run args.run_dir and note in its params.yaml how it goes on; returns the number of epochs done.

    args: of ExParser, with --resume.  Raises what load_checkpoint does, and ValueError if more epochs than `epochs` are done."""
    done = load_checkpoint(args.run_dir, args.device, **objects)
    if done > epochs:
        raise ValueError(f"{done} epochs of {args.run_dir} are done; {epochs} are fewer")
    meta = yaml.safe_load((args.run_dir / "params.yaml").read_text()).get("meta") or {}
    write_params(args, meta | dict(resumed=[*meta.get("resumed", []), args.again]))
    return done


def load_checkpoint(run_dir, device, **objects):
    """Restore what save_checkpoint wrote into the same objects; returns the number of epochs already done.

    Raises FileNotFoundError, or ValueError if the file is damaged or was written by other objects."""
    file = Path(run_dir) / "checkpoint.torch"
    if not file.exists():
        raise FileNotFoundError(f"nothing to resume: no {file}")
    try:
        state = torch.load(file, map_location=device, weights_only=True)
        for name, o in objects.items():
            o.load_state_dict(state[name])
    except Exception as e:  # torch raises a dozen kinds
        raise ValueError(f"cannot resume from {file}: {(str(e) or type(e).__name__).splitlines()[0][:160]}") from e
    torch.set_rng_state(state["rng"]["cpu"].cpu())
    for i, rng in enumerate(state["rng"]["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(rng.cpu(), i)
    return state["epoch"]
