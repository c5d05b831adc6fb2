"""Densities of k x k kernels: what they have in common, and those that are fitted at once, without gradients."""

import math

import torch
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal


class Density(nn.Module):
    """A density of kernels w, (n, 1, k, k), with k = kernel_dim.

    A subclass defines
        log_prob(w) -> (n,)             log-density in nats, exact or an estimate of a lower bound: its docstring says which
        sample(n) -> (n, 1, k, k)
        options                         names in a prior folder's params.yaml that the constructor takes, with their types
    and, if it can be had at once from kernels (m, 1, k, k), the class method fit(kernels, **options); else it is trained on loss()."""

    options = dict(kernel_dim=int)
    overfits = False  # whether training has to be stopped early, on kernels that it does not see

    def __init__(self, kernel_dim):
        super().__init__()
        self.kernel_dim = kernel_dim

    def reverse_model(self):
        """The parameters psi of r(z|w), which a Bayesian net learns with its posterior: none, unless log_prob is a bound that has one."""
        return []

    def loss(self, w):
        """What training minimises on kernels w, a mean in nats per kernel, and a dict of 0-d tensors to report."""
        log_prob = one_per_kernel(self.log_prob(w), w).mean()
        return -log_prob, dict(elbo=log_prob)  # one name for all densities; of an exact one it is the log-density

    def flat(self, w):
        """Kernels (n, 1, k, k) as (n, k^2).  Raises ValueError for others."""
        if tuple(w.shape[1:]) != (1, self.kernel_dim, self.kernel_dim):
            raise ValueError(f"a density of {self.kernel_dim}x{self.kernel_dim} kernels takes (n, 1, k, k), not {tuple(w.shape)}")
        return w.flatten(1)

    def resize(self, state):
        """Make room for a state dict whose sizes the options do not say."""

    def adapt(self, kernels):
        """Take from the training kernels what is not learned by gradients, such as their scale."""


def one_per_kernel(log_prob, w):
    """log_prob of kernels w.  Raises ValueError unless it is a number for each."""
    if tuple(log_prob.shape) != (len(w),):
        raise ValueError(f"log_prob of a density must give a number per kernel, ({len(w)},): it gave {tuple(log_prob.shape)}")
    return log_prob


def covariance(x, correction=0):
    """Of points x (n, d): (d, d).  Raises ValueError if the points do not differ."""
    if len(x) < 2 or not (x != x[0]).any():
        raise ValueError(f"{len(x)} kernels, all of them alike, are too few to fit a density to")
    return torch.atleast_2d(torch.cov(x.T, correction=correction))


def cholesky(cov, ridge):
    """Lower factor of a covariance (d, d), to whose diagonal a share `ridge` of the mean variance is added.  Raises ValueError if it is
    singular all the same, as of few different points."""
    eye = torch.eye(len(cov), dtype=cov.dtype, device=cov.device)
    factor, failed = torch.linalg.cholesky_ex(cov + ridge * cov.diagonal().mean() * eye)
    if failed:
        raise ValueError("the kernels are too few, or too much alike, to fit a density with their covariance")
    return factor


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
        density.mean, density.scale = x.mean(0), cholesky(covariance(x), ridge)
        return density

    def distribution(self):
        return MultivariateNormal(self.mean, scale_tril=self.scale, validate_args=False)

    def whitening(self):
        """P (k^2, k^2), lower triangular, with P^T P the inverse covariance."""
        return torch.linalg.solve_triangular(self.scale, torch.eye(len(self.scale), device=self.scale.device), upper=False)

    def log_prob(self, w):
        return self.distribution().log_prob(self.flat(w))

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
        var = covariance(x).diagonal()
        density.mean, density.scale = (x.mean(0), var.clamp_min(1e-8 * var.mean()).sqrt())  # also of a weight that is always the same
        return density

    def distribution(self):
        return Independent(Normal(self.mean, self.scale, validate_args=False), 1, validate_args=False)

    def whitening(self):
        return torch.diag(1 / self.scale)


