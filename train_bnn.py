"""Step 4: doubly stochastic variational inference of a Bayesian CNN under a list of priors, one per convolution (paper, Algorithm 1).

    python train_bnn.py --data mnist --data_split_seed 0 --num_examples 50 --epochs 10000 --model fconv --net_cfg bayes --hid_dim 32 128 \\
        --vae_list data/fconv/vae7x7/ data/fconv/vae5x5/ --init_list vae vae --prior_list vae vae --eval_freq 100

With --net_cfg vanilla (or vanilla-do, dropout) it trains the deterministic counterpart; there are no priors then, and --l2 regularises.
"""

import math
import time
from argparse import ArgumentTypeError
from pathlib import Path

import torch
import torch.nn.functional as F
from tqdm import trange

from models import NETWORKS, build_net
from models.bayes import LAYERS, bayes_layers, conv_layers, init_posterior
from models.priors import PRIORS
from models.sparsity import CRITERIA
from myexman import ExParser, Logger, at_least, load_checkpoint, save_checkpoint, save_state
from utils import (
    add_common_flags,
    add_init_flags,
    announce_cost,
    evaluate,
    former_posterior,
    initialize,
    kl_weight,
    linear_lr,
    load_data,
    load_filters,
    load_into,
    load_vaes,
    load_weights,
    one_per_layer,
    prune_net,
    run_cli,
    seed_everything,
    sum_of_squares,
    train_epoch,
)

ECHO = ("epoch", "train_nll", "kl", "mean_acc", "one_acc", "ens_acc", "ens_nll", "ens_ece", "seconds")

BAYESIAN = ("prior_list", "prune", "alpha", "max_logsigma", "kl_anneal_epochs", "kl_scale")  # options for Bayesian layers only
PRIOR_WORDS = ", ".join(sorted(PRIORS)).replace("posterior", "posterior:RUN")


def parse_args(argv=None):
    parser = ExParser(description=__doc__.split("\n\n")[0], prog="train_bnn.py")
    add = parser.add_argument
    add("--data", default="mnist", help="target data set (paper: mnist, cifar10)")
    add("--model", choices=sorted(NETWORKS), default="fconv", help="architecture")
    add(
        "--net_cfg",
        choices=sorted(LAYERS),
        default="bayes",
        help="Bayesian convolutions (all layers: bayes-all), or a plain net (with dropout)",
    )
    add("--prior_list", nargs="+", type=prior_name, help=f"prior of each Bayesian layer, or one for all: {PRIOR_WORDS} (default: sn)")
    add("--gamma_a", type=float, default=0.51, help="shape of the hyperprior of `gamma` and `student` (Kharitonov et al.: 0.505 to 0.52)")
    add("--gamma_b", type=float, default=1e-8, help="rate of that hyperprior (Kharitonov et al.: 1e-8)")
    add_init_flags(parser)
    add("--start_from", metavar="RUN", help="begin with the net of a former run, all of it")
    add("--logvarinit", type=float, default=-10.0, help="initial log-variance of the posterior (paper: -10)")
    add("--logvarinit_std", type=at_least(0, float), default=0.0, help="its spread over weights (Kharitonov et al.: 0.2)")
    add("--max_logsigma", type=float, help="clip the posterior's log standard deviation (Kharitonov et al., with `gamma`: -4)")
    add("--alpha", type=at_least(0, float), help="fixed dropout rate: posterior variance alpha mean^2")
    add("--train_reverse", type=int, choices=[0, 1], default=1, help="learn the reverse model r(z|w) (paper, Algorithm 1: 1)")
    add("--dwp_samples", type=at_least(1), default=1, help="draws of w and z per kernel in the bound (paper: 1)")
    add("--kl_kernels", type=at_least(0), default=0, help="kernels of a layer per step in the KL estimate; 0 takes all (paper: 0)")
    add("--kl_memory", action="store_true", help="with --kl_kernels: a kernel's KL gradient acts on until it is drawn again")
    add(
        "--kl_chunk", type=at_least(0), default=0, help="kernels that pass the coders at once: bounds memory; 0 is 512 on a CPU, else 16384"
    )
    add(
        "--l2",
        type=at_least(0, float),
        default=0.0,
        help="weight of the sum of squares of all layers but the classifier, for nets without priors",
    )
    add("--kl_scale", type=at_least(0, float), default=1.0, help="factor of the KL term")
    add("--kl_anneal_epochs", type=at_least(0), default=0, help="epochs in which that factor rises from 0 (Kharitonov et al.: 20)")
    add("--decrease_from", type=at_least(0), default=0, help="epoch from which the learning rate falls (Kharitonov et al.: 100)")
    add("--prune", choices=sorted(CRITERIA), help="after training, drop weights by signal-to-noise ratio or by mean; writes pruned.torch")
    add("--threshold", type=at_least(0, float), help="what --prune keeps at least (default: mean^2 / sigma^2 0.05, or |mean| 0.01)")
    add("--ens", type=at_least(0), default=10, help="networks in the test ensemble (paper: 10)")
    add("--eval_freq", type=at_least(1), default=100, help="epochs between evaluations")
    add_common_flags(parser, epochs=10000, bs=256)
    return parser.parse_args(argv)


