"""How fast a net learns from given initial kernels: test accuracy, or an image VAE's lower bound, step by step (paper, section 4.3).

    python -m experiments.convergence --model image_vae --steps 500 --init_list vae vae vae vae vae \\
        --vae_list data/fconv/vae7x7 data/fconv/vae5x5 data/fconv/vae5x5 data/fconv/vae5x5 data/fconv/vae5x5

Fig. 4 is made of such runs; Fig. 6 shows the samples.npz of three.
"""

import itertools

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from data import load_dataset
from models import NETWORKS, build_net
from models.checks import check_sources
from models.image_vae import ImageVAE
from models.sources import initialized
from myexman import ExParser, Logger, at_least, script
from utils import add_init_flags, add_run_flags, default_data_root, evaluate, minibatches, run_cli, seed_everything, train_epoch

PIXELS = {  # how the grey values x in [0, 1] are read; the paper does not say
    "grey": lambda x: x,
    "black_white": lambda x: (x > 0.5).float(),
    "drawn": torch.bernoulli,
}


def parse_args(argv=None):
    parser = ExParser(description=__doc__, prog="convergence.py")
    add = parser.add_argument
    add("--data", default="mnist", help="data set (paper: mnist, cifar10)")
    add("--data_root", default=default_data_root(), help="folder of the data sets ($DATA_ROOT)")
    add("--model", choices=["image_vae", *sorted(NETWORKS)], default="fconv", help="image VAE, or a classifier")
    add("--hid_dim", type=at_least(1), nargs="+", help="filters of each convolution of a classifier")
    what = "pixels of the image VAE: grey; black and white, x > 1/2; or drawn anew in every step with x as their probability"
    add("--pixels", choices=PIXELS, default="grey", help=what)
    add_init_flags(parser)
    add("--steps", type=at_least(1), default=500, help="steps in all")
    add("--eval_steps", type=at_least(1), nargs="+", default=[10, 20, 50, 100, 200, 300, 400, 500], help="when to evaluate")
    add("--bs", type=at_least(1), default=256, help="images per step")
    add("--lr", type=at_least(0, float), default=1e-3, help="Adam's learning rate, constant")
    add_run_flags(parser)
    return parser.parse_args(argv)


def endless(data, bs):
    """Shuffled minibatches, one pass after the other."""
    while True:
        yield from minibatches(data, bs)


@torch.no_grad()
def mean_elbo(net, x, bs=500):
    """Variational lower bound, nats per image."""
    return float(torch.cat([net.elbo(batch) for batch in x.split(bs)]).mean())


@script(parse_args)
def main(args):
    seed_everything(args.seed)
    train, test = (d.to(args.device) for d in load_dataset(args.data, args.data_root))
    images = args.model == "image_vae"
    if args.pixels != "grey" and not images:
        raise ValueError("--pixels is for the image VAE")
    if images and args.hid_dim:
        raise ValueError("--hid_dim is for classifiers: the image VAE has the paper's widths")
    check_sources(args)
    net = initialized(ImageVAE() if images else build_net(args.model, "vanilla", args.hid_dim, *train), args)
    opt = torch.optim.Adam(net.parameters(), lr=args.lr, fused=True)

    read = PIXELS[args.pixels]
    shown = read(test.x)  # the same for all evaluations

    def objective(x, y):
        loss = -net.elbo(read(x)).mean() if images else F.cross_entropy(net(x), y)
        return loss, dict(loss=loss)

    log, samples = Logger(args.run_dir), {}
    batches = itertools.islice(endless(train, args.bs), args.steps)
    for step, batch in enumerate(tqdm(batches, total=args.steps, desc="steps", leave=False, disable=None), start=1):
        stats = train_epoch(batch, args.bs, opt, objective, step)
        if step in args.eval_steps or step == args.steps:
            if images:
                samples[f"step{step}"] = net.sample(10).cpu().numpy()
            log.row(
                step=step, train_loss=stats["loss"], **(dict(mean_elbo=mean_elbo(net, shown)) if images else evaluate(net, test, ens=0))
            )
    if images:
        np.savez(args.run_dir / "samples.npz", **samples)
    return args.run_dir


if __name__ == "__main__":
    run_cli(main)
