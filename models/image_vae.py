"""The paper's variational auto-encoder of MNIST images (Table 2, third column), whose convergence Fig. 4a shows."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Normal, kl_divergence

from .vae import variance


class ImageVAE(nn.Module):
    """x: (B, 1, 28, 28) in [0, 1]; Bernoulli likelihood, z ~ N(0, I) of z_dim dimensions.

    The table gives neither z_dim nor padding, and no reading of it has its 1 641 665 parameters. Taken by the letter (no padding, a
    stride only where one is printed) the encoder ends in 128 x 7 x 7, and z_dim 78 comes closest: 1 642 909, 0.08 % more. (Padding
    that keeps 14 x 14 comes nearer, 750 more with z_dim 23, but is not printed, and leaves little of a code.) The last layer's
    padding makes 28 of 13."""

    in_channels, image_size = 1, 28

    def __init__(self, z_dim=78):
        super().__init__()
        self.z_dim = z_dim
        self.encoder = nn.Sequential(
            OrderedDict(conv1=nn.Conv2d(1, 64, 7, stride=2), act1=nn.LeakyReLU(), conv2=nn.Conv2d(64, 128, 5), act2=nn.LeakyReLU())
        )
        self.fc_mu, self.fc_var = nn.Linear(128 * 7 * 7, z_dim), nn.Linear(128 * 7 * 7, z_dim)
        self.decoder = nn.Sequential(
            OrderedDict(
                conv1=nn.ConvTranspose2d(z_dim, 128, 5),
                act1=nn.LeakyReLU(),
                conv2=nn.ConvTranspose2d(128, 64, 5, stride=2),
                act2=nn.LeakyReLU(),
                conv3=nn.ConvTranspose2d(64, 1, 5, stride=2, padding=1, output_padding=1),
            )
        )

    def elbo(self, x):
        """One-sample estimate of the variational lower bound on log p(x): (B, 1, 28, 28) -> (B,), nats."""
        h = self.encoder(x).flatten(1)
        q = Normal(self.fc_mu(h), variance(self.fc_var(h)).sqrt(), validate_args=False)
        logits = self.decoder(q.rsample()[:, :, None, None])
        log_lik = -F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)
        return log_lik - kl_divergence(q, Normal(torch.zeros_like(q.loc), torch.ones_like(q.loc))).sum(1)

    @torch.no_grad()
    def sample(self, n):
        """Mean images p(x|z) of n codes z ~ p(z): (n, 1, 28, 28)."""
        return self.decoder(torch.randn(n, self.z_dim, 1, 1, device=self.fc_mu.weight.device)).sigmoid()
