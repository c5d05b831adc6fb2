"""Densities of kernels: normalised, true to their samples, and each to its own mathematics.  (Their contract: test_priors.py.)"""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import nn
from torch.distributions import MultivariateNormal

import train_vae_prior
from models.chain import Chain
from models.densities import Density, GaussianKernels, GaussianMixture, IndependentGaussian, KernelDensity, cholesky, log_sum_exp
from models.flow import Coupling, Flow
from models.pixelcnn import PixelCNN
from models.prior_folder import card_rows
from models.priors import DENSITIES, KernelPrior
from models.vae import VAE
from myexman.logger import read_rows
from utils import load_density, load_weights

EXACT = {
    "gauss": GaussianKernels.fit,
    "gauss-indep": IndependentGaussian.fit,
    "gmm": lambda kernels: GaussianMixture.fit(kernels, components=3),
    "kde": KernelDensity.fit,
    "flow": lambda kernels: trained(Flow(kernels.shape[-1], 8, 4), kernels),
    "pixelcnn": lambda kernels: trained(PixelCNN(kernels.shape[-1], 8, 2, 3), kernels),
}


def trained(density, kernels, steps=60):
    density.adapt(kernels)
    opt = torch.optim.Adam(density.parameters(), lr=0.01)
    for _ in range(steps):
        opt.zero_grad()
        density.loss(kernels)[0].backward()
        opt.step()
    return density.eval().requires_grad_(False)


def two_heaps(n, k):
    """Kernels (n, 1, k, k) of two kinds."""
    sign = torch.where(torch.arange(n) % 3 == 0, -1.0, 1.0)
    return sign[:, None, None, None] * (1 + torch.arange(1.0, 1 + k * k).view(1, 1, k, k) / k) + 0.3 * torch.randn(n, 1, k, k)


@pytest.mark.parametrize("name", EXACT)
def test_an_exact_density_is_normalised_and_its_samples_are_its_own(name):
    """Of one weight: by quadrature, and by Kolmogorov and Smirnov's test. Of four: by importance sampling, half of it from its samples."""
    density = EXACT[name](two_heaps(120, 1))
    x = torch.linspace(-12, 12, 4001)
    p = density.log_prob(x.view(-1, 1, 1, 1)).exp().numpy()
    cumulated = integrate.cumulative_trapezoid(p, x.numpy(), initial=0)
    assert abs(cumulated[-1] - 1) < 1e-3
    sample = density.sample(2000).flatten().numpy()
    assert stats.kstest(sample, lambda value: np.interp(value, x.numpy(), cumulated)).pvalue > 1e-4

    density = EXACT[name](two_heaps(200, 2))
    wide = stats.multivariate_t(np.zeros(4), 9 * np.eye(4), df=4, seed=0)
    w = np.concatenate([wide.rvs(20_000), density.sample(20_000).flatten(1).numpy()])
    p = density.log_prob(torch.tensor(w, dtype=torch.float32).view(-1, 1, 2, 2)).exp().numpy()
    share = p / (0.5 * wide.pdf(w) + 0.5 * p)  # at most 2
    assert abs(share.mean() - 1) < 5 * share.std() / len(share) ** 0.5 < 0.05


def test_the_flows_inverse_and_its_determinant():
    torch.manual_seed(0)
    flow = Flow(3, 8, 4)
    flow.adapt(torch.randn(50, 1, 3, 3) * torch.arange(1.0, 10).view(1, 1, 3, 3))
    w = torch.randn(6, 1, 3, 3)
    assert torch.allclose(flow.log_prob(w), flow.base.log_prob(w), atol=1e-4)  # before training it is the Gaussian
    for p in flow.parameters():
        nn.init.normal_(p, std=0.3)
    x, log_det = flow(w)
    assert torch.allclose(flow.inverse(x), w, atol=1e-4)
    jacobian = torch.autograd.functional.jacobian(lambda w: flow(w)[0].sum(0), w).permute(1, 0, 2, 3, 4).reshape(6, 9, 9)
    assert torch.allclose(torch.linalg.slogdet(jacobian)[1], log_det, atol=1e-3)
    masks = torch.stack([layer.mask for layer in flow.couplings if isinstance(layer, Coupling)])
    assert torch.equal(masks[::2] + masks[1::2], torch.ones(2, 9))


