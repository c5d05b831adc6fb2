"""Gather every result: REPORT.md, the papers' numbers with ours beside them, and the README's table of claims.

    python -m experiments.report

Tables come from results/*.csv, prose from notes.md, which has a section per experiment: "# NAME: title", what is asked or claimed, and
after an empty line what its table means. Numbers are in tables and figures alone, so that prose cannot contradict them.
"""

import importlib
import re
import textwrap
from pathlib import Path

import numpy as np

from models import CIFARNet, FConvMNIST
from models.image_vae import ImageVAE
from models.vae import VAE
from myexman import Parser
from myexman.logger import read_rows
from utils import run_cli

from . import benchmark, claims, fig4, screening
from .grid import Driver
from .methods import name_of, paper_cell
from .rows import FIGURES, HERE, RESULTS, ROOT, markdown, mean_std, sentence

OUR_NAMES = {"vgg-cifar10": "vgg", "train accuracy": "train_acc", "test accuracy": "acc"}  # of panels and metrics in paper_results.csv


HOW_TO_READ = """
Written by `python -m experiments.report` from `results/*.csv` and `notes.md`. `mean ± standard deviation` is over splits or seeds, in
comparisons over those that all variants of a size share (`3 of 5`). A difference is a variant's value less its base's, paired by split; its
interval is of 95 %, by Student's t, of that difference alone; p is after Holm's correction over the variants with the same base and size.
(In README's table differences are the deep weight prior's lead.) Device, commit, steps and seed of each run are in the CSV files.
"""


def parse_args(argv=None):
    parser = Parser(description=__doc__)
    what = "folder with README.md and experiments/README.md, in which the tables are written anew, and REPORT.md beside the latter"
    parser.add_argument("--root", type=Path, default=ROOT, help=what)
    return parser.parse_args(argv)


def drivers():
    """{name: Driver} of all experiments that have one, found among the modules beside this one."""
    modules = (importlib.import_module(f"{__package__}.{file.stem}") for file in sorted(HERE.glob("*.py")) if file.stem != "__init__")
    return {module.DRIVER.name: module.DRIVER for module in modules if isinstance(getattr(module, "DRIVER", None), Driver)}


def notes():
    """{name: (title, what is asked, what it means)} of the sections of notes.md, in its order."""
    text = re.sub(r"<!--.*?-->", "", (HERE / "notes.md").read_text(), flags=re.DOTALL)
    _, *parts = re.split(r"^# (\w+): (.*)$", text, flags=re.MULTILINE)
    sections = {}
    for name, title, body in zip(parts[::3], parts[1::3], parts[2::3]):
        asked, _, meaning = body.strip().partition("\n\n")
        sections[name] = title, wrap(asked), wrap(meaning)
    return sections


def wrap(text, width=140):
    """Markdown with its paragraphs and list items set to lines of that width anew; tables stay."""

    def fill(block):
        if block.startswith("|"):
            return block
        return textwrap.fill(" ".join(block.split()), width, subsequent_indent="  " * block.startswith("- "), break_on_hyphens=False)

    return "\n\n".join("\n".join(map(fill, re.split(r"\n(?=- )", paragraph))) for paragraph in text.split("\n\n"))


def ours(published, rows):
    """Our rows that answer a published one."""
    panel, metric, where = published["panel"], "acc", dict(method=published["method"])
    if published["figure"] == "fig4":
        panel = next((name for name, p in fig4.PANELS.items() if p.paper == panel), panel)
        metric, rows = fig4.PANELS[panel].metric, fig4.in_main(rows)
    elif published["figure"] != "fig3":
        panel, _, metric = panel.partition(" ")
        panel, metric = OUR_NAMES.get(panel, panel), OUR_NAMES.get(metric, metric)
    if published["figure"] == "slides_sparse_vd":  # whose nets are pruned by the signal-to-noise ratio
        metric += "_snr"
    if published["x"] != "":
        where["x"] = published["x"]
    where |= dict(panel=panel, metric=metric)
    return [r for r in rows if all(str(r[k]) == str(v) for k, v in where.items())]


def side_by_side(published, rows, full=()):
    """Panel, method, x, the paper's number (≈: read off a figure), ours, the difference, and what ours is, of what has run; as Markdown."""
    lines = []
    for row in published:
        own = ours(row, rows)
        if own:
            values, digits = np.array([r["value"] for r in own], dtype=float), 1 if abs(row["value"]) > 1 else 3
            runs = f"{sentence(own[0]['options'], full)}; {own[0]['steps']} steps, {len(values)} run{'s'[: len(values) - 1]}"
            cells = [mean_std(values, digits), f"{values.mean() - row['value']:+.{digits}f}", runs]
            lines.append([row["panel"], name_of(row["method"]), row["x"], paper_cell(row), *cells])
    return markdown("panel | method | x | paper | ours | difference | how", lines)


