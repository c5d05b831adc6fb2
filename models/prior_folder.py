"""A prior folder, what train_vae_prior.py makes and utils.load_density reads: its pictures, its card, its sums, and its copying."""

import hashlib
import re
import shutil
from pathlib import Path

import safetensors.torch
import torch

from myexman import commit_name, read_params, replacing

from .pictures import plot_kernels, plot_latent
from .screen import QUANTITIES, screen
from .vae import VAE

SUMS = "SHA256SUMS"  # `sha256sum -c` reads it, too
LAST = ("kernels.png", "latent.png", "README.md", "vae_params.safetensors", SUMS)  # made when the fit is done
ARTEFACTS = ("params.yaml", "vae_params.torch", "logs.csv", *LAST)


def is_finished(folder):
    """Whether a prior folder (a Path) has all that the end of a fit leaves in it."""
    return (folder / LAST[-1]).exists()


CARD = """# {title}, {k}x{k}

The prior of a {k}x{k} convolution; `utils.load_{loader}` loads it. {options}{bounded};
{fitted}.

Kernels: `{data_dir}`, {train} for training and {test} held out{source}.

| quantity | value |
|---|---|
{rows}

The drift test: Adam minimises the KL term alone over samples of the prior, with no data to hold them back, in a schedule of 600 steps
and in one of 3000. Likeness is the mean absolute cosine between two of them, alignment the length of the mean of w / |w|, flatness the
mean absolute cosine to a kernel of equal weights. A prior that makes them all point one way (likeness and alignment near 1) ruins a net
under the full KL sum.

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


def draw(args, train, test, density):
    """kernels.png, and for two latent dimensions latent.png.  args: of train_vae_prior.py; train, test: kernels (n, 1, k, k)."""
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
    """{name in QUANTITIES: number} of the table on a prior folder's card; nothing if there is no card."""
    card = folder / "README.md"
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", card.read_text(), flags=re.MULTILINE)) if card.exists() else {}
    return {name: float(rows[words]) for name, words in QUANTITIES.items() if words in rows}


def seal(folder, state):
    """Write a finished prior's weights, a state dict, as safetensors, too, with its params.yaml and the card's table as metadata; and
    SHA256SUMS."""
    params = read_params(folder / "params.yaml")
    facts = {name: str(value) for name, value in params.items() if name not in ("root", "device", "out", "meta")}
    facts |= {QUANTITIES[name]: str(value) for name, value in card_rows(folder).items()}
    with replacing(folder / "vae_params.safetensors") as (part,):
        part.write_bytes(safetensors.torch.save({name: t.cpu().contiguous() for name, t in state.items()}, facts))
    files = ("params.yaml", "vae_params.safetensors", "vae_params.torch")
    with replacing(folder / SUMS) as (part,):
        part.write_text("".join(f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in files))


def check_sum(file):
    """Raise ValueError if the folder's SHA256SUMS has another sum for a file."""
    sums = file.parent / SUMS
    lines = (line.split() for line in sums.read_text(errors="replace").splitlines()) if sums.exists() else ()
    known = {words[1]: words[0] for words in lines if len(words) == 2}
    if file.name in known and hashlib.sha256(file.read_bytes()).hexdigest() != known[file.name]:
        raise ValueError(f"{file} was altered or cut off: it does not have the sum in {SUMS} (delete that file if you meant it)")


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
