"""A prior folder, what train_vae_prior.py makes and utils.load_density reads: its pictures, its card, its sums, and its copying."""

import hashlib
import re
import shutil
import sys
from pathlib import Path

import safetensors.torch
import torch

from myexman import commit_name, load_plain, progress, read_params, replacing

from .memory import build, check_room
from .pictures import plot_kernels, plot_latent
from .priors import DENSITIES
from .reparametrised import effective_weights
from .screen import QUANTITIES, screen
from .sparsity import dense_state
from .vae import VAE

SUMS = "SHA256SUMS"  # `sha256sum -c` reads it, too
MADE_AT_THE_END = ("kernels.png", "latent.png", "README.md", "vae_params.safetensors", SUMS)  # made when the fit is done
ARTEFACTS = ("params.yaml", "vae_params.torch", "logs.csv", *MADE_AT_THE_END)


def is_finished(folder):
    """Whether a prior folder (a Path) has all that the end of a fit leaves in it."""
    return (folder / MADE_AT_THE_END[-1]).exists()


DRIFT = """\
The drift test: Adam minimises the KL term alone over samples of the prior, with no data to hold them back, in a schedule of 600 steps
and in one of 3000. Likeness is the mean absolute cosine between two of them, alignment the length of the mean of w / |w|, flatness the
mean absolute cosine to a kernel of equal weights, norm their mean L2 norm. A prior that makes them all point one way (likeness and
alignment near 1), or shrinks them, ruins a net under the full KL sum."""
CARD = """# {title}, {k}x{k}

The prior of a {k}x{k} convolution; `utils.load_{loader}` loads it{options};
{fitted}.

Kernels: `{data_dir}`, {train} for training and {test} held out{source}.

| quantity | value |
|---|---|
{rows}

{drift}

Made {date}, commit {commit}, on {machine}, by

    python train_vae_prior.py {argv}

To look around in it: `python -m experiments.prior_page DIR` makes a page of this folder, for a browser.

![kernels](kernels.png)
{latent}"""
TRAINED = """{num_epochs} epochs, batch {bs}, Adam {lr:g}, from epoch {decrease_from} falling linearly to 0. These are the weights """
LAST_WEIGHTS = "after the last\nepoch, not chosen on the held-out kernels"
BEST_WEIGHTS = "that were\nbest on a sixth of the training kernels, which were left out of the training"


def describe_source(pruning):
    """Where the kernels come from, from pruning.yaml; "" if it does not say."""
    if not {"kept", "kernels", "nets", "min_norm"} <= pruning.keys():
        return ""
    text = "; drawn from the {kept} of {kernels} kernels of {nets} nets whose L2 norm is at least {min_norm}".format(**pruning)
    if pruning.get("scale", 1) != 1:
        text += ", times {scale}".format(**pruning)
    if pruning.get("norm"):
        text += ", each scaled to a norm of {norm}".format(**pruning)
    if pruning.get("max_flat", 1) != 1:
        text += "; without those whose absolute cosine to a kernel of equal weights is above {max_flat}".format(**pruning)
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
    options = {name: getattr(args, name) for name in density.options if name in args and name not in ("kernel_dim", "min_std", "bandwidth")}
    words = [f"{name} {value}" for name, value in options.items()] + ([f"--var {args.var}"] if vae else [])
    if vae and args.min_std:
        words.append(f"--min_std {args.min_std:g} (the decoder's standard deviations are no smaller)")
    fields["options"] = ". " + ", ".join(words) if words else ""
    weights = BEST_WEIGHTS if density.overfits and not args.no_early_stop else LAST_WEIGHTS
    fields["fitted"] = "fitted at once" if hasattr(density, "fit") else TRAINED.format(**fields) + weights
    if meta.get("resumed"):
        fields["fitted"] += ". The run was resumed: the rate followed each command\nbelow until the next"
    if hasattr(density, "bandwidth"):
        fields["fitted"] += f", bandwidth {density.bandwidth.item():.3g}"
    if not vae:
        fields["fitted"] += ".\nIts log_prob, a density or a bound, stands for the ELBO below; its samples stand for decoder means"
    fields["source"] = describe_source(read_params(pruning)) if pruning.exists() else ""
    fields |= dict(rows=table_of(numbers), drift=DRIFT)
    fields["latent"] = "![latent space](latent.png)\n" if getattr(density, "z_dim", 0) == 2 else ""
    commands = [" ".join(facts["argv"]) for facts in (meta, *meta.get("resumed", ()))]
    fields |= dict(date=meta["time"][:10], argv="\n    python train_vae_prior.py ".join(commands))
    (run_dir / "README.md").write_text(CARD.format(**fields))
    print("\n".join(f"{numbers[name]:10.3f}  {words}" for name, words in QUANTITIES.items() if name in numbers))


