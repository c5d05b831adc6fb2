"""Which prior to ship: priors of the two convolutions, each with each, compared by the nets under them, or started from them, on
validation images.

    python -m experiments.swaps --vae7x7 data/fconv/vae7x7 TRIAL --vae5x5 data/fconv/vae5x5 --data_root DATA_ROOT --workers 2

Priors are told apart by the last two names of their paths. Without folders it prints what has run.
"""

from pathlib import Path

from utils import run_cli

from .fig2 import net_options
from .grid import CORE, METHODS, REMEMBERED, Driver, markdown, mean_std, method_job, method_options, select


def add_arguments(parser):
    for k in (7, 5):
        parser.add_argument(f"--vae{k}x{k}", type=Path, nargs="+", default=[], help=f"prior folders of the {k}x{k} convolution")
    parser.add_argument("--methods", nargs="+", choices=CORE, default=("dwp", "det"), help="nets under the priors, or started from them")
    parser.add_argument("--num_examples", type=int, default=50, help="size of the training set")
    parser.add_argument("--splits", type=int, default=1, help="split seeds 0, 1, …")
    parser.add_argument("--epochs", type=int, default=600, help="passes over the training set")


def settings(args):
    return {args.panel: f"n = {args.num_examples}, {args.epochs} epochs, {REMEMBERED.words}, on validation images"}


def short(folder):
    return "/".join(folder.resolve().parts[-2:])


def jobs(args):
    if bool(args.vae7x7) != bool(args.vae5x5):
        raise ValueError("give priors of both convolutions, --vae7x7 and --vae5x5, or none to see what has run")
    for split in range(args.splits):
        for first in args.vae7x7:
            for second in args.vae5x5:
                for method in args.methods:
                    options = net_options(args) | method_options(method, [first.resolve(), second.resolve()], kl_sum=REMEMBERED)
                    options |= dict(num_examples=args.num_examples, data_split_seed=split, validate=True)
                    yield method_job(args.panel, f"{method}, {short(first)} + {short(second)}", str(args.num_examples), split, options)


def table(rows):
    """Methods and pairs of priors, by validation accuracy, as Markdown."""
    found = {word: select(rows, method=word, metric="acc") for word in {r["method"] for r in rows}}
    lines = []
    for word in sorted(found, key=lambda word: (word.partition(", ")[0], -found[word].mean())):
        method, _, priors = word.partition(", ")
        others = (mean_std(select(rows, method=word, metric=metric)) for metric in ("nll", "ece"))
        lines.append([METHODS[method][0], *priors.split(" + "), mean_std(found[word]), *others, len(found[word])])
    return markdown("method | 7x7 prior | 5x5 prior | validation accuracy | NLL, nats | ECE | splits", lines)


DRIVER = Driver("swaps", __doc__, add_arguments, dict(panel="glyph-digits", num_examples=20, epochs=1), settings, jobs, table)

if __name__ == "__main__":
    run_cli(DRIVER.main)
