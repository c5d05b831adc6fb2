"""What the deep weight prior's parts are worth: its reverse model, its samples, its KL sum, its start; on CIFAR-10, its layers and its
strength.

    python -m experiments.ablations --data_root DATA_ROOT --workers 2
    python -m experiments.ablations --panel cifar10 --data_root DATA_ROOT --workers 2

Everything else is as in Fig. 2. Differences are to the same splits of Fig. 2's own setting, or, for parts that are varied under a drawn
KL sum, to that sum alone.
"""

from myexman import at_least
from utils import run_cli

from .fig2 import PANELS, net_options
from .grid import Driver
from .methods import DRAWN, method_job, method_options, shipped
from .rows import interval, markdown, mean_std, paired_differences, rows_of_common_splits, select

WHOLE_SUM, DRAWN_SUM = "as in Fig. 2", "256 kernels a step"
# What is varied: label, options of train_bnn that replace those of Fig. 2.  First how the KL term, a sum over kernels, is estimated, ...
KL_SUMS = {WHOLE_SUM: {}, DRAWN_SUM: DRAWN.options}
# ... then the other parts, all with DRAWN_SUM: as good as the whole sum under this prior, and several times as fast.
PARTS = {
    "start from decoder means": dict(init_list=["vae-mean", "vae-mean"]),
    "Xavier start": dict(init_list=["xavier", "xavier"]),
    "reverse model frozen": dict(train_reverse=0),
    "4 draws of w and z, in mirrored pairs": dict(dwp_samples=4),
    "Bayesian classifier, too, under N(0, 1)": dict(net_cfg="bayes-all", prior_list=["vae", "vae", "sn"]),
}
# On CIFAR-10: which of the layers the prior is for, and how strong it is.
ON_CIFAR = {
    "N(0, 1) on the first layer": dict(prior_list=["sn", "vae", "vae"]),
    "N(0, 1) on the other two": dict(prior_list=["vae", "sn", "sn"]),
    "a hundredth of the KL term": dict(kl_scale=0.01),
}
ALL = KL_SUMS | {label: DRAWN.options | options for label, options in (PARTS | ON_CIFAR).items()}
PANEL_VARIANTS = {  # the size of the training set, and what is varied
    "mnist": (50, [*KL_SUMS, *PARTS]),
    "cifar10": (200, [DRAWN_SUM, *ON_CIFAR]),
    "glyph-digits": (20, [*KL_SUMS, *PARTS]),
}


def add_arguments(parser):
    parser.add_argument("--panel", choices=["mnist", "cifar10"], default="mnist", help="data set")
    parser.add_argument("--variants", nargs="+", choices=list(ALL), help="what to run (default: all of the panel's)")
    parser.add_argument("--num_examples", type=at_least(1), help="size of the training set (default: 50 of MNIST, 200 of CIFAR-10)")
    parser.add_argument("--splits", type=at_least(1), default=5, help="split seeds 0, 1, …")
    parser.add_argument("--epochs", type=at_least(1), default=600, help="passes over the training set, as in Fig. 2")


def settings(args):
    return {panel: f"reduced: n = {args.num_examples or n}, {args.epochs} epochs" for panel, (n, _) in PANEL_VARIANTS.items()}


def jobs(args):
    n, variants = PANEL_VARIANTS[args.panel]
    if wrong := [variant for variant in args.variants or () if variant not in variants]:
        raise ValueError(f"--variants: {wrong[0]!r} is not among those of {args.panel}: {', '.join(variants)}")
    n = args.num_examples or n
    shared = net_options(args) | dict(num_examples=n)
    shared |= method_options("dwp", shipped("vae", PANELS[args.panel].layers))
    for split in range(args.splits):
        for variant in args.variants or variants:
            options = shared | dict(data_split_seed=split) | ALL[variant]
            yield method_job(args.panel, variant, str(n), split, options)


def table(rows):
    """Accuracy, NLL and ECE by variant, on the splits that all have; the first two also less those of its base, on all splits that the two
    have, with 95 % intervals; as Markdown."""
    lines, common = [], rows_of_common_splits(rows)
    for variant in ALL:
        base, cells = WHOLE_SUM if variant in KL_SUMS else DRAWN_SUM, []
        for metric in ("acc", "nll", "ece"):
            cells.append(mean_std(select(common, method=variant, metric=metric)))
            if metric != "ece":
                cells.append(interval(paired_differences(rows, variant, base, metric=metric)) if variant != base else "–")
        if n := len(select(rows, method=variant, metric="acc")):
            lines.append([variant, *cells, n])
    return markdown("variant | accuracy | difference | NLL, nats | difference | ECE | splits", lines)


DRIVER = Driver(
    "ablations",
    __doc__,
    add_arguments,
    dict(panel="glyph-digits", num_examples=20, splits=1, epochs=1, variants=["as in Fig. 2", "Xavier start"]),
    settings,
    jobs,
    table,
    by_panel=True,
)

if __name__ == "__main__":
    run_cli(DRIVER.main)
