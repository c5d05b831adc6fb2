"""How long to fit a VAE that is to be a prior: the shipped 5x5 VAE's fit, shorter and from other seeds, its drift, and the nets under it.

    python -m experiments.vae_epochs --data_root DATA_ROOT --workers 2

The fits go to <runs>/vae_epochs, where one that is there is not made again; the longest of seed 0 is the shipped prior, whose nets are
those of Fig. 2. The 7x7 prior is the shipped one. Nothing is chosen by these nets, which are seen on test images.
"""

import itertools
from pathlib import Path

import train_vae_prior
from models.pictures import new_figure, save_figure
from models.prior_folder import LAST
from models.screen import DRIFT_STEPS, screen
from myexman import at_least, go_on
from utils import load_vae, run_cli

from .fig2 import net_options, rows_beside
from .grid import (
    Driver,
    Job,
    command_line,
    interval,
    markdown,
    mean_std,
    method_job,
    method_options,
    paired_differences,
    select,
    shipped,
    work_folder,
)
from .screening import load_split

KERNELS, VAES = shipped("conv")[1], shipped("vae")
SHIPPED = "400 epochs, seed 0"
FACTS = {"elbo": "nats per held-out kernel", "likeness_600": "likeness after 600 steps of drift"}


def add_arguments(parser):
    parser.add_argument("--fits", type=at_least(1), nargs="+", default=[100, 200, 400], help="epochs of the VAE's fits")
    parser.add_argument("--seeds", type=at_least(1), default=2, help="of each fit: 0, 1, …")
    parser.add_argument("--num_examples", type=at_least(1), default=50, help="size of the nets' training set")
    parser.add_argument("--splits", type=at_least(1), default=3, help="split seeds 0, 1, …")
    parser.add_argument("--epochs", type=at_least(1), default=600, help="passes over the training set, as in Fig. 2")


def settings(args):
    return {"kernels": "the shipped 5x5 kernels", args.panel: f"reduced: n = {args.num_examples}, {args.epochs} epochs, full KL sum"}


def is_fitted(folder):
    return (folder / LAST[-1]).exists()


def fit(argv):
    """Fit the VAE, unless it is there.  argv: train_vae_prior's options, of which the last is --out."""
    folder = Path(argv[-1])
    if not is_fitted(folder):
        go_on(train_vae_prior.main, argv)
    return folder


def facts(folder):
    """Rows of what FACTS names."""
    numbers = screen(load_vae(folder), *load_split(KERNELS), held_out=0, schedules=(DRIFT_STEPS,))
    return [dict(metric=name, value=numbers[name], steps="") for name in FACTS]


def jobs(args):
    """The fits, and the nets under what has been fitted."""
    for epochs, seed in itertools.product(args.fits, range(args.seeds)):
        name = f"{epochs} epochs, seed {seed}"
        folder = VAES[1] if name == SHIPPED else work_folder(args, "vae_epochs") / f"{epochs}_seed{seed}"
        options = dict(kernel_dim=5, z_dim=4, hidden_dim=64, num_epochs=epochs, bs=64, seed=seed, no_screen=True, data_dir=KERNELS)
        yield Job("kernels", name, "5x5", 0, command_line(**options, out=folder), fit, facts)
        if name == SHIPPED or not is_fitted(folder):
            continue
        for split in range(args.splits):
            options = net_options(args) | method_options("dwp", [VAES[0], folder])
            options |= dict(num_examples=args.num_examples, data_split_seed=split)
            yield method_job(args.panel, name, str(args.num_examples), split, options)


def with_the_shipped(rows):
    """These rows, and Fig. 2's of nets under the shipped priors, on the same splits."""
    return rows + [r | dict(method=SHIPPED) for r in rows_beside(rows, ["dwp"])]


def by_length(rows):
    """[(epochs, seed, name)] of the fits among the rows, in order."""
    names = {r["method"] for r in rows}
    return sorted((*(int(word) for word in name.split() if word.isdigit()), name) for name in names)


def table(rows):
    """By fit: FACTS, and accuracy and NLL of the nets, also less those under the shipped prior on the same splits; as Markdown."""
    rows, lines = with_the_shipped(rows), []
    for epochs, seed, name in by_length(rows):
        facts = [select(rows, panel="kernels", method=name, metric=fact) for fact in FACTS]
        cells = [f"{value[0]:.3g}" if len(value) else "–" for value in facts]
        nets = [r for r in rows if r["panel"] != "kernels"]
        for metric in ("acc", "nll"):
            less = interval(paired_differences(nets, name, SHIPPED, metric=metric)) if name != SHIPPED else "–"
            cells += [mean_std(select(nets, method=name, metric=metric)), less]
        lines.append([epochs, seed, *cells, len(select(nets, method=name, metric="acc"))])
    return markdown(
        f"epochs of the fit | seed | {' | '.join(FACTS.values())} | accuracy | difference | NLL, nats | difference | splits", lines
    )


def plot(rows, file):
    """Likeness, and accuracy with the range over splits, against the epochs of the fit."""
    rows = with_the_shipped(rows)
    figure, axes = new_figure(9, 3.4, columns=2)
    for axis, metric, label in zip(axes, ("likeness_600", "acc"), ("likeness of 5x5 kernels after 600 steps", "test accuracy")):
        for epochs, seed, name in by_length(rows):
            values = select(rows, method=name, metric=metric)
            if len(values):
                mean = values.mean()
                spread = [[mean - values.min()], [values.max() - mean]]
                axis.errorbar(epochs + 4 * seed, mean, spread, fmt="os^v"[seed % 4], color="#0072B2", capsize=3, label=f"seed {seed}")
        axis.set(xlabel="epochs of the 5x5 VAE's fit", ylabel=label)
    handles = dict(zip(*reversed(axes[0].get_legend_handles_labels())))
    axes[0].legend(handles.values(), handles.keys(), frameon=False, fontsize=8)
    save_figure(figure, file)


SMOKE = dict(panel="glyph-digits", fits=[1], seeds=1, num_examples=20, splits=1, epochs=1)
DRIVER = Driver("vae_epochs", __doc__, add_arguments, SMOKE, settings, jobs, table, plot)

if __name__ == "__main__":
    run_cli(DRIVER.main)
