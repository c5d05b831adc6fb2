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

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from models.kernel_folder import by_size, layer_names, plot_norms, provenance, read_kernels, save_split, together
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
    parser.add_argument("--out", required=True, help="where the conv{k}x{k} folders go")
    cut = parser.add_mutually_exclusive_group()
    cut.add_argument(
        "--min_norm",
        type=at_least(0, float),
        nargs="+",
        help=f"smallest L2 norm kept, one number or one per convolution (default: that of the published sets, {PUBLISHED_CUT})",
    )
    cut.add_argument(
        "--keep",
        type=share,
        nargs="+",
        help="share of all kernels, also of those that a pool lacks, that is kept, the largest; one number or one per convolution",
    )
    parser.add_argument(
        "--spread",
        type=ratio,
        nargs="+",
        metavar="R",
        help="raise the cut until the 90 %% quantile of the kept norms is at most R times the 10 %% quantile; one number or one per "
        "convolution; inf leaves the cut as it is",
    )
    parser.add_argument(
        "--max_flat",
        type=share,
        nargs="+",
        metavar="F",
        help="of those above the first cut, leave out kernels whose absolute cosine to one of equal weights is above F; one number or one "
        "per convolution, 1 leaves out none",
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--mean_norm",
        type=at_least(0, float),
        nargs="+",
        metavar="N",
        help="scale the kept kernels to a mean norm of N; one number or one per convolution, 0 for no scaling. In a Bayesian net, larger "
        "kernels keep their shape for longer (published 7x7: 1.34)",
    )
    size.add_argument(
        "--norm",
        type=at_least(0, float),
        nargs="+",
        metavar="N",
        help="scale each kept kernel to a norm of N, so that norms do not spread, whatever the cut; one number or one per convolution, 0 "
        "for no scaling",
    )
    parser.add_argument("--max_kernels", type=at_least(0), default=0, help="keep a random subset of this size at most; 0 is all")
    parser.add_argument(
        "--pool",
        metavar="FILE",
        help="write the kernels above the first cut, before --max_flat and --spread, to a state dict that can be given in place of the "
        "runs; FILE.yaml says what it was made of (float16: the same cut again may keep a few kernels more or fewer); --keep 1 stores all",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--together",
        type=at_least(1),
        nargs="+",
        metavar="N",
        help="how many consecutive convolutions share a folder, and an entry in the lists above: 7 6 6 for the stages of `resnet`, 19 "
        "for the whole net",
    )
    which.add_argument(
        "--by_size",
        action="store_true",
        help="kernels of one size share a folder, and an entry in the lists above, in order of first appearance; the nets may differ",
    )
    parser.add_argument("--test_share", type=share, default=0.2, help="share of the kept kernels that goes to test.npy")
    parser.add_argument("--seed", type=at_least(0), default=0, help="seed of the split and the subset")
    return parser.parse_args(argv)


def usable(runs):
    """The run folders and files that hold trained nets, each once; a line on stderr for every other.

    Raises ValueError if none is left."""
    found, left_out = {}, []
    for run in map(Path, runs):
        if run.resolve() in found:
            left_out.append(f"{run}: it is given twice")
        elif run.is_dir() and progress(run)[0] == 0:
            left_out.append(f"{run}: it stopped before its first evaluation")
        else:
            found[run.resolve()] = run
    if not found:
        raise ValueError(f"none of the runs holds a trained net; {left_out[0]}")
    print(*(f"note: left out {what}\n" for what in left_out), sep="", end="", file=sys.stderr)
    return list(found.values())


def of_different_kernels(runs):
    """{run: its kernels, as read_kernels() gives them} without runs that have the same as one before, such as a copy of its model.torch,
    which would put kernels into train.npy and test.npy both; a line on stderr for each."""
    found, nets = {}, {}
    for run in runs:
        net = read_kernels(run)
        first = found.setdefault(digest(list(net.values()))["sha256"], run)
        if first == run:
            nets[run] = net
        else:
            print(f"note: left out {run}: its kernels are those of {first}", file=sys.stderr)
    return nets


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


