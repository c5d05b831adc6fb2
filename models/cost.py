"""What a step of train_bnn.py costs, in floating-point operations of its matrix products and convolutions."""

import copy

import torch
from torch.utils.flop_counter import FlopCounterMode

LEARNED = 3  # times count_flops(), with backward through weights that learn
FROZEN = 2  # and through those that do not, as a prior's (a reverse model that learns adds .3)


@torch.no_grad()
def count_flops(compute):
    """Floating-point operations of the matrix products and convolutions in the forward pass compute()."""
    with FlopCounterMode(display=False) as counter, torch.random.fork_rng():
        compute()
    return counter.get_total_flops()


def kl_flops(layers, priors):
    """Those of the forward pass of the KL term: the sum of prior.kl over the Bayesian layers."""
    return count_flops(lambda: sum(prior.kl(layer.posterior()) for prior, layer in zip(priors, layers)))


def announce_cost(net, layers, priors, batch, full):
    """Print what a step costs under priors over kernels, whose sum over all kernels (full) outweighs the data term on a CPU; name the way
    out."""
    net = copy.deepcopy(net)  # whose batch normalisation takes statistics of what passes
    data, kl = LEARNED * count_flops(lambda: net(batch)), FROZEN * kl_flops(layers, priors)
    hint = "; --kl_kernels 256 takes 256 kernels of each layer" if kl > 2 * data and full else ""
    print(f"a step takes {data / 1e9:.1f} GFLOP for the data term and {kl / 1e9:.1f} GFLOP for the KL term{hint}")
