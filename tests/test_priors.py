"""KL terms against closed forms, quadrature, and the exact marginal of a linear-Gaussian decoder."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from models.bayes import BayesConv2d, BayesLinear
from models.densities import GaussianKernels, GaussianMixture, IndependentGaussian
from models.priors import (
    ARD,
    DENSITIES,
    PRIORS,
    Dropout,
    FormerPosterior,
    GammaARD,
    GaussianPrior,
    KernelPrior,
    LogUniform,
    StandardNormal,
    Student,
    VariationalDropout,
)
from models.vae import VAE
from train_bnn import negative_elbo
from utils import take_steps


def test_standard_normal_kl_is_torchs():
    q = Normal(torch.randn(3, 2, 5, 5), torch.rand(3, 2, 5, 5) + 0.1)
    expected = sum(kl_divergence(Normal(m, s), Normal(0.0, 1.0)) for m, s in zip(q.loc.flatten(), q.scale.flatten()))
    assert StandardNormal().kl(q).ndim == 0
    torch.testing.assert_close(StandardNormal().kl(q), expected)


@pytest.mark.parametrize("full", [True, False])
def test_gaussian_prior_kl_is_torchs(full):
    density = (GaussianKernels if full else IndependentGaussian).fit(torch.randn(50, 1, 3, 3))
    q = Normal(torch.randn(4, 2, 3, 3), torch.rand(4, 2, 3, 3) + 0.1)
    cov = density.scale @ density.scale.T if full else torch.diag(density.scale.square())
    p = MultivariateNormal(density.mean, cov)
    each = [kl_divergence(MultivariateNormal(m, torch.diag(v)), p) for m, v in zip(q.loc.view(8, 9), q.variance.view(8, 9))]
    torch.testing.assert_close(GaussianPrior(density).kl(q), sum(each))


def exact_log_uniform_kl(alpha):
    """KL of N(1, alpha) from 1/|w|, with the constant that makes it 0 as alpha -> infinity: E log|w| - log sigma - E log|eps|."""
    s = math.sqrt(alpha)
    pieces = [(-12, -1 / s), (-1 / s, 12)] if 1 / s < 12 else [(-12, 12)]
    e_log_w = sum(integrate.quad(lambda e: math.log(abs(1 + s * e) + 1e-300) * stats.norm.pdf(e), a, b, limit=400)[0] for a, b in pieces)
    return e_log_w - math.log(s) + 0.5 * (0.5772156649 + math.log(2))


@pytest.mark.parametrize("log_alpha", range(-8, 9))
def test_log_uniform_approximation_is_within_a_hundredth_of_a_nat(log_alpha):
    alpha = math.exp(log_alpha)
    q = Normal(torch.tensor([2.0]), torch.tensor([2.0 * math.sqrt(alpha)]))  # depends on alpha only
    assert abs(LogUniform().kl(q).item() - exact_log_uniform_kl(alpha)) < 0.01


@pytest.mark.parametrize("log_alpha", range(-8, 1))
def test_variational_dropout_is_the_log_uniform_kl_for_alpha_up_to_1(log_alpha):
    """Against quadrature, both up to their value at alpha = 1; beyond, noise has no reward."""
    alpha = math.exp(log_alpha)
    kl = VariationalDropout().kl(Normal(torch.tensor([2.0]), torch.tensor([2.0 * math.sqrt(alpha)]))).item()
    assert abs(kl - (exact_log_uniform_kl(alpha) - exact_log_uniform_kl(1.0))) < 0.04
    assert VariationalDropout().kl(Normal(torch.tensor([0.1]), torch.tensor([0.5]))) == 0


def test_a_learned_rate_is_gradually_learned_and_never_above_1():
    layer = BayesLinear(7, 5)
    layer.learn_rate(logit=-2.0)
    assert "var.weight" not in layer.state_dict() and layer.rate.requires_grad
    torch.testing.assert_close(layer.posterior().variance, torch.tensor(-2.0).sigmoid() * layer.mean.weight.square())
    opt = torch.optim.Adam([layer.rate], lr=0.5)
    for _ in range(60):
        opt.zero_grad()
        VariationalDropout().kl(layer.posterior()).backward()
        opt.step()
    alpha = (layer.scale() / layer.mean.weight).square()
    assert alpha.min() > 0.9 and alpha.max() < 1 + 1e-5  # the prior alone wants all the noise there is


def random_posterior(n=50):
    return Normal(torch.randn(n), torch.rand(n) + 0.05)


def kl_at(q, tau):
    """KL(q || N(0, 1 / tau)), summed."""
    return kl_divergence(q, Normal(torch.zeros_like(tau), tau.rsqrt())).sum()


def test_ard_is_the_smallest_kl_over_precisions():
    q = random_posterior()
    best, tau = ARD().kl(q), 1 / (q.loc.square() + q.variance)
    torch.testing.assert_close(best, kl_at(q, tau))
    assert best > 0 and all(kl_at(q, tau * factor) > best for factor in (0.5, 0.9, 1.1, 2.0))


def test_sparse_vd_bounds_ard_and_meets_it_at_high_dropout_rates():
    gaps = []
    for log_alpha in torch.linspace(-20, 20, 81):
        q = Normal(torch.tensor([0.5]), 0.5 * (0.5 * log_alpha).exp())
        gaps.append((LogUniform().kl(q) - ARD().kl(q)).item())
    assert min(gaps) > -1e-6 and abs(gaps[-1]) < 1e-6
    assert all(a >= b - 1e-6 for a, b in itertools.pairwise(gaps))  # the sigmoid's share falls with alpha


@pytest.mark.parametrize("a, b", [(1.0, 0.5), (0.51, 1e-8), (2.0, 0.1)])
def test_gamma_is_the_joint_optimum_over_precisions(a, b):
    q = random_posterior()
    best, optimum = GammaARD(a, b).kl(q), (2 * a - 1) / (q.loc.square() + q.variance + 2 * b)

    def objective(tau):
        return kl_at(q, tau) - torch.distributions.Gamma(a, b).log_prob(tau).sum()

    torch.testing.assert_close(best, objective(optimum), rtol=1e-4, atol=1e-2)
    assert all(objective(optimum * factor) > best for factor in (0.5, 2.0))


def test_gamma_without_a_rate_is_ard():
    q = random_posterior()
    torch.testing.assert_close(GammaARD(1.0, 0.0).kl(q), ARD().kl(q))


def test_student_is_the_marginal_of_the_gamma_hyperprior():
    """E_q [log q - log p] with p(w) = ∫ N(w | 0, 1/tau) Gamma(tau | a, b) dtau, by quadrature."""
    a, b, mean, scale = 1.5, 0.2, 0.7, 0.3

    def log_p(w):
        mixture = integrate.quad(lambda t: stats.norm.pdf(w, scale=t**-0.5) * stats.gamma.pdf(t, a, scale=1 / b), 0, np.inf)[0]
        return math.log(mixture)

    expected = (
        -stats.norm.entropy(mean, scale)
        - integrate.quad(lambda w: stats.norm.pdf(w, mean, scale) * log_p(w), mean - 6 * scale, mean + 6 * scale, limit=30, epsabs=1e-4)[0]
    )
    n = 200_000
    q = Normal(torch.full((n,), mean), torch.full((n,), scale))
    assert abs(Student(a, b).kl(q).item() / n - expected) < 0.01


def test_student_with_a_and_b_near_0_is_log_uniform():
    """Up to the constant of an improper prior: the difference between two posteriors, by Monte Carlo and by quadrature."""
    n = 400_000
    kls = [Student(1e-8, 1e-8).kl(Normal(torch.ones(n), torch.full((n,), alpha**0.5))) / n for alpha in (0.05, 2.0)]
    assert abs((kls[0] - kls[1]).item() - (exact_log_uniform_kl(0.05) - exact_log_uniform_kl(2.0))) < 0.01


def test_dropout_is_the_cross_entropy_of_binary_dropout_and_a_standard_normal():
    """Weights that are dropped at rate p and scaled by 1 / (1 - p): -E log N(w; 0, 1) less its constant."""
    p, layer = 0.3, BayesLinear(4, 3)
    layer.fix_rate(p / (1 - p))
    w = torch.nn.functional.dropout(layer.mean.weight.expand(100_000, -1, -1), p)
    expected = -Normal(0.0, 1.0).log_prob(w).mean(0).sum() - 12 * 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(Dropout().kl(layer.posterior()), expected, rtol=0.02, atol=0)
    torch.testing.assert_close(layer.posterior().variance, w.var(0), rtol=0.05, atol=1e-4)


def test_a_fixed_rate_makes_ard_and_sparse_vd_constant():
    """Kharitonov et al. 2018, eq. 2: what is left of the bound is Gaussian dropout."""
    layer = BayesLinear(7, 5)
    layer.fix_rate(0.25)
    assert "var.weight" not in layer.state_dict()
    for prior in (ARD(), LogUniform()):
        (grad,) = torch.autograd.grad(prior.kl(layer.posterior()), layer.mean.weight)
        assert grad.abs().max() < 1e-3
    torch.testing.assert_close(ARD().kl(layer.posterior()), torch.tensor(0.5 * 35 * math.log(1 + 1 / 0.25)))


def test_a_former_posterior_costs_nothing_to_keep():
    mean, log_var = torch.randn(4, 3), torch.randn(4, 3)
    prior = FormerPosterior(mean, log_var)
    assert prior.kl(Normal(mean, (0.5 * log_var).exp())).abs() < 1e-6
    q = Normal(torch.randn(4, 3), torch.rand(4, 3) + 0.1)
    torch.testing.assert_close(prior.kl(q), kl_divergence(q, Normal(mean, (0.5 * log_var).exp())).sum())
    cost = prior.kl(q)
    mean += 1  # as where a net whose state dict it is of is trained on
    assert prior.kl(q) == cost


@pytest.mark.parametrize("prior", [LogUniform(), ARD(), GammaARD(0.51, 1e-8), GammaARD(1.0, 0.0), Student(0.51, 1e-8)])
def test_sparse_priors_are_finite_at_the_ends(prior):
    loc, scale = torch.tensor([0.0, 1.0, 1e-4], requires_grad=True), torch.tensor([1e-3, 1e-8, 1e4], requires_grad=True)
    kl = prior.kl(Normal(loc, scale))
    kl.backward()
    assert kl.isfinite() and loc.grad.isfinite().all() and scale.grad.isfinite().all()


@pytest.mark.parametrize("prior", [LogUniform(), ARD()])
def test_a_weight_of_mean_0_costs_nothing(prior):
    assert prior.kl(Normal(torch.zeros(3), torch.tensor([1e-3, 1.0, 1e3]))) < 1e-6


class LinearGaussian(VAE):
    """p(w|z) = N(A z + b, s^2 I) with orthogonal columns in A, so that the factorised r(z|w) can be the exact posterior.

    The marginal is N(b, A A^T + s^2 I); `shift` and `widen` spoil the reverse model's mean and variance."""

    def __init__(self, k=3, z_dim=2, s=0.8, shift=0.0, widen=1.0):
        nn.Module.__init__(self)
        self.kernel_dim, self.z_dim, self.s, self.shift, self.widen = k, z_dim, s, shift, widen
        self.A = torch.linalg.qr(torch.randn(k * k, z_dim))[0] * torch.tensor([1.0, 0.4])
        self.b = 0.3 * torch.randn(k * k)
        self.precision = 1 + self.A.square().sum(0) / s**2
        self.encoder, self.decoder = nn.Module(), nn.Module()
        self.encoder.forward, self.decoder.forward = self.encode, self.decode

    def encode(self, w):
        mean = (w.flatten(1) - self.b) @ self.A / self.s**2 / self.precision
        return mean + self.shift, (self.widen / self.precision).expand_as(mean)

    def decode(self, z):
        mean = (z @ self.A.T + self.b).view(-1, 1, self.kernel_dim, self.kernel_dim)
        return mean, torch.full_like(mean, self.s**2)

    def marginal(self):
        return MultivariateNormal(self.b, self.A @ self.A.T + self.s**2 * torch.eye(len(self.b)))


