"""What the scripts share: flags, seeds, schedules, the epoch function, prediction, metrics, and loading of saved things."""

import os
import sys
from argparse import ArgumentTypeError, Namespace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from torch.utils.flop_counter import FlopCounterMode

from data import load_dataset, permute_pixels, random_labels
from models import build_net
from models.bayes import bayes_layers, bnn_mode, is_stochastic, set_rates
from models.initialization import INITS, DecoderMeans, LearnedKernels, Pretrained, Xavier, fill
from models.priors import PRIORS, DeepWeightPrior
from models.sparsity import compression, dense_state, prune, sparse_state
from models.vae import VAE
from myexman import at_least, positive, save_state

# Options for Bayesian layers only, and their defaults
BAYESIAN = dict(prior_list=None, prune=None, alpha=None, max_logsigma=None, kl_anneal_epochs=0, kl_scale=1.0)
PRIOR_WORDS = ", ".join(sorted(PRIORS)).replace("posterior", "posterior:RUN")


# ---------------------------------------------------------------- running a script


def run_cli(main):
    """Run main() from the shell. A mistake in the input or a NaN is one line on stderr and exit status 2 ($DWP_TRACEBACK shows
    where it came from)."""
    try:
        main()
    except (ValueError, OSError, FloatingPointError) as e:
        if os.environ.get("DWP_TRACEBACK"):
            raise
        print(f"{Path(sys.argv[0]).name}: error: {' '.join(str(e).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def add_common_flags(parser, epochs, bs, lr=1e-3):
    """Flags of the scripts that train a network on images."""
    add = parser.add_argument
    add("--data_root", default=default_data_root(), help="folder of the data sets ($DATA_ROOT)")
    add("--num_examples", type=at_least(0), default=0, help="size of a stratified training subset; 0 is the whole set (paper: 50 to 1000)")
    add("--data_split_seed", type=int, default=0, help="draws the subset (paper: 0 to 9)")
    add("--validate", action="store_true", help="test on every sixth training image instead, to choose hyper-parameters")
    add("--random_labels", action="store_true", help="shuffle the training labels, whatever the images show")
    add("--permute", type=at_least(0), metavar="SEED", help="shuffle the pixels of every image in the same way, drawn with this seed")
    add("--hid_dim", type=at_least(1), nargs="+", help="widths of the hidden layers, filters of convolutions; by default the paper's")
    add("--epochs", type=at_least(1), default=epochs, help="passes over the training set (paper: 10000 for the Bayesian nets)")
    add("--bs", type=at_least(1), default=bs, help="images per step (paper: 256)")
    add("--lr", type=at_least(0, float), default=lr, help="Adam's learning rate at the start; it falls linearly to 0 (paper: 0.001)")
    add_run_flags(parser)


def add_init_flags(parser):
    """Where the first kernels of each convolution come from."""
    add = parser.add_argument
    add("--init_list", nargs="+", choices=INITS, help="initialisation of each convolution (default: xavier for all; paper: vae)")
    add("--vae_list", nargs="+", default=[], help="prior folder of each convolution, for `vae` in a list, or none")
    add(
        "--filters_list",
        nargs="+",
        default=[],
        help="folder with train.npy of each convolution, for `filters` or `gauss` in a list, or none",
    )
    add("--pretrained", help="state dict of a trained net, for `pretrained` in --init_list")


def add_prior_flags(parser):
    """The priors of a Bayesian net, and how their KL terms are estimated and weighed."""
    add = parser.add_argument
    add("--prior_list", nargs="+", type=prior_name, help=f"prior of each Bayesian layer, or one for all: {PRIOR_WORDS} (default: sn)")
    add(
        "--gamma_a", type=positive, default=0.51, help="shape of the hyperprior of `gamma` and `student` (Kharitonov et al.: 0.505 to 0.52)"
    )
    add("--gamma_b", type=at_least(0, float), default=1e-8, help="rate of that hyperprior (Kharitonov et al.: 1e-8)")
    add("--train_reverse", type=int, choices=[0, 1], default=1, help="learn the reverse model r(z|w) (paper, Algorithm 1: 1)")
    add("--dwp_samples", type=at_least(1), default=1, help="draws of w and z per kernel in the bound (paper: 1)")
    add("--kl_kernels", type=at_least(0), default=0, help="kernels of a layer per step in the KL estimate; 0 takes all (paper: 0)")
    add("--kl_memory", action="store_true", help="with --kl_kernels: a kernel's KL gradient acts on until it is drawn again")
    add(
        "--kl_chunk", type=at_least(0), default=0, help="kernels that pass the coders at once: bounds memory; 0 is 512 on a CPU, else 16384"
    )
    add("--kl_scale", type=at_least(0, float), default=BAYESIAN["kl_scale"], help="factor of the KL term")
    rise = "epochs in which that factor rises from 0 (Kharitonov et al.: 20)"
    add("--kl_anneal_epochs", type=at_least(0), default=BAYESIAN["kl_anneal_epochs"], help=rise)


def prior_name(word):
    """An argparse type: a name in PRIORS; `posterior` takes a run, as posterior:RUN."""
    name, colon, run = word.partition(":")
    if name not in PRIORS or (name == "posterior") != bool(colon and run):
        raise ArgumentTypeError(f"{word!r}; choose from {PRIOR_WORDS}")
    return word


def check(args, net, layers, n):
    """Raise ValueError if options do not go together, or not with the net and its n training images."""
    given = [f"--{name}" for name, default in BAYESIAN.items() if getattr(args, name) != default]
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
    if "vd" in (args.prior_list or []) and (args.max_logsigma is not None or args.logvarinit_std):
        raise ValueError("--max_logsigma and --logvarinit_std are for a free variance; under the prior vd it is alpha mean^2")
    if "vd" in (args.prior_list or []) and args.prune == "snr":
        raise ValueError("--prune snr: under the prior vd alpha is below 1, and no weight is noise; take mean")
    if args.alpha is not None and args.prune == "snr":
        raise ValueError("--prune snr: with --alpha all weights have the same signal-to-noise ratio; take mean")
    if args.alpha is None and "dropout" in (args.prior_list or []):
        raise ValueError("the prior dropout is for a fixed noise: give --alpha")
    check_batches(net, n, args.bs)


def check_batches(net, n, bs):
    """Raise ValueError if a net with batch normalisation would get a minibatch of one of n images."""
    if (bs == 1 or n % bs == 1) and any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in net.modules()):
        raise ValueError(f"--bs {bs} makes a minibatch of one of {n} images, of which no statistics can be taken: choose another")


