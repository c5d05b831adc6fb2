"""A normalising flow of kernels: RealNVP (Dinh et al. 2017) on the k^2 weights."""

import torch
from torch import nn

from .densities import Density, GaussianKernels


class Coupling(nn.Module):
    """y = x on the dimensions of a mask, x exp(s) + t on the others, with s and t functions of the former; s is bounded.

    The last layer begins at zero, and the coupling at the identity."""

    def __init__(self, mask, hidden_dim):
        super().__init__()
        d = len(mask)
        self.register_buffer("mask", mask)
        self.net = nn.Sequential(
            nn.Linear(d, hidden_dim), nn.ELU(), nn.Linear(hidden_dim, hidden_dim), nn.ELU(), nn.Linear(hidden_dim, 2 * d)
        )
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)

    def scale_and_shift(self, kept):
        s, t = self.net(kept).chunk(2, 1)
        return 2 * torch.tanh(s / 2) * (1 - self.mask), t * (1 - self.mask)

    def forward(self, x):
        """(n, d) -> y (n, d), log |det dy/dx| (n,)."""
        s, t = self.scale_and_shift(x * self.mask)
        return x * s.exp() + t, s.sum(1)

    def inverse(self, y):
        s, t = self.scale_and_shift(y * self.mask)
        return (y - t) * (-s).exp()


class Flow(Density):
    """A Gaussian with full covariance, made flexible by `layers` couplings, whose masks are random halves, each followed by the other
    half.  log_prob is exact."""

    options = dict(kernel_dim=int, hidden_dim=int, layers=int)
    overfits = True

    def __init__(self, kernel_dim, hidden_dim=64, layers=8):
        super().__init__(kernel_dim)
        d, masks = kernel_dim**2, []
        generator = torch.Generator().manual_seed(0)  # masks are a part of the architecture
        while len(masks) < layers:
            half = (torch.randperm(d, generator=generator, device="cpu") < d // 2).float()
            masks += [half, 1 - half]
        self.couplings = nn.ModuleList(Coupling(mask, hidden_dim) for mask in masks[:layers])
        self.base = GaussianKernels(kernel_dim)

    def adapt(self, kernels):
        self.base = GaussianKernels.fit(kernels)

    def forward(self, w):
        """Kernels (n, 1, k, k) -> noise (n, k^2), log |det| (n,)."""
        x = torch.linalg.solve_triangular(self.base.scale, (self.flat(w) - self.base.mean).T, upper=False).T
        log_det = -self.base.scale.diagonal().log().sum().expand(len(w))
        for coupling in self.couplings:
            x, change = coupling(x)
            log_det = log_det + change
        return x, log_det

    def inverse(self, x):
        """Noise (n, k^2) -> kernels (n, 1, k, k)."""
        for coupling in reversed(self.couplings):
            x = coupling.inverse(x)
        return (x @ self.base.scale.T + self.base.mean).view(-1, 1, self.kernel_dim, self.kernel_dim)

    def log_prob(self, w):
        x, log_det = self(w)
        return torch.distributions.Normal(0.0, 1.0, validate_args=False).log_prob(x).sum(1) + log_det

    @torch.no_grad()
    def sample(self, n):
        return self.inverse(torch.randn(n, self.kernel_dim**2, device=self.base.mean.device))