def main(argv=None):
    args = parse_args(argv)
    runs, nets = map(list, zip(*of_different_kernels(usable(args.runs)).items()))
    if args.together:
        nets = [together(net, args.together) for net in nets]
    if args.by_size:
        nets = by_size(nets)
    if len({tuple((name, w.shape[-1]) for name, w in net.items()) for net in nets}) > 1:
        raise ValueError("the nets differ in architecture: prune them apart, or take all kernels of a size together with --by_size")
    layers = [torch.cat(same) for same in zip(*(net.values() for net in nets))]
    lists = (one_per_layer(getattr(args, flag), default, len(layers), f"--{flag}") for flag, default in DEFAULTS.items())
    wanted = [SimpleNamespace(**dict(zip(DEFAULTS, values))) for values in zip(*lists)]
    names, layers = list(layer_names(layers)), [w.numpy() for w in layers]
    norms_of = [np.sqrt((w**2).sum((1, 2, 3))) for w in layers]
    for name, norms in zip(names, norms_of):
        if not norms.any():
            raise ValueError(f"all kernels of {name} are zero")
    (origin, cuts), rng, first_cuts, short = provenance(runs, nets, names), np.random.default_rng(args.seed), [], []
    for name, w, norms, own in zip(names, layers, norms_of, wanted):
        every = max(origin["kernels"][name], len(w))
        cut = threshold(norms, w.shape[-1], own.min_norm, own.keep, lost=every - len(w))
        short.append(cut < max(cuts[name]) if own.keep is None else own.keep * every > len(w) + 0.5)
        first_cuts.append(max(cut, min(cuts[name])))
    if args.pool:
        Path(args.pool).parent.mkdir(parents=True, exist_ok=True)
        pool = zip(names, layers, norms_of, first_cuts)
        save_state({f"{name}.weight": torch.from_numpy(w[above(norms, cut)]).half() for name, w, norms, cut in pool}, args.pool)
        write_yaml(Path(f"{args.pool}.yaml"), origin | dict(min_norm=dict(zip(names, first_cuts))))
    for name, w, norms, first_cut, lacking, own in zip(names, layers, norms_of, first_cuts, short, wanted):
        shaped = (flatness(torch.from_numpy(w)).numpy() <= own.max_flat) | (own.max_flat == 1)
        cut = narrow_cut(norms[shaped], first_cut, own.spread)
        if lacking and cut <= max(cuts[name]):
            what = f"a pool holds its kernels of norm >= {max(cuts[name]):.3g} alone, and smaller ones are asked for"
            print(f"note: {name}: {what}", file=sys.stderr)
        alive = rng.permutation(np.flatnonzero(above(norms, cut) & shaped))
        chosen = alive[: args.max_kernels or None]
        n_test = round(args.test_share * len(chosen))
        if not 0 < n_test < len(chosen):
            flat = f" and flatness <= {own.max_flat:g}" * (own.max_flat < 1)
            why = f"{len(alive)} of {len(w)} kernels have norm >= {cut:.3g}{flat}, and {len(chosen)} are taken"
            raise ValueError(f"{name}: {why}, too few to split at --test_share {args.test_share:g}")
        if own.norm and not norms[chosen].all():
            raise ValueError(f"{name}: kernels of norm 0 cannot be scaled to {own.norm:g}: give a --min_norm above 0, or a smaller --keep")
        folder = Path(args.out) / name
        folder.mkdir(parents=True, exist_ok=True)
        scale = own.mean_norm / float(norms[chosen].mean()) if own.mean_norm else 1.0
        kernels = w[chosen] * (own.norm / norms[chosen, None, None, None] if own.norm else np.float32(scale))
        low, high = np.quantile(norms[alive], (0.1, 0.9)).tolist()
        plot_norms(folder / "norms.png", norms, cut, len(alive), origin["kernels"][name], low, high)
        facts = dict(nets=origin["nets"], kernels=origin["kernels"][name], min_norm=round(cut, 4), kept=len(alive))
        facts |= dict(train=len(chosen) - n_test, test=n_test)
        facts |= dict(mean_norm=round(float(norms[alive].mean()), 3), norm_10=round(low, 3), norm_90=round(high, 3), scale=round(scale, 4))
        facts |= dict(norm=own.norm, max_flat=own.max_flat, source=origin["source"])
        save_split(folder, kernels[n_test:], kernels[:n_test], facts)
        print(f"{folder}: " + ", ".join(f"{k} {v}" for k, v in facts.items() if k != "source"))
        if high > WIDE * low and not own.norm:
            print(
                f"warning: {name}: the kept norms spread from {low:.2g} to {high:.2g} (10 % and 90 % quantile). A density of such "
                "kernels may peak at zero and draw all kernels there: see the drift test on the prior's card. "
                f"--spread {WIDE} cuts higher, --norm scales all to one norm",
                file=sys.stderr,
            )


if __name__ == "__main__":
    run_cli(main)
