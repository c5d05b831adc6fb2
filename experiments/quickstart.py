"""The paper's four steps in miniature, on embedded data, in a few minutes on two CPU cores.

    python -m experiments.quickstart

Source nets learn font-rendered letters until L2 has left few filters; their kernels, cut to a narrow range of norms, train two VAEs.
The Bayesian CNNs then learn digits from 50 examples under the priors that the repository ships, which notMNIST made: a few minutes of
letters give too few kernels for good ones (--own_priors takes them all the same). The deep weight prior and N(0, 1) stand beside a
deterministic net and one whose kernels are never trained, all from the same initial kernels. Prints a table, draws
logs/quickstart/quickstart.png.
"""

import os
import time

import prune_kernels
import train_source
import train_vae_prior
from models.pictures import draw_kernels, new_figure, save_figure
from myexman import Parser, at_least, runs_root
from utils import default_data_root, load_kernels, load_vae, run_cli, seed_everything

from .grid import command_line, report_failures, run_grid
from .launchers import side_by_side
from .methods import colour_of, method_job, method_options, name_of, shipped
from .rows import mean_std, select

SHOWN = ("dwp-256", "sn", "det", "frozen")
METRICS = {"acc": "accuracy", "nll": "NLL, nats", "ece": "ECE"}


def parse_args(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument("--data_root", default=default_data_root(), help="where the embedded data are cached")
    parser.add_argument("--nets", type=at_least(1), default=3, help="number of source nets")
    parser.add_argument("--source_epochs", type=at_least(1), default=8, help="passes over the letters")
    parser.add_argument("--source_dim", type=at_least(1), nargs=2, default=[32, 64], help="filters of the source nets")
    parser.add_argument("--vae_epochs", type=at_least(1), nargs=2, default=[600, 40], help="of the 7x7 and the 5x5 VAE")
    parser.add_argument("--bnn_epochs", type=at_least(1), default=400, help="steps on 50 digits")
    parser.add_argument("--bnn_dim", type=at_least(1), nargs=2, default=[16, 64], help="filters of the Bayesian nets")
    parser.add_argument("--splits", type=at_least(1), default=3, help="training sets of 50 digits")
    workers = min(os.cpu_count() or 1, 4)
    parser.add_argument("--workers", type=at_least(1), default=workers, help="Bayesian nets side by side, of one thread each")
    parser.add_argument("--own_priors", action="store_true", help="Bayesian nets under the priors just learned, not the shipped ones")
    return parser.parse_args(argv)


def learn_priors(args, out):
    """Steps 1 to 3; returns the two prior folders."""
    print(f"\n1. {args.nets} source nets on glyph-letters")
    shared = dict(data="glyph-letters", data_root=args.data_root, hid_dim=args.source_dim, bs=32, lr=0.004)
    shared |= dict(epochs=args.source_epochs, eval_freq=args.source_epochs, drop_dead=0.05)
    runs = [train_source.main(command_line(seed=seed, **shared)) for seed in range(args.nets)]

    print("\n2. their kernels")
    prune_kernels.main([*map(str, runs), *command_line(out=out, min_norm=(0.39, 0.05), spread=("inf", 1.66))])

    print("\n3. a VAE of the kernels of each convolution")
    coders = dict(hidden_dim=32, min_std=0.05, bs=16), dict(hidden_dim=64, bs=32)  # as shipped: few 7x7 kernels need a bound on certainty
    for k, own, epochs in zip((7, 5), coders, args.vae_epochs):
        own |= dict(kernel_dim=k, z_dim=4, num_epochs=epochs, eval_freq=max(epochs // 4, 1), no_screen=True)
        train_vae_prior.main(command_line(data_dir=out / f"conv{k}x{k}", out=out / f"vae{k}x{k}", **own))
    return [out / "vae7x7", out / "vae5x5"]


def jobs(args, vaes):
    shared = dict(data="glyph-digits", data_root=args.data_root, num_examples=50, hid_dim=args.bnn_dim)
    shared |= dict(epochs=args.bnn_epochs, eval_freq=args.bnn_epochs)
    for method in SHOWN:  # the longest first, or the last would run alone
        for split in range(args.splits):
            options = dict(data_split_seed=split, **shared, **method_options(method, vaes))
            yield method_job("glyph-digits", method, "50", split, options)


def report(rows, out):
    """The table, and the figure: learned kernels, samples of the prior, accuracy."""
    print(f"\n{'50 embedded digits':38}" + "".join(f"{name:>18}" for name in METRICS.values()))
    for method in SHOWN:
        values = (mean_std(select(rows, method=method, metric=metric)) for metric in METRICS)
        print(f"{name_of(method):38}" + "".join(f"{v:>18}" for v in values))
    seed_everything(0)
    figure, axes = new_figure(12, 3.6, columns=3, width_ratios=[1, 1, 1.1])
    draw_kernels(
        axes[:2],
        {
            "7x7 kernels of the source nets": load_kernels(out / "conv7x7/train.npy")[:100],
            "samples of their prior": load_vae(out / "vae7x7").sample(100),
        },
    )
    for i, method in enumerate(SHOWN):
        values = select(rows, method=method, metric="acc")
        axes[2].barh(i, values.mean(), color=colour_of(method))
        axes[2].plot(values, [i] * len(values), "k.")
    axes[2].set(xlabel="test accuracy, 50 training digits (dots: splits)", xlim=(0, 1))
    axes[2].set_yticks(range(len(SHOWN)), [name_of(method) for method in SHOWN])
    axes[2].invert_yaxis()
    save_figure(figure, out / "quickstart.png")
    print(f"\ndrew {out / 'quickstart.png'}; python -m myexman lists the runs")


def main(argv=None):
    args = parse_args(argv)
    began = time.time()
    out = runs_root() / "quickstart"
    results = out / "quickstart.csv"
    results.unlink(missing_ok=True)
    own = learn_priors(args, out)
    vaes = own if args.own_priors else shipped("vae")
    print(f"\n4. Bayesian CNNs on 50 digits, under {'these' if args.own_priors else 'the shipped'} priors")
    rows, failed = run_grid(jobs(args, vaes), results, launcher=side_by_side(args.workers), retry=True)
    report_failures(failed)
    report(rows, out)
    print(f"{time.time() - began:.0f} s in all")


if __name__ == "__main__":
    run_cli(main)
