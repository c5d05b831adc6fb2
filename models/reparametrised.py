"""The weights that a net with reparametrised layers computes with, from a state dict in which other tensors stand for them: after
torch.nn.utils.prune, weight_norm and spectral_norm, or their like in torch.nn.utils.parametrizations."""

import re

# Names of the parts that stand for NAME: NAME_orig, NAME_mask; prefix.parametrizations.NAME.original
OLD = re.compile(r"(?P<prefix>(?:.*\.)?)(?P<name>\w+)_(?P<part>orig|mask|g|u|v)")
NEW = re.compile(r"(?P<prefix>(?:.*\.)?)parametrizations\.(?P<name>\w+)\.(?P<part>.+)")


def direction(g, v):
    """g v / |v|, the norm over all dimensions in which g has one entry, or over all if it is a number (weight normalisation, Salimans &
    Kingma 2016)."""
    summed = [d for d in range(v.ndim) if not g.ndim or g.shape[d] == 1]
    return v * (g / v.square().sum(summed, keepdim=True).sqrt())


def of_unit_norm(w, u, v):
    """w / u^T W v, by its largest singular value, W having a row for each entry of the w's first dimension, or, of a transposed
    convolution, of its second (spectral normalisation, Miyato et al. 2018)."""
    matrices = [w.movedim(d, 0).flatten(1) for d in range(min(w.ndim, 2))]
    values = [u @ matrix @ v for matrix in matrices if matrix.shape == (len(u), len(v))]
    return w / max(values, key=abs)  # if both shapes fit, u and v are singular vectors of one matrix only


RECIPES = {
    frozenset(("orig", "mask")): lambda parts: parts["orig"] * parts["mask"],
    frozenset(("g", "v")): lambda parts: direction(parts["g"], parts["v"]),
    frozenset(("orig", "u", "v")): lambda parts: of_unit_norm(parts["orig"], parts["u"], parts["v"]),
    frozenset(("original0", "original1")): lambda parts: direction(parts["original0"], parts["original1"]),
    frozenset(("original", "0._u", "0._v")): lambda parts: of_unit_norm(parts["original"], parts["0._u"], parts["0._v"]),
}


def effective_weights(state):
    """A state dict with each reparametrised weight as the net computes with it, under its own name and in its place.

    Raises ValueError, with the call that removes the reparametrisation, where the weight does not follow from the file."""
    parts_of, of_part = {}, {}
    for key, value in state.items():
        if match := NEW.fullmatch(key) or OLD.fullmatch(key):
            name = f"{match['prefix']}{match['name']}"
            parts_of.setdefault(name, {})[match["part"]] = value
            of_part[key] = name
    odd = {"u", "v", "mask"}, {"u", "g", "mask"}  # parts of tensors that are merely named so
    plain = {name for name, parts in parts_of.items() if any({*parts} <= others for others in odd)}
    result = {}
    for key, value in state.items():
        name = of_part.get(key)
        if name is None or name in plain:
            result[key] = value
        elif name not in result:
            parts = parts_of[name]
            if frozenset(parts) not in RECIPES:
                call = "utils.prune.remove" if "orig" in parts else "utils.parametrize.remove_parametrizations"
                raise ValueError(f"{name} is reparametrised ({', '.join(parts)}): call torch.nn.{call} on its layer before saving")
            result[name] = RECIPES[frozenset(parts)](parts)
    return result
