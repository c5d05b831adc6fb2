"""Step 4: doubly stochastic variational inference of a Bayesian CNN under a list of priors, one per layer (paper, Algorithm 1).

    python train_bnn.py --data mnist --data_split_seed 0 --num_examples 50 --epochs 10000 --model fconv --net_cfg bayes --hid_dim 32 128 \\
        --vae_list data/fconv/vae7x7/ data/fconv/vae5x5/ --init_list vae vae --prior_list vae vae --eval_freq 100

With --net_cfg vanilla (or vanilla-do, dropout) it trains the deterministic counterpart; there are no priors then, and --l2 regularises.
"""

import myexman.quiet  # noqa: F401  before what takes its time

import math
import time
from functools import partial

import torch
import torch.nn.functional as F
from tqdm import trange

from models import NETWORKS, build_net, model_name, own_file
from models.bayes import LAYERS, NOISE, BayesLayer, bayes_layers, init_posterior, log_variance, log_variances, set_rates
from models.checks import BAYESIAN, PRIOR_WORDS, check_density, check_options, check_start, check_use, prior_name
from models.cost import announce_cost
from models.initialization import initialize
from models.memory import check_room
from models.prior_folder import load_into, trained_weights
from models.priors import DENSITIES, PRIORS, FormerPosterior, KernelPrior
from models.sources import layer_sources, name_and_run, prior_names
from models.sparsity import CRITERIA, compression, prune, sparse_state
from myexman import Checkpoints, ExParser, Logger, at_least, finite, positive, resume, run_folder, save_state, script, write_yaml
from utils import (
    BATCH,
    add_common_flags,
    add_init_flags,
    check_batches,
    check_same_inputs,
    data_options,
    evaluate,
    linear_lr,
    load_data,
    run_cli,
    seed_everything,
    steps_per_epoch,
    sum_of_squares,
    train_epoch,
)

PATHS = dict(paths=("vae_list", "filters_list", "pretrained", "start_from"), names_or_paths=("data", "model", "prior_list"))
ECHO = ("epoch", "train_nll", "kl", "mean_acc", "one_acc", "ens_acc", "ens_nll", "ens_ece", "seconds")
RETIRED = dict(kl_memory=False)  # options that were, with their defaults, so that former runs go on


