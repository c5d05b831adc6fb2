"""The report's tables of Fig. 2, by schedule: what has run beside the deep weight prior, from which first kernels, under which priors.

The paper does not say from which kernels its baselines start, so tables tell methods by these, too.
"""

import itertools
import re

import numpy as np

from myexman.logger import read_rows

from .comparison import comparison_table, kernels_table
from .methods import KL_SUMS, METHODS, PANELS, PAPER, name_of, options, paper_cell, shipped
from .rows import HERE, RESULTS, markdown, mean_std, pack, paired_differences, sentence, tidy_rows, unpack

# Epochs of a schedule: what it is called, and the method that the others are compared with. Under the paper's the whole KL sum has run on
# few splits.
SCHEDULES = {10000: ("the paper's schedule", "dwp-256"), 600: ("the short schedule", "dwp")}
FIRST_KERNELS = {"xavier": "Xavier's kernels", "vae": "samples of {}"}
NO_DIGITS = name_of("frozen"), name_of("moved")  # methods that train no kernels on images
ENOUGH = 5  # splits of a net under other priors that are set beside the baselines


def rows_of(panel, epochs, start="vae", seed=0):
    """The rows of results/fig2.csv with those options, under the shipped priors."""
    words = pack(options(panel, epochs, start, seed))
    return [r for r in tidy_rows(RESULTS / "fig2.csv") if (r["panel"], r["options"]) == (panel, words)]


def lead(panel, epochs, x, better, worse, metric, start="vae", seed=0):
    """A method under the shipped priors, from their samples, less another, from `start`'s kernels, on the same splits, as an array."""
    rows = [r for r in rows_of(panel, epochs, seed=seed) if r["method"] == better]
    rows += [r for r in rows_of(panel, epochs, start, seed) if r["method"] == worse]
    return paired_differences(rows, better, worse, x=x, metric=metric)


def published(panel):
    """{(n, method): a table's cell} of the paper's accuracies, for a panel: ≈ is read off its figure; the deterministic net is not in the
    paper, but in its release's notebook."""
    rows = [r for r in read_rows(HERE / "paper_results.csv") if (r["figure"], r["panel"]) == ("fig2", panel)]
    return {(r["x"], r["method"]): paper_cell(r) + " (notebook)" * (r["source"] != "paper") for r in rows}


def label_of(method, start="vae", priors=""):
    """What the report calls a method that starts so, or None if it leaves it out.  priors: a name, of others than the shipped."""
    if method in KL_SUMS:
        return (f"{name_of(method)}, under {priors}" if priors else name_of(method)) if start == "vae" else None
    return f"{name_of(method)}, from {FIRST_KERNELS[start].format(priors or 'the prior')}" if start in FIRST_KERNELS else None


def names_of_priors(rows):
    """{the option vae_list of rows of a panel: a name; "", for the shipped, stays}: one for all layers where they differ in the size of
    kernels alone; with hashes where others, or the shipped, would have the same."""
    of_shipped = [",".join(folder.name for folder in shipped("vae", PANELS[panel].layers)) for panel in {r["panel"] for r in rows}]
    lists = [*of_shipped, *{"", *(unpack(r["options"]).get("vae_list", "") for r in rows)}]
    bare = [re.sub("@[0-9a-f]+", "", priors).split(",") for priors in lists]
    short = [{re.sub("_?[0-9]+x[0-9]+(_[0-9])?$", "", name) for name in names} for names in bare]
    named = [", ".join(one if len(one) == 1 else names) for one, names in zip(short, bare)]
    return {priors: name if named.count(name) == 1 else priors.replace(",", ", ") for priors, name in zip(lists, named)}


def labelled(rows, usual):
    """{(seed of the start, whether on validation images, the option vae_list): rows} of those of one panel that have the options `usual`
    otherwise, with label_of() as method."""
    found, names = {}, names_of_priors(rows)
    for r in rows:
        words = dict(unpack(r["options"]))
        start, seed, validate, priors = (words.pop(name, "") for name in ("init_list", "seed", "validate", "vae_list"))
        label = label_of(r["method"], start or "vae", names[priors])
        if label and words == unpack(pack(usual)):
            found.setdefault((int(seed or 0), bool(validate), priors), []).append(r | dict(method=label))
    return found


def in_order(labels, base=None):
    """{label: its base} of labels: `base`, which has none; others of learned priors; then method by method, Xavier's kernels first."""
    methods = [name for name, _ in METHODS.values()]

    def place(label):
        method, _, kernels = label.partition(", from ")
        return label != base, methods.index(method) if kernels else -1, kernels != FIRST_KERNELS["xavier"], label

    return {label: base if label != base else None for label in sorted(labels, key=place)}


def beside(rows, base, paper=None, size="n"):
    """comparison_table() of labelled() rows beside those of the label `base`; "" if nothing has run beside it."""
    labels = {r["method"] for r in rows}
    return comparison_table(rows, in_order(labels, base), paper, size) if base in labels and len(labels) > 1 else ""


