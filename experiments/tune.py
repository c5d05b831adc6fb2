"""The deterministic net's L2 penalty, chosen on validation images (every sixth training image): `det-l2` of Fig. 2.

python -m experiments.tune --data_root DATA_ROOT --workers 2
"""

from utils import run_cli

from .fig2 import L2, PANELS, net_options, validation_setting
from .grid import Job, command_line, drive, driver_parser, markdown, mean_std, method_options, select, shipped


def parse_args(argv=None):
    parser = driver_parser(__doc__)
    parser.add_argument("--panel", choices=["mnist", "cifar10"], default="mnist", help="data set")
    parser.add_argument("--num_examples", type=int, nargs="+", help="sizes of the training set (default: those of Fig. 2)")
    parser.add_argument("--splits", type=int, default=3, help="split seeds 0, 1, …")
    parser.add_argument("--epochs", type=int, default=600, help="passes over the training set, as in Fig. 2")
    return parser.parse_args(argv)


def settings(args):
    """{panel: what its rows say of how they were made}."""
    return dict.fromkeys(PANELS, validation_setting(args))


def jobs(args):
    panel = PANELS[args.panel]
    shared = net_options(args) | dict(validate=True, **method_options("det-l2", shipped("vae", panel.layers)))
    for n in args.num_examples or panel.num_examples:
        for split in range(args.splits):
            for l2 in L2[:1] if args.quick else L2:
                argv = command_line(num_examples=n, data_split_seed=split, l2=l2, **shared)
                yield Job(args.panel, str(l2), str(n), split, argv)


def table(rows):
    lines = []
    for n in sorted({r["x"] for r in rows}):
        for l2 in sorted({r["method"] for r in rows}):
            acc, nll = (select(rows, x=n, method=l2, metric=metric) for metric in ("acc", "nll"))
            lines.append([n, f"{l2:g}", mean_std(acc), mean_std(nll), len(acc)])
    return markdown("n | L2 | validation accuracy | NLL, nats | splits", lines)


def main(argv=None):
    args = parse_args(argv)
    if args.quick:
        args.panel, args.splits, args.epochs = "glyph-digits", 1, 1
    rows, _ = drive(args, "tune", jobs(args), settings, parse_args)
    print(table([r for r in rows if r["panel"] == args.panel]))


if __name__ == "__main__":
    run_cli(main)