@pytest.mark.parametrize("shift, widen", [(0.0, 1.0), (0.5, 1.0), (0.0, 2.0), (-0.3, 0.5)])
def test_dwp_bound_is_exact_kl_plus_the_reverse_models_error(shift, widen):
    vae = LinearGaussian(shift=shift, widen=widen)
    loc, scale, n = 0.5 * torch.randn(1, 1, 3, 3), torch.rand(1, 1, 3, 3) + 0.2, 100000
    exact = kl_divergence(MultivariateNormal(loc.flatten(), torch.diag(scale.flatten() ** 2)), vae.marginal())
    # KL(r || p(z|w)) for two Gaussians with a known shift and ratio of variances: the same for every w.
    gap = 0.5 * (widen - 1 - math.log(widen) + shift**2 * vae.precision).sum()
    q = Normal(loc.expand(n, 1, 3, 3), scale.expand(n, 1, 3, 3))  # n copies of one kernel: an average over n draws
    bound = KernelPrior(vae, kl_chunk=n).kl(q) / n
    terms = vae.log_prob(q.sample())
    tolerance = 4 * terms.std() / n**0.5
    assert abs(bound - (exact + gap)) < tolerance
    assert bound > exact - tolerance
    if gap > 0:
        assert gap > 3 * tolerance  # so that the test can tell the bound from the KL