class GaussianMixture(Density):
    """A mixture of `components` Gaussians with full covariance, by expectation maximisation.  log_prob is exact."""

    options = dict(kernel_dim=int, components=int)

    def __init__(self, kernel_dim, components=8):
        super().__init__(kernel_dim)
        d = kernel_dim**2
        self.register_buffer("log_weight", torch.full((components,), -math.log(components)))
        self.register_buffer("mean", torch.zeros(components, d))
        self.register_buffer("scale", torch.eye(d).repeat(components, 1, 1))  # lower Cholesky factors

    @classmethod
    def fit(cls, kernels, components=8, steps=200, tolerance=1e-4):
        """k^2 pseudo-kernels, see em().  Ends after `steps`, or when the objective gains less than `tolerance` nats per kernel in a step.
        Raises ValueError if there are more components than kernels."""
        if components > len(kernels):
            raise ValueError(f"{components} components for {len(kernels)} kernels: fewer are needed (--components)")
        density, last = cls(kernels.shape[-1], components).double().to(kernels.device), -math.inf
        for value in density.em(kernels.double(), kernels[0].numel(), steps):
            if value - last < tolerance:
                break
            last = value
        return density.to(kernels.dtype)

    def em(self, kernels, pseudo=0.0, steps=200):
        """Fit to kernels (n, 1, k, k), from components that begin at kernels far from each other; yields, before each step, what the
        steps raise: the mean log-density, nats per kernel, and 1/n of the log of an inverse-Wishart prior on the covariances S_c,

            -pseudo/2 sum_c { log det S_c + tr(S_c^-1 S) },    S: the covariance of all kernels

        as if each component had been given `pseudo` more kernels of covariance S. So one of few kernels neither collapses nor, as under a
        penalty of the same weight for all, is widened until it is empty."""
        x = kernels.flatten(1)
        n = len(x)
        factor = cholesky(covariance(x), ridge=1e-6)  # a floor of the arithmetic
        S = factor @ factor.T
        self.mean, self.scale = x[far_apart(x, len(self.mean))], factor.repeat(len(self.mean), 1, 1)
        for _ in range(steps):
            joint, P = self.log_joint(x), self.whitening()
            evidence = torch.logsumexp(joint, 1)
            log_det = -2 * P.diagonal(dim1=1, dim2=2).log().sum()
            yield (evidence.mean() - 0.5 * pseudo / n * (log_det + ((P @ S) * P).sum())).item()
            share = (joint - evidence[:, None]).exp()
            mass = share.sum(0).clamp_min(1e-9)
            self.log_weight, self.mean = (mass / mass.sum()).log(), share.T @ x / mass[:, None]
            centred = x - self.mean[:, None]  # (components, n, d)
            scatter = (share.T[:, :, None] * centred).transpose(1, 2) @ centred
            self.scale = torch.linalg.cholesky((scatter + (pseudo + 1e-6 * mass)[:, None, None] * S) / (pseudo + mass)[:, None, None])

    def whitening(self):
        """The inverses of the Cholesky factors: (components, d, d)."""
        eye = torch.eye(self.scale.shape[-1], dtype=self.scale.dtype, device=self.scale.device)
        return torch.linalg.solve_triangular(self.scale, eye.expand_as(self.scale), upper=False)

    def log_joint(self, x):
        """log p(x, c) of points x (n, d) and all components c: (n, components), nats."""
        P = self.whitening()
        white = P @ (x.T - self.mean[:, :, None])  # (components, d, n)
        log_det = -self.scale.diagonal(dim1=1, dim2=2).log().sum(1)
        return (self.log_weight + log_det - 0.5 * math.log(2 * math.pi) * x.shape[1]) - 0.5 * white.square().sum(1).T

    def log_prob(self, w):
        return torch.logsumexp(self.log_joint(self.flat(w)), 1)

    @torch.no_grad()
    def sample(self, n):
        c = torch.multinomial(self.log_weight.exp(), n, replacement=True)
        noise = torch.randn_like(self.mean[c])[..., None]
        return (self.mean[c] + (self.scale[c] @ noise)[..., 0]).view(n, 1, self.kernel_dim, self.kernel_dim)


def far_apart(x, m):
    """Indices of m of the points x (n, d), each drawn with a probability that grows with its squared distance to the nearest before it
    (k-means++, Arthur & Vassilvitskii 2007)."""
    chosen = [int(torch.randint(len(x), ()))]
    distance = (x - x[chosen[0]]).square().sum(1)
    for _ in range(m - 1):
        chosen.append(int(torch.multinomial(distance + 1e-12, 1)))
        distance = torch.minimum(distance, (x - x[chosen[-1]]).square().sum(1))
    return chosen


