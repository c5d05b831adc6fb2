"""Pruning of a trained Bayesian net by its posterior, and files of pruned nets.

A weight is dropped by its signal-to-noise ratio mean^2 / sigma^2 (Molchanov et al. 2017; the slides' final algorithm) or by the
size of its mean (Kharitonov et al. 2018, appendix A). What is left is an ordinary net with the posterior's means for weights.
"""

import torch
from torch import nn

from .bayes import BayesLayer, bayes_layers

# --prune: what is compared with the threshold, and the threshold of the paper that uses it (log alpha = 3; 0.01)
CRITERIA = {"snr": (lambda q: (q.loc / q.scale).square(), 0.05), "mean": (lambda q: q.loc.abs(), 1e-2)}


@torch.no_grad()
def prune(net, criterion, threshold):
    """Set the means below the threshold to zero; the net then predicts in mode "det".

    Returns {layer: (weights kept, weights)}; a layer that is not Bayesian counts as kept.  Raises ValueError for a net without
    Bayesian layers."""
    if not bayes_layers(net):
        raise ValueError("only a net with Bayesian layers can be pruned: use --net_cfg bayes or bayes-all")
    score, counts = CRITERIA[criterion][0], {}
    for name, layer in net.named_modules():
        if isinstance(layer, BayesLayer):
            keep = score(layer.posterior()) >= threshold
            layer.mean.weight.mul_(keep)
            counts[name] = int(keep.sum()), keep.numel()
        elif isinstance(layer, (nn.Conv2d, nn.Linear)) and not name.endswith((".mean", ".var")):
            counts[name] = layer.weight.numel(), layer.weight.numel()
    return counts


def compression(counts):
    """All weights of the layers by those kept, biases aside (Kharitonov et al. 2018, Table 1); inf for an empty net."""
    kept, total = (sum(c) for c in zip(*counts.values()))
    return total / kept if kept else float("inf")


def sparse_state(net):
    """State dict of the plain net (--net_cfg vanilla) with the pruned means, weights as sparse tensors."""
    state = {name.replace(".mean.", "."): value for name, value in net.state_dict().items() if not name.endswith(".var.weight")}
    bayes = {f"{name}.weight" for name, layer in net.named_modules() if isinstance(layer, BayesLayer)}
    return {name: value.to_sparse() if name in bayes else value for name, value in state.items()}


def dense_state(state):
    """The state dict that a plain net loads, from one with sparse tensors."""
    return {name: value.to_dense() if value.is_sparse else value for name, value in state.items()}
