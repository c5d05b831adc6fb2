"""Step 2: collect the kernels of trained nets, drop those of small norm, split them into train.npy and test.npy.

    python prune_kernels.py logs/source/runs/* --out logs/kernels

L2 leaves most kernels of a source net near zero, where they say nothing about structure and make a density hard to fit
(paper, section 3.3). Each convolution gets a folder <out>/conv{k}x{k} with train.npy and test.npy, float32 (n, 1, k, k), a
histogram of norms with the cut drawn in, and pruning.yaml, which says what was kept of what (norms before --mean_norm or --norm).

What is kept must be alike in norm. Kernels of widely spread norms are a scale mixture, whose density is highest at zero; a prior
fitted to them draws all kernels of a Bayesian net there. --spread cuts high enough; --norm gives all that is kept one norm. Nor may
many be flat, all weights alike: these are alike among themselves, and a density is highest there. --max_flat leaves them out
(models/screen.py measures both harms).
"""

import myexman.quiet  # noqa: F401  before what takes its time

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch

from models.kernel_folder import by_size, layer_names, plot_norms, provenance, read_kernels, repeated, save_split, together
from models.screen import flatness
from models.sources import one_per_layer
from myexman import Parser, at_least, checked, progress, save_state, share, write_yaml
from utils import digest, run_cli

# The lower edges of the L2 norm in the kernel sets that the paper's authors published.
PUBLISHED_CUT = {7: 0.39, 5: 0.13}
DEFAULTS = dict(min_norm=None, keep=None, max_flat=1.0, spread=float("inf"), mean_norm=0.0, norm=0.0)  # of what there is one per layer
ratio = checked(float, lambda value: value >= 1, "a ratio of quantiles, from 1 up, or inf")
WIDE = 1.7  # a spread above which priors of 5x5 kernels collapsed; published: 1.66 (5x5), 3.2 (7x7, without harm); our 7x7 holds at 1.8