def table_of(numbers):
    """The lines of a card's table, of {name in QUANTITIES: number}."""
    return "\n".join(f"| {words} | {numbers[name]:.4g} |" for name, words in QUANTITIES.items() if name in numbers)


def renew_card(folder, numbers):
    """Put {name in QUANTITIES: number} in place of the table on a finished prior's card, with what explains it, and seal the folder again.

    Raises ValueError if the card has no table."""
    card = folder / "README.md"
    before, head, rest = card.read_text().partition("| quantity | value |\n|---|---|\n")
    _, made, after = rest.partition("\n\nMade ")
    if not made:
        raise ValueError(f"{card} has no table of numbers, or not where train_vae_prior.py writes it")
    with replacing(card) as (part,):
        part.write_text(before + head + table_of(numbers) + "\n\n" + DRIFT + made + after)
    seal(folder, load_weights(folder / "vae_params.torch"))


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
        read_in_its_place = file.with_name("vae_params.safetensors")
        stale = [SUMS, *([read_in_its_place.name] if file.name == "vae_params.torch" and read_in_its_place.exists() else [])]
        how = f"if you meant to change it, delete {' and '.join(stale)}"
        raise ValueError(f"{file} was altered or cut off: its checksum is not the one in {SUMS} ({how})")


def same_folder(a, b):
    return Path(a).resolve() == Path(b).resolve()


def check_out(out, run_dir):
    """Make the folder `out`.  Raises OSError if it cannot be written to, and ValueError if it holds what is no former prior, and would be
    lost."""
    if same_folder(out, run_dir):
        return
    if not out.exists():
        out.mkdir(parents=True)
    if not out.is_dir() or (any(out.iterdir()) and not (out / "vae_params.torch").exists()):
        raise ValueError(f"--out {out} holds other files, which would be lost: choose a new folder, or that of a former prior")
    if any((out / name).exists() for name in ("status.yaml", "checkpoint.torch")):
        raise ValueError(f"--out {out} is the folder of another run, whose files would be lost: choose another")


def publish(run_dir, out):
    """Copy a finished prior to another folder, each file whole; what a former prior had besides goes last."""
    if same_folder(run_dir, out):
        return
    names = [name for name in ARTEFACTS if (run_dir / name).exists()]
    with replacing(*(out / name for name in names)) as parts:
        for name, part in zip(names, parts):
            shutil.copyfile(run_dir / name, part)
    for name in set(ARTEFACTS) - set(names):
        (out / name).unlink(missing_ok=True)


# ---------------------------------------------------------------- reading, also of other files of weights


NUMBERS = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
LAYOUTS = (torch.strided, torch.sparse_coo)
PREFIXES = ("model.", "module.", "_orig_mod.")


def load_weights(file, device="cpu"):
    """A saved state dict, dense, without running anything that the file may hold.  It may be one entry of the file's dict, as in a
    checkpoint, and all its names may begin with `module.`, as those of a net in parallel, `_orig_mod.`, of a compiled one, or `model.`, of
    one in a Lightning module. Reparametrised weights are as the net computes with them. The names of a .safetensors file, which has no
    order, are in that of the numbers in them.

    Raises FileNotFoundError, or ValueError if the file is damaged, holds no tensors by name or several lots of them, or NaN or infinity."""
    file = Path(file)
    if not file.exists():
        raise FileNotFoundError(f"no weight file {file}")
    try:
        if file.suffix == ".safetensors":
            state = in_order(safetensors.torch.load_file(file, device=str(device)))
        else:
            state = load_plain(file, device)
    except Exception as e:  # torch raises a dozen kinds for a damaged or unsafe file
        why = re.sub(r"\x1b\[[0-9;]*m", "", str(e) or type(e).__name__).splitlines()[0][:120]  # torch prints in bold
        raise ValueError(f"{file} is damaged or not a plain state dict, as torch.save(net.state_dict(), …) writes it: {why}") from e
    if not is_state(state):
        inner = {name: value for name, value in state.items() if is_state(value)} if isinstance(state, dict) else {}
        if len(inner) > 1:
            raise ValueError(f"{file} holds several state dicts, {', '.join(map(str, inner))}: save the one you mean to a file of its own")
        if not inner:
            raise ValueError(f"{file} is not a state dict (tensors by name)")
        (state,) = inner.values()
    if not all(isinstance(name, str) for name in state) or any(
        t.is_meta or t.dtype not in NUMBERS or t.layout not in LAYOUTS for t in state.values()
    ):
        raise ValueError(f"{file} does not hold plain tensors by name")
    check_room(sum(t.numel() for t in state.values()), f"the tensors in {file}")  # sparse or repeated ones are small on the disk
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    try:
        state = effective_weights(dense_state({name: value.detach() for name, value in state.items()}))
    except ValueError as e:
        raise ValueError(f"{file}: {e}") from e
    bad = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        raise ValueError(f"{file}: {bad[0]} holds NaN or infinity")
    return state


