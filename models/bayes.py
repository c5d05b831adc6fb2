"""Bayesian layers: a fully factorised Gaussian posterior q(w) = N(mean, exp(var)) over the weights, biases point estimates.

The parametrisation is additive (Molchanov et al. 2017): `mean.weight` and the log-variance `var.weight` are free parameters,
under the names that published state dicts use; after `fix_rate(alpha)` or `learn_rate()` the variance is alpha mean^2 instead. A layer
runs in one of three modes, set for a whole net by `set_mode`, or by `mode` for a while:

    stoch    local reparametrisation (Kingma et al. 2015): every output activation gets its own noise; used in training
    sample   one weight sample w ~ q(w), shared by all inputs until the mode is set again; a member of an ensemble
    det      the posterior mean
"""

from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Normal
from torch.nn.utils import skip_init

from myexman import finite, positive

from .autograd import Reparametrized

MODES = ("stoch", "sample", "det")
NOISE = (".var.weight", ".rate")  # how the names of the posterior's noise parameters end; the others are those of the plain net


def bare(kind, *options):
    """A layer without bias whose weights are not drawn, where torch makes layers now: on the meta device, too."""
    return skip_init(kind, *options, bias=False, device=torch.get_default_device())


class BayesLayer(nn.Module):
    """What the Bayesian layers share. `mean` is the ordinary layer, `var` a bias-free twin whose weight is log sigma^2 (made
    with skip_init, so that a seed gives a net the same initial means with and without it).

    A subclass defines `apply_weight(x, weight, bias)`, its linear map, and `moments(x)`."""

    def __init__(self, mean, var, logvarinit=-10.0):
        super().__init__()
        self.mean, self.var = mean, var
        nn.init.constant_(var.weight, logvarinit)
        self.mode, self.sampled, self.alpha, self.rate = "stoch", None, None, None

    def fix_rate(self, alpha):
        """From now on q(w) = N(mean, alpha mean^2): Gaussian dropout of a fixed rate (Kharitonov et al. 2018, eq. 2), with the
        first two moments of binary dropout of rate p at alpha = p / (1 - p)."""
        self.var, self.alpha = None, alpha

    def learn_rate(self, logit=-2.0):
        """From now on q(w) = N(mean, alpha mean^2) with alpha = sigmoid(rate) in (0, 1) for each weight, learned from `logit` on:
        variational dropout (Kingma et al. 2015). The release begins at -2, alpha = .12: from the -10 of a log-variance Adam would not leave
        alpha = 0 in a thousand steps, and the net would stay deterministic."""
        self.var, self.rate = None, nn.Parameter(torch.full_like(self.mean.weight, logit))

    def scale(self):
        """Standard deviation of q, with the weight's shape."""
        if self.var is not None:
            return (0.5 * self.var.weight).exp()
        alpha = self.alpha if self.rate is None else self.rate.sigmoid()
        return (alpha * self.mean.weight.square() + 1e-16).sqrt()  # the floor keeps the gradient finite at 0

    def posterior(self):
        """q(w): Normal with the weight's shape."""
        return Normal(self.mean.weight, self.scale(), validate_args=False)

    def set_mode(self, mode):
        self.mode = mode
        self.sampled = self.posterior().sample() if mode == "sample" else None

    def moments(self, x):
        """Mean and variance of the pre-activation under w ~ q, for fixed x; both have the output's shape."""
        return self.mean(x), self.apply_weight(x * x, self.scale().square(), None)

    def forward(self, x):
        if self.mode == "det":
            return self.mean(x)
        if self.mode == "sample":
            return self.apply_weight(x, self.sampled, self.mean.bias)
        return Reparametrized.apply(*self.moments(x))


class BayesConv2d(BayesLayer):
    """Conv2d with q(w); x: (B, C_in, H, W) -> (B, C_out, H', W').  Weights: (C_out, C_in, k, k).

    Its arguments come in Conv2d's order.  Raises ValueError for a dilation, for groups, and for options of Conv2d that are not here."""

    def __init__(
        self, in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, groups=1, bias=True, logvarinit=-10.0, **others
    ):
        others |= {name: value for name, value in (("dilation", dilation), ("groups", groups)) if value not in (1, (1, 1))}
        if others:
            raise ValueError(f"a Bayesian convolution takes no {', '.join(others)}")
        like = (in_channels, out_channels, kernel_size, stride, padding)
        super().__init__(nn.Conv2d(*like, bias=bias), bare(nn.Conv2d, *like), logvarinit)

    def apply_weight(self, x, weight, bias):
        return F.conv2d(x, weight, bias, self.mean.stride, self.mean.padding)


