"""Priors over the weights of one Bayesian layer: `prior.kl(q)` is KL(q(w) || p(w)), or an upper bound on it.

Letters, as in the paper:
    w    weights of a layer, (C_out, C_in, k, k); as a batch of kernels, (n, 1, k, k) with n = C_out C_in
    z    latent code of a kernel, (n, z_dim)
    q    variational posterior q(w; theta), a factorised Normal          (train_bnn.py learns theta)
    p    prior; for the deep weight prior p(w) = ∫ p(w|z; phi) p(z) dz   (eq. 6; train_vae_prior.py learned phi, now frozen)
    r    reverse model r(z|w; psi)                                       (starts as the VAE's encoder, learned with theta)

Every kl() takes a Normal of the layer's weight shape and returns a differentiable 0-d tensor in nats, summed over the layer.
"""

import copy
import math

import torch
from torch import nn
from torch.distributions import Normal, StudentT, kl_divergence
from torch.nn.functional import softplus

from .densities import GaussianKernels


def log_snr(q):
    """log(mu^2 / sigma^2) = -log alpha of a Normal; finite at mu = 0, where its gradient is 0."""
    return (q.loc.square() + 1e-30).log() - 2 * q.scale.log()


class StandardNormal(nn.Module):
    """p(w) = N(0, 1) for every weight."""

    def kl(self, q):
        """Exact."""
        return kl_divergence(q, Normal(torch.zeros_like(q.loc), torch.ones_like(q.loc))).sum()


class LogUniform(nn.Module):
    """p(log |w|) = const, improper (Kingma et al. 2015); the prior of Sparse variational dropout."""

    k1, k2, k3 = 0.63576, 1.87320, 1.48695

    def kl(self, q):
        """Approximation by Molchanov et al. 2017, up to the constant of an improper prior; 0 as alpha -> infinity.

            KL ≈ k1 - k1 sigmoid(k2 + k3 log alpha) + 0.5 log(1 + 1 / alpha),    alpha = sigma^2 / mu^2

        Within 0.01 nat per weight of the exact value."""
        snr = log_snr(q)
        return (self.k1 * torch.sigmoid(self.k3 * snr - self.k2) + 0.5 * softplus(snr)).sum()


class VariationalDropout(nn.Module):
    """The log-uniform prior in the range alpha <= 1: variational dropout (Kingma, Salimans & Welling 2015), which the original release
    calls `loguniform`. Its layers learn alpha by a sigmoid (BayesLayer.learn_rate), so that noise never exceeds a weight."""

    c1, c2, c3 = 1.16145124, -1.50204118, 0.58629921

    def kl(self, q):
        """Approximation by Kingma et al. (appendix C), up to the constant of an improper prior, which here makes it 0 at alpha = 1:

            KL ≈ -0.5 log alpha - c1 alpha - c2 alpha^2 - c3 alpha^3 + c1 + c2 + c3,    alpha = min(sigma^2 / mu^2, 1)

        Within 0.04 nat per weight of the exact value."""
        log_alpha = (-log_snr(q)).clamp_max(0)
        alpha = log_alpha.exp()
        kl = -0.5 * log_alpha + self.c1 * (1 - alpha) + self.c2 * (1 - alpha**2) + self.c3 * (1 - alpha**3)
        return kl.sum()


class ARD(nn.Module):
    """p(w_i) = N(0, 1 / tau_i) with the tau_i that maximise the bound: automatic relevance determination (Kharitonov et al. 2018)."""

    @staticmethod
    def tau(q):
        """The optimal precisions tau* = 1 / (mu^2 + sigma^2), with the weight's shape."""
        return 1 / (q.loc.square() + q.variance)

    def kl(self, q):
        """Exact, at tau*: 0.5 sum log(1 + mu^2 / sigma^2) (eq. 1)."""
        return 0.5 * softplus(log_snr(q)).sum()


