"""The runs under a root folder: list them, look at one, compare two, go on with one or repeat it, and remove some.

python -m myexman --filter num_examples=50 --sort ens_acc --descending
python -m myexman show 12
python -m myexman compare 12 13
python -m myexman resume 12                 (its own options; others may follow)
python -m myexman rerun 12 --seed 1
python -m myexman rm 12                     (or rm --failed, rm --killed)
"""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

from .files import runs_root
from .index import Index, format_table
from .life import status
from .parser import Parser, read_params

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_COLUMNS = ("run", "state", "script", "data", "num_examples", "net_cfg", "prior_list", "seed", "data_split_seed")
DEFAULT_COLUMNS += ("epoch", "mean_acc", "ens_acc", "test_elbo", "note")


def make_parser(name="", description=__doc__):
    parser = Parser(prog=f"python -m myexman {name}".strip(), description=description)
    parser.add_argument("--root", default=str(runs_root()), help="folder of all runs ($DWP_PATH)")
    return parser


def text(value):
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def equal(value, wanted):
    """Whether a value is the wanted one, a word of the command line: as numbers, if both are."""
    try:
        return float(value) == float(wanted)
    except (TypeError, ValueError):
        return text(value) == wanted


def list_runs(argv):
    parser = make_parser()
    parser.add_argument("--filter", nargs="+", default=[], metavar="NAME=VALUE", help="only runs with these arguments")
    parser.add_argument("--sort", default="run", metavar="NAME", help="sort by an argument or a last metric")
    parser.add_argument("--descending", action="store_true", help="largest first")
    parser.add_argument("--columns", nargs="+", help="what to show; by default the usual columns that any of the runs has")
    parser.add_argument("--csv", metavar="FILE", help="write the table there as CSV, numbers in full")
    args = parser.parse_args(argv)
    rows = Index(args.root).info()
    if not rows:
        parser.error(f"no runs under {args.root}; set --root or $DWP_PATH")
    known = {k for row in rows for k in row} | {"note"}
    wanted = dict(word.partition("=")[::2] for word in args.filter)
    if len(wanted) < len(args.filter):
        parser.error("--filter: a name comes twice, and no run has two values of it")
    key = args.sort
    for name in [*wanted, key, *(args.columns or [])]:
        if name not in known:
            parser.error(f"no run has {name!r}; known: {', '.join(sorted(known))}")
    rows = [row for row in rows if all(equal(row.get(k), v) for k, v in wanted.items())]
    if not rows:
        parser.error(f"no run under {args.root} has {' and '.join(args.filter)}")
    present = [row for row in rows if row.get(key) is not None]
    absent = [row for row in rows if row.get(key) is None]
    number = all(isinstance(row[key], (int, float)) for row in present)
    present.sort(key=lambda row: row[key] if number else text(row[key]), reverse=args.descending)
    rows = present + absent
    columns = args.columns or [c for c in DEFAULT_COLUMNS if any(row.get(c) not in (None, "") for row in rows)]
    if args.csv:
        with open(args.csv, "w", newline="") as f:
            csv.writer(f).writerows([columns, *([text(row.get(c)) for c in columns] for row in rows)])
    print(format_table(rows, columns))


def show(argv):
    parser = make_parser("show", "All that is known of a run.")
    parser.add_argument("run", help="number or folder")
    args = parser.parse_args(argv)
    run = Index(args.root).find(args.run)
    facts = Index.read(run) | {name: value for name, value in status(run).items() if name in ("state", "seconds", "host")}
    print("\n".join(f"{name:20} {text(value)}" for name, value in facts.items() if value not in (None, "", [])))
    if facts["state"] == "failed" and (run / "traceback.txt").exists():
        print("\n" + (run / "traceback.txt").read_text(errors="replace").rstrip())


