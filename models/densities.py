"""Densities of k x k kernels: what they have in common, and those in closed form, which a learned one has to beat."""

import torch
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal


class Density(nn.Module):
    """A density of kernels w, (n, 1, k, k), with k = kernel_dim.

    A subclass defines
        log_prob(w) -> (n,)             log-density in nats, exact or an estimate of a lower bound: its docstring says which
        sample(n) -> (n, 1, k, k)
        options                         names in a prior folder's params.yaml that the constructor takes, with their types
    and, if it can be had at once from kernels (m, 1, k, k), the class method fit(kernels)."""

    options = dict(kernel_dim=int)

    def __init__(self, kernel_dim):
        super().__init__()
        self.kernel_dim = kernel_dim

    def reverse_model(self):
        """The parameters psi of r(z|w), which a Bayesian net learns with its posterior: none, unless log_prob is a bound that has one."""
        return []


class GaussianKernels(Density):
    """A Gaussian with full covariance, fitted by maximum likelihood.  log_prob is exact."""

    def __init__(self, kernel_dim):
        super().__init__(kernel_dim)
        self.register_buffer("mean", torch.zeros(kernel_dim**2))
        self.register_buffer("scale", torch.eye(kernel_dim**2))  # lower Cholesky factor of the covariance

    @classmethod
    def fit(cls, kernels, ridge=1e-4):
        """ridge: share of the mean variance that is added to the covariance's diagonal."""
        density, x = cls(kernels.shape[-1]).to(kernels.device), kernels.flatten(1)
        cov = torch.cov(x.T, correction=0)
        density.mean = x.mean(0)
        density.scale = torch.linalg.cholesky(cov + ridge * cov.diagonal().mean() * torch.eye(len(cov), device=cov.device))
        return density

    def distribution(self):
        return MultivariateNormal(self.mean, scale_tril=self.scale)

    def whitening(self):
        """P (k^2, k^2), lower triangular, with P^T P the inverse covariance."""
        return torch.linalg.solve_triangular(self.scale, torch.eye(len(self.scale), device=self.scale.device), upper=False)

    def log_prob(self, w):
        return self.distribution().log_prob(w.flatten(1))

    def sample(self, n):
        return self.distribution().sample((n,)).view(n, 1, self.kernel_dim, self.kernel_dim)


class IndependentGaussian(GaussianKernels):
    """A Gaussian with independent weights.  log_prob is exact."""

    def __init__(self, kernel_dim):
        super().__init__(kernel_dim)
        self.register_buffer("scale", torch.ones(kernel_dim**2))  # standard deviations

    @classmethod
    def fit(cls, kernels):
        density, x = cls(kernels.shape[-1]).to(kernels.device), kernels.flatten(1)
        var = torch.cov(x.T, correction=0).diagonal()
        density.mean, density.scale = (x.mean(0), var.clamp_min(1e-8 * var.mean()).sqrt())  # also of a weight that is always the same
        return density

    def distribution(self):
        return Independent(Normal(self.mean, self.scale), 1)

    def whitening(self):
        return torch.diag(1 / self.scale)
