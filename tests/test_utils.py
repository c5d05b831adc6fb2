"""The objective, the epoch function, prediction and metrics."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import MultivariateNormal, Normal

from data import Dataset
from models import FConvMNIST
from models.bayes import BayesConv2d, BayesLinear, bayes_layers, set_mode
from models.cost import count_flops
from models.priors import StandardNormal
from train_bnn import kl_factor_at, negative_elbo
from utils import ensemble_average, evaluate, linear_lr, mc_ensemble, metrics, minibatches, predict, train_epoch


def test_minibatch_elbo_weights_the_data_by_n_over_b():
    net, x, y = FConvMNIST((3, 4), conv=BayesConv2d), torch.rand(12, 1, 28, 28), torch.arange(12) % 10
    layers = bayes_layers(net)
    priors = [StandardNormal() for _ in layers]
    set_mode(net, "det")  # so that only the choice of images is random
    kl = sum(p.kl(layer.posterior()) for p, layer in zip(priors, layers))
    full = F.cross_entropy(net(x), y, reduction="sum") + kl
    parts = [negative_elbo(net, layers, priors, 12, x[i : i + 4], y[i : i + 4]) for i in (0, 4, 8)]
    torch.testing.assert_close(torch.stack([loss for loss, _ in parts]).mean(), full)
    torch.testing.assert_close(parts[0][0], 3 * F.cross_entropy(net(x[:4]), y[:4], reduction="sum") + kl)
    torch.testing.assert_close(parts[0][1]["kl"], kl)
    half, report = negative_elbo(net, layers, priors, 12, x, y, kl_factor=0.5)
    torch.testing.assert_close(half, full - 0.5 * kl)
    torch.testing.assert_close(report["kl"], kl)


def test_minibatches_cover_the_set_once():
    x = torch.arange(10)
    for bs, sizes in ((3, [3, 3, 3, 1]), (10, [10]), (99, [10])):
        batches = list(minibatches((x, -x), bs))
        assert [len(a) for a, _ in batches] == sizes and all(torch.equal(a, -b) for a, b in batches)
        assert torch.cat([a for a, _ in batches]).sort()[0].tolist() == x.tolist()


def test_train_epoch_fits_a_line_and_averages_over_items():
    x = torch.randn(50, 3)
    y = x @ torch.tensor([1.0, -2.0, 3.0])
    w = torch.zeros(3, requires_grad=True)
    opt = torch.optim.Adam([w], lr=0.1)

    def objective(x, y):
        loss = (x @ w - y).square().mean()
        return loss, dict(mse=loss)

    stats = [train_epoch((x, y), 16, opt, objective)["mse"] for _ in range(60)]
    assert stats[-1] < 1e-3 < stats[0] and torch.allclose(w, torch.tensor([1.0, -2.0, 3.0]), atol=0.05)
    opt = torch.optim.SGD([w], lr=0.0)
    assert train_epoch((x, y), 16, opt, objective)["mse"] == pytest.approx((x @ w - y).square().mean().item(), rel=1e-5)


def test_nan_loss_stops_and_says_at_which_step():
    w = torch.ones(1, requires_grad=True)
    x = torch.tensor([1.0, 1.0, float("nan"), 1.0])
    batches = iter(x)
    with pytest.raises(FloatingPointError, match=r"loss is NaN or infinite at step 22 \(epoch 5\)"):
        train_epoch((x,), 1, torch.optim.SGD([w], lr=0.1), lambda _: ((next(batches) * w).sum(), {}), epoch=5)


def test_linear_lr():
    opt = torch.optim.SGD([torch.ones(1)], lr=9)
    rates = []
    for epoch in range(4):
        linear_lr(opt, epoch, 4, 1.0)
        rates.append(opt.param_groups[0]["lr"])
    assert rates == [1.0, 0.75, 0.5, 0.25]


def test_metrics_by_hand():
    probs = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [0.4, 0.6]])
    y = torch.tensor([0, 1, 1, 1])
    m = metrics(probs.log(), y)
    assert m["acc"] == 0.75
    assert m["nll"] == pytest.approx(-(math.log(0.9) + math.log(0.1) + math.log(0.7) + math.log(0.6)) / 4)
    assert m["brier"] == pytest.approx((0.02 + 1.62 + 0.18 + 0.32) / 4)
    assert m["ece"] == pytest.approx((abs(1.8 - 1) + abs(0.7 - 1) + abs(0.6 - 1)) / 4)  # bins .87-.93, .67-.73, .60-.67


def test_ensemble_is_the_mean_of_probabilities_over_weight_samples():
    net, x = FConvMNIST((3, 4), conv=lambda *a: BayesConv2d(*a, logvarinit=-2.0)), torch.rand(6, 1, 28, 28)
    members = mc_ensemble(net, x, 3, bs=2)
    assert not torch.allclose(members[0], members[1])
    torch.testing.assert_close(ensemble_average(members).exp(), torch.stack([m.exp() for m in members]).mean(0))
    set_mode(net, "sample")  # one weight sample serves all batches
    torch.testing.assert_close(predict(net, x, bs=2), predict(net, x, bs=6))
    results = evaluate(net, Dataset(x, torch.arange(6)), ens=2)
    assert {f"{who}_{k}" for who in ("mean", "one", "ens") for k in ("acc", "nll", "ece", "brier")} == set(results)
    assert bayes_layers(net)[0].mode == "sample"  # as before
    assert set(evaluate(FConvMNIST((3, 4)), Dataset(x, torch.arange(6)))) == {"mean_acc", "mean_nll", "mean_ece", "mean_brier"}


def test_jensen_the_ensemble_is_no_worse_than_its_members_on_average():
    members = [torch.randn(40, 5).log_softmax(1) for _ in range(4)]
    y = torch.randint(5, (40,))
    assert metrics(ensemble_average(members), y)["nll"] <= sum(metrics(m, y)["nll"] for m in members) / 4


def test_flops_of_a_net_and_the_random_state():
    net, x, state = FConvMNIST((32, 128)), torch.rand(2, 1, 28, 28), torch.get_rng_state()
    conv1, conv2, linear = (2 * 2 * n for n in (20 * 20 * 49 * 32, 6 * 6 * 25 * 32 * 128, 1152 * 10))
    assert count_flops(lambda: net(x)) == conv1 + conv2 + linear
    count_flops(lambda: torch.randn(3))
    assert torch.equal(state, torch.get_rng_state())


def test_schedules():
    assert [kl_factor_at(epoch, 4, 0.5) for epoch in (0, 1, 4, 9)] == [0, 0.125, 0.5, 0.5] and kl_factor_at(0) == 1
    opt = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    rates = []
    for epoch in range(10):
        linear_lr(opt, epoch, 10, 2.0, decrease_from=5)
        rates.append(opt.param_groups[0]["lr"])
    assert rates == pytest.approx([2.0] * 6 + [1.6, 1.2, 0.8, 0.4])


def test_the_elbo_and_the_loop_find_the_posterior_of_bayesian_linear_regression():
    """With orthogonal inputs the posterior factorises: q can be exact, and the bound the log evidence."""
    n, sigma, epochs = 64, 0.5, 400
    x = torch.linalg.qr(torch.randn(n, 3))[0] * torch.tensor([8.0, 3.0, 1.0])
    y = x @ torch.tensor([[0.7], [-1.2], [0.4]]) + sigma * torch.randn(n, 1)
    precision = 1 + x.square().sum(0) / sigma**2
    mean = (x.T @ y).squeeze() / sigma**2 / precision
    evidence = MultivariateNormal(torch.zeros(n), x @ x.T + sigma**2 * torch.eye(n)).log_prob(y.squeeze())

    layer = BayesLinear(3, 1, bias=False, logvarinit=-2.0)
    opt = torch.optim.Adam(layer.parameters())

    def objective(x, y):
        return negative_elbo(layer, [layer], [StandardNormal()], n, x, y, mean_nll=lambda out, y: -Normal(out, sigma).log_prob(y).mean())

    for epoch in range(epochs):
        linear_lr(opt, epoch, epochs, 0.05)
        train_epoch((x, y), 16, opt, objective)
    q = layer.posterior()
    torch.testing.assert_close(q.variance.squeeze(), 1 / precision, rtol=0.1, atol=0)
    assert ((q.loc.squeeze() - mean).abs() < 0.1 * precision.rsqrt()).all()
    with torch.no_grad():
        bounds = torch.stack([-objective(x, y)[0] for _ in range(2000)])
    assert abs(bounds.mean() - evidence) < 0.05


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_metrics_take_any_floating_type_and_refuse_a_label_that_is_no_class(dtype):
    log_probs, y = torch.randn(20, 4).log_softmax(1), torch.arange(20) % 3  # class 3 does not occur
    rounded = log_probs.to(dtype)
    assert metrics(rounded, y) == metrics(rounded.float(), y)
    with pytest.raises(ValueError, match="label 4 is none of the 4 classes"):
        metrics(rounded, y + 2)