def parse_args(argv=None, prog="train_bnn.py"):
    resume_with = ("epochs", "eval_freq", "prune", "threshold")
    kept = dict(resume_with=resume_with, retired=RETIRED, reset_by=dict(threshold="prune"))
    parser = ExParser(description=__doc__, prog=prog, check=check_options, **kept, **PATHS)
    parser.set_defaults(**BAYESIAN)
    add = parser.add_argument_group("net").add_argument
    add("--data", default="mnist", help="target data set (paper: mnist, cifar10)")
    add("--model", type=model_name, default="fconv", help=f"{', '.join(sorted(NETWORKS))}, or FILE.py:Class")
    what = "Bayesian convolutions (all layers: bayes-all), or a plain net (with dropout)"
    add("--net_cfg", choices=sorted(LAYERS), default="bayes", help=what)
    add("--start_from", type=run_folder, metavar="RUN", help="start from all weights of a former run's net")
    add_init_flags(parser)
    add = parser.add_argument_group("posterior").add_argument
    what = "initial log-variance of the posterior (paper: -10), or relative:R, which makes sigma R times a layer's root mean square weight"
    add("--logvarinit", type=log_variance, help=what)
    add("--logvarinit_std", type=at_least(0, float), help="its spread over weights (Kharitonov et al.: 0.2)")
    add("--logitinit", type=finite, help="for `vd`: initial logit of alpha; the posterior variance is alpha mean^2 (release: -2)")
    what = "factor on the learning rate of the log-variances (`vd`: the logits); at 1 they cannot follow the objective (REPORT.md)"
    add("--var_lr", type=positive, help=what)
    add("--max_logsigma", type=finite, help="clip the posterior's log standard deviation (Kharitonov et al., with `gamma`: -4)")
    what = "fixed noise: variance alpha mean^2, as of dropout at rate p for alpha = p / (1 - p); `ard` and `loguniform` are constant then"
    add("--alpha", type=positive, help=what)
    add = parser.add_argument_group("priors").add_argument
    add("--prior_list", nargs="+", type=prior_name, help=f"prior of each Bayesian layer, or one for all: {PRIOR_WORDS} (default: sn)")
    shape = "shape of the hyperprior of `gamma` and `student` (Kharitonov et al.: 0.505 to 0.52)"
    add("--gamma_a", type=positive, help=shape)
    add("--gamma_b", type=at_least(0, float), help="rate of that hyperprior (Kharitonov et al.: 1e-8)")
    add("--train_reverse", type=int, choices=[0, 1], help="learn the reverse model r(z|w) (paper, Algorithm 1: 1)")
    add = parser.add_argument_group("KL term").add_argument
    add("--dwp_samples", type=at_least(1), help="draws of w and z per kernel in the bound, every second one mirrored (paper: 1)")
    what = "iw: the importance-weighted bound of a VAE, with --dwp_samples codes of one w, which is tighter (paper: elbo)"
    add("--bound", choices=["elbo", "iw"], help=what)
    add("--kl_kernels", type=at_least(0), help="kernels of a layer per step in the KL estimate; 0 takes all (paper: 0)")
    chunk = "kernels that go through the coders at a time, to bound memory; 0 means 512 on a CPU, else 16384"
    add("--kl_chunk", type=at_least(0), help=chunk)
    add("--kl_scale", type=at_least(0, float), help="factor of the KL term")
    rise = "epochs over which that factor rises linearly from 0 (Kharitonov et al.: 20)"
    add("--kl_anneal_epochs", type=at_least(0), help=rise)
    add = add_common_flags(parser, epochs=10000, bs=BATCH)
    l2 = "weight of the sum of squares of `features`, the layers before the classifier, for nets without priors"
    add("--l2", type=at_least(0, float), default=0.0, help=l2)
    add("--decrease_from", type=at_least(0), default=0, help="epoch from which the learning rate falls (Kharitonov et al.: 100)")
    add = parser.add_argument_group("evaluation, pruning").add_argument
    add("--ens", type=at_least(0), default=10, help="networks in the test ensemble (paper: 10)")
    add("--eval_freq", type=at_least(1), default=100, help="epochs between evaluations")
    add("--prune", choices=sorted(CRITERIA), help="after training, drop weights by signal-to-noise ratio or by mean; writes pruned.torch")
    add("--threshold", type=at_least(0, float), help="smallest value that --prune keeps (default: mean^2 / sigma^2 0.05, or |mean| 0.01)")
    return parser.parse_args(argv)


def kl_factor_at(epoch, anneal_epochs=0, scale=1.0):
    """Factor of the KL term in epoch (0, 1, …): from 0 up to scale, reached after anneal_epochs."""
    return scale * (min(1.0, epoch / anneal_epochs) if anneal_epochs else 1.0)


def negative_elbo(net, layers, priors, N, x, y, kl_factor=1.0, mean_nll=F.cross_entropy):
    """Estimate of -L^aux (eq. 8) from B of N images, nats: N / B * sum of their nll + sum of the layers' KL terms.

    The net draws its own noise for the data term (local reparametrisation), the priors draw theirs. layers: the Bayesian ones.
    mean_nll: of the net's outputs and y, a mean over the B.  Returns the estimate and dict(nll: mean per image, kl: the sum), all 0-d."""
    nll = mean_nll(net(x), y)
    kl = sum((prior.kl(layer.posterior()) for prior, layer in zip(priors, layers)), torch.zeros((), device=x.device))
    return N * nll + kl_factor * kl, dict(nll=nll, kl=kl)


