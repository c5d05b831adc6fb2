"""What experiments.tightness measures, where it is known."""

import math

import torch
from torch.distributions import MultivariateNormal, Normal

from experiments.tightness import gaps
from models.priors import KernelPrior

from .test_priors import LinearGaussian


class OneLayer:
    """A layer of 512 copies of one kernel's posterior."""

    def posterior(self):
        return Normal(torch.full((512, 1, 3, 3), 0.2), 0.3)


def test_the_gap_is_the_reverse_models_error():
    """Known where r is the exact posterior, moved and widened; none where it is exact."""
    for shift, widen in ((0.0, 1.0), (0.4, 1.5)):
        vae = LinearGaussian(shift=shift, widen=widen)
        exact = float(0.5 * (widen - 1 - math.log(widen) + shift**2 * vae.precision).sum())
        found = gaps(KernelPrior(vae), OneLayer())
        assert abs(found["gap_1000"] - exact) < 0.1 + 0.1 * exact
        assert found["gap_10"] < found["gap_1000"] + 0.1
        q = MultivariateNormal(torch.full((9,), 0.2), 0.09 * torch.eye(9))
        kl = torch.distributions.kl_divergence(q, vae.marginal())
        assert abs(found["kl"] - (float(kl) + exact)) < 0.3