def test_more_codes_lower_the_importance_weighted_bound_to_the_exact_kl():
    vae, n = LinearGaussian(shift=0.5, widen=2.0), 8000
    loc, scale = 0.5 * torch.randn(1, 1, 3, 3), torch.full((1, 1, 3, 3), 0.3)
    exact = kl_divergence(MultivariateNormal(loc.flatten(), torch.diag(scale.flatten() ** 2)), vae.marginal())
    q = Normal(loc.expand(n, 1, 3, 3), scale.expand(n, 1, 3, 3))
    elbo = KernelPrior(vae).kl(q) / n
    bounds = [elbo, *(KernelPrior(vae, bound="iw", dwp_samples=codes).kl(q) / n for codes in (1, 4, 50))]
    noise = 4 * vae.log_prob(q.sample()).std() / n**0.5
    assert abs(bounds[1] - elbo) < noise and elbo > bounds[2] + noise and bounds[2] > bounds[3] and abs(bounds[3] - exact) < noise


def make_prior(layer_shape=(6, 4, 5, 5), **options):
    layer = BayesConv2d(layer_shape[1], layer_shape[0], layer_shape[2], logvarinit=-4.0)
    return layer, KernelPrior(VAE(5, 2, 4), **options)


def test_a_mirrored_pair_of_draws_cancels_what_is_linear_in_the_noise():
    """Under a Gaussian all of the gradient's noise is; a VAE's is not, but the pair has far less of it than two draws on their own."""
    gauss = GaussianMixture.fit(torch.randn(200, 1, 3, 3), components=1)
    mean, scale = torch.randn(5, 1, 3, 3, requires_grad=True), torch.full((5, 1, 3, 3), 0.3)

    def gradients(density, samples, n):
        prior = KernelPrior(density, dwp_samples=samples)
        return torch.stack([torch.autograd.grad(prior.cross_entropy(mean, scale), mean)[0] for _ in range(n)])

    (found,), at_mean = gradients(gauss, 2, 1), torch.autograd.grad(-gauss.log_prob(mean).sum(), mean)[0]
    torch.testing.assert_close(found, at_mean, rtol=1e-3, atol=1e-3)
    assert (gradients(gauss, 1, 1)[0] - at_mean).abs().max() > 0.1
    linear = LinearGaussian()
    one, pair = gradients(linear, 1, 1000), gradients(linear, 2, 1000)
    assert pair.var(0).mean() < 0.4 * one.var(0).mean() / 2
    assert ((pair.mean(0) - one.mean(0)).abs() < 5 * ((pair.var(0) + one.var(0)) / 1000).sqrt()).all()


