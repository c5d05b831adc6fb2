"""Fig. 1 (learned 7x7 kernels beside samples of the prior) and Fig. 5 (the latent plane of the 7x7 kernels).

python -m experiments.pictures
"""

from pathlib import Path

import torch

from models.pictures import plot_kernels, plot_latent
from myexman import Parser
from utils import load_kernels, load_vae, run_cli, seed_everything

from .grid import FIGURES, shipped


def parse_args(argv=None):
    parser = Parser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=FIGURES, help="folder of the pictures")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    seed_everything(0)
    kernels, prior = shipped("conv")[0], load_vae(shipped("vae")[0])
    train, test = (load_kernels(kernels / f"{split}.npy") for split in ("train", "test"))
    groups = {"learned 7x7 kernels": train[torch.randperm(len(train))[:100]], "samples of their prior": prior.sample(100)}
    plot_kernels(groups, args.out / "fig1.png")
    plot_latent(prior, torch.cat([train, test]), args.out / "fig5.png")
    print(f"drew {args.out / 'fig1.png'} and {args.out / 'fig5.png'}")


if __name__ == "__main__":
    run_cli(main)
