"""Gather every result into REPORT.md: the papers' numbers, ours beside them or the reason why there is none, setting and command.

python -m experiments.report
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from models import CIFARNet, FConvMNIST
from models.image_vae import ImageVAE
from models.vae import VAE
from myexman import Parser
from myexman.logger import read_rows
from utils import run_cli

from . import ablations, continual, cuts, early_stopping, fair, fig2, fig3, fig4, random_labels, sparsification, swaps, tune, uncertainty
from .grid import FIGURES, HERE, METHODS, RESULTS, Driver, ensemble_wins, markdown, mean_std, select


class Section(NamedTuple):
    """Published numbers and where ours are: names in paper_results.csv, title, what the number is, and the driver."""

    figures: tuple
    title: str
    quantity: str
    driver: Driver


SECTIONS = [
    Section(("fig2",), "Fig. 2: a Bayesian CNN on n training images", "test accuracy of the ensemble", fig2.DRIVER),
    Section(("fig3",), "Fig. 3: random features, share k of the filters", "test accuracy", fig3.DRIVER),
    Section(("fig4",), "Fig. 4: convergence from three initialisations", "test accuracy, or nats per image, at a step x", fig4.DRIVER),
    Section(
        ("slides_sparse_vd", "ard_table1", "ard_table2"),
        "Sparse nets (slides; Kharitonov et al. 2018)",
        "test error; weights by weights kept",
        sparsification.DRIVER,
    ),
    Section(("slides_random_labels",), "Random labels (slides)", "accuracy", random_labels.DRIVER),
]
OUR_NAMES = {  # of what paper_results.csv calls otherwise
    "vgg-cifar10": "vgg",
    "sparse_vd": "loguniform",
    "binary dropout": "do",
    "train accuracy": "train_acc",
    "test accuracy": "acc",
}


def parse_args(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "REPORT.md", help="the file to write")
    return parser.parse_args(argv)


def results(driver):
    """Our rows of a driver in its usual setting; trials stay out."""
    file, usual = RESULTS / f"{driver.name}.csv", driver.usual()
    return [r for r in (read_rows(file) if file.exists() else []) if usual.get(r["panel"]) == r["setting"]]


def ours(published, rows):
    """Our rows that answer a published one."""
    panel, metric, method = published["panel"], "acc", OUR_NAMES.get(published["method"], published["method"])
    if published["figure"] == "fig2":
        method = next(own for own in fig2.CHOICES if fig2.published(own) == published["method"])
    where = dict(method=method)
    if published["figure"] == "fig4":
        panel = next((name for name, p in fig4.PANELS.items() if p.paper == panel), panel)
        metric = fig4.PANELS[panel].metric
    elif published["figure"] not in ("fig2", "fig3"):
        panel, _, metric = panel.partition(" ")
        panel, metric = OUR_NAMES.get(panel, panel), OUR_NAMES.get(metric, metric)
    if published["x"] != "":
        where["x"] = published["x"]
    where |= dict(panel=panel, metric=metric)
    return [r for r in rows if all(str(r[k]) == str(v) for k, v in where.items())]


def reason(published):
    """Why a published number has none of ours beside it."""
    if published["method"] in ("original", "pruning", "dns", "sws"):
        return "another paper's method"
    if published["figure"] == "slides_random_labels" or "vgg" in published["panel"]:
        return "not run: a VGG-like net needs an accelerator"
    return "not run: two cores, and the time went into the rows that stand here"


def side_by_side(published, rows):
    """Panel, method, x, the paper's number, ours, the difference, and what ours is, as Markdown."""
    lines = []
    for row in published:
        own, name = ours(row, rows), METHODS.get(OUR_NAMES.get(row["method"], row["method"]), (row["method"],))[0]
        if own and own[0]["method"] == "vd":
            name += ", in the release variational dropout"
        values = np.array([r["value"] for r in own], dtype=float)
        if len(values):
            digits = 4 if row["panel"].endswith("error") else 1 if abs(row["value"]) > 1 else 3
            runs = f"{own[0]['setting']}; {own[0]['steps']} steps, {len(values)} run{'s'[: len(values) - 1]}"
            cells = [mean_std(values, digits), f"{values.mean() - row['value']:+.{digits}f}", runs]
        else:
            cells = [reason(row), "", ""]
        lines.append([row["panel"], name, row["x"], row["value"], *cells])
    return markdown("panel | method | x | paper | ours | difference | setting", lines)


def parameters():
    """{name in paper_results.csv: number of parameters} of Tables 1 and 2."""
    modules = {
        f"{part}{k}x{k}": getattr(VAE(k, z, h), part.lower()) for k, z, h in ((5, 4, 64), (7, 2, 32)) for part in ("Encoder", "Decoder")
    }
    modules |= {"mnist classifier": FConvMNIST(), "cifar classifier": CIFARNet(), "mnist vae": ImageVAE()}
    return {name: sum(p.numel() for p in module.parameters()) for name, module in modules.items()}


def parameter_tables(published):
    counts = parameters()
    known = ((row["method"], int(row["value"])) for row in published)
    lines = [[name, value, counts[name], f"{counts[name] - value:+d}"] for name, value in known]
    return markdown("part | paper | ours | difference", lines)


def interval(gaps):
    """['+0.037', '+0.021 to +0.053']: the mean and its 95 % t interval."""
    half = stats.t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / len(gaps) ** 0.5
    return [f"{gaps.mean():+.3f}", f"{gaps.mean() - half:+.3f} to {gaps.mean() + half:+.3f}"]