def not_run(published, rows):
    """The paper's numbers that ours have no answer to, in a line; or ""."""
    found = {}
    for row in published:
        if not ours(row, rows):
            what = f"{name_of(row['method'])} {row['x']}".strip()
            found.setdefault(row["panel"], []).append(f"{what} {paper_cell(row)}")
    lists = (f"{panel}: {', '.join(numbers)}" for panel, numbers in found.items())
    return f"Not run, and the papers' numbers: {'; '.join(lists)}." if found else ""


def pictures(name):
    return [f"![{file.stem}](figures/{file.name})" for file in sorted(FIGURES.glob(f"{name}*.png"))]


def by_panel(rows):
    return [[r for r in rows if r["panel"] == panel] for panel in sorted({r["panel"] for r in rows})]


def section(name, driver, title, asked, meaning, published):
    """What is asked, the command, what was found, tables and figures.  driver: None for sections without one, of which `priors` has the
    screen's table."""
    rows = driver.results() if driver else ()
    command = name if driver else dict(priors="screening").get(name)
    lines = [
        "",
        f"## {title}",
        "",
        asked,
        "",
        f"`python -m experiments.{command}`{' (not run)' * bool(driver and not rows)}" if command else "",
    ]
    lines += ["", meaning]
    if driver:
        theirs = [r for r in published if r["figure"] in driver.paper]
        if driver.quantity:
            lines += ["", f"{driver.quantity}; ≈: read off the paper's figure.", "", side_by_side(theirs, rows, driver.full)]
        if driver.report:
            lines += ["", *driver.report()]
        elif rows and not driver.quantity:
            for own in by_panel(rows) if driver.by_panel else [rows]:
                titles = ["; ".join(filter(None, [part[0]["panel"], driver.title(part)])) for part in by_panel(own)]
                lines += ["", f"{', '.join(titles)}:", "", driver.table(own)]
        lines += ["", not_run(theirs, rows)]
    elif name == "priors":
        lines += ["", screening.table(read_rows(RESULTS / "priors.csv"))]
    return [*lines, "", *pictures(name)]


def report():
    """The lines of REPORT.md."""
    published, found, text = read_rows(HERE / "paper_results.csv"), drivers(), notes()
    lines = ["# The papers' numbers and ours", HOW_TO_READ]
    for name, (title, asked, meaning) in text.items():
        lines += section(name, found.pop(name, None), title, asked, meaning, published)
    for name, driver in found.items():  # without prose yet
        if driver.results():
            lines += section(name, driver, name, driver.doc.partition("\n\n")[0].replace("\n", " "), "", published)
    lines += [
        "",
        "## Tables 1 and 2: numbers of parameters",
        "",
        parameter_table([r for r in published if r["figure"] in ("table1", "table2")]),
    ]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def parameters():
    """{name in paper_results.csv: number of parameters} of Tables 1 and 2."""
    modules = {
        f"{part}{k}x{k}": getattr(VAE(k, z, h), part.lower()) for k, z, h in ((5, 4, 64), (7, 2, 32)) for part in ("Encoder", "Decoder")
    }
    modules |= {"mnist classifier": FConvMNIST(), "cifar classifier": CIFARNet(), "mnist vae": ImageVAE()}
    return {name: sum(p.numel() for p in module.parameters()) for name, module in modules.items()}


def parameter_table(published):
    counts = parameters()
    known = ((row["method"], int(row["value"])) for row in published)
    lines = [[name, value, counts[name], f"{counts[name] - value:+d}"] for name, value in known]
    return markdown("part | paper | ours | difference", lines)


def write_into(file, name, text):
    """Write text into the place of that name in a file.  Raises ValueError if it has none."""
    before, start, rest = file.read_text().partition(f"<!-- {name}: written by experiments.report -->")
    _, end, after = rest.partition(f"<!-- end of {name} -->")
    if not end:
        raise ValueError(f"{file} has no place for the {name}, between <!-- {name}: written by experiments.report --> and its end")
    file.write_text(f"{before}{start}\n\n{text}\n\n{end}{after}")


def main(argv=None):
    root = parse_args(argv).root
    write_into(root / "README.md", "claims", claims.table())
    write_into(root / "experiments/README.md", "speed", benchmark.table(read_rows(RESULTS / "benchmark.csv")))
    (root / "experiments/REPORT.md").write_text(report())
    print(f"wrote {root / 'experiments/REPORT.md'}, and the tables in README.md and experiments/README.md")


if __name__ == "__main__":
    run_cli(main)
