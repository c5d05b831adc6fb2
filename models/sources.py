"""What the command line gives for each layer of a net: what its first kernels and its prior can be made of."""

from pathlib import Path

from .bayes import BayesLayer, conv_layers
from .initialization import INITS, Layer, initialize
from .kernel_folder import load_kernels
from .prior_folder import load_density, load_weights, trained_weights

DEFAULT_INIT, DEFAULT_PRIOR = INITS[0], "sn"


def one_per_layer(values, default, layers, flag, stages=()):
    """A command-line list with one entry per layer: a single one stands for all, as the default does if there is none. stages: numbers of
    layers in a row that may share an entry, one for each stage.

    Raises ValueError on another length."""
    if values and not layers:
        raise ValueError(f"{flag}: the net has no layer for it")
    values = values or [default]
    if stages and sum(stages) != layers:
        raise ValueError(f"the net's `stages` add up to {sum(stages)} convolutions, and it has {layers} of them")
    if stages and len(values) == len(stages):
        return [value for value, n in zip(values, stages) for _ in range(n)]
    if len(values) not in (1, layers):
        or_stages = f", or {len(stages)} for its stages" if stages else ""
        raise ValueError(f"{flag} needs one entry per layer: {layers}{or_stages}, got {len(values)}")
    return list(values) * (layers // len(values))


def layer_sources(net, init_list=None, vae_list=(), filters_list=(), pretrained=None):
    """The Layers of a net, on the CPU, from input to output.  The lists have an entry per convolution, per stage of a net that has some
    (its `stages`), or one for all; a folder may be `none`. A 1x1 convolution has no entry; it starts from Xavier's, or from --pretrained
    if all others do."""
    every = conv_layers(net)
    convs = {name: conv for name, conv in every.items() if conv.kernel_size != (1, 1)}
    inits, vaes, filters = (
        one_per_layer(values, default, len(convs), flag, getattr(net, "stages", ()))
        for values, default, flag in (
            (init_list, DEFAULT_INIT, "--init_list"),
            (vae_list, "none", "--vae_list"),
            (filters_list, "none", "--filters_list"),
        )
    )
    trained = {}
    if pretrained:
        trained = (trained_weights if Path(pretrained).is_dir() else load_weights)(pretrained)
    trained = {key.replace(".mean.", "."): w for key, w in trained.items()}  # of a Bayesian net, the mean
    other = "pretrained" if set(inits) == {"pretrained"} else DEFAULT_INIT
    entries, layers = iter(zip(inits, vaes, filters)), []
    for name, module in net.named_modules():
        if name in convs:
            init, vae, folder = next(entries)
            density = None if vae == "none" else load_density(vae)
            kernels = None if folder == "none" else load_kernels(Path(folder) / "train.npy")
            k = convs[name].kernel_size[0]
            for flag, source, own in (
                ("--vae_list", vae, density and density.kernel_dim),
                ("--filters_list", folder, None if kernels is None else kernels.shape[-1]),
            ):
                if own not in (None, k):
                    raise ValueError(f"{flag}: {source} has {own}x{own} kernels, {name} has {k}x{k}")
            layers.append(Layer(name, module, init, density, kernels, trained.get(f"{name}.weight")))
        elif name in every or isinstance(module, BayesLayer):
            layers.append(Layer(name, module, other if name in every else None, pretrained=trained.get(f"{name}.weight")))
    return layers


def initialized(net, args):
    """A plain net with the first kernels that a script's options ask for, on its device. They are drawn on the CPU, where a seed gives
    every machine the same."""
    initialize(layer_sources(net, args.init_list, args.vae_list, args.filters_list, args.pretrained))
    return net.to(args.device)


def prior_names(prior_list, layers):
    """The entries of --prior_list, one per Bayesian layer; none for a net without."""
    return one_per_layer(prior_list, DEFAULT_PRIOR, len(layers), "--prior_list") if layers else []


def name_and_run(word):
    """An entry of --prior_list: posterior:RUN -> ("posterior", "RUN"); sn -> ("sn", "")."""
    name, _, run = word.partition(":")
    return name, run
