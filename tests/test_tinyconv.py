"""The coders' convolutions are those of torch."""

import pytest
import torch
import torch.nn.functional as F

from models import tinyconv
from models.tinyconv import Conv1x1, Conv3x3, ConvTranspose1x1, ConvTranspose3x3, FirstConv3x3, evaluation
from models.vae import VAE

LAYERS = {  # name: layer, k, padding
    **{f"{k}x{k}, padding {p}": (lambda k=k, p=p: Conv3x3(3, 4, k, p), k, p) for k, p in ((3, 0), (5, 0), (5, 1))},
    **{f"{k}x{k}, transposed": (lambda k=k: ConvTranspose3x3(3, 4, k), k, 0) for k in (1, 3, 5)},
    "1x1": (lambda: Conv1x1(3, 4), 5, 0),
    "1x1, transposed": (lambda: ConvTranspose1x1(3, 4), 5, 0),
    **{f"first, padding {p}": (lambda p=p: FirstConv3x3(4, 5, p), 5, p) for p in (0, 1)},
}


def torch_conv(layer, x, padding):
    """What torch makes of a layer's parameters and images (n, C, k, k)."""
    kind = F.conv_transpose2d if isinstance(layer, (ConvTranspose3x3, ConvTranspose1x1)) else F.conv2d
    return kind(x, layer.weight, layer.bias, padding=padding)


def rows_of(images):
    """(n, C, k, k) position by position: (k^2 n, C)."""
    return images.permute(2, 3, 0, 1).reshape(-1, images.shape[1])


@pytest.mark.parametrize("name", LAYERS)
def test_value_and_gradients(name):
    """x, weight and bias get the gradients that torch's own convolution gives them."""
    build, k, padding = LAYERS[name]
    layer = build()
    x = torch.randn(6, layer.in_channels, k, k, requires_grad=True)
    ours = layer(x if isinstance(layer, FirstConv3x3) else rows_of(x))
    expected = rows_of(torch_conv(layer, x, padding))
    weights = torch.randn_like(expected)
    values = [torch.autograd.grad((y * weights).sum(), [x, *layer.parameters()]) for y in (ours, expected)]
    for a, b in zip([ours, *values[0]], [expected, *values[1]]):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("k", [3, 5, 7])
def test_a_gpus_way_and_a_cpus_are_one_function(k, monkeypatch):
    """Coders by torch's own convolutions, image by image: the same values and gradients but for rounding."""
    vae, w, found = VAE(k, 2, 8).double(), torch.randn(5, 1, k, k, dtype=torch.float64, requires_grad=True), []
    for own in (False, True):
        monkeypatch.setattr(tinyconv, "by_images", lambda x, own=own: own)
        (mean, var), (w_mean, w_var) = vae.encoder(w), vae.decoder(torch.arange(10.0, dtype=torch.float64).view(5, 2) / 5)
        total = sum((i + 1) * (t * torch.linspace(-1, 1, t.numel()).view(t.shape)).sum() for i, t in enumerate((mean, var, w_mean, w_var)))
        found.append([mean, var, w_mean, w_var, *torch.autograd.grad(total, [w, *vae.parameters()])])
    for a, b in zip(*found):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()


@pytest.mark.parametrize("name", LAYERS)
def test_another_layout_or_number_of_channels_is_refused(name):
    build, k, _ = LAYERS[name]
    layer = build()
    images = torch.randn(8, 6, k, k)  # in torch's layout, with too many channels
    for wrong in (images, rows_of(images)):
        with pytest.raises(ValueError, match="takes"):
            layer(wrong)


@pytest.mark.parametrize("m, n", [(1, 3), (3, 5), (5, 7)])
def test_a_product_of_polynomials_is_fixed_by_its_values(m, n):
    a, b = torch.randn(m, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    product = torch.linalg.solve(evaluation(n, n), (evaluation(m, n) @ a) * (evaluation(3, n) @ b))
    expected = torch.zeros(n, dtype=torch.float64)
    for i in range(m):
        expected[i : i + 3] += a[i] * b
    torch.testing.assert_close(product, expected)
