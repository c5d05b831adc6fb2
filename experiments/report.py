"""Gather every result: REPORT.md, the papers' numbers with ours beside them, and the list of results in README.md.

    python -m experiments.report

Tables come from results/*.csv, prose from notes.md, whose [[...]] are numbers of those files.
"""

import re
import shlex
import textwrap
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from models import CIFARNet, FConvMNIST
from models.image_vae import ImageVAE
from models.vae import VAE
from myexman import Parser
from myexman.logger import read_rows
from utils import run_cli

from . import (
    ablations,
    continual,
    cuts,
    densities,
    early_stopping,
    fair,
    fig2,
    fig3,
    fig4,
    peers,
    random_labels,
    residual,
    sparsification,
    swaps,
    tightness,
    tune,
    uncertainty,
    vae_epochs,
)
from .grid import (
    FIGURES,
    HERE,
    METHODS,
    PAPER_NAMES,
    RESULTS,
    ROOT,
    Driver,
    ensemble_wins,
    interval,
    markdown,
    mean_std,
    paired_differences,
    select,
)

SPEED = (  # the cases of results/benchmark.csv that experiments/README.md shows
    "step, fconv, sn",
    "step, fconv, loguniform",
    "its convolutions and noise alone",
    "step, fconv, vae",
    "step, fconv, vae, 256 kernels",
    "step, fconv, vae, 256 kernels, remembered",
    "step, cifarnet, sn",
    "step, cifarnet, loguniform",
    "step, cifarnet, vae, 256 kernels",
    "step, cifarnet, vae",
    "ensemble of 10, 10000 images",
    "epoch, 7x7 VAE, 2000 kernels",
    "epoch, 5x5 VAE, 2000 kernels",
    "source step, filters 256/512",
)


class Section(NamedTuple):
    """Published numbers and where ours are: names in paper_results.csv, title, what the number is, the driver, and whether its own table
    says more than the one beside the papers' numbers."""

    figures: tuple
    title: str
    quantity: str
    driver: Driver
    own_table: bool = False


SECTIONS = [
    Section(("fig2",), "Fig. 2: a Bayesian CNN on n training images", "test accuracy of the ensemble", fig2.DRIVER),
    Section(("fig3",), "Fig. 3: random features, share k of the filters", "test accuracy", fig3.DRIVER),
    Section(("fig4",), "Fig. 4: convergence from three initialisations", "test accuracy, or nats per image, at a step x", fig4.DRIVER),
    Section(
        ("slides_sparse_vd", "ard_table1", "ard_table2"),
        "Sparse nets (slides; Kharitonov et al. 2018)",
        "test error; weights by weights kept",
        sparsification.DRIVER,
        own_table=True,
    ),
    Section(("slides_random_labels",), "Random labels (slides)", "accuracy", random_labels.DRIVER, own_table=True),
]
TABLES = [  # experiments with a table of their own, a text and perhaps a figure
    (early_stopping, "The paper's schedule, n = 50"),
    (tightness, "How tight the bound is, and how noisy its gradient"),
    (densities, "Densities of kernels"),
    (vae_epochs, "How long to fit a VAE that is to be a prior"),
    (residual, "3x3 kernels: a residual net"),
    (peers, "Other libraries on the same digits"),
]
OUR_METHODS = {theirs: own for own, theirs in PAPER_NAMES.items()}
OUR_NAMES = {"vgg-cifar10": "vgg", "train accuracy": "train_acc", "test accuracy": "acc"}  # of panels and metrics in paper_results.csv


def parse_args(argv=None):
    parser = Parser(description=__doc__)
    what = "folder with README.md and experiments/README.md, in which the tables are written anew, and REPORT.md beside the latter"
    parser.add_argument("--root", type=Path, default=ROOT, help=what)
    return parser.parse_args(argv)


def results(driver):
    """Our rows of a driver in its usual setting; trials stay out."""
    file, usual = RESULTS / f"{driver.name}.csv", driver.usual()
    return [r for r in (read_rows(file) if file.exists() else []) if usual.get(r["panel"]) == r["setting"]]