def paired(rows, better="dwp"):
    """Differences between the deep weight prior and each other method on the same splits, with a t interval, as Markdown."""
    lines = []
    for n in sorted({r["x"] for r in rows}):
        for method in fig2.CHOICES:
            gaps = []
            for metric in ("acc", "nll"):
                first, second = (
                    {r["seed"]: r["value"] for r in rows if (r["method"], r["x"], r["metric"]) == (m, n, metric)} for m in (better, method)
                )
                gaps.append(np.array([first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]))
            if method != better and len(gaps[0]) > 1:
                lines.append([n, METHODS[method][0], *interval(gaps[0]), *interval(gaps[1]), len(gaps[0])])
    return markdown("n | against | difference in accuracy | 95 % interval | difference in NLL, nats | 95 % interval | splits", lines)


def ensembles(rows):
    """NLL and ECE of the mean network and of the ensemble of 10, for the nets with random weights, as Markdown."""
    lines = []
    for n in sorted({r["x"] for r in rows}):
        for method in fig2.CHOICES:
            pairs = [[select(rows, method=method, x=n, metric=m) for m in (f"mean_{metric}", metric)] for metric in ("nll", "ece")]
            if len(select(rows, method=method, x=n, metric="one_acc")):
                cells = [mean_std(v) for pair in pairs for v in pair]
                lines.append([n, METHODS[method][0], *cells, ensemble_wins(*pairs)])
    return markdown("n | method | NLL, mean net | NLL, ensemble | ECE, mean net | ECE, ensemble | ensemble better in", lines)


def fig2_details(rows):
    text = []
    for panel in [panel for panel in fig2.PANELS if any(r["panel"] == panel for r in rows)]:
        own = [r for r in rows if r["panel"] == panel]
        text += ["", f"### {panel}", "", "With NLL, calibration error and Brier score, which the paper does not give:", ""]
        text += [fig2.table(own), "", "The deep weight prior less the other, on the same splits:", "", paired(own)]
        text += ["", "The mean network and the ensemble of 10:", "", ensembles(own)]
    return text


# What the papers did not show: driver, title, what is asked
BEYOND = [
    (
        ablations.DRIVER,
        "The parts of the deep weight prior, at n = 50",
        "What are the reverse model, the samples, the full KL sum and the start worth?",
    ),
    (cuts.DRIVER, "The norms of the kernels", "What does a prior do to kernels that no data holds back, and how good is the net under it?"),
    (swaps.DRIVER, "Which priors", "Pairs of 7x7 and 5x5 priors at n = 50: nets under them, and nets that only start from them."),
    (early_stopping.DRIVER, "Early stopping, n = 50", "Test accuracy and NLL on the paper's schedule."),
    (fair.DRIVER, "Each method at its own best", "Start, steps, rate and L2 by validation accuracy; test images."),
    (tune.DRIVER, "How they were chosen", "Validation accuracy; the best recipe of each method is in bold."),
    (uncertainty.DRIVER, "Uncertainty, n = 200", "Does averaging more nets help, and do they tell letters from digits (AUROC of entropy)?"),
    (continual.DRIVER, "Continual learning", "MNIST, then MNIST with shuffled pixels (LeNet-300-100); accuracy of the mean network."),
]


def pictures(driver):
    return [f"![{file.stem}](figures/{file.name})" for file in sorted(FIGURES.glob(f"{driver.name}*.png"))]


def main(argv=None):
    args = parse_args(argv)
    published = read_rows(HERE / "paper_results.csv")
    text = ["# The papers' numbers and ours", ""]
    text += [
        "Written by `python -m experiments.report` from `results/*.csv`; `mean ± standard deviation` over runs, device and commit there."
    ]
    for section in SECTIONS:
        rows = results(section.driver)
        devices = ", ".join(sorted({r["device"] for r in rows})) or "not run yet"
        text += ["", f"## {section.title}", "", f"{section.quantity}; `python -m experiments.{section.driver.name}`; {devices}.", ""]
        text.append(side_by_side([r for r in published if r["figure"] in section.figures], rows))
        if rows:
            text += fig2_details(rows) if section.driver is fig2.DRIVER else []
            text += ["", section.driver.table(rows)] if section.driver in (sparsification.DRIVER, random_labels.DRIVER) else []
            text += ["", *pictures(section.driver)]
    text += ["", "## Figs. 1, 5 and 6: pictures", "", "`python -m experiments.pictures --figures 1 5 6`.", ""]
    text += [f"![{name}](figures/{name}.png)\n" for name in ("fig1", "fig5", "fig6")]
    for table in ("table1", "table2"):
        text += ["", f"## Table {table[-1]}: number of parameters", "", parameter_tables([r for r in published if r["figure"] == table])]
    for driver, title, question in BEYOND:
        rows = results(driver)
        if rows:
            setting = "; ".join(sorted({r["setting"] for r in rows}))
            text += ["", f"## {title}", "", f"{question} `python -m experiments.{driver.name}`; {setting}."]
            for panel in sorted({r["panel"] for r in rows}):
                text += ["", f"{panel}:", "", driver.table([r for r in rows if r["panel"] == panel])]
            text += ["", *pictures(driver)]
    args.out.write_text("\n".join(text) + "\n")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    run_cli(main)
