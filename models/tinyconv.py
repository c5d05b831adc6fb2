"""3x3 convolutions of images as small as kernels, with a third of the multiplications.

A coder's whole image is a single tile for the algorithm of Toom, Cook and Winograd (Lavin & Gray 2016): a convolution of m by r
numbers is a product of polynomials of degree m - 1 and r - 1, so it is fixed by its values at N = m + r - 1 points, and in two
dimensions it takes N^2 products per pair of channels where the sum takes (m r)^2. With E_m the N x m matrix that evaluates m
coefficients at the points, and V = E_N,

    full convolution, m -> N        y = V^-1 [(E_r g) * (E_m x)]
    its transpose, N -> m           y = E_m^T [(E_r g) * (V^-T x)]      which is what torch calls a convolution

n images are stored as (k^2 n, C), position by position: a transform is then a matrix product, and the products at the N^2 points
are one more, batched. Up to rounding (about 1e-6) the results are those of nn.Conv2d and nn.ConvTranspose2d; the layers here have their
parameters, `weight` and `bias`, in the same shapes and with the same initial values.

This pays on a CPU. A GPU, whose convolutions use tensor cores, gets the plain sum, and images one after the other, which are then channels
last as they lie: by_images(). Its convolutions may be in TF32, as cuDNN's are by default; rounding that is expected to be far
below the noise of a draw of z (experiments.benchmark times both ways).
"""

import torch
import torch.nn.functional as F
from torch import nn

POINTS = (0, 1, -1, 0.5, -2, -0.5, 2)  # small numbers keep the rounding errors small; infinity is always one more


def evaluation(m, n):
    """E_m (n, m), float64: polynomials with m coefficients -> values at n points, of which the last is infinity."""
    points = torch.tensor(POINTS[: n - 1], dtype=torch.float64)
    return torch.cat([points[:, None] ** torch.arange(m), torch.eye(m, dtype=torch.float64)[-1:]])


def by_images(x):
    """Whether the rows of x, (k^2 n, C), are image by image rather than position by position, and convolutions torch's own."""
    return x.is_cuda


def as_images(x, k):
    """Rows (k^2 n, C), image by image, as (n, C, k, k) in their place."""
    return x.view(-1, k, k, x.shape[1]).permute(0, 3, 1, 2)


def as_rows(images):
    """(n, C, k, k) as rows (k^2 n, C), image by image."""
    return images.permute(0, 2, 3, 1).reshape(-1, images.shape[1])


def as_kernels(h, k):
    """Rows (k^2 n, 1) -> (n, 1, k, k)."""
    return h.view(-1, 1, k, k) if by_images(h) else h.view(k * k, -1).T.reshape(-1, 1, k, k)


class Tiny(nn.Module):
    """A layer of images that are stored in rows, with the parameters of the convolution `conv`."""

    def __init__(self, conv):
        super().__init__()
        self.in_channels, self.weight, self.bias = conv.in_channels, conv.weight, conv.bias

    def expect(self, x, positions=1):
        """Raise ValueError unless x is (positions n, in_channels)."""
        if x.ndim != 2 or x.shape[1] != self.in_channels or len(x) % positions:
            rows = f"{positions} n" if positions > 1 else "n"
            raise ValueError(f"{type(self).__name__} takes ({rows}, {self.in_channels}), position by position, not {tuple(x.shape)}")


class Tiny3x3(Tiny):
    """The bilinear product between a layer's transforms, which a subclass gives along one side of the image: before (N, k),
    kernel (N, 3), after (k', N)."""

    def __init__(self, conv, k, before, kernel, after):
        super().__init__(conv)
        self.k = k
        for name, matrix in dict(before=before, kernel=kernel, after=after).items():
            self.register_buffer(name, torch.kron(matrix, matrix).float(), persistent=False)

    def product(self, x, g):
        """x: (k^2 n, C_in), g: (3, 3, C_in, C_out) -> (k'^2 n, C_out)."""
        c_in, c_out = g.shape[2:]
        points, positions = self.before.shape
        values = (self.before @ x.view(positions, -1)).view(points, -1, c_in)
        weights = (self.kernel @ g.reshape(9, -1)).view(points, c_in, c_out)
        return (self.after @ torch.bmm(values, weights).view(points, -1)).view(-1, c_out) + self.bias


class Conv3x3(Tiny3x3):
    """k x k images to (k + 2 padding - 2)."""

    def __init__(self, in_channels, out_channels, k, padding=0):
        N = k + 2 * padding
        before = evaluation(N, N).inverse().T[:, padding : N - padding]
        super().__init__(nn.Conv2d(in_channels, out_channels, 3), k, before, evaluation(3, N), evaluation(N - 2, N).T)
        self.padding = padding

    def forward(self, x):
        self.expect(x, self.k**2)
        if by_images(x):
            return as_rows(F.conv2d(as_images(x, self.k), self.weight, self.bias, padding=self.padding))
        return self.product(x, self.weight.permute(2, 3, 1, 0))


class ConvTranspose3x3(Tiny3x3):
    """k x k images to k + 2."""

    def __init__(self, in_channels, out_channels, k):
        N = k + 2
        after = evaluation(N, N).inverse()
        super().__init__(nn.ConvTranspose2d(in_channels, out_channels, 3), k, evaluation(k, N), evaluation(3, N), after)

    def forward(self, x):
        self.expect(x, self.k**2)
        if by_images(x):
            return as_rows(F.conv_transpose2d(as_images(x, self.k), self.weight, self.bias))
        return self.product(x, self.weight.permute(2, 3, 0, 1))


class FirstConv3x3(Tiny):
    """Of images with one channel, (n, 1, k, k) -> (k'^2 n, C): so few products that the plain sum over patches is faster."""

    def __init__(self, out_channels, k, padding=0):
        super().__init__(nn.Conv2d(1, out_channels, 3))
        self.k, self.padding = k, padding
        pixels = torch.eye(k * k).view(-1, 1, k, k)
        self.register_buffer("patches", F.unfold(pixels, 3, padding=padding).permute(2, 1, 0).contiguous(), persistent=False)

    def forward(self, w):
        if w.shape[1:] != (1, self.k, self.k):
            raise ValueError(f"FirstConv3x3 takes images (n, 1, {self.k}, {self.k}), not {tuple(w.shape)}")
        if by_images(w):
            return as_rows(F.conv2d(w, self.weight, self.bias, padding=self.padding))
        patches = self.patches @ w.flatten(1).T  # (k'^2, 9, n); a product with zeros and ones is the fastest way to pick them
        return F.linear(patches.transpose(1, 2).reshape(-1, 9), self.weight.flatten(1), self.bias)


class Conv1x1(Tiny):
    """The same linear map at every position."""

    def __init__(self, in_channels, out_channels):
        super().__init__(nn.Conv2d(in_channels, out_channels, 1))

    def forward(self, x):
        self.expect(x)
        return F.linear(x, self.weight.flatten(1), self.bias)


class ConvTranspose1x1(Tiny):
    """The same map again, stored as a transposed convolution is."""

    def __init__(self, in_channels, out_channels):
        super().__init__(nn.ConvTranspose2d(in_channels, out_channels, 1))

    def forward(self, x):
        self.expect(x)
        return F.linear(x, self.weight.flatten(1).T, self.bias)