def log_sum_exp(x):
    """torch.logsumexp over dimension 1, with whatever is more than 80 below the largest raised to that, where it adds nothing: exponentials
    that underflow take ten times as long on a CPU."""
    return torch.logsumexp(torch.maximum(x, x.detach().amax(1, keepdim=True) - 80), 1)


class KernelDensity(Density):
    """A Gaussian around each training kernel, its `points`, all with the kernels' covariance times bandwidth^2: a kernel density
    estimate, as scipy.stats.gaussian_kde is.  log_prob is exact."""

    options = dict(kernel_dim=int, bandwidth=float)
    CHUNK = 1 << 19  # pairs of a kernel and a point at once: what a cache holds

    def __init__(self, kernel_dim, bandwidth=1.0):
        super().__init__(kernel_dim)
        self.register_buffer("points", torch.zeros(1, kernel_dim**2))
        self.register_buffer("scale", torch.eye(kernel_dim**2))  # lower Cholesky factor of the kernels' covariance
        self.register_buffer("bandwidth", torch.tensor(bandwidth))

    @classmethod
    def fit(cls, kernels, bandwidth=0.0, points=20_000):
        """bandwidth: a factor, or the name of a rule, "scott" or "silverman"; 0 takes the best on a sixth of the kernels, which are points
        themselves afterwards.  points: at most so many, drawn from the kernels.  Raises ValueError for a bandwidth that single precision
        cannot do with."""
        x = kernels.flatten(1)[torch.randperm(len(kernels), device=kernels.device)[:points]]
        n, d = x.shape
        if not bandwidth and n < 3:
            raise ValueError(f"{n} kernels are too few for a kernel density estimate and its bandwidth")
        rules = dict(scott=n ** (-1 / (d + 4)), silverman=(n * (d + 2) / 4) ** (-1 / (d + 4)))
        if not bandwidth:
            held_out, rest = x[: max(n // 6, 1)], x[max(n // 6, 1) :]
            shape = (-1, 1, *kernels.shape[2:])
            tried = [rules["scott"] * 2 ** (i / 4) for i in range(-12, 5)]
            trial = cls.fit(rest.reshape(shape), "scott")
            scores = []
            for trial.bandwidth in torch.tensor(tried, device=x.device):
                scores.append(trial.log_prob(held_out.reshape(shape)).mean().item())
            bandwidth = tried[scores.index(max(scores))]
        bandwidth = rules.get(bandwidth, bandwidth)
        if not 1e-2 <= bandwidth <= 1e3:
            raise ValueError(
                f"a bandwidth of {bandwidth:g} is out of all proportion: choose 0.01 to 1000 standard deviations of the kernels"
            )
        density = cls(kernels.shape[-1]).to(x.device)
        density.points, density.scale = x.clone(), cholesky(covariance(x, correction=1), ridge=1e-6)
        density.bandwidth = torch.tensor(bandwidth, device=x.device)
        return density

    def resize(self, state):
        self.points = torch.empty_like(state.get("points", self.points))

    def white(self, x):
        """Points (n, k^2) in units in which each training kernel's Gaussian has covariance I, less the mean of the training kernels: else
        squares of large numbers would cancel in log_prob()."""
        return torch.linalg.solve_triangular(self.scale, (x - self.points.mean(0)).T, upper=False).T / self.bandwidth

    def log_prob(self, w):
        """(n, 1, k, k) -> (n,), nats."""
        x, points = self.white(self.flat(w)), self.white(self.points)
        parts = x.split(max(self.CHUNK // len(points), 1))
        # -|x - point|^2 / 2, its product by matrices: the gradient of torch.cdist takes several times as long
        offset = -0.5 * points.square().sum(1)
        exponents = torch.cat([log_sum_exp(torch.addmm(offset, part, points.T)) for part in parts]) - 0.5 * x.square().sum(1)
        d = self.kernel_dim**2
        log_det = self.scale.diagonal().log().sum() + d * self.bandwidth.log()
        return exponents - math.log(len(points)) - 0.5 * d * math.log(2 * math.pi) - log_det

    @torch.no_grad()
    def sample(self, n):
        at = self.points[torch.randint(len(self.points), (n,), device=self.points.device)]
        return (at + self.bandwidth * torch.randn_like(at) @ self.scale.T).view(n, 1, self.kernel_dim, self.kernel_dim)
