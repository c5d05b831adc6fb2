"""One cut of the source nets' 5x5 kernels: the VAE of what is kept, its drift test, and the Bayesian net under that prior.

    python -m experiments.cut --runs data/fconv/kernels.torch --spread 1.66 --data_root DATA_ROOT

experiments.cuts compares several.
"""

from pathlib import Path

import yaml

import prune_kernels
import train_bnn
import train_vae_prior
from models.priors import KernelPrior
from models.screen import alignment, drift, likeness, zero_is_denser
from myexman import ExParser, at_least, script
from utils import add_run_flags, default_data_root, load_vae, run_cli, seed_everything

from .grid import REMEMBERED, command_line, method_options, shipped

STEPS = tuple(range(0, 601, 50))  # of the drift test


def parse_args(argv=None):
    parser = ExParser(description=__doc__, prog="cut.py")
    add = parser.add_argument
    add("--runs", nargs="+", metavar="RUN", required=True, help="source nets, or a pool of their kernels, as for prune_kernels.py")
    add("--spread", type=at_least(1, float), default=1.66, help="90 %% quantile of the kept norms by the 10 %% quantile, at most")
    add("--max_kernels", type=at_least(2), default=8000, help="kernels kept at most, so that all cuts train on as many")
    add("--num_epochs", type=at_least(1), default=100, help="of the VAE")
    add("--hidden_dim", type=at_least(1), default=64, help="width of its coders")
    add("--drifting", type=at_least(2), default=256, help="kernels in the drift test")
    add("--data", default="mnist", help="target data set")
    add("--data_root", default=default_data_root(), help="folder of the data sets ($DATA_ROOT)")
    add("--num_examples", type=at_least(1), default=50, help="training images")
    add("--data_split_seed", type=int, default=0, help="draws them")
    add("--hid_dim", type=at_least(1), nargs=2, default=[32, 128], help="filters of the Bayesian net")
    add("--epochs", type=at_least(1), default=600, help="of the Bayesian net")
    add_run_flags(parser)
    return parser.parse_args(argv)


@script(parse_args)
def main(args):
    where, kernels = dict(root=args.run_dir, device=args.device, seed=args.seed), args.run_dir / "kernels"
    cut = dict(out=kernels, min_norm=(0, 0.05), spread=("inf", args.spread), max_kernels=args.max_kernels, seed=args.seed)
    prune_kernels.main([*map(str, args.runs), *command_line(**cut)])
    coders = dict(
        kernel_dim=5, z_dim=4, hidden_dim=args.hidden_dim, bs=64, no_screen=True, num_epochs=args.num_epochs, eval_freq=args.num_epochs
    )
    prior = train_vae_prior.main(command_line(data_dir=kernels / "conv5x5", **coders, **where))

    seed_everything(args.seed)
    vae = load_vae(prior)
    moved = drift(KernelPrior(vae), vae.sample(args.drifting), at=STEPS)
    found = {f"likeness {step}": likeness(w) for step, w in moved.items()} | {f"alignment {STEPS[-1]}": alignment(moved[STEPS[-1]])}
    facts = yaml.safe_load((kernels / "conv5x5/pruning.yaml").read_text())
    found |= {name: facts[name] for name in ("min_norm", "kept", "norm_10", "norm_90")} | dict(zero_is_denser=zero_is_denser(vae))

    net = dict(data=args.data, data_root=args.data_root, num_examples=args.num_examples, data_split_seed=args.data_split_seed)
    net |= dict(hid_dim=args.hid_dim, epochs=args.epochs, eval_freq=args.epochs)
    run = train_bnn.main(command_line(**net, **method_options("dwp", [shipped("vae")[0], prior], kl_sum=REMEMBERED), **where))
    (run / "cut.yaml").write_text(yaml.safe_dump(found))
    return Path(run)


if __name__ == "__main__":
    run_cli(main)