def draws(parts, on_validation=False):
    """Accuracy by seed of the start, of what has run with several, on the splits that these share, as Markdown.  parts: of labelled().
    on_validation: of rows on validation images."""
    found = {}  # {(n, label): {seed: {split: accuracy}}}
    for (seed, validate, _), rows in parts.items():
        for r in rows:
            if validate == on_validation and r["metric"] == "acc":
                found.setdefault((r["x"], r["method"]), {}).setdefault(seed, {})[r["seed"]] = r["value"]
    several, lines = {key: of for key, of in found.items() if len(of) > 1}, []
    seeds = sorted({seed for of in several.values() for seed in of})
    for n, label in itertools.product(sorted({n for n, _ in several}), in_order({label for _, label in several})):
        of = several.get((n, label), {})
        splits = set.intersection(*map(set, of.values())) if of else ()
        means = {seed: np.mean([values[split] for split in splits]) for seed, values in of.items() if splits}
        if means:
            cells = (f"{means[seed]:.3f}" if seed in means else "–" for seed in seeds)
            lines.append([n, label, *cells, mean_std(np.array(list(means.values()))), len(splits)])
    return markdown(f"n | variant | {' | '.join(f'seed {seed}' for seed in seeds)} | over seeds | splits", lines)


def papers(panel, base):
    """{(n, label): the paper's accuracy}; the base's label stands for the deep weight prior, and its other methods have either start."""
    cells = {}
    for (n, method), cell in published(panel).items():
        starts = ["vae"] if method == "det" else FIRST_KERNELS  # the notebook's nets start from samples of the prior
        labels = [base] if method == "dwp" else [label_of(method, start) for start in starts]
        cells |= {(n, label): cell for label in labels}
    return cells


def tables(panel, epochs):
    """{what it shows: a table as Markdown, or ""} of a schedule: under the shipped priors; under others, and from other seeds of the start;
    on validation images; what has become of the kernels; and how much the draw of the first ones does."""
    method, usual, long = SCHEDULES[epochs][1], options(panel, epochs), epochs == max(SCHEDULES)
    rows = [r for r in tidy_rows(RESULTS / "fig2.csv") if r["panel"] == panel]
    parts, names, base = labelled(rows, usual), names_of_priors(rows), label_of(method)
    untrained, moved = label_of("frozen"), label_of("moved")
    own = parts.get((0, False, ""), [])
    ran = {(r["x"], r["method"]) for r in own}
    shown = ran | {(n, base) for n, label in ran if label == untrained} if long else ()
    theirs = {key: cell for key, cell in papers(panel, base).items() if key in shown}
    found = {f"beside the baselines ({sentence(pack(usual), PAPER)})": beside(own, base, theirs)}
    if epochs == max((e for e in SCHEDULES if rows_of(panel, e)), default=0):
        both = {n for n, label in ran if label == untrained} & {n for n, label in ran if label == base}
        found["beside kernels that are never trained"] = beside([r for r in own if r["x"] in both], untrained)
    for (seed, validate, priors), part in parts.items():
        if validate or not (seed or priors):
            continue
        part = [r for r in part if seed or not r["method"].startswith(name_of("moved"))]  # these have a table of their own
        first = label_of(method, priors=names[priors])
        what = [f"under {names[priors]}"] * bool(priors) + [f"other first kernels and other noise (`--seed {seed}`)"] * bool(seed)
        enough = len({r["seed"] for r in part if r["method"] == first}) >= ENOUGH
        compared = {r["method"] for r in own} - {moved} if enough else {base}
        beside_it = [r for r in own if not seed and r["method"] in compared and r["x"] in {r["x"] for r in part}]
        found[", ".join(what)] = beside(part + beside_it, first)
    validated = [r for (seed, validate, _), part in parts.items() if validate and not seed for r in part]
    no_digits = [r for r in validated if r["method"].startswith(NO_DIGITS)]
    found["on validation images"] = beside([r for r in validated if not r["method"].startswith(NO_DIGITS)], base)
    found["on validation images, kernels that no digits train"] = beside(no_digits, moved)
    tested = [r for (seed, validate, _), part in parts.items() if long and not (seed or validate) for r in part]
    found["kernels that each pair of priors has moved alone"] = beside(
        [r for r in tested if r["method"].startswith(name_of("moved"))], moved
    )
    found["kernels at the end"] = kernels_table(tested, in_order({r["method"] for r in tested}, base))
    found["accuracy by seed of the first kernels"] = draws(parts)
    return found | {"accuracy by seed of the first kernels, on validation images": draws(parts, on_validation=True)}


def report():
    """Markdown lines for experiments.report: the tables of each schedule, and what has not run by the paper's."""
    lines = []
    for panel, (epochs, (name, _)) in itertools.product(("mnist", "cifar10"), SCHEDULES.items()):
        for what, part in tables(panel, epochs).items():
            lines += ["", f"**{panel}, {name}: {what}**", "", part] if part else []
        ran = {(r["x"], r["method"].partition("-")[0]) for start in FIRST_KERNELS for r in rows_of(panel, epochs, start)}
        missing = {}  # {method: "n: the paper's number"}
        for (n, method), cell in published(panel).items() if epochs == max(SCHEDULES) else ():
            if (n, method) not in ran:
                missing.setdefault(name_of(method), []).append(f"{n}: {cell}")
        if missing:
            words = "; ".join(f"{label}, {', '.join(cells)}" for label, cells in missing.items())
            lines += ["", f"{panel}, {name}, not yet run, and the paper's numbers: {words}."]
    return lines