class GammaARD(nn.Module):
    """ARD with a hyperprior Gamma(a, b) on the precisions, whose mode takes their place: MAP-II (Kharitonov et al. 2018, section 4).

    a = 1, b = 0 is ARD; a towards 1/2 prunes less.  Raises ValueError unless a > 1/2 and b >= 0."""

    def __init__(self, a=1.0, b=0.0):
        super().__init__()
        if a <= 0.5 or b < 0:
            raise ValueError(f"the Gamma hyperprior needs a > 0.5 and b >= 0, got a = {a:g}, b = {b:g}")
        self.a, self.b = a, b

    def tau(self, q):
        """The optimal precisions (2a - 1) / (mu^2 + sigma^2 + 2b), with the weight's shape."""
        return (2 * self.a - 1) / (q.loc.square() + q.variance + 2 * self.b)

    def kl(self, q):
        """KL(q || p(w|tau*)) - log p(tau*), exact (appendix B): not a divergence, it can be negative.

        At b = 0 the hyperprior is improper, and its constant a log b is left out."""
        a, b = self.a, self.b
        constant = 1 - a - math.lgamma(a) + 0.5 * (2 * a - 1) * math.log(2 * a - 1) + (a * math.log(b) if b else 0.0)
        second_moment = q.loc.square() + q.variance + 2 * b
        return (0.5 * (2 * a - 1) * second_moment.log() - q.scale.log()).sum() - constant * q.loc.numel()


class Student(nn.Module):
    """The marginal of the Gamma(a, b) hyperprior: Student's t with 2a degrees of freedom and scale sqrt(b / a) (Kharitonov et al.
    2018, appendix C); its limit a = b -> 0 is the log-uniform prior.  Raises ValueError unless a, b > 0."""

    def __init__(self, a, b):
        super().__init__()
        if a <= 0 or b <= 0:
            raise ValueError(f"Student's t needs a > 0 and b > 0, got a = {a:g}, b = {b:g}")
        self.df, self.scale = 2 * a, math.sqrt(b / a)

    def kl(self, q):
        """Unbiased: -H[q] in closed form, E_q log p(w) from one reparametrised sample."""
        return -q.entropy().sum() - StudentT(self.df, 0.0, self.scale, validate_args=False).log_prob(q.rsample()).sum()


class Dropout(nn.Module):
    """N(0, 1) for weights under binary dropout of rate p: the slides' L2 penalty.

    Binary dropout's q(w) = p delta(0) + (1 - p) delta(mean / (1 - p)) has mean `mean` and variance alpha mean^2, alpha = p / (1 - p).
    The Gaussian of `--alpha` has the same moments and takes its place; that Gaussian's own KL has a term -log |mean| more, which
    `sn` with `--alpha` keeps."""

    def kl(self, q):
        """Of the binary q, up to its constant entropy: 0.5 E_q |w|^2 = 0.5 (1 + alpha) |mean|^2 = 0.5 |mean|^2 / (1 - p)."""
        return 0.5 * (q.loc.square() + q.variance).sum()


class FormerPosterior(nn.Module):
    """The posterior of a former run as the prior: continual learning (slides, "on-line").

    mean, log_var: tensors of the layer's weight shape, from that run's state dict."""

    def __init__(self, mean, log_var):
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", (0.5 * log_var).exp())

    def kl(self, q):
        """Exact."""
        if q.loc.shape != self.mean.shape:
            raise ValueError(f"a former posterior of shape {tuple(self.mean.shape)} does not fit weights of shape {tuple(q.loc.shape)}")
        return kl_divergence(q, Normal(self.mean, self.scale)).sum()


class GaussianPrior(nn.Module):
    """A Gaussian over the k x k kernels of a layer, fitted to trained kernels: what a learned prior has to beat.

    density: models.densities.GaussianKernels, with full covariance or independent weights."""

    def __init__(self, density):
        super().__init__()
        self.density = density

    def kl(self, q):
        """Exact, in closed form for each kernel w ~ N(m, diag s^2) and N(mu, S) with S^-1 = P^T P:

        0.5 (|P (m - mu)|^2 + sum_ij P_ij^2 s_j^2 - k^2 + log det S - sum log s^2)"""
        k2 = self.density.mean.numel()
        mean, var = q.loc.reshape(-1, k2), q.variance.reshape(-1, k2)
        P = self.density.whitening()
        quadratic = ((mean - self.density.mean) @ P.T).square().sum() + (var @ P.square().T).sum()
        log_det = -2 * P.diagonal().log().sum()
        return 0.5 * (quadratic - var.log().sum() + len(mean) * (log_det - k2))