def in_order(state):
    """A dict by the text between the numbers of its names, and by these as numbers: conv2 comes before conv10."""

    def words(name):
        return [int(word) if word.isdigit() else word for word in re.split(r"(\d+)", name)]

    return dict(sorted(state.items(), key=lambda item: words(item[0])))


def is_state(value):
    """Whether it is a dict of tensors by name."""
    return isinstance(value, dict) and bool(value) and all(isinstance(v, torch.Tensor) for v in value.values())


def trained_weights(run, file="model.torch", device="cpu"):
    """load_weights of a run's folder, whose net has been trained.

    Says so on stderr if the run stopped before its last epoch.  Raises what load_weights does, and ValueError if it stopped before its
    first evaluation: its weights are those it began with."""
    run = Path(run)
    weights = load_weights(run / file, device)
    check_trained(run)
    return weights


def check_trained(run):
    """Raise ValueError if a run stopped before its first evaluation; say so on stderr if it stopped before its last epoch.  A folder whose
    params.yaml has no `meta` is not a run's, and passes, as does a finished prior (one fitted at once has a single epoch)."""
    done, epochs = progress(run)
    if done == 0:
        raise ValueError(f"{run} stopped before its first evaluation: it is untrained (its logs.csv is missing or empty)")
    if done and epochs and done < epochs and not is_finished(Path(run)):
        print(f"note: {run} stopped after {done} of {epochs} epochs; --resume continues it", file=sys.stderr)


def load_into(module, state, source):
    """module.load_state_dict(state) with a one-line ValueError that names the source and the first keys that do not fit."""
    own = module.state_dict()
    for prefix in PREFIXES:  # which load_weights() took off, and which may be the module's own
        if own.keys() == {f"{prefix}{k}" for k in state}:
            state = {f"{prefix}{k}": v for k, v in state.items()}
    wrong = sorted((own.keys() ^ state.keys()) | {k for k in own.keys() & state.keys() if own[k].shape != state[k].shape})
    if wrong:
        raise ValueError(f"{source} does not fit {type(module).__name__}: {', '.join(wrong[:4])}{', …' if len(wrong) > 4 else ''}")
    module.load_state_dict(state)


def load_density(path, device=None, weights=None):
    """The density of kernels in a prior folder: params.yaml, whose `density` is a name in models.priors.DENSITIES (by default vae), and
    its weights: vae_params.safetensors or vae_params.torch, or the file that `weights` names.

    Returns a models.densities.Density in evaluation mode.  Raises FileNotFoundError and ValueError."""
    path = Path(path)
    checked = ["params.yaml", weights or "vae_params.torch"]
    if not weights:
        weights = "vae_params.safetensors" if (path / "vae_params.safetensors").exists() else "vae_params.torch"
        checked.append(weights)
    if not (path / "params.yaml").exists():
        raise FileNotFoundError(f"{path} is not a prior folder: no {path / 'params.yaml'}")
    check_trained(path)
    for name in checked:
        if (path / name).exists():
            check_sum(path / name)
    try:
        params = read_params(path / "params.yaml")
        name = params.get("density", "vae")
        if name not in DENSITIES:
            raise ValueError(f"{path / 'params.yaml'}: unknown density {name!r}; choose from {', '.join(sorted(DENSITIES))}")
        kind = DENSITIES[name]
        options = {option: number(params[option]) for option, number in kind.options.items() if option in params}
        density = build(lambda: kind(**options), f"the weights of the density in {path / 'params.yaml'}")
    except (TypeError, RuntimeError) as e:  # an option is missing, or of another kind; or torch's, of a negative size
        raise ValueError(f"{path / 'params.yaml'} does not describe a density of kernels: {' '.join(str(e).split())}") from e
    state = load_weights(path / weights)
    density.resize(state)
    own = density.state_dict()
    for k in own.keys() & state.keys():  # a 1x1 head may be stored as Conv2d, ConvTranspose2d or Linear: same numbers, other shape
        if own[k].squeeze().shape == state[k].squeeze().shape:
            state[k] = state[k].reshape(own[k].shape)
    load_into(density, state, path / weights)
    return density.to(device or "cpu").eval()


def load_vae(path, device=None, weights=None):
    """The kernel VAE in a prior folder (see load_density), ours or one published by the paper's authors.

    Returns a models.vae.VAE in evaluation mode.  Raises FileNotFoundError and ValueError."""
    vae = load_density(path, device, weights)
    if not isinstance(vae, VAE):
        raise ValueError(f"{path} holds a {type(vae).__name__}, not a kernel VAE: utils.load_density loads it")
    return vae
