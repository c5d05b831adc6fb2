"""What cannot fit in memory is refused before it is asked for: the system would grant more than it has, and kill the process later."""

import os
from pathlib import Path

import torch

CGROUP = Path("/sys/fs/cgroup/memory.max")  # of a container, or of a job on a cluster


def check_room(numbers, what):
    """Raise ValueError unless so many float32 numbers fit in the main memory that this process may use.

    what: names them, and an option that says less."""
    room = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if CGROUP.exists() and (limit := CGROUP.read_text().strip()).isdecimal():
        room = min(room, int(limit))
    if 4 * numbers > room:
        raise ValueError(f"{what}: {4 * numbers / 1e9:.3g} GB do not fit in the {room / 1e9:.3g} GB of memory")


def build(make, what):
    """make() a module, if its weights fit with their gradients and Adam's two moments.  Raises ValueError."""
    with torch.device("meta"):  # shapes alone
        try:
            made = make()
            weights = sum(t.numel() for t in (*made.parameters(), *made.buffers()))
        except Exception as e:
            # more than torch can count; or a net that computes with values while it is made, or a mistake in it, which shows below
            weights = float("inf") if "overflow" in str(e) else 0
    check_room(4 * weights, what)
    return make()
