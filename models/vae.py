"""The kernel VAE: encoder r(z|w), decoder p(w|z), prior p(z) = N(0, I) (paper, sections 3.1 and 3.3, Table 1).

Module names are those of the published state dicts, hence `fc_sigma` in one encoder and `fc_var` in the other: both heads pass
through softplus and give a variance. Table 1 mentions max-pooling in the encoders; its parameter counts and the published
weights fit the layers below, which have none.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from .densities import Density
from .tinyconv import Conv1x1, Conv3x3, ConvTranspose1x1, ConvTranspose3x3, FirstConv3x3, as_kernels

LOG_2PI = math.log(2 * math.pi)
MIN_VAR = 1e-10  # far below any kernel's spread; keeps log and division finite where softplus underflows


def elu_stack(*layers):
    return nn.Sequential(*(m for layer in layers for m in (layer, nn.ELU(inplace=True))))


def variance(h):
    return F.softplus(h).clamp_min(MIN_VAR)


def log_normal(x, mean, var):
    """log N(x; mean, var) in nats, summed over dimensions: each (n, d) -> (n,)."""
    return -0.5 * ((x - mean).square() / var + var.log() + LOG_2PI).sum(1)


class Encoder(nn.Module):
    """r(z|w): w (n, 1, k, k) -> mean and variance of z, each (n, z_dim).

    features: kernels -> (n, width).  head: the name of the variance's."""

    def __init__(self, features, width, z_dim, head="fc_var"):
        super().__init__()
        self.features, self.head = features, head
        self.fc_mu = Conv1x1(width, z_dim)
        self.add_module(head, Conv1x1(width, z_dim))

    def forward(self, w):
        h = self.features(w)
        return self.fc_mu(h), variance(getattr(self, self.head)(h))


class Decoder(nn.Module):
    """p(w|z): z (n, z_dim) -> mean and variance of w, each (n, 1, k, k).

    decoder: codes -> rows of kernels, (k^2 n, h).  fc_mu, fc_var: the heads.  min_var: what is added to every variance."""

    def __init__(self, k, decoder, fc_mu, fc_var, min_var=0.0):
        super().__init__()
        self.k, self.min_var = k, min_var
        self.decoder, self.fc_mu, self.fc_var = decoder, fc_mu, fc_var

    def forward(self, z):
        h = self.decoder(z)
        return as_kernels(self.fc_mu(h), self.k), as_kernels(variance(self.fc_var(h)) + self.min_var, self.k)


class Encoder3x3(Encoder):
    """Ours, as is Decoder3x3: the paper has no 3x3 kernels."""

    def __init__(self, z_dim, h):
        super().__init__(elu_stack(FirstConv3x3(h, 3, padding=1), Conv3x3(h, 2 * h, 3)), 2 * h, z_dim)


class Decoder3x3(Decoder):
    def __init__(self, z_dim, h, min_var=0.0):
        super().__init__(3, elu_stack(Conv1x1(z_dim, 2 * h), ConvTranspose3x3(2 * h, h, 1)), Conv1x1(h, 1), Conv1x1(h, 1), min_var)


class Encoder5x5(Encoder):
    """Table 1, as the coders below."""

    def __init__(self, z_dim, h):
        layers = FirstConv3x3(h, 5, padding=1), Conv3x3(h, h, 5, padding=1), Conv3x3(h, 2 * h, 5), Conv3x3(2 * h, 2 * h, 3)
        super().__init__(elu_stack(*layers), 2 * h, z_dim, "fc_sigma")


class Decoder5x5(Decoder):
    def __init__(self, z_dim, h, min_var=0.0):
        layers = Conv1x1(z_dim, 2 * h), ConvTranspose3x3(2 * h, 2 * h, 1), ConvTranspose3x3(2 * h, 2 * h, 3), Conv1x1(2 * h, h)
        super().__init__(5, elu_stack(*layers), nn.Sequential(Conv1x1(h, 1)), nn.Sequential(Conv1x1(h, 1)), min_var)


class Encoder7x7(Encoder):
    def __init__(self, z_dim, h):
        super().__init__(elu_stack(FirstConv3x3(h, 7), Conv3x3(h, 2 * h, 5), Conv3x3(2 * h, 2 * h, 3)), 2 * h, z_dim)


class Decoder7x7(Decoder):
    def __init__(self, z_dim, h, min_var=0.0):
        layers = ConvTranspose3x3(z_dim, 2 * h, 1), ConvTranspose3x3(2 * h, 2 * h, 3), ConvTranspose3x3(2 * h, h, 5)
        super().__init__(7, elu_stack(*layers), ConvTranspose1x1(h, 1), ConvTranspose1x1(h, 1), min_var)


CODERS = {3: (Encoder3x3, Decoder3x3), 5: (Encoder5x5, Decoder5x5), 7: (Encoder7x7, Decoder7x7)}


