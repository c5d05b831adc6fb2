"""Step 4: doubly stochastic variational inference of a Bayesian CNN under a list of priors, one per convolution (paper, Algorithm 1).

    python train_bnn.py --data mnist --data_split_seed 0 --num_examples 50 --epochs 10000 --model fconv --net_cfg bayes --hid_dim 32 128 \\
        --vae_list data/fconv/vae7x7/ data/fconv/vae5x5/ --init_list vae vae --prior_list vae vae --eval_freq 100

With --net_cfg vanilla (or vanilla-do, dropout) it trains the deterministic counterpart; there are no priors then, and --l2 regularises.
"""

import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from tqdm import trange

from models import NETWORKS, build_net
from models.bayes import LAYERS, bayes_layers, conv_layers
from models.initialization import INITS, fill
from models.priors import PRIORS
from myexman import ExParser, Logger, at_least, load_checkpoint, save_checkpoint, save_state
from utils import (
    add_common_flags,
    announce_cost,
    evaluate,
    kernel_source,
    linear_lr,
    load_data,
    load_kernels,
    load_vae,
    one_per_layer,
    run_cli,
    seed_everything,
    sum_of_squares,
    train_epoch,
)

ECHO = ("epoch", "train_nll", "kl", "mean_acc", "one_acc", "ens_acc", "ens_nll", "ens_ece", "seconds")


def parse_args(argv=None):
    parser = ExParser(description=__doc__.split("\n\n")[0], prog="train_bnn.py")
    add = parser.add_argument
    add("--data", default="mnist", help="target data set (paper: mnist, cifar10)")
    add("--model", choices=sorted(NETWORKS), default="fconv", help="architecture")
    add("--net_cfg", choices=sorted(LAYERS), default="bayes", help="Bayesian convolutions, plain ones, or plain ones with dropout")
    add("--prior_list", nargs="+", choices=sorted(PRIORS), help="prior of each convolution (default: sn for all)")
    add("--init_list", nargs="+", choices=INITS, help="initialisation of each convolution (default: xavier for all; paper: vae)")
    add("--vae_list", nargs="+", default=[], help="prior folder of each convolution, for `vae` in the two lists above, or none")
    add(
        "--filters_list",
        nargs="+",
        default=[],
        help="folder with train.npy of each convolution, for `filters` and `gauss` in the lists above, or none",
    )
    add("--pretrained", help="state dict of a trained net, for `pretrained` in --init_list")
    add("--logvarinit", type=float, default=-10.0, help="initial log-variance of the posterior (paper: -10)")
    add("--train_reverse", type=int, choices=[0, 1], default=1, help="learn the reverse model r(z|w) (paper, Algorithm 1: 1)")
    add("--dwp_samples", type=at_least(1), default=1, help="draws of w and z per kernel in the bound (paper: 1)")
    add("--kl_kernels", type=at_least(0), default=0, help="kernels of a layer per step in the KL estimate; 0 takes all (paper: 0)")
    add(
        "--kl_chunk", type=at_least(0), default=0, help="kernels that pass the coders at once: bounds memory; 0 is 512 on a CPU, else 16384"
    )
    add("--l2", type=at_least(0, float), default=0.0, help="weight of the sum of squares of the convolutions, for nets without priors")
    add("--ens", type=at_least(0), default=10, help="networks in the test ensemble (paper: 10)")
    add("--eval_freq", type=at_least(1), default=100, help="epochs between evaluations")
    add_common_flags(parser, epochs=10000, bs=256)
    return parser.parse_args(argv)


def load_vaes(args, convs):
    """The kernel VAE of each convolution, or None."""
    vaes = []
    for path, (name, conv) in zip(one_per_layer(args.vae_list, "none", len(convs), "--vae_list"), convs.items()):
        vae = None if path == "none" else load_vae(path, args.device)
        if vae and vae.kernel_dim != conv.kernel_size[0]:
            k, own = vae.kernel_dim, conv.kernel_size[0]
            raise ValueError(f"--vae_list: {path} models {k}x{k} kernels, {name} has {own}x{own}")
        vaes.append(vae)
    return vaes


def load_filters(args, convs):
    """The trained kernels for each convolution, (n, 1, k, k), or None."""
    folders = one_per_layer(args.filters_list, "none", len(convs), "--filters_list")
    return [None if folder == "none" else load_kernels(Path(folder) / "train.npy").to(args.device) for folder in folders]


