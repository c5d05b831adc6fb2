"""What the deep weight prior's parts are worth at n = 50: its reverse model, its samples, its KL sum, its start.

    python -m experiments.ablations --data_root DATA_ROOT --workers 2

Everything else is as in Fig. 2; the first line of the table is Fig. 2's own setting.
"""

import numpy as np

from utils import run_cli

from .fig2 import PANELS, net_options
from .grid import DRAWN, REMEMBERED, Driver, Job, command_line, markdown, mean_std, method_options, shipped

# What is varied: label, options of train_bnn that replace those of the first
VARIANTS = {
    "as in Fig. 2": {},
    "256 kernels a step, the others' gradients remembered": REMEMBERED.options,
    "the same, from two mirrored draws of w": REMEMBERED.options | dict(dwp_samples=2),
    "256 kernels a step, nothing remembered": DRAWN.options,
    "start from decoder means": dict(init_list=["vae-mean", "vae-mean"]),
    "Xavier start": dict(init_list=["xavier", "xavier"]),
    "4 draws of w and z, in mirrored pairs": dict(dwp_samples=4),
    "reverse model frozen": dict(train_reverse=0),
    "Bayesian classifier, too, under N(0, 1)": dict(net_cfg="bayes-all", prior_list=["vae", "vae", "sn"]),
    "standard normal prior": dict(prior_list=["sn", "sn"]),
    "standard normal prior, Xavier start": dict(prior_list=["sn", "sn"], init_list=["xavier", "xavier"]),
    "standard normal prior, Bayesian classifier, too": dict(net_cfg="bayes-all", prior_list=["sn", "sn", "sn"]),
}


def add_arguments(parser):
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), help="what to run")
    parser.add_argument("--num_examples", type=int, default=50, help="size of the training set")
    parser.add_argument("--splits", type=int, default=3, help="split seeds 0, 1, …")
    parser.add_argument("--epochs", type=int, default=600, help="passes over the training set, as in Fig. 2")


def settings(args):
    return {args.panel: f"reduced: n = {args.num_examples}, {args.epochs} epochs"}


def jobs(args):
    shared = net_options(args) | dict(num_examples=args.num_examples)
    shared |= method_options("dwp", shipped("vae", PANELS[args.panel].layers))
    for split in range(args.splits):
        for variant in args.variants:
            options = shared | dict(data_split_seed=split) | VARIANTS[variant]
            yield Job(args.panel, variant, str(args.num_examples), split, command_line(**options))


def table(rows):
    """Accuracy, NLL and ECE by variant, and how far the first two are on average from the first variant's on the same splits; as
    Markdown."""
    lines = []
    for variant in VARIANTS:
        cells = []
        for metric in ("acc", "nll", "ece"):
            base, own = (
                {r["seed"]: r["value"] for r in rows if r["method"] == name and r["metric"] == metric}
                for name in (next(iter(VARIANTS)), variant)
            )
            both = [own[split] - base[split] for split in own.keys() & base.keys()]
            cells += [mean_std(np.array(list(own.values())))] + [f"{np.mean(both):+.3f}" if both else "–"] * (metric != "ece")
        if own:
            lines.append([variant, *cells, len(own)])
    return markdown("variant | accuracy | less the first | NLL, nats | less the first | ECE | splits", lines)


DRIVER = Driver(
    "ablations",
    __doc__,
    add_arguments,
    dict(panel="glyph-digits", num_examples=20, splits=1, epochs=1, variants=["as in Fig. 2", "Xavier start"]),
    settings,
    jobs,
    table,
)

if __name__ == "__main__":
    run_cli(DRIVER.main)