@script(parse_args)
def main(args):
    train, test, net, layers, priors, opt = prepare(args)
    N = len(train.y)

    def objective(kl_factor, x, y):
        loss, report = negative_elbo(net, layers, priors, N, x, y, kl_factor)
        if args.l2:
            loss = loss + N * args.l2 * sum_of_squares(net.features)
        return loss, report

    start = resume(args, args.epochs, net=net, priors=priors, opt=opt) if args.resume else 0
    for former in ("pruned.torch", "pruning.yaml"):  # of a net that is trained on, or pruned anew
        (args.run_dir / former).unlink(missing_ok=True)
    log = Logger(args.run_dir, echo=ECHO, resume_at=start, tensorboard=args.tensorboard)
    if not args.resume:
        save_state(net.state_dict(), args.run_dir / "model.torch")

    def record(epoch, stats):
        """Evaluate the net after so many epochs, save it, and log a row.  stats: of the last of them, if it is known."""
        step = epoch * steps_per_epoch(N, args.bs)
        results = dict(train_nll=stats.get("nll", math.nan), kl=stats.get("kl", math.nan))
        results |= dict(**log_variances(layers), **evaluate(net, test, args.ens))
        save_state(net.state_dict(), args.run_dir / "model.torch")
        log.row(epoch=epoch, step=step, **results, seconds=time.time() - log.began)

    with Checkpoints(args.run_dir, args.save_every, net=net, priors=priors, opt=opt) as checkpoints:
        for epoch in trange(start, args.epochs, initial=start, total=args.epochs, desc="epochs", leave=False, disable=None):
            linear_lr(opt, epoch, args.epochs, args.lr, args.decrease_from)
            kl_factor = kl_factor_at(epoch, args.kl_anneal_epochs, args.kl_scale)
            stats = train_epoch(train, args.bs, opt, partial(objective, kl_factor), epoch)
            evaluated = (epoch + 1) % args.eval_freq == 0 or epoch + 1 == args.epochs
            if evaluated:
                record(epoch + 1, stats)
            checkpoints.finished(epoch + 1, save=evaluated)
        if log.last < args.epochs:  # as of a run that was stopped there, between evaluations, and is to end there
            record(args.epochs, {})
    print(f"saved {args.run_dir / 'model.torch'}")
    if args.prune:
        threshold = CRITERIA[args.prune][1] if args.threshold is None else args.threshold
        prune_net(net, test, args.run_dir, args.prune, threshold, log.rows[-1]["mean_acc"])
    return args.run_dir


def prepare(args):
    """What the options ask for: training and test data, net, its Bayesian layers, their priors, and the optimiser of all that learns."""
    seed_everything(args.seed)
    train, test = load_data(**data_options(vars(args)))
    check_same_inputs(args, train=train, test=test, net=own_file(args.model))
    # on the CPU, where a seed gives every machine the same first kernels
    net = build_net(args.model, args.net_cfg, args.hid_dim, *train, new=not args.resume)
    layers = bayes_layers(net)
    check_net(args, net, layers, train, test)
    sources = layer_sources(net, args.init_list, args.vae_list, args.filters_list, args.pretrained)
    initialize(sources)
    init_posterior(layers, args.logvarinit, args.logvarinit_std)
    set_rates(layers, prior_names(args.prior_list, layers), args.alpha, args.logitinit)
    if args.start_from and not args.resume:
        load_into(net, trained_weights(args.start_from), args.start_from)
    net.to(args.device)
    priors = build_priors(args, sources).to(args.device)
    former = [prior.mean for prior in priors if isinstance(prior, FormerPosterior)]
    check_same_inputs(args, kernels=[t for layer in sources for t in layer.given()] + former)
    opt = torch.optim.Adam(parameter_groups(net, priors, args.var_lr), fused=True)
    if args.max_logsigma is not None:
        clipped = [layer.var.weight.data for layer in layers if layer.var is not None]
        opt.register_step_post_hook(lambda *_: [log_var.clamp_(max=2 * args.max_logsigma) for log_var in clipped])
    if args.device == "cpu" and any(type(prior) is KernelPrior for prior in priors):
        announce_cost(net, layers, priors, train.x[: args.bs], full=not args.kl_kernels)
    return train, test, net, layers, priors, opt