class DeepWeightPrior(nn.Module):
    """The paper's prior: p(w) = ∫ p(w|z; phi) p(z) dz for every k x k kernel, independently (eqs. 5 and 6).

    vae: a trained kernel VAE; it is copied, its decoder frozen, its encoder (psi) trainable if train_reverse.
    dwp_samples: draws of w and z per kernel.  kl_kernels: kernels drawn without replacement for each call, 0 for all; the
    estimate stays unbiased.  kl_memory: kernels take turns, and a kernel's gradient acts on until its next turn, instead of once
    and n / kl_kernels times as large (see Remembered).  kl_chunk: kernels that pass the coders at once; 0 is 512 on a
    CPU, whose cache they then fit, and 16384 elsewhere."""

    def __init__(self, vae, dwp_samples=1, kl_kernels=0, train_reverse=True, kl_chunk=0, kl_memory=False):
        super().__init__()
        self.vae = copy.deepcopy(vae)
        self.vae.decoder.requires_grad_(False)
        self.vae.encoder.requires_grad_(train_reverse)
        self.dwp_samples, self.kl_kernels, self.kl_chunk, self.kl_memory = dwp_samples, kl_kernels, kl_chunk, kl_memory
        self.memory, self.waiting = None, torch.empty(0, dtype=torch.long)  # last gradients, and kernels still to be drawn in this turn

    def get_extra_state(self):
        """What a checkpoint holds beside the coders, so that a resumed run goes on exactly."""
        return dict(memory=self.memory, waiting=self.waiting)

    def set_extra_state(self, state):
        self.memory, self.waiting = state["memory"], state["waiting"]

    def kl(self, q):
        """Unbiased estimate of the auxiliary upper bound on KL(q || p) (eq. 7):

            -H[q] + sum over kernels of E_q { KL(r(z|w) || p(z)) - E_r log p(w|z) }

        H and the inner KL are in closed form; the bound is tight where r(z|w) is the exact posterior p(z|w)."""
        k = self.vae.kernel_dim
        if q.loc.shape[-1] != k:
            raise ValueError(f"a prior of {k}x{k} kernels does not fit weights of shape {tuple(q.loc.shape)}")
        n = q.loc.numel() // k**2
        mean, scale = q.loc.view(n, 1, k, k), q.scale.view(n, 1, k, k)
        m = min(self.kl_kernels or n, n)
        if m == n:
            total = self.cross_entropy(mean, scale)
        elif self.kl_memory and torch.is_grad_enabled():  # without a gradient there is nothing to remember, and no turn is taken
            total = Remembered.apply(self.cross_entropy, *self.next_turn(mean, scale, m), mean, scale, *self.psi())
        else:
            chosen = torch.randperm(n, device=mean.device)[:m]
            total = n / m * self.cross_entropy(mean[chosen], scale[chosen])
        return total - q.entropy().sum()

    def psi(self):
        """The parameters that are learned: the reverse model's, or none."""
        return [p for p in self.vae.parameters() if p.requires_grad]

    def cross_entropy(self, mean, scale):
        """Sum over kernels of -E_q log p(w), where the VAE's lower bound stands for log p; estimated by dwp_samples draws."""
        total = 0.0
        for _ in range(self.dwp_samples):
            total = total - self.sum_log_prob(torch.addcmul(mean, scale, torch.randn_like(mean)))
        return total / self.dwp_samples

    def sum_log_prob(self, w):
        """Sum over kernels of the VAE's lower bound on log p(w)."""
        size = self.kl_chunk or (512 if w.device.type == "cpu" else 16384)
        if not torch.is_grad_enabled():
            return sum(self.vae.log_prob(chunk).sum() for chunk in w.split(size))
        return ChunkedSum.apply(lambda chunk: self.vae.log_prob(chunk).sum(), size, w, *self.psi())

    def next_turn(self, mean, scale, m):
        """The memory, two tensors of the kernels' shape, and the kernels of this turn: all in the first, which fills the memory."""
        n = len(mean)
        if self.memory is None:
            self.memory = torch.zeros_like(mean), torch.zeros_like(scale)
            return self.memory, torch.arange(n, device=mean.device)
        if len(self.waiting) < m:  # those left of a turn come before the next, and in it last
            left, order = self.waiting.to(mean.device), torch.randperm(n, device=mean.device)
            early = torch.isin(order, left)
            self.waiting = torch.cat([left, order[~early], order[early]])
        chosen, self.waiting = self.waiting[:m], self.waiting[m:]
        return self.memory, chosen


