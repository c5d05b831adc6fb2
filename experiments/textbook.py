"""The method as a textbook would write it, without regard to speed: what the benchmark times the project against, and an oracle for tests.

Two separate convolutions and a torch.distributions sample per Bayesian layer; coders of torch's own convolutions, through which all kernels
pass at once; log-probabilities and KL terms from torch.distributions; data fetched item by item.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.utils.data import DataLoader, TensorDataset

from models.bayes import BayesConv2d


def order(net):
    """A net whose activations come before its max-pooling, as they are usually written. (They commute, but one is four times smaller.)"""
    layers = list(net.features.named_children())
    for i in range(1, len(layers)):
        if isinstance(layers[i - 1][1], nn.MaxPool2d) and isinstance(layers[i][1], nn.LeakyReLU):
            layers[i - 1 : i + 1] = layers[i], layers[i - 1]
    net.features = nn.Sequential(OrderedDict(layers))
    return net


class Conv2d(BayesConv2d):
    """Local reparametrisation."""

    def forward(self, x):
        mean = F.conv2d(x, self.mean.weight, self.mean.bias)
        std = torch.sqrt(1e-16 + F.conv2d(x**2, torch.exp(self.var.weight)))
        return Normal(mean, std).rsample()

    def posterior(self):
        return Normal(self.mean.weight, torch.exp(0.5 * self.var.weight))


class Coder(nn.Module):
    """Convolutions with ELUs between them, and two heads: mean and variance.  stack, heads: named as in models/vae.py."""

    def __init__(self, stack, heads):
        super().__init__()
        (name, layers), (mean, var) = stack, heads
        self.add_module(name, nn.Sequential(*(m for layer in layers for m in (layer, nn.ELU()))))
        self.add_module(*mean)
        self.add_module(*var)

    def forward(self, h):
        stack, mean, var = self.children()
        h = stack(h)
        return mean(h), F.softplus(var(h)) + 1e-10


class KernelVAE(nn.Module):
    """The coders of models/vae.py, whose state dict they take."""

    def __init__(self, kernel_dim, z, h):
        super().__init__()
        conv, up = nn.Conv2d, nn.ConvTranspose2d
        if kernel_dim == 7:
            down, heads = [conv(1, h, 3), conv(h, 2 * h, 3), conv(2 * h, 2 * h, 3)], [("fc_mu", up(h, 1, 1)), ("fc_var", up(h, 1, 1))]
            back, name = [up(z, 2 * h, 3), up(2 * h, 2 * h, 3), up(2 * h, h, 3)], "fc_var"
        elif kernel_dim == 3:
            down, heads = [conv(1, h, 3, padding=1), conv(h, 2 * h, 3)], [("fc_mu", conv(h, 1, 1)), ("fc_var", conv(h, 1, 1))]
            back, name = [conv(z, 2 * h, 1), up(2 * h, h, 3)], "fc_var"
        else:
            down = [conv(1, h, 3, padding=1), conv(h, h, 3, padding=1), conv(h, 2 * h, 3), conv(2 * h, 2 * h, 3)]
            heads = [("fc_mu", nn.Sequential(conv(h, 1, 1))), ("fc_var", nn.Sequential(conv(h, 1, 1)))]
            back, name = [conv(z, 2 * h, 1), up(2 * h, 2 * h, 3), up(2 * h, 2 * h, 3), conv(2 * h, h, 1)], "fc_sigma"
        self.encoder = Coder(("features", down), [("fc_mu", conv(2 * h, z, 1)), (name, conv(2 * h, z, 1))])
        self.decoder = Coder(("decoder", back), heads)


def kernel_vae(vae):
    """The textbook's form of a models.vae.VAE, with copies of its weights, as frozen as they are, on its device."""
    state = vae.state_dict()
    plain = KernelVAE(vae.kernel_dim, vae.z_dim, len(state["encoder.features.0.bias"]))
    plain.load_state_dict(state)
    learned = {name: p.requires_grad for name, p in vae.named_parameters()}
    for name, p in plain.named_parameters():
        p.requires_grad_(learned[name])
    return plain.to(state["encoder.fc_mu.bias"].device)


def elbo(vae, w):
    """ELBO per kernel, nats: (n, 1, k, k) -> (n,), estimated by one sample of z."""
    mean, var = vae.encoder(w)
    r = Normal(mean.flatten(1), var.flatten(1).sqrt())
    w_mean, w_var = vae.decoder(r.rsample()[:, :, None, None])
    log_lik = Normal(w_mean, w_var.sqrt()).log_prob(w).sum((1, 2, 3))
    return log_lik - kl_divergence(r, Normal(torch.zeros_like(r.loc), torch.ones_like(r.loc))).sum(1)


def kl(name, q, vae=None):
    """The KL terms of the priors sn, loguniform and vae, all kernels at once."""
    if name == "sn":
        return kl_divergence(q, Normal(torch.zeros_like(q.loc), torch.ones_like(q.scale))).sum()
    if name == "loguniform":
        log_alpha = torch.log(q.scale**2) - torch.log(q.loc**2 + 1e-16)
        return -(0.63576 * torch.sigmoid(1.87320 + 1.48695 * log_alpha) - 0.5 * torch.log1p(torch.exp(-log_alpha)) - 0.63576).sum()
    return -q.entropy().sum() - elbo(vae, q.rsample().view(-1, 1, *q.loc.shape[2:])).sum()


def per_item(*tensors, bs, order):
    """Batches from a DataLoader that fetches item by item. (Its own generator leaves the global random state alone.)"""
    return DataLoader(TensorDataset(*tensors), bs, sampler=order.tolist(), generator=torch.Generator())
