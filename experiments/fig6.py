"""Fig. 6: samples of an image VAE after 100 to 500 steps, started from three kinds of kernels; a row of pictures each.

python -m experiments.fig6 --data_root DATA_ROOT
"""

import numpy as np

from models.pictures import new_figure, save_figure
from myexman import Parser
from utils import default_data_root, run_cli

from . import convergence
from .fig4 import INITS, PANELS
from .grid import METHODS, command_line, init_options, places

PANEL = PANELS["vae-mnist"]


def parse_args(argv=None):
    parser = Parser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data_root", default=default_data_root(), help="folder of the data sets ($DATA_ROOT)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="smoke run on the embedded digits, results under logs/")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    steps, data = ([1, 2], "glyph-digits") if args.quick else ([100, 200, 300, 400, 500], "mnist")
    figure, axes = new_figure(2.2 * len(steps), 3.2, columns=len(steps), rows=len(INITS), squeeze=False)
    for row, init in zip(axes, INITS):
        shared = dict(data=data, data_root=args.data_root, model=PANEL.model, seed=args.seed, steps=steps[-1], eval_steps=steps)
        run = convergence.main(command_line(**shared, **init_options(init, PANEL.layers)))
        with np.load(run / "samples.npz") as samples:
            for axis, step in zip(row, steps):
                axis.imshow(np.vstack([np.hstack(samples[f"step{step}"][i : i + 5, 0]) for i in (0, 5)]), cmap="gray", vmin=0, vmax=1)
                axis.set(xticks=[], yticks=[])
                if init == INITS[0]:
                    axis.set_title(f"{step} steps", fontsize=9)
        row[0].set_ylabel(METHODS[init][0], fontsize=8)
    file = places(args.quick)[1] / "fig6.png"
    save_figure(figure, file)
    print(f"drew {file}")


if __name__ == "__main__":
    run_cli(main)
