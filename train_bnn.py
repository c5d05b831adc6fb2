"""Step 4: doubly stochastic variational inference of a Bayesian CNN under a list of priors, one per layer (paper, Algorithm 1).

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
from models.bayes import LAYERS, bayes_layers, conv_layers, init_posterior, set_rates
from models.sparsity import CRITERIA
from myexman import ExParser, Logger, at_least, positive, resume, save_checkpoint, save_state
from utils import (
    add_common_flags,
    add_init_flags,
    add_prior_flags,
    announce_cost,
    build_priors,
    check,
    evaluate,
    initialize,
    kl_weight,
    linear_lr,
    load_data,
    load_filters,
    load_into,
    load_vaes,
    load_weights,
    prior_names,
    prune_net,
    run_cli,
    seed_everything,
    sum_of_squares,
    train_epoch,
)

ECHO = ("epoch", "train_nll", "kl", "mean_acc", "one_acc", "ens_acc", "ens_nll", "ens_ece", "seconds")


def parse_args(argv=None):
    resume_with = ("epochs", "eval_freq", "prune", "threshold")
    parser = ExParser(description=__doc__.split("\n\n")[0], prog="train_bnn.py", resume_with=resume_with)
    add = parser.add_argument
    add("--data", default="mnist", help="target data set (paper: mnist, cifar10)")
    add("--model", choices=sorted(NETWORKS), default="fconv", help="architecture")
    add(
        "--net_cfg",
        choices=sorted(LAYERS),
        default="bayes",
        help="Bayesian convolutions (all layers: bayes-all), or a plain net (with dropout)",
    )
    add_init_flags(parser)
    add("--start_from", metavar="RUN", help="begin with the net of a former run, all of it")
    add("--logvarinit", type=float, default=-10.0, help="initial log-variance of the posterior, under `vd` of its rate (paper: -10)")
    add("--logvarinit_std", type=at_least(0, float), default=0.0, help="its spread over weights (Kharitonov et al.: 0.2)")
    add("--max_logsigma", type=float, help="clip the posterior's log standard deviation (Kharitonov et al., with `gamma`: -4)")
    add("--alpha", type=positive, help="fixed noise: posterior variance alpha mean^2, that of dropout at rate p for alpha = p / (1 - p)")
    add_prior_flags(parser)
    add(
        "--l2",
        type=at_least(0, float),
        default=0.0,
        help="weight of the sum of squares of `features`, the layers before the classifier, for nets without priors",
    )
    add("--decrease_from", type=at_least(0), default=0, help="epoch from which the learning rate falls (Kharitonov et al.: 100)")
    add("--prune", choices=sorted(CRITERIA), help="after training, drop weights by signal-to-noise ratio or by mean; writes pruned.torch")
    add("--threshold", type=at_least(0, float), help="what --prune keeps at least (default: mean^2 / sigma^2 0.05, or |mean| 0.01)")
    add("--ens", type=at_least(0), default=10, help="networks in the test ensemble (paper: 10)")
    add("--eval_freq", type=at_least(1), default=100, help="epochs between evaluations")
    add_common_flags(parser, epochs=10000, bs=256)
    return parser.parse_args(argv)


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
    check(args, net, layers, N)
    vaes, filters = load_vaes(args, convs), load_filters(args, convs)
    initialize(args, convs, vaes, filters)
    init_posterior(layers, args.logvarinit, args.logvarinit_std)
    set_rates(layers, prior_names(args.prior_list, layers), args.alpha, args.logvarinit)
    if args.start_from and not args.resume:
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

    start = resume(args, args.epochs, net=net, priors=priors, opt=opt) if args.resume else 0
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
