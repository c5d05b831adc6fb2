"""Step 3: fit a VAE, or with --density another density, to the kernels of one convolution: the deep weight prior (paper, section 3.3).

    python train_vae_prior.py --hidden_dim 32 --kernel_dim 7 --z_dim 2 --num_epochs 300 --data_dir data/fconv/conv7x7
    python train_vae_prior.py --hidden_dim 64 --kernel_dim 5 --z_dim 4 --num_epochs 300 --data_dir data/fconv/conv5x5

The run folder is a prior folder, to be loaded by utils.load_density: params.yaml, vae_params.torch and .safetensors (last),
vae_params_best.torch (best ELBO on the held-out kernels), pictures, sums, and a README.md card. --out copies all but the best elsewhere.
"""

import hashlib
import re
import shutil
import sys
from pathlib import Path

import safetensors.torch
import torch
from tqdm import trange

from models.memory import build, check_room
from models.pictures import plot_kernels, plot_latent
from models.priors import DENSITIES
from models.screen import QUANTITIES, screen
from models.vae import CODERS, VAE
from myexman import Checkpoints, ExParser, Logger, at_least, commit_name, read_params, replacing, resume, save_state, script
from utils import SUMS, add_run_flags, linear_lr, load_kernels, load_weights, run_cli, seed_everything, train_epoch

# Standard deviation of weights that suits a new VAE. For smaller kernels it is scaled down, or it could lose its latent dimensions; for
# larger ones left as it is, since scaling up slows its training.
TYPICAL_WEIGHT = 0.1
LAST = ("kernels.png", "latent.png", "README.md", "vae_params.safetensors", SUMS)  # made when the fit is done
ARTEFACTS = ("params.yaml", "vae_params.torch", "logs.csv", *LAST)


def parse_args(argv=None):
    parser = ExParser(description=__doc__, prog="train_vae_prior.py", resume_with=("num_epochs", "eval_freq"))
    add = parser.add_argument_group("density").add_argument
    add("--kernel_dim", type=int, choices=sorted(CODERS), default=7, help="size k of the k x k kernels")
    what = "the paper's, or one of those that its section 3.1 and appendix A name"
    add("--density", choices=sorted(DENSITIES), default="vae", help=what)
    add("--z_dim", type=at_least(1), default=2, help="latent dimensions (paper: 2 for 7x7, 4 for 5x5)")
    add("--hidden_dim", type=at_least(1), default=32, help="width of the coders (paper: 32 for 7x7, 64 for 5x5)")
    add("--var", choices=["train", "shared"], default="train", help="decoder's variance: one per weight (paper), or one")
    add("--min_std", type=at_least(0, float), default=0.0, help="bound on the decoder's certainty of a weight, for few kernels (paper: 0)")
    add("--transitions", type=at_least(0), default=1, help="steps of the Markov chain of `chain`")
    add("--layers", type=at_least(1), default=4, help="couplings of `flow`, masked convolutions of `pixelcnn`")
    add("--components", type=at_least(1), default=8, help="Gaussians of `gmm`, and of each weight of `pixelcnn`")
    add = parser.add_argument_group("training, of densities that are not fitted at once").add_argument
    add("--num_epochs", type=at_least(1), default=300, help="passes over the training kernels (paper: 300)")
    add("--bs", type=at_least(1), default=128, help="kernels per step")
    add("--lr", type=at_least(0, float), default=1e-3, help="Adam's learning rate at the start")
    add("--decrease_from", type=at_least(0), help="epoch from which it falls linearly to 0 (default: half of them)")
    add("--eval_freq", type=at_least(1), default=10, help="epochs between evaluations")
    add = parser.add_argument_group("kernels and prior").add_argument
    add("--data_dir", required=True, help="folder with train.npy and test.npy, written by prune_kernels.py")
    add("--no_screen", action="store_true", help="leave the slow measurements off the card: importance bound, drift test")
    add("--out", help="copy the finished prior folder here, e.g. logs/vae7x7")
    add_run_flags(parser)
    return parser.parse_args(argv)


@torch.no_grad()
def held_out(density, kernels, n_samples=1):
    """What the density's loss() reports, nats per kernel, averaged over kernels and n_samples evaluations."""
    reports = [density.loss(kernels)[1] for _ in range(n_samples)]
    return {name: sum(r[name].item() for r in reports) / n_samples for name in reports[0]}


def load_split(data_dir, kernel_dim, device):
    """Training and held-out kernels, each (n, 1, k, k).  Raises ValueError if a VAE of k x k kernels cannot be fitted to them."""
    train, test = (load_kernels(Path(data_dir) / f"{split}.npy").to(device) for split in ("train", "test"))
    for kernels in (train, test):
        if kernels.shape[-1] != kernel_dim:
            raise ValueError(f"--kernel_dim {kernel_dim}, but {data_dir} holds {kernels.shape[-1]}x{kernels.shape[-1]} kernels")
    if (train == train[0]).all():
        raise ValueError(f"{data_dir}: the training kernels ({len(train)}) are all the same, there is nothing to fit")
    return train, test


