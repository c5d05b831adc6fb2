"""Image classification sets, whole and in memory.

A set is looked for as `<root>/<name>.npz`, then as torchvision's files under `<root>`, then through torchvision's download.
A set that cannot be found is an error: nothing else is ever loaded in its place.
"""

import importlib
import math
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import library

from .glyphs import GLYPHS, make_glyphs

TORCHVISION = {"mnist": "MNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}
ALIASES = {"cifar": "cifar10", "notmnist": "not-mnist"}
NAMES = (*GLYPHS, *TORCHVISION, "not-mnist")
MAX_CLASSES = 10_000  # a net has an output for every label up to the largest
KEYS = ("x_train", "y_train", "x_test", "y_test")


class Dataset(NamedTuple):
    """x: float32 (N, C, H, W) in [0, 1].  y: int64 (N,)."""

    x: torch.Tensor
    y: torch.Tensor

    def to(self, device):
        """On a CPU the images lie channels last, those of one channel, too, and convolutions follow: faster, if the CPU has no AMX."""
        layout = torch.channels_last if torch.device(device).type == "cpu" else torch.preserve_format
        return Dataset(self.x.to(device, memory_format=layout), self.y.to(device))


def load_dataset(name, root, num_examples=None, split_seed=0, validate=False):
    """Load a data set by name or from an .npz file.

    name: one of NAMES, the path of an .npz file, or the stem of `<root>/<name>.npz`; a file holds uint8 images
        `x_train, x_test` of shape (N, H, W) or (N, H, W, 3) and integer labels `y_train, y_test` of shape (N,).
    num_examples: size of a training subset drawn with split_seed, of as many images of each class; None or 0 keeps all.
    validate: a sixth of the training images of each class, always the same, takes the test set's place, to choose hyper-parameters on.
    Returns (train, test), two Datasets.  Raises FileNotFoundError (says where it looked) and ValueError.
    """
    root, name = Path(root).expanduser(), str(name)
    if name.lower() in (*NAMES, *ALIASES) and not (root / f"{name}.npz").exists():
        name = ALIASES.get(name.lower(), name.lower())
    file = Path(name).expanduser() if name.endswith(".npz") else root / f"{name}.npz"
    if name in GLYPHS and not file.exists():
        make_glyphs(name, file)
    if file.exists():
        arrays = read_npz(file)
    elif name in TORCHVISION:
        arrays = read_torchvision(name, root, file)
    else:
        raise FileNotFoundError(not_found(name, file))
    for what, images, labels in (("training", *arrays[:2]), ("test", *arrays[2:])):
        check_arrays(images, labels, file)
        warn_of_dark_images(images, f"{file}, {what} images")
    check_training_labels(arrays[1], file)
    warn_of_known_images(arrays[0], arrays[2], file)
    if ALIASES.get(file.stem.lower(), file.stem.lower()) == "not-mnist":
        arrays = clean_notmnist(arrays)
    train, test = as_dataset(*arrays[:2]), as_dataset(*arrays[2:])
    if train.x.shape[1:] != test.x.shape[1:]:
        shapes = (" x ".join(map(str, data.x.shape[1:])) for data in (train, test))
        raise ValueError("{}: training images are {}, test images {}".format(file, *shapes))
    if validate:
        held_out = validation_images(train.y)
        train, test = (Dataset(train.x[part], train.y[part]) for part in (~held_out, held_out))
    if not len(train.y) or not len(test.y):
        raise ValueError(f"{file}: no {'training' if not len(train.y) else 'validation' if validate else 'test'} images are left")
    if test.y.max() > train.y.max():
        raise ValueError(f"{file}: test label {int(test.y.max())} is larger than every training label")
    if num_examples:
        train = stratified_subset(train, num_examples, split_seed)
    return train, test


def not_found(name, file):
    if name.endswith(".npz"):
        return f"no data file {file}"
    known = name in NAMES
    how = (
        f"put x_train, y_train, x_test, y_test (uint8 images, integer labels) into {file}"
        if not known or name == "not-mnist"
        else f"let torchvision download it on a machine with a network, or write {file}"
    )
    what = f"data set {name!r} not found" if known else f"unknown data set {name!r} (known: {', '.join(NAMES)}, or any .npz file)"
    return f"{what}; looked for {file}; to get it, {how}; the folder is set by --data_root or $DATA_ROOT"


def read_npz(file):
    try:
        with np.load(file, mmap_mode="r", allow_pickle=False) as f:  # a bare array is then not read either
            check_headers(f.zip, {f"{k}.npy" for k in KEYS})
            arrays = {k: f[k] for k in KEYS if k in f}
    except Exception as e:  # NumPy and zipfile raise a dozen kinds
        raise ValueError(f"{file} is not a readable .npz file: {str(e) or type(e).__name__}") from e
    if len(arrays) < len(KEYS):
        raise ValueError(f"{file} lacks {', '.join(k for k in KEYS if k not in arrays)}; it needs {', '.join(KEYS)}")
    return list(arrays.values())


def check_headers(archive, names):
    """Raise ValueError if an array of these names in an .npz file, a ZipFile, claims to be larger than what the file holds of it: NumPy
    would ask for the memory first."""
    for member in archive.infolist():
        if member.filename not in names:
            continue
        with archive.open(member) as f:
            version = np.lib.format.read_magic(f)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = header(f)
            if math.prod(shape) * dtype.itemsize > member.file_size - f.tell():
                raise ValueError(f"{member.filename} is shorter than its header says")


def import_torchvision_datasets():
    """torchvision.datasets, also where torchvision's compiled operators do not fit the installed torch.

    The wheels are built against CUDA torch; beside a CPU build the import dies on the missing operator `nms`, although no
    data set needs one. Declaring the operators' schemas lets the import through. (Only this function imports torchvision.)
    """
    try:
        return importlib.import_module("torchvision.datasets")
    except RuntimeError as e:
        if "torchvision::" not in str(e):
            raise
        import_torchvision_datasets.operators = library.Library("torchvision", "DEF")  # kept alive: its end undoes it
        import_torchvision_datasets.operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import_torchvision_datasets.operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return importlib.import_module("torchvision.datasets")


def read_torchvision(name, root, file):
    cls = getattr(import_torchvision_datasets(), TORCHVISION[name])
    try:
        splits = [cls(str(root), train=train, download=False) for train in (True, False)]
    except RuntimeError:  # not there yet
        try:
            splits = [cls(str(root), train=train, download=True) for train in (True, False)]
        except (RuntimeError, OSError) as e:
            raise FileNotFoundError(f"{not_found(name, file)} (also tried torchvision's files in {root}, and its download: {e})") from e
    except Exception as e:  # torchvision asserts, or lets numpy and pickle complain
        raise ValueError(f"torchvision's files of {name} in {root} are damaged: {str(e) or type(e).__name__}") from e
    return [a for s in splits for a in (np.asarray(s.data), np.asarray(s.targets))]


def clean_notmnist(arrays):
    """Drop exact duplicates and solid images from both splits (the set as published holds some hundreds of each)."""
    cleaned = []
    for split, x, y in zip(("train", "test"), arrays[::2], arrays[1::2]):
        flat = x.reshape(len(x), -1)
        solid = flat.min(1) == flat.max(1)
        first = np.zeros(len(x), bool)
        first[np.unique(flat, axis=0, return_index=True)[1]] = True
        keep = first & ~solid
        print(f"not-mnist {split}: dropped {(solid).sum()} solid images and {(~first & ~solid).sum()} duplicates, {keep.sum()} left")
        cleaned += [x[keep], y[keep]]
    return cleaned


def check_arrays(x, y, source):
    """Raise ValueError unless x are images and y their labels."""
    if x.ndim == 0 or y.ndim == 0 or x.dtype != np.uint8 or x.ndim not in (3, 4) or len(x) != len(y) or x.size == 0:
        raise ValueError(
            f"{source}: images must be uint8 of shape (N, H, W) or (N, H, W, 3) with N labels, not {x.dtype} {x.shape} with {y.size} labels"
        )
    if x.ndim == 4 and x.shape[3] not in (1, 3) and x.shape[1] in (1, 3):
        raise ValueError(f"{source}: images of shape {x.shape} have their channels first; they come last: x.transpose(0, 2, 3, 1)")
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"{source}: labels must be integers 0, 1, … of shape (N,), not {y.dtype} {y.shape}")
    if y.min() < 0:
        raise ValueError(f"{source}: labels must be integers 0, 1, …, and {y.min()} is negative")
    if y.max() >= MAX_CLASSES:
        raise ValueError(f"{source}: label {y.max()} is not below {MAX_CLASSES}; number the classes 0, 1, …")


