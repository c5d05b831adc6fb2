"""Which of a layer's n kernels a step sums over, in the KL term of a prior over kernels.

estimate() takes f, the means and the scales of all kernels, each (n, 1, k, k), and the parameters that f has besides; f(mean, scale) is a
sum over the kernels it is given, and the result an unbiased estimate of f over all of them.
"""

import torch
from torch import nn

from .autograd import Remembered


def kernel_sum(kernels, memory):
    """What --kl_kernels and --kl_memory ask for."""
    if not kernels:
        return FullSum()
    return Turns(kernels) if memory else Draw(kernels)


class FullSum(nn.Module):
    """All kernels, in every step: the paper's."""

    def estimate(self, f, mean, scale, parameters=()):
        return f(mean, scale)


class Draw(nn.Module):
    """m kernels, drawn anew in every step without replacement.

    A kernel is pushed rarely and n / m times as hard, of which Adam, dividing by the root mean square, makes sqrt(n / m) times less than
    of an even push."""

    def __init__(self, m):
        super().__init__()
        self.m = m

    def estimate(self, f, mean, scale, parameters=()):
        n = len(mean)
        if self.m >= n:
            return f(mean, scale)
        chosen = torch.randperm(n, device=mean.device)[: self.m]
        return n / self.m * f(mean[chosen], scale[chosen])


class Turns(Draw):
    """m kernels, which take turns; the gradients of the others are remembered (stochastic average gradient, Le Roux et al. 2012).

    Every kernel is pushed evenly, at a draw's price, by a gradient out of date by less than 2 n / m steps. The net is worse than under the
    full sum (results/ablations.csv), for two reasons (results/tightness.csv): the noise of a draw of w and z, larger than the gradient,
    stays for a whole turn, in which Adam's momentum would have averaged it; and in the first half of a training the gradient itself moves
    in a turn by as much as it is large. Against the first, let f take two mirrored draws.
    Without gradients there is nothing to remember, and no turn is taken: a plain draw."""

    def __init__(self, m):
        super().__init__(m)
        self.memory, self.waiting = None, torch.empty(0, dtype=torch.long)  # last gradients, and kernels still to be drawn in this turn

    def get_extra_state(self):
        """For a checkpoint, so that a resumed run goes on exactly."""
        return dict(memory=self.memory, waiting=self.waiting)

    def set_extra_state(self, state):
        self.memory, self.waiting = state["memory"], state["waiting"]

    def estimate(self, f, mean, scale, parameters=()):
        if self.m >= len(mean) or not torch.is_grad_enabled():
            return super().estimate(f, mean, scale, parameters)
        chosen = self.next_turn(mean, scale)
        return Remembered.apply(f, self.memory, chosen, mean, scale, *parameters)

    def next_turn(self, mean, scale):
        """The kernels of this turn: all in the first, which fills the memory."""
        n = len(mean)
        if self.memory is None:
            self.memory = torch.zeros_like(mean), torch.zeros_like(scale)
            return torch.arange(n, device=mean.device)
        if len(self.waiting) < self.m:  # those left of a turn come before the next, and in it last
            left, order = self.waiting.to(mean.device), torch.randperm(n, device=mean.device)
            early = torch.isin(order, left)
            self.waiting = torch.cat([left, order[~early], order[early]])
        chosen, self.waiting = self.waiting[: self.m], self.waiting[self.m :]
        return chosen
