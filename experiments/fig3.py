"""Fig. 3: random feature extraction; test accuracy against the share k of filters, for three initialisations.

python -m experiments.fig3 --panel mnist --data_root DATA_ROOT --workers 2
python -m experiments.fig3 --panel cifar10 --splits 1
"""

from fractions import Fraction

from models.pictures import new_figure, save_figure
from myexman import at_least
from utils import run_cli

from . import features
from .grid import Driver, Job, command_line
from .methods import CIFARNET, FCONV, curve, init_options, last_row, name_of, paper_curve, paper_value
from .rows import markdown, mean_std, select

# panel: model, its layers, shares k of the filters (the paper's)
PANELS = {
    "mnist": ("fconv", FCONV, ["1/16", "1/8", "1/4", "1/2", "1"]),
    "cifar10": ("cifarnet", CIFARNET, ["1/8", "1/4", "1/2", "1"]),
    "glyph-digits": ("fconv", FCONV, ["1/16"]),  # for --quick
}
INITS = ("dwp", "filters", "xavier")
LR = 0.01


def k_value(x):
    """1/16 as a number."""
    return float(Fraction(str(x)))


def add_arguments(parser):
    parser.add_argument("--panel", choices=["mnist", "cifar10"], default="mnist", help="data set")
    parser.add_argument("--scales", nargs="+", help="k: factors on the paper's numbers of filters (default: its shares, 1/16 to 1)")
    parser.add_argument("--splits", type=at_least(1), default=5, help="seeds 0, 1, … (paper: 10)")
    parser.add_argument("--epochs", type=at_least(1), default=20, help="passes over the training set")
    parser.add_argument("--lr", type=float, default=LR, help="Adam's rate, falling linearly to 0")
    parser.add_argument("--raw", action="store_true", help="leave features as they are")


def shared(args):
    other = dict(lr=args.lr) if args.lr != LR else {}
    return dict.fromkeys(PANELS, dict(epochs=args.epochs, raw=args.raw) | other)


def jobs(args):
    model, layers, scales = PANELS[args.panel]
    trained = dict(epochs=args.epochs, lr=args.lr) | (dict(raw=True) if args.raw else {})
    for scale in args.scales or scales:
        for seed in range(args.splits):
            for init in INITS:
                argv = command_line(data=args.panel, data_root=args.data_root, model=model, scale=scale, seed=seed)
                argv += command_line(**trained, **init_options(init, layers))
                yield Job(args.panel, init, scale, seed, argv, features.main, last_row)


def table(rows):
    """Accuracy and NLL, mean ± standard deviation over seeds, beside the paper's accuracy, as Markdown."""
    lines, panel = [], rows[0]["panel"]
    for k in sorted({r["x"] for r in rows}, key=k_value):
        for init in INITS:
            values = select(rows, method=init, x=k, metric="acc")
            if len(values):
                nll = select(rows, method=init, x=k, metric="nll")
                paper = paper_value("fig3", panel, init, k) or "–"
                lines.append([k, name_of(init), mean_std(values), paper, mean_std(nll), len(values)])
    return markdown("k | init | accuracy | paper | NLL, nats | runs", lines)


def plot(rows, file):
    panel = rows[0]["panel"]
    figure, axis = new_figure(6, 4)
    for init in INITS:
        curve(axis, rows, init, "acc", k_value)
        paper_curve(axis, "fig3", panel, init, k_value, f"paper, {name_of(init)}")
    ticks = sorted({str(r["x"]) for r in rows}, key=k_value)
    axis.set(xscale="log", xlabel="share k of the filters", ylabel="test accuracy")
    axis.set_title(f"Fig. 3, {panel}: {DRIVER.title(rows)}\nmean and range over seeds; grey: paper (10 runs)", fontsize=9)
    axis.set_xticks([k_value(t) for t in ticks], ticks)
    axis.minorticks_off()
    axis.legend(frameon=False)
    save_figure(figure, file)


DRIVER = Driver(
    "fig3",
    __doc__,
    add_arguments,
    dict(panel="glyph-digits", scales=["1/16"], splits=1, epochs=1),
    shared,
    jobs,
    table,
    plot,
    by_panel=True,
    paper=("fig3",),
    quantity="test accuracy",
)

if __name__ == "__main__":
    run_cli(DRIVER.main)
