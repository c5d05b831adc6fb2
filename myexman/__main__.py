"""python -m myexman: list runs.  Example: python -m myexman --filter num_examples=50 --sort ens_acc --descending"""

import csv
import os
import sys

from .index import Index, format_table
from .parser import Parser

DEFAULT_COLUMNS = (
    "run",
    "script",
    "data",
    "num_examples",
    "net_cfg",
    "prior_list",
    "seed",
    "data_split_seed",
    "epoch",
    "mean_acc",
    "ens_acc",
    "test_elbo",
)


def main(argv=None):
    parser = Parser(prog="python -m myexman", description="List the runs under a root folder.")
    parser.add_argument("--root", default=os.environ.get("DWP_PATH", "./logs"), help="folder of all runs ($DWP_PATH)")
    parser.add_argument("--filter", nargs="+", default=[], metavar="NAME=VALUE", help="only runs with these arguments")
    parser.add_argument("--sort", default="run", metavar="NAME", help="sort by an argument or a last metric")
    parser.add_argument("--descending", action="store_true", help="largest first")
    parser.add_argument("--columns", nargs="+", help="what to show; by default the usual columns that any of the runs has")
    parser.add_argument("--csv", metavar="FILE", help="write the table there as CSV, numbers in full")
    args = parser.parse_args(argv)
    rows = Index(args.root).info()
    if not rows:
        parser.error(f"no runs under {args.root}; set --root or $DWP_PATH")
    known = {k for row in rows for k in row}
    wanted = dict(word.partition("=")[::2] for word in args.filter)
    key = args.sort
    for name in [*wanted, key, *(args.columns or [])]:
        if name not in known:
            parser.error(f"no run has {name!r}; known: {', '.join(sorted(known))}")

    def text(value):
        return " ".join(map(str, value)) if isinstance(value, list) else str(value)

    rows = [row for row in rows if all(text(row.get(k)) == v for k, v in wanted.items())]
    present = [row for row in rows if row.get(key) is not None]
    absent = [row for row in rows if row.get(key) is None]
    number = all(isinstance(row[key], (int, float)) for row in present)
    present.sort(key=lambda row: row[key] if number else text(row[key]), reverse=args.descending)
    rows = present + absent
    columns = args.columns or [c for c in DEFAULT_COLUMNS if any(row.get(c) is not None for row in rows)]
    if args.csv:
        with open(args.csv, "w", newline="") as f:
            csv.writer(f).writerows([columns, *([text(row.get(c)) for c in columns] for row in rows)])
    print(format_table(rows, columns))


if __name__ == "__main__":
    sys.exit(main())