def prior_name(word):
    """An argparse type: a name in PRIORS; `posterior` takes a run, as posterior:RUN."""
    name, colon, run = word.partition(":")
    if name not in PRIORS or (name == "posterior") != bool(colon and run):
        raise ArgumentTypeError(f"{word!r}; choose from {PRIOR_WORDS}")
    return word


def check(args, layers):
    """Raise ValueError if options do not go together."""
    given = [f"--{name}" for name in BAYESIAN if getattr(args, name) not in (None, 0, 1.0)]
    if not layers and given:
        raise ValueError(f"{given[0]} needs Bayesian layers: --net_cfg {args.net_cfg} gives {args.model} none")
    if not layers and args.net_cfg == "bayes":
        raise ValueError(f"--net_cfg bayes makes convolutions Bayesian, and {args.model} has none: take bayes-all")
    if args.l2 and layers:
        raise ValueError("--l2 is for nets without priors: leave it out with --net_cfg bayes")
    if args.threshold is not None and not args.prune:
        raise ValueError("--threshold is what --prune keeps at least: give --prune too")
    if args.kl_memory and not args.kl_kernels:
        raise ValueError("--kl_memory remembers the kernels that are not drawn: give --kl_kernels too")
    if args.alpha is not None and args.max_logsigma is not None:
        raise ValueError("--max_logsigma clips a free variance; with --alpha there is none")


def build_priors(args, net, layers, vaes, filters):
    """One prior per Bayesian layer, in a ModuleList beside the net.  vaes, filters: of the convolutions, which come first."""
    names = one_per_layer(args.prior_list, "sn", len(layers), "--prior_list", repeat=True) if layers else []
    places, none = {layer: place for place, layer in net.named_modules()}, [None] * (len(layers) - len(vaes))
    dwp = dict(
        dwp_samples=args.dwp_samples,
        kl_kernels=args.kl_kernels,
        kl_chunk=args.kl_chunk,
        kl_memory=args.kl_memory,
        train_reverse=bool(args.train_reverse),
    )
    priors = torch.nn.ModuleList()
    for name, layer, vae, kernels in zip(names, layers, vaes + none, filters + none):
        name, _, run = name.partition(":")
        if name == "vae" and vae is None:
            raise ValueError("--prior_list says vae for a layer to which --vae_list gives no folder")
        if name.startswith("gauss") and kernels is None:
            raise ValueError(f"--prior_list says {name} for a layer to which --filters_list gives no folder")
        if name.startswith("gauss") and kernels.shape[-2:] != layer.mean.weight.shape[-2:]:
            k, own = kernels.shape[-1], layer.mean.weight.shape[-1]
            raise ValueError(f"--filters_list gives {k}x{k} kernels for the {name} prior of a convolution with {own}x{own}")
        former = former_posterior(run, places[layer]) if run else None
        priors.append(PRIORS[name](vae=vae, kernels=kernels, former=former, gamma=(args.gamma_a, args.gamma_b), dwp=dwp))
    return priors