def compare(argv):
    parser = make_parser("compare", "The arguments and last metrics in which runs differ.")
    parser.add_argument("runs", nargs="+", metavar="run", help="numbers or folders")
    args = parser.parse_args(argv)
    rows = [Index.read(Index(args.root).find(run)) for run in args.runs]
    if len({row["path"] for row in rows}) < 2:
        parser.error("two runs or more are needed")
    names = [name for name in dict.fromkeys(k for row in rows for k in row) if name not in ("run", "path")]
    lines = [{"": name} | {row["path"]: row.get(name) for row in rows} for name in names if len({text(row.get(name)) for row in rows}) > 1]
    header = {"": "run"} | {row["path"]: row["run"] for row in rows}
    table = format_table([header, *lines], ["", *(row["path"] for row in rows)])
    print(table.partition("\n")[2] if lines else "they agree in all arguments and metrics")


def again(option):
    """What resume and rerun do: start the run's script with that option and what else the command line says."""

    def command(argv):
        name = {"--resume": "resume", "--config": "rerun"}[option]
        parser = make_parser(name, "Start a run's script again with the run's own options; you may add others.")
        parser.add_argument("run", help="number or folder")
        args, more = parser.parse_known_args(argv)
        run = Index(args.root).find(args.run)
        script = str((read_params(run / "params.yaml").get("meta") or {}).get("script"))
        if (ROOT / script).is_file():
            words = [str(ROOT / script)]
        elif (ROOT / "experiments" / script).is_file():
            words = ["-m", f"experiments.{Path(script).stem}"]
        else:
            raise ValueError(f"{run} was made by {script}, which cannot be started by itself, but by its driver")
        root = ["--root", str(args.root)] if option == "--config" else []
        return subprocess.call([sys.executable, *words, option, str(run), *root, *more])

    return command


def confirmed(question):
    """Whether the user says y.  Raises ValueError if there is nobody to ask."""
    try:
        return input(question).strip().lower() == "y"
    except EOFError as e:
        raise ValueError("there is no terminal to ask: give --yes") from e


def remove(argv):
    parser = make_parser("rm", "Remove the folders of runs.")
    parser.add_argument("runs", nargs="*", metavar="run", help="numbers or folders")
    parser.add_argument("--failed", action="store_true", help="those in the state `failed`")
    parser.add_argument("--killed", action="store_true", help="those in the state `killed`, which could still be resumed")
    parser.add_argument("--yes", action="store_true", help="without asking")
    args = parser.parse_args(argv)
    states = [state for state in ("failed", "killed") if getattr(args, state)]
    if not args.runs and not states:
        parser.error("say which: numbers or folders, --failed, or --killed")
    named = {Index(args.root).find(run) for run in args.runs}
    if lost := named - {link.resolve() for link in Index(args.root).links()}:
        parser.error(f"{lost.pop()} is not in the index of {args.root}: remove the folder itself")
    runs = [link for link in Index(args.root).links() if link.exists() and (link.resolve() in named or status(link)["state"] in states)]
    if busy := [link.name for link in runs if status(link)["state"] == "running"]:
        parser.error(f"run {int(busy[0])} is running")
    for link in runs:
        print(link.resolve())
    if not runs:
        print(f"no run is {' or '.join(states)}")
    elif args.yes or confirmed(f"remove these {len(runs)}? [y/N] "):
        for link in runs:
            shutil.rmtree(link.resolve())
            link.unlink()


COMMANDS = dict(show=show, compare=compare, resume=again("--resume"), rerun=again("--config"), rm=remove)


def main(argv=None):
    argv = list(sys.argv[1:] if argv is None else argv)
    command = COMMANDS.get(argv[0] if argv else "")
    try:
        code = command(argv[1:]) if command else list_runs(argv)
        sys.stdout.flush()
        return code
    except (ValueError, OSError, EOFError) as e:
        if isinstance(e, BrokenPipeError):  # | head has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        print(f"python -m myexman: error: {' '.join(str(e).split())}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