def test_subsampled_kl_is_unbiased():
    layer, prior = make_prior()
    with torch.no_grad():
        layer.mean.weight.mul_(torch.linspace(0.1, 3, 24).view(6, 4, 1, 1))  # kernels that differ a lot
        draws = {}
        for m in (0, 5):
            prior.drawn = m
            draws[m] = torch.stack([prior.kl(layer.posterior()) for _ in range(600)])
    difference = draws[5].mean() - draws[0].mean()
    assert abs(difference) < 4 * (draws[5].var() / 600 + draws[0].var() / 600).sqrt()
    assert draws[5].std() > 1.5 * draws[0].std()  # it is a subsample


def test_kernels_are_drawn_without_replacement_and_entropy_is_over_all():
    class Constant(VAE):
        def log_prob(self, w):
            self.seen = w.detach()
            return 3.0 + 0 * w.flatten(1).sum(1)

    mean = torch.arange(24.0).view(6, 4, 1, 1).expand(6, 4, 5, 5)
    q = Normal(mean, torch.rand(6, 4, 5, 5) * 1e-3 + 1e-3)  # kernel i is i everywhere; the entropies differ
    prior = KernelPrior(Constant(5, 2, 4), kl_kernels=23)
    for _ in range(5):
        with torch.no_grad():
            kl = prior.kl(q)
        torch.testing.assert_close(kl, -24 * 3.0 - q.entropy().sum())
        assert len(prior.density.seen[:, 0, 0, 0].round().unique()) == 23


