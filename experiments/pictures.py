"""Fig. 1: learned 7x7 kernels beside samples of the prior. Fig. 5: the latent plane of the 7x7 kernels. If asked for, Fig. 6: samples of
an image VAE after 100 to 500 steps, a row for each of three initialisations.

    python -m experiments.pictures
    python -m experiments.pictures --figures 6 --data_root DATA_ROOT          # trains for some minutes
"""

from pathlib import Path

import numpy as np
import torch

from models.pictures import new_figure, plot_kernels, plot_latent, save_figure
from myexman import Parser
from utils import default_data_root, load_kernels, load_vae, run_cli, seed_everything

from . import convergence
from .fig4 import INITS, PANELS
from .grid import FIGURES, METHODS, command_line, init_options, shipped


def parse_args(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument("--figures", type=int, nargs="+", choices=[1, 5, 6], default=[1, 5], help="what to draw")
    parser.add_argument("--data", default="mnist", help="data set of Fig. 6")
    parser.add_argument("--data_root", default=default_data_root(), help="folder of the data sets ($DATA_ROOT)")
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 200, 300, 400, 500], help="of Fig. 6: when to draw samples")
    parser.add_argument("--seed", type=int, default=0, help="of all of them")
    parser.add_argument("--out", type=Path, default=FIGURES, help="folder of the pictures")
    return parser.parse_args(argv)


def fig1(args, file):
    train, _ = kernels()
    shown = train[torch.randperm(len(train))[:100]]
    plot_kernels({"learned 7x7 kernels": shown, "samples of their prior": load_vae(shipped("vae")[0]).sample(100)}, file)


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


def main(argv=None):
    args = parse_args(argv)
    for number, draw in ((1, fig1), (5, fig5), (6, fig6)):
        if number in args.figures:
            seed_everything(args.seed)
            draw(args, args.out / f"fig{number}.png")
            print(f"drew {args.out / f'fig{number}.png'}")


if __name__ == "__main__":
    run_cli(main)
