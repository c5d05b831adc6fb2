"""What early stopping is worth: accuracy and NLL against the step on a schedule as long as the paper's.

    python -m experiments.fig2 --epochs 10000 --eval_freq 500 --num_examples 50 --splits 1 --data_root DATA_ROOT --workers 2
    python -m experiments.early_stopping

The first command trains, and leaves its curves; the second draws them. The rate falls linearly to 0 at the last step, so a point of a curve
is not what a shorter schedule would end at.
"""

from models.pictures import new_figure, save_figure
from myexman import at_least
from utils import run_cli

from .fig2 import curve_options
from .grid import Driver
from .methods import KL_SUMS, curve, name_of
from .rows import markdown, rows_of_common_splits, select

CHOICES = (*KL_SUMS, "sn", "vd", "det")


def add_arguments(parser):
    parser.add_argument("--num_examples", type=at_least(1), default=50, help="size of the training set")
    parser.add_argument("--epochs", type=at_least(1), default=10000, help="passes over the training set, as in the paper")
    parser.add_argument("--eval_freq", type=at_least(1), default=500, help="epochs between evaluations")
    parser.set_defaults(start="vae", seed=0, vae_list=None)  # as fig2's own


def shared(args):
    return {args.panel: curve_options(args, args.num_examples)}


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


SMOKE = dict(panel="glyph-digits", num_examples=20, epochs=3, eval_freq=2)
DRIVER = Driver("early_stopping", __doc__, add_arguments, SMOKE, shared, lambda args: (), table, plot)

if __name__ == "__main__":
    run_cli(DRIVER.main)