def test_a_prior_refuses_kernels_of_another_size():
    with pytest.raises(ValueError, match="5x5 kernels does not fit"):
        KernelPrior(VAE(5, 2, 4)).kl(BayesConv2d(25, 1, 7).posterior())
    with pytest.raises(ValueError, match="5x5 kernels does not fit"):
        KernelPrior(VAE(5, 2, 4)).kl(BayesLinear(25, 5).posterior())


def test_a_prior_takes_weights_that_lie_channels_last_and_has_no_second_derivatives():
    prior, layer = KernelPrior(VAE(5, 2, 4)), BayesConv2d(4, 6, 5)
    values = []
    for format in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(1)
        values.append(prior.kl(layer.to(memory_format=format).posterior()).item())
    assert math.isclose(*values, rel_tol=1e-4)
    with pytest.raises(RuntimeError, match="second derivatives are not available"):
        torch.autograd.grad(prior.kl(layer.posterior()), layer.mean.weight, create_graph=True)
    with pytest.raises(ValueError, match="no bound 'IW': choose elbo or iw"):
        KernelPrior(VAE(5, 2, 4), dwp_samples=4, bound="IW")


@pytest.mark.parametrize("chunk", [1, 7, 24])
def test_chunked_kl_has_the_exact_gradient(chunk):
    class Deterministic(VAE):  # the chunks draw their noise apart: compare without noise
        def elbo_terms(self, w):
            mean, var = self.decoder(self.encoder(w)[0])
            return -((w - mean) ** 2 / var).flatten(1).sum(1), self.encoder(w)[1].sum(1)

    layer = BayesConv2d(4, 6, 5)
    vae = Deterministic(5, 2, 4)
    grads = []
    for c in (chunk, 1000):
        prior = KernelPrior(vae, kl_chunk=c)
        torch.manual_seed(0)
        parameters = [layer.mean.weight, layer.var.weight, *prior.density.encoder.parameters()]
        grads.append(torch.autograd.grad(prior.kl(layer.posterior()), parameters))
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("train_reverse", [True, False])
def test_gradients_reach_theta_and_psi_and_never_phi(train_reverse):
    vae = VAE(5, 2, 4)
    layer, prior = BayesConv2d(4, 6, 5), KernelPrior(vae, train_reverse=train_reverse)
    prior.kl(layer.posterior()).backward()
    assert layer.mean.weight.grad.abs().sum() > 0 and layer.var.weight.grad.abs().sum() > 0
    assert all((p.grad is not None and p.grad.abs().sum() > 0) == train_reverse for p in prior.density.encoder.parameters())
    assert all(p.grad is None and not p.requires_grad for p in prior.density.decoder.parameters())
    assert all(p.grad is None and p.requires_grad for p in vae.parameters())  # the VAE that was passed in is untouched


@pytest.mark.parametrize("full", [True, False])
def test_gaussian_kernels_against_scipy(full):
    kernels = torch.randn(500, 1, 3, 3) @ torch.randn(3, 3) + 0.5
    density = GaussianKernels.fit(kernels, ridge=0) if full else IndependentGaussian.fit(kernels)
    x = kernels.flatten(1).numpy().astype(float)
    cov = (x - x.mean(0)).T @ (x - x.mean(0)) / len(x)
    expected = stats.multivariate_normal(x.mean(0), cov if full else cov.diagonal()).logpdf(x[:20])
    torch.testing.assert_close(density.log_prob(kernels[:20]).double(), torch.from_numpy(expected), rtol=1e-3, atol=1e-2)
    assert density.sample(7).shape == (7, 1, 3, 3)


NEEDED = dict(gamma_a=0.51, gamma_b=1e-8, mean=torch.zeros(6, 4, 5, 5), log_var=torch.zeros(6, 4, 5, 5))
NEEDED |= dict(dwp_samples=1, kl_kernels=0, kl_chunk=0, train_reverse=1, bound="elbo")


SMALL = dict(kernel_dim=5, z_dim=2, hidden_dim=4, layers=2, components=3, transitions=2)


