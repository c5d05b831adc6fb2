"""Gradients written by hand, where autograd's own would cost time or memory. They are exact, except at the floor in Reparametrized."""

import torch


def normal_like(x):
    """N(0, 1) noise in the shape and memory layout of a dense tensor. torch.randn_like takes seven times as long for one that lies channels
    last, as a CPU's convolutions leave it: it then draws number by number."""
    return torch.randn(x.numel(), dtype=x.dtype, device=x.device).as_strided(x.shape, x.stride())


def refuse_second_derivatives():
    """In a backward(): what it scales are numbers, so that a derivative of it would be 0, or wrong, without a word."""
    if torch.is_grad_enabled():
        raise RuntimeError("second derivatives are not available: these gradients are worked out by hand (models/autograd.py)")


class Reparametrized(torch.autograd.Function):
    """mean + sqrt(var) * noise, noise ~ N(0, 1), of two tensors that nobody needs afterwards: both are overwritten.

    Autograd's own element-wise passes would be twice as many. Exact where var > 1e-16: d/d mean = 1, d/d var = noise / (2 sqrt(var))."""

    @staticmethod
    def forward(ctx, mean, var):
        ctx.mark_dirty(mean)
        std = var.clamp_min_(1e-16).sqrt_()  # the floor keeps the gradient finite where the input patch is all zero
        noise = normal_like(mean)
        mean.addcmul_(std, noise)
        ctx.save_for_backward(noise.div_(std).mul_(0.5))
        return mean

    @staticmethod
    def backward(ctx, grad):
        refuse_second_derivatives()
        (slope,) = ctx.saved_tensors
        return grad, grad * slope


class ChunkedSum(torch.autograd.Function):
    """sum of f over chunks of w, whose gradient is taken chunk by chunk during the forward pass.

    Only one chunk's activations exist at a time: memory does not grow with the layer, and small chunks stay in a CPU's cache (`step,
    fconv, vae`). Exact: the value is a sum, so backward() merely scales the stored gradient, and nothing is computed twice."""

    @staticmethod
    def forward(ctx, f, size, w, *parameters):
        total, w_grads = 0.0, []
        sums = [torch.zeros_like(p) for p in parameters]
        for chunk in w.split(size):
            with torch.enable_grad():
                chunk = chunk.detach().requires_grad_()
                value = f(chunk)
                grads = torch.autograd.grad(value, [chunk, *parameters])
            total = total + value.detach()
            w_grads.append(grads[0])
            sums = [a + g for a, g in zip(sums, grads[1:])]
        ctx.save_for_backward(torch.cat(w_grads), *sums)
        return total

    @staticmethod
    def backward(ctx, scale):
        refuse_second_derivatives()
        return None, None, *(scale * g for g in ctx.saved_tensors)
