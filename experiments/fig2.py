"""Fig. 2: test accuracy of a Bayesian CNN against the number of training examples, under different priors.

    python -m experiments.fig2 --panel mnist --data_root DATA_ROOT          # needs mnist.npz there, or a network to download it
    python -m experiments.fig2 --plot_only

Every method starts from the same kernels, drawn from the VAE prior, and is trained alike; experiments.fair lets each choose. The
paper trains 10 000 epochs and averages 10 splits; the defaults here are what two CPU cores can afford, and the rows say so.
"""

from functools import partial
from typing import NamedTuple

from models import NETWORKS
from models.pictures import new_figure, save_figure
from myexman import at_least
from myexman.logger import read_rows
from utils import run_cli

from .grid import (
    CIFARNET,
    CORE,
    FCONV,
    METHODS,
    RESULTS,
    Driver,
    curve,
    every_row,
    last_row,
    markdown,
    mean_std,
    method_job,
    method_options,
    paper_curve,
    paper_value,
    select,
    shipped,
)

CHOICES = ["dwp-256", *CORE, "do", "de", "gauss", "gauss-indep"]


class Panel(NamedTuple):
    """A data set's net, the sources of its kernels, and the sizes of its training set that two cores can afford."""

    model: str
    layers: tuple
    hid_dim: tuple
    num_examples: tuple


PANELS = {
    "mnist": Panel("fconv", FCONV, (32, 128), (50, 100, 200)),
    "cifar10": Panel("cifarnet", CIFARNET, (32, 64, 64), (50, 200, 500)),
    "glyph-digits": Panel("fconv", FCONV, (4, 8), (20,)),  # for --quick
}


def add_arguments(parser):
    parser.add_argument("--panel", choices=["mnist", "cifar10"], default="mnist", help="data set")
    parser.add_argument("--num_examples", type=at_least(1), nargs="+", help="sizes of the training set (paper: 50 100 200 500 1000)")
    parser.add_argument("--splits", type=at_least(1), default=5, help="split seeds 0, 1, … (paper: 10)")
    parser.add_argument("--epochs", type=at_least(1), default=600, help="passes over the training set (paper: 10000)")
    what = "epochs between evaluations, whose curves go to early_stopping.csv (default: one, at the end)"
    parser.add_argument("--eval_freq", type=at_least(1), help=what)
    parser.add_argument("--methods", nargs="+", choices=CHOICES, default=CORE, help="what to run (the figure shows whatever has run)")
    what = "first kernels of every method: samples of the priors, or Xavier's"
    parser.add_argument("--start", choices=["vae", "xavier"], default="vae", help=what)
    parser.add_argument("--seed", type=int, default=0, help="of all randomness but the splits', the first kernels' among it")


def settings(args):
    settings, own = {}, start_words(args)
    for name, panel in PANELS.items():
        narrow = panel.hid_dim != NETWORKS[panel.model].default_hid_dim
        widths = f", filters {' '.join(map(str, panel.hid_dim))}" if narrow else ""
        reduced = "reduced: " if narrow or args.epochs < 10000 else ""
        settings[name] = f"{reduced}{args.epochs} epochs{widths}{own}"
    return settings


def start_words(args):
    """What rows say of a start that is not the usual one."""
    return (", Xavier's start" if args.start == "xavier" else "") + (f", seed {args.seed}" if args.seed else "")


def with_curve(setting, run_dir):
    """last_row(), and what experiments.early_stopping shows of the same run."""
    return last_row(run_dir) + [row | dict(figure="early_stopping", setting=setting) for row in every_row(run_dir)]


def net_options(args):
    """train_bnn's options for the panel's net, evaluated when it is trained; experiments with the same nets share them."""
    panel = PANELS[args.panel]
    shared = dict(data=args.panel, data_root=args.data_root, model=panel.model, hid_dim=panel.hid_dim)
    return shared | dict(epochs=args.epochs, eval_freq=args.epochs)


