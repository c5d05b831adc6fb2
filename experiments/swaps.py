"""Which priors to ship: lists of priors, compared by the nets under them, or started from them, on validation images.

    python -m experiments.swaps --vae_list data/fconv/vae7x7 data/fconv/vae5x5 --vae_list TRIAL data/fconv/vae5x5 --data_root DATA_ROOT
    python -m experiments.swaps --panel cifar10 --vae_list TRIAL data/cifar/vae5x5_1 data/cifar/vae5x5_2 --data_root DATA_ROOT

Priors are told apart by the last two names of their paths. Without a list it prints what has run.
"""

from pathlib import Path

from myexman import at_least
from utils import run_cli

from .fig2 import PANELS, net_options
from .grid import Driver
from .methods import CORE, DRAWN, EXACT, method_job, method_options, name_of
from .rows import markdown, mean_std, select

SIZES = {"mnist": 50, "cifar10": 200}  # of the training sets


def add_arguments(parser):
    parser.add_argument("--panel", choices=sorted(SIZES), default="mnist", help="data set")
    what = "prior folder of each convolution; given again for each list to compare"
    parser.add_argument("--vae_list", type=Path, nargs="+", action="append", default=[], metavar="DIR", help=what)
    parser.add_argument("--methods", nargs="+", choices=CORE, default=("dwp", "det"), help="nets under the priors, or started from them")
    parser.add_argument("--num_examples", type=at_least(1), help="size of the training set (default: 50 of MNIST, 200 of CIFAR-10)")
    parser.add_argument("--splits", type=at_least(1), default=1, help="split seeds 0, 1, …")
    parser.add_argument("--epochs", type=at_least(1), default=600, help="passes over the training set")


def kl_sum(panel):
    """That of Fig. 2, but on CIFAR-10, where it would take too long."""
    return DRAWN if panel == "cifar10" else EXACT


def settings(args):
    sizes = {panel: args.num_examples or SIZES.get(panel) for panel in PANELS}
    return {panel: f"n = {n}, {args.epochs} epochs, {kl_sum(panel).words}, on validation images" for panel, n in sizes.items()}


def short(folder):
    return "/".join(folder.resolve().parts[-2:])


def jobs(args):
    n, layers = args.num_examples or SIZES[args.panel], PANELS[args.panel].layers
    for folders in args.vae_list:
        if len(folders) != len(layers):
            raise ValueError(f"--vae_list: {len(folders)} priors for the {len(layers)} convolutions of {PANELS[args.panel].model}")
        for split in range(args.splits):
            for method in args.methods:
                options = net_options(args) | method_options(method, [folder.resolve() for folder in folders], kl_sum=kl_sum(args.panel))
                options |= dict(num_examples=n, data_split_seed=split, validate=True)
                yield method_job(args.panel, f"{method}, {' + '.join(map(short, folders))}", str(n), split, options)


def table(rows):
    """Methods and priors, by validation accuracy, as Markdown."""
    found = {word: select(rows, method=word, metric="acc") for word in {r["method"] for r in rows}}
    lines = []
    for word in sorted(found, key=lambda word: (word.partition(", ")[0], -found[word].mean())):
        method, _, priors = word.partition(", ")
        others = (mean_std(select(rows, method=word, metric=metric)) for metric in ("nll", "ece"))
        lines.append([name_of(method), *priors.split(" + ", 1), mean_std(found[word]), *others, len(found[word])])
    return markdown("method | 7x7 prior | 5x5 priors | validation accuracy | NLL, nats | ECE | splits", lines)


DRIVER = Driver(
    "swaps", __doc__, add_arguments, dict(panel="glyph-digits", num_examples=20, epochs=1), settings, jobs, table, by_panel=True
)

if __name__ == "__main__":
    run_cli(DRIVER.main)