def load_data(args):
    """The training and the test Dataset that the common flags ask for, on the device."""
    train, test = load_dataset(args.data, args.data_root, args.num_examples, args.data_split_seed, args.validate)
    if args.random_labels:
        train = random_labels(train, args.data_split_seed)
    if args.permute is not None:
        train, test = permute_pixels(train, args.permute), permute_pixels(test, args.permute)
    return train.to(args.device), test.to(args.device)


def default_data_root():
    return os.environ.get("DATA_ROOT", "./datasets")


def add_run_flags(parser):
    parser.add_argument("--seed", type=int, default=0, help="seeds everything but the choice of the training subset")
    parser.add_argument("--device", type=usable_device, default=default_device(), help="cpu, cuda, cuda:1, …")


def default_device():
    return "cuda" if torch.cuda.is_available() else "cpu"


def usable_device(name):
    """An argparse type: the name of a device that this machine has."""
    try:
        torch.empty(1, device=name)
    except Exception as e:  # torch raises AssertionError, RuntimeError and others
        raise ArgumentTypeError(f"{name}: {str(e).splitlines()[0]}") from e
    return name


def seed_everything(seed):
    np.random.seed(seed)
    torch.manual_seed(seed)


# ---------------------------------------------------------------- training


def linear_lr(opt, epoch, epochs, lr, decrease_from=0):
    """Set the learning rate of epoch (0, 1, …, epochs - 1): lr until decrease_from, then down on a line that reaches 0 at `epochs`."""
    for group in opt.param_groups:
        group["lr"] = lr * min(1.0, (epochs - epoch) / max(epochs - decrease_from, 1))


