"""The coders' convolutions are those of torch."""

import pytest
import torch
from torch import nn

from models.tinyconv import Conv1x1, Conv3x3, ConvTranspose1x1, ConvTranspose3x3, FirstConv3x3, evaluation

LAYERS = {
    **{f"{k}x{k}, padding {p}": (nn.Conv2d, lambda k=k, p=p: Conv3x3(3, 4, k, p), k) for k, p in ((3, 0), (5, 0), (5, 1))},
    **{f"{k}x{k}, transposed": (nn.ConvTranspose2d, lambda k=k: ConvTranspose3x3(3, 4, k), k) for k in (1, 3, 5)},
    "1x1": (nn.Conv2d, lambda: Conv1x1(3, 4), 5),
    "1x1, transposed": (nn.ConvTranspose2d, lambda: ConvTranspose1x1(3, 4), 5),
    **{f"first, padding {p}": (nn.Conv2d, lambda p=p: FirstConv3x3(4, 5, p), 5) for p in (0, 1)},
}


@pytest.mark.parametrize("name", LAYERS)
def test_value_and_gradients(name):
    """x, weight and bias get the gradients that torch's own convolution gives them."""
    kind, make, k = LAYERS[name]
    layer, n = make(), 6
    x = torch.randn(n, layer.in_channels, k, k, requires_grad=True)
    rows = x if isinstance(layer, FirstConv3x3) else x.permute(2, 3, 0, 1).reshape(k * k * n, -1)
    ours, expected = layer(rows), kind.forward(layer, x)
    expected_rows = expected.permute(2, 3, 0, 1).reshape(-1, expected.shape[1])
    weights = torch.randn_like(expected_rows)
    values = [torch.autograd.grad((y * weights).sum(), [x, *layer.parameters()]) for y in (ours, expected_rows)]
    for a, b in zip([ours, *values[0]], [expected_rows, *values[1]]):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("m, n", [(1, 3), (3, 5), (5, 7)])
def test_a_product_of_polynomials_is_fixed_by_its_values(m, n):
    a, b = torch.randn(m, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    product = torch.linalg.solve(evaluation(n, n), (evaluation(m, n) @ a) * (evaluation(3, n) @ b))
    expected = torch.zeros(n, dtype=torch.float64)
    for i in range(m):
        expected[i : i + 3] += a[i] * b
    torch.testing.assert_close(product, expected)
