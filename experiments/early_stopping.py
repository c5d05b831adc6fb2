"""What early stopping is worth: accuracy and NLL against the step on a schedule as long as the paper's.

    python -m experiments.early_stopping --data_root DATA_ROOT --workers 2

The rate falls linearly to 0 at the last step, so a point of the curve is not what a shorter schedule would end at (experiments.fig2).
"""

from models.pictures import new_figure, save_figure
from myexman import at_least
from utils import run_cli

from .fig2 import PANELS, curve_options, last_step, net_options
from .grid import Driver
from .methods import KL_SUMS, curve, every_row, method_job, method_options, name_of, shipped
from .rows import markdown, rows_of_common_splits, select

CHOICES = (*KL_SUMS, "sn", "vd", "det")


def add_arguments(parser):
    parser.add_argument("--num_examples", type=at_least(1), default=50, help="size of the training set")
    parser.add_argument("--split", type=int, default=0, help="which training set")
    parser.add_argument("--epochs", type=at_least(1), default=10000, help="passes over the training set, as in the paper")
    parser.add_argument("--eval_freq", type=at_least(1), default=500, help="epochs between evaluations")
    parser.add_argument("--methods", nargs="+", choices=CHOICES, default=CHOICES, help="what to run")
    parser.set_defaults(start="vae", seed=0, vae_list=None)  # as fig2's own


def shared(args):
    return {args.panel: curve_options(args, args.num_examples)}


def jobs(args):
    for method in args.methods:
        options = net_options(args) | method_options(method, shipped("vae", PANELS[args.panel].layers))
        options |= dict(num_examples=args.num_examples, data_split_seed=args.split, eval_freq=args.eval_freq)
        last = last_step(args.num_examples, args.epochs)
        yield method_job(args.panel, method, str(last), args.split, options)._replace(measure=every_row)


def table(rows):
    """Accuracy and NLL at each step that was evaluated, means over the splits of all methods, as Markdown."""
    rows = rows_of_common_splits(rows)
    present = [method for method in CHOICES if any(r["method"] == method for r in rows)]
    lines = []
    for step in sorted({r["x"] for r in rows}):
        values = [select(rows, method=method, x=step, metric=metric) for method in present for metric in ("acc", "nll")]
        lines.append([step, *(f"{v.mean():.3f}" if len(v) else "–" for v in values)])
    heads = [f"{name_of(method)}: {word}" for method in present for word in ("accuracy", "NLL")]
    return markdown(" | ".join(["step", *heads]), lines)


def plot(rows, file):
    rows = rows_of_common_splits(rows)
    figure, (left, right) = new_figure(10, 3.8, columns=2)
    for method in CHOICES:
        curve(left, rows, method, "acc")
        curve(right, rows, method, "nll")
    left.set(xlabel="step", ylabel="test accuracy")
    right.set(xlabel="step", ylabel="test NLL, nats per image")
    left.legend(frameon=False, fontsize=8, loc=(0.42, 0.25))
    figure.suptitle(f"{rows[0]['panel']}, {DRIVER.title(rows)}", fontsize=10)
    save_figure(figure, file)


DRIVER = Driver(
    "early_stopping",
    __doc__,
    add_arguments,
    dict(panel="glyph-digits", num_examples=20, epochs=4, eval_freq=2, methods=["dwp-256", "det"]),
    shared,
    jobs,
    table,
    plot,
)

if __name__ == "__main__":
    run_cli(DRIVER.main)
