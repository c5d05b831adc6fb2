"""Initialisation of a convolution as "fill it from sample(n)": a source of kernels is anything with sample(n) -> (n, 1, k, k), and a Layer
knows what it can be filled from."""

import math
import sys
from typing import NamedTuple

import torch

from .densities import Density


class Xavier:
    """Glorot & Bengio's normal distribution for a weight of shape (C_out, C_in, k, k), as in the original code."""

    def __init__(self, shape):
        self.k = shape[-1]
        self.std = math.sqrt(2 / ((shape[0] + shape[1]) * self.k**2))

    def sample(self, n):
        return self.std * torch.randn(n, 1, self.k, self.k)


class LearnedKernels:
    """Draws with replacement from an array of trained kernels (n, 1, k, k), what prune_kernels.py writes."""

    def __init__(self, kernels):
        self.kernels = kernels

    def sample(self, n):
        return self.kernels[torch.randint(len(self.kernels), (n,))]


class Pretrained:
    """The kernels of one trained layer of the same shape, (C_out, C_in, k, k), in their order."""

    def __init__(self, weight):
        self.weight = weight

    def sample(self, n):
        return self.weight.reshape(n, 1, *self.weight.shape[2:])


class DecoderMeans:
    """Decoder means of codes z ~ p(z) of a kernel VAE: samples of the prior without its noise, which the original release starts from."""

    def __init__(self, vae):
        if not hasattr(vae, "decoder"):
            raise ValueError(f"a {type(vae).__name__} has no decoder: start from its samples, `vae` in --init_list")
        self.vae = vae

    def sample(self, n):
        return self.vae.decoder(self.vae.sample_codes(n))[0]


@torch.no_grad()
def fill(weight, source):
    """Fill a convolution's weight (C_out, C_in, k, k), transposed or not, with source.sample(C_out C_in).

    Raises ValueError for a weight that is computed from others, or has kernels that are not square, or not the source's."""
    if not weight.is_leaf:
        raise ValueError("a convolution's kernels are computed from other tensors (weight_norm, spectral_norm), and cannot be set")
    c1, c2, k, width = weight.shape
    if k != width:
        raise ValueError(f"a convolution has kernels of {k}x{width}, and only square ones are supported")
    if isinstance(source, Pretrained) and source.weight.shape[:2] != (c1, c2):
        shapes = tuple(source.weight.shape), tuple(weight.shape)
        raise ValueError("a pretrained weight {} does not fit {}; the nets differ in width".format(*shapes))
    w = source.sample(c1 * c2)
    if w.shape[-1] != k:
        raise ValueError(f"the source has {w.shape[-1]}x{w.shape[-1]} kernels, the layer {k}x{k}")
    weight.copy_(w.view(c1, c2, k, k))


class Layer(NamedTuple):
    """A convolution, plain or Bayesian, or another Bayesian layer, with what its first kernels and its prior can be made of."""

    name: str  # in the net
    module: torch.nn.Module
    init: str | None = None  # of a convolution: its entry of --init_list
    density: Density | None = None  # of --vae_list
    kernels: torch.Tensor | None = None  # trained ones (n, 1, k, k), of --filters_list
    pretrained: torch.Tensor | None = None  # a trained layer's weight, of --pretrained

    @property
    def weight(self):
        """The weight, of a Bayesian layer its mean."""
        return getattr(self.module, "mean", self.module).weight

    def given(self):
        """The tensors that the command line gives for it."""
        density = [] if self.density is None else self.density.state_dict().values()
        return [*density, *(t for t in (self.kernels, self.pretrained) if t is not None)]


# --init_list: what of a Layer a source of kernels is made of, the flag that gives it, and the source
SOURCES = {
    "vae": ("density", "--vae_list", lambda density: density),
    "vae-mean": ("density", "--vae_list", DecoderMeans),
    "filters": ("kernels", "--filters_list", LearnedKernels),
    "pretrained": ("pretrained", "--pretrained", Pretrained),
}
INITS = ("xavier", *SOURCES)


def initialize(layers):
    """Fill each convolution from the source of kernels that --init_list names for it; one that is frozen stays as its class made it."""
    for layer in layers:
        frozen = layer.init and not layer.weight.requires_grad and layer.weight.is_leaf
        if frozen and layer.init != "xavier":
            raise ValueError(f"--init_list says {layer.init} for {layer.name}, which is frozen (requires_grad is False): say xavier there")
        if frozen:
            print(f"note: {layer.name} is frozen (requires_grad is False), and keeps its kernels", file=sys.stderr)
        elif layer.init == "xavier":
            fill(layer.weight, Xavier(layer.weight.shape))
        elif layer.init:
            what, flag, source = SOURCES[layer.init]
            if getattr(layer, what) is None:
                raise ValueError(f"--init_list says {layer.init} for {layer.name}, but {flag} gives nothing for it")
            fill(layer.weight, source(getattr(layer, what)))
