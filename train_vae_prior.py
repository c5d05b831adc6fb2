"""Step 3: fit a VAE, or with --density another density, to the kernels of one convolution: the deep weight prior (paper, section 3.3).

    python train_vae_prior.py --hidden_dim 32 --kernel_dim 7 --z_dim 2 --num_epochs 300 --data_dir data/fconv/conv7x7
    python train_vae_prior.py --hidden_dim 64 --kernel_dim 5 --z_dim 4 --num_epochs 300 --data_dir data/fconv/conv5x5

The run folder is a prior folder, to be loaded by utils.load_density: params.yaml, vae_params.torch and .safetensors (last),
vae_params_best.torch (best ELBO on the held-out kernels), pictures, checksums, README.md (a card). --out copies all but the best elsewhere.
"""

import myexman.quiet  # noqa: F401  before what takes its time

import os
import sys
from functools import partial
from pathlib import Path

import torch
from tqdm import trange

from models.kernel_folder import repeated
from models.memory import build, check_room
from models.prior_folder import MADE_AT_THE_END, check_out, draw, publish, seal, write_card
from models.priors import DENSITIES
from models.vae import CODERS, VAE
from myexman import Checkpoints, ExParser, Logger, at_least, resume, save_state, script
from utils import add_run_flags, check_same_inputs, linear_lr, load_into, load_kernels, load_weights, run_cli, seed_everything, train_epoch

# Standard deviation of weights that suits a new VAE. For smaller kernels it is scaled down, or it could lose its latent dimensions; for
# larger ones left as it is, since scaling up slows its training.
TYPICAL_WEIGHT = 0.1

# Options for some densities only, and for those that are not fitted at once, and their defaults
SHAPE = dict(z_dim=2, hidden_dim=32, var="train", min_std=0.0, transitions=1, layers=4, components=8, bandwidth=0.0)
TRAINING = dict(num_epochs=300, bs=128, lr=1e-3, decrease_from=None, eval_freq=10)


def parse_args(argv=None):
    parser = ExParser(description=__doc__, prog="train_vae_prior.py", resume_with=("num_epochs", "eval_freq"))
    parser.set_defaults(**SHAPE, **TRAINING)
    add = parser.add_argument_group("density").add_argument
    add("--kernel_dim", type=int, choices=sorted(CODERS), default=7, help="size k of the k x k kernels")
    what = "the paper's VAE, or an alternative that its section 3.1 or appendix A names"
    add("--density", choices=sorted(DENSITIES), default="vae", help=what)
    add("--z_dim", type=at_least(1), help="latent dimensions (paper: 2 for 7x7, 4 for 5x5)")
    add("--hidden_dim", type=at_least(1), help="width of the coders (paper: 32 for 7x7, 64 for 5x5)")
    add("--var", choices=["train", "shared"], help="decoder's variance: one per weight (train, as in the paper), or a single one (shared)")
    add("--min_std", type=at_least(0, float), help="lower bound on the decoder's standard deviations, needed if kernels are few (paper: 0)")
    add("--transitions", type=at_least(0), help="steps of the Markov chain of `chain`")
    add("--layers", type=at_least(1), help="couplings of `flow`, masked convolutions of `pixelcnn`")
    add("--components", type=at_least(1), help="Gaussians of `gmm`, and of each weight of `pixelcnn`")
    what = "width of the Gaussians of `kde`, in standard deviations of the kernels; 0: the best for a sixth of them, left out"
    add("--bandwidth", type=at_least(0, float), help=what)
    add = parser.add_argument_group("training, for densities that are fitted by gradient steps").add_argument
    add("--num_epochs", type=at_least(1), help="passes over the training kernels (paper: 300)")
    add("--bs", type=at_least(1), help="kernels per step")
    add("--lr", type=at_least(0, float), help="Adam's learning rate at the start")
    add("--decrease_from", type=at_least(0), help="epoch from which the rate falls linearly to 0 (default: half of --num_epochs)")
    add("--eval_freq", type=at_least(1), help="epochs between evaluations")
    add("--no_early_stop", action="store_true", help="train `flow` or `pixelcnn` on all kernels, and for all epochs")
    add = parser.add_argument_group("kernels and prior").add_argument
    add("--data_dir", required=True, help="folder with train.npy and test.npy, written by prune_kernels.py")
    add("--no_screen", action="store_true", help="leave the slow measurements off the card: importance bound, drift test")
    add("--out", type=os.path.expanduser, help="copy the finished prior folder here, e.g. logs/vae7x7; --config does not repeat it")
    add_run_flags(parser)
    return parser.parse_args(argv)


