"""A screen for priors over kernels: it tells priors that keep a net's kernels different from priors that make them all alike.

A prior acts through its density's peaks: under the full KL sum Adam drives every kernel of a layer to the nearest. Three faults can ruin
the layer. A density of kernels whose norms are widely spread has one peak, at zero. One of kernels of which many are flat, all weights
alike, may have one there. And one whose peaks all have the same sign makes the layer's sums over its channels saturate, which kernels as
much alike, but of both signs, do not. The measurements here find them before any net is trained.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Normal

from .densities import GaussianKernels, IndependentGaussian
from .priors import KernelPrior
from .vae import VAE

DRIFT_STEPS = (0, 150, 300, 600)  # when drift() looks; the last one is the length of its schedule
LONG_DRIFT = 3000  # a schedule that shows what comes to rest slowly


def likeness(kernels):
    """Mean absolute cosine between different kernels (n, 1, k, k), in [0, 1]; of at most 1000 of them, evenly spaced."""
    w = F.normalize(kernels[:: -(-len(kernels) // 1000)].flatten(1))
    cosine = (w @ w.T).abs()
    return float((cosine.sum() - cosine.trace()) / (len(w) * (len(w) - 1)))


def alignment(kernels):
    """Length of the mean of the unit kernels w / |w|, in [0, 1]: 1 if all kernels (n, 1, k, k) point one way, near 0 if signs balance."""
    return float(F.normalize(kernels.flatten(1)).mean(0).norm())


def flatness(kernels):
    """Absolute cosine of each kernel (n, 1, k, k) to one of equal weights: (n,), in [0, 1]."""
    return F.normalize(kernels.flatten(1)).sum(1).abs() / kernels.shape[-1]


def recurrence(kernels, n=400):
    """How far nets learn the same kernels again and again: median cosine between a kernel and the nearest other, in [-1, 1], of n of the
    kernels (m, 1, k, k) at most, evenly spaced.  Nets trained to the end meet in the same few. It grows with n, copies within one net
    count, and w and -w are no copies: mirrored sets have a lower one."""
    w = F.normalize(kernels.flatten(1)[torch.linspace(0, len(kernels) - 1, min(n, len(kernels))).long()])
    return float((w @ w.T).fill_diagonal_(-1).amax(1).median())


def drift(prior, kernels, at=DRIFT_STEPS, lr=1e-3, log_var=-10.0):
    """Where a prior takes kernels that no data holds back: Adam minimises its KL term alone, over the means and log-variances of
    kernels (n, 1, k, k) and over the prior's own parameters, with a rate that falls linearly to 0 at the last step.

    Returns {step: the means then, (n, 1, k, k)} for the steps in `at`, in increasing order."""
    mean, log_var = nn.Parameter(kernels.clone()), nn.Parameter(torch.full_like(kernels, log_var))
    opt = torch.optim.Adam([mean, log_var, *(p for p in prior.parameters() if p.requires_grad)], fused=True)
    found = {}
    for step in range(at[-1] + 1):
        if step in at:
            found[step] = mean.detach().clone()
        opt.param_groups[0]["lr"] = lr * (1 - step / at[-1])
        opt.zero_grad()
        prior.kl(Normal(mean, (0.5 * log_var).exp(), validate_args=False)).backward()
        opt.step()
    return found


@torch.no_grad()
def importance_bound(vae, w, n_samples=1000, chunk=2000):
    """VAE.importance_bound of kernels (n, 1, k, k), n_samples codes each, in chunks: (n,), nats."""
    return torch.cat([vae.importance_bound(part, n_samples) for part in w.split(max(chunk // n_samples, 1))])


@torch.no_grad()
def zero_is_denser(density, n=400, n_samples=25):
    """Share of decoder means, of n codes z ~ p(z), or of n samples of a density without a decoder, at which the density is lower than at
    w = 0, both by log_prob, which is what the KL term of a Bayesian net sees."""

    def elbo(w):
        return torch.stack([density.log_prob(w) for _ in range(n_samples if hasattr(density, "decoder") else 1)]).mean(0)

    means = density.decoder(density.sample_codes(n))[0] if hasattr(density, "decoder") else density.sample(n)
    return float((elbo(means) < elbo(torch.zeros_like(means)).mean()).float().mean())


@torch.no_grad()
def active_dimensions(vae, kernels):
    """Latent dimensions whose mean moves with the kernel: variance of E_r[z] over kernels above 0.01 (Burda et al. 2016)."""
    return int((vae.encoder(kernels)[0].var(0, correction=0) > 0.01).sum())


# Of the kernels that drift() moved.
DRIFT_MEASURES = {
    "likeness": likeness,
    "alignment": alignment,
    "flatness": lambda kernels: float(flatness(kernels).mean()),
    "norm": lambda kernels: float(kernels.flatten(1).norm(dim=1).mean()),
}

# What screen() finds, in the order and the words of a prior's card. Of a density that is known exactly the ELBO is its log-density; of one
# without a decoder samples stand for decoder means.
QUANTITIES = {
    "elbo": "ELBO, nats per held-out kernel",
    "importance_bound": "importance-weighted bound, K = 1000",
    "independent_gaussian": "independent Gaussian, fitted to the same kernels (exact)",
    "full_gaussian": "full-covariance Gaussian (exact)",
    "active_dimensions": "latent dimensions in use",
    "kernel_norm": "mean norm of the training kernels",
    "kernel_norm_spread": "their spread: 90 % by 10 % quantile",
    "recurrence": "cosine between a kernel and the nearest other of 400, median",
    "sample_norm": "mean norm of samples",
    "decoder_mean_norm": "mean norm of decoder means",
    "decoder_std": "decoder's standard deviation, median",
    "norm_noise_correlation": "correlation of a decoder mean's norm with that deviation",
    "zero_is_denser": "share of decoder means at which w = 0 is denser",
} | {f"{measure}_{step}": f"drift test: {measure} after {step} steps" for measure in DRIFT_MEASURES for step in (*DRIFT_STEPS, LONG_DRIFT)}


def screen(density, train, test, drifting=128, held_out=200, schedules=(DRIFT_STEPS, (LONG_DRIFT,))):
    """{name in QUANTITIES: number} of a density and the kernels (n, 1, k, k) it was fitted to, on the CPU; some are of VAEs alone.

    Densities in nats per held-out kernel, the importance-weighted one from `held_out` of them at most; norms L2; likeness, alignment
    and flatness, in [0, 1], of `drifting` samples of the prior that drift() moved, once for each of `schedules`, its steps. The bound takes
    half a minute, the drift two minutes; 0 leaves either out. Random numbers are from a seed of its own: a machine finds the same again."""

    def norm(w):
        return w.flatten(1).norm(dim=1)

    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        vae = density if isinstance(density, VAE) else None
        with torch.no_grad():
            elbo = torch.stack([density.log_prob(test).mean() for _ in range(20 if vae else 1)]).mean().item()
        ten, ninety = norm(train).quantile(torch.tensor([0.1, 0.9])).tolist()
        numbers = dict(
            elbo=elbo,
            independent_gaussian=IndependentGaussian.fit(train).log_prob(test).mean().item(),
            full_gaussian=GaussianKernels.fit(train).log_prob(test).mean().item(),
            kernel_norm=norm(train).mean().item(),
            kernel_norm_spread=ninety / ten if ten else math.inf,
            recurrence=recurrence(train),
            sample_norm=norm(density.sample(1024)).mean().item(),
            zero_is_denser=zero_is_denser(density),
        )
        if vae:
            numbers |= screen_codes(vae, test)
        if type(vae) is VAE and held_out:
            numbers["importance_bound"] = importance_bound(vae, test[:held_out]).mean().item()
        if not drifting:
            return numbers
        start = density.sample(drifting)
        moved = {step: w for at in schedules for step, w in drift(KernelPrior(density), start, at).items()}
        return numbers | {f"{name}_{step}": measure(w) for name, measure in DRIFT_MEASURES.items() for step, w in moved.items()}


@torch.no_grad()
def screen_codes(vae, test):
    """Those of QUANTITIES that are of a VAE's codes and its decoder.  test: held-out kernels (n, 1, k, k)."""
    mean, var = vae.decoder(vae.sample_codes(4096))
    norm, noise = mean.flatten(1).norm(dim=1), var.flatten(1).mean(1).sqrt()  # root mean square over a kernel's weights
    return dict(
        active_dimensions=active_dimensions(vae, test),
        decoder_mean_norm=norm.mean().item(),
        decoder_std=noise.median().item(),
        norm_noise_correlation=torch.corrcoef(torch.stack([norm, noise]))[0, 1].nan_to_num(0).item(),  # of one variance: 0
    )
