"""Continual learning: accuracy on the first task after the second, with the former posterior as prior or with fine-tuning.

python -m experiments.continual --data_root DATA_ROOT --workers 2
"""

from myexman.logger import read_rows
from utils import run_cli

from .grid import Job, command_line, drive, driver_parser, markdown, mean_std, select
from .two_tasks import WAYS

LABELS = {"posterior": "former posterior as prior", "sn": "fine-tuned, standard normal prior", "det": "fine-tuned, deterministic"}


def parse_args(argv=None):
    parser = driver_parser(__doc__)
    parser.add_argument("--epochs", type=int, default=10, help="passes over each task")
    parser.add_argument("--splits", type=int, default=3, help="seeds 0, 1, …")
    parser.set_defaults(panel="mnist")
    return parser.parse_args(argv)


def settings(args):
    """{panel: what its rows say of how they were made}."""
    return {args.panel: f"{args.epochs} epochs a task"}


def accuracies(run_dir):
    row = read_rows(run_dir / "logs.csv")[-1]
    return [dict(metric=k, value=v, steps=row["step"]) for k, v in row.items() if k != "step"]


def jobs(args):
    shared = dict(data=args.panel, data_root=args.data_root, epochs=args.epochs, num_examples=200 if args.quick else 0)
    for seed in range(args.splits):
        for method in WAYS:
            argv = command_line(**shared, method=method, seed=seed)
            yield Job(args.panel, method, "", seed, argv, "experiments.two_tasks", accuracies)


def table(rows):
    lines = []
    for method in WAYS:
        values = [select(rows, method=method, metric=metric) for metric in ("first_before", "first_after", "second_after")]
        if len(values[0]):
            lines.append([LABELS[method], *map(mean_std, values), len(values[0])])
    return markdown("second task learnt with | first task, before | first task, after | second task, after | seeds", lines)


def main(argv=None):
    args = parse_args(argv)
    if args.quick:
        args.panel, args.splits, args.epochs = "glyph-digits", 1, 1
    rows, _ = drive(args, "continual", jobs(args), settings, parse_args)
    print(table(rows))


if __name__ == "__main__":
    run_cli(main)
