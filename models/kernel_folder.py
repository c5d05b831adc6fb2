"""What goes into a folder of kernels beside the kernels: which layers they are of, where they come from, and a histogram of their norms.

prune_kernels.py chooses the kernels; models/prior_folder.py is the like for priors."""

import re
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from myexman import read_params, replacing, write_yaml

from .bayes import NOISE
from .pictures import new_figure, save_figure
from .prior_folder import load_weights, trained_weights

# what pruning.yaml says of the source runs
SOURCE_FACTS = ("data", "model", "hid_dim", "l2", "epochs", "bs", "lr", "drop_dead", "augment")
UNUSUAL = dict(num_examples=0, random_labels=False, permute=None)  # said where it is not this


def together(net, groups):
    """Kernels by convolution, as read_kernels() gives them, with those of each group of so many convolutions in a row as one, under the
    name of the first.

    Raises ValueError if the groups do not cover the net's convolutions, or kernels of one group differ in size."""
    if sum(groups) != len(net):
        raise ValueError(f"--together groups {sum(groups)} convolutions, the nets have {len(net)}")
    layers, merged = iter(net.items()), {}
    for n in groups:
        names, kernels = zip(*islice(layers, n))
        if len({w.shape[-1] for w in kernels}) > 1:
            raise ValueError(f"--together: the convolutions from {names[0]} to {names[-1]} have kernels of different sizes")
        merged[names[0]] = torch.cat(kernels)
    return merged


def by_size(nets):
    """Kernels of nets, each as read_kernels() gives them, with those of a size as one, in the order in which sizes come; perhaps none."""
    sizes = dict.fromkeys(w.shape[-1] for net in nets for w in net.values())

    def of_size(net, k):
        return torch.cat([torch.empty(0, 1, k, k), *(w for w in net.values() if w.shape[-1] == k)])

    return [{f"{k}x{k}": of_size(net, k) for k in sizes} for net in nets]


def repeated(of_nets):
    """Which kernels are those of an earlier net, up to float16's rounding, as of pools that overlap; those too small or too large for that
    are not.  of_nets: of each net (n, 1, k, k).  Returns bool (all n,)."""
    w, net = torch.cat(of_nets).flatten(1).numpy(), np.repeat(np.arange(len(of_nets)), [len(w) for w in of_nets])
    size = np.abs(w).max(1, initial=0)
    fits = (size > 1e-3) & (size < np.finfo(np.float16).max)
    _, first, group = np.unique(np.where(fits[:, None], w, 0).astype(np.float16), axis=0, return_index=True, return_inverse=True)
    return fits & (net != net[first[group.flatten()]])


def common_facts(params):
    """How source nets were trained, of their arguments: {argument: its value, or the list of values where nets differ}."""
    facts = {}
    unusual = [name for name, default in UNUSUAL.items() if any(p.get(name, default) != default for p in params)]
    for name in (*SOURCE_FACTS, *unusual):
        given = [p.get(name, UNUSUAL.get(name)) for p in params if name in p or name in UNUSUAL]
        several = [isinstance(value, list) and (name != "hid_dim" or isinstance(value[0], list)) for value in given]  # of a pool
        values = {str(v): v for value, many in zip(given, several) for v in (value if many else [value])}
        if values:
            facts[name] = next(iter(values.values())) if len(values) == 1 else list(values.values())
    return facts


def provenance(runs, nets, names):
    """What kernels come from: dict(nets, kernels: {layer: how many there were}, source: how the nets were trained), added up; and for each
    layer a list of the norms above which each run's kernels are all there: 0, but for a pool that was cut.

    nets: of each run its kernels by convolution.  names: the layers'.  A pool knows what it was made of from its .yaml.  Raises ValueError
    if that is of another pool."""
    known = []
    for run, net in zip(runs, nets):
        pool, params = Path(f"{run}.yaml"), run / "params.yaml"
        if pool.exists():
            try:
                facts = read_params(pool)
            except ValueError:
                facts = {}
            if set(facts.get("kernels", {})) - set(names):  # taken together by size, which the name begins with
                counts, lowest = Counter(), {}
                for name, n in facts["kernels"].items():
                    size, cut = name.partition("_")[0], facts.get("min_norm", {}).get(name, 0.0)
                    counts[size] += n
                    lowest[size] = max(cut, lowest.get(size, cut))
                facts |= dict(kernels=dict(counts), min_norm=lowest)
            if facts.keys() - {"min_norm"} != {"nets", "kernels", "source"} or not facts["kernels"].keys() <= set(names):
                raise ValueError(f"{pool} does not describe {run}, whose layers are {', '.join(names)}: delete {pool} or remake the pool")
        else:
            source = common_facts([read_params(params)]) if params.exists() else {}
            facts = dict(nets=1, kernels=dict(zip(names, map(len, net.values()))), source=source)
        known.append(facts)
    kernels = {name: sum(facts["kernels"].get(name, 0) for facts in known) for name in names}
    origin = dict(nets=sum(facts["nets"] for facts in known), kernels=kernels, source=common_facts([facts["source"] for facts in known]))
    cuts = {name: [facts.get("min_norm", {}).get(name, 0.0) for facts in known] for name in names}
    return origin, cuts


