"""Gather every result into REPORT.md: the paper's numbers, ours beside them or the reason why there is none, setting and command.

python -m experiments.report
"""

from pathlib import Path

import numpy as np
from scipy import stats

from models import CIFARNet, FConvMNIST
from models.image_vae import ImageVAE
from models.vae import VAE
from myexman import Parser
from myexman.logger import read_rows
from utils import run_cli

from . import fig2, fig3, fig4
from .grid import HERE, METHODS, RESULTS, mean_std, select

# figure: title, what the number is, command
SECTIONS = {
    "fig2": ("Fig. 2: a Bayesian CNN on n training images", "test accuracy of the ensemble", "python -m experiments.fig2"),
    "fig3": ("Fig. 3: random features, share k of the filters", "test accuracy", "python -m experiments.fig3"),
    "fig4": ("Fig. 4: convergence from three initialisations", "test accuracy, or nats per image, at a step", "python -m experiments.fig4"),
    "table1": ("Table 1: the kernel VAE's coders", "parameters", "python -m experiments.report"),
    "table2": ("Table 2: the networks", "parameters", "python -m experiments.report"),
}
NO_CIFAR = "not run: needs the kernels of nets trained on CIFAR-100"
BEYOND = "not run: needs an accelerator, or days"


def parse_args(argv=None):
    parser = Parser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=HERE / "REPORT.md", help="the file to write")
    return parser.parse_args(argv)


def results(figure):
    """Our rows of a figure in its default setting, panels named as in paper_results.csv."""
    file = RESULTS / f"{figure}.csv"
    rows = read_rows(file) if file.exists() else []
    if figure in ("fig2", "fig3"):
        module = {"fig2": fig2, "fig3": fig3}[figure]
        rows = [r for r in rows if r["setting"] == module.setting(module.parse_args([]))]
    return [dict(r, panel=fig4.PANELS[r["panel"]].paper if figure == "fig4" else r["panel"]) for r in rows]


def parameters():
    """{name in paper_results.csv: number of parameters} of Tables 1 and 2."""
    modules = {
        f"{part}{k}x{k}": getattr(VAE(k, z, h), part.lower()) for k, z, h in ((5, 4, 64), (7, 2, 32)) for part in ("Encoder", "Decoder")
    }
    modules |= {"mnist classifier": FConvMNIST(), "cifar classifier": CIFARNet(), "mnist vae": ImageVAE()}
    return {name: sum(p.numel() for p in module.parameters()) for name, module in modules.items()}


def side_by_side(figure, published, ours):
    """Markdown rows: panel, method, x, the paper's number, ours, the difference, what ours is."""
    lines = ["| panel | method | x | paper | ours | difference | steps, runs, device |", "|---|---|---|---|---|---|---|"]
    for row in published:
        metric = "elbo" if "nats" in row["panel"] else "acc"
        where = dict(panel=row["panel"], method=row["method"], x=row["x"], metric=metric)
        values, digits = select(ours, **where), 1 if metric == "elbo" else 3
        name = METHODS[row["method"]][0]
        if len(values):
            one = next(r for r in ours if all(str(r[k]) == str(v) for k, v in where.items()))
            cells = [
                mean_std(values, digits),
                f"{values.mean() - row['value']:+.{digits}f}",
                f"{one['steps']}, {len(values)}, {one['device']}",
            ]
        else:
            cells = [NO_CIFAR if "cifar" in row["panel"] else BEYOND, "", ""]
        lines.append(f"| {row['panel']} | {name} | {row['x']} | {row['value']} | " + " | ".join(cells) + " |")
    return lines


def paired(rows, better="dwp"):
    """Differences between the deep weight prior and each other method on the same splits, with a t interval, as Markdown rows."""
    lines = [
        "| n | against | difference in accuracy | 95 % interval | difference in NLL, nats | 95 % interval | splits |",
        "|---|---|---|---|---|---|---|",
    ]
    for n in sorted({r["x"] for r in rows}):
        for method in fig2.CHOICES:
            cells, count = [], 0
            for metric in ("acc", "nll"):
                values = [
                    {r["seed"]: r["value"] for r in rows if (r["method"], r["x"], r["metric"]) == (m, n, metric)} for m in (better, method)
                ]
                gaps = np.array([values[0][seed] - values[1][seed] for seed in sorted(values[0].keys() & values[1].keys())])
                if method == better or len(gaps) < 2:
                    break
                half = stats.t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / len(gaps) ** 0.5
                cells += [f"{gaps.mean():+.3f}", f"{gaps.mean() - half:+.3f} to {gaps.mean() + half:+.3f}"]
                count = len(gaps)
            if cells:
                lines.append(f"| {n} | {METHODS[method][0]} | {' | '.join(cells)} | {count} |")
    return lines


def main(argv=None):
    args = parse_args(argv)
    published = read_rows(HERE / "paper_results.csv")
    text = [
        "# The paper's numbers and ours",
        "",
        "Written by `python -m experiments.report` from `results/*.csv`; `mean ± standard deviation` over runs.",
    ]
    for figure, (title, quantity, command) in SECTIONS.items():
        own = [r for r in published if r["figure"] == figure]
        text += ["", f"## {title}", ""]
        if figure.startswith("table"):
            counts = parameters()
            text += ["| part | paper | ours | difference |", "|---|---|---|---|"]
            text += [f"| {r['method']} | {r['value']} | {counts[r['method']]} | {counts[r['method']] - int(r['value']):+d} |" for r in own]
            continue
        ours = results(figure)
        settings = sorted({f"{r['panel']}: {r['setting']}" for r in ours})
        text += [f"Numbers: {quantity}. Command: `{command}`. Setting: {'; '.join(settings) or 'not run yet'}.", ""]
        text += side_by_side(figure, own, ours)
        if figure == "fig2" and ours:
            text += ["", "With NLL, calibration error and Brier score, which the paper does not give:", "", fig2.table(ours, "mnist")]
            text += ["", "The deep weight prior less the other, on the same splits:", "", *paired(ours)]
        if ours:
            text += ["", f"![{title}](figures/{figure}.png)"]
    args.out.write_text("\n".join(text) + "\n")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    run_cli(main)