def check_options(args):
    """Raise ValueError if options are given that the density does not use."""
    kind = DENSITIES[args.density]
    used = {*kind.options} | ({"var"} if issubclass(kind, VAE) else set()) | (set() if hasattr(kind, "fit") else {*TRAINING})
    used |= {"no_early_stop"} if kind.overfits else set()
    options = SHAPE | TRAINING | dict(no_early_stop=False)
    idle = [name for name, default in options.items() if name not in used and getattr(args, name) != default]
    if idle:
        raise ValueError(f"--{idle[0]} is not for --density {args.density}{', which is fitted at once' * (idle[0] in TRAINING)}")


@torch.no_grad()
def held_out(density, kernels):
    """What the density's loss() reports in evaluation mode, nats per kernel, means over kernels."""
    return {name: value.item() for name, value in density.eval().loss(kernels)[1].items()}


def load_split(data_dir, kernel_dim, device):
    """Training and held-out kernels, each (n, 1, k, k).  Raises ValueError if a VAE of k x k kernels cannot be fitted to them."""
    train, test = (load_kernels(Path(data_dir) / f"{split}.npy").to(device) for split in ("train", "test"))
    for kernels in (train, test):
        if kernels.shape[-1] != kernel_dim:
            raise ValueError(f"--kernel_dim {kernel_dim}, but {data_dir} holds {kernels.shape[-1]}x{kernels.shape[-1]} kernels")
    if (train == train[0]).all():
        raise ValueError(f"{data_dir}: the training kernels ({len(train)}) are all the same, there is nothing to fit")
    if known := repeated([train.cpu(), test.cpu()]).sum():
        print(f"warning: {data_dir}: {known} of {len(test)} held-out kernels are training kernels, too", file=sys.stderr)
    return train, test


def make_density(args, train):
    """The density that the options describe, fitted to the training kernels, if it is of those that are fitted at once."""
    kind = DENSITIES[args.density]
    options = {name: getattr(args, name) for name in kind.options if name in args}
    if hasattr(kind, "fit"):
        del options["kernel_dim"]
        check_room(4 * options.get("components", 1) * train.numel(), "what expectation maximisation needs for that many --components")
        return kind.fit(train, **options)
    sizes = "the weights of the density for " + " ".join(f"--{name} {value}" for name, value in options.items())
    if not issubclass(kind, VAE):
        return build(lambda: kind(**options), sizes).to(args.device)
    scale = min(train.std().item() / TYPICAL_WEIGHT, 1)
    options["min_std"] /= scale
    vae = build(lambda: kind(**options), sizes).to(args.device)
    vae.rescale(scale)
    if args.var == "shared":
        vae.share_variance(train.var().item())
    return vae