def layer_names(kernels):
    """conv7x7, conv5x5; conv5x5_1, conv5x5_2 where a net has several convolutions of one size."""
    sizes = [w.shape[-1] for w in kernels]
    seen = Counter()
    for k in sizes:
        seen[k] += 1
        yield f"conv{k}x{k}" + (f"_{seen[k]}" if sizes.count(k) > 1 else "")


def save_split(folder, train, test, facts):
    """Write train.npy, test.npy and pruning.yaml in place of the old ones."""
    with replacing(*(folder / name for name in ("train.npy", "test.npy", "pruning.yaml"))) as (train_part, test_part, facts_part):
        np.save(train_part, train)
        np.save(test_part, test)
        write_yaml(facts_part, facts)


def plot_norms(file, norms, cut, kept, total, low, high):
    figure, axes = new_figure(5, 3)
    bins = np.geomspace(0.99 * max(norms.min(), min(1e-6, norms.max())), 1.01 * norms.max(), 80)  # also of norms that are all the same
    axes.hist(norms, bins=bins, color="0.6")
    axes.axvline(cut, color="C3", label="cut")
    axes.axvspan(low, high, color="C0", alpha=0.2, label=f"10 % to 90 % of the kept: {low:.3g} to {high:.3g}")
    axes.set(xscale="log", yscale="log", xlabel="L2 norm of a kernel", ylabel="kernels")
    axes.set_title(f"cut at {cut:.3g}: {kept} of {total} kept", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    save_figure(figure, file)


LARGEST = 1e15  # whose square, summed over a kernel, still fits float32


def read_kernels(run):
    """{name of the convolution: its kernels (n, 1, k, k)} of a run folder or a file with a state dict, from input to output."""
    file = Path(run)
    state = trained_weights(file) if file.is_dir() else load_weights(file)
    convs = {name: w for name, w in state.items() if w.ndim == 4 and w.shape[2] == w.shape[3] > 1 and not name.endswith(NOISE)}
    turned = "of Keras, (k, k, inputs, outputs)? Those have to be transposed to (outputs, inputs, k, k)"
    if not convs:
        hint = f"; {turned}" if any(w.ndim == 4 and w.shape[0] == w.shape[1] in (3, 5, 7) for w in state.values()) else ""
        raise ValueError(f"{file} holds no convolution of square kernels{hint}")
    others = [name for name, w in state.items() if w.ndim == 5 or (w.ndim == 4 and w.shape[2] != w.shape[3])]
    if others:
        print(f"note: {file}: left out {', '.join(others)}, whose kernels are not square", file=sys.stderr)
    for w in convs.values():
        check_largest(w.max(), w.min(), source=file)
    if keras := [name for name, w in convs.items() if w.shape[0] == w.shape[1] in (3, 5, 7) and w.shape[2] > 7]:
        print(f"warning: {file}: {keras[0]} has the shape {tuple(convs[keras[0]].shape)}: {turned}", file=sys.stderr)
    if not file.is_dir() and file.suffix == ".safetensors" and len({re.sub(r"\d+", "", name) for name in convs}) > 1:
        print(f"note: {file} stores no order of layers, and their names do not show it; order taken: {', '.join(convs)}", file=sys.stderr)
    return {name: w.reshape(-1, 1, *w.shape[2:]).float() for name, w in convs.items()}


def load_kernels(file):
    """Kernels saved by prune_kernels.py: float32 tensor (n, 1, k, k).  Raises FileNotFoundError and ValueError."""
    file = Path(file)
    if not file.exists():
        raise FileNotFoundError(f"no kernel file {file}; prune_kernels.py writes it")
    try:
        kernels = np.load(file, mmap_mode="r", allow_pickle=False)  # which refuses a header that says more than the file holds
    except Exception as e:  # NumPy raises a dozen kinds
        raise ValueError(f"{file} is not a readable .npy array: {str(e) or type(e).__name__}") from e
    if not isinstance(kernels, np.ndarray):
        raise ValueError(f"{file} is an archive of arrays (.npz): save the kernels alone, with np.save")
    shape = kernels.shape
    if len(shape) != 4 or shape[1] != 1 or shape[2] != shape[3] or shape[0] == 0:
        raise ValueError(f"{file}: kernels must have shape (n, 1, k, k), not {shape}")
    if not (np.issubdtype(kernels.dtype, np.integer) or np.issubdtype(kernels.dtype, np.floating)):
        raise ValueError(f"{file}: kernels must be real numbers, not {kernels.dtype}")
    if not np.isfinite(kernels).all():
        raise ValueError(f"{file}: some kernels hold NaN or infinity")
    if not kernels.any():
        raise ValueError(f"{file}: all kernels are zero")
    check_largest(kernels.max(), kernels.min(), source=file)
    return torch.from_numpy(kernels.astype(np.float32))


def check_largest(*weights, source):
    """Raise ValueError if one of them is too large."""
    if (largest := max(abs(float(w)) for w in weights)) > LARGEST:
        raise ValueError(f"{source}: a weight of {largest:.1e} is too large to compute with in float32")
