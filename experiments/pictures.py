"""Fig. 1: learned 7x7 kernels beside samples of the prior. Fig. 5: the latent plane of the 7x7 kernels. The README's picture: Fig. 2a
beside the deep weight prior. If asked for, Fig. 6: samples of an image VAE after 100 to 500 steps, a row for each initialisation; and
the first layers of trained nets.

    python -m experiments.pictures
    python -m experiments.pictures --figures fig6 --data_root DATA_ROOT          # trains for some minutes
    python -m experiments.pictures --figures kernels --runs RUN RUN
"""

from pathlib import Path

import numpy as np
import torch

from models.pictures import draw_kernels, new_figure, plot_kernels, plot_latent, save_figure
from models.screen import likeness
from myexman import Parser, at_least, read_params, run_folder
from prune_kernels import read_kernels
from utils import default_data_root, load_kernels, load_vae, run_cli, seed_everything

from . import convergence, fig4
from .fig2_tables import SCHEDULES, label_of, lead, published, rows_of
from .fig4 import INITS, PANELS
from .grid import command_line
from .methods import colour_of, curve, init_options, name_of, paper_curve, paper_value, shipped
from .rows import FIGURES, interval_ends, rows_of_common_splits


def parse_args(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument("--figures", nargs="+", choices=list(DRAWN), default=list(DRAWN)[:3], help="what to draw")
    parser.add_argument("--data", default="mnist", help="data set of Fig. 6")
    parser.add_argument("--data_root", default=default_data_root(), help="folder of the data sets ($DATA_ROOT)")
    parser.add_argument("--steps", type=at_least(1), nargs="+", default=[100, 200, 300, 400, 500], help="of Fig. 6: when to draw samples")
    parser.add_argument("--runs", type=run_folder, nargs="+", default=[], metavar="RUN", help="of `kernels`: run folders, or their numbers")
    parser.add_argument("--seed", type=int, default=0, help="of all of them")
    parser.add_argument("--out", type=Path, default=FIGURES, help="folder of the pictures")
    return parser.parse_args(argv)


def fig1(args, file):
    plot_kernels(kernels_and_samples(), file)


def kernels_and_samples():
    train, _ = kernels()
    shown = train[torch.randperm(len(train))[:100]]
    return {"learned 7x7 kernels": shown, "samples of their prior": load_vae(shipped("vae")[0]).sample(100)}


AGAINST = {"vae": ("frozen", "moved", "det", "vd", "sn"), "xavier": ("frozen", "vd", "sn")}  # of the overview, by first kernels


def overview(args, file):
    """Fig. 2a on 50 digits, by the paper's schedule: methods less the deep weight prior on the same splits, with 95 % intervals, and the
    paper's in grey; hollow by a second draw of all first kernels. Beside it accuracy against the number of images."""
    figure, (*axes, right) = new_figure(13, 3.9, columns=3, width_ratios=[1, 1, 1.15])
    epochs, short = max(SCHEDULES), min(SCHEDULES)
    base = SCHEDULES[epochs][1]

    def gap(start, method, metric, seed=0):
        return -lead("mnist", epochs, 50, base, method, metric, start, seed)

    lines = [(start, method) for start, methods in AGAINST.items() for method in methods if len(gap(start, method, "acc")) > 2]
    for axis, metric, what in zip(axes, ("acc", "nll"), ("accuracy", "NLL, nats per image")):
        named, again = iter(["the paper's"]), iter(["another draw of first kernels"])
        for y, (start, method) in enumerate(lines):
            for seed, look in ((0, {}), (1, dict(markerfacecolor="none", elinewidth=0.8))):
                values = gap(start, method, metric, seed)
                if len(values) > 2:
                    ends = np.abs(np.array(interval_ends(values)) - values.mean())
                    look |= dict(fmt="o", capsize=3, color=colour_of(method), label=next(again, None) if seed else None)
                    axis.errorbar(values.mean(), y + 0.2 * seed, xerr=ends[:, None], **look)
            theirs = [paper_value("fig2", "mnist", name, 50) for name in (method, "dwp")]
            if metric == "acc" and method != "det" and None not in theirs:  # the deterministic net is not the paper's
                axis.plot(theirs[0] - theirs[1], y, "D", color="0.6", markersize=5, label=next(named, None))
        axis.axvline(0, color="0.3", linewidth=0.8)
        axis.set_yticks(range(len(lines)), [label_of(method, start) for start, method in lines])
        better = "right" if metric == "acc" else "left"
        axis.set(ylim=(len(lines) - 0.5, -0.5))
        what = f"50 digits, the paper's schedule: {what},\nless the deep weight prior's with 256 kernels a step\n({better} of 0: better)"
        axis.set_title(what, fontsize=8)
    axes[1].legend(*axes[0].get_legend_handles_labels(), frameon=False, fontsize=7, loc="upper right")
    axes[0].tick_params(axis="y", labelsize=8)
    axes[1].set_yticklabels([])
    for schedule, methods, style in ((epochs, (base, "frozen", "moved"), {}), (short, (SCHEDULES[short][1],), dict(linestyle="--"))):
        rows = rows_of_common_splits([r for r in rows_of("mnist", schedule) if r["method"] in methods])
        for method in methods:
            curve(right, rows, method, "acc", label=f"{name_of(method)}, {SCHEDULES[schedule][0]}", **style)
    baselines = "vd", "sn"
    rows = rows_of_common_splits([r for r in rows_of("mnist", epochs, "xavier") if r["method"] in baselines])
    for method in baselines:
        curve(right, rows, method, "acc", label=f"{label_of(method, 'xavier')}, {SCHEDULES[epochs][0]}", linestyle=":", marker="x")
    for method in ("dwp", *baselines):
        paper_curve(right, "fig2", "mnist", method, label=f"{name_of(method)}, the paper's numbers")
    sizes = [n for n, method in published("mnist") if method == "dwp"]
    right.set(xscale="log", xlabel="training images", ylim=(0.5, 0.98))
    right.set_xticks(sizes, map(str, sizes))
    right.minorticks_off()
    right.set_title("accuracy: mean and range over splits\n(from Xavier's kernels dotted, else from the prior's)", fontsize=8)
    right.legend(frameon=False, fontsize=6, loc="lower right")
    save_figure(figure, file)


def fig5(args, file):
    plot_latent(load_vae(shipped("vae")[0]), torch.cat(kernels()), file)


def kernels():
    """The shipped 7x7 kernels, for training and held out."""
    return [load_kernels(shipped("conv")[0] / f"{split}.npy") for split in ("train", "test")]


def fig6(args, file):
    panel, steps = PANELS["vae-mnist"], args.steps
    figure, axes = new_figure(2.2 * len(steps), 3.2, columns=len(steps), rows=len(INITS), squeeze=False)
    for row, init in zip(axes, INITS):
        shared = dict(data=args.data, data_root=args.data_root, model=panel.model, seed=args.seed, steps=steps[-1], eval_steps=steps)
        shared |= dict(pixels=fig4.MAIN)
        run = convergence.main(command_line(**shared, **init_options(init, panel.layers)))
        with np.load(run / "samples.npz") as samples:
            for axis, step in zip(row, steps):
                axis.imshow(np.vstack([np.hstack(samples[f"step{step}"][i : i + 5, 0]) for i in (0, 5)]), cmap="gray", vmin=0, vmax=1)
                axis.set(xticks=[], yticks=[])
                if init == INITS[0]:
                    axis.set_title(f"{step} steps", fontsize=9)
        row[0].set_ylabel(name_of(init), fontsize=8)
    save_figure(figure, file)


def kernels_of_runs(args, file):
    if not args.runs:
        raise ValueError("--figures kernels needs --runs, the folders of trained nets")
    groups = {}
    for run in args.runs:
        w, params = next(iter(read_kernels(run).values())), read_params(Path(run) / "params.yaml")
        start = (params.get("init_list") or ["xavier"])[0]
        groups[f"{params['epochs']} epochs, {start} start\nlikeness {likeness(w):.2f}, run {Path(run).name[:6]}"] = w[:36]
    figure, axes = new_figure(2.6 * len(groups) + 1, 2.6, columns=len(groups), squeeze=False)
    draw_kernels(axes[0], groups, columns=6)
    save_figure(figure, file)


DRAWN = dict(fig1=fig1, fig5=fig5, overview=overview, fig6=fig6, kernels=kernels_of_runs)


def main(argv=None):
    args = parse_args(argv)
    for name in args.figures:
        seed_everything(args.seed)
        DRAWN[name](args, args.out / f"{name}.png")
        print(f"drew {args.out / f'{name}.png'}")


if __name__ == "__main__":
    run_cli(main)
