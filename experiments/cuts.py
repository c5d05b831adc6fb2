"""Which kernels make a prior under which a net keeps its own: 5x5 kernels cut lower and higher, of narrow and of wide source nets; the
drift test of each set's VAE, and the Bayesian net under it.

    python -m experiments.cuts data/fconv/kernels.torch --data_root DATA_ROOT
    python -m experiments.cuts logs/wide/runs/* --nets "32/512 filters" --spread 1.5 --data_root DATA_ROOT

The lower the cut, the wider the norms spread, and the more the density peaks at zero. Writes results/cuts.csv and figures/cuts.png.
"""

from pathlib import Path

import matplotlib
import yaml

from models.pictures import new_figure, save_figure
from myexman import at_least
from utils import run_cli

from . import cut
from .cut import STEPS
from .grid import REMEMBERED, Driver, Job, command_line, last_row, markdown, mean_std, select

SPREADS = (2.7, 2.2, 1.9, 1.66, 1.5)
FACTS = ("min_norm", "kept", "zero_is_denser", "likeness 0", f"likeness {STEPS[-1]}", f"alignment {STEPS[-1]}")


def add_arguments(parser):
    parser.add_argument("runs", nargs="*", metavar="RUN", help="source nets, or a pool of their kernels")
    parser.add_argument("--nets", default="64/128 filters", help="what rows and figure call these source nets")
    parser.add_argument("--spread", type=float, nargs="+", default=SPREADS, help="what the norms' spread may be")
    parser.add_argument("--splits", type=at_least(1), default=1, help="split seeds 0, 1, …")


def settings(args):
    return {"mnist": f"reduced: n = 50, 600 epochs, {REMEMBERED.words}", "glyph-digits": "a smoke run"}


def measure(run_dir):
    """The net's numbers, the drift test's and those of the cut."""
    found = yaml.safe_load((run_dir / "cut.yaml").read_text())
    return last_row(run_dir) + [dict(metric=name, value=value, steps=STEPS[-1]) for name, value in found.items()]


def jobs(args):
    if not args.runs:
        raise ValueError("no source nets: python -m experiments.cuts data/fconv/kernels.torch")
    runs = [str(Path(run).resolve()) for run in args.runs]
    panel = "glyph-digits" if args.quick else "mnist"
    quick = dict(num_epochs=1, hidden_dim=2, drifting=4, num_examples=20, hid_dim=(2, 3), epochs=1, data=panel) if args.quick else {}
    for spread in args.spread:
        for split in range(args.splits):
            argv = command_line(spread=spread, data_root=args.data_root, data_split_seed=split, **quick)
            yield Job(panel, args.nets, str(spread), split, ["--runs", *runs, *argv], cut.main, measure)


def sets(rows):
    """The sets of kernels that have run: rows by (nets, spread), from the widest spread down."""
    keys = sorted({(r["method"], float(r["x"])) for r in rows}, key=lambda key: (key[0], -key[1]))
    return {key: [r for r in rows if (r["method"], float(r["x"])) == key] for key in keys}


def table(rows):
    lines = []
    for (nets, spread), found in sets(rows).items():
        values = [select(found, metric=name) for name in FACTS]
        facts = [f"{v.mean():.{0 if v.mean() > 100 else 3}f}" if len(v) else "–" for v in values]
        accuracy = select(found, metric="acc")
        lines.append([nets, spread, *facts, mean_std(accuracy), mean_std(select(found, metric="nll")), len(accuracy)])
    names = "source nets | spread | cut | kernels | w = 0 denser | likeness, 0 | 600 steps | alignment, 600 | accuracy | NLL, nats | splits"
    return markdown(names, lines)


def plot(rows, file):
    figure, (left, right) = new_figure(10, 3.8, columns=2)
    colours, found = matplotlib.colormaps["viridis"], sets(rows)
    for i, ((nets, spread), own) in enumerate(found.items()):
        colour = colours(i / max(len(found) - 1, 1) * 0.9)
        likeness = [select(own, metric=f"likeness {step}").mean() for step in STEPS]
        left.plot(STEPS, likeness, color=colour, label=f"{nets}, spread {spread:g}")
        accuracy = select(own, metric="acc")
        right.plot([likeness[-1]] * len(accuracy), accuracy, "o", color=colour)
        right.annotate(f"{nets}, {spread:g}  ", (likeness[-1], accuracy.mean()), fontsize=8, ha="right", va="center")
    left.set(xlabel="step under the KL term alone", ylabel="likeness of kernels", ylim=(0, 1))
    left.legend(frameon=False, fontsize=8)
    right.set(xlabel="likeness after 600 steps", ylabel="test accuracy, 50 digits", xlim=(0, 1))
    save_figure(figure, file)


DRIVER = Driver("cuts", __doc__, add_arguments, dict(spread=(2.5, 1.5)), settings, jobs, table, plot)

if __name__ == "__main__":
    run_cli(DRIVER.main)
