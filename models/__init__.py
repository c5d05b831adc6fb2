"""Networks by the name used on the command line."""

import importlib.util
import inspect
import sys
from argparse import ArgumentTypeError
from pathlib import Path

import torch
from torch import nn

from .bayes import LAYERS, bayes_layers, conv_layers, is_stochastic, mode
from .cifarnet import CIFARNet
from .lenet import FConvMNIST, LeNet5, LeNet300
from .memory import build
from .resnet import ResNet
from .vgg import VGGLike

NETWORKS = {"fconv": FConvMNIST, "cifarnet": CIFARNet, "lenet300": LeNet300, "lenet5": LeNet5, "resnet": ResNet, "vgg": VGGLike}


def model_name(word):
    """An argparse type: a name in NETWORKS, or FILE.py:Class, whose file's path it makes absolute."""
    file, colon, name = word.rpartition(":")
    if not colon and word in NETWORKS:
        return word
    if not (file.endswith(".py") and name.isidentifier() and Path(file).expanduser().is_file()):
        raise ArgumentTypeError(f"{word!r} is neither one of {', '.join(sorted(NETWORKS))} nor FILE.py:Class with a file that exists")
    return f"{Path(file).expanduser().resolve()}:{name}"


def own_file(model):
    """The bytes of a net's own FILE.py, as a list of one tensor; of a net in NETWORKS none.  Raises FileNotFoundError."""
    return [] if model in NETWORKS else [torch.tensor(list(Path(model.rpartition(":")[0]).read_bytes()), dtype=torch.uint8)]


def architecture(model):
    """The class of a net, by what model_name() allows.  Raises ValueError and FileNotFoundError."""
    if model in NETWORKS:
        return NETWORKS[model]
    file, _, name = model.rpartition(":")
    if not Path(file).is_file():
        raise FileNotFoundError(f"no file {file}, which defines the net {name}")
    spec = importlib.util.spec_from_file_location(f"net_of_{Path(file).stem}", file)
    module = importlib.util.module_from_spec(spec)
    if (folder := str(Path(file).parent)) not in sys.path:
        sys.path.append(folder)  # for what it imports from beside it
    spec.loader.exec_module(module)
    arch = getattr(module, name, None)
    if not inspect.isclass(arch):
        raise ValueError(f"{file} has no class {name}")
    lacking = [field for field in ("in_channels", "image_size", "default_hid_dim") if not hasattr(arch, field)]
    if lacking:
        raise ValueError(f"the class {name} of {file} lacks {', '.join(lacking)}, which those of models/lenet.py have")
    if not isinstance(arch.default_hid_dim, (tuple, list)):
        raise ValueError(f"{file}: default_hid_dim of {name} must be a tuple of widths, not {arch.default_hid_dim!r}")
    return arch


