"""Residual nets of 3x3 kernels for 32x32 images (He et al. 2016, section 4.2): ResNet-20 at the default depth."""

import torch.nn.functional as F
from torch import nn


class BasicBlock(nn.Module):
    """relu(bn(conv(relu(bn(conv(x))))) + shortcut(x)).  Where the shape changes, the shortcut is a normalised 1x1 convolution.

    conv, shortcut: the classes of the 3x3 and the 1x1 convolutions."""

    def __init__(self, before, width, stride, conv, shortcut):
        super().__init__()
        self.conv1, self.bn1 = conv(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.shortcut = nn.Identity()
        if stride > 1 or before != width:
            # every stride-th pixel is taken beforehand: torch 2.13's own strided 1x1 corrupts memory, channels last and with few channels
            self.shortcut = nn.Sequential(nn.MaxPool2d(1, stride), shortcut(before, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x):
        h = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(h)) + self.shortcut(x))


class ResNet(nn.Module):
    """A 3x3 convolution, three stages of `depth` BasicBlocks, mean over the image, linear; x: (B, 3, 32, 32) -> logits (B, classes).

    hid_dim: filters of the stages; ResNet-20 has 16, 32, 64.  stages: how many 3x3 convolutions of each width there are, from
    input to output.  A 1x1 shortcut has no kernels to speak of and is treated as a linear layer: a point estimate, unless those are
    Bayesian, too."""

    in_channels, image_size, default_hid_dim = 3, 32, (16, 32, 64)

    def __init__(self, hid_dim=default_hid_dim, classes=10, conv=nn.Conv2d, linear=nn.Linear, dropout=0.0, depth=3):
        super().__init__()
        shortcut = nn.Conv2d if linear is nn.Linear else conv
        self.stages = (2 * depth + 1, *[2 * depth] * (len(hid_dim) - 1))
        width = hid_dim[0]
        layers = [conv(self.in_channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        for stage, wider in enumerate(hid_dim):
            for i in range(depth):
                layers.append(BasicBlock(width, wider, 2 if stage and not i else 1, conv, shortcut))
                width = wider
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Sequential(nn.Dropout(dropout), linear(width, classes))

    def forward(self, x):
        return self.classifier(self.features(x))
