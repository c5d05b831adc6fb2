"""Fig. 1: learned 7x7 kernels beside samples of the prior. Fig. 5: the latent plane of the 7x7 kernels. The README's picture: Figs. 1
and 2a. If asked for, Fig. 6: samples of an image VAE after 100 to 500 steps, a row for each of three initialisations.

    python -m experiments.pictures
    python -m experiments.pictures --figures fig6 --data_root DATA_ROOT          # trains for some minutes
"""

from pathlib import Path

import numpy as np
import torch

from models.pictures import draw_kernels, new_figure, plot_kernels, plot_latent, save_figure
from myexman import Parser, at_least
from myexman.logger import read_rows
from utils import default_data_root, load_kernels, load_vae, run_cli, seed_everything

from . import convergence, fig2
from .fig4 import INITS, PANELS
from .grid import FIGURES, METHODS, RESULTS, command_line, init_options, shipped


def parse_args(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument("--figures", nargs="+", choices=list(DRAWN), default=list(DRAWN)[:3], help="what to draw")
    parser.add_argument("--data", default="mnist", help="data set of Fig. 6")
    parser.add_argument("--data_root", default=default_data_root(), help="folder of the data sets ($DATA_ROOT)")
    parser.add_argument("--steps", type=at_least(1), nargs="+", default=[100, 200, 300, 400, 500], help="of Fig. 6: when to draw samples")
    parser.add_argument("--seed", type=int, default=0, help="of all of them")
    parser.add_argument("--out", type=Path, default=FIGURES, help="folder of the pictures")
    return parser.parse_args(argv)


def fig1(args, file):
    plot_kernels(kernels_and_samples(), file)


def kernels_and_samples():
    train, _ = kernels()
    shown = train[torch.randperm(len(train))[:100]]
    return {"learned 7x7 kernels": shown, "samples of their prior": load_vae(shipped("vae")[0]).sample(100)}


def overview(args, file):
    usual = fig2.DRIVER.usual()["mnist"]
    rows = [r for r in read_rows(RESULTS / "fig2.csv") if (r["panel"], r["setting"]) == ("mnist", usual)]
    figure, axes = new_figure(13, 3.9, columns=3, width_ratios=[1, 1, 1.3])
    draw_kernels(axes[:2], kernels_and_samples())
    fig2.draw_metric(axes[2], rows, "acc")
    axes[2].set_title(f"MNIST, {usual}; grey: paper", fontsize=10)
    axes[2].legend(frameon=False, fontsize=7, ncols=2, loc="lower right")
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
        run = convergence.main(command_line(**shared, **init_options(init, panel.layers)))
        with np.load(run / "samples.npz") as samples:
            for axis, step in zip(row, steps):
                axis.imshow(np.vstack([np.hstack(samples[f"step{step}"][i : i + 5, 0]) for i in (0, 5)]), cmap="gray", vmin=0, vmax=1)
                axis.set(xticks=[], yticks=[])
                if init == INITS[0]:
                    axis.set_title(f"{step} steps", fontsize=9)
        row[0].set_ylabel(METHODS[init][0], fontsize=8)
    save_figure(figure, file)


DRAWN = dict(fig1=fig1, fig5=fig5, overview=overview, fig6=fig6)


def main(argv=None):
    args = parse_args(argv)
    for name in args.figures:
        seed_everything(args.seed)
        DRAWN[name](args, args.out / f"{name}.png")
        print(f"drew {args.out / f'{name}.png'}")


if __name__ == "__main__":
    run_cli(main)
