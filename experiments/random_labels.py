"""Random labels: binary dropout learns them by heart, Sparse variational dropout and ARD leave an empty net (slides, "Random Labeling").

    python -m experiments.random_labels --data_root DATA_ROOT --workers 2

LeNet-300-100 on 5000 MNIST images whose labels are shuffled; `--panel cifar10` takes the VGG-like net, for an accelerator.
"""

import itertools

import train_bnn
from myexman import at_least
from myexman.logger import read_rows
from utils import evaluate, load_run, run_cli

from .grid import Driver, Job, command_line
from .methods import last_row, name_of
from .rows import HERE, markdown, mean_std, select

MODELS = {"mnist": "lenet300", "cifar10": "vgg", "glyph-digits": "lenet300"}  # the last for --quick
OPTIONS = {  # of train_bnn; not annealed: nothing is to be learnt
    "do": dict(net_cfg="vanilla-do"),
    "loguniform": dict(net_cfg="bayes-all", prior_list="loguniform", prune="snr"),
    "ard": dict(net_cfg="bayes-all", prior_list="ard", prune="snr"),
}


def add_arguments(parser):
    parser.add_argument("--panel", choices=["mnist", "cifar10"], default="mnist", help="data set")
    parser.add_argument("--num_examples", type=at_least(1), default=5000, help="training images")
    parser.add_argument("--epochs", type=at_least(1), default=400, help="passes over them")
    parser.add_argument("--splits", type=at_least(1), default=1, help="seeds 0, 1, …")


def shared(args):
    return {name: dict(num_examples=args.num_examples, epochs=args.epochs) for name in MODELS}


def jobs(args):
    shared = dict(data=args.panel, data_root=args.data_root, model=MODELS[args.panel], bs=100, num_examples=args.num_examples)
    shared |= dict(random_labels=True, epochs=args.epochs, eval_freq=args.epochs, ens=0)
    for split in range(args.splits):
        for method, options in OPTIONS.items():
            argv = command_line(**shared, **options, data_split_seed=split, seed=split)
            yield Job(args.panel, method, str(args.num_examples), split, argv, train_bnn.main, memorised)


def memorised(run_dir):
    """The numbers of a run, and the mean network's accuracy on its training images."""
    net, train, _ = load_run(run_dir)
    rows = last_row(run_dir)
    return [*rows, dict(rows[0], metric="train_acc", value=evaluate(net, train, ens=0)["mean_acc"])]


def table(rows):
    """Accuracy on the training and test images beside the slides', and the share of zero weights, as Markdown."""
    lines, paper = [], read_rows(HERE / "paper_results.csv")
    for panel, method in itertools.product(MODELS, OPTIONS):
        of = dict(panel=panel, method=method)
        train, test, times = (select(rows, metric=metric, **of) for metric in ("train_acc", "acc", "compression"))
        if len(train):
            slides = [select(paper, panel=f"{panel} {part} accuracy", method=method) for part in ("train", "test")]
            known = [value[0] if len(value) else "–" for value in slides]
            zeros = f"{100 * (1 - 1 / times).mean():.2f}" if len(times) else "–"
            lines.append([panel, name_of(method), mean_std(train), known[0], mean_std(test), known[1], zeros, len(train)])
    return markdown("data | method | train accuracy | slides | test accuracy | slides | weights pruned, % | seeds", lines)


DRIVER = Driver(
    "random_labels",
    __doc__,
    add_arguments,
    dict(panel="glyph-digits", num_examples=200, epochs=2),
    shared,
    jobs,
    table,
    paper=("slides_random_labels",),
)

if __name__ == "__main__":
    run_cli(DRIVER.main)
