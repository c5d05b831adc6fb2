"""An autoregressive density of kernels: a PixelCNN (van den Oord et al. 2016) whose conditionals are mixtures of Gaussians."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Categorical, MixtureSameFamily, Normal

from .densities import Density


class MaskedConv(nn.Conv2d):
    """A convolution of `size` x `size`, odd, in which a weight sees those above it and to the left, and itself if `itself`."""

    def __init__(self, in_channels, out_channels, size, itself):
        super().__init__(in_channels, out_channels, size, padding=size // 2)
        mask = torch.zeros(size, size)
        mask[: size // 2] = 1
        mask[size // 2, : size // 2 + itself] = 1
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x):
        return self._conv_forward(x, self.weight * self.mask, self.bias)


class PixelCNN(Density):
    """p(w) = prod_i p(w_i | w_1 … w_{i-1}), in the order of reading, each factor a mixture of `components` Gaussians, by `layers` masked
    convolutions, of which the first reaches all weights before: small ones alone leave a blind corner.  log_prob is exact."""

    options = dict(kernel_dim=int, hidden_dim=int, layers=int, components=int)
    overfits = True

    def __init__(self, kernel_dim, hidden_dim=64, layers=3, components=8):
        super().__init__(kernel_dim)
        self.first = MaskedConv(1, hidden_dim, 2 * kernel_dim - 1, itself=False)
        self.hidden = nn.ModuleList(MaskedConv(hidden_dim, hidden_dim, 3, itself=True) for _ in range(layers - 1))
        self.last = nn.Conv2d(hidden_dim, 3 * components, 1)
        self.register_buffer("shift", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    def adapt(self, kernels):
        self.shift, self.scale = kernels.mean(), kernels.std()

    def conditionals(self, x):
        """p(x_i | those before) of standardised kernels x (n, 1, k, k), or of their first rows: a batch of (n, k, k) mixtures."""
        h = self.first(x)
        for layer in self.hidden:
            h = h + layer(F.elu(h))
        logits, mean, spread = self.last(F.elu(h)).movedim(1, -1).chunk(3, -1)
        return MixtureSameFamily(
            Categorical(logits=logits, validate_args=False),
            Normal(mean, F.softplus(spread) + 1e-3, validate_args=False),
            validate_args=False,
        )

    def log_prob(self, w):
        self.flat(w)  # convolutions would take other sizes as they are
        x = (w - self.shift) / self.scale
        return self.conditionals(x).log_prob(x[:, 0]).flatten(1).sum(1) - self.kernel_dim**2 * self.scale.log()

    @torch.no_grad()
    def sample(self, n):
        x = torch.zeros(n, 1, self.kernel_dim, self.kernel_dim, device=self.shift.device)
        for i in range(self.kernel_dim):
            for j in range(self.kernel_dim):
                x[:, 0, i, j] = self.conditionals(x[:, :, : i + 1]).sample()[:, i, j]  # the rows below are not seen
        return x * self.scale + self.shift