def kl_weight(epoch, anneal_epochs=0, scale=1.0):
    """Factor of the KL term in epoch (0, 1, …): from 0 up to scale, reached after anneal_epochs."""
    return scale * (min(1.0, epoch / anneal_epochs) if anneal_epochs else 1.0)


def minibatches(data, bs):
    """Shuffled minibatches of tensors of equal length; a set that fits in one minibatch is passed on as it is."""
    n = len(data[0])
    if n <= bs:
        yield tuple(data)
        return
    for i in torch.randperm(n, device=data[0].device).split(bs):
        yield tuple(t[i] for t in data)


def train_epoch(data, bs, opt, objective, epoch=0):
    """One pass over data, a tuple of tensors.  objective(*batch) -> (loss, dict of 0-d tensors to report).

    Returns the reported values' means over items, as floats.  Raises FloatingPointError if a loss or, after the pass, a weight
    is NaN or infinite; both are looked at once per pass, so that no step waits for the device."""
    losses, sizes, reports = [], [], []
    for batch in minibatches(data, bs):
        loss, report = objective(*batch)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        opt.step()
        losses.append(loss.detach())
        sizes.append(len(batch[0]))
        reports.append(report)
    finite = torch.stack(losses).isfinite().tolist()
    weights = [p for group in opt.param_groups for p in group["params"]]
    if not all(finite) or not torch.nn.utils.get_total_norm(weights).isfinite():
        bad = finite.index(False) if False in finite else len(losses) - 1
        what = "loss" if False in finite else "a weight"
        raise FloatingPointError(
            f"{what} is NaN or infinite at step {epoch * len(losses) + bad} (epoch {epoch}); try a smaller --lr; the run's folder "
            "keeps the last good state"
        )
    share = torch.tensor(sizes, dtype=torch.float64) / sum(sizes)
    return {k: float(share @ torch.stack([r[k].detach() for r in reports]).double().cpu()) for k in reports[0]}


def sum_of_squares(module):
    """Sum of all squared parameters: the L2 penalty of a net's `features`. As in the original code, biases count."""
    return sum(p.square().sum() for p in module.parameters())


# ---------------------------------------------------------------- prediction and metrics


@torch.inference_mode()
def predict(net, x, bs=500):
    """Class log-probabilities (N, classes) of a net in its present mode.  Of x: (N, C, H, W)."""
    return torch.cat([F.log_softmax(net(batch), 1) for batch in x.split(bs)])


def mc_ensemble(net, x, n, bs=500):
    """Log-probabilities of n networks w_k ~ q, each (N, classes), as a list. (For dropout every batch draws its masks anew.)"""
    members = []
    for _ in range(n):
        bnn_mode(net, "sample")
        members.append(predict(net, x, bs))
    return members


def ensemble_average(members):
    """log of the mean probability: list of (N, classes) -> (N, classes)."""
    return torch.logsumexp(torch.stack(members), 0) - np.log(len(members))


def metrics(log_probs, y):
    """dict of floats: acc in [0, 1]; nll, nats per image; ece in [0, 1], 15 equal bins of confidence; brier in [0, 2]."""
    probs = log_probs.exp()
    confidence, guess = probs.max(1)
    hit = (guess == y).float()
    bins = (confidence * 15).long().clamp_max(14)
    gap = torch.zeros(15, device=y.device).index_add_(0, bins, confidence - hit)
    return dict(
        acc=hit.mean().item(),
        nll=F.nll_loss(log_probs, y).item(),
        ece=(gap.abs().sum() / len(y)).item(),
        brier=(probs - F.one_hot(y, probs.shape[1])).square().sum(1).mean().item(),
    )


def evaluate(net, data, ens=10):
    """Metrics of the mean network (`mean_acc`, …) and, for a net with random weights, of one sample and of `ens` averaged ones."""
    bnn_mode(net, "det")
    results = {"mean": predict(net, data.x)}
    if is_stochastic(net) and ens > 0:
        members = mc_ensemble(net, data.x, ens)
        results |= {"one": members[0], "ens": ensemble_average(members)}
    bnn_mode(net, "stoch")
    return {f"{who}_{name}": v for who, log_probs in results.items() for name, v in metrics(log_probs, data.y).items()}