def make_density(name, exact=False):
    """exact: such that log_prob is the log-density itself, which of a VAE it is where the code says nothing of the kernel."""
    torch.manual_seed(0)
    kind = DENSITIES[name]
    if hasattr(kind, "fit"):
        return kind.fit(torch.randn(40, 1, 5, 5))
    density = kind(**{option: value for option, value in SMALL.items() if option in kind.options})
    if not isinstance(density, VAE):
        density.adapt(torch.randn(40, 1, 5, 5))
        for p in density.parameters():  # as if it were trained
            nn.init.normal_(p, std=0.1)
    elif exact:
        for head in (density.encoder.fc_mu, density.encoder.fc_sigma, density.decoder.fc_mu[0], density.decoder.fc_var[0]):
            nn.init.zeros_(head.weight)
        nn.init.zeros_(density.encoder.fc_mu.bias)
        nn.init.constant_(density.encoder.fc_sigma.bias, math.log(math.e - 1))  # r(z|w) = N(0, 1) = p(z)
    return density


@pytest.mark.parametrize("name", PRIORS)
def test_the_contract_of_a_prior(name):
    """kl(q) is one finite number, with a gradient in every parameter of q, and changes neither q nor the prior."""
    density = make_density(name) if name in DENSITIES else None
    prior = PRIORS[name](**{need: (NEEDED | dict(density=density))[need] for need in PRIORS[name].needs})
    layer = BayesConv2d(4, 6, 5, logvarinit=-12.0)  # less noise than weight, or `vd` is constant
    before = {k: v.clone() for module in (layer, prior) for k, v in module.state_dict().items() if isinstance(v, torch.Tensor)}
    kl = prior.kl(layer.posterior())
    assert kl.ndim == 0 and kl.isfinite()
    for grad in torch.autograd.grad(kl, [layer.mean.weight, layer.var.weight]):
        assert grad.isfinite().all() and (grad != 0).float().mean() > 0.8
    after = {k: v for module in (layer, prior) for k, v in module.state_dict().items() if isinstance(v, torch.Tensor)}
    assert all(torch.equal(before[k], after[k]) for k in before) and len(before) == len(after)
    torch.manual_seed(1)
    first = prior.kl(layer.posterior())
    torch.manual_seed(1)
    assert torch.equal(first, prior.kl(layer.posterior()))  # nothing that it remembers


@pytest.mark.parametrize("name", DENSITIES)
def test_the_contract_of_a_density(name):
    """Shapes, and samples that agree with log_prob: by Stein's identity E_p[(w - m) d log p / dw] = -1 for each weight and any m."""
    density, n = make_density(name, exact=True), 10_000
    w = density.sample(n)
    assert w.shape == (n, 1, 5, 5) and not w.requires_grad and density.kernel_dim == 5
    w.requires_grad_()
    log_prob = density.log_prob(w)
    assert log_prob.shape == (n,) and log_prob.isfinite().all()
    (slope,) = torch.autograd.grad(log_prob.sum(), w)
    products = (w - w.mean(0)).detach() * slope
    error = (products.mean(0) + 1).abs() / (products.std(0) / n**0.5)
    assert error.max() < 5  # standard errors


def untrained(name):
    """A density of 3x3 kernels of that name, small."""
    kind = DENSITIES[name]
    return kind(3, **{option: 2 for option in ("z_dim", "hidden_dim", "layers", "components") if option in kind.options})


@pytest.mark.parametrize("name", PRIORS)
def test_a_step_looks_at_no_value(name):
    """On the device `meta` any look raises; on a GPU it would make the step wait."""
    offered = dict(gamma_a=0.6, gamma_b=0.1, mean=torch.zeros(4, 2, 3, 3), log_var=torch.zeros(4, 2, 3, 3), dwp_samples=2)
    offered |= dict(kl_kernels=3, kl_chunk=0, train_reverse=True, bound="elbo", density=untrained(name) if name in DENSITIES else None)
    layer, prior = BayesConv2d(2, 4, 3), PRIORS[name](**{need: offered[need] for need in PRIORS[name].needs})
    if name == "vd":
        layer.learn_rate()
    net = nn.Sequential(layer, nn.Flatten(), nn.Linear(16, 3)).to("meta")
    prior.to("meta")
    opt = torch.optim.Adam([*net.parameters(), *(p for p in prior.parameters() if p.requires_grad)], foreach=False)
    data = torch.empty(6, 2, 4, 4, device="meta"), torch.empty(6, dtype=torch.long, device="meta")
    steps = list(take_steps(data, 4, opt, lambda x, y: negative_elbo(net, [layer], [prior], 6, x, y)))
    assert [(loss.device.type, size) for loss, _, size in steps] == [("meta", 4), ("meta", 2)]
