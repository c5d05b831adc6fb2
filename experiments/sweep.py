"""Any of the scripts at every point of a grid, on this machine or on a cluster.

    python -m experiments.sweep train_bnn.py --grid num_examples=50,100 data_split_seed=0..2 prior_list=vae,sn \\
        --fixed "--data mnist --data_root DATA_ROOT --hid_dim 32 128 --epochs 600 --eval_freq 600 --init_list vae \\
        --vae_list data/fconv/vae7x7 data/fconv/vae5x5" --name priors --workers 2

A point's values are separated by commas, those of an option that takes several by spaces ('hid_dim=32 128,16 64'); quotes protect both
within a value; 0..2 is 0,1,2. The table gives means over seeds, `--metric` draws one of its columns against the first option of numbers.
All goes to <runs>/sweeps/<name>.
"""

import hashlib
import importlib
import itertools
import re
import shlex
from argparse import ArgumentTypeError
from functools import cache
from pathlib import Path

from models.pictures import new_figure, save_figure
from myexman import Parser, runs_root
from myexman.logger import read_rows
from utils import default_data_root, run_cli

from .grid import Job, grid_folder, report_failures, run_grid
from .launchers import add_launcher_flags, make_launcher
from .rows import identity, markdown, select, unpack

SCRIPTS = ("train_source.py", "train_vae_prior.py", "train_bnn.py")
SEEDS = ("seed", "data_split_seed")  # what the table takes means over


def axis(word):
    """An argparse type: NAME=VALUES as (name, list of texts)."""
    name, _, values = word.partition("=")
    found = re.fullmatch(r"(-?\d+)\.\.(-?\d+)", values)
    between = r""",(?=(?:[^'"]|'[^']*'|"[^"]*")*$)"""  # commas that are not quoted
    listed = [str(i) for i in range(int(found[1]), int(found[2]) + 1)] if found else re.split(between, values)
    try:
        empty = not all(map(shlex.split, listed))
    except ValueError:  # a quote without an end
        empty = True
    if not name.isidentifier() or empty or not listed or len(set(listed)) < len(listed):
        raise ArgumentTypeError(f"{word!r} is not of the form name=value,value or name=0..9, each value once")
    return name, listed


def options_of(words):
    """{name: value, list of values, or True} of command-line words."""
    found = {}
    for word in words:
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            found[name] = [value] if value else []
        elif found:
            found[name].append(word)
    return {name: values or True for name, values in found.items()}


def content(path):
    """A few digits that tell what a file holds, or the arrays and weights of a folder."""
    files = sorted(f for f in path.iterdir() if f.is_file() and f.suffix in (".npy", ".torch", ".safetensors")) if path.is_dir() else [path]
    return hashlib.sha256(b"".join(f.name.encode() + f.read_bytes() for f in files)).hexdigest()[:8]


def inputs(options, look):
    """look(path), content()'s, of the files and folders that the options name by path, a net's FILE.py:Class, too, and of the data set if
    it is a file in the root: they may be others when a sweep is started again."""
    lists = {name: shlex.split(value) if isinstance(value, str) else value for name, value in options.items() if value is not True}
    root = Path(lists.pop("data_root", [default_data_root()])[0]).expanduser()
    words = {part for listed in lists.values() for word in listed for part in (word, *word.split(":"))}
    files = {root / f"{name}.npz" for name in lists.get("data", ())} | {Path(word) for word in words if word}
    return sorted({look(file) for file in files if file.exists()})


def parse_args(argv=None):
    parser = Parser(description=__doc__, prog="python -m experiments.sweep")
    parser.add_argument("script", choices=SCRIPTS, help="what to run")
    parser.add_argument("--grid", nargs="+", type=axis, required=True, metavar="NAME=VALUES", help="options and their values")
    parser.add_argument("--fixed", default="", metavar="WORDS", help="further options of every run, quoted as one argument")
    parser.add_argument("--name", default="sweep", help="of the files of results")
    parser.add_argument("--metric", help="column of the logs to draw (default: the first of accuracy or ELBO)")
    add_launcher_flags(parser)
    args = parser.parse_args(argv)
    try:
        args.fixed = shlex.split(args.fixed)
    except ValueError as e:
        parser.error(f"--fixed: {str(e).lower()}")
    names = [name for name, _ in args.grid]
    if len(set(names)) < len(names):
        parser.error("--grid: an option comes twice")
    if not re.fullmatch(r"\w[\w.-]*", args.name):
        parser.error(f"--name {args.name}: letters, digits, dots, dashes")
    return args


