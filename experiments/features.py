"""Random features: the convolutions stay as they were initialised, only the fully connected part is trained (paper, section 4.2).

    python -m experiments.features --data mnist --scale 1/16 --init_list vae vae --vae_list data/fconv/vae7x7 data/fconv/vae5x5
    python -m experiments.features --data mnist --num_examples 50 --raw --lr 0.001 --epochs 10000 --hid_dim 32 128 --init_list vae \\
        --vae_list data/fconv/vae7x7 data/fconv/vae5x5

Frozen features are computed once; after that a run costs as little as a linear classifier. Fig. 3 is made of such runs, and `untrained
kernels` in Fig. 2, as the second, are trained like the nets beside them.
"""

from argparse import ArgumentTypeError
from fractions import Fraction

import torch
import torch.nn.functional as F
from tqdm import trange

from data import Dataset
from models import NETWORKS, build_net
from models.bayes import mode
from models.checks import check_sources
from models.sources import initialized
from myexman import ExParser, Logger, at_least, save_state, script
from utils import (
    add_common_flags,
    add_init_flags,
    data_options,
    evaluate,
    linear_lr,
    load_data,
    run_cli,
    seed_everything,
    steps_per_epoch,
    train_epoch,
)


def parse_args(argv=None):
    parser = ExParser(description=__doc__, prog="features.py")
    add = parser.add_argument
    add("--data", default="mnist", help="data set (paper: mnist, cifar10)")
    add("--model", choices=sorted(NETWORKS), default="fconv", help="architecture")
    add("--scale", type=multiple, default=Fraction(1), help="k: factor on the number of filters of each convolution (paper: 1/16 to 1)")
    add("--eval_freq", type=at_least(1), help="epochs between evaluations (default: evaluate only at the end)")
    add("--raw", action="store_true", help="leave features as they are, instead of scaling each to mean 0 and variance 1")
    add_init_flags(parser)
    add_common_flags(parser, epochs=20, bs=256, lr=0.01)
    return parser.parse_args(argv)


def multiple(text):
    """An argparse type: a fraction, above 0 and at most 16."""
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError):
        value = Fraction(0)
    if not 0 < value <= 16:
        raise ArgumentTypeError(f"{text} is not a fraction such as 1/4, above 0 and at most 16")
    return value


@torch.no_grad()
def extract(net, data, bs=500):
    """The frozen features of a Dataset, as a Dataset with x (N, features)."""
    with mode(net, "det"):
        return Dataset(torch.cat([net.features(x).flatten(1) for x in data.x.split(bs)]), data.y)


def standardize(train, test):
    """Both Datasets with each feature shifted and scaled to mean 0 and variance 1 on the first.

    The linear layer could learn that by itself, but in hundreds of epochs: untrained kernels make features of very unequal size."""
    mean, std = train.x.mean(0), train.x.std(0).clamp_min(1e-6)
    return [Dataset((data.x - mean) / std, data.y) for data in (train, test)]


@script(parse_args)
def main(args):
    seed_everything(args.seed)
    train, test = load_data(**data_options(vars(args)))
    check_sources(args)
    widths = [max(round(h * args.scale), 1) for h in args.hid_dim or NETWORKS[args.model].default_hid_dim]
    net = initialized(build_net(args.model, "vanilla", widths, *train), args)

    train, test = extract(net, train), extract(net, test)
    if not args.raw:
        train, test = standardize(train, test)
    opt = torch.optim.Adam(net.classifier.parameters(), fused=True)

    def objective(x, y):
        nll = F.cross_entropy(net.classifier(x), y)
        return nll, dict(nll=nll)

    log = Logger(args.run_dir)
    for epoch in trange(args.epochs, desc="epochs", leave=False, disable=None):
        linear_lr(opt, epoch, args.epochs, args.lr)
        stats = train_epoch(train, args.bs, opt, objective, epoch)
        if (epoch + 1) % (args.eval_freq or args.epochs) == 0 or epoch + 1 == args.epochs:
            step = (epoch + 1) * steps_per_epoch(len(train.y), args.bs)
            log.row(epoch=epoch + 1, step=step, train_nll=stats["nll"], **evaluate(net.classifier, test, ens=0))
    if args.raw:  # else the classifier is one of scaled features
        save_state(net.state_dict(), args.run_dir / "model.torch")
    return args.run_dir


if __name__ == "__main__":
    run_cli(main)
