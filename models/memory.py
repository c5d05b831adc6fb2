"""What cannot fit in memory is refused before it is asked for: the system would grant more than it has, and kill the process later."""

import os

import torch


def check_room(numbers, what):
    """Raise ValueError unless so many float32 numbers fit in the machine's main memory.  what: names them, and an option that says less."""
    room = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if 4 * numbers > room:
        raise ValueError(f"{what}: {4 * numbers / 1e9:.3g} GB do not fit in the {room / 1e9:.3g} GB of this machine")


def build(make, what):
    """make() a module, if its weights fit with their gradients and Adam's two moments.  Raises ValueError."""
    with torch.device("meta"):  # shapes alone
        try:
            weights = sum(p.numel() for p in make().parameters())
        except RuntimeError:  # more than torch can count
            weights = float("inf")
    check_room(4 * weights, what)
    return make()