def warn_of_dark_images(x, source):
    """One line on stderr for what is possible, but more often a mistake: pixels that are 0 or 1 of 255."""
    if x.max() <= 1:
        print(f"warning: {source}: the brightest pixel is {x.max()} of 255; multiply images of 0 to 1 by 255", file=sys.stderr)


def warn_of_known_images(train, test, source):
    """One line on stderr if a hundredth of the test images are training images: what learns these by heart looks good on them."""
    seen = {image.tobytes() for image in train}
    known = sum(image.tobytes() in seen for image in test)
    if known >= 0.01 * len(test):
        print(f"warning: {source}: {known} of {len(test)} test images are training images, too", file=sys.stderr)


def check_training_labels(y, source):
    """Raise ValueError if all labels are the same; one line on stderr for labels that no image has."""
    if (y == y[0]).all():
        raise ValueError(f"{source}: all training images have the label {y[0]}: there is nothing to learn")
    absent = np.setdiff1d(np.arange(y.max()), y)
    if len(absent):
        some = ", ".join(map(str, absent[:5])) + (", …" if len(absent) > 5 else "")
        print(f"warning: {source}: no training image has the label {some}; the net has an output for it nevertheless", file=sys.stderr)


def as_dataset(x, y):
    x = torch.from_numpy(np.ascontiguousarray(x))
    x = x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2)
    return Dataset(x.float().div_(255).contiguous(), torch.from_numpy(y.astype(np.int64)))


