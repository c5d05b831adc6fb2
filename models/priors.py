"""Priors over the weights of one Bayesian layer: `prior.kl(q)` is KL(q(w) || p(w)), or an upper bound on it.

Letters, as in the paper:
    w    weights of a layer, (C_out, C_in, k, k); as a batch of kernels, (n, 1, k, k) with n = C_out C_in
    z    latent code of a kernel, (n, z_dim)
    q    variational posterior q(w; theta), a factorised Normal          (train_bnn.py learns theta)
    p    prior; for the deep weight prior p(w) = ∫ p(w|z; phi) p(z) dz   (eq. 6; train_vae_prior.py learned phi, now frozen)
    r    reverse model r(z|w; psi)                                       (starts as the VAE's encoder, learned with theta)

Every kl() takes a Normal of the layer's weight shape and returns a differentiable 0-d tensor in nats, summed over the layer. `needs`
names the arguments of a prior's constructor, `variance` the options of the posterior's variance under it: train_bnn.py finds them among its
options, whose names they have, and what it has loaded for the layer.
"""

import copy
import math

import torch
from torch import nn
from torch.distributions import Normal, StudentT, kl_divergence
from torch.nn.functional import softplus

from .autograd import ChunkedSum
from .chain import Chain
from .densities import GaussianKernels, GaussianMixture, IndependentGaussian, KernelDensity, one_per_kernel
from .flow import Flow
from .pixelcnn import PixelCNN
from .vae import VAE


def log_snr(q):
    """log(mu^2 / sigma^2) = -log alpha of a Normal; finite at mu = 0, where its gradient is 0."""
    return (q.loc.square() + 1e-30).log() - 2 * q.scale.log()


class Prior(nn.Module):
    """A prior over the weights of one layer."""

    needs = ()
    variance = ("logvarinit", "logvarinit_std", "max_logsigma")  # a free one

    def kl(self, q):
        """The prior's term of the objective: KL(q || p), up to a constant, an unbiased estimate of it, or an upper bound, as the docstring
        says."""
        raise NotImplementedError(f"{type(self).__name__} must define kl(q)")


class StandardNormal(Prior):
    """p(w) = N(0, 1) for every weight."""

    def kl(self, q):
        """Exact."""
        return kl_divergence(q, Normal(torch.zeros_like(q.loc), torch.ones_like(q.loc), validate_args=False)).sum()


class LogUniform(Prior):
    """p(log |w|) = const, improper (Kingma et al. 2015); the prior of Sparse variational dropout."""

    k1, k2, k3 = 0.63576, 1.87320, 1.48695

    def kl(self, q):
        """Approximation by Molchanov et al. 2017, up to the constant of an improper prior; 0 as alpha -> infinity.

            KL ≈ k1 - k1 sigmoid(k2 + k3 log alpha) + 0.5 log(1 + 1 / alpha),    alpha = sigma^2 / mu^2

        Within 0.01 nat per weight of the exact value."""
        snr = log_snr(q)
        return (self.k1 * torch.sigmoid(self.k3 * snr - self.k2) + 0.5 * softplus(snr)).sum()


class VariationalDropout(Prior):
    """The log-uniform prior in the range alpha <= 1: variational dropout (Kingma, Salimans & Welling 2015), which the original release
    calls `loguniform`. Its layers learn alpha by a sigmoid (BayesLayer.learn_rate), so that noise never exceeds a weight."""

    variance = ("logitinit",)
    c1, c2, c3 = 1.16145124, -1.50204118, 0.58629921

    def kl(self, q):
        """Approximation by Kingma et al. (appendix C), up to the constant of an improper prior, which here makes it 0 at alpha = 1:

            KL ≈ -0.5 log alpha - c1 alpha - c2 alpha^2 - c3 alpha^3 + c1 + c2 + c3,    alpha = min(sigma^2 / mu^2, 1)

        Within 0.04 nat per weight of the exact value."""
        log_alpha = (-log_snr(q)).clamp_max(0)
        alpha = log_alpha.exp()
        kl = -0.5 * log_alpha + self.c1 * (1 - alpha) + self.c2 * (1 - alpha**2) + self.c3 * (1 - alpha**3)
        return kl.sum()


