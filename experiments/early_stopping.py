"""What early stopping is worth: accuracy and NLL against the step on a schedule as long as the paper's.

    python -m experiments.fig2 --epochs 10000 --eval_freq 2500 --num_examples 50 --methods dwp-256 sn vd det frozen --data_root DATA_ROOT
    python -m experiments.early_stopping

The first command trains, and leaves its curves; the second draws them. The rate falls linearly to 0 at the last step, so a point of a curve
is not what a shorter schedule would end at.
"""

from models.pictures import new_figure, save_figure
from myexman import at_least
from utils import run_cli

from . import fig2
from .fig2_tables import ENOUGH, beside, label_of, labelled
from .grid import Driver
from .methods import KL_SUMS, curve
from .rows import RESULTS, rows_of_common_splits, tidy_rows, unpack


def add_arguments(parser):
    parser.add_argument("--num_examples", type=at_least(1), default=50, help="size of the training set")
    parser.add_argument("--epochs", type=at_least(1), default=10000, help="passes over the training set, as in the paper")
    parser.set_defaults(start="vae", seed=0, vae_list=None, eval_freq=None, validate=False)  # as fig2's own


def shared(args):
    return {args.panel: fig2.curve_options(args, args.num_examples)}


def of_most_splits(rows):
    """The rows of the steps at which most splits were evaluated."""
    splits = {}
    for r in rows:
        splits.setdefault(r["x"], set()).add(r["seed"])
    return [r for r in rows if len(splits[r["x"]]) == max(map(len, splits.values()))]


def table(rows):
    return fig2.table(of_most_splits(rows), size="step")


def report():
    """Markdown lines for experiments.report: what starts from samples of priors, the shipped and others, by step; the last is Fig. 2's."""
    own, ((panel, usual),) = DRIVER.results(), DRIVER.usual().items()
    rows = [r | dict(options=DRIVER.options_of(r)) for r in tidy_rows(RESULTS / "early_stopping.csv") if r["panel"] == panel]
    rows = [r for r in rows if "init_list" not in unpack(r["options"])]
    parts, base = labelled(rows, usual), label_of("dwp-256")
    parts = [part for (seed, validate, _), part in parts.items() if not (seed or validate)]
    enough = [part for part in parts if len({r["seed"] for r in part if r["method"].startswith(base)}) >= ENOUGH]  # splits of its net
    shown = [r for part in enough for r in part]
    before = of_most_splits([r for r in shown if r["x"] < max(r["x"] for r in shown)]) if shown else []
    return [f"{panel}; {DRIVER.title(own)}:", "", beside(before, base, size="step")] if before else []


def plot(rows, file):
    rows = rows_of_common_splits(of_most_splits(rows))
    figure, (left, right) = new_figure(10, 3.8, columns=2)
    for method in (*KL_SUMS, "sn", "vd", "det", "frozen"):
        curve(left, rows, method, "acc")
        curve(right, rows, method, "nll")
    left.set(xlabel="step", ylabel="test accuracy")
    right.set(xlabel="step", ylabel="test NLL, nats per image")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", frameon=False, fontsize=8, ncols=5)
    figure.suptitle(f"{rows[0]['panel']}, {DRIVER.title(rows)}; mean and range over splits", fontsize=10)
    save_figure(figure, file)


SMOKE = dict(panel="glyph-digits", num_examples=20, epochs=3)
DRIVER = Driver("early_stopping", __doc__, add_arguments, SMOKE, shared, lambda args: (), table, plot, varied=("eval_freq",), report=report)

if __name__ == "__main__":
    run_cli(DRIVER.main)
