"""The screen for priors: the drift test on densities whose peaks are known, and the bound that weighs samples."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Normal

from models.screen import (
    QUANTITIES,
    active_dimensions,
    alignment,
    drift,
    flatness,
    importance_bound,
    likeness,
    recurrence,
    screen,
    zero_is_denser,
)
from models.vae import VAE
from prune_kernels import narrow_cut
from tests.test_priors import LinearGaussian


class Peaks(nn.Module):
    """A prior over 3x3 kernels: an even mixture of N(peak, 0.1^2 I), its KL by one sample."""

    def __init__(self, peaks):
        super().__init__()
        self.peaks = peaks

    def log_prob(self, w):
        return Normal(self.peaks, 0.1).log_prob(w.flatten(1)[:, None]).sum(2).logsumexp(1)

    def kl(self, q):
        return -q.entropy().sum() - self.log_prob(q.rsample()).sum()


E = torch.eye(9)


@pytest.mark.parametrize(
    "peaks, start, like, aligned",
    [(E[:1], 0.8, 1.0, 1.0), (E[:2], 0.55, 0.49, 0.5**0.5), (torch.stack([E[0], -E[0]]), 0.8, 1.0, 0.0)],
    ids=["one", "two orthogonal", "one of both signs"],
)
def test_kernels_drift_to_the_peaks_of_their_prior(peaks, start, like, aligned):
    """64 noisy kernels: all become the one peak, or 32 each of two that are orthogonal, where 32 * 31 of 64 * 63 / 2 pairs agree, or
    32 each of two that cancel."""
    prior = Peaks(peaks)
    kernels = peaks.repeat(64 // len(peaks), 1) + 0.15 * torch.randn(64, 9)
    found = drift(prior, kernels.view(64, 1, 3, 3), at=(0, 50, 400), lr=0.01)
    assert list(found) == [0, 50, 400] and abs(likeness(found[0]) - start) < 0.08
    assert abs(likeness(found[400]) - like) < 0.02 and abs(alignment(found[400]) - aligned) < 0.05


def test_the_likeness_of_copies_orthogonal_and_random_kernels():
    w = torch.randn(1, 1, 7, 7)
    assert abs(likeness(torch.cat([w, -2 * w, 0.5 * w])) - 1) < 1e-6
    assert likeness(torch.eye(49).view(49, 1, 7, 7)) == 0
    assert abs(likeness(torch.randn(1000, 1, 7, 7)) - (2 / (np.pi * 49)) ** 0.5) < 0.002  # E |cos| in 49 dimensions


def test_recurrence_finds_kernels_that_are_learned_again():
    w = torch.randn(40, 1, 7, 7)
    assert recurrence(torch.cat([w, 3 * w])) > 1 - 1e-6 > 0.6 > recurrence(w)
    assert recurrence(torch.cat([w, -w])) < 0.6 and recurrence(torch.eye(49).view(49, 1, 7, 7)) == 0
    assert recurrence(w.expand(40, 20, 7, 7).reshape(800, 1, 7, 7), n=2) < 0.7  # two of them, far apart in the list


def test_alignment_tells_signs_apart_where_likeness_does_not():
    w = torch.randn(50, 1, 5, 5)
    assert alignment(torch.cat([w, -w])) < 1e-6 < 1 - 1e-6 < alignment(w[:1] * torch.rand(20, 1, 1, 1))
    assert abs(alignment(torch.randn(10000, 1, 5, 5))) < 0.03  # about 1 / sqrt(n)


def test_flatness_is_that_of_the_mean_weight():
    """1 of equal weights of any size and sign, 0 where they cancel; its square is the share of the energy that the mean has."""
    w = torch.randn(200, 1, 5, 5)
    assert torch.allclose(flatness(torch.tensor([2.0, -0.1]).view(2, 1, 1, 1).expand(2, 1, 5, 5)), torch.ones(2))
    assert flatness(w - w.mean((2, 3), keepdim=True)).max() < 1e-5
    torch.testing.assert_close(flatness(w).square(), 25 * w.mean((1, 2, 3)).square() / w.square().sum((1, 2, 3)))


def test_the_importance_bound_lies_between_the_elbo_and_the_density():
    """Of a linear-Gaussian decoder with a spoilt reverse model; with many samples it reaches the exact marginal."""
    vae = LinearGaussian(shift=1.0, widen=1.5)
    w = vae.marginal().sample((20,)).view(20, 1, 3, 3)
    exact = vae.marginal().log_prob(w.flatten(1))
    many_w = w.repeat(200, 1, 1, 1)
    elbo, few, many = vae.log_prob(many_w), importance_bound(vae, many_w, 2), importance_bound(vae, w, 4000)
    assert elbo.mean() + 0.05 < few.mean() < exact.mean() - 0.05
    torch.testing.assert_close(many, exact, atol=0.15, rtol=0)


def test_zero_is_denser_than_the_means_of_a_density_that_peaks_there():
    centred, away = LinearGaussian(), LinearGaussian()
    centred.b, away.b = torch.zeros(9), torch.full((9,), 3.0)
    assert zero_is_denser(centred, n_samples=400) > 0.9 and zero_is_denser(away) == 0


def test_the_screen_of_a_small_prior():
    vae, train, test = VAE(5, 2, 4), torch.randn(30, 1, 5, 5), torch.randn(10, 1, 5, 5)
    numbers = screen(vae, train, test, drifting=4, schedules=((0, 150), (300,)))
    state, quick = torch.random.get_rng_state(), screen(vae, train, test, drifting=0)
    assert quick == {name: numbers[name] for name in quick}  # from random numbers of its own
    assert torch.equal(torch.random.get_rng_state(), state)
    assert set(numbers) < set(QUANTITIES) and {"likeness_0", "alignment_150", "likeness_300"} < set(numbers)
    assert all(np.isfinite(x) for x in numbers.values()) and numbers["elbo"] < numbers["importance_bound"]
    nn.init.zeros_(vae.encoder.fc_mu.weight)
    assert active_dimensions(vae, torch.randn(10, 1, 5, 5)) == 0


@pytest.mark.parametrize("spread", [1.2, 1.66, 3.0])
def test_the_cut_is_the_lowest_that_meets_the_spread(spread):
    norms = np.random.default_rng(0).lognormal(sigma=0.7, size=500)
    cut = narrow_cut(norms, 0.2, spread)

    def ratio(low):
        return np.divide(*np.quantile(norms[norms >= low], (0.9, 0.1)))

    assert ratio(cut) <= spread
    assert all(ratio(low) > spread for low in np.sort(norms[(norms >= 0.2) & (norms < cut)]))
    assert narrow_cut(norms, 0.2, np.inf) == 0.2