def notes():
    """The sections of notes.md by name, their numbers filled in."""
    text = re.sub(r"<!--.*?-->", "", (HERE / "notes.md").read_text(), flags=re.DOTALL)
    sections = re.split(r"^# (\w+)$", text, flags=re.MULTILINE)[1:]
    bodies = [re.sub(r"\[\[(.*?)\]\]", lambda match: number(match[1]), body, flags=re.DOTALL) for body in sections[1::2]]
    fill = dict(zip(sections[::2], bodies))
    return {name: wrap(body.strip()) for name, body in fill.items()}


def wrap(text, width=140):
    """Markdown with its paragraphs and list items set to lines of that width anew; tables stay."""

    def fill(block):
        if block.startswith("|"):
            return block
        return textwrap.fill(" ".join(block.split()), width, subsequent_indent="  " * block.startswith("- "), break_on_hyphens=False)

    return "\n\n".join("\n".join(map(fill, re.split(r"\n(?=- )", paragraph))) for paragraph in text.split("\n\n"))


@cache
def rows_of(file, written):
    """The rows of a file that was written at that time: notes.md asks for hundreds of numbers."""
    return read_rows(file)


def found(name, where):
    """The rows of results/NAME.csv, or of the papers', in which a column has one of the values that `where` says, with commas between, in
    the driver's usual setting unless it says another."""
    file = HERE / "paper_results.csv" if name == "paper" else RESULTS / f"{name}.csv"
    rows = rows_of(file, file.stat().st_mtime_ns)
    if name in DRIVERS and "setting" not in where:
        usual = DRIVERS[name].usual()
        rows = [r for r in rows if usual.get(r["panel"]) == r["setting"]]
    wanted = {k: [v] if k == "setting" else [v, *v.split(",")] for k, v in where.items()}  # a setting has commas of its own
    return [r for r in rows if all(str(r.get(k)) in values for k, values in wanted.items())]


def number(words):
    """What [[words]] stands for: the mean of a column over the rows of results/NAME.csv that agree with all `column=value`.

    words: NAME (`paper` for paper_results.csv) column=value[,value]… and
        column=NAME          which column (value)
        setting=, less=      another setting than the driver's usual one; less that setting's, seed by seed
        over=METHOD, of=NAME less that method's, seed by seed; it may be of another file
        digits=3, show=percent|size|interval, the last with its 95 % interval over seeds
    Raises ValueError if there are no such rows."""
    name, *pairs = shlex.split(words)
    where = dict(pair.split("=", 1) for pair in pairs)
    column, digits, show = (where.pop(key, default) for key, default in (("column", "value"), ("digits", "3"), ("show", "")))
    less = {what: where.pop(key) for key, what in (("less", "setting"), ("over", "method")) if key in where}
    subtrahend = where.pop("of", name), where | less
    if subtrahend[0] != name and not less:
        raise ValueError(f"notes.md: `of` is for `over` in [[{words}]]")
    values = [r.get(column) for r in found(name, where)]
    if less:
        by_seed, other = ({r["seed"]: r[column] for r in found(*rows)} for rows in ((name, where), subtrahend))
        if len(by_seed) < len(values):
            raise ValueError(f"notes.md: several rows of a seed for [[{words}]]")
        values = [by_seed[seed] - other[seed] for seed in by_seed.keys() & other.keys()]
    if not values or not all(isinstance(value, (int, float)) for value in values):
        raise ValueError(f"notes.md: no rows for [[{words}]]")
    value = float(np.mean(values))
    if show == "interval":
        return interval(np.array(values), int(digits), sign="+" if less else "")
    if show == "percent":
        return f"{100 * value:.{2 if value < 0.1 else 1}f}".rstrip("0").rstrip(".")
    return f"{abs(value) if show == 'size' else value:.{int(digits)}f}"


def ours(published, rows):
    """Our rows that answer a published one."""
    panel, metric, where = published["panel"], "acc", dict(method=OUR_METHODS.get(published["method"], published["method"]))
    if published["figure"] == "fig4":
        panel = next((name for name, p in fig4.PANELS.items() if p.paper == panel), panel)
        metric = fig4.PANELS[panel].metric
    elif published["figure"] not in ("fig2", "fig3"):
        panel, _, metric = panel.partition(" ")
        panel, metric = OUR_NAMES.get(panel, panel), OUR_NAMES.get(metric, metric)
    if published["figure"] == "slides_sparse_vd":  # whose nets are pruned by the signal-to-noise ratio
        metric += "_snr"
    if published["x"] != "":
        where["x"] = published["x"]
    where |= dict(panel=panel, metric=metric)
    return [r for r in rows if all(str(r[k]) == str(v) for k, v in where.items())]