class Remembered(torch.autograd.Function):
    """Unbiased estimate of f(mean, scale), a sum over n kernels, from the m chosen ones; a kernel that is not among them has the
    gradient of its last turn.

    A plain estimate from m of n kernels pushes each kernel rarely and n / m times as hard, of which Adam, dividing by the root mean
    square, makes sqrt(n / m) times less than of an even push. Remembered gradients (stochastic average gradient, Le Roux et al.
    2012) are even, and out of date by less than 2 n / m steps: the full sum's effect at a subsample's price.
    The memory holds the gradients of f itself, whatever factor the sum gets afterwards; parameters of f have no memory."""

    @staticmethod
    def forward(ctx, f, memory, chosen, mean, scale, *parameters):
        with torch.enable_grad():
            inputs = [t[chosen].detach().requires_grad_() for t in (mean, scale)]
            value = f(*inputs)
            grads = torch.autograd.grad(value, [*inputs, *parameters])
        for table, grad in zip(memory, grads):
            table[chosen] = grad
        share = len(chosen) / len(mean)
        ctx.save_for_backward(*(table.clone() for table in memory), *(grad / share for grad in grads[2:]))
        return value.detach() / share

    @staticmethod
    def backward(ctx, weight):
        return None, None, None, *(weight * grad for grad in ctx.saved_tensors)


class ChunkedSum(torch.autograd.Function):
    """sum of f over chunks of w, whose gradient is taken chunk by chunk during the forward pass.

    Only one chunk's activations exist at a time: memory does not grow with the layer, and small chunks stay in a CPU's cache.
    The value is a sum, so backward() merely scales the stored gradient: exact, and nothing is computed twice."""

    @staticmethod
    def forward(ctx, f, size, w, *parameters):
        total, w_grads = 0.0, []
        sums = [torch.zeros_like(p) for p in parameters]
        for chunk in w.split(size):
            with torch.enable_grad():
                chunk = chunk.detach().requires_grad_()
                value = f(chunk)
                grads = torch.autograd.grad(value, [chunk, *parameters])
            total = total + value.detach()
            w_grads.append(grads[0])
            sums = [a + g for a, g in zip(sums, grads[1:])]
        ctx.save_for_backward(torch.cat(w_grads), *sums)
        return total

    @staticmethod
    def backward(ctx, scale):
        return None, None, *(scale * g for g in ctx.saved_tensors)


# --prior_list: name -> prior of one layer, given its kernel VAE, trained kernels and former posterior (or None), the hyperprior's
# (a, b), and DeepWeightPrior's options.
PRIORS = {
    "sn": lambda **_: StandardNormal(),
    "loguniform": lambda **_: LogUniform(),
    "vd": lambda **_: VariationalDropout(),
    "ard": lambda **_: ARD(),
    "gamma": lambda gamma, **_: GammaARD(*gamma),
    "student": lambda gamma, **_: Student(*gamma),
    "dropout": lambda **_: Dropout(),
    "gauss": lambda kernels, **_: GaussianPrior(GaussianKernels(kernels)),
    "gauss-indep": lambda kernels, **_: GaussianPrior(GaussianKernels(kernels, full=False)),
    "vae": lambda vae, dwp, **_: DeepWeightPrior(vae, **dwp),
    "posterior": lambda former, **_: FormerPosterior(*former),
}
