"""Drivers of the figures and tables: each calls the four scripts in-process and leaves a run folder per run."""
