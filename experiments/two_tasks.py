"""One task after another: MNIST, then MNIST with shuffled pixels; what is left of the first (slides, "On-line / continual learning").

    python -m experiments.two_tasks --method posterior

`posterior` takes the first task's posterior as the second's prior; `sn` (with its standard normal prior) and `det` are fine-tuned.
The runs of the two tasks lie in this one's folder.
"""

import train_bnn
from data import load_dataset, permute_pixels
from myexman import ExParser, Logger, at_least
from myexman.logger import read_rows
from utils import add_run_flags, default_data_root, evaluate, load_run, run_cli

from .grid import command_line

WAYS = ("posterior", "sn", "det")


def parse_args(argv=None):
    parser = ExParser(description=__doc__.split("\n\n")[0], prog="two_tasks.py")
    add = parser.add_argument
    add("--method", choices=WAYS, default="posterior", help="how the second task is learnt")
    add("--data", default="mnist", help="data set of both tasks, 28x28 grey")
    add("--data_root", default=default_data_root(), help="folder of the data sets ($DATA_ROOT)")
    add("--num_examples", type=at_least(0), default=0, help="training images; 0 is all")
    add("--epochs", type=at_least(1), default=10, help="passes over each task")
    add("--logvarinit", type=float, default=-6.0, help="initial log-variance")
    add_run_flags(parser)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    shared = dict(data=args.data, data_root=args.data_root, num_examples=args.num_examples, model="lenet300", bs=100, ens=0)
    shared |= dict(epochs=args.epochs, eval_freq=args.epochs, seed=args.seed, root=args.run_dir, device=args.device)
    if args.method == "det":
        shared |= dict(net_cfg="vanilla")
    else:
        shared |= dict(net_cfg="bayes-all", logvarinit=args.logvarinit, prior_list="sn")
    first = train_bnn.main(command_line(**shared))
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


if __name__ == "__main__":
    run_cli(main)
