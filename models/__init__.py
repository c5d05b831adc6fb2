"""Networks by the name used on the command line."""

from torch import nn

from .bayes import LAYERS
from .cifarnet import CIFARNet
from .lenet import FConvMNIST, LeNet5, LeNet300
from .memory import build
from .resnet import ResNet
from .vgg import VGGLike

NETWORKS = {"fconv": FConvMNIST, "cifarnet": CIFARNet, "lenet300": LeNet300, "lenet5": LeNet5, "resnet": ResNet, "vgg": VGGLike}


def build_net(model, net_cfg, hid_dim, x, y):
    """A network from command-line words, for images x (N, C, H, W) with labels y (N,).  hid_dim None is the paper's.

    Raises ValueError if the widths do not fit the architecture or the memory, or the architecture the images."""
    arch = NETWORKS[model]
    hid_dim = hid_dim or arch.default_hid_dim
    if len(hid_dim) != len(arch.default_hid_dim):
        raise ValueError(f"--hid_dim: {model} takes {len(arch.default_hid_dim)} widths, got {len(hid_dim)}")
    if tuple(x.shape[1:]) != (arch.in_channels, arch.image_size, arch.image_size):
        raise ValueError(
            f"{model} takes images of shape {(arch.in_channels, arch.image_size, arch.image_size)}, the data set has {tuple(x.shape[1:])}"
        )
    widths = " ".join(map(str, hid_dim))
    net = build(lambda: arch(hid_dim, classes=int(y.max()) + 1, **LAYERS[net_cfg]), f"the weights of {model} for --hid_dim {widths}")
    for name, weight in net.classifier.named_parameters():
        if name.endswith("weight") and "var." not in name and weight.ndim == 2:
            nn.init.xavier_normal_(weight)  # as in the original code; with few images it matters
    return net


__all__ = ["NETWORKS", "CIFARNet", "FConvMNIST", "LeNet5", "LeNet300", "ResNet", "VGGLike", "build_net"]