def validation_images(y, seed=0):
    """Which of the images with labels y (N,) are held out: of each class a sixth, drawn with the seed, and one at least, unless it is the
    only one.  Returns bool (N,)."""
    rng, held_out = np.random.default_rng(seed), torch.zeros(len(y), dtype=torch.bool)
    for label in y.unique():
        members = rng.permutation(np.flatnonzero(y == label))
        if len(members) > 1:
            held_out[members[::6]] = True
    return held_out


def stratified_subset(data, n, seed):
    """n items of a Dataset, class counts as equal as n allows (differing by at most one where classes are large enough).

    Raises ValueError if n exceeds the set or is smaller than the number of classes."""
    classes, sizes = data.y.unique(return_counts=True)
    if n > len(data.y):
        raise ValueError(f"num_examples {n} is larger than the training set ({len(data.y)})")
    if n < len(classes):
        raise ValueError(f"num_examples {n} is smaller than the number of classes ({len(classes)})")
    if sizes.max() > 2 * sizes.min():
        what = f"classes have from {sizes.min()} to {sizes.max()} training images; num_examples takes as many of each"
        print(f"note: {what}, unlike in the test set, perhaps", file=sys.stderr)
    rng = np.random.default_rng(seed)
    y = data.y.numpy()
    order = rng.permutation(len(y))
    rank = np.empty(len(y), np.int64)  # items of a class come in turns: first one of each class, then the second of each, …
    tie = rng.permutation(len(classes))  # which classes get the remainder
    for c, label in enumerate(classes.tolist()):
        members = order[y[order] == label]
        rank[members] = np.arange(len(members)) * len(classes) + tie[c]
    chosen = torch.from_numpy(np.argsort(rank, kind="stable")[:n])
    return Dataset(data.x[chosen], data.y[chosen])


def shuffle_labels(data, seed):
    """A Dataset with its labels shuffled: the classes keep their sizes, and the images say nothing of them."""
    return Dataset(data.x, data.y[torch.from_numpy(np.random.default_rng(seed).permutation(len(data.y)))])


def permute_pixels(data, seed):
    """A Dataset with one permutation of the pixels applied to every image; other seeds make other tasks of equal difficulty."""
    order = torch.from_numpy(np.random.default_rng(seed).permutation(data.x[0, 0].numel()))
    return Dataset(data.x.flatten(2)[:, :, order].view_as(data.x), data.y)


def crop_and_mirror(x, pad=4):
    """Images x (B, C, H, W), each moved by up to `pad` pixels either way, black coming in, and half of them mirrored."""
    B, _, H, W = x.shape
    moves = torch.randint(2 * pad + 1, (2, B, 1), device=x.device)
    rows, columns = torch.arange(H, device=x.device) + moves[0], torch.arange(W, device=x.device) + moves[1]
    columns = torch.where(torch.rand(B, 1, device=x.device) < 0.5, columns.flip(1), columns)
    image = torch.arange(B, device=x.device)[:, None, None]
    return F.pad(x, [pad] * 4)[image, :, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)
