"""Continual learning: MNIST, then MNIST with shuffled pixels; what is left of the first (slides, "On-line / continual learning").

    python -m experiments.continual --data_root DATA_ROOT --workers 2

`posterior` takes the first task's posterior as the second's prior; `sn` (with its standard normal prior) and `det` are fine-tuned.
"""

import train_bnn
from data import load_dataset, permute_pixels
from myexman import ExParser, Logger, at_least, script
from myexman.logger import read_rows
from utils import add_run_flags, default_data_root, evaluate, load_run, run_cli

from .grid import Driver, Job, command_line
from .rows import markdown, mean_std, select

LABELS = {"posterior": "former posterior as prior", "sn": "fine-tuned, standard normal prior", "det": "fine-tuned, deterministic"}
WAYS = tuple(LABELS)


def parse_task_args(argv):
    parser = ExParser(prog="two_tasks.py")
    add = parser.add_argument
    add("--method", choices=WAYS, default="posterior", help="how the second task is learnt")
    add("--data", default="mnist", help="data set of both tasks, 28x28 grey")
    add("--data_root", default=default_data_root(), help="folder of the data sets ($DATA_ROOT)")
    add("--num_examples", type=at_least(0), default=0, help="training images; 0 is all")
    add("--epochs", type=at_least(1), default=10, help="passes over each task")
    add("--logvarinit", type=float, default=-6.0, help="initial log-variance")
    add_run_flags(parser)
    return parser.parse_args(argv)


@script(parse_task_args)
def two_tasks(args):
    """Train on both tasks, one after the other; the runs of the two lie in this one's folder, which is returned."""
    shared = dict(data=args.data, data_root=args.data_root, num_examples=args.num_examples, model="lenet300", bs=100, ens=0)
    shared |= dict(epochs=args.epochs, eval_freq=args.epochs, seed=args.seed, root=args.run_dir, device=args.device)
    shared |= dict(net_cfg="vanilla") if args.method == "det" else dict(net_cfg="bayes-all", prior_list="sn")
    begin = {} if args.method == "det" else dict(logvarinit=args.logvarinit)
    first = train_bnn.main(command_line(**shared, **begin))
    if args.method == "posterior":
        shared |= dict(prior_list=f"posterior:{first}")
    second = train_bnn.main(command_line(**shared, start_from=first, permute=1))
    old, new = (load_run(run, device=args.device)[0] for run in (first, second))
    _, test = load_dataset(args.data, args.data_root)
    test = test.to(args.device)
    tests = {"first": test, "second": permute_pixels(test, 1)}
    accuracy = {
        f"{task}_{when}": evaluate(net, tests[task], ens=0)["mean_acc"] for when, net in (("before", old), ("after", new)) for task in tests
    }
    step = sum(read_rows(run / "logs.csv")[-1]["step"] for run in (first, second))
    Logger(args.run_dir).row(step=step, **accuracy)
    return args.run_dir


def add_arguments(parser):
    parser.add_argument("--epochs", type=at_least(1), default=10, help="passes over each task")
    parser.add_argument("--splits", type=at_least(1), default=3, help="seeds 0, 1, …")


def shared(args):
    return {args.panel: dict(epochs=args.epochs)}


def accuracies(run_dir):
    row = read_rows(run_dir / "logs.csv")[-1]
    return [dict(metric=k, value=v, steps=row["step"]) for k, v in row.items() if k != "step"]


def jobs(args):
    shared = dict(data=args.panel, data_root=args.data_root, epochs=args.epochs, num_examples=200 if args.quick else 0)
    for seed in range(args.splits):
        for method in WAYS:
            argv = command_line(**shared, method=method, seed=seed)
            yield Job(args.panel, method, "", seed, argv, two_tasks, accuracies)


def table(rows):
    lines = []
    for method in WAYS:
        values = [select(rows, method=method, metric=metric) for metric in ("first_before", "first_after", "second_after")]
        if len(values[0]):
            lines.append([LABELS[method], *map(mean_std, values), len(values[0])])
    return markdown("second task learnt with | first task, before | first task, after | second task, after | seeds", lines)


DRIVER = Driver("continual", __doc__, add_arguments, dict(panel="glyph-digits", splits=1, epochs=1), shared, jobs, table)

if __name__ == "__main__":
    run_cli(DRIVER.main)
