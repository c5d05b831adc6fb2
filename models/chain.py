"""A density of kernels with a Markov chain of codes, the paper's generalisation of its prior (eq. 9, appendix A), of which it has no
experiments."""

import torch
from torch import nn

from .vae import LOG_2PI, VAE, log_normal, variance


class Transition(nn.Module):
    """A Gaussian step from one code to another: (n, z_dim) -> mean and variance, each (n, z_dim). It begins near a small step."""

    def __init__(self, z_dim, hidden_dim):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(z_dim, hidden_dim), nn.ELU(), nn.Linear(hidden_dim, 2 * z_dim))

    def forward(self, z):
        shift, spread = self.net(z).chunk(2, 1)
        return z + shift, variance(spread)


class Chain(VAE):
    """p(w) = ∫ p(w|z_T) p(z_T|z_{T-1}) … p(z_1|z_0) p(z_0) dz_0 … dz_T with Gaussian transitions (eq. 9), log_prob being the lower bound of
    eqs. 10 to 13 under reverse models r(z_T|w), the encoder, and r(z_t|z_{t+1}). T = 0 is the VAE.

    transitions: T, how many steps the chain has."""

    options = VAE.options | dict(transitions=int)

    def __init__(self, kernel_dim, z_dim, hidden_dim, min_std=0.0, transitions=1):
        super().__init__(kernel_dim, z_dim, hidden_dim, min_std)
        self.forwards = nn.ModuleList(Transition(z_dim, hidden_dim) for _ in range(transitions))  # p(z_{t+1}|z_t), t = 0 … T-1
        self.reverses = nn.ModuleList(Transition(z_dim, hidden_dim) for _ in range(transitions))  # r(z_t|z_{t+1})

    def reverse_model(self):
        """psi, of r(z_T|w) and all r(z_t|z_{t+1})."""
        return [*self.encoder.parameters(), *self.reverses.parameters()]

    def code_kl(self, z, mean, var):
        """One-sample estimate of E_r log r(z_0, …, z_T|w) - log p(z_0, …, z_T), nats, (n,), at z_T = z ~ N(mean, var) = r(z_T|w). The
        entropy of each r is in closed form, and for z_0 the whole KL(r(z_0|·) || p(z_0))."""
        total = 0.0
        for forwards, reverse in zip(reversed(self.forwards), reversed(self.reverses)):
            before_mean, before_var = reverse(z)
            before = torch.addcmul(before_mean, before_var.sqrt(), torch.randn_like(z))
            total = total - 0.5 * (var.log() + LOG_2PI + 1).sum(1) - log_normal(z, *forwards(before))
            z, mean, var = before, before_mean, before_var
        return total + super().code_kl(z, mean, var)

    def importance_bound(self, w, codes):
        """Not defined: its weights need all codes z_0, …, z_T, of which the VAE's own bound draws the last alone.  Raises ValueError."""
        raise ValueError("a Chain has no importance-weighted bound: the weights would need the codes of the whole chain; take log_prob")

    def sample_codes(self, n):
        z = super().sample_codes(n)
        for step in self.forwards:
            mean, var = step(z)
            z = torch.addcmul(mean, var.sqrt(), torch.randn_like(mean))
        return z