def jobs(args):
    panel = PANELS[args.panel]
    vaes, kernels = shipped("vae", panel.layers), shipped("conv", panel.layers)
    if args.seed and "de" in args.methods:
        raise ValueError("--seed: a deep ensemble is of nets with seeds of its own, 0 to 4")
    for n in args.num_examples or panel.num_examples:
        for split in range(args.splits):
            for method in args.methods:
                options = net_options(args) | dict(num_examples=n, data_split_seed=split, seed=args.seed)
                options |= method_options(method, vaes, kernels, args.start)
                options |= dict(eval_freq=args.eval_freq) if args.eval_freq else {}
                curve_of = partial(with_curve, f"n = {n}, {args.epochs} epochs{start_words(args)}")
                job = method_job(args.panel, method, str(n), split, options)
                yield job._replace(measure=curve_of) if args.eval_freq else job


def table(rows):
    """Accuracy, NLL, ECE and Brier score, mean ± standard deviation over splits, beside the paper's accuracy, as Markdown."""
    lines, panel = [], rows[0]["panel"]
    for n in sorted({r["x"] for r in rows}):
        for method in CHOICES:
            values = [select(rows, method=method, x=n, metric=metric) for metric in ("acc", "nll", "ece", "brier")]
            if len(values[0]):
                acc, *others = map(mean_std, values)
                paper = paper_value("fig2", panel, method, n) or "–"
                lines.append([n, METHODS[method][0], acc, paper, *others, len(values[0])])
    return markdown("n | prior | accuracy | paper | NLL, nats | ECE | Brier | splits", lines)


def on_its_splits(rows):
    """The rows of the splits that the deep weight prior has run on, so that means can be compared; all if it has not run."""
    splits = {(r["x"], r["seed"]) for r in rows if r["method"] == "dwp"}
    return [r for r in rows if not splits or (r["x"], r["seed"]) in splits]


def draw_metric(axis, rows, metric):
    """A metric, acc or nll, of all methods against n, on the splits of the deep weight prior, the paper's accuracy in grey."""
    rows = on_its_splits(rows)
    for method in CHOICES:
        curve(axis, rows, method, metric)
        if metric == "acc":
            paper_curve(axis, "fig2", rows[0]["panel"], method, label=f"paper, {METHODS[method][0]}")
    sizes = sorted({r["x"] for r in rows})
    ylabel = dict(acc="test accuracy", nll="test NLL, nats per image")[metric]
    axis.set(xscale="log", xlabel="training examples", ylabel=ylabel, xlim=(0.9 * sizes[0], 1.1 * sizes[-1]))
    axis.set_xticks(sizes, map(str, sizes))
    axis.minorticks_off()


def plot(rows, file):
    panel = rows[0]["panel"]
    figure, (left, right) = new_figure(11, 4, columns=2)
    draw_metric(left, rows, "acc")
    draw_metric(right, rows, "nll")
    counts = {len(select(rows, method=r["method"], x=r["x"], metric="acc")) for r in rows}
    splits = "–".join(map(str, sorted({min(counts), max(counts)})))
    figure.suptitle(
        f"Fig. 2, {panel}: {rows[0]['setting']}; mean and range over {splits} splits; grey: paper, 10 splits, 10 000 epochs", fontsize=10
    )
    left.legend(frameon=False, fontsize=7, ncols=2)
    right.legend(frameon=False, fontsize=8)
    save_figure(figure, file)


DRIVER = Driver("fig2", __doc__, add_arguments, dict(panel="glyph-digits", splits=1, epochs=3), settings, jobs, table, plot, by_panel=True)


def rows_beside(rows, methods):
    """Fig. 2's own rows of these methods, of the panels, sizes, splits and numbers of steps that another experiment's rows have."""

    def which(row):
        return row["panel"], row["x"], row["seed"], row["steps"]

    usual, there = DRIVER.usual(), set(map(which, rows))
    own = [r for r in read_rows(RESULTS / "fig2.csv") if r["method"] in methods and r["setting"] == usual.get(r["panel"])]
    return [r for r in own if which(r) in there]


if __name__ == "__main__":
    run_cli(DRIVER.main)