def test_a_weight_of_the_pixelcnn_depends_on_those_before_it_alone():
    torch.manual_seed(0)
    density = PixelCNN(3, 8, 3, 2)
    w = torch.randn(1, 1, 3, 3, requires_grad=True)
    for i in range(9):
        mean = density.conditionals(w).component_distribution.mean[0].flatten(0, 1)[i].sum()
        (grad,) = torch.autograd.grad(mean, w)
        assert grad.flatten()[i:].abs().max() == 0 and (grad.flatten()[:i] != 0).all()
    for other in (torch.zeros(2, 1, 5, 5), torch.zeros(1, 3, 3)):
        with pytest.raises(ValueError, match=r"a density of 3x3 kernels takes"):
            density.log_prob(other)


@pytest.mark.parametrize("rule", ["scott", "silverman", 0.5])
def test_the_kernel_density_estimate_is_scipys(rule):
    kernels, w = two_heaps(60, 2), two_heaps(7, 2)
    expected = stats.gaussian_kde(kernels.flatten(1).double().numpy().T, rule).logpdf(w.flatten(1).double().numpy().T)
    assert np.allclose(KernelDensity.fit(kernels, rule).log_prob(w), expected, atol=1e-2)
    assert np.allclose(KernelDensity.fit(kernels + 1000, rule).log_prob(w + 1000), expected, atol=1e-2)


def test_the_narrowest_kernel_density_estimate_has_its_digits():
    kernels = two_heaps(200, 5)
    density = KernelDensity.fit(kernels, 0.01)
    w = density.sample(50)
    assert torch.allclose(density.log_prob(w), density.double().log_prob(w.double()).float(), atol=0.5)


@pytest.mark.parametrize("name", ["vae", "gmm", "kde", "gauss", "gauss-indep"])
def test_double_precision_stays(name):
    kernels = two_heaps(60, 3).double()
    density = DENSITIES[name].fit(kernels) if hasattr(DENSITIES[name], "fit") else VAE(3, 2, 4).double()
    assert density.log_prob(kernels).dtype == density.sample(4).dtype == torch.float64


def test_what_log_sum_exp_raises_adds_nothing():
    """Value and gradient are torch's, with terms above, at and far below where exponentials underflow."""
    x = torch.tensor([[0.0, -1.0, -79.0, -81.0, -95.0, -1e4], [-1e4, -1e4, -1e4 - 90, -2e4, -3e4, -4e4]], requires_grad=True)
    ours, torchs = log_sum_exp(x), torch.logsumexp(x, 1)
    grads = [torch.autograd.grad(value.sum(), x)[0] for value in (ours, torchs)]
    assert torch.allclose(ours, torchs) and torch.allclose(*grads)


def test_the_bandwidth_is_that_of_kernels_left_out(monkeypatch):
    """Of two narrow heaps it is narrower than Scott's rule has it, and better on new kernels; and no chunk is left out."""
    kernels, new = two_heaps(240, 1), two_heaps(400, 1)
    best, scott = KernelDensity.fit(kernels), KernelDensity.fit(kernels, "scott")
    assert best.bandwidth < scott.bandwidth and best.log_prob(new).mean() > scott.log_prob(new).mean()
    whole = best.log_prob(new)
    monkeypatch.setattr(KernelDensity, "CHUNK", 1000)
    assert torch.allclose(best.log_prob(new), whole, atol=1e-4)


@pytest.mark.parametrize("pseudo", [0.0, 9.0])
def test_expectation_maximisation_never_lowers_its_objective(pseudo):
    kernels = two_heaps(200, 2).double()
    density = GaussianMixture(2, 3).double()
    values = list(density.em(kernels, pseudo, 40))
    assert all(b > a - 1e-9 for a, b in itertools.pairwise(values)) and values[-1] > values[0] + 1
    if pseudo == 0:
        again = GaussianMixture(2, 1).double()
        *_, last = again.em(kernels, 0.0, 3)
        assert abs(last - GaussianKernels.fit(kernels, ridge=1e-6).log_prob(kernels).mean()) < 1e-4


