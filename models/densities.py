"""Closed-form densities of kernels: the baselines that a learned one has to beat."""

import torch
from torch import nn
from torch.distributions import MultivariateNormal, Normal


class GaussianKernels(nn.Module):
    """A Gaussian over k x k kernels fitted by maximum likelihood, with full covariance or independent weights.

    kernels: (n, 1, k, k).  ridge: share of the mean variance added to the covariance's diagonal.  log_prob is exact."""

    def __init__(self, kernels, full=True, ridge=1e-4):
        super().__init__()
        self.shape = tuple(kernels.shape[1:])
        x = kernels.flatten(1)
        mean, cov = x.mean(0), torch.cov(x.T, correction=0)
        if full:
            cov = cov + ridge * cov.diagonal().mean() * torch.eye(len(cov), device=cov.device)
            self.register_buffer("scale", torch.linalg.cholesky(cov))
        else:
            self.register_buffer("scale", cov.diagonal().sqrt())
        self.register_buffer("mean", mean)

    def distribution(self):
        if self.scale.ndim == 2:
            return MultivariateNormal(self.mean, scale_tril=self.scale)
        return torch.distributions.Independent(Normal(self.mean, self.scale), 1)

    def whitening(self):
        """P (k^2, k^2), lower triangular, with P^T P the inverse covariance."""
        if self.scale.ndim == 1:
            return torch.diag(1 / self.scale)
        return torch.linalg.solve_triangular(self.scale, torch.eye(len(self.scale), device=self.scale.device), upper=False)

    def log_prob(self, w):
        """Exact log-density, nats: (n, 1, k, k) -> (n,)."""
        return self.distribution().log_prob(w.flatten(1))

    def sample(self, n):
        """n kernels: (n, 1, k, k)."""
        return self.distribution().sample((n,)).view(n, *self.shape)