class VAE(Density):
    """A density of k x k kernels with latent z ~ N(0, I): p(w) = ∫ p(w|z; phi) p(z) dz (eq. 6), log_prob being a lower bound.

    kernel_dim: 3, 5 or 7; the paper's z_dim, hidden_dim: 4, 64 for 5, and 2, 32 for 7.

    min_std: bound on how certain the decoder is of a weight. The paper has none (0); a VAE of few kernels needs one, else it is surest of
    those that most nets share, and the KL term draws all kernels of a Bayesian net to them."""

    options = dict(kernel_dim=int, z_dim=int, hidden_dim=int, min_std=float)

    def __init__(self, kernel_dim, z_dim, hidden_dim, min_std=0.0):
        super().__init__(kernel_dim)
        if kernel_dim not in CODERS:
            raise ValueError(f"no coder for {kernel_dim}x{kernel_dim} kernels; choose from {sorted(CODERS)}")
        self.z_dim = z_dim
        encoder, decoder = CODERS[kernel_dim]
        self.encoder, self.decoder = encoder(z_dim, hidden_dim), decoder(z_dim, hidden_dim, min_std**2)

    def reverse_model(self):
        """psi, of r(z|w; psi): the encoder's parameters."""
        return self.encoder.parameters()

    def share_variance(self, initial):
        """From now on the decoder has one variance, for all weights and codes: its head keeps its bias alone, and learns it.

        initial: its value, a float.  Layout and names of the weights stay, so it is saved and loaded as any other."""
        *_, head = self.decoder.fc_var.modules()
        nn.init.zeros_(head.weight).requires_grad_(False)
        nn.init.constant_(head.bias, initial + math.log(-math.expm1(-initial)))  # softplus of it is `initial`

    def rescale(self, factor):
        """Turn the density of w into that of factor * w.

        Exact but for the variance, whose softplus is taken for an exponential: within 1 % where variances stay below 0.02. min_std is
        scaled, too, and is not in the state dict: whoever saves the VAE must write it to params.yaml."""
        *_, mean = self.decoder.fc_mu.modules()
        *_, var = self.decoder.fc_var.modules()
        with torch.no_grad():
            self.encoder.features[0].weight /= factor
            mean.weight *= factor
            mean.bias *= factor
            var.bias += 2 * math.log(factor)
            self.decoder.min_var *= factor**2

    def elbo_terms(self, w):
        """One-sample estimate of E_r log p(w|z), and of E_r log r(z|w) - log p(z), which is KL(r(z|w) || p(z)) in closed form, in nats,
        each (n,); their difference is eq. 4.

        w: (n, 1, k, k)."""
        mean, var = self.encoder(w)
        z = torch.addcmul(mean, var.sqrt(), torch.randn_like(mean))
        return self.log_likelihood(w, z), self.code_kl(z, mean, var)

    def log_likelihood(self, w, z):
        """log p(w|z) in nats: (n, 1, k, k), (n, z_dim) -> (n,)."""
        mean, var = self.decoder(z)
        return -0.5 * ((w - mean).square() / var + var.log()).flatten(1).sum(1) - 0.5 * LOG_2PI * self.kernel_dim**2

    def code_kl(self, z, mean, var):
        """KL(N(mean, var) || p(z)) in closed form, nats: each (n, z_dim) -> (n,).  z: a draw of N(mean, var), not needed here."""
        return 0.5 * (mean.square() + var - var.log() - 1).sum(1)

    def code_log_ratio(self, z, mean, var):
        """log r(z|w) - log p(z) at a draw z of r = N(mean, var), nats: each (n, z_dim) -> (n,)."""
        return log_normal(z, mean, var) - log_normal(z, torch.zeros_like(z), torch.ones_like(z))

    def importance_bound(self, w, codes):
        """Importance-weighted lower bound on log p(w) (Burda et al. 2016): (n, 1, k, k) -> (n,), nats. In expectation it rises with the
        number of codes, from the ELBO to log p(w).

            log 1/K sum_k p(w|z_k) p(z_k) / r(z_k|w),    z_k ~ r(z|w),  K = codes

        The gradient through the codes is doubly reparametrised (Tucker et al. 2019): r in the weights is held fixed, and what reaches
        z_k is multiplied by its normalised weight once more. The plain gradient of psi loses its signal as K grows (Rainforth et al.
        2018)."""
        mean, var = (t.repeat(codes, 1) for t in self.encoder(w))
        z = torch.addcmul(mean, var.sqrt(), torch.randn_like(mean))
        log_weight = self.log_likelihood(w.repeat(codes, 1, 1, 1), z) - self.code_log_ratio(z, mean.detach(), var.detach())
        log_weight = log_weight.view(codes, len(w))
        if z.requires_grad:
            share = log_weight.detach().softmax(0).view(-1, 1)
            z.register_hook(lambda grad: grad * share)
        return torch.logsumexp(log_weight, 0) - math.log(codes)

    def log_prob(self, w):
        """Unbiased one-sample estimate of the ELBO, E_r log p(w|z) - KL(r(z|w) || p(z)), a lower bound on log p(w), tight where r(z|w) is
        the exact posterior p(z|w): (n, 1, k, k) -> (n,), nats."""
        log_lik, kl = self.elbo_terms(w)
        return log_lik - kl

    def loss(self, w):
        """-ELBO (eq. 4) and its parts, means in nats per kernel."""
        log_lik, kl = (t.mean() for t in self.elbo_terms(w))
        return kl - log_lik, dict(elbo=log_lik - kl, loglik=log_lik, kl=kl)

    def sample_codes(self, n):
        """n codes z ~ p(z): (n, z_dim)."""
        like = next(self.parameters(), torch.empty(0))
        return torch.randn(n, self.z_dim, device=like.device, dtype=like.dtype)

    @torch.no_grad()
    def sample(self, n):
        """n kernels w ~ p(w|z), z ~ p(z): (n, 1, k, k), observation noise included."""
        mean, var = self.decoder(self.sample_codes(n))
        return torch.addcmul(mean, var.sqrt(), torch.randn_like(mean))