def test_components_of_narrow_heaps_are_not_emptied():
    """Kernels that hardly vary in most directions, in four heaps: a mixture keeps its components, and beats one Gaussian on others."""
    centres, narrow = torch.randn(4, 25), torch.cat([torch.ones(5), torch.full((20,), 0.02)])

    def heaps(n):
        return (centres[torch.arange(n) % 4] + narrow * torch.randn(n, 25)).view(n, 1, 5, 5)

    kernels, others = heaps(800), heaps(400)
    density = GaussianMixture.fit(kernels, components=8)
    assert density.log_weight.exp().min() > 0.005
    assert density.log_prob(others).mean() > GaussianKernels.fit(kernels).log_prob(others).mean() + 1


class Linear(nn.Module):
    """z -> a z + b, with a constant variance."""

    def __init__(self, matrix, var, offset=0.0):
        super().__init__()
        self.matrix, self.var, self.offset = matrix, var, offset

    def forward(self, x):
        mean = x.flatten(1) @ self.matrix.T + self.offset
        return mean, torch.full_like(mean, self.var)


class AsKernels(Linear):
    def forward(self, z):
        return tuple(t.view(-1, 1, 5, 5) for t in super().forward(z))


def linear_chain(transitions, wrong=1.0):
    """A chain of one-dimensional codes, linear and Gaussian, with the exact reverse models, but for their variances times `wrong`;
    and the exact density of its kernels."""
    chain, a, s2, noise = Chain(5, 1, 2, transitions=transitions), 0.8, 0.5, 0.3
    direction = torch.linspace(-1, 1, 25)[:, None]
    var = 1.0
    for t in range(transitions):
        after = a * a * var + s2
        chain.forwards[t] = Linear(torch.tensor([[a]]), s2)
        chain.reverses[t] = Linear(torch.tensor([[a * var / after]]), wrong * var * s2 / after)
        var = after
    chain.decoder = AsKernels(direction, noise)
    precision = 1 / var + float(direction.square().sum()) / noise
    chain.encoder = Linear(direction.T / noise / precision, wrong / precision)
    return chain, MultivariateNormal(torch.zeros(25), var * direction @ direction.T + noise * torch.eye(25))


@pytest.mark.parametrize("transitions", [0, 1, 3])
def test_a_chains_bound_is_exact_with_the_exact_reverse_models(transitions):
    """And below the density with others; its samples are those of the exact density."""
    chain, exact = linear_chain(transitions)
    w = exact.sample((20,)).view(-1, 1, 5, 5)
    many = w.repeat(4000, 1, 1, 1)

    def bound(chain):
        values = chain.log_prob(many).view(4000, 20)
        return values.mean(0), values.std(0) / 4000**0.5

    value, error = bound(chain)
    log_p = exact.log_prob(w.flatten(1))
    assert ((value - log_p).abs() < 5 * error + 1e-3).all()
    value, error = bound(linear_chain(transitions, wrong=3.0)[0])
    assert (value + 5 * error < log_p - 0.1).all()
    covariance = torch.cov(chain.sample(40_000).flatten(1).T)
    assert (covariance - exact.covariance_matrix).abs().max() < 0.05


def test_a_chain_without_transitions_is_the_vae():
    """Identical numbers from identical weights."""
    torch.manual_seed(0)
    vae, chain = VAE(5, 2, 4), Chain(5, 2, 4, transitions=0)
    with pytest.raises(ValueError, match="no importance-weighted bound"):
        chain.importance_bound(torch.randn(3, 1, 5, 5), 4)
    chain.load_state_dict(vae.state_dict())
    assert sum(1 for _ in chain.reverse_model()) == sum(1 for _ in vae.reverse_model())
    w, results = torch.randn(9, 1, 5, 5), []
    for density in (vae, chain):
        torch.manual_seed(1)
        loss, report = density.loss(w)
        results.append((density.log_prob(w), density.sample(3), loss, *report.values()))
    assert all(torch.equal(a, b) for a, b in zip(*results))


def spoilt(wrong=2.0):
    chain, exact = linear_chain(0, wrong)
    vae = VAE(5, 1, 2)
    vae.encoder, vae.decoder = chain.encoder, chain.decoder
    return vae, exact


