"""Fig. 4: speed of convergence from three initialisations, of an image VAE (a) and of a classifier on MNIST (b) and on CIFAR-10 (c).

    python -m experiments.fig4 --data_root DATA_ROOT --workers 2

The image VAE's pixels are read in several ways, for the paper does not say in which; MAIN is the one that comes nearest.
"""

import itertools
from typing import NamedTuple

from models.pictures import new_figure, save_figure
from myexman import at_least
from utils import run_cli

from . import convergence
from .grid import Driver, Job, command_line
from .methods import CIFARNET, FCONV, curve, every_row, init_options, name_of, paper_curve, paper_value
from .rows import markdown, mean_std, select, unpack

INITS = ("dwp", "filters", "xavier")
EVAL_STEPS = (20, 50, 100, 150, 200, 300, 400, 600, 800, 1000)  # and the last


class Panel(NamedTuple):
    """What converges: a model with its kernels' sources, on a data set; the metric, as in our rows and as the paper calls the panel."""

    model: str
    layers: tuple
    data: str
    metric: str
    ylabel: str
    ylim: tuple
    paper: str
    steps: int
    hid_dim: tuple = ()  # where it is not the paper's


ACCURACY = ("acc", "test accuracy")
MAIN = "grey"  # of convergence.PIXELS
PANELS = {
    "vae-mnist": Panel(
        "image_vae",
        (FCONV[0], *[FCONV[1]] * 4),
        "mnist",
        "elbo",
        "variational lower bound, nats",
        (-260, -85),
        "vae-mnist (variational lower bound, nats)",
        1000,
    ),
    "convnet-mnist": Panel("fconv", FCONV, "mnist", *ACCURACY, (0.85, 1.0), "convnet-mnist", 300),
    "convnet-cifar10": Panel("cifarnet", CIFARNET, "cifar10", *ACCURACY, (0.1, 0.65), "convnet-cifar10", 390, (32, 64, 64)),
}


def add_arguments(parser):
    parser.add_argument("--panel", nargs="+", choices=list(PANELS), default=list(PANELS), help="what converges")
    parser.add_argument("--splits", type=at_least(1), default=3, help="seeds 0, 1, …")
    parser.add_argument("--pixels", nargs="+", choices=convergence.PIXELS, default=[*convergence.PIXELS], help="how to read VAE pixels")
    parser.add_argument("--steps", type=at_least(1), help="steps of a run (default: 1000 of the VAE, 300 and 390 of the classifiers)")


def shared(args):
    return {name: dict(hid_dim=panel.hid_dim, bs=256, lr=0.001, steps=args.steps or panel.steps) for name, panel in PANELS.items()}


def jobs(args):
    for name in args.panel:
        panel = PANELS[name]
        steps = args.steps or panel.steps
        options = dict(data="glyph-digits" if args.quick else panel.data, data_root=args.data_root, model=panel.model, steps=steps)
        options |= dict(hid_dim=panel.hid_dim) if panel.hid_dim else {}
        readings = args.pixels if panel.model == "image_vae" else ["grey"]
        for pixels, seed, init in itertools.product(readings, range(args.splits), INITS):
            argv = command_line(seed=seed, eval_steps=[s for s in EVAL_STEPS if s <= steps] or [steps])
            argv += command_line(**options, **init_options(init, panel.layers))
            own = dict(pixels=pixels) if pixels != "grey" else {}
            yield Job(name, init, str(steps), seed, argv + command_line(**own), convergence.main, every_row, own)


def reading(row):
    """How pixels are read in a row of the image VAE; "grey" in those of classifiers."""
    return unpack(row["options"]).get("pixels", "grey")


def in_main(rows):
    """Those rows of the image VAE that read pixels as MAIN says, and all of the classifiers."""
    return [r for r in rows if reading(r) == (MAIN if r["panel"] == "vae-mnist" else "grey")]


def readings_table(rows):
    """The image VAE's bound by reading, beside the paper's, as Markdown."""
    panel, lines = PANELS["vae-mnist"], []
    for step, init in itertools.product(sorted({r["x"] for r in rows if r["panel"] == "vae-mnist"}), INITS):
        paper = paper_value("fig4", panel.paper, init, step)
        own = [[r for r in rows if r["panel"] == "vae-mnist" and reading(r) == pixels] for pixels in convergence.PIXELS]
        if paper:
            lines.append(
                [step, name_of(init), paper, *(mean_std(select(part, method=init, x=step, metric=panel.metric), 1) for part in own)]
            )
    return markdown(" | ".join(["steps", "init", "paper", *convergence.PIXELS]), lines)


def table(rows):
    """The metric of each panel, mean ± standard deviation over seeds, beside the paper's, as Markdown; and the image VAE's readings."""
    lines = []
    for name, panel in PANELS.items():
        own = [r for r in in_main(rows) if r["panel"] == name]
        for step in sorted({r["x"] for r in own}):
            for init in INITS:
                values = select(own, method=init, x=step, metric=panel.metric)
                if len(values):
                    paper = paper_value("fig4", panel.paper, init, step) or "–"
                    digits = 3 if panel.metric == "acc" else 1
                    lines.append([name, step, name_of(init), mean_std(values, digits), paper, len(values)])
    first = markdown("panel | steps | init | value | paper | runs", lines)
    return f"{first}\n\nReadings of the image VAE's pixels:\n\n{readings_table(rows)}"


def plot(rows, file):
    rows = in_main(rows)
    shown = [name for name in PANELS if any(r["panel"] == name for r in rows)]
    figure, axes = new_figure(5 * len(shown), 4, columns=len(shown), squeeze=False)
    for axis, name in zip(axes[0], shown):
        panel, own = PANELS[name], [r for r in rows if r["panel"] == name]
        for init in INITS:
            curve(axis, own, init, panel.metric)
            paper_curve(axis, "fig4", panel.paper, init, label=f"paper, {name_of(init)}")
        title = f"{name}{f', {MAIN}' if panel.model == 'image_vae' else ''}\n{DRIVER.title(own)}"
        axis.set(xlabel="steps", ylabel=panel.ylabel, ylim=panel.ylim, xscale="log")
        axis.set_title(title, fontsize=9)
        ticks = [s for s in (20, 50, 100, 200, 400, 1000) if any(r["x"] >= s for r in own)]
        axis.set_xticks(ticks, map(str, ticks))
        axis.minorticks_off()
        axis.legend(frameon=False, fontsize=8)
    figure.suptitle("Fig. 4: mean and range over seeds; grey: the paper", fontsize=10)
    save_figure(figure, file)


def report():
    """Markdown lines for experiments.report: the readings of the image VAE's pixels."""
    return ["Nats per image by reading of the pixels:", "", readings_table(DRIVER.results())]


DRIVER = Driver(
    "fig4",
    __doc__,
    add_arguments,
    dict(panel=["vae-mnist", "convnet-mnist"], splits=1, steps=2, pixels=["grey"]),
    shared,
    jobs,
    table,
    plot,
    paper=("fig4",),
    quantity="test accuracy, or nats per image, at a step x",
    full=dict(hid_dim=""),
    varied=("pixels",),
    report=report,
)

if __name__ == "__main__":
    run_cli(DRIVER.main)
