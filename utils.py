"""What the scripts share: flags, seeds, the epoch function, prediction, metrics, and loading (load_vae and its like, from models/)."""

import hashlib
import math
import os
import sys
from argparse import ArgumentTypeError
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from data import load_dataset, permute_pixels, shuffle_labels
from models import build_net, own_file
from models.bayes import bayes_layers, is_stochastic, mode, set_mode, set_rates
from models.initialization import INITS
from models.kernel_folder import load_kernels  # noqa: F401  for those who use them from here
from models.prior_folder import load_density, load_into, load_vae, load_weights, trained_weights  # noqa: F401
from models.sources import prior_names
from myexman import OtherInputs, Stopped, at_least, find_run, quiet, read_params, resolve_paths, survive_a_lost_terminal, write_yaml

# ---------------------------------------------------------------- running a script


def run_cli(main):
    """Run main() from the shell. A mistake in the input, a NaN, or too little memory is one line on stderr and exit status 2
    ($DWP_TRACEBACK shows where it came from). A character that the terminal lacks is replaced; a lost terminal does not end the run."""
    survive_a_lost_terminal()
    quiet.over()
    try:
        main()
    except (ValueError, OSError, FloatingPointError, MemoryError, RuntimeError) as e:
        full = isinstance(e, (MemoryError, torch.OutOfMemoryError)) or "not enough memory" in str(e)
        if os.environ.get("DWP_TRACEBACK") or (isinstance(e, RuntimeError) and not full):
            raise
        print(f"{Path(sys.argv[0]).name}: error: {' '.join(str(e).split())}", file=sys.stderr)
        sys.exit(2)
    except Stopped as e:
        print(f"{Path(sys.argv[0]).name}: {e}", file=sys.stderr)
        sys.exit(128 + e.args[0])
    except KeyboardInterrupt:
        sys.exit(130)


DATA_OPTIONS = ("data", "data_root", "num_examples", "data_split_seed", "validate", "random_labels", "permute", "device")


BATCH, LR = 256, 1e-3  # images per step, Adam's learning rate at the start (paper)


def add_common_flags(parser, epochs, bs, lr=LR):
    """Flags of the scripts that train a network on images; returns what adds another to those of the training."""
    add = parser.add_argument_group("images").add_argument
    add("--data_root", default=default_data_root(), help="folder of the data sets ($DATA_ROOT)")
    add("--num_examples", type=at_least(0), default=0, help="size of a training subset, as many of each class; 0: all (paper: 50 to 1000)")
    add("--data_split_seed", type=at_least(0), default=0, help="draws the subset (paper: 0 to 9)")
    add("--validate", action="store_true", help="test on a held-out sixth of each class's training images, to choose hyper-parameters")
    add("--random_labels", action="store_true", help="shuffle the training labels, whatever the images show")
    add("--permute", type=at_least(0), metavar="SEED", help="apply one permutation of the pixels, drawn with this seed, to every image")
    add = parser.add_argument_group("training").add_argument
    add("--hid_dim", type=at_least(1), nargs="+", help="widths of the hidden layers, filters of convolutions; by default the paper's")
    add("--epochs", type=at_least(1), default=epochs, help="passes over the training set (paper: 10000 for the Bayesian nets)")
    add("--bs", type=at_least(1), default=bs, help="images per step (paper: 256)")
    add("--lr", type=at_least(0, float), default=lr, help="Adam's learning rate at the start; it falls linearly to 0 (paper: 0.001)")
    add_run_flags(parser)
    return add


def add_init_flags(parser):
    """Where the first kernels of each convolution come from; a single entry of a list stands for all convolutions."""
    add = parser.add_argument_group("first kernels").add_argument
    add("--init_list", nargs="+", choices=INITS, help="initialisation of each convolution (default: xavier; paper: vae)")
    what = "prior folder for each convolution (of any density), or none; for `vae` in --init_list, and priors"
    add("--density_list", "--vae_list", dest="vae_list", nargs="+", default=[], metavar="DIR", help=what)
    what = "folder with train.npy for each convolution, or none; for `filters` in --init_list, and priors that are fitted"
    add("--filters_list", nargs="+", default=[], help=what)
    add("--pretrained", help="run, or state dict, of a trained net, for `pretrained` in --init_list")


def check_batches(net, n, bs):
    """Raise ValueError if a net with batch normalisation would get a minibatch of one of n images."""
    if (bs == 1 or n % bs == 1) and any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in net.modules()):
        raise ValueError(f"--bs {bs} makes a minibatch of one of {n} images, too few for batch normalisation: choose another --bs")


