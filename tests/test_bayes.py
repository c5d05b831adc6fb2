"""Layers and networks: moments of local reparametrisation, modes, published names and parameter counts."""

import math

import pytest
import torch
from scipy import stats
from torch import nn

from models import CIFARNet, FConvMNIST, build_net
from models.autograd import Reparametrized, normal_like
from models.bayes import (
    LAYERS,
    BayesConv2d,
    BayesLinear,
    bayes_layers,
    conv_layers,
    init_posterior,
    is_stochastic,
    log_variances,
    mode,
    set_mode,
    set_rates,
)
from models.image_vae import ImageVAE

LAYER_CASES = [
    (lambda: BayesConv2d(2, 3, 3, stride=2, padding=1, logvarinit=-1.0), (4, 2, 5, 5)),
    (lambda: BayesConv2d(2, 3, 3, bias=False, logvarinit=-1.0), (4, 2, 5, 5)),
    (lambda: BayesLinear(6, 3, logvarinit=-1.0), (4, 6)),
]


@pytest.mark.parametrize("make, shape", LAYER_CASES)
def test_local_reparametrisation_has_the_moments_of_weight_sampling(make, shape):
    layer, x, n = make(), torch.randn(shape), 2000
    mean, var = (t.detach() for t in layer.moments(x))
    draws = {}
    for word in ("stoch", "sample"):
        outputs = []
        for _ in range(n):
            set_mode(layer, word)
            outputs.append(layer(x).detach())
        draws[word] = torch.stack(outputs)
    for outputs in draws.values():
        error = (outputs.mean(0) - mean).abs() / (var / n).sqrt()
        assert error.max() < 5  # standard errors
        assert ((outputs.var(0) / var - 1).abs() / (2 / n) ** 0.5).max() < 5


@pytest.mark.parametrize("make, shape", LAYER_CASES)
def test_modes(make, shape):
    layer, x = make(), torch.randn(shape)
    set_mode(layer, "det")
    assert torch.equal(layer(x), layer.mean(x))
    set_mode(layer, "sample")
    first = layer(x)
    assert torch.equal(first, layer(x))  # one draw until the mode is set again
    set_mode(layer, "sample")
    assert not torch.equal(first, layer(x))
    set_mode(layer, "stoch")
    assert not torch.equal(layer(x), layer(x))
    with pytest.raises(ValueError, match="stoch, sample, det"):
        set_mode(layer, "random")
    set_mode(layer, "sample")
    first = layer(x)
    with pytest.raises(KeyError), mode(layer, "det"):
        assert torch.equal(layer(x), layer.mean(x))
        raise KeyError
    assert torch.equal(first, layer(x))  # the same weight sample as before


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_noise_is_standard_normal_and_lies_as_its_tensor_does(layout):
    x = torch.empty(7, 5, 12, 11).to(memory_format=layout)
    noise = normal_like(x)
    assert noise.shape == x.shape and noise.stride() == x.stride()
    assert stats.kstest(noise.flatten(), "norm").pvalue > 1e-4 and len(noise.unique()) > 0.99 * noise.numel()


def test_what_the_mnist_net_leaves_out_never_reached_its_classifier():
    net, x = FConvMNIST((3, 4)), torch.rand(2, 1, 28, 28)
    torch.testing.assert_close(net(x), net.classifier(net.features(x).flatten(1)))
    other = x.clone()
    other[:, :, 26:], other[..., 26:] = 0.7, 0.7
    assert torch.equal(net(x), net(other)) and not torch.equal(net.features[0](x), net.features[0](other))


def test_quantiles_of_the_log_variances():
    net = FConvMNIST((3, 4), conv=BayesConv2d)
    layers = bayes_layers(net)
    init_posterior(layers, -10.0, spread=0.5)
    found = log_variances(layers)
    assert list(found) == ["logvar_05", "logvar_50", "logvar_95"]
    assert list(found.values()) == pytest.approx([-10 - 0.5 * 1.645, -10, -10 + 0.5 * 1.645], abs=0.15)
    layers[0].mean.weight.data.fill_(0.1)
    set_rates(layers[:1], ["vd"])  # alpha mean^2, alpha the sigmoid of -2
    assert log_variances(layers[:1])["logvar_50"] == pytest.approx(math.log(0.01 / (1 + math.exp(2))), abs=1e-4)
    assert log_variances([]) == {}


def test_noise_can_be_a_share_of_a_layers_weights():
    layers = bayes_layers(FConvMNIST((3, 4), conv=BayesConv2d))
    init_posterior(layers, "relative:0.03")
    for layer in layers:
        size = layer.mean.weight.square().mean().sqrt()
        torch.testing.assert_close(layer.scale(), (0.03 * size).expand_as(layer.mean.weight))
    assert layers[0].scale()[0, 0, 0, 0] != layers[1].scale()[0, 0, 0, 0]