@torch.no_grad()
def count_flops(compute):
    """Floating-point operations of the matrix products and convolutions in the forward pass compute(); backward is twice that."""
    with FlopCounterMode(display=False) as counter, torch.random.fork_rng():
        compute()
    return counter.get_total_flops()


def announce_cost(net, layers, priors, batch):
    """Print what a step of train_bnn.py costs if it has a deep weight prior, whose sum over all kernels outweighs the data term
    on a CPU; name the way out."""
    dwp = [p for p in priors if isinstance(p, DeepWeightPrior)]
    if not dwp:
        return
    data = 3 * count_flops(lambda: net(batch))
    kl = 3 * count_flops(lambda: sum(p.kl(layer.posterior()) for p, layer in zip(priors, layers)))
    hint = "; --kl_kernels 256 --kl_memory does the same from 256 kernels of each layer" if kl > 2 * data and not dwp[0].kl_kernels else ""
    print(f"a step takes {data / 1e9:.1f} GFLOP for the data term and {kl / 1e9:.1f} GFLOP for the KL term{hint}")


def prune_net(net, test, run_dir, criterion, threshold):
    """Prune the trained net: pruned.torch, the state dict of the plain net with sparse weights, and pruning.yaml, what it cost."""
    before = evaluate(net, test, ens=0)["mean_acc"]
    kept = prune(net, criterion, threshold)
    report = dict(criterion=criterion, threshold=threshold, error_before=1 - before, error=1 - evaluate(net, test, ens=0)["mean_acc"])
    report |= dict(compression=compression(kept), kept={name: list(counts) for name, counts in kept.items()})
    save_state(sparse_state(net), run_dir / "pruned.torch")
    (run_dir / "pruning.yaml").write_text(yaml.safe_dump(report, sort_keys=False))
    print("pruned: error {error_before:.4f} before, {error:.4f} after, {compression:.1f}x fewer weights".format(**report))


# ---------------------------------------------------------------- loading


def load_weights(file, device="cpu"):
    """A saved state dict, without running anything that the file may hold.

    Raises FileNotFoundError, or ValueError if the file is damaged or holds more than tensors by name."""
    file = Path(file)
    if not file.exists():
        raise FileNotFoundError(f"no weight file {file}")
    try:
        state = torch.load(file, map_location=device, weights_only=True)
    except Exception as e:  # torch raises a dozen kinds for a damaged or unsafe file
        raise ValueError(f"{file} is damaged or not a plain state dict: {(str(e) or type(e).__name__).splitlines()[0][:120]}") from e
    if not isinstance(state, dict) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ValueError(f"{file} is not a state dict (tensors by name)")
    return state


def load_into(module, state, source):
    """module.load_state_dict(state) with a one-line ValueError that names the source and the first keys that do not fit."""
    own = module.state_dict()
    wrong = sorted((own.keys() ^ state.keys()) | {k for k in own.keys() & state.keys() if own[k].shape != state[k].shape})
    if wrong:
        raise ValueError(f"{source} does not fit {type(module).__name__}: {', '.join(wrong[:4])}{', …' if len(wrong) > 4 else ''}")
    module.load_state_dict(state)


def load_vae(path, device=None, weights="vae_params.torch"):
    """The kernel VAE in a prior folder (params.yaml + vae_params.torch), ours or one published by the paper's authors.

    Returns a models.vae.VAE in evaluation mode.  Raises FileNotFoundError and ValueError."""
    path = Path(path)
    if not (path / "params.yaml").exists():
        raise FileNotFoundError(f"{path} is not a prior folder: no {path / 'params.yaml'}")
    try:
        params = yaml.safe_load((path / "params.yaml").read_text())
        vae = VAE(*(int(params[k]) for k in ("kernel_dim", "z_dim", "hidden_dim")), float(params.get("min_std", 0)))
    except (yaml.YAMLError, KeyError, TypeError) as e:
        raise ValueError(f"{path / 'params.yaml'} must give kernel_dim, z_dim and hidden_dim: {' '.join(str(e).split())}") from e
    state, own = load_weights(path / weights), vae.state_dict()
    for k in own.keys() & state.keys():  # a 1x1 head may be stored as Conv2d, ConvTranspose2d or Linear: same numbers, other shape
        if own[k].squeeze().shape == state[k].squeeze().shape:
            state[k] = state[k].reshape(own[k].shape)
    load_into(vae, state, path / weights)
    return vae.to(device or "cpu").eval()


