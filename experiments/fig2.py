"""Fig. 2: test accuracy of a Bayesian CNN against the number of training examples, under different priors.

    python -m experiments.fig2 --panel mnist --data_root DATA_ROOT          # needs mnist.npz there, or a network to download it
    python -m experiments.fig2 --epochs 10000 --eval_freq 2500 --methods dwp-256 sn vd det frozen --splits 10 --data_root DATA_ROOT
    python -m experiments.fig2 --plot_only

The second command is the paper's schedule; the first a short one, what two CPU cores do in an hour or two. Every method starts from
the same kernels, drawn from the VAE prior, and is trained alike; with --start xavier from Xavier's, where those of learned priors are other
draws than those of the baselines. experiments.tune lets each choose. The paper does not say from which kernels its baselines start.
"""

from functools import partial

from models.pictures import new_figure, save_figure
from models.priors import DENSITIES
from models.vae import VAE
from myexman import at_least
from utils import run_cli

from .comparison import comparison_table
from .fig2_tables import SCHEDULES, published, report, rows_of
from .grid import Driver
from .methods import (
    CORE,
    PANELS,
    PAPER,
    curve,
    density_name,
    every_row,
    method_job,
    method_options,
    name_of,
    net_options,
    options,
    paper_curve,
    shipped,
    with_kernels,
)
from .rows import RESULTS, pack, rows_of_common_splits, sentence, tidy_rows

CHOICES = ["dwp-256", *CORE, "frozen", "moved", "do", "de", "gauss", "gauss-indep"]
STARTS = ("vae", "vae-mean", "xavier")  # of models.initialization.INITS


def add_arguments(parser):
    parser.add_argument("--panel", choices=["mnist", "cifar10"], default="mnist", help="data set")
    parser.add_argument("--num_examples", type=at_least(1), nargs="+", help="sizes of the training set (paper: 50 100 200 500 1000)")
    parser.add_argument("--splits", type=at_least(1), default=5, help="split seeds 0, 1, … (paper: 10)")
    parser.add_argument("--epochs", type=at_least(1), default=600, help="passes over the training set (paper: 10000)")
    what = "epochs between evaluations, in runs still to come; the curves go to early_stopping.csv (default: evaluate only at the end)"
    parser.add_argument("--eval_freq", type=at_least(1), help=what)
    parser.add_argument("--methods", nargs="+", choices=CHOICES, default=CORE, help="what to run (the figure shows whatever has run)")
    parser.add_argument(
        "--vae_list", nargs="+", metavar="DIR", help="priors in place of the shipped ones: the authors' own, or of another density"
    )
    what = "first kernels of every method: samples of the priors, their decoders' means, or Xavier's"
    parser.add_argument("--start", choices=STARTS, default="vae", help=what)
    parser.add_argument("--seed", type=int, default=0, help="seed of everything except the splits, including the first kernels")
    parser.add_argument("--validate", action="store_true", help="evaluate on validation images, to choose among priors")


def shared(args):
    own = args.epochs, args.start, args.seed, args.vae_list or ()
    return {panel: options(panel, *own) | dict(validate=args.validate) for panel in PANELS}


def curve_options(args, n):
    """What experiments.early_stopping's rows say of a run on n images."""
    return shared(args)[args.panel] | dict(num_examples=n, eval_freq=args.eval_freq if args.eval_freq != 500 else "")


def with_curve(options, run_dir):
    """with_kernels(), and what experiments.early_stopping shows of the same run."""
    return with_kernels(run_dir) + [row | dict(figure="early_stopping", options=pack(options)) for row in every_row(run_dir)]


def jobs(args):
    panel = PANELS[args.panel]
    vaes, kernels = args.vae_list or shipped("vae", panel.layers), shipped("conv", panel.layers)
    if len(vaes) != len(panel.layers):
        raise ValueError(f"--vae_list: {panel.model} has {len(panel.layers)} convolutions, and needs as many priors, not {len(vaes)}")
    if args.start == "vae-mean" and (others := [folder for folder in vaes if not issubclass(DENSITIES[density_name(folder)], VAE)]):
        raise ValueError(f"--start vae-mean: {others[0]} has no decoder; leave --start out")
    if args.seed and "de" in args.methods:
        raise ValueError("--seed: the nets of a deep ensemble (de) have fixed seeds, 0 to 4")
    for n in args.num_examples or panel.num_examples:
        for split in range(args.splits):
            for method in args.methods:
                own = net_options(args) | dict(num_examples=n, data_split_seed=split, seed=args.seed, validate=args.validate)
                own |= method_options(method, vaes, kernels, args.start) | (dict(eval_freq=args.eval_freq) if args.eval_freq else {})
                job = method_job(args.panel, method, str(n), split, own)
                yield job._replace(measure=partial(with_curve, curve_options(args, n))) if args.eval_freq else job


