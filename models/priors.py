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

import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from .densities import GaussianKernels


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
        # log(1 + 1/alpha) = log(mu^2 + sigma^2) - log sigma^2: finite at mu = 0.
        log_var = 2 * q.scale.log()
        log_alpha = log_var - (q.loc.square() + 1e-30).log()
        return (self.k1 * torch.sigmoid(-self.k2 - self.k3 * log_alpha) + 0.5 * ((q.loc.square() + q.variance).log() - log_var)).sum()


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
    estimate stays unbiased.  kl_chunk: kernels that pass the coders at once; 0 is 512 on a CPU, whose cache they then fit,
    and 16384 elsewhere."""

    def __init__(self, vae, dwp_samples=1, kl_kernels=0, train_reverse=True, kl_chunk=0):
        super().__init__()
        self.vae = copy.deepcopy(vae)
        self.vae.decoder.requires_grad_(False)
        self.vae.encoder.requires_grad_(train_reverse)
        self.dwp_samples, self.kl_kernels, self.kl_chunk = dwp_samples, kl_kernels, kl_chunk

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
        if m < n:
            chosen = torch.randperm(n, device=mean.device)[:m]
            mean, scale = mean[chosen], scale[chosen]
        total = 0.0
        for _ in range(self.dwp_samples):
            w = torch.addcmul(mean, scale, torch.randn_like(mean))
            total = total - self.sum_log_prob(w)
        return total * (n / m / self.dwp_samples) - q.entropy().sum()

    def sum_log_prob(self, w):
        """Sum over kernels of the VAE's lower bound on log p(w)."""
        size = self.kl_chunk or (512 if w.device.type == "cpu" else 16384)
        if not torch.is_grad_enabled():
            return sum(self.vae.log_prob(chunk).sum() for chunk in w.split(size))
        psi = [p for p in self.vae.parameters() if p.requires_grad]
        return ChunkedSum.apply(lambda chunk: self.vae.log_prob(chunk).sum(), size, w, *psi)


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


# --prior_list: name -> prior of one layer, given the layer's kernel VAE and trained kernels (or None) and DeepWeightPrior's options.
PRIORS = {
    "sn": lambda vae, kernels, **options: StandardNormal(),
    "loguniform": lambda vae, kernels, **options: LogUniform(),
    "gauss": lambda vae, kernels, **options: GaussianPrior(GaussianKernels(kernels)),
    "gauss-indep": lambda vae, kernels, **options: GaussianPrior(GaussianKernels(kernels, full=False)),
    "vae": lambda vae, kernels, **options: DeepWeightPrior(vae, **options),
}