def load_run(run_dir, pruned=False, device=None):
    """The net of a train_bnn.py run as it was trained, or the plain net that --prune left, with the data it was trained and tested on.

    device: by default the GPU if there is one.  Returns (net, train, test), the net in mode "det".  Raises FileNotFoundError and
    ValueError."""
    run_dir = Path(run_dir)
    params = yaml.safe_load((run_dir / "params.yaml").read_text())
    if (params.get("meta") or {}).get("script") != "train_bnn.py":
        raise ValueError(f"{run_dir / 'params.yaml'} is not of a run of train_bnn.py")
    younger = dict(alpha=None, validate=False, random_labels=False, permute=None)  # options that old runs do not have
    args = Namespace(**younger | params | dict(device=device or default_device()))
    train, test = load_data(args)
    net = build_net(args.model, "vanilla" if pruned else args.net_cfg, args.hid_dim, *train).to(args.device)
    layers = bayes_layers(net)
    set_rates(layers, prior_names(args.prior_list, layers), args.alpha)
    file = run_dir / ("pruned.torch" if pruned else "model.torch")
    load_into(net, dense_state(load_weights(file, args.device)), file)
    bnn_mode(net, "det")
    return net, train, test


def load_kernels(file):
    """Kernels saved by prune_kernels.py: float32 tensor (n, 1, k, k).  Raises FileNotFoundError and ValueError."""
    file = Path(file)
    if not file.exists():
        raise FileNotFoundError(f"no kernel file {file}; prune_kernels.py writes it")
    try:
        kernels = np.load(file, allow_pickle=False)
    except (ValueError, EOFError, OSError) as e:
        raise ValueError(f"{file} is not a readable .npy array: {e}") from e
    if kernels.ndim != 4 or kernels.shape[1] != 1 or kernels.shape[2] != kernels.shape[3] or len(kernels) == 0:
        raise ValueError(f"{file}: kernels must have shape (n, 1, k, k), not {kernels.shape}")
    return torch.from_numpy(kernels.astype(np.float32))


def one_per_layer(values, default, layers, flag, repeat=False):
    """A command-line list with one entry per convolution; the default for all if it was not given.

    repeat: whether a single entry may stand for all.  Raises ValueError on another length."""
    values = values or [default] * layers
    if repeat and len(values) == 1:
        values = values * layers
    if len(values) != layers:
        raise ValueError(f"{flag} needs one entry per layer: {layers}, got {len(values)}")
    return values


def kernel_source(init, name, conv, vae=None, kernels=None, pretrained=None):
    """What fills the convolution called `name`: an entry of --init_list, with that layer's VAE, trained kernels, or trained net."""
    if init == "xavier":
        return Xavier(conv.weight.shape)
    if init == "vae" and vae:
        return vae
    if init == "vae-mean" and vae:
        return DecoderMeans(vae)
    if init == "filters" and kernels is not None:
        return LearnedKernels(kernels)
    if init == "pretrained" and pretrained:
        state = {key.replace(".mean.", "."): w for key, w in load_weights(pretrained).items()}  # of a Bayesian net, the mean
        if f"{name}.weight" in state:
            return Pretrained(state[f"{name}.weight"])
    flag = {"vae": "--vae_list", "vae-mean": "--vae_list", "filters": "--filters_list", "pretrained": "--pretrained"}[init]
    raise ValueError(f"--init_list says {init} for {name}, but {flag} gives nothing for it")


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


def former_posterior(run, place):
    """(mean, log-variance) of the layer of that name in a former run.  Raises FileNotFoundError and ValueError."""
    state = load_weights(Path(run) / "model.torch")
    names = [f"{place}.{part}.weight" for part in ("mean", "var")]
    if not all(name in state for name in names):
        raise ValueError(f"{run} has no posterior of {place}: it needs the same --model and --net_cfg, and neither --alpha nor vd")
    return [state[name] for name in names]