CARD = """# {title}, {k}x{k}

The prior of a {k}x{k} convolution; `utils.load_{loader}` loads it. {options}{bounded};
{fitted}.

Kernels: `{data_dir}`, {train} for training and {test} held out{source}.

| quantity | value |
|---|---|
{rows}

The drift test: Adam minimises the KL term alone over samples of the prior, with no data to hold them back, in a schedule of 600 steps
and in one of 3000. Likeness is the mean absolute cosine between two of them, alignment the length of the mean of w / |w|. A prior that
makes them all point one way (both near 1) ruins a net under the full KL sum.

Made {date}, commit {commit}, on {machine}, by

    python train_vae_prior.py {argv}

![kernels](kernels.png)
{latent}"""
TRAINED = """{num_epochs} epochs, batch {bs}, Adam {lr:g}, from epoch {decrease_from} falling linearly to 0. These are the weights """
LAST_WEIGHTS = "after the last\nepoch, not chosen on the held-out kernels"
BEST_WEIGHTS = "that were\nbest on a sixth of the training kernels, which were left out of the training"


def describe_source(pruning):
    """Where the kernels come from, from pruning.yaml."""
    text = "; drawn from the {kept} of {kernels} kernels of {nets} nets whose L2 norm is at least {min_norm}".format(**pruning)
    if pruning.get("scale", 1) != 1:
        text += ", times {scale}".format(**pruning)
    if pruning.get("source"):
        text += ". The nets: " + ", ".join(f"{name} {value}" for name, value in pruning["source"].items())
    return text


def draw(args, decrease_from, train, test, density):
    """kernels.png, and for two latent dimensions latent.png."""
    shown = test[torch.randperm(len(test))[:100]]
    groups = {"held-out kernels": shown}
    if isinstance(density, VAE):
        with torch.no_grad():
            groups["their reconstructions"] = density.decoder(density.encoder(shown)[0])[0]
    plot_kernels(groups | {"samples of the prior": density.sample(100)}, args.run_dir / "kernels.png")
    if getattr(density, "z_dim", 0) == 2:
        plot_latent(density, torch.cat([train, test]), args.run_dir / "latent.png")


def write_card(args, decrease_from, train, test, density):
    """README.md: where the kernels come from, how well they are modelled, and whether the prior passes the screen, whose numbers are
    printed."""
    run_dir, train, test, density = args.run_dir, train.cpu(), test.cpu(), density.cpu()
    numbers = screen(density, train, test, 0, 0) if args.no_screen else screen(density, train, test)
    pruning, vae = Path(args.data_dir) / "pruning.yaml", isinstance(density, VAE)
    meta = read_params(run_dir / "params.yaml")["meta"]
    fields = dict(
        vars(args),
        title={"vae": "Kernel VAE"}.get(args.density, f"Density of kernels `{args.density}`"),
        loader="vae" if vae else "density",
        decrease_from=decrease_from,
        k=args.kernel_dim,
        train=len(train),
        test=len(test),
        commit=commit_name(),
        machine=meta["machine"],
    )
    options = {name: getattr(args, name) for name in density.options if name in args and name not in ("kernel_dim", "min_std")}
    fields["options"] = ", ".join(f"{name} {value}" for name, value in options.items()) + (f", --var {args.var}" if vae else "")
    weights = BEST_WEIGHTS if density.overfits else LAST_WEIGHTS
    fields["fitted"] = "fitted at once" if hasattr(density, "fit") else TRAINED.format(**fields) + weights
    if not vae:
        fields["fitted"] += ".\nIts log-density is exact, and stands for the ELBO below; its samples stand for decoder means"
    fields["source"] = describe_source(read_params(pruning)) if pruning.exists() else ""
    fields["rows"] = "\n".join(f"| {words} | {numbers[name]:.4g} |" for name, words in QUANTITIES.items() if name in numbers)
    fields["bounded"] = f", --min_std {args.min_std:g} (the decoder's standard deviations are no smaller)" if vae and args.min_std else ""
    fields["latent"] = "![latent space](latent.png)\n" if getattr(density, "z_dim", 0) == 2 else ""
    fields |= dict(date=meta["time"][:10], argv=" ".join(meta["argv"]))
    (run_dir / "README.md").write_text(CARD.format(**fields))
    print("\n".join(f"{numbers[name]:10.3f}  {words}" for name, words in QUANTITIES.items() if name in numbers))


def card_rows(folder):
    """{words of QUANTITIES: number} of the table on a prior folder's card; nothing if there is no card."""
    card = folder / "README.md"
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", card.read_text(), flags=re.MULTILINE) if card.exists() else []
    return {words: float(value) for words, value in rows if words in QUANTITIES.values()}