def test_the_importance_bound_rises_from_the_elbo_to_the_density():
    vae, exact = spoilt()
    w = exact.sample((8,)).view(-1, 1, 5, 5)
    elbo = vae.log_prob(w.repeat(4000, 1, 1, 1)).mean()
    values = [vae.importance_bound(w.repeat(4000 // k, 1, 1, 1), k).mean() for k in (1, 4, 16)] + [vae.importance_bound(w, 4000).mean()]
    log_p = exact.log_prob(w.flatten(1)).mean()
    assert abs(values[0] - elbo) < 0.05 and abs(values[-1] - log_p) < 0.02
    assert all(a < b for a, b in itertools.pairwise(values[:-1])) and values[-2] < log_p + 0.02


@pytest.mark.parametrize("codes", [1, 5])
def test_the_doubly_reparametrised_gradient_is_that_of_the_bound(codes):
    """In expectation, for the reverse model and for w, against central differences with the same noise."""
    vae, exact = spoilt()
    w = exact.sample((1,)).view(-1, 1, 5, 5)

    def bound(shift, n=100_000):
        vae.encoder.offset = shift
        torch.manual_seed(3)
        return vae.importance_bound(w.repeat(n, 1, 1, 1), codes).mean()

    shift = torch.tensor(0.1, requires_grad=True)
    (grad,) = torch.autograd.grad(bound(shift), shift)
    with torch.no_grad():
        expected = (bound(torch.tensor(0.1 + 0.02)) - bound(torch.tensor(0.1 - 0.02))) / 0.04
    assert abs(grad - expected) < 0.03 * max(1, abs(expected)) and abs(expected) > 0.2


def test_every_density_says_what_it_minimises():
    for fit in EXACT.values():
        density, kernels = fit(two_heaps(40, 2)), two_heaps(10, 2)
        loss, report = density.loss(kernels)
        assert isinstance(density, Density) and torch.allclose(loss, -density.log_prob(kernels).mean())
        assert list(report) == ["elbo"] and math.isclose(report["elbo"].item(), -loss.item())


TRAINED = "--num_epochs 4 --eval_freq 2 --bs 16 --hidden_dim 4"


@pytest.mark.parametrize(
    "name, options",
    [
        ("gmm", "--components 2"),
        ("kde", ""),
        ("kde", "--bandwidth 0.3"),
        ("flow", f"{TRAINED} --layers 2"),
        ("flow", f"{TRAINED} --layers 2 --no_early_stop"),
        ("pixelcnn", f"{TRAINED} --layers 2 --components 2"),
        ("chain", f"{TRAINED} --z_dim 2"),
    ],
)
def test_a_fitted_density_is_a_prior_folder(tmp_path, name, options, capsys):
    """From kernels to train_vae_prior.py, utils.load_density, and a Bayesian net under it."""
    for split, n in (("train", 40), ("test", 10)):
        np.save(tmp_path / f"{split}.npy", two_heaps(n, 5).numpy())
    words = f"--density {name} --kernel_dim 5 {options} --no_screen --data_dir {tmp_path} --out {tmp_path}/prior"
    run = train_vae_prior.main(words.split())
    density = load_density(tmp_path / "prior")
    assert "stopped" not in capsys.readouterr().err
    assert type(density) is DENSITIES[name] and (tmp_path / "prior/kernels.png").exists()
    w = torch.from_numpy(np.load(tmp_path / "test.npy"))
    torch.manual_seed(0)
    value = density.log_prob(w).mean().item()
    assert abs(value - card_rows(tmp_path / "prior")["elbo"]) < (3 if name == "chain" else 0.01 * abs(value))
    rows, card = read_rows(run / "logs.csv"), (tmp_path / "prior/README.md").read_text()
    assert ("valid_elbo" in rows[-1]) == ("were left out of the training" in card) == (density.overfits and "early" not in options)
    assert ("test_elbo" in rows[-1]) != ("valid_elbo" in rows[-1])
    assert ("bandwidth 0.3" in card) == ("bandwidth" in options) and ". ;" not in card
    if "valid_elbo" in rows[-1]:
        best = max(row["valid_elbo"] for row in rows)
        assert best > -math.inf and not (run / "vae_params_best.torch").samefile(run / "vae_params.torch")
        assert all(torch.equal(a, b) for a, b in zip(load_weights(run / "vae_params_best.torch").values(), density.state_dict().values()))


def test_a_density_is_judged_and_is_a_prior_in_evaluation_mode(tmp_path, monkeypatch):
    """One with dropout inside is trained with it, and is one density after that: the card's, the loaded one, a net's prior."""

    class Dropped(Density):
        def __init__(self, kernel_dim):
            super().__init__(kernel_dim)
            self.mean, self.dropout = torch.nn.Parameter(torch.ones(kernel_dim**2)), torch.nn.Dropout(0.5)

        def log_prob(self, w):
            seen.append(self.training)
            return -(self.flat(w) - self.dropout(self.mean)).square().sum(1)

        def sample(self, n):
            return self.dropout(self.mean).expand(n, -1).reshape(n, 1, self.kernel_dim, self.kernel_dim)

    monkeypatch.setitem(DENSITIES, "mine", Dropped)
    seen = []
    for split, n in (("train", 40), ("test", 10)):
        np.save(tmp_path / f"{split}.npy", 1 + two_heaps(n, 5).numpy())
    words = f"--density mine --kernel_dim 5 --num_epochs 2 --eval_freq 1 --bs 40 --data_dir {tmp_path} --out {tmp_path}/prior --no_screen"
    train_vae_prior.main(words.split())
    assert seen[:4] == [True, False, True, False] and not any(seen[4:])
    density, w = load_density(tmp_path / "prior"), torch.from_numpy(np.load(tmp_path / "test.npy"))
    assert density.log_prob(w).mean().item() == pytest.approx(card_rows(tmp_path / "prior")["elbo"], rel=1e-3)
    assert not KernelPrior(density.train()).density.training


def test_mistakes_in_a_density(tmp_path):
    for split in ("train", "test"):
        np.save(tmp_path / f"{split}.npy", two_heaps(9, 5).numpy())
    words = ["--kernel_dim", "5", "--data_dir", str(tmp_path)]
    mistakes = {"gmm --components 10": "fewer are needed", "flow": "too few to hold out", "vae --no_early_stop": "not for --density vae"}
    mistakes |= {f"kde --bandwidth {b}": "out of all proportion" for b in ("1e-20", "1e20")}
    for density, message in mistakes.items():
        with pytest.raises(ValueError, match=message):
            train_vae_prior.main([*words, "--density", *density.split()])


def test_few_kernels_many_times_over_are_refused_in_a_line():
    singular = torch.ones(3, 3)
    singular[0, 0] = 0.5  # not positive definite, as sums of rounded products may be
    with pytest.raises(ValueError, match="too few, or too much alike"):
        cholesky(singular, ridge=1e-6)


def test_kernels_of_another_size_and_a_density_of_another_shape_are_refused():
    """Which broadcasting would make a number of."""
    for fit in EXACT.values():
        with pytest.raises(ValueError, match=r"2x2 kernels takes \(n, 1, k, k\), not \(4, 1, 1, 1\)"):
            fit(two_heaps(40, 2)).log_prob(torch.randn(4, 1, 1, 1))

    class PerWeight(Density):
        def log_prob(self, w):
            return -w.abs().flatten(1)  # .sum(1) forgotten

    q = torch.distributions.Normal(torch.zeros(3, 1, 2, 2), torch.ones(3, 1, 2, 2))
    for wrong in (lambda: PerWeight(2).loss(torch.randn(3, 1, 2, 2)), lambda: KernelPrior(PerWeight(2)).kl(q)):
        with pytest.raises(ValueError, match=r"a number per kernel, \(3,\): it gave \(3, 4\)"):
            wrong()


@pytest.mark.parametrize("factor, warned", [(1.0, False), (1e4, True)])
def test_a_prior_whose_samples_are_of_another_size_is_warned_of(factor, warned, tmp_path, capsys):
    for split, n in (("train", 40), ("test", 10)):
        np.save(tmp_path / f"{split}.npy", factor * torch.randn(n, 1, 5, 5).numpy())
    words = f"--kernel_dim 5 --z_dim 2 {TRAINED} --no_screen --data_dir {tmp_path}"
    train_vae_prior.main(words.split())
    assert ("the kernels of" in capsys.readouterr().err) == warned