def table(rows, size="n"):
    """comparison_table() of what a command has run beside the deep weight prior by its whole KL sum, or if that has not run, by 256."""
    base = name_of("dwp" if any(r["method"] == "dwp" for r in rows) else "dwp-256")
    bases = {base: None} | {name_of(method): base for method in CHOICES if name_of(method) != base}
    return comparison_table([r | dict(method=name_of(r["method"])) for r in rows], bases, size=size)


def draw_metric(axis, rows, from_xavier, metric, paper):
    """A metric, acc or nll, of all methods against n, on the splits of all; with `paper` the paper's accuracy in grey.

    from_xavier: rows of the baselines from Xavier's kernels, dotted, on the splits of all of them."""
    panel, rows, from_xavier = rows[0]["panel"], rows_of_common_splits(rows), rows_of_common_splits(from_xavier)
    named = {r["method"] for r in rows}
    for method in CHOICES:
        curve(axis, rows, method, metric)
        label = None if method in named else name_of(method)
        curve(axis, from_xavier, method, metric, linestyle=":", marker="x", label=label)
        if metric == "acc" and paper:
            source = "release's notebook" if method == "det" else "paper"
            paper_curve(axis, "fig2", panel, method, label=f"{source}, {name_of(method)}")
    sizes = sorted({r["x"] for r in rows + from_xavier} | ({n for n, _ in published(panel)} if paper else set()))
    ylabel = dict(acc="test accuracy", nll="test NLL, nats per image")[metric]
    axis.set(xscale="log", xlabel="training examples", ylabel=ylabel, xlim=(0.9 * sizes[0], 1.1 * sizes[-1]))
    axis.set_xticks(sizes, map(str, sizes))
    axis.minorticks_off()


def plot(rows, file):
    """A row of panels for each schedule that has run; of a trial one, of its own rows."""
    panel, own = rows[0]["panel"], rows[0]["options"]
    schedules = {
        name: (found, rows_of(panel, epochs, "xavier")) for epochs, (name, _) in SCHEDULES.items() if (found := rows_of(panel, epochs))
    }
    if own not in {pack(options(panel, epochs)) for epochs in SCHEDULES}:
        schedules = {sentence(own, PAPER): (rows, [])}
    figure, axes = new_figure(11, 4 * len(schedules), columns=2, rows=len(schedules), squeeze=False)
    for (left, right), (name, (found, from_xavier)) in zip(axes, schedules.items()):
        paper = name == SCHEDULES[max(SCHEDULES)][0]
        draw_metric(left, found, from_xavier, "acc", paper)
        draw_metric(right, found, from_xavier, "nll", paper)
        left.set_title(f"{panel}, {name}{'; grey: paper' * paper}", fontsize=10)
        right.set_title("mean and range over splits" + "; dotted: from Xavier's kernels" * bool(from_xavier), fontsize=10)
        left.legend(frameon=False, fontsize=6, ncols=2)
        right.legend(frameon=False, fontsize=7)
    save_figure(figure, file)


DRIVER = Driver(
    "fig2",
    __doc__,
    add_arguments,
    dict(panel="glyph-digits", splits=1, epochs=3),
    shared,
    jobs,
    table,
    plot,
    by_panel=True,
    full=PAPER,
    report=report,
)


def rows_beside(rows, methods):
    """Fig. 2's own rows of these methods, of the panels, sizes, splits and numbers of steps that another experiment's rows have."""

    def which(row):
        return row["panel"], row["x"], row["seed"], row["steps"]

    there = set(map(which, rows))
    return [r for r in DRIVER.among(tidy_rows(RESULTS / "fig2.csv"), DRIVER.usual()) if r["method"] in methods and which(r) in there]


if __name__ == "__main__":
    run_cli(DRIVER.main)