def numbers(run_dir):
    """The numbers of the last row of a run's log."""
    row = read_rows(run_dir / "logs.csv")[-1]
    return [
        dict(metric=name, value=value, steps=row.get("step", row["epoch"])) for name, value in row.items() if name not in ("epoch", "step")
    ]


def jobs(args):
    """A Job for each point of the grid: its seeds, or those of --fixed, are the row's seed, the others its method."""
    main, known = importlib.import_module(args.script.removesuffix(".py")).main, cache(content)
    for values in itertools.product(*(values for _, values in args.grid)):
        point = dict(zip((name for name, _ in args.grid), values))
        words = [word for name, value in point.items() for word in (f"--{name}", *shlex.split(value))]
        kind = {name: value for name, value in point.items() if name not in SEEDS}
        seeds = {name: value[0] for name, value in options_of([*args.fixed, *words]).items() if name in SEEDS and value is not True}
        options = {name: value for name, value in options_of(args.fixed).items() if name not in SEEDS} | kind
        options |= dict(inputs=inputs(options, known))
        method, seed = (", ".join(f"{name}={value}" for name, value in part.items()) for part in (kind, seeds))
        yield Job(args.script, method or "all", "", seed or "seed=0", [*args.fixed, *words], main, numbers, options)


def table(rows):
    """The means over seeds, with standard deviations, as Markdown."""
    methods, metrics = (list(dict.fromkeys(r[c] for r in rows)) for c in ("method", "metric"))
    runs = [len({r["seed"] for r in rows if r["method"] == method}) for method in methods]
    lines = [[m, n, *(mean(select(rows, method=m, metric=metric)) for metric in metrics)] for m, n in zip(methods, runs)]
    return markdown(" | ".join(["", "runs", *metrics]), lines)


def mean(values):
    """'0.827 ± 0.024': with the standard deviation over runs (n - 1), of numbers of any size; a dash if there is none."""
    if not len(values):
        return "–"
    return f"{values.mean():.4g}" + (f" ± {values.std(ddof=1):.2g}" if len(values) > 1 else "")


def is_number(word):
    try:
        float(word)
    except ValueError:
        return False
    return True


def plot(args, rows, file):
    """A metric, by default one that all points have, against the first option of numbers, a line for each point of the others; or nothing,
    if there is no such option."""
    axes = [name for name, values in args.grid if name not in SEEDS and len(values) > 1 and all(map(is_number, values))]
    metrics = {method: {r["metric"] for r in rows if r["method"] == method} for method in dict.fromkeys(r["method"] for r in rows)}
    known, common = set.union(*metrics.values()), set.intersection(*metrics.values())
    wanted = [args.metric] if args.metric else [m for m in ("ens_acc", "mean_acc", "test_elbo") if m in common]
    if wanted and wanted[0] not in known:
        raise ValueError(f"--metric {wanted[0]}: the runs have {', '.join(sorted(known))}")
    if not axes or not wanted:
        return
    figure, panel = new_figure(5.5, 3.8)
    lines = {}
    for method in (method for method, own in metrics.items() if wanted[0] in own):
        options = unpack(next(r["options"] for r in rows if r["method"] == method))
        point = {name: options[name] for name, _ in args.grid if name not in SEEDS}
        x = float(point.pop(axes[0]))
        values = select(rows, method=method, metric=wanted[0])
        point_of_line = x, values.mean(), values.mean() - values.min(), values.max() - values.mean()
        lines.setdefault(", ".join(point.values()), []).append(point_of_line)
    for label, points in lines.items():
        x, height, below, above = zip(*sorted(points))
        panel.errorbar(x, height, [below, above], label=label, marker="o", capsize=3)
    panel.set(xlabel=axes[0], ylabel=f"{wanted[0]}, mean and range over seeds")
    if any(lines):
        panel.legend(frameon=False, fontsize=8)
    save_figure(figure, file)
    print(f"drew {file}")


def main(argv=None):
    args = parse_args(argv)
    file = runs_root() / "sweeps" / f"{args.name}.csv"
    given = {*options_of(args.fixed), *dict(args.grid)}
    if "root" in given:
        raise ValueError("a sweep takes no --root, since it could not find its runs there when started again: set $DWP_PATH instead")
    if "out" in given:
        raise ValueError("a sweep takes no --out, where one point's result would replace another's: the run folders have them")
    wanted = list(jobs(args))
    rows, failed = run_grid(wanted, file, None, make_launcher(args, grid_folder(file) / "slurm"), args.time_limit, args.retry)
    keys = {job._replace(figure=file.stem).key for job in wanted}
    rows = [r for r in rows if identity(r)[:-1] in keys]
    if rows:
        print(table(rows))
        plot(args, rows, file.with_suffix(".png"))
    report_failures(failed)


if __name__ == "__main__":
    run_cli(main)