def initialize(args, convs, vaes, filters):
    """Fill each convolution from the source of kernels that --init_list names."""
    inits = one_per_layer(args.init_list, "xavier", len(convs), "--init_list")
    for init, vae, kernels, (name, conv) in zip(inits, vaes, filters, convs.items()):
        fill(conv, kernel_source(init, name, conv, vae, kernels, args.pretrained))


def build_priors(args, layers, vaes, filters):
    """One prior per Bayesian layer, in a ModuleList beside the net."""
    names = one_per_layer(args.prior_list, "sn", len(layers), "--prior_list") if layers else []
    if args.prior_list and not layers:
        raise ValueError(f"--prior_list needs --net_cfg bayes, not {args.net_cfg}")
    if args.l2 and layers:
        raise ValueError("--l2 is for nets without priors: leave it out with --net_cfg bayes")
    for name, layer, vae, kernels in zip(names, layers, vaes, filters):
        if name == "vae" and vae is None:
            raise ValueError("--prior_list says vae for a convolution to which --vae_list gives no folder")
        if name.startswith("gauss") and kernels is None:
            raise ValueError(f"--prior_list says {name} for a convolution to which --filters_list gives no folder")
        if name.startswith("gauss") and kernels.shape[-2:] != layer.mean.weight.shape[-2:]:
            k, own = kernels.shape[-1], layer.mean.weight.shape[-1]
            raise ValueError(f"--filters_list gives {k}x{k} kernels for the {name} prior of a convolution with {own}x{own}")
    options = dict(dwp_samples=args.dwp_samples, kl_kernels=args.kl_kernels, kl_chunk=args.kl_chunk, train_reverse=bool(args.train_reverse))
    return torch.nn.ModuleList(PRIORS[name](vae, kernels, **options) for name, vae, kernels in zip(names, vaes, filters))


def negative_elbo(net, layers, priors, N, x, y):
    """Estimate of -L^aux (eq. 8) from B of N images, nats: N / B * sum of their nll + sum of the layers' KL terms.

    Returns it and dict(nll: mean per image, kl: the sum), all 0-d tensors."""
    nll = F.cross_entropy(net(x), y)
    kl = sum((prior.kl(layer.posterior()) for prior, layer in zip(priors, layers)), torch.zeros((), device=x.device))
    return N * nll + kl, dict(nll=nll, kl=kl)


def main(argv=None):
    args = parse_args(argv)
    seed_everything(args.seed)
    train, test = load_data(args)
    N = len(train.y)

    net = build_net(args.model, args.net_cfg, args.hid_dim, *train).to(args.device)
    layers, convs = bayes_layers(net), conv_layers(net)
    vaes, filters = load_vaes(args, convs), load_filters(args, convs)
    initialize(args, convs, vaes, filters)
    for layer in layers:
        torch.nn.init.constant_(layer.var.weight, args.logvarinit)
    priors = build_priors(args, layers, vaes, filters).to(args.device)
    opt = torch.optim.Adam([p for p in [*net.parameters(), *priors.parameters()] if p.requires_grad], fused=True)
    if args.device == "cpu":
        announce_cost(net, layers, priors, train.x[: args.bs])

    def objective(x, y):
        loss, report = negative_elbo(net, layers, priors, N, x, y)
        if args.l2:
            loss = loss + N * args.l2 * sum_of_squares(net.features)
        return loss, report

    start = load_checkpoint(args.run_dir, args.device, net=net, priors=priors, opt=opt) if args.resume else 0
    log = Logger(args.run_dir, echo=ECHO, resume_at=start)
    if not args.resume:
        save_state(net.state_dict(), args.run_dir / "model.torch")
    began = time.time() - (log.rows[-1]["seconds"] if log.rows else 0)
    for epoch in trange(start, args.epochs, initial=start, total=args.epochs, desc="epochs", leave=False, disable=None):
        linear_lr(opt, epoch, args.epochs, args.lr)
        stats = train_epoch(train, args.bs, opt, objective, epoch)
        if (epoch + 1) % args.eval_freq == 0 or epoch + 1 == args.epochs:
            step = (epoch + 1) * math.ceil(N / args.bs)
            results = dict(train_nll=stats["nll"], kl=stats["kl"], **evaluate(net, test, args.ens))
            log.row(epoch=epoch + 1, step=step, **results, seconds=time.time() - began)
            save_state(net.state_dict(), args.run_dir / "model.torch")
            save_checkpoint(args.run_dir, epoch + 1, net=net, priors=priors, opt=opt)
    print(f"saved {args.run_dir / 'model.torch'}")
    return args.run_dir


if __name__ == "__main__":
    run_cli(main)
