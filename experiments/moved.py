"""Kernels that a prior moves by itself, as filters that are never trained: what it makes of them where no data holds them back.

    python -m experiments.moved --data mnist --num_examples 50 --epochs 10000 --hid_dim 32 128 --kl_kernels 256 \\
        --vae_list data/fconv/vae7x7 data/fconv/vae5x5 --init_list vae --prior_list vae

Takes the options of train_bnn.py, and trains with a KL term beside which the data term of ten images is nothing; then
experiments.features trains a classifier on the kernels, for as many epochs. They are kept under <runs>/moved: all sizes and splits of the
training set share them.
"""

import argparse
import hashlib
import shutil
import sys
from pathlib import Path

from filelock import FileLock

import train_bnn
from myexman import acquire, go_on, replacing, runs_root
from myexman.parser import code_hash
from utils import LR, run_cli

from . import features
from .grid import command_line

BOTH = dict(data=str, data_root=str, model=str, epochs=int, seed=int)  # options of the two scripts
DATA = dict(num_examples=int, data_split_seed=int, eval_freq=int)  # of the classifier's


def moved_kernels(argv, priors=()):
    """The file of the net that train_bnn makes with the options argv under these prior folders, trained if it is not there yet."""
    weights = [sorted((path.name, path.read_bytes()) for path in Path(folder).glob("vae_params.*")) for folder in priors]
    made_of = repr((argv, code_hash("train_bnn.py", tuple(argv)), weights))
    file = runs_root() / "moved" / f"{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.torch"
    file.parent.mkdir(parents=True, exist_ok=True)
    with acquire(FileLock(f"{file}.lock")):
        if not file.exists():
            run = go_on(train_bnn.main, argv)
            with replacing(file) as (part,):
                shutil.copy(run / "model.torch", part)
    return file


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    for name, kind in (BOTH | DATA).items():
        parser.add_argument(f"--{name}", type=kind, required=name in ("data", "epochs"))
    for name in ("hid_dim", "vae_list"):
        parser.add_argument(f"--{name}", nargs="+")
    parser.add_argument("--validate", action="store_true")
    args, others = parser.parse_known_args(sys.argv[1:] if argv is None else argv)
    given = {name: value for name, value in vars(args).items() if value is not None}
    both = {name: value for name, value in given.items() if name in (*BOTH, "hid_dim")}
    classifier = {name: value for name, value in given.items() if name in (*DATA, "validate")}
    priors = {name: value for name, value in given.items() if name == "vae_list"}
    alone = dict(num_examples=10, eval_freq=args.epochs, ens=0, kl_scale=1e6)
    file = moved_kernels([*others, *command_line(**both, **priors, **alone)], args.vae_list or ())
    return features.main(command_line(**both, **classifier, raw=True, lr=LR, init_list="pretrained", pretrained=file))


if __name__ == "__main__":
    run_cli(main)
