"""How well the shipped priors model held-out kernels, beside Gaussians fitted to the same training kernels.

python -m experiments.priors               # writes results/priors.csv
"""

from pathlib import Path

import torch
import yaml

from models.densities import GaussianKernels
from myexman import Parser, commit_name
from train_vae_prior import evaluate
from utils import load_kernels, load_vae, run_cli, seed_everything

from .grid import RESULTS, ROOT, write_rows

SETS = {  # prior: its kernels
    "fconv/vae7x7": "fconv/conv7x7",
    "fconv/vae7x7_paper": "fconv/conv7x7",
    "fconv/vae5x5": "fconv/conv5x5",
    "cifar/vae7x7": "cifar/conv7x7",
    "cifar/vae5x5_1": "cifar/conv5x5_1",
    "cifar/vae5x5_2": "cifar/conv5x5_2",
}


def parse_args(argv=None):
    parser = Parser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data_dir", type=Path, default=ROOT / "data", help="where the folders of kernels and priors are")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the CSV file")
    return parser.parse_args(argv)


@torch.no_grad()
def describe(train, test, vae):
    """{quantity: number} of a set of kernels and its prior. Densities in nats per held-out kernel; norms are L2."""
    std = vae.decoder(torch.randn(4096, vae.z_dim))[1].sqrt().flatten(1).mean(1)  # of one kernel's weights, on average
    low, median, high = std.quantile(torch.tensor([0.05, 0.5, 0.95])).tolist()
    return dict(
        train_kernels=len(train),
        test_kernels=len(test),
        mean_norm=train.flatten(1).norm(dim=1).mean().item(),
        vae_elbo=evaluate(vae, test, n_samples=20)["elbo"],
        independent_gaussian=GaussianKernels(train, full=False).log_prob(test).mean().item(),
        full_gaussian=GaussianKernels(train).log_prob(test).mean().item(),
        decoder_std_q05=low,
        decoder_std_median=median,
        decoder_std_q95=high,
    )


def main(argv=None):
    args = parse_args(argv)
    seed_everything(0)
    rows = []
    for prior, data in SETS.items():
        train, test = (load_kernels(args.data_dir / data / f"{split}.npy") for split in ("train", "test"))
        pruning = yaml.safe_load((args.data_dir / data / "pruning.yaml").read_text())
        numbers = {"source_kernels": pruning["kernels"], "kept_kernels": pruning["kept"]}
        numbers |= describe(train, test, load_vae(args.data_dir / prior))
        rows += [dict(prior=prior, quantity=k, value=v, commit=commit_name()) for k, v in numbers.items()]
    write_rows(rows, args.out / "priors.csv")
    print("\n".join(f"{r['prior']:18}  {r['quantity']:22} {r['value']:10.3f}" for r in rows))


if __name__ == "__main__":
    run_cli(main)