def build_net(model, net_cfg, hid_dim, x, y, new=True):
    """A network from command-line words, for images x (N, C, H, W) with labels y (N,).  hid_dim None is the paper's.  new: whether it is to
    be tried on images; one of a former run is taken as it is.

    Raises ValueError if the widths do not fit the architecture or the memory, the architecture the images or net_cfg, or its outputs the
    labels."""
    arch = architecture(model)
    hid_dim = hid_dim or arch.default_hid_dim
    if len(hid_dim) != len(arch.default_hid_dim):
        raise ValueError(f"--hid_dim: {model} takes {len(arch.default_hid_dim)} widths, got {len(hid_dim)}")
    if tuple(x.shape[1:]) != (arch.in_channels, arch.image_size, arch.image_size):
        raise ValueError(
            f"{model} takes images of shape {(arch.in_channels, arch.image_size, arch.image_size)}, the data set has {tuple(x.shape[1:])}"
        )
    options, widths = dict(hid_dim=hid_dim, classes=int(y.max()) + 1) | LAYERS[net_cfg], " ".join(map(str, hid_dim))
    try:
        signature = inspect.signature(arch)
        if "dropout" in signature.parameters:
            rate, own = options.setdefault("dropout", 0.0), signature.parameters["dropout"].default
            if new and own not in (inspect.Parameter.empty, 0, rate):
                print(f"note: {model}: dropout at rate {rate:g}, as --net_cfg {net_cfg} says, not at its own {own}", file=sys.stderr)
        signature.bind(**options)
    except TypeError as e:
        takes = "its __init__ takes hid_dim, classes, conv, linear and dropout, each with a default"
        raise ValueError(f"{model} cannot be built for --net_cfg {net_cfg}: {e}; as in models/lenet.py, {takes}") from e
    net = build(lambda: arch(**options), f"the weights of {model} for --hid_dim {widths}")
    if lacking := [part for part in ("features", "classifier") if not isinstance(getattr(net, part, None), nn.Module)]:
        raise ValueError(f"{model} has no {' and no '.join(lacking)}: a net is `features` and then a `classifier`, as in models/lenet.py")
    if new:
        if outside := [name for name in conv_layers(net) if name.partition(".")[0] not in ("features", "classifier")]:
            raise ValueError(f"{model}: {outside[0]} is in neither `features` nor `classifier`, and --l2 would leave it out")
        check_effect(net, model, net_cfg)
        check_outputs(net, model, x[:2].cpu(), options["classes"])
    for name, weight in net.classifier.named_parameters():
        if name.endswith("weight") and "var." not in name and weight.ndim == 2 and weight.requires_grad:
            nn.init.xavier_normal_(weight)  # as in the original code; with few images it matters
    return net


def check_effect(net, model, net_cfg):
    """Raise ValueError if net_cfg makes no difference to a net."""
    if net_cfg != "vanilla" and not is_stochastic(net):
        dropout, hint = "dropout" in LAYERS[net_cfg], ": take bayes-all" if net_cfg == "bayes" else ""
        lacks = (
            "torch.nn.Dropout with the rate `dropout`" if dropout else f"layer of the class {' or '.join(LAYERS[net_cfg])} that it is given"
        )
        raise ValueError(f"--net_cfg {net_cfg} would change nothing: {model} has no {lacks}{hint}")


def check_outputs(net, model, x, classes):
    """Raise ValueError unless a net, on the CPU, gives logits (n, classes) for images x (n, C, H, W), by all of its Bayesian layers."""
    called, hooks = set(), [layer.register_forward_hook(lambda layer, *_: called.add(layer)) for layer in bayes_layers(net)]
    try:
        with torch.random.fork_rng(devices=()), torch.no_grad(), mode(net, "det"):
            out = net(x)
    except RuntimeError as e:
        hint = "; images lie channels last, so flatten(1) has to take the place of view()" if "view size" in str(e) else ""
        raise ValueError(f"{model} fails on images of shape {tuple(x.shape)}: {(str(e) or type(e).__name__).splitlines()[0]}{hint}") from e
    finally:
        for hook in hooks:
            hook.remove()
    if idle := [name for name, layer in net.named_modules() if layer in {*bayes_layers(net)} - called]:
        raise ValueError(f"{model}: forward() never calls {idle[0]}: its kernels would learn from the KL term alone")
    shape = tuple(getattr(out, "shape", ()))
    if shape != (len(x), classes):
        raise ValueError(f"{model} must give {classes} numbers for an image, one per class (`classes`): for {len(x)} it gives {shape}")
    out = out.float()
    if classes > 1 and bool((out >= 0).all()) and torch.allclose(out.sum(1), torch.ones(len(x))):
        raise ValueError(f"{model} gives probabilities, and should give logits: leave the last softmax out")


__all__ = [
    "NETWORKS",
    "CIFARNet",
    "FConvMNIST",
    "LeNet5",
    "LeNet300",
    "ResNet",
    "VGGLike",
    "architecture",
    "build_net",
    "model_name",
    "own_file",
]
