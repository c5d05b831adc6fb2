"""The paper's MNIST classifier (Table 2, first column)."""

from collections import OrderedDict

from torch import nn


class FConvMNIST(nn.Module):
    """Conv 7x7 - pool - conv 5x5 - pool - linear, leaky ReLU; x: (B, 1, 28, 28) -> logits (B, classes).

    hid_dim: filters of the two convolutions; the paper's classifier has (32, 128) and 115 658 parameters.
    conv, linear: the layer classes, plain or Bayesian.  dropout: rate on the input of every layer but the first."""

    in_channels, image_size, default_hid_dim = 1, 28, (32, 128)

    def __init__(self, hid_dim=default_hid_dim, classes=10, conv=nn.Conv2d, linear=nn.Linear, dropout=0.0):
        super().__init__()
        h1, h2 = hid_dim
        self.features = nn.Sequential(
            OrderedDict(
                conv1=conv(1, h1, 7),
                pool1=nn.MaxPool2d(2),
                act1=nn.LeakyReLU(),
                drop1=nn.Dropout(dropout),
                conv2=conv(h1, h2, 5),
                pool2=nn.MaxPool2d(2),
                act2=nn.LeakyReLU(),
                drop2=nn.Dropout(dropout),
            )
        )
        self.classifier = linear(h2 * 3 * 3, classes)

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))
