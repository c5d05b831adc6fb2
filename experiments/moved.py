"""Kernels trained on the KL term alone, and a classifier on them: what a prior makes of first kernels where no data holds them back.

    python -m experiments.moved --data mnist --num_examples 50 --epochs 10000 --hid_dim 32 128 --kl_kernels 256 \\
        --vae_list data/fconv/vae7x7 data/fconv/vae5x5 --init_list vae --prior_list vae

train_bnn.py makes the kernels, in as many steps as there are epochs, with a KL term beside which the data term of ten images is nothing;
experiments.features then trains the classifier. The kernels are kept under <runs>/moved, for all sizes and splits of the training set.
"""

import hashlib
import shutil
from pathlib import Path

from filelock import FileLock

import train_bnn
from myexman import Parser, acquire, at_least, go_on, replacing, runs_root
from myexman.parser import code_hash
from utils import LR, run_cli

from . import features
from .grid import command_line

BOTH = ("data", "data_root", "model", "hid_dim", "epochs", "seed")
OF_KERNELS = ("net_cfg", "init_list", "vae_list", "prior_list", "kl_kernels")
OF_CLASSIFIER = ("num_examples", "data_split_seed", "eval_freq", "validate")


def parse_args(argv=None):
    """The options, which are those of the two scripts; None where they are to take their default."""
    parser = Parser(description=__doc__)
    for name in ("data", "data_root", "model", "net_cfg"):
        parser.add_argument(f"--{name}", required=name == "data", help="as of train_bnn.py")
    for name in ("hid_dim", "init_list", "vae_list", "prior_list"):
        parser.add_argument(f"--{name}", nargs="+", help="as of train_bnn.py")
    for name, least in dict(epochs=1, seed=0, kl_kernels=0, num_examples=10, data_split_seed=0, eval_freq=1).items():
        parser.add_argument(f"--{name}", type=at_least(least), required=name == "epochs", help="as of train_bnn.py")
    parser.add_argument("--validate", action="store_true", help="as of train_bnn.py")
    return parser.parse_args(argv)


def moved_kernels(argv, priors=()):
    """The file of the net that train_bnn makes with the options argv under these prior folders, trained if it is not there yet."""
    files = [
        file for folder in priors for file in sorted(Path(folder).glob("*")) if file.match("vae_params.*") or file.match("params.yaml")
    ]
    made_of = repr((argv, code_hash("train_bnn.py", tuple(argv)), [file.read_bytes() for file in files]))
    kernels = runs_root() / "moved" / f"{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.torch"
    kernels.parent.mkdir(parents=True, exist_ok=True)
    with acquire(FileLock(f"{kernels}.lock")):
        if not kernels.exists():
            run = go_on(train_bnn.main, argv)
            with replacing(kernels) as (part,):
                shutil.copy(run / "model.torch", part)
    return kernels


def main(argv=None):
    args = parse_args(argv)

    def words(names, **more):
        return command_line(**{name: getattr(args, name) for name in names if getattr(args, name) is not None}, **more)

    alone = words((*BOTH, *OF_KERNELS), num_examples=10, eval_freq=args.epochs, ens=0, kl_scale=1e6)
    kernels = moved_kernels(alone, args.vae_list or ())
    return features.main(words((*BOTH, *OF_CLASSIFIER), raw=True, lr=LR, init_list="pretrained", pretrained=kernels))


if __name__ == "__main__":
    run_cli(main)
