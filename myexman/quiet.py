"""What the scripts import first: Ctrl-C while they import PyTorch, which takes seconds, ends them at once and without a traceback."""

import signal
import sys
from pathlib import Path


def over():
    """From now on Ctrl-C raises KeyboardInterrupt again."""
    if waiting:
        signal.signal(signal.SIGINT, signal.default_int_handler)


started = getattr(sys.modules["__main__"], "__file__", None)
# by one of the scripts, not by who imports it; and not where Ctrl-C is ignored, as in the background
waiting = started and Path(started).resolve().parent == Path(__file__).resolve().parents[1]
waiting = bool(waiting) and signal.getsignal(signal.SIGINT) is signal.default_int_handler
if waiting:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
