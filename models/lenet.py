"""Nets for 28x28 grey images: the paper's MNIST classifier (Table 2, first column), and the two LeNets of the sparsification papers."""

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
        # pool2 leaves out the seventh row and column of conv2's 7x7 maps, the only ones that see the images' last two
        return self.classifier(self.features(x[..., :26, :26]).flatten(1))


class LeNet300(nn.Module):
    """LeNet-300-100: three linear layers with ReLU; x: (B, 1, 28, 28) -> logits (B, classes).  266 200 weights.

    hid_dim: widths of the hidden layers.  conv is not used."""

    in_channels, image_size, default_hid_dim = 1, 28, (300, 100)

    def __init__(self, hid_dim=default_hid_dim, classes=10, conv=None, linear=nn.Linear, dropout=0.0):
        super().__init__()
        h1, h2 = hid_dim
        self.features = nn.Sequential(
            OrderedDict(
                flat=nn.Flatten(),
                fc1=linear(28 * 28, h1),
                act1=nn.ReLU(),
                drop1=nn.Dropout(dropout),
                fc2=linear(h1, h2),
                act2=nn.ReLU(),
                drop2=nn.Dropout(dropout),
            )
        )
        self.classifier = linear(h2, classes)

    def forward(self, x):
        return self.classifier(self.features(x))


class LeNet5(nn.Module):
    """LeNet-5 as in Caffe's examples: conv 5x5 - pool - conv 5x5 - pool - linear - ReLU - linear; 430 500 weights.

    x: (B, 1, 28, 28) -> logits (B, classes).  hid_dim: filters of the convolutions and width of the hidden layer."""

    in_channels, image_size, default_hid_dim = 1, 28, (20, 50, 500)

    def __init__(self, hid_dim=default_hid_dim, classes=10, conv=nn.Conv2d, linear=nn.Linear, dropout=0.0):
        super().__init__()
        h1, h2, h3 = hid_dim
        self.features = nn.Sequential(
            OrderedDict(
                conv1=conv(1, h1, 5),
                pool1=nn.MaxPool2d(2),
                drop1=nn.Dropout(dropout),
                conv2=conv(h1, h2, 5),
                pool2=nn.MaxPool2d(2),
                drop2=nn.Dropout(dropout),
            )
        )
        self.classifier = nn.Sequential(
            OrderedDict(fc1=linear(h2 * 4 * 4, h3), act=nn.ReLU(), drop=nn.Dropout(dropout), fc2=linear(h3, classes))
        )

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))