class BayesLinear(BayesLayer):
    """Linear with q(w); x: (B, in) -> (B, out).  Weights: (out, in)."""

    def __init__(self, in_features, out_features, bias=True, logvarinit=-10.0):
        super().__init__(nn.Linear(in_features, out_features, bias), bare(nn.Linear, in_features, out_features), logvarinit)

    def apply_weight(self, x, weight, bias):
        return F.linear(x, weight, bias)


# --net_cfg: what a net is built of. Fully connected layers are point estimates, as in the deep weight prior's paper, but with bayes-all.
LAYERS = {
    "vanilla": {},
    "vanilla-do": dict(dropout=0.5),
    "bayes": dict(conv=BayesConv2d),
    "bayes-all": dict(conv=BayesConv2d, linear=BayesLinear),
}


def log_variance(word):
    """An argparse type: a number, or relative:R with R above 0."""
    relative, colon, share = word.partition(":")
    if relative == "relative" and colon:
        return f"relative:{positive(share)}"
    return finite(word)


def noise_share(logvar):
    """R of 'relative:R', which makes sigma that share of the root mean square of a layer's means; None of a number."""
    return float(logvar.partition(":")[2]) if isinstance(logvar, str) else None


@torch.no_grad()
def init_posterior(layers, logvar, spread=0.0):
    """Draw the log-variances of Bayesian layers from N(logvar, spread^2).  logvar: a number, or 'relative:R', see noise_share()."""
    for layer in layers:
        share = noise_share(logvar)
        layer.var.weight.fill_(logvar if share is None else (share * layer.mean.weight).square().mean().log())
        if spread:
            layer.var.weight.add_(spread * torch.randn_like(layer.var.weight))


def set_rates(layers, priors, alpha=None, logit=-2.0):
    """Tie the variances to the means: at the fixed rate alpha, if there is one, or at a learned one where a layer's prior is `vd`."""
    for layer, prior in zip(layers, priors):
        if alpha is not None:
            layer.fix_rate(alpha)
        elif prior == "vd":
            layer.learn_rate(logit)


@torch.no_grad()
def log_variances(layers, shares=(0.05, 0.5, 0.95)):
    """{"logvar_05": …}: quantiles of the posterior's log-variances over all weights of Bayesian layers; nothing if there are none."""
    if not layers:
        return {}
    values = torch.cat([2 * layer.scale().log().flatten() for layer in layers]).cpu().numpy()
    return {f"logvar_{round(100 * share):02d}": float(q) for share, q in zip(shares, np.quantile(values, shares))}


def bayes_layers(net):
    """The Bayesian layers of a net, from input to output."""
    return [m for m in net.modules() if isinstance(m, BayesLayer)]


def conv_layers(net):
    """{name: convolution, transposed or not} from input to output; of a Bayesian one, the module that holds its mean weight and bias."""
    of_layers = {f"{name}.{part}": name for name, m in net.named_modules() if isinstance(m, BayesLayer) for part in ("mean", "var")}
    convs = {name: m for name, m in net.named_modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))}
    return {of_layers.get(name, name): m for name, m in convs.items() if not (name in of_layers and name.endswith("var"))}


def is_stochastic(net):
    dropout = nn.modules.dropout._DropoutNd
    return any(isinstance(m, BayesLayer) or (isinstance(m, dropout) and m.p > 0) for m in net.modules())


def set_mode(net, word):
    """Put a net into one of MODES. Other modules than Bayesian layers are as in training in both random modes, so that dropout of any kind
    is on (MC dropout); but a normalisation takes its statistics from the batch in `stoch` only."""
    if word not in MODES:
        raise ValueError(f"unknown mode {word!r}; choose from {', '.join(MODES)}")
    for m in net.modules():
        m.training = word == "stoch" if isinstance(m, nn.modules.batchnorm._NormBase) else word != "det"
        if isinstance(m, BayesLayer):
            m.set_mode(word)


@contextmanager
def mode(net, word):
    """with mode(net, "det"): …    A net in another mode; afterwards each layer is in the one it was in, with its weight sample."""
    states = [(m, m.training, getattr(m, "mode", None), getattr(m, "sampled", None)) for m in net.modules()]
    set_mode(net, word)
    try:
        yield net
    finally:
        for m, training, former, sampled in states:
            m.training = training
            if isinstance(m, BayesLayer):
                m.mode, m.sampled = former, sampled
