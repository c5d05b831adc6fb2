"""Fig. 1 (learned 7x7 kernels beside samples of the prior) and Fig. 5 (the latent plane of the 7x7 kernels).

python -m experiments.pictures
"""

from pathlib import Path

import torch

from myexman import Parser
from utils import load_kernels, load_vae, plot_kernels, plot_latent, run_cli, seed_everything

from .grid import FIGURES, shipped

KERNELS, PRIOR = shipped("conv")[0], shipped("vae")[0]
PLANE = PRIOR.with_name("vae7x7_paper")  # the prior with two latent dimensions


def parse_args(argv=None):
    parser = Parser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=FIGURES, help="folder of the pictures")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    seed_everything(0)
    train, test = (load_kernels(KERNELS / f"{split}.npy") for split in ("train", "test"))
    shown = train[torch.randperm(len(train))[:100]]
    groups = {"learned 7x7 kernels": shown, "samples, shipped prior": load_vae(PRIOR).sample(100)}
    plot_kernels(groups | {"samples, the paper's decoder": load_vae(PLANE).sample(100)}, args.out / "fig1.png")
    plot_latent(load_vae(PLANE), torch.cat([train, test]), args.out / "fig5.png")
    print(f"drew {args.out / 'fig1.png'} and {args.out / 'fig5.png'}")


if __name__ == "__main__":
    run_cli(main)