def parse_args(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders, or files with a state dict")
    parser.add_argument("--out", required=True, type=os.path.expanduser, help="where the conv{k}x{k} folders go")

    group = parser.add_argument_group("which kernels are kept: lists have one entry for all convolutions, or one per convolution")
    per_layer = dict(type=at_least(0, float), nargs="+")
    add = group.add_mutually_exclusive_group().add_argument
    add("--min_norm", **per_layer, help=f"smallest L2 norm kept (default: that of the published sets, {PUBLISHED_CUT})")
    what = "share of all kernels, also of those that a pool lacks, that is kept, the largest"
    add("--keep", **per_layer | dict(type=share), help=what)
    add = group.add_argument
    what = "raise the cut until the 90 %% quantile of the kept norms is at most R times the 10 %% quantile; inf leaves the cut as it is"
    add("--spread", **per_layer | dict(type=ratio), metavar="R", help=what)
    what = "of those above the first cut, leave out kernels whose absolute cosine to one of equal weights is above F; 1 leaves out none"
    add("--max_flat", **per_layer | dict(type=share), metavar="F", help=what)
    add("--max_kernels", type=at_least(0), default=0, help="keep a random subset of this size at most; 0 is all")

    add = parser.add_argument_group("how large they are made: lists as above, 0 for no scaling").add_mutually_exclusive_group().add_argument
    what = "scale the kept kernels to a mean norm of N. In a Bayesian net, larger kernels keep their shape for longer (published 7x7: 1.34)"
    add("--mean_norm", **per_layer, metavar="N", help=what)
    add("--norm", **per_layer, metavar="N", help="scale each kept kernel to a norm of N, so that norms do not spread, whatever the cut")

    group = parser.add_argument_group("folders and files")
    add = group.add_mutually_exclusive_group().add_argument
    what = "how many consecutive convolutions share a folder, and an entry in the lists above: 7 6 6 for the stages of `resnet`, 19 for all"
    add("--together", type=at_least(1), nargs="+", metavar="N", help=what)
    what = "kernels of one size share a folder, and an entry in the lists above, in order of first appearance; the nets may differ"
    add("--by_size", action="store_true", help=what)
    add = group.add_argument
    what = "write the kernels above the first cut, before --max_flat and --spread, to a state dict that can be given in place of the runs; "
    what += "FILE.yaml says what it was made of (float16: the same cut again may keep a few kernels more or fewer); --keep 1 stores all"
    add("--pool", metavar="FILE", help=what)
    add("--test_share", type=share, default=0.2, help="share of the kept kernels that goes to test.npy")
    add("--seed", type=at_least(0), default=0, help="seed of the split and the subset")
    return parser.parse_args(argv)


class Layer(NamedTuple):
    """The kernels of a convolution, those of all nets together, and what is asked for of them."""

    name: str  # of its folder
    w: np.ndarray  # (n, 1, k, k)
    norms: np.ndarray  # (n,)
    total: int  # how many kernels the nets had; a pool lacks the smallest
    complete: float  # the norm above which none is lacking
    first_cut: float  # by --min_norm or --keep
    lacking: bool  # whether that asks for kernels that a pool lacks
    wanted: SimpleNamespace  # its entries in the lists of options, DEFAULTS


def read_nets(runs):
    """{run: its kernels, as read_kernels() gives them} of run folders and files that hold trained nets. A line on stderr for every other,
    and for one that has the kernels of one before, such as a copy, which would put them into train.npy and test.npy both.

    Raises ValueError if none is left."""
    nets, seen, left_out = {}, {}, []
    for run in map(Path, runs):
        if run.is_dir() and progress(run)[0] == 0:
            left_out.append(f"{run}: it stopped before its first evaluation")
            continue
        net = read_kernels(run)
        first = seen.setdefault(tuple(digest(list(net.values())).values()), run)
        if first is run:
            nets[run] = net
        else:
            left_out.append(f"{run}: " + ("it is given twice" if run.resolve() == first.resolve() else f"its kernels are those of {first}"))
    if not nets:
        raise ValueError(f"none of the runs holds a trained net; {left_out[0]}")
    print(*(f"note: left out {what}\n" for what in left_out), sep="", end="", file=sys.stderr)
    return nets


def collect(args):
    """The Layers of the runs, and what models.kernel_folder.provenance says of where they come from."""
    runs, nets = map(list, zip(*read_nets(args.runs).items()))
    if args.together:
        nets = [together(net, args.together) for net in nets]
    if args.by_size:
        nets = by_size(nets)
    if len({tuple((name, w.shape[-1]) for name, w in net.items()) for net in nets}) > 1:
        raise ValueError("the nets differ in architecture: prune them apart, or take all kernels of a size together with --by_size")
    kernels = list(zip(*(net.values() for net in nets)))  # of each layer, net by net
    lists = (one_per_layer(getattr(args, flag), default, len(kernels), f"--{flag}") for flag, default in DEFAULTS.items())
    wanted = [SimpleNamespace(**dict(zip(DEFAULTS, values))) for values in zip(*lists)]
    names = list(layer_names([first for first, *_ in kernels]))
    origin, cuts = provenance(runs, nets, names)
    layers = []
    for name, of_nets, own in zip(names, kernels, wanted):
        w, again = torch.cat(of_nets).numpy(), repeated(of_nets)
        if again.any():
            print(f"note: {name}: left out {again.sum()} kernels that another net has, as of pools that overlap", file=sys.stderr)
            w, origin["kernels"][name] = w[~again], origin["kernels"][name] - int(again.sum())
        norms = np.sqrt((w**2).sum((1, 2, 3)))
        if not norms.any():
            raise ValueError(f"all kernels of {name} are zero")
        total, stored, complete = max(origin["kernels"][name], len(w)), min(cuts[name]), max(cuts[name])
        cut = threshold(norms, w.shape[-1], own.min_norm, own.keep, lost=total - len(w))
        lacking = cut < complete if own.keep is None else own.keep * total > len(w) + 0.5
        layers.append(Layer(name, w, norms, total, complete, max(cut, stored), lacking, own))
    return layers, origin


def write_pool(file, layers, origin):
    """The kernels above the first cut as a state dict, in float16, and FILE.yaml, which says where they come from."""
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    cuts = {layer.name: layer.first_cut for layer in layers}
    kept = {f"{layer.name}.weight": layer.w[above(layer.norms, layer.first_cut)] for layer in layers}
    save_state({name: torch.from_numpy(w).half() for name, w in kept.items()}, file)
    write_yaml(Path(f"{file}.yaml"), origin | dict(min_norm=cuts))


def threshold(norms, k, min_norm, keep, lost=0):
    """The cut that the options ask for.  lost: how many kernels a pool has left out, which were smaller."""
    if keep is not None:
        return float(np.quantile(np.concatenate([np.zeros(lost), norms]), 1 - keep))
    if min_norm is not None:
        return min_norm
    if k not in PUBLISHED_CUT:
        raise ValueError(f"no default cut for {k}x{k} kernels: give --min_norm or --keep")
    return PUBLISHED_CUT[k]


def above(norms, cut):
    """Which norms are at least the cut, but for the rounding of a sum of squares in float32."""
    return norms >= cut * (1 - 1e-6)


def narrow_cut(norms, cut, spread):
    """The lowest cut, from `cut` up, above which the norms' 90 % quantile is at most `spread` times the 10 % quantile."""
    kept = np.sort(norms[above(norms, cut)])
    if not len(kept) or spread == np.inf:
        return cut
    first, rank = np.arange(len(kept)), np.arange(len(kept))
    low, high = (np.interp(first + q * (len(kept) - 1 - first), rank, kept) for q in (0.1, 0.9))  # np.quantile of kept[first:]
    lowest = int(np.argmax(high <= spread * low))
    return float(kept[lowest]) if lowest else cut


def choose(layer, rng):
    """(The final cut; the indices of the kernels above it that are not too flat, in random order.)"""
    own = layer.wanted
    shaped = (flatness(torch.from_numpy(layer.w)).numpy() <= own.max_flat) | (own.max_flat == 1)
    cut = narrow_cut(layer.norms[shaped], layer.first_cut, own.spread)
    if layer.lacking and cut <= layer.complete:
        what = f"a pool holds its kernels of norm >= {layer.complete:.3g} alone, and smaller ones are asked for"
        print(f"note: {layer.name}: {what}", file=sys.stderr)
    return cut, rng.permutation(np.flatnonzero(above(layer.norms, cut) & shaped))


def split(layer, cut, kept, args):
    """(Training kernels; held-out ones; the factor, 1 unless it is one for all) of the kernels of these indices above that cut."""
    own, taken = layer.wanted, kept[: args.max_kernels or None]
    n_test = round(args.test_share * len(taken))
    if not 0 < n_test < len(taken):
        flat = f" and flatness <= {own.max_flat:g}" * (own.max_flat < 1)
        why = f"{len(kept)} of {len(layer.w)} kernels have norm >= {cut:.3g}{flat}, and {len(taken)} are taken"
        raise ValueError(f"{layer.name}: {why}, too few to split at --test_share {args.test_share:g}")
    norms = layer.norms[taken]
    if own.norm and not norms.all():
        why = "give a --min_norm above 0, or a smaller --keep"
        raise ValueError(f"{layer.name}: kernels of norm 0 cannot be scaled to {own.norm:g}: {why}")
    scale = own.mean_norm / float(norms.mean()) if own.mean_norm else 1.0
    w = layer.w[taken] * (own.norm / norms[:, None, None, None] if own.norm else np.float32(scale))
    return w[n_test:], w[:n_test], scale


def describe(layer, origin, cut, kept, train, test, scale):
    """What pruning.yaml says of a folder.  Norms are those before they were scaled."""
    norms = layer.norms[kept]
    sizes = dict(min_norm=cut, mean_norm=norms.mean(), norm_10=np.quantile(norms, 0.1), norm_90=np.quantile(norms, 0.9), scale=scale)
    facts = dict(nets=origin["nets"], kernels=layer.total, kept=len(kept), train=len(train), test=len(test))
    facts |= {name: float(f"{size:.4g}") for name, size in sizes.items()}
    return facts | dict(norm=layer.wanted.norm, max_flat=layer.wanted.max_flat, source=origin["source"])


def warn_of_spread(layer, low, high):
    """If the kept norms, of which these are the 10 % and the 90 % quantile, spread so widely that a density of them may be no prior."""
    if high > WIDE * low and not layer.wanted.norm:
        print(
            f"warning: {layer.name}: the kept norms spread from {low:.2g} to {high:.2g} (10 % and 90 % quantile). A density of such "
            "kernels may peak at zero and draw all kernels there: see the drift test on the prior's card. "
            f"--spread {WIDE} cuts higher, --norm scales all to one norm",
            file=sys.stderr,
        )


def main(argv=None):
    args = parse_args(argv)
    layers, origin = collect(args)
    rng = np.random.default_rng(args.seed)
    chosen = [choose(layer, rng) for layer in layers]
    splits = [split(layer, cut, kept, args) for layer, (cut, kept) in zip(layers, chosen)]  # of all, before anything is written
    if args.pool:
        write_pool(args.pool, layers, origin)
    for layer, (cut, kept), (train, test, scale) in zip(layers, chosen, splits):
        folder = Path(args.out) / layer.name
        folder.mkdir(parents=True, exist_ok=True)
        facts = describe(layer, origin, cut, kept, train, test, scale)
        plot_norms(folder / "norms.png", layer.norms, cut, len(kept), layer.total, facts["norm_10"], facts["norm_90"])
        save_split(folder, train, test, facts)
        print(f"{folder}: " + ", ".join(f"{k} {v}" for k, v in facts.items() if k != "source"))
        warn_of_spread(layer, facts["norm_10"], facts["norm_90"])
    others = sorted({file.parent.name for file in Path(args.out).glob("conv*/train.npy")} - {layer.name for layer in layers})
    if others:
        print(f"note: {args.out} also holds {', '.join(others)}, of a former call", file=sys.stderr)


if __name__ == "__main__":
    run_cli(main)