def reason(published):
    """Why a published number has none of ours beside it, in words."""
    if published["method"] in ("original", "pruning", "dns", "sws"):
        return "another paper's method"
    if published["figure"] == "slides_random_labels" or "vgg" in published["panel"]:
        return "a VGG-like net needs an accelerator"
    return "not run on these two cores"


def side_by_side(published, rows):
    """Panel, method, x, the paper's number (≈: read off a figure), ours, the difference, and what ours is, as Markdown; and why some have
    none of ours."""
    lines, absent = [], {}
    for row in published:
        own, method = ours(row, rows), OUR_METHODS.get(row["method"], row["method"])
        name = "log-uniform, in the release variational dropout" if method == "vd" else METHODS.get(method, (method,))[0]
        values = np.array([r["value"] for r in own], dtype=float)
        if len(values):
            digits = 4 if row["panel"].endswith("error") else 1 if abs(row["value"]) > 1 else 3
            runs = f"{own[0]['setting']}; {own[0]['steps']} steps, {len(values)} run{'s'[: len(values) - 1]}"
            cells = [mean_std(values, digits), f"{values.mean() - row['value']:+.{digits}f}", runs]
        else:
            cells = ["–", "", ""]
            absent.setdefault(reason(row), None)
        lines.append([row["panel"], name, row["x"], f"{'' if row['exact'] else '≈ '}{row['value']}", *cells])
    table = markdown("panel | method | x | paper | ours | difference | setting", lines)
    return table + (f"\n\n–: {'; '.join(absent)}." if absent else "")


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


def paired(rows, better="dwp"):
    """Differences between the deep weight prior and each other method on the same splits, with a t interval, as Markdown."""
    lines = []
    for n in sorted({r["x"] for r in rows}):
        for method in fig2.CHOICES:
            gaps = [paired_differences(rows, better, method, x=n, metric=metric) for metric in ("acc", "nll")]
            if method != better and len(gaps[0]) > 1:
                lines.append([n, METHODS[method][0], *map(interval, gaps), len(gaps[0])])
    return markdown("n | against | difference in accuracy (95 % interval) | in NLL, nats | splits", lines)


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


# What the papers did not show, beside "Why priors hold or fail": driver, title, what is asked
BEYOND = [
    (ablations, "The parts of the deep weight prior", "What are the KL sum, the reverse model and the start worth?"),
    (fair, "Each method at its own best", "Start, steps, rate and L2 by validation accuracy; test images."),
    (tune, "How they were chosen", "Validation accuracy; the best recipe of each method is in bold."),
    (uncertainty, "Uncertainty, n = 200", "Does averaging more nets help, and do they tell letters from digits (AUROC of entropy)?"),
    (continual, "Continual learning", "What is left of the first task after the second? Accuracy of the mean network."),
]
OF_PRIORS = [(cuts, "Cuts"), (swaps, "Choices of priors")]
DRIVERS = {driver.name: driver for driver in [s.driver for s in SECTIONS] + [m.DRIVER for m, *_ in BEYOND + OF_PRIORS + TABLES]}


def pictures(driver):
    return [f"![{file.stem}](figures/{file.name})" for file in sorted(FIGURES.glob(f"{driver.name}*.png"))]


def own_section(driver, heading, text, question=""):
    """What the papers did not show: question, command and setting, prose, a table per panel, and figures; nothing without rows."""
    rows = results(driver)
    if not rows:
        return []
    lines = ["", heading, "", f"{question} `python -m experiments.{driver.name}`.".strip()]
    lines += ["", text[driver.name]] if driver.name in text else []
    for panel, setting in sorted({(r["panel"], r["setting"]) for r in rows}):
        lines += ["", f"{panel}; {setting}:", "", driver.table([r for r in rows if r["panel"] == panel])]
    return [*lines, "", *pictures(driver)]