def negative_elbo(net, layers, priors, N, x, y, weight=1.0):
    """Estimate of -L^aux (eq. 8) from B of N images, nats: N / B * sum of their nll + sum of the layers' KL terms.

    weight: factor of the KL terms.  Returns the estimate and dict(nll: mean per image, kl: the sum), all 0-d tensors."""
    nll = F.cross_entropy(net(x), y)
    kl = sum((prior.kl(layer.posterior()) for prior, layer in zip(priors, layers)), torch.zeros((), device=x.device))
    return N * nll + weight * kl, dict(nll=nll, kl=kl)


def main(argv=None):
    args = parse_args(argv)
    seed_everything(args.seed)
    train, test = load_data(args)
    N = len(train.y)

    net = build_net(args.model, args.net_cfg, args.hid_dim, *train).to(args.device)
    layers, convs = bayes_layers(net), conv_layers(net)
    check(args, layers)
    vaes, filters = load_vaes(args, convs), load_filters(args, convs)
    initialize(args, convs, vaes, filters)
    init_posterior(layers, args.logvarinit, args.logvarinit_std, args.alpha)
    if args.start_from:
        load_into(net, load_weights(Path(args.start_from) / "model.torch"), args.start_from)
    priors = build_priors(args, net, layers, vaes, filters).to(args.device)
    opt = torch.optim.Adam([p for p in [*net.parameters(), *priors.parameters()] if p.requires_grad], fused=True)
    if args.max_logsigma is not None:
        clipped = [layer.var.weight.data for layer in layers]
        opt.register_step_post_hook(lambda *_: [log_var.clamp_(max=2 * args.max_logsigma) for log_var in clipped])
    if args.device == "cpu":
        announce_cost(net, layers, priors, train.x[: args.bs])

    def objective(x, y):
        loss, report = negative_elbo(net, layers, priors, N, x, y, weight)
        if args.l2:
            loss = loss + N * args.l2 * sum_of_squares(net.features)
        return loss, report

    start = load_checkpoint(args.run_dir, args.device, net=net, priors=priors, opt=opt) if args.resume else 0
    log = Logger(args.run_dir, echo=ECHO, resume_at=start)
    if not args.resume:
        save_state(net.state_dict(), args.run_dir / "model.torch")
    began = time.time() - (log.rows[-1]["seconds"] if log.rows else 0)
    for epoch in trange(start, args.epochs, initial=start, total=args.epochs, desc="epochs", leave=False, disable=None):
        linear_lr(opt, epoch, args.epochs, args.lr, args.decrease_from)
        weight = kl_weight(epoch, args.kl_anneal_epochs, args.kl_scale)
        stats = train_epoch(train, args.bs, opt, objective, epoch)
        if (epoch + 1) % args.eval_freq == 0 or epoch + 1 == args.epochs:
            step = (epoch + 1) * math.ceil(N / args.bs)
            results = dict(train_nll=stats["nll"], kl=stats["kl"], **evaluate(net, test, args.ens))
            log.row(epoch=epoch + 1, step=step, **results, seconds=time.time() - began)
            save_state(net.state_dict(), args.run_dir / "model.torch")
            save_checkpoint(args.run_dir, epoch + 1, net=net, priors=priors, opt=opt)
    print(f"saved {args.run_dir / 'model.torch'}")
    if args.prune:
        threshold = CRITERIA[args.prune][1] if args.threshold is None else args.threshold
        prune_net(net, test, args.run_dir, args.prune, threshold)
    return args.run_dir


if __name__ == "__main__":
    run_cli(main)
