"""Pruning: of a trained Bayesian net by its posterior, with files of pruned nets, and of the dead filters of a net in training.

A weight is dropped by its signal-to-noise ratio mean^2 / sigma^2 (Molchanov et al. 2017; the slides' final algorithm) or by the
size of its mean (Kharitonov et al. 2018, appendix A). What is left is an ordinary net with the posterior's means for weights.
"""

from itertools import pairwise

import torch
from torch import nn

from .bayes import NOISE, BayesLayer, bayes_layers, mode

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
    state = {name.replace(".mean.", "."): value for name, value in net.state_dict().items() if not name.endswith(NOISE)}
    bayes = {f"{name}.weight" for name, layer in net.named_modules() if isinstance(layer, BayesLayer)}
    return {name: value.to_sparse() if name in bayes else value for name, value in state.items()}


def dense_state(state):
    """The state dict that a plain net loads, from one with sparse tensors."""
    return {name: value.to_dense() if value.is_sparse else value for name, value in state.items()}


def readers(net):
    """[(convolution, the layer that reads its channels)] of a plain chain of layers, from input to output.

    Raises ValueError for a net without convolutions, or with batch normalisation, which gives a channel of zeros a value again."""
    if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in net.modules()):
        raise ValueError("filters cannot be removed from a net with batch normalisation")
    layers = [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    found = [(layer, reader) for layer, reader in pairwise(layers) if isinstance(layer, nn.Conv2d)]
    if not found:
        raise ValueError("a net without convolutions has no filters to remove")
    return found


@torch.no_grad()
def check_chain(net, x):
    """Raise ValueError unless filters of zeros can leave a net without a trace: each convolution's channels must reach the next layer
    alone, channel by channel, and a channel of zeros as zeros. Images x (B, C, H, W) show it."""
    for conv, reader in readers(net):
        name = next(name for name, module in net.named_modules() if module is conv)
        plain = conv.groups == 1 == getattr(reader, "groups", 1)
        if not plain or not read_by_one(net, conv, reader, x):
            raise ValueError(
                f"only plain chains of layers can lose filters; what {name} makes also reaches other layers, or is changed on the way"
            )


def read_by_one(net, conv, reader, x):
    """Whether the first channel reaches only its own part of the reader's input, and the net's output only through the reader."""

    def run(value):
        seen = []
        hooks = [
            conv.register_forward_hook(lambda module, inputs, output: output.index_fill(1, torch.tensor(0, device=x.device), value)),
            reader.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]) or torch.zeros_like(output)),
        ]
        try:
            with mode(net, "det"):
                output = net(x)
        finally:
            for hook in hooks:
                hook.remove()
        return seen, output

    (zeros, output), (ones, other) = run(0.0), run(1.0)
    if len(zeros) != 1 or zeros[0].shape[1] % conv.out_channels:
        return False
    own = zeros[0].shape[1] // conv.out_channels  # a linear reader sees every pixel of a channel
    rest = torch.equal(zeros[0][:, own:], ones[0][:, own:])
    return rest and not zeros[0][:, :own].any() and torch.equal(output, other)


def keep_filters(conv, reader, alive, opt=None):
    """Cut a convolution down to the filters `alive`, a bool tensor (C_out,), and its reader down to their channels.

    Parameters stay the same objects, so that an optimiser goes on with them; no graph over them may be alive. opt: an optimiser, whose
    state is cut alike."""
    inputs = alive.repeat_interleave(reader.weight.shape[1] // len(alive))  # a linear reader sees every pixel of a channel
    bias = [(conv.bias, 0, alive)] if conv.bias is not None else []
    for p, dim, keep in ((conv.weight, 0, alive), *bias, (reader.weight, 1, inputs)):
        state = opt.state.get(p, {}) if opt else {}
        like_p = {name: t for name, t in state.items() if t.shape == p.shape}
        state |= {name: select(t, dim, keep) for name, t in like_p.items()}
        p.data, p.grad = select(p.data, dim, keep), None
    conv.out_channels = int(alive.sum())
    width = "in_channels" if isinstance(reader, nn.Conv2d) else "in_features"
    setattr(reader, width, reader.weight.shape[1])


def select(t, dim, keep):
    """The slices `keep` of a tensor along one dimension, in the memory format that it has."""
    format = torch.channels_last if t.ndim == 4 and t.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    return t.index_select(dim, keep.nonzero().squeeze(1)).contiguous(memory_format=format)


@torch.no_grad()
def drop_dead(net, opt, norm):
    """Take the filters whose weights, with their bias, have an L2 norm below `norm` out of a net in training, from input to output.

    Where these are exactly zero the net's function stays as it was.  Raises ValueError if a layer has no other."""
    for conv, reader in readers(net):
        bias = 0 if conv.bias is None else conv.bias.square()
        alive = (conv.weight.square().sum((1, 2, 3)) + bias).sqrt() >= norm
        if not alive.any():
            raise ValueError(f"all filters of a layer have died (norm below {norm:g}): a smaller --l2 leaves some")
        if not alive.all():
            keep_filters(conv, reader, alive, opt)


@torch.no_grad()
def narrow(net, state, *_):
    """Cut a net's convolutions down to the widths in a state dict, which may then be loaded; a pre-hook of load_state_dict."""
    names = {m: name for name, m in net.named_modules()}
    for conv, reader in readers(net):
        width = len(state[f"{names[conv]}.weight"])
        if width < conv.out_channels:  # else its strides stay, too, on which the last bit of a sum depends
            keep_filters(conv, reader, torch.arange(conv.out_channels, device=conv.weight.device) < width)