def train_density(args, density, train, test, decrease_from):
    """Minimise the density's loss() on the training kernels; writes vae_params.torch, vae_params_best.torch and the log.

    A density that learns few kernels by heart (`overfits`) is stopped early: it ends with the weights that were best on a sixth of the
    training kernels, which it does not see; with --no_early_stop it is trained as others are."""
    watched, split = test, "test"
    stopped_early = density.overfits and not args.no_early_stop
    if stopped_early:
        if len(train) < 12:
            raise ValueError(f"{len(train)} training kernels are too few to hold out a sixth, as {args.density} needs")
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0)).to(train.device)
        watched, train, split = train[order[: len(train) // 6]], train[order[len(train) // 6 :]], "valid"
    density.adapt(train)
    opt = torch.optim.Adam([p for p in density.parameters() if p.requires_grad], fused=True)
    start = resume(args, args.num_epochs, vae=density, opt=opt) if args.resume else 0
    for made in MADE_AT_THE_END:
        (args.run_dir / made).unlink(missing_ok=True)  # of a run that goes on
    log = Logger(args.run_dir, resume_at=start, tensorboard=args.tensorboard)
    if not args.resume:
        save_state(density.state_dict(), args.run_dir / "vae_params.torch")

    def record(epoch, stats):
        """Judge the density after so many epochs, save it, and the best, and log a row.  stats: of the last of them, if it is known."""
        best = max((row[f"{split}_elbo"] for row in log.rows), default=-float("inf"))
        found = held_out(density, watched)
        save_state(density.state_dict(), args.run_dir / "vae_params.torch")
        log.row(epoch=epoch, **{f"train_{k}": v for k, v in stats.items()}, **{f"{split}_{k}": v for k, v in found.items()})
        if found["elbo"] > best:
            save_state(density.state_dict(), args.run_dir / "vae_params_best.torch")

    with Checkpoints(args.run_dir, args.save_every, vae=density, opt=opt) as checkpoints:
        for epoch in trange(start, args.num_epochs, initial=start, total=args.num_epochs, desc="epochs", leave=False, disable=None):
            linear_lr(opt, epoch, args.num_epochs, args.lr, decrease_from)
            stats = train_epoch((train,), args.bs, opt, density.train().loss, epoch)
            evaluated = (epoch + 1) % args.eval_freq == 0 or epoch + 1 == args.num_epochs
            if evaluated:
                record(epoch + 1, stats)
            checkpoints.finished(epoch + 1, save=evaluated)
        if log.last < args.num_epochs:  # as of a run that was stopped there, between evaluations, and is to end there
            record(args.num_epochs, {})
    if stopped_early:
        best_weights = args.run_dir / "vae_params_best.torch"
        load_into(density, load_weights(best_weights, args.device), best_weights)
        save_state(density.state_dict(), args.run_dir / "vae_params.torch")


def check_samples(density, train):
    """Warn if samples of a density with finite weights are ten times as large as the kernels, or as small.  Raises FloatingPointError if
    they are infinite, or a million times the kernels."""
    with torch.random.fork_rng():
        sampled = density.sample(100)
    if not sampled.abs().max() < 1e6 * train.abs().max():
        raise FloatingPointError("samples of the density are out of all proportion: its training has diverged; try a smaller --lr")
    size, usual = (w.flatten(1).norm(dim=1).mean().item() for w in (sampled, train))
    if not 0.1 < size / max(usual, 1e-30) < 10:
        hint = "fit it to kernels of a norm near 1 (prune_kernels.py --mean_norm 1), or for longer"
        print(f"warning: samples of the density have a mean norm of {size:.3g}, the kernels of {usual:.3g}: {hint}", file=sys.stderr)


@script(parse_args)
def main(args):
    check_options(args)
    decrease_from = args.num_epochs // 2 if args.decrease_from is None else args.decrease_from
    seed_everything(args.seed)
    train, test = load_split(args.data_dir, args.kernel_dim, args.device)
    check_same_inputs(args, train=(train, test))
    if args.out:
        check_out(Path(args.out), args.run_dir)
    density = make_density(args, train)
    if hasattr(density, "fit"):
        save_state(density.state_dict(), args.run_dir / "vae_params.torch")
        Logger(args.run_dir).row(epoch=1, train_elbo=held_out(density, train)["elbo"], test_elbo=held_out(density, test)["elbo"])
    else:
        train_density(args, density, train, test, decrease_from)
    check_samples(density.eval(), train)

    for what, make in (("pictures", partial(draw, args)), ("card", partial(write_card, args, decrease_from))):
        try:
            make(train, test, density)
        except Exception as e:  # the fit is done and saved; what is missing beside it can be made again
            print(f"warning: no {what}: {' '.join(str(e).split())}", file=sys.stderr)
    seal(args.run_dir, density.state_dict())
    if args.out:
        publish(args.run_dir, Path(args.out))
    print(f"saved {args.out or args.run_dir}")
    return args.run_dir


if __name__ == "__main__":
    run_cli(main)
