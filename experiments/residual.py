"""A net of 3x3 kernels: the pipeline on ResNet-20, from CIFAR-100 to n images of CIFAR-10, much reduced.

    python -m experiments.residual --data_root DATA_ROOT --workers 2

Source nets first, then one VAE of the kernels of all their layers, then nets on the target under it and beside it, all from its samples.
"""

from functools import partial

import numpy as np
import torch.nn.functional as F

import prune_kernels
import train_bnn
import train_source
import train_vae_prior
from data import load_dataset
from models.prior_folder import card_rows
from myexman import at_least, go_on
from myexman.logger import read_rows
from utils import run_cli

from .grid import METHODS, Driver, Job, command_line, last_row, logged, markdown, mean_std, method_options, select, work_folder

SHOWN = ("dwp", "sn", "det")
CONVOLUTIONS = 19


def as_colour(name, data_root, file):
    """Write a set of 28x28 grey images as one of 32x32 pixels in colour, for a smoke run; returns the file."""
    arrays = {}
    for part, data in zip(("train", "test"), load_dataset(name, data_root)):
        padded = F.pad((255 * data.x).byte(), (2, 2, 2, 2)).expand(-1, 3, -1, -1)
        arrays |= {f"x_{part}": padded.permute(0, 2, 3, 1).numpy(), f"y_{part}": data.y.numpy()}
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, **arrays)
    return file


def train_and_link(argv):
    """A source net whose run folder is found again under the last word of argv."""
    run, link = go_on(train_source.main, argv[:-1]), argv[-1]
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(run.resolve())
    return run


def source_rows(run_dir):
    """Rows of how good a source net is."""
    return [dict(metric=name, value=value, steps="") for name, value in logged(read_rows(run_dir / "logs.csv")[-1]).items()]


def fit(argv, quick=False):
    """The prior.  argv: links to source nets, and the folder of kernels and prior."""
    *runs, out = argv
    prune_kernels.main([*map(str, runs), *command_line(out=out, together=CONVOLUTIONS, keep=0.5, spread=1.7, max_kernels=20000)])
    coders = dict(kernel_dim=3, z_dim=4, hidden_dim=32, bs=64, num_epochs=1 if quick else 50, eval_freq=10)
    coders |= dict(no_screen=True) if quick else {}
    go_on(train_vae_prior.main, command_line(**coders, data_dir=out / "conv3x3", out=out / "vae3x3"))
    return out / "vae3x3"


def facts(folder):
    """Rows of what the prior's card says."""
    return [dict(metric=name, value=value, steps="") for name, value in card_rows(folder).items()]


def add_arguments(parser):
    parser.add_argument("--nets", type=at_least(1), default=2, help="source nets")
    parser.add_argument("--hid_dim", type=at_least(1), nargs=3, default=[8, 16, 32], help="filters of the stages (ResNet-20: 16 32 64)")
    parser.add_argument("--source_examples", type=int, default=10000, help="images of the source domain; 0 takes all")
    parser.add_argument("--source_epochs", type=at_least(1), default=10, help="of a source net")
    parser.add_argument("--num_examples", type=at_least(1), default=200, help="size of the target's training set")
    parser.add_argument("--splits", type=at_least(1), default=2, help="split seeds 0, 1, …")
    parser.add_argument("--epochs", type=at_least(1), default=100, help="passes over it")
    parser.set_defaults(panel="cifar10", source="cifar100")


def settings(args):
    widths = " ".join(map(str, args.hid_dim))
    words = f"reduced: filters {widths}, {args.nets} source nets, {args.source_epochs} epochs on {args.source_examples or 'all'} images"
    return {"source": words, "kernels": words, args.panel: f"{words}; n = {args.num_examples}, {args.epochs} epochs, full KL sum"}


def jobs(args):
    made_of = "-".join(map(str, (*args.hid_dim, args.nets, args.source_examples, args.source_epochs)))
    out, where = work_folder(args, "residual") / made_of, dict(data_root=args.data_root, model="resnet", hid_dim=args.hid_dim)
    data = {name: name for name in (args.source, args.panel)}
    if args.quick:
        data = {name: as_colour(name, args.data_root, out / f"{name}.npz") for name in data}
    links = [out / f"net{seed}" for seed in range(args.nets)]
    source = where | dict(
        data=data[args.source], num_examples=args.source_examples, epochs=args.source_epochs, eval_freq=args.source_epochs
    )
    source |= dict(l2=1e-4, lr=3e-3, bs=128 if not args.quick else 16)
    for seed, link in enumerate(links):
        yield Job(
            "source", "source", str(args.source_examples), seed, [*command_line(**source, seed=seed), link], train_and_link, source_rows
        )
    if not all(link.exists() for link in links):
        return
    yield Job("kernels", "vae", "3x3", 0, [*links, out], partial(fit, quick=args.quick), facts)
    if not (out / "vae3x3/vae_params.safetensors").exists():
        return
    target = where | dict(data=data[args.panel], num_examples=args.num_examples, epochs=args.epochs, eval_freq=args.epochs)
    for split in range(args.splits):
        for method in SHOWN:
            argv = command_line(**target, **method_options(method, [out / "vae3x3"]), data_split_seed=split)
            yield Job(args.panel, method, str(args.num_examples), split, argv, train_bnn.main, last_row)


def table(rows):
    """The source nets' accuracy, the prior, and the nets on the target, as Markdown."""
    source = select(rows, method="source", metric="acc")
    prior = {metric: select(rows, panel="kernels", metric=metric) for metric in ("elbo", "full_gaussian", "likeness_600")}
    lines = [[f"source nets, {len(source)}", mean_std(source), "–", "–", ""]]
    for method in SHOWN:
        found = [select(rows, method=method, metric=metric) for metric in ("acc", "nll", "ece")]
        lines.append([METHODS[method][0], *map(mean_std, found), len(found[0])])
    words = (
        "The prior: {elbo} nats per held-out kernel (ELBO; a Gaussian: {full_gaussian}), likeness {likeness_600} after 600 steps of drift."
    )
    text = words.format(**{name: f"{v[0]:.3g}" if len(v) else "–" for name, v in prior.items()})
    return f"{markdown('net | accuracy | NLL, nats | ECE | splits', lines)}\n\n{text}"


SMOKE = dict(panel="glyph-digits", source="glyph-digits", nets=1, hid_dim=[4, 4, 4], source_examples=32, source_epochs=1, num_examples=32)
DRIVER = Driver("residual", __doc__, add_arguments, SMOKE | dict(splits=1, epochs=1), settings, jobs, table)


if __name__ == "__main__":
    run_cli(DRIVER.main)