class ARD(Prior):
    """p(w_i) = N(0, 1 / tau_i) with the tau_i that maximise the bound: automatic relevance determination (Kharitonov et al. 2018)."""

    def kl(self, q):
        """Exact, at tau* = 1 / (mu^2 + sigma^2): 0.5 sum log(1 + mu^2 / sigma^2) (Kharitonov et al., eq. 1)."""
        return 0.5 * softplus(log_snr(q)).sum()


class GammaARD(Prior):
    """ARD with a hyperprior Gamma(a, b) on the precisions, whose mode takes their place: MAP-II (Kharitonov et al. 2018, section 4).

    a = 1, b = 0 is ARD; a towards 1/2 prunes less.  Raises ValueError unless a > 1/2 and b >= 0."""

    needs = ("gamma_a", "gamma_b")

    def __init__(self, gamma_a=1.0, gamma_b=0.0):
        super().__init__()
        if gamma_a <= 0.5 or gamma_b < 0:
            raise ValueError(f"the Gamma hyperprior needs a > 0.5 and b >= 0, got a = {gamma_a:g}, b = {gamma_b:g}")
        self.a, self.b = gamma_a, gamma_b

    def kl(self, q):
        """KL(q || p(w|tau*)) - log p(tau*), exact, at tau* = (2a - 1) / (mu^2 + sigma^2 + 2b) (Kharitonov et al., appendix B): not a
        divergence, it can be negative.

        At b = 0 the hyperprior is improper, and its constant a log b is left out."""
        a, b = self.a, self.b
        constant = 1 - a - math.lgamma(a) + 0.5 * (2 * a - 1) * math.log(2 * a - 1) + (a * math.log(b) if b else 0.0)
        second_moment = q.loc.square() + q.variance + 2 * b
        return (0.5 * (2 * a - 1) * second_moment.log() - q.scale.log()).sum() - constant * q.loc.numel()


class Student(Prior):
    """The marginal of the Gamma(a, b) hyperprior: Student's t with 2a degrees of freedom and scale sqrt(b / a) (Kharitonov et al.
    2018, appendix C); its limit a = b -> 0 is the log-uniform prior.  Raises ValueError unless a, b > 0."""

    needs = ("gamma_a", "gamma_b")

    def __init__(self, gamma_a, gamma_b):
        super().__init__()
        if gamma_a <= 0 or gamma_b <= 0:
            raise ValueError(f"Student's t needs a > 0 and b > 0, got a = {gamma_a:g}, b = {gamma_b:g}")
        self.df, self.scale = 2 * gamma_a, math.sqrt(gamma_b / gamma_a)

    def kl(self, q):
        """Unbiased: -H[q] in closed form, E_q log p(w) from one reparametrised sample."""
        return -q.entropy().sum() - StudentT(self.df, 0.0, self.scale, validate_args=False).log_prob(q.rsample()).sum()


class Dropout(Prior):
    """N(0, 1) for weights under binary dropout of rate p, whose KL term is an L2 penalty.

    Binary dropout's q(w) = p delta(0) + (1 - p) delta(mean / (1 - p)) has mean `mean` and variance alpha mean^2, alpha = p / (1 - p).
    The Gaussian of `--alpha` has the same moments and takes its place; that Gaussian's own KL has a term -log |mean| more, which
    `sn` with `--alpha` keeps."""

    def kl(self, q):
        """Of the binary q, up to its constant entropy: 0.5 E_q |w|^2 = 0.5 (1 + alpha) |mean|^2 = 0.5 |mean|^2 / (1 - p)."""
        return 0.5 * (q.loc.square() + q.variance).sum()