def prior_names(prior_list, layers):
    """The entries of --prior_list, one per Bayesian layer; none for a net without."""
    return one_per_layer(prior_list, "sn", len(layers), "--prior_list", repeat=True) if layers else []


def build_priors(args, net, layers, vaes, filters):
    """One prior per Bayesian layer, in a ModuleList beside the net.  vaes, filters: of the convolutions, which come first."""
    names = prior_names(args.prior_list, layers)
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


# ---------------------------------------------------------------- pictures


def new_figure(width, height, columns=1, rows=1, **kwargs):
    """A matplotlib figure that needs no display, and its axes (an array if there are several). Sizes in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, **kwargs)


def save_figure(figure, file):
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130)


def kernel_sheet(kernels, columns=10):
    """Kernels (n, 1, k, k) as one picture (rows (k + 1) + 1, columns (k + 1) + 1), NaN between them."""
    kernels = kernels.detach().cpu()
    k, rows = kernels.shape[-1], -(-len(kernels) // columns)
    sheet = torch.full((rows * (k + 1) + 1, columns * (k + 1) + 1), float("nan"))
    for i, w in enumerate(kernels[:, 0]):
        r, c = divmod(i, columns)
        sheet[r * (k + 1) + 1 : (r + 1) * (k + 1), c * (k + 1) + 1 : (c + 1) * (k + 1)] = w
    return sheet.numpy()


def draw_kernels(axes, groups, columns=10):
    """One panel per group of kernels, {title: (n, 1, k, k)}, all on one colour scale centred at zero."""
    sheets = {title: kernel_sheet(w, columns) for title, w in groups.items()}
    limit = max(np.nanquantile(np.abs(s), 0.995) for s in sheets.values())
    for axis, (title, sheet) in zip(axes, sheets.items()):
        image = axis.imshow(sheet, cmap="RdBu_r", vmin=-limit, vmax=limit)
        axis.set_title(title, fontsize=10)
        axis.axis("off")
    axes[-1].figure.colorbar(image, ax=list(axes), shrink=0.7, label="weight")


def plot_kernels(groups, file):
    figure, axes = new_figure(3.6 * len(groups) + 0.8, 3.6, columns=len(groups))
    draw_kernels(axes, groups)
    save_figure(figure, file)


@torch.no_grad()
def plot_latent(vae, kernels, file, shown=250):
    """Latent means of kernels in a plane, some kernels drawn at their place, and the decoder's mean on a grid (paper, Fig. 5).

    Of a VAE with more than two latent dimensions, the plane of the two that vary most; the grid's others are 0."""
    z = vae.encoder(kernels)[0].cpu()
    plane = z.var(0).topk(2).indices.sort().values
    z = z[:, plane]
    limit = 1.1 * float(z.abs().quantile(0.995))
    figure, (left, right) = new_figure(11, 5.6, columns=2)
    left.plot(*z.T, ".", color="0.8", markersize=2)
    colours = float(kernels.abs().quantile(0.995))
    size = limit / 22
    for (x, y), w in zip(z[:shown].tolist(), kernels[:shown, 0].cpu()):
        left.imshow(w, cmap="RdBu_r", vmin=-colours, vmax=colours, extent=(x - size, x + size, y - size, y + size), zorder=2)
    names = dict(zip(("xlabel", "ylabel"), (f"$z_{i + 1}$" for i in plane.tolist())))
    left.set(xlim=(-limit, limit), ylim=(-limit, limit), title="kernels at their latent means", **names)
    axis = torch.linspace(-limit, limit, 15)
    grid = torch.zeros(15**2, vae.z_dim)
    grid[:, plane] = torch.cartesian_prod(axis.flip(0), axis).flip(1)  # rows from top to bottom, columns from left to right
    right.imshow(
        kernel_sheet(vae.decoder(grid.to(kernels.device))[0], 15),
        cmap="RdBu_r",
        vmin=-colours,
        vmax=colours,
        extent=(-limit, limit, -limit, limit),
    )
    right.set(title="decoder mean over the latent plane", **names)
    save_figure(figure, file)
