"""Tidy rows: a number each, in results/*.csv, and what tables make of them.

A row has the columns figure, panel, method, x, seed, metric, value, steps, device, commit, seconds, options. `seed` is that of the split,
or of the run where there is no split; `options`, written by pack(), are those of the script, by their flags' names, that tell a file's rows
from one another.
"""

import shlex
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from filelock import FileLock
from scipy import stats

from myexman import acquire, replacing
from myexman.logger import append_rows, read_rows

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS, FIGURES = HERE / "results", HERE / "figures"
KEY = ("figure", "panel", "method", "x", "seed", "options")  # what tells one job's rows from another's
COLUMNS = ("figure", "panel", "method", "x", "seed", "metric", "value", "steps", "device", "commit", "seconds", "options")
WORDS = {  # of options in sentences; of others the name and the value
    "num_examples": "n = {}",
    "epochs": "{} epochs",
    "steps": "{} steps",
    "bs": "batch {}",
    "lr": "rate {}",
    "l2": "L2 {}",
    "hid_dim": "{} filters",
    "init_list": "{} start",
    "eval_freq": "every {}",
    "validate": "on validation images",
    "raw": "raw features",
}


def pack(options):
    """Options as words in the order of their names, as a shell reads them: 'epochs=600 hid_dim=32,64,64 raw'. One that is True is a name
    alone; None, False and empty ones are left out."""

    def word(name, value):
        listed = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        return shlex.quote(name if value is True else f"{name}={listed}")

    return " ".join(
        word(name, value)
        for name, value in sorted(options.items())
        if value is not None and value is not False and value not in ("", (), [])
    )


@cache  # tens of thousands of rows have a few hundred texts
def unpack(text):
    """The options of pack(), as {name: text, or True}, which all callers share."""
    pairs = (word.partition("=") for word in shlex.split(str(text)))
    return {name: value if equals else True for name, equals, value in pairs}


def sentence(options, full=()):
    """Packed options in words, 'reduced: n = 50, 600 epochs'; reduced, if one of `full`, the paper's own, is another there."""
    own = unpack(options)
    reduced = any(str(own.get(name, value)) != str(value) for name, value in dict(full).items())
    said = [WORDS.get(name, name if own[name] is True else f"{name} {{}}").format(own[name]) for name in [*WORDS, *own] if name in own]
    return "reduced: " * reduced + ", ".join(dict.fromkeys(said))


def finished_keys(file):
    return {identity(row)[:-1] for row in tidy_rows(file)}


def identity(row):
    """What a tidy row is the number of: two rows of one identity are one too many."""
    return tuple(str(row.get(c)) for c in (*KEY, "metric"))


def tidy_rows(file):
    """The rows of a CSV file of results, of each identity the first; none if there is no file.  Raises ValueError if it is none of them."""
    if not file.exists():
        return []
    state = file.stat()
    return list(rows_of_file(file, state.st_mtime_ns, state.st_size))


@lru_cache(maxsize=4)  # a report asks for some of them dozens of times
def rows_of_file(file, *state):
    """tidy_rows() of a file in that state."""
    found, rows = {}, read_rows(file)
    if rows and "options" not in rows[0]:
        raise ValueError(f"{file} was written by a former version, whose rows have no `options`: move it away")
    for row in rows:
        found.setdefault(identity(row), row)
    return found.values()


def add_rows(rows, file, columns=COLUMNS):
    """Append rows to a CSV file to which another process may append; of tidy rows only those whose number it does not have yet."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with acquire(FileLock(file.with_name(f".{file.name}.lock"))):
        if columns == COLUMNS:
            present = set(map(identity, tidy_rows(file)))
            rows = [row for row in rows if identity(row) not in present]
        append_rows(rows, file, columns)


def write_rows(rows, file):
    """Write a CSV file anew, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as (part,):
        append_rows(rows, part, list(rows[0]))


def select(rows, **where):
    """Values of the rows that agree with `where`, as an array."""
    return np.array([row["value"] for row in rows if all(str(row[k]) == str(v) for k, v in where.items())], dtype=float)


def mean_std(values, digits=3):
    """'0.827 ± 0.024' (standard deviation over runs, n - 1); a dash if there is no value."""
    if not len(values):
        return "–"
    return f"{values.mean():.{digits}f}" + (f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else "")


def rows_of_common_splits(rows):
    """The rows of the seeds that all methods at that x share, so that means can be compared; a method with a single seed is left out where
    others have more."""
    points = {}
    for r in rows:
        points.setdefault(r["x"], {}).setdefault(r["method"], set()).add(r["seed"])
    several = {x: {method: seeds for method, seeds in of.items() if len(seeds) > 1} or of for x, of in points.items()}
    common = {x: set.intersection(*of.values()) for x, of in several.items()}
    return [r for r in rows if r["method"] in several[r["x"]] and r["seed"] in common[r["x"]]]


def paired_differences(rows, first, second, **where):
    """A method's values less another's, among the rows that agree with `where`, on the seeds that both have, as an array."""

    def by_seed(method):
        return {r["seed"]: r["value"] for r in rows if all(str(r[k]) == str(v) for k, v in (where | dict(method=method)).items())}

    one, other = by_seed(first), by_seed(second)
    return np.array([one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())])


def interval_ends(values):
    """The 95 % t interval of a mean, of two values or more."""
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return values.mean() - half, values.mean() + half


def interval(values, digits=3, sign="+"):
    """'+0.037 (+0.021 to +0.053)': the mean and its 95 % t interval; of a single value no interval.  sign: '+' for differences, or ''."""
    if len(values) < 2:
        return f"{values[0]:{sign}.{digits}f}" if len(values) else "–"
    return "{:{s}.{d}f} ({:{s}.{d}f} to {:{s}.{d}f})".format(values.mean(), *interval_ends(values), d=digits, s=sign)


def p_value(values):
    """Of the hypothesis that the mean of paired differences is 0, by Student's t; of equal ones 1 if they are 0, else 0."""
    return float(stats.ttest_1samp(values, 0).pvalue) if np.ptp(values) else float(not values[0])


def holm(ps):
    """p-values adjusted by Holm's step-down method: below a level where that hypothesis is rejected with the chance of any false rejection
    at most that level."""
    order = np.argsort(ps)
    adjusted = np.empty(len(ps))
    adjusted[order] = np.minimum(np.maximum.accumulate(np.asarray(ps)[order] * np.arange(len(ps), 0, -1)), 1)
    return adjusted


def markdown(columns, rows):
    """A Markdown table: the columns' names, "n | accuracy", and rows, each a list of cells; without rows, ""."""
    if not rows:
        return ""
    names = columns.split(" | ")
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in [names, ["---"] * len(names), *rows])
