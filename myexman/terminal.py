"""Printing that survives a lost terminal."""

import os
import sys


def survive_a_lost_terminal():
    """From now on what is printed to a closed pipe, a full disk or nowhere is dropped: printing is no part of a training."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed before we began
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif not isinstance(stream, Forgiving) and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
            setattr(sys, name, Forgiving(stream))


class Forgiving:
    """A stream whose file is replaced by the null device when it can no longer be written to."""

    def __init__(self, stream):
        self.stream = stream

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, text):
        try:
            written = self.stream.write(text)
            if self.stream.line_buffering or not self.stream.isatty():
                self.stream.flush()  # so that an error comes here, and not at the end
            return written
        except OSError:
            self.give_up()
            return len(text)

    def flush(self):
        try:
            self.stream.flush()
        except OSError:
            self.give_up()

    def give_up(self):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self.stream.fileno())
        os.close(nothing)