def test_reparametrisation_is_what_autograd_would_make_of_it():
    mean, var = torch.randn(3, 4, requires_grad=True), torch.rand(3, 4, requires_grad=True)
    results = []
    for f in (lambda: mean + var.sqrt() * torch.randn_like(mean), lambda: Reparametrized.apply(mean.clone(), var.clone())):
        torch.manual_seed(1)
        y = f()
        results.append((y, *torch.autograd.grad(y.square().sum(), [mean, var])))
    for a, b in zip(*results):
        torch.testing.assert_close(a, b)
    with pytest.raises(RuntimeError, match="second derivatives are not available"):
        torch.autograd.grad(Reparametrized.apply(mean.clone(), var.clone()).sum(), var, create_graph=True)


def test_gradient_is_finite_on_an_empty_image():
    layer = BayesConv2d(1, 2, 3, bias=False)
    layer(torch.zeros(1, 1, 5, 5)).sum().backward()
    assert layer.var.weight.grad.isfinite().all() and layer.mean.weight.grad.isfinite().all()


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("arch, parameters, image", [(FConvMNIST, 115658, (1, 28, 28)), (CIFARNet, 5759498, (3, 32, 32))])
def test_networks_have_the_papers_parameter_counts(arch, parameters, image):
    assert count(arch()) == parameters  # Table 2
    net = arch(conv=BayesConv2d)
    assert count(net) == parameters + sum(layer.var.weight.numel() for layer in bayes_layers(net))
    assert arch(hid_dim=(4,) * len(arch.default_hid_dim), classes=7)(torch.rand(2, *image)).shape == (2, 7)


def test_state_dict_keys_are_the_published_ones():
    keys = set(FConvMNIST(conv=BayesConv2d).state_dict())
    assert {"features.conv1.mean.weight", "features.conv1.var.weight", "features.conv2.var.weight", "classifier.weight"} <= keys
    assert "features.conv1.var.bias" not in keys


@pytest.mark.parametrize("cfg", LAYERS)
def test_a_seed_gives_the_same_initial_means_in_every_configuration(cfg):
    x, y = torch.rand(4, 1, 28, 28), torch.arange(4)
    nets = []
    for name in ("vanilla", cfg):
        torch.manual_seed(3)
        nets.append(build_net("fconv", name, (4, 8), x, y))
    for a, b in zip(*(conv_layers(net).values() for net in nets)):
        assert torch.equal(a.weight, b.weight)
    assert list(conv_layers(nets[1])) == ["features.conv1", "features.conv2"]
    linears = [getattr(net.classifier, "mean", net.classifier).weight for net in nets]
    assert torch.equal(*linears)
    for net in nets:
        set_mode(net, "det")
    assert torch.allclose(nets[0](x), nets[1](x))


def test_mc_dropout_is_on_in_random_modes_only():
    net, x = FConvMNIST((4, 8), dropout=0.5), torch.rand(4, 1, 28, 28)
    set_mode(net, "stoch")
    assert is_stochastic(net) and not torch.equal(net(x), net(x))
    set_mode(net, "det")
    assert torch.equal(net(x), net(x)) and not is_stochastic(FConvMNIST((4, 8)))


def test_build_net_refuses_what_does_not_fit():
    y = torch.arange(4)
    with pytest.raises(ValueError, match="2 widths, got 3"):
        build_net("fconv", "bayes", (1, 2, 3), torch.rand(4, 1, 28, 28), y)
    with pytest.raises(ValueError, match="takes images"):
        build_net("cifarnet", "bayes", None, torch.rand(4, 1, 28, 28), y)
    assert isinstance(build_net("cifarnet", "vanilla", (2, 2, 2), torch.rand(4, 3, 32, 32), y).features.conv3, nn.Conv2d)


def test_image_vae():
    """The parameter count of Table 2, shapes, and a bound that a step of training raises."""
    net, x = ImageVAE(), torch.rand(4, 1, 28, 28).round()
    assert count(net) == 1641665 and net.elbo(x).shape == (4,) and net.sample(3).shape == (3, 1, 28, 28)
    assert [conv.kernel_size[0] for conv in conv_layers(net).values()] == [7, 5, 5, 5, 5]
    opt = torch.optim.Adam(net.parameters(), 1e-3)
    values = []
    for _ in range(5):
        loss = -net.elbo(x).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        values.append(loss.item())
    assert values[-1] < values[0]
