"""Comparisons: variants of a Bayesian net's training on the same few images, and differences to a base on the same splits.

A new one is one file like experiments/ablations.py: {panel: {label: Variant}}, {panel: size of the training set}, and comparison(). It is
run, resumed and drawn as any driver, and experiments.report finds it.
"""

from typing import NamedTuple

from models.pictures import new_figure, save_figure
from myexman import at_least

from .fig2 import PANELS, PAPER, net_options, options
from .grid import Driver
from .methods import method_job, method_options, shipped
from .rows import comparison_table, interval_ends, paired_differences


class Variant(NamedTuple):
    """How a variant's nets are trained.

    method: one of experiments.methods.  options: of train_bnn, in place of the method's.  base: the label of the variant that it is
    compared with; None for one that is a base itself."""

    method: str
    options: dict = {}
    base: str | None = None


def plot(rows, bases, file):
    """Differences in accuracy and in NLL with 95 % intervals, of those labels that have two splits or more; arguments as of
    comparison_table()."""
    figure, axes = new_figure(10, 1.2 + 0.3 * len(bases), columns=2, sharey=True)
    for axis, metric, title in zip(axes, ("acc", "nll"), ("accuracy", "NLL, nats per image")):
        gaps = {label: paired_differences(rows, label, base, metric=metric) for label, base in bases.items() if base}
        gaps = {label: gap for label, gap in gaps.items() if len(gap) > 1}
        for y, gap in enumerate(gaps.values()):
            low, high = interval_ends(gap)
            axis.errorbar(gap.mean(), y, xerr=[[gap.mean() - low], [high - gap.mean()]], color="C0", marker="o", capsize=3)
        axis.axvline(0, color="0.3", linewidth=0.8)
        axis.set(title=f"{title}, less its base's; 95 % intervals", ylim=(max(len(gaps), 1) - 0.5, -0.5))
        axis.title.set_fontsize(9)
    axes[0].set_yticks(range(len(gaps)), list(gaps), fontsize=8)
    save_figure(figure, file)


def comparison(name, doc, variants, sizes):
    """The Driver of a comparison, whose rows have the variants' labels as method.

    variants: {panel of Fig. 2: {label: Variant}}, the nets starting from samples of the shipped priors.  sizes: {panel: images}."""
    first = next(iter(variants))
    of_panel = {**variants, "glyph-digits": variants[first]}
    size_of = {**sizes, "glyph-digits": 20}
    labels = list(dict.fromkeys(label for own in variants.values() for label in own))

    def add_arguments(parser):
        parser.add_argument("--panel", choices=list(variants), default=first, help="data set")
        parser.add_argument("--variants", nargs="+", choices=labels, help="what to run (default: all of the panel's)")
        parser.add_argument("--num_examples", type=at_least(1), help=f"size of the training set (default: {sizes})")
        parser.add_argument("--splits", type=at_least(1), default=5, help="split seeds 0, 1, …")
        parser.add_argument("--epochs", type=at_least(1), default=600, help="passes over the training set, as in Fig. 2 stopped early")

    def shared(args):
        other = args.num_examples or ""  # than the comparison's own size
        return {panel: options(panel, args.epochs) | dict(num_examples=other if other != n else "") for panel, n in size_of.items()}

    def jobs(args):
        own, n, layers = of_panel[args.panel], args.num_examples or size_of[args.panel], PANELS[args.panel].layers
        if wrong := [label for label in args.variants or () if label not in own]:
            raise ValueError(f"--variants: {wrong[0]!r} is not among those of {args.panel}: {', '.join(own)}")
        for split in range(args.splits):
            for label in args.variants or own:
                words = net_options(args) | dict(num_examples=n, data_split_seed=split)
                words |= method_options(own[label].method, shipped("vae", layers), shipped("conv", layers)) | own[label].options
                yield method_job(args.panel, label, str(n), split, words)

    def bases(rows):
        return {label: variant.base for label, variant in of_panel[rows[0]["panel"]].items()}

    base = next(iter(variants[first]))
    compared = next(label for label, variant in variants[first].items() if variant.base == base)
    smoke = dict(panel="glyph-digits", splits=1, epochs=1, variants=[base, compared])
    return Driver(
        *(name, doc, add_arguments, smoke, shared, jobs),
        table=lambda rows: comparison_table(rows, bases(rows)),
        plot=lambda rows, file: plot(rows, bases(rows), file),
        by_panel=True,
        full=PAPER,
    )