def seal(folder):
    """Write a prior folder's weights as safetensors, too, with its params.yaml and the card's table as metadata; and SHA256SUMS."""
    params = read_params(folder / "params.yaml")
    facts = {name: str(value) for name, value in params.items() if name not in ("root", "device", "out", "meta")}
    facts |= {words: str(value) for words, value in card_rows(folder).items()}
    weights = {name: t.contiguous() for name, t in load_weights(folder / "vae_params.torch").items()}
    with replacing(folder / "vae_params.safetensors") as (part,):
        part.write_bytes(safetensors.torch.save(weights, facts))
    files = ("params.yaml", "vae_params.safetensors", "vae_params.torch")
    with replacing(folder / SUMS) as (part,):
        part.write_text("".join(f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in files))


def same_folder(a, b):
    return Path(a).resolve() == Path(b).resolve()


def check_out(out, run_dir):
    """Raise ValueError if the folder `out` holds what is no former prior, and would be lost."""
    if same_folder(out, run_dir) or not out.exists():
        return
    if not out.is_dir() or (any(out.iterdir()) and not (out / "vae_params.torch").exists()):
        raise ValueError(f"--out {out} holds other files, which would be lost: choose a new folder, or that of a former prior")
    if (out / "checkpoint.torch").exists():
        raise ValueError(f"--out {out} is the folder of another run, whose files would be lost: choose another")


def publish(run_dir, out):
    """Copy a finished prior to another folder, each file whole; what a former prior had besides goes last."""
    if same_folder(run_dir, out):
        return
    out.mkdir(parents=True, exist_ok=True)
    names = [name for name in ARTEFACTS if (run_dir / name).exists()]
    with replacing(*(out / name for name in names)) as parts:
        for name, part in zip(names, parts):
            shutil.copyfile(run_dir / name, part)
    for name in set(ARTEFACTS) - set(names):
        (out / name).unlink(missing_ok=True)


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
    training kernels, which it does not see."""
    watched, name = test, "test"
    if density.overfits:
        if len(train) < 12:
            raise ValueError(f"{len(train)} training kernels are too few to leave a sixth out, as {args.density} needs")
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0)).to(train.device)
        watched, train, name = train[order[: len(train) // 6]], train[order[len(train) // 6 :]], "valid"
    density.adapt(train)
    opt = torch.optim.Adam([p for p in density.parameters() if p.requires_grad], fused=True)
    start = resume(args, args.num_epochs, vae=density, opt=opt) if args.resume else 0
    log = Logger(args.run_dir, resume_at=start, tensorboard=args.tensorboard)
    if not args.resume:
        save_state(density.state_dict(), args.run_dir / "vae_params.torch")
    best = max((row[f"{name}_elbo"] for row in log.rows), default=-float("inf"))
    with Checkpoints(args.run_dir, args.save_every, vae=density, opt=opt) as checkpoints:
        for epoch in trange(start, args.num_epochs, initial=start, total=args.num_epochs, desc="epochs", leave=False, disable=None):
            linear_lr(opt, epoch, args.num_epochs, args.lr, decrease_from)
            stats = train_epoch((train,), args.bs, opt, density.loss, epoch)
            evaluated = (epoch + 1) % args.eval_freq == 0 or epoch + 1 == args.num_epochs
            if evaluated:
                found = held_out(density, watched)
                save_state(density.state_dict(), args.run_dir / "vae_params.torch")
                log.row(epoch=epoch + 1, **{f"train_{k}": v for k, v in stats.items()}, **{f"{name}_{k}": v for k, v in found.items()})
                if found["elbo"] > best:
                    best = found["elbo"]
                    save_state(density.state_dict(), args.run_dir / "vae_params_best.torch")
            checkpoints.finished(epoch + 1, save=evaluated)
    if density.overfits:
        density.load_state_dict(load_weights(args.run_dir / "vae_params_best.torch", args.device))
        save_state(density.state_dict(), args.run_dir / "vae_params.torch")


@script(parse_args)
def main(args):
    decrease_from = args.num_epochs // 2 if args.decrease_from is None else args.decrease_from
    seed_everything(args.seed)
    train, test = load_split(args.data_dir, args.kernel_dim, args.device)
    if args.out:
        check_out(Path(args.out), args.run_dir)
    for name in LAST:
        (args.run_dir / name).unlink(missing_ok=True)  # of a run that is resumed
    density = make_density(args, train)
    if hasattr(density, "fit"):
        save_state(density.state_dict(), args.run_dir / "vae_params.torch")
        Logger(args.run_dir).row(
            epoch=args.num_epochs, train_elbo=held_out(density, train)["elbo"], test_elbo=held_out(density, test)["elbo"]
        )
    else:
        train_density(args, density, train, test, decrease_from)

    for what, make in (("pictures", draw), ("card", write_card)):
        try:
            make(args, decrease_from, train, test, density)
        except Exception as e:  # the fit is done and saved; what is missing beside it can be made again
            print(f"warning: no {what}: {' '.join(str(e).split())}", file=sys.stderr)
    seal(args.run_dir)
    if args.out:
        publish(args.run_dir, Path(args.out))
    print(f"saved {args.out or args.run_dir}")
    return args.run_dir


if __name__ == "__main__":
    run_cli(main)