def data_options(params):
    """Those of a script's parameters, a dict, that say which data it takes, and where."""
    return {name: params[name] for name in DATA_OPTIONS if name in params}


def load_data(data, data_root, num_examples=0, data_split_seed=0, validate=False, random_labels=False, permute=None, device="cpu"):
    """The training and the test Dataset that the options of these names ask for, on the device."""
    if data_split_seed and not (num_examples or random_labels):
        print("note: --data_split_seed chooses the images of --num_examples, without which all are taken", file=sys.stderr)
    train, test = load_dataset(data, data_root, num_examples, data_split_seed, validate)
    if random_labels:
        train = shuffle_labels(train, data_split_seed)
    if permute is not None:
        train, test = permute_pixels(train, permute), permute_pixels(test, permute)
    return train.to(device), test.to(device)


INPUTS = dict(train="training data", test="test data", kernels="kernels and priors", net="code of its net (FILE.py)")


BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def digest(tensors):
    """What tells tensors from others: their shapes, a hash of all labels, and of some of the images, kernels or filters, and the sum of all
    their bits, read as whole numbers, which tells all but their order."""
    sha = hashlib.sha256()
    for t in tensors:
        some = t if t.ndim < 2 else t[:: max(len(t) // 256, 1)]
        sha.update(some.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    total = sum(
        int(part.view(BITS[part.element_size()]).sum(dtype=torch.int64))
        for t in tensors
        for part in torch.atleast_1d(t.detach()).split(4096)
    )
    return dict(shapes=" ".join("x".join(map(str, t.shape)) for t in tensors), sha256=sha.hexdigest(), total=total)


def differ(known, found):
    """Whether two digests are of different tensors; a former version's has no total."""
    return any(known[name] != found[name] for name in known.keys() & found.keys())


def known_inputs(run_dir):
    """{name in INPUTS: digest()} of what a run began with, as far as its data.yaml says."""
    file = Path(run_dir) / "data.yaml"
    known = read_params(file) if file.exists() else {}
    return dict(train=known) if "sha256" in known else known  # a former version's


def check_same_inputs(args, **inputs):
    """Note in a new run's folder, in data.yaml, what it is made of.  inputs: lists of tensors by names in INPUTS.

    Raises OtherInputs if a run that is resumed began with others."""
    known, found = known_inputs(args.run_dir), {name: digest(tensors) for name, tensors in inputs.items()}
    for name in found:
        if args.resume and differ(known.get(name, {}), found[name]):
            raise OtherInputs(f"{args.run_dir} began with other {INPUTS[name]} than it finds now, so it cannot be resumed: start a new run")
    if not args.resume:
        write_yaml(args.run_dir / "data.yaml", known | found)


def default_data_root():
    return os.environ.get("DATA_ROOT", "./datasets")


def add_run_flags(parser):
    parser.add_argument("--seed", type=at_least(0), default=0, help="seeds all but the choice of the training subset and random labels")
    parser.add_argument("--device", type=usable_device, default=default_device(), help="cpu, cuda, cuda:1, …")


def default_device():
    return "cuda" if torch.cuda.is_available() else "cpu"


def usable_device(name):
    """An argparse type: the name of a device that this machine has."""
    try:
        torch.zeros(1, device=name).tolist()  # whose values can be looked at, unlike those of `meta`
    except Exception as e:  # torch raises AssertionError, RuntimeError and others
        raise ArgumentTypeError(f"{name}: {str(e).splitlines()[0]}") from e
    return name


def seed_everything(seed):
    np.random.seed(seed)
    torch.manual_seed(seed)


# ---------------------------------------------------------------- training


def linear_lr(opt, epoch, epochs, lr, decrease_from=0):
    """Set the learning rate of epoch (0, 1, …, epochs - 1): lr until decrease_from, then down on a line that reaches 0 at `epochs`.
    That of a parameter group with a `factor` is so many times as large."""
    for group in opt.param_groups:
        group["lr"] = group.get("factor", 1.0) * lr * min(1.0, (epochs - epoch) / max(epochs - decrease_from, 1))


def steps_per_epoch(n, bs):
    """How many minibatches of bs there are in n items, the last perhaps smaller."""
    return math.ceil(n / bs)


def minibatches(data, bs):
    """Shuffled minibatches of tensors of equal length; a set that fits in one minibatch is passed on as it is."""
    n = len(data[0])
    if n <= bs:
        yield tuple(data)
        return
    for i in torch.randperm(n, device=data[0].device).split(bs):
        yield tuple(t[i] for t in data)


def take_steps(data, bs, opt, objective):
    """The steps of one pass. No value is read meanwhile, so no step waits for the device.  Yields loss, report, size of the minibatch."""
    for batch in minibatches(data, bs):
        loss, report = objective(*batch)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        opt.step()
        yield loss.detach(), {name: value.detach() for name, value in report.items()}, len(batch[0])


def train_epoch(data, bs, opt, objective, epoch=0):
    """One pass over data, a tuple of tensors.  objective(*batch) -> (loss, dict of 0-d tensors to report).

    Returns the reported values' means over items, as floats.  Raises FloatingPointError if a loss or, after the pass, a weight
    is NaN or infinite; both are looked at once per pass."""
    losses, reports, sizes = zip(*take_steps(data, bs, opt, objective))
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
    return {k: float(share @ torch.stack([r[k] for r in reports]).double().cpu()) for k in reports[0]}


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
        with mode(net, "sample"):
            members.append(predict(net, x, bs))
    return members


def ensemble_average(members):
    """log of the mean probability: list of (N, classes) -> (N, classes)."""
    return torch.logsumexp(torch.stack(members), 0) - np.log(len(members))


def metrics(log_probs, y):
    """dict of floats: acc in [0, 1]; nll, nats per image; ece in [0, 1], 15 equal bins of confidence; brier in [0, 2].

    log_probs: (N, classes), of any floating type.  y: (N,).  Raises ValueError for a label that is no class, and FloatingPointError for
    NaN."""
    if y.max() >= log_probs.shape[1]:
        raise ValueError(f"label {int(y.max())} is none of the {log_probs.shape[1]} classes")
    log_probs = log_probs.float()
    if log_probs.isnan().any():
        raise FloatingPointError("the net predicts NaN: its training has diverged; try a smaller --lr")
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
    with mode(net, "det"):
        results = {"mean": predict(net, data.x)}
    if is_stochastic(net) and ens > 0:
        members = mc_ensemble(net, data.x, ens)
        results |= {"one": members[0], "ens": ensemble_average(members)}
    return {f"{who}_{name}": v for who, log_probs in results.items() for name, v in metrics(log_probs, data.y).items()}


# ---------------------------------------------------------------- loading


def load_run(run_dir, pruned=False, device=None, data_root=None):
    """The net of a train_bnn.py run as it was trained, or the plain net that --prune left, with the data it was trained and tested on.

    run_dir: its folder, or its number under $DWP_PATH, as `python -m myexman` shows it.
    device: by default the GPU if there is one.  data_root: of the data sets, if not where the run found them.  Returns (net, train,
    test), the net in mode "det"; warns if the data have changed since.  Raises FileNotFoundError and ValueError."""
    run_dir = Path(find_run(str(run_dir)))
    device = device or default_device()
    params = read_params(run_dir / "params.yaml")
    if (params.get("meta") or {}).get("script") != "train_bnn.py":
        raise ValueError(f"{run_dir / 'params.yaml'} is not of a run of train_bnn.py")
    params = resolve_paths(params, ("data_root",), ("data",))
    if params.get("validate") and "cwd" not in params["meta"]:
        raise ValueError(f"{run_dir} was validated on every sixth training image, as --validate then did; today it holds out other images")
    try:
        train, test = load_data(**data_options(params) | dict(device=device) | (dict(data_root=data_root) if data_root else {}))
        net = build_net(params["model"], "vanilla" if pruned else params["net_cfg"], params["hid_dim"], *train, new=False).to(device)
        layers = bayes_layers(net)
        set_rates(layers, prior_names(params["prior_list"], layers), params.get("alpha"))
    except (KeyError, TypeError, AttributeError) as e:  # an option that is missing, or of another kind
        raise ValueError(f"{run_dir / 'params.yaml'} does not describe a run of train_bnn.py ({type(e).__name__}: {e})") from e
    file = "pruned.torch" if pruned else "model.torch"
    load_into(net, trained_weights(run_dir, file, device), run_dir / file)
    set_mode(net, "det")
    known = known_inputs(run_dir)
    for name, found in dict(train=train, test=test, net=own_file(params["model"])).items():
        if differ(known.get(name, {}), digest(found)):
            print(f"warning: {run_dir} had other {INPUTS[name]} than are found now", file=sys.stderr)
    return net, train, test
