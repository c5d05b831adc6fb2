"""Fig. 1: learned 7x7 kernels beside samples of the prior. Fig. 5: the latent plane of the 7x7 kernels. The README's picture: the lead of
the deep weight prior in Fig. 2a. If asked for, Fig. 6: samples of an image VAE after 100 to 500 steps, a row for each initialisation; and
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
from .fig2_tables import SCHEDULES, lead
from .fig4 import INITS, PANELS
from .grid import command_line
from .methods import colour_of, init_options, name_of, paper_value, shipped
from .rows import FIGURES, interval_ends


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


LEADS = (  # of the overview: schedule, the baselines' first kernels, the baselines; one that is deterministic is ours
    *((epochs, "vae", ("sn", "vd", "det", "frozen")) for epochs in SCHEDULES),
    *((epochs, "xavier", ("sn", "vd", "frozen")) for epochs in SCHEDULES),
)


def overview(args, file):
    """The deep weight prior less baselines on the same splits, with 95 % intervals, against the number of images; the paper's in grey.
    Filled: the paper's schedule; circles: baselines that start from the prior's kernels, triangles: from Xavier's. Three splits or more."""
    figure, axes = new_figure(11, 4.6, columns=2)
    sizes, series = [50, 100, 200, 500, 1000], [(*group, method) for *group, methods in LEADS for method in methods]
    for axis, metric, what in zip(axes, ("acc", "nll"), ("accuracy", "NLL, nats per image")):
        for i, (epochs, start, method) in enumerate(series):
            schedule, base = SCHEDULES[epochs]
            gaps = {n: lead("mnist", epochs, n, base, method, metric, start) for n in sizes}
            shown = {n: gap for n, gap in gaps.items() if len(gap) > 2}
            if shown:
                at = [sizes.index(n) - 0.4 + 0.8 * (i + 1) / (len(series) + 1) for n in shown]
                mean, ends = np.array([gap.mean() for gap in shown.values()]), np.array([interval_ends(gap) for gap in shown.values()]).T
                style = dict(color=colour_of(method), marker="^" if start == "xavier" else "o", capsize=3, linestyle="")
                style |= dict(markerfacecolor="w") if epochs < max(SCHEDULES) else {}
                label = f"{name_of(method)}, from {'Xavier' if start == 'xavier' else 'the prior'}, {schedule}"
                axis.errorbar(at, mean, np.abs(ends - mean), label=label, **style)
        for method, marker in dict(sn="s", vd="x").items() if metric == "acc" else ():
            theirs = [paper_value("fig2", "mnist", "dwp", n) - paper_value("fig2", "mnist", method, n) for n in sizes]
            axis.plot(np.arange(5) - 0.4, theirs, marker, color="0.55", markersize=5, label=f"paper: {name_of(method)}")
        axis.axhline(0, color="0.3", linewidth=0.8)
        for between in range(4):
            axis.axvline(between + 0.5, color="0.85", linewidth=0.8, zorder=0)
        axis.set_xticks(range(5), sizes)
        better = "above" if metric == "acc" else "below"
        axis.set(xlabel="training images", title=f"deep weight prior minus the other: {what} ({better} 0: it is better)", xlim=(-0.5, 4.5))
        axis.title.set_fontsize(9)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", frameon=False, fontsize=7, ncols=3)
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