class FormerPosterior(Prior):
    """The posterior of a former run as the prior: continual learning (slides, "on-line").

    mean, log_var: tensors of the layer's weight shape, from that run's state dict."""

    needs = ("mean", "log_var")

    def __init__(self, mean, log_var):
        super().__init__()
        self.register_buffer("mean", mean.detach().clone())  # of a state dict, whose tensors may be those of a net that is trained on
        self.register_buffer("scale", (0.5 * log_var.detach()).exp())

    def kl(self, q):
        """Exact."""
        if q.loc.shape != self.mean.shape:
            raise ValueError(f"a former posterior of shape {tuple(self.mean.shape)} does not fit weights of shape {tuple(q.loc.shape)}")
        return kl_divergence(q, Normal(self.mean, self.scale, validate_args=False)).sum()


class KernelPrior(Prior):
    """Every k x k kernel of a layer, independently, has the same density (eq. 5). With a kernel VAE it is the paper's deep weight prior.
    The inner loop of Algorithm 1 is then

        w ~ q(w; theta)                                  cross_entropy()
        z ~ r(z|w; psi), log p(w|z; phi), KL(r || p(z))  models.vae.VAE.elbo_terms(), of which log_prob() is the difference
        -log q(w)                                        its mean, the entropy, in closed form: kl()
        the sum over kernels                             kl(), and sum_log_prob() in chunks

    Algorithm 1 samples log r(z|w) - log p(z) and log q(w); their means are in closed form here, as section 3.2 allows.

    density: a models.densities.Density; it is copied and frozen, but for the parameters of its reverse model, which are learned with
    the posterior if train_reverse.
    dwp_samples: draws of w per kernel, in mirrored pairs; with bound "iw" codes z of one w instead, in the importance-weighted bound of a
    VAE, which for more of them is nearer to log p(w).
    kl_kernels: kernels of a layer that estimate the sum over all of them, drawn anew in every step without replacement; 0 takes all, as
    the paper does. A kernel is then pushed rarely, but n / kl_kernels times as hard. Adam divides by the root mean square, which makes the
    effect sqrt(n / kl_kernels) times weaker than that of an even push.
    kl_chunk: kernels that the density looks at at once; 0 is 512 on a CPU, whose cache they then fit, and 16384 elsewhere."""

    needs = ("density", "dwp_samples", "kl_kernels", "kl_chunk", "train_reverse", "bound")

    def __init__(self, density, dwp_samples=1, kl_kernels=0, kl_chunk=0, train_reverse=True, bound="elbo"):
        super().__init__()
        if bound not in ("elbo", "iw"):
            raise ValueError(f"no bound {bound!r}: choose elbo or iw")
        if dwp_samples < 1:
            raise ValueError(f"dwp_samples, the draws per kernel, must be 1 or more, not {dwp_samples}")
        if bound == "iw" and (not isinstance(density, VAE) or isinstance(density, Chain)):  # a Chain's codes are not drawn at once
            raise ValueError(f"the importance-weighted bound needs the codes of a VAE, which a {type(density).__name__} does not have")
        self.density = copy.deepcopy(density).requires_grad_(False).eval()
        for p in self.density.reverse_model():
            p.requires_grad_(bool(train_reverse))
        self.samples, self.codes = (1, dwp_samples) if bound == "iw" else (dwp_samples, None)
        self.drawn, self.chunk = kl_kernels, kl_chunk

    def kl(self, q):
        """Unbiased estimate of KL(q || p), or of an upper bound on it where log_prob estimates a lower bound:

            -H[q] - sum over kernels of E_q log p(w)

        with H in closed form. With a VAE it is the auxiliary bound of eq. 7, -H[q] + E_q { KL(r(z|w) || p(z)) - E_r log p(w|z) }."""
        mean, scale = self.kernels(q.loc), self.kernels(q.scale)
        n, share = len(mean), 1.0
        if 0 < self.drawn < n:
            chosen = torch.randperm(n, device=mean.device)[: self.drawn]
            mean, scale, share = mean[chosen], scale[chosen], self.drawn / n
        return self.cross_entropy(mean, scale) / share - q.entropy().sum()

    def kernels(self, w):
        """Weights (C_out, C_in, k, k) as kernels (n, 1, k, k).  Raises ValueError for a layer without k x k kernels."""
        k = self.density.kernel_dim
        if w.ndim != 4 or w.shape[-2:] != (k, k):
            raise ValueError(f"a prior of {k}x{k} kernels does not fit weights of shape {tuple(w.shape)}")
        return w.reshape(-1, 1, k, k)

    def psi(self):
        """The parameters of the reverse model, if they are learned."""
        return [p for p in self.density.parameters() if p.requires_grad]

    def cross_entropy(self, mean, scale):
        """Sum over kernels of -E_q log p(w), estimated by reparametrised samples w ~ q, every second of them the mirror image of the one
        before: what is linear in the noise cancels, which is most of the gradient's noise (results/tightness.csv)."""
        total, noise = 0.0, None
        for i in range(self.samples):
            noise = -noise if i % 2 else torch.randn_like(mean)
            total = total - self.sum_log_prob(torch.addcmul(mean, scale, noise))
        return total / self.samples

    def sum_log_prob(self, w):
        """Sum of log p(w) over kernels w (n, 1, k, k), chunk by chunk."""
        size = self.chunk or (512 if w.device.type == "cpu" else 16384)
        if self.codes:
            size = max(size // self.codes, 1)
        if not torch.is_grad_enabled():
            return sum(self.log_prob(chunk).sum() for chunk in w.split(size))
        return ChunkedSum.apply(lambda chunk: self.log_prob(chunk).sum(), size, w, *self.psi())

    def log_prob(self, w):
        """What stands for log p(w) in the objective: (n, 1, k, k) -> (n,), nats."""
        return one_per_kernel(self.density.importance_bound(w, self.codes) if self.codes else self.density.log_prob(w), w)


class GaussianPrior(KernelPrior):
    """A Gaussian over the kernels of a layer, fitted to trained kernels: what a learned prior has to beat.

    density: models.densities.GaussianKernels, or IndependentGaussian."""

    needs = ("density",)

    def kl(self, q):
        """Exact, in closed form for each kernel w ~ N(m, diag s^2) and N(mu, S) with S^-1 = P^T P:

        0.5 (|P (m - mu)|^2 + sum_ij P_ij^2 s_j^2 - k^2 + log det S - sum log s^2)"""
        mean, var = self.kernels(q.loc).flatten(1), self.kernels(q.variance).flatten(1)
        P = self.density.whitening()
        quadratic = ((mean - self.density.mean) @ P.T).square().sum() + (var @ P.square().T).sum()
        log_det = -2 * P.diagonal().log().sum()
        return 0.5 * (quadratic - var.log().sum() + len(mean) * (log_det - mean.shape[1]))


# Densities of kernels by name: in a prior folder's params.yaml (`density`, by default vae), and in --prior_list
DENSITIES = {
    "vae": VAE,
    "chain": Chain,
    "flow": Flow,
    "pixelcnn": PixelCNN,
    "gmm": GaussianMixture,
    "kde": KernelDensity,
    "gauss": GaussianKernels,
    "gauss-indep": IndependentGaussian,
}

# --prior_list.  A density without a closed form makes a KernelPrior.
PRIORS = {
    "sn": StandardNormal,
    "loguniform": LogUniform,
    "vd": VariationalDropout,
    "ard": ARD,
    "gamma": GammaARD,
    "student": Student,
    "dropout": Dropout,
    "posterior": FormerPosterior,
    "gauss": GaussianPrior,
    "gauss-indep": GaussianPrior,
}
PRIORS |= {name: KernelPrior for name in DENSITIES if name not in PRIORS}
