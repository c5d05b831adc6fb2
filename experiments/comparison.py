"""Comparisons: variants of a Bayesian net's training on the same few images, and differences to a base on the same splits.

A new one is one file like experiments/ablations.py: {panel: {label: Variant}}, {panel: size of the training set}, and comparison(). It is
run, resumed and drawn as any driver, and experiments.report finds it.
"""

import itertools
from typing import NamedTuple

from models.pictures import new_figure, save_figure
from myexman import at_least

from .grid import Driver
from .methods import PANELS, PAPER, method_job, method_options, net_options, options, shipped
from .rows import holm, interval, interval_ends, markdown, mean_std, p_value, paired_differences, rows_of_common_splits, select


class Variant(NamedTuple):
    """How a variant's nets are trained.

    method: one of experiments.methods.  options: of train_bnn, in place of the method's.  base: the label of the variant that it is
    compared with; None for one that is a base itself."""

    method: str
    options: dict = {}
    base: str | None = None


KERNELS = [f"{fact}_{layer}" for layer in ("first", "last") for fact in ("likeness", "norm")]  # metrics of methods.with_kernels()


def tested(gaps):
    """Of paired differences, a list of arrays: cells of their intervals, and of p by Holm's correction over those of two splits or more."""
    ps = iter(holm([p_value(gap) for gap in gaps if len(gap) > 1]))
    shown = [next(ps) if len(gap) > 1 else None for gap in gaps]
    return [(interval(gap), "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}") for gap, p in zip(gaps, shown)]


def comparison_table(rows, bases, paper=None, size="n"):
    """Accuracy, NLL and ECE by size of the training set and label, and of the first two the difference to the label's base with its 95 %
    t-interval and p, by Holm's correction over those with the same base and size; as Markdown.

    Means are over the splits that the labels of a size share ("3 of 5"), differences over those that the two have.
    rows: of one panel, with labels as method.  bases: {label: its base's, or None}, in the table's order.
    paper: {(size, label): a cell} of a column beside ours, with a line for each.  size: what the rows' x is."""
    paper, several = paper or {}, not set(bases.values()) <= {None, next(iter(bases), None)}
    lines = []
    for n in sorted({r["x"] for r in rows} | {n for n, _ in paper}):
        own = [r for r in rows if r["x"] == n and r["method"] in bases]
        common, ran = rows_of_common_splits(own), {r["method"] for r in own}
        labels = [label for label in bases if label in ran or (n, label) in paper]
        cells = {}
        for metric, base in itertools.product(("acc", "nll"), dict.fromkeys(bases.values())):
            family = [label for label in labels if bases[label] == base]
            gaps = [paired_differences(own, label, base, metric=metric) for label in family]
            cells |= {(metric, label): found for label, found in zip(family, tested(gaps))}
        for label in labels:
            part = common if any(r["method"] == label for r in common) else own
            acc, nll, ece = (mean_std(select(part, method=label, metric=metric)) for metric in ("acc", "nll", "ece"))
            shown, splits = (len(select(found, method=label, metric="acc")) for found in (part, own))
            line = [n, label, *([bases[label] or "–"] if several else []), *([paper.get((n, label), "–")] if paper else [])]
            line += [acc, *cells["acc", label], nll, *cells["nll", label], ece]
            lines.append([*line, splits if shown == splits else f"{shown} of {splits}"])
    less = "less its base's" if several else "less the first's"
    heads = (
        f"{size} | variant | {'base | ' * several}{'paper | ' * bool(paper)}accuracy | {less} | p | NLL, nats | {less} | p | ECE | splits"
    )
    return markdown(heads, lines)


def kernels_table(rows, labels):
    """How alike the kernels of the nets' first and last convolution are, and how large, by size and label, as Markdown; or ""."""
    lines = []
    for n, label in itertools.product(sorted({r["x"] for r in rows}), labels):
        facts = [select(rows, method=label, x=n, metric=metric) for metric in KERNELS]
        lines += [[n, label, *map(mean_std, facts), max(map(len, facts))]] if any(map(len, facts)) else []
    return markdown("n | kernels (likeness: mean absolute cosine) | likeness, first | norm | likeness, last | norm | splits", lines)


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
        parser.add_argument(
            "--epochs", type=at_least(1), default=600, help="passes over the training set, as in Fig. 2 by the short schedule"
        )

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
        table=lambda rows: f"{comparison_table(rows, bases(rows))}\n\n{kernels_table(rows, bases(rows))}",
        plot=lambda rows, file: plot(rows, bases(rows), file),
        by_panel=True,
        full=PAPER,
    )
