"""The paper's CIFAR classifier (Table 2, second column)."""

from collections import OrderedDict

from torch import nn


class CIFARNet(nn.Module):
    """Conv 7x7 - pool - conv 5x5 - conv 5x5 - linear - linear, leaky ReLU; x: (B, 3, 32, 32) -> logits (B, classes).

    hid_dim: filters of the three convolutions; the paper's net has (128, 256, 256) and 5 759 498 parameters. (Its section 4.1
    speaks of four convolutions but lists three; three fit the parameter count.)
    conv, linear: the layer classes, plain or Bayesian.  dropout: rate on the input of every layer but the first."""

    in_channels, image_size, default_hid_dim = 3, 32, (128, 256, 256)

    def __init__(self, hid_dim=default_hid_dim, classes=10, conv=nn.Conv2d, linear=nn.Linear, dropout=0.0):
        super().__init__()
        h1, h2, h3 = hid_dim
        self.features = nn.Sequential(
            OrderedDict(
                conv1=conv(3, h1, 7),
                pool1=nn.MaxPool2d(2),
                act1=nn.LeakyReLU(),
                drop1=nn.Dropout(dropout),
                conv2=conv(h1, h2, 5),
                act2=nn.LeakyReLU(),
                drop2=nn.Dropout(dropout),
                conv3=conv(h2, h3, 5),
                act3=nn.LeakyReLU(),
                drop3=nn.Dropout(dropout),
            )
        )
        self.classifier = nn.Sequential(
            OrderedDict(fc1=linear(h3 * 5 * 5, 512), act=nn.LeakyReLU(), drop=nn.Dropout(dropout), fc2=linear(512, classes))
        )

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))