def parameter_groups(net, priors, var_lr=1.0):
    """What the optimiser learns, theta and psi; the posterior's log-variances, or logits of alpha, apart if their rate has a factor."""
    learned = {name: p for name, p in [*net.named_parameters(), *priors.named_parameters(prefix="priors")] if p.requires_grad}
    noise = [p for name, p in learned.items() if name.endswith(NOISE)] if var_lr != 1 else []
    others = [p for p in learned.values() if all(p is not other for other in noise)]
    return [dict(params=others), *([dict(params=noise, factor=var_lr)] if noise else [])]


def build_priors(args, sources):
    """One prior per Bayesian layer, in a ModuleList beside the net.  sources: the Layers of models.sources.layer_sources.

    Raises ValueError if a prior needs what a layer does not have, or neither a layer's prior nor its start takes what it has."""
    bayesian = [layer for layer in sources if isinstance(layer.module, BayesLayer)]
    priors, words = torch.nn.ModuleList(), dict(zip((layer.name for layer in bayesian), prior_names(args.prior_list, bayesian)))
    for layer in sources:
        word = words.get(layer.name)
        name, run = name_and_run(word) if word else (None, "")
        density = density_for(name, layer)
        check_use(layer, density, started=bool(args.start_from))
        if not word:
            continue
        offered = dict(vars(args), density=density)
        if run:
            offered |= former_posterior(run, layer.name)
            check_start(layer, run, started=bool(args.start_from or args.resume))
        kind = PRIORS[name]
        if "density" in kind.needs:
            check_density(name, layer, density, started=bool(args.start_from))
        priors.append(kind(**{need: offered[need] for need in kind.needs}))
    return priors


def density_for(name, layer):
    """The density of kernels that the prior of that name takes: the layer's, or fitted to the layer's trained kernels; or None."""
    kind = DENSITIES.get(name)
    if type(layer.density) is kind:
        return layer.density
    return kind.fit(layer.kernels) if hasattr(kind, "fit") and layer.kernels is not None else None


def former_posterior(run, name):
    """dict(mean, log_var) of the layer of that name in a former run.  Raises FileNotFoundError and ValueError."""
    state = trained_weights(run)
    found = {key: state.get(f"{name}.{part}.weight") for key, part in (("mean", "mean"), ("log_var", "var"))}
    if any(w is None for w in found.values()):
        raise ValueError(f"{run} has no posterior of {name}: it needs the same --model and --net_cfg, and neither --alpha nor vd")
    return found


def check_net(args, net, layers, train, test):
    """Raise ValueError if options do not go with the net, its Bayesian layers, and its data, or the memory."""
    check_batches(net, len(train.y), args.bs)
    weights, predictions = sum(layer.mean.weight.numel() for layer in layers), len(test.y) * (int(train.y.max()) + 1)
    check_room(args.dwp_samples * weights, f"draws of all weights for --dwp_samples {args.dwp_samples}")
    check_room(args.ens * predictions, f"predictions for --ens {args.ens}")


def prune_net(net, test, run_dir, criterion, threshold, accuracy):
    """Prune the trained net, of that accuracy: pruned.torch, the state dict of the plain net with sparse weights, and pruning.yaml, what it
    cost."""
    kept = prune(net, criterion, threshold)
    report = dict(criterion=criterion, threshold=threshold, error_before=1 - accuracy, error=1 - evaluate(net, test, ens=0)["mean_acc"])
    report |= dict(compression=compression(kept), kept={name: list(counts) for name, counts in kept.items()})
    save_state(sparse_state(net), run_dir / "pruned.torch")
    write_yaml(run_dir / "pruning.yaml", report)
    print("pruned: error {error_before:.4f} before, {error:.4f} after, {compression:.1f}x fewer weights".format(**report))


if __name__ == "__main__":
    run_cli(main)
