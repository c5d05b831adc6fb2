"""The VGG-like net of the CIFAR-10 experiments with Sparse variational dropout and ARD (Kharitonov et al. 2018, appendix A)."""

from torch import nn


class VGGLike(nn.Module):
    """Thirteen 3x3 convolutions in five blocks, batch-normalised, and two linear layers; x: (B, 3, 32, 32) -> logits (B, classes).

    The torch.ch CIFAR-10 net (Zagoruyko 2015): dropout 0.3 between the first block's convolutions, 0.4 between the others', none
    before a pooling, and 0.5 around the hidden linear layer. `dropout` is the rate of the last; the others are 0.6 and 0.8 of it. Its
    pictures were in YUV, normalised and flipped; ours are as they are.  hid_dim: filters of the five blocks' convolutions, which are
    2, 2, 3, 3 and 3."""

    in_channels, image_size, default_hid_dim = 3, 32, (64, 128, 256, 512, 512)

    def __init__(self, hid_dim=default_hid_dim, classes=10, conv=nn.Conv2d, linear=nn.Linear, dropout=0.0):
        super().__init__()
        blocks, channels = [], self.in_channels
        for width, depth, rate in zip(hid_dim, (2, 2, 3, 3, 3), (0.6, 0.8, 0.8, 0.8, 0.8)):
            for _ in range(depth):
                blocks += [conv(channels, width, 3, padding=1), nn.BatchNorm2d(width, eps=1e-3), nn.ReLU(), nn.Dropout(rate * dropout)]
                channels = width
            blocks[-1] = nn.MaxPool2d(2)
        self.features = nn.Sequential(*blocks)
        hidden = [linear(channels, channels), nn.BatchNorm1d(channels), nn.ReLU()]
        self.classifier = nn.Sequential(nn.Dropout(dropout), *hidden, nn.Dropout(dropout), linear(channels, classes))

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))
