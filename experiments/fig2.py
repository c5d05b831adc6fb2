"""Fig. 2: test accuracy of a Bayesian CNN against the number of training examples, under different priors.

    python -m experiments.fig2 --panel mnist --data_root DATA_ROOT          # needs mnist.npz there, or a network to download it
    python -m experiments.fig2 --epochs 10000 --eval_freq 2500 --methods dwp-256 sn vd det --splits 10 --data_root DATA_ROOT
    python -m experiments.fig2 --plot_only

The second command is the paper's schedule; the first a short one, what two CPU cores do in an hour or two. Every method starts from
the same kernels, drawn from the VAE prior, and is trained alike; with --start xavier from Xavier's, where those of learned priors are other
draws than those of the baselines. experiments.tune lets each choose. The paper does not say from which kernels its baselines start.
"""

import itertools
import re
from functools import partial

import numpy as np

from models.pictures import new_figure, save_figure
from models.priors import DENSITIES
from models.vae import VAE
from myexman import at_least
from myexman.logger import read_rows
from utils import run_cli

from .comparison import comparison_table, kernels_table
from .grid import Driver
from .methods import (
    CORE,
    KL_SUMS,
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
    paper_cell,
    paper_curve,
    shipped,
)
from .rows import HERE, RESULTS, markdown, mean_std, pack, paired_differences, rows_of_common_splits, select, sentence, tidy_rows, unpack

CHOICES = ["dwp-256", *CORE, "frozen", "do", "de", "gauss", "gauss-indep"]
# Epochs of a schedule: what it is called, and the method that the others are compared with. Under the paper's the whole KL sum has run on
# few splits.
SCHEDULES = {10000: ("the paper's schedule", "dwp-256"), 600: ("the short schedule", "dwp")}
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


def with_curve(measure, options, run_dir):
    """measure(run_dir), and what experiments.early_stopping shows of the same run."""
    return measure(run_dir) + [row | dict(figure="early_stopping", options=pack(options)) for row in every_row(run_dir)]


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
                yield job._replace(measure=partial(with_curve, job.measure, curve_options(args, n))) if args.eval_freq else job


def rows_of(panel, epochs, start="vae"):
    """The rows of results/fig2.csv with those options, under the shipped priors."""
    words = pack(options(panel, epochs, start))
    return [r for r in tidy_rows(RESULTS / "fig2.csv") if (r["panel"], r["options"]) == (panel, words)]


def lead(panel, epochs, x, better, worse, metric, start="vae"):
    """A method under the shipped priors, from their samples, less another, from `start`'s kernels, on the same splits, as an array."""
    rows = [r for r in rows_of(panel, epochs) if r["method"] == better] + [r for r in rows_of(panel, epochs, start) if r["method"] == worse]
    return paired_differences(rows, better, worse, x=x, metric=metric)


def published(panel):
    """{(n, method): a table's cell} of the paper's accuracies, for a panel: ≈ is read off its figure; the deterministic net is not in the
    paper, but in its release's notebook."""
    rows = [r for r in read_rows(HERE / "paper_results.csv") if (r["figure"], r["panel"]) == ("fig2", panel)]
    return {(r["x"], r["method"]): paper_cell(r) + " (notebook)" * (r["source"] != "paper") for r in rows}


def table(rows, size="n"):
    """comparison_table() of what a command has run beside the deep weight prior by its whole KL sum, or if that has not run, by 256."""
    base = name_of("dwp" if any(r["method"] == "dwp" for r in rows) else "dwp-256")
    bases = {base: None} | {name_of(method): base for method in CHOICES if name_of(method) != base}
    return comparison_table([r | dict(method=name_of(r["method"])) for r in rows], bases, size=size)


# The report's tables tell methods by their first kernels, too, for the paper does not say from which its baselines start.
FIRST_KERNELS = {"xavier": "Xavier's kernels", "vae": "samples of {}"}


def label_of(method, start="vae", priors=""):
    """What the report calls a method that starts so, or None if it leaves it out.  priors: a name, of others than the shipped."""
    if method in KL_SUMS:
        return (f"{name_of(method)}, under {priors}" if priors else name_of(method)) if start == "vae" else None
    return f"{name_of(method)}, from {FIRST_KERNELS[start].format(priors or 'the prior')}" if start in FIRST_KERNELS else None


def names_of_priors(rows):
    """{the option vae_list of rows of a panel, or "" for the shipped: a name}: one for all layers where they differ in the size of kernels
    alone; with hashes where others, or the shipped, would have the same."""
    of_shipped = [",".join(folder.name for folder in shipped("vae", PANELS[panel].layers)) for panel in {r["panel"] for r in rows}]
    lists = [*of_shipped, *{unpack(r["options"]).get("vae_list", "") for r in rows}]
    bare = [re.sub("@[0-9a-f]+", "", priors).split(",") for priors in lists]
    short = [{re.sub("_?[0-9]+x[0-9]+(_[0-9])?$", "", name) for name in names} for names in bare]
    named = [", ".join(one if len(one) == 1 else names) for one, names in zip(short, bare)]
    return {priors: name if named.count(name) == 1 else priors.replace(",", ", ") for priors, name in zip(lists, named)}


