"""Fig. 2: test accuracy of a Bayesian CNN against the number of training examples, under different priors.

    python -m experiments.fig2 --panel mnist --data_root DATA_ROOT          # needs mnist.npz there, or a network to download it
    python -m experiments.fig2 --plot_only

Every method starts from the same kernels, drawn from the VAE prior, as in the paper. The paper trains 10 000 epochs on the full KL
sum and averages 10 splits; the defaults here are what two CPU cores can afford, and the rows say so.
"""

import os
from pathlib import Path

from myexman import Parser
from utils import new_figure, run_cli, save_figure

from .grid import FIGURES, METHODS, RESULTS, Job, command_line, method_options, paper_value, run_grid, select

ROOT = Path(__file__).resolve().parents[1]
VAES = [ROOT / "data/fconv" / name for name in ("vae7x7", "vae5x5")]


def parse_args(argv=None):
    parser = Parser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--panel", choices=["mnist"], default="mnist", help="data set")
    parser.add_argument("--data_root", default=os.environ.get("DATA_ROOT", "./datasets"), help="folder of the data sets")
    parser.add_argument(
        "--num_examples", type=int, nargs="+", default=[50, 100], help="sizes of the training set (paper: 50 100 200 500 1000)"
    )
    parser.add_argument("--splits", type=int, default=3, help="split seeds 0, 1, … (paper: 10)")
    parser.add_argument("--epochs", type=int, default=600, help="paper: 10000; 600 was chosen on a validation split")
    parser.add_argument("--kl_kernels", type=int, default=256, help="kernels of a layer in the KL estimate; 0 is all (paper: 0)")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), help="what to run")
    parser.add_argument(
        "--vae_list",
        type=lambda folder: Path(folder).resolve(),
        nargs="+",
        default=VAES,
        help="prior folder of each convolution, told apart by their names (default: the shipped ones)",
    )
    parser.add_argument("--workers", type=int, default=1, help="runs side by side, one thread each")
    parser.add_argument("--time_limit", type=float, help="seconds after which no further run starts")
    parser.add_argument("--quick", action="store_true", help="smoke run on the embedded digits, results under logs/")
    parser.add_argument("--plot_only", action="store_true", help="redraw from the results")
    return parser.parse_args(argv)


def setting(args):
    """What the rows say of how they were made."""
    words = f"{args.epochs} epochs, KL on {args.kl_kernels or 'all'} kernels"
    if args.vae_list != VAES:
        words += f", priors {' '.join(folder.name for folder in args.vae_list)}"
    return f"reduced: {words}" if args.epochs < 10000 or args.kl_kernels else words


def jobs(args):
    shared = dict(data=args.panel, data_root=args.data_root, hid_dim=(4, 8) if args.quick else (32, 128))
    shared |= dict(epochs=args.epochs, eval_freq=max(args.epochs // 3, 1), kl_kernels=args.kl_kernels)
    for n in args.num_examples:
        for split in range(args.splits):
            for method in args.methods:
                argv = command_line(num_examples=n, data_split_seed=split, **shared, **method_options(method, args.vae_list))
                yield Job("fig2", args.panel, method, str(n), split, "train_bnn", argv, setting(args))


def table(rows, panel):
    """Accuracy, NLL and ECE, mean ± standard deviation over splits, beside the paper's accuracy, as Markdown."""
    lines = ["| n | prior | accuracy | paper | NLL, nats | ECE | splits |", "|---|---|---|---|---|---|---|"]
    for n in sorted({int(r["x"]) for r in rows}):
        for method, (label, _) in METHODS.items():
            values = [select(rows, method=method, x=n, metric=metric) for metric in ("acc", "nll", "ece")]
            if len(values[0]):
                cells = [f"{v.mean():.3f}" + (f" ± {v.std():.3f}" if len(v) > 1 else "") for v in values]
                paper = paper_value("fig2", panel, method, n) or "–"
                lines.append(f"| {n} | {label} | {cells[0]} | {paper} | {cells[1]} | {cells[2]} | {len(values[0])} |")
    return "\n".join(lines)


def plot(rows, panel, file):
    """Accuracy and NLL against the number of examples: mean and range over splits, the paper's accuracies in grey behind."""
    figure, (left, right) = new_figure(10, 4, columns=2)
    sizes = sorted({int(r["x"]) for r in rows})
    for i, (method, (label, colour)) in enumerate(METHODS.items()):
        for axes, metric in ((left, "acc"), (right, "nll")):
            values = {n: select(rows, method=method, x=n, metric=metric) for n in sizes}
            values = {n: v for n, v in values.items() if len(v)}
            if not values:
                continue
            x = [n * 1.03 ** (i - 1.5) for n in values]
            mean = [v.mean() for v in values.values()]
            spread = [[m - v.min() for m, v in zip(mean, values.values())], [v.max() - m for m, v in zip(mean, values.values())]]
            axes.errorbar(x, mean, spread, color=colour, label=label, marker="o", capsize=3)
        paper = [(n, paper_value("fig2", panel, method, n)) for n in sizes]
        left.plot(
            *zip(*[(n, v) for n, v in paper if v is not None]),
            color="0.75",
            marker="s",
            linestyle="--",
            zorder=0,
            label="paper (10 splits, 10 000 epochs)" if i == 0 else None,
        )
    splits = {len(select(rows, method=r["method"], x=r["x"], metric="acc")) for r in rows}
    count = "–".join(map(str, sorted({min(splits), max(splits)})))
    figure.suptitle(f"Fig. 2, {panel}: {rows[0]['setting']}; mean and range over {count} splits", fontsize=10)
    left.set(xscale="log", xlabel="training examples", ylabel="test accuracy")
    right.set(xscale="log", xlabel="training examples", ylabel="test NLL, nats per image")
    for axes in (left, right):
        axes.set_xticks(sizes, [str(n) for n in sizes])
        axes.minorticks_off()
        axes.legend(frameon=False, fontsize=8)
    save_figure(figure, file)


def main(argv=None):
    args = parse_args(argv)
    results, figures = (RESULTS, FIGURES)
    if args.quick:
        args.panel, args.num_examples, args.splits, args.epochs, args.kl_kernels = "glyph-digits", [20], 1, 3, 16
        results = figures = Path(os.environ.get("DWP_PATH", "./logs")) / "quick"
    file = results / "fig2.csv"
    grid = [] if args.plot_only else list(jobs(args))
    rows = [r for r in run_grid(grid, file, args.workers, args.time_limit) if r["panel"] == args.panel and r["setting"] == setting(args)]
    if not rows:
        raise FileNotFoundError(f"nothing to draw: no results of this panel and setting in {file}")
    print(table(rows, args.panel))
    if set(args.methods) == set(METHODS) and args.vae_list == VAES:  # the figure; a trial only adds rows
        plot(rows, args.panel, figures / "fig2.png")
        print(f"drew {figures / 'fig2.png'}")


if __name__ == "__main__":
    run_cli(main)