def priors_section(text):
    """Why priors hold or fail: prose, the cuts, and lists of priors by the nets under them."""
    lines = ["", "## Why priors hold or fail", "", text["priors"]]
    for module, title in OF_PRIORS:
        lines += own_section(module.DRIVER, f"### {title}", text)
    return lines


def report(text):
    """The lines of REPORT.md.  text: the prose by section."""
    published = read_rows(HERE / "paper_results.csv")
    lines = ["# The papers' numbers and ours", ""]
    lines += ["Written by `python -m experiments.report` from `results/*.csv` and `notes.md`; `mean ± standard deviation` over runs."]
    lines += ["Device, commit and seed of each run are in the CSV files. ≈: read off the paper's figure."]
    for section in SECTIONS:
        driver, rows = section.driver, results(section.driver)
        if driver is fig2.DRIVER:
            rows = [r for panel in fig2.PANELS for r in fig2.on_its_splits([r for r in rows if r["panel"] == panel])]
        devices = ", ".join(sorted({r["device"] for r in rows})) or "not run yet"
        lines += ["", f"## {section.title}", "", f"{section.quantity}; `python -m experiments.{driver.name}`; {devices}."]
        lines += ["", text[driver.name]] if driver.name in text else []
        lines += ["", side_by_side([r for r in published if r["figure"] in section.figures], rows)]
        if rows:
            lines += fig2_details(rows) if driver.name == "fig2" else []
            lines += ["", driver.table(rows)] if section.own_table else []
            lines += ["", *pictures(driver)]
        lines += ["", "### Long training", "", text["long"]] if driver.name == "fig2" else []
    lines += priors_section(text)
    for module, title, question in BEYOND:
        lines += own_section(module.DRIVER, f"## {title}", text, question)
    for module, title in TABLES:
        driver, rows = module.DRIVER, results(module.DRIVER)
        if rows:
            lines += ["", f"## {title}", "", f"`python -m experiments.{driver.name}`.", "", text[driver.name], "", driver.table(rows)]
            lines += ["", *pictures(driver)]
    lines += ["", "## Figs. 1, 5 and 6: pictures", "", "`python -m experiments.pictures --figures fig1 fig5 fig6`.", ""]
    lines += [f"![{name}](figures/{name}.png)\n" for name in ("fig1", "fig5", "fig6")]
    for table in ("table1", "table2"):
        lines += ["", f"## Table {table[-1]}: number of parameters", "", parameter_tables([r for r in published if r["figure"] == table])]
    return lines


def speed(rows):
    """The main cases of the benchmark, as Markdown."""
    by_case = {r["case"]: r for r in rows}

    def cell(value, scale=1, digits=2):
        return "–" if value in (None, "") else f"{scale * value:.{digits if abs(scale * value) < 1000 else 0}f}"

    lines = []
    for case in SPEED:
        r = by_case[case]
        times = [cell(r[column], 1000, 1) for column in ("seconds", "reference_seconds")]
        lines.append([case, *times, cell(r["ratio"]), cell(r["target"], digits=1), cell(r["gemm_share"])])
    return markdown("case | ours, ms | textbook, ms | ratio | ratio aimed at | of the GEMM rate", lines)


def fill(file, name, text):
    """Write text into the place of that name in a file.  Raises ValueError if it has none."""
    before, start, rest = file.read_text().partition(f"<!-- {name}: written by experiments.report -->")
    _, end, after = rest.partition(f"<!-- end of {name} -->")
    if not end:
        raise ValueError(f"{file} has no place for the {name}, between <!-- {name}: written by experiments.report --> and its end")
    file.write_text(f"{before}{start}\n\n{text}\n\n{end}{after}")


def main(argv=None):
    root, text = parse_args(argv).root, notes()
    fill(root / "README.md", "results", text["README"])
    fill(root / "experiments/README.md", "speed", speed(read_rows(RESULTS / "benchmark.csv")))
    (root / "experiments/REPORT.md").write_text("\n".join(report(text)) + "\n")
    print(f"wrote {root / 'experiments/REPORT.md'}, and the tables in README.md and experiments/README.md")


if __name__ == "__main__":
    run_cli(main)
