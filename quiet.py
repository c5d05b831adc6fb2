"""What the scripts import first: Ctrl-C while they import PyTorch, which takes seconds, ends them without a traceback."""

import sys
from pathlib import Path


def hook(kind, error, traceback):
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)


started = getattr(sys.modules["__main__"], "__file__", None)
if started and Path(started).resolve().parent == Path(__file__).resolve().parent:  # one of the scripts, not who imports it
    sys.excepthook = hook