def labelled(rows, usual):
    """{(seed of the start, whether on validation images, the option vae_list): rows} of those of one panel that have the options `usual`
    otherwise, with label_of() as method."""
    found, names = {}, names_of_priors(rows) | {"": ""}
    for r in rows:
        words = dict(unpack(r["options"]))
        start, seed, validate, priors = (words.pop(name, "") for name in ("init_list", "seed", "validate", "vae_list"))
        label = label_of(r["method"], start or "vae", names[priors])
        if label and words == unpack(pack(usual)):
            found.setdefault((int(seed or 0), bool(validate), priors), []).append(r | dict(method=label))
    return found


def in_order(labels, base=None):
    """{label: its base} of labels: `base`, which has none; others of learned priors; then method by method, Xavier's kernels first."""
    methods = [name_of(method) for method in CHOICES]

    def place(label):
        method, _, kernels = label.partition(", from ")
        return label != base, methods.index(method) if kernels else -1, kernels != FIRST_KERNELS["xavier"], label

    return {label: base if label != base else None for label in sorted(labels, key=place)}


def beside(rows, base, paper=None, size="n"):
    """comparison_table() of labelled() rows beside those of the label `base`; "" if nothing has run beside it."""
    labels = {r["method"] for r in rows}
    return comparison_table(rows, in_order(labels, base), paper, size) if base in labels and len(labels) > 1 else ""


def draws(parts):
    """Mean accuracy over the splits by seed of the start, of what has run with several, as Markdown.  parts: of labelled()."""
    rows = [r | dict(draw=seed) for (seed, validate, _), own in parts.items() if not validate for r in own if r["metric"] == "acc"]
    seeds, lines = sorted({r["draw"] for r in rows}), []
    for n, label in itertools.product(sorted({r["x"] for r in rows}), in_order({r["method"] for r in rows})):
        means = [select(rows, method=label, x=n, draw=seed) for seed in seeds]
        ran = np.array([mean.mean() for mean in means if len(mean)])
        if len(ran) > 1:
            lines.append([n, label, *(f"{mean.mean():.3f} ({len(mean)})" if len(mean) else "–" for mean in means), mean_std(ran)])
    return markdown(f"n | variant | {' | '.join(f'seed {seed}' for seed in seeds)} | of the seeds' means", lines)


ENOUGH = 5  # splits of a net under other priors that are set beside the baselines


def tables(panel, epochs):
    """{what it shows: a table as Markdown, or ""} of a schedule: under the shipped priors, and others; on validation images; by seed."""
    own, long = options(panel, epochs), epochs == max(SCHEDULES)
    rows = [r for r in tidy_rows(RESULTS / "fig2.csv") if r["panel"] == panel]
    parts, names, base = labelled(rows, own), names_of_priors(rows) | {"": ""}, label_of(SCHEDULES[epochs][1])
    how, found = sentence(pack(own), PAPER), {}

    def under(priors, seed=0, validate=False):
        return parts.get((seed, validate, priors), [])

    paper = {}
    for (n, method), cell in published(panel).items() if long else ():
        starts = ["vae"] if method in ("dwp", "det") else FIRST_KERNELS  # the notebook's nets start from the prior's samples
        paper |= {(n, base if method == "dwp" else label_of(method, start)): cell for start in starts}
    paper = {(n, label): cell for (n, label), cell in paper.items() if any(r["x"] == n for r in under(""))}
    found[f"beside the baselines ({how})"] = beside(under(""), base, paper)
    for priors, name in names.items():
        if not name:
            continue
        first = label_of(SCHEDULES[epochs][1], priors=name)
        enough = len({r["seed"] for r in under(priors) if r["method"] == first}) >= ENOUGH
        others = [r for r in under("") if enough or r["method"] == base]
        sizes = {r["x"] for r in under(priors)}
        found[f"under {name}"] = beside(under(priors) + [r for r in others if r["x"] in sizes], first)
    validated = [r for (seed, validate, _), part in parts.items() if validate and not seed for r in part]
    found["on validation images"] = beside(validated, base)
    for (seed, validate, priors), part in parts.items():
        if seed and not validate:
            under_these = f"under {names[priors]}, " if priors else ""
            what = f"{under_these}other first kernels and other noise (`--seed {seed}`)"
            found[what] = beside(part, label_of(SCHEDULES[epochs][1], priors=names[priors]))
    rows = [r for (seed, validate, _), part in parts.items() if long and not (seed or validate) for r in part]
    found["kernels"] = kernels_table(rows, in_order({r["method"] for r in rows}, base))
    return found | {"draws of the first kernels, accuracy (splits)": draws(parts)}


def report():
    """Markdown lines for experiments.report: the tables of each schedule, and what has not run by the paper's."""
    lines = []
    for panel, (epochs, (name, _)) in itertools.product(("mnist", "cifar10"), SCHEDULES.items()):
        for what, part in tables(panel, epochs).items():
            lines += ["", f"**{panel}, {name}: {what}**", "", part] if part else []
        paper = published(panel) if epochs == max(SCHEDULES) else {}
        if missing := sorted({n for n, _ in paper} - {r["x"] for r in rows_of(panel, epochs)}):
            words = (f"{name_of(m)} {', '.join(paper[n, m] for n in missing)}" for m in dict.fromkeys(m for _, m in paper))
            lines += ["", f"{panel}, {name}: not yet run on {', '.join(map(str, missing))} images (paper: {'; '.join(words)})."]
    return lines


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
