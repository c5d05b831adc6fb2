"""Which options go together, of train_bnn.py, and of what takes kernels and priors."""

import sys
from argparse import ArgumentTypeError

from myexman import run_folder

from .densities import Density
from .initialization import INITS, SOURCES
from .priors import DENSITIES, PRIORS
from .sources import DEFAULT_INIT, DEFAULT_PRIOR, name_and_run

# Options for Bayesian layers only, and their defaults; which prior takes which it says itself (`needs`, `variance`)
BAYESIAN = dict(prior_list=None, prune=None, alpha=None, logvarinit=-10.0, logvarinit_std=0.0, logitinit=-2.0, max_logsigma=None)
BAYESIAN |= dict(var_lr=1.0, train_reverse=1, gamma_a=0.51, gamma_b=1e-8, dwp_samples=1, bound="elbo", kl_kernels=0)
BAYESIAN |= dict(kl_chunk=0, kl_scale=1.0, kl_anneal_epochs=0)
PRIOR_WORDS = ", ".join(sorted(PRIORS)).replace("posterior", "posterior:RUN")


def prior_name(word):
    """An argparse type: a name in PRIORS; `posterior` takes a run, as posterior:RUN."""
    name, run = name_and_run(word)
    if name not in PRIORS or (name == "posterior") != bool(run) or word.endswith(":"):
        raise ArgumentTypeError(f"{word!r}; choose from {PRIOR_WORDS}")
    return f"{name}:{run_folder(run)}" if run else word


def check_options(args):
    """Raise ValueError if options do not go together."""
    said_by_default = [DEFAULT_PRIOR]  # in params.yaml, below
    given = [name for name, default in BAYESIAN.items() if getattr(args, name) not in (default, said_by_default)]
    bayesian, fixed, snr = args.net_cfg.startswith("bayes"), args.alpha is not None, args.prune == "snr"
    if given and not bayesian:
        raise ValueError(f"--{given[0]} needs Bayesian layers: --net_cfg {args.net_cfg} has none")
    priors = {name_and_run(word)[0] for word in args.prior_list or [DEFAULT_PRIOR]}
    variances = {option for prior in PRIORS.values() for option in (*prior.variance, "var_lr")}
    for option in given:
        takers = sorted(name for name, prior in PRIORS.items() if option in (*prior.needs, *prior.variance))
        if option == "train_reverse":
            takers = [name for name in takers if DENSITIES[name].reverse_model is not Density.reverse_model]
        if fixed and option in variances:
            raise ValueError(f"--{option} is for a free variance; with --alpha there is none")
        if takers and priors.isdisjoint(takers):
            raise ValueError(f"--{option} is for the priors {', '.join(takers)}, of which --prior_list names none")
    of_a_new_net = [name for name in ("init_list", "pretrained") if getattr(args, name)]
    of_a_new_net += [name for name in given if name in variances - {"max_logsigma", "var_lr"}]
    for wrong, what in (
        (args.start_from and of_a_new_net, f"--{(*of_a_new_net, '')[0]} is for a new net; with --start_from it is the former run's"),
        (args.l2 and bayesian, "--l2 is for nets without priors: leave it out with --net_cfg bayes"),
        (args.threshold is not None and not args.prune, "--threshold is the smallest value that --prune keeps: give --prune too"),
        (
            args.bound == "iw" and args.dwp_samples == 1,
            "--bound iw with one code equals the other bound, only noisier: give --dwp_samples too",
        ),
        ("vd" in priors and fixed, "--alpha fixes the noise, which is learned under the prior vd: leave one of them out"),
        ("vd" in priors and snr, "--prune snr: under the prior vd alpha is below 1, so no weight is mostly noise; take mean"),
        (fixed and snr, "--prune snr: with --alpha all weights have the same signal-to-noise ratio; take mean"),
        ("dropout" in priors and not fixed, "the prior dropout is for a fixed noise: give --alpha"),
    ):
        if wrong:
            raise ValueError(what)
    check_sources(args, priors if bayesian else ())
    if args.decrease_from >= args.epochs:
        print(f"note: --decrease_from {args.decrease_from}: in --epochs {args.epochs} the learning rate never falls", file=sys.stderr)
    if args.kl_anneal_epochs >= args.epochs:
        rise = f"--kl_anneal_epochs {args.kl_anneal_epochs}"
        print(f"note: {rise}: in --epochs {args.epochs} the KL term never counts whole", file=sys.stderr)
    args.prior_list = (args.prior_list or said_by_default) if bayesian else None


def check_sources(args, priors=()):
    """Raise ValueError if kernels or priors are given that neither an entry of --init_list nor one of the names in `priors` takes."""
    inits, priors = set(args.init_list or [DEFAULT_INIT]), set(priors)
    for flag, given, takers in (
        ("--vae_list", args.vae_list, {"vae", "vae-mean", *DENSITIES}),
        ("--filters_list", args.filters_list, {"filters", *(name for name, kind in DENSITIES.items() if hasattr(kind, "fit"))}),
        ("--pretrained", args.pretrained, {"pretrained"}),
    ):
        if given and not takers & (inits | priors):
            said = "--init_list says " + ", ".join(sorted(inits)) + (", --prior_list " + ", ".join(sorted(priors)) if priors else "")
            known = takers if priors else takers & {*INITS}
            raise ValueError(f"{flag} is given, but nothing takes it: {said}; it is for {', '.join(sorted(known))}")


def check_use(layer, density, started):
    """Raise ValueError if --vae_list or --filters_list gives a layer what neither its prior, of that density, nor its start takes.

    started: whether the net starts from a former run, and takes no first kernels."""
    first = None if started or layer.init not in SOURCES else SOURCES[layer.init][0]
    for what, flag, of_prior in (
        ("density", "--vae_list", density is layer.density),
        ("kernels", "--filters_list", density is not None and density is not layer.density),
    ):
        if getattr(layer, what) is not None and first != what and not of_prior:
            raise ValueError(f"{flag} gives something for {layer.name} that neither its prior nor its start takes: say none there")


def check_density(name, layer, density, started):
    """Raise ValueError if the prior of that name has no density of kernels for a layer; warn where its kernels start far from what the
    density knows.  started: as in check_use()."""
    if density is None:
        flags = "--vae_list and --filters_list give" if hasattr(DENSITIES[name], "fit") else "--vae_list gives"
        what = f"a {type(layer.density).__name__}" if layer.density else "nothing"
        has_kernels = layer.weight.ndim == 4 and layer.weight.shape[-1] > 1
        why = f"{flags} {what} for it" if has_kernels else "it has no kernels"
        raise ValueError(f"--prior_list says {name} for {layer.name}, but {why}")
    if layer.init == "xavier" and not started:
        takes = "--init_list vae takes its samples" if density is layer.density else "--init_list filters takes those it is fitted to"
        print(f"warning: {layer.name}: kernels of Xavier's, which the prior has never seen, may all become alike: {takes}", file=sys.stderr)


def check_start(layer, run, started):
    """Warn where the posterior of a former run is the prior of a layer that starts from no run.  started: whether the net does."""
    if not started and layer.init != "pretrained":
        hint = "give --start_from, too"
        print(f"warning: {layer.name}: its prior is the posterior of {run}, far from where it starts: {hint}", file=sys.stderr)
