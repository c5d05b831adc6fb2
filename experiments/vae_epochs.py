"""How long to fit a VAE that is to be a prior: the shipped 5x5 VAE's fit, shorter and from another seed, its drift, and the nets under it.

    python -m experiments.vae_epochs --data_root DATA_ROOT --workers 2

The fits go to <runs>/vae_epochs. One of them is the shipped prior, whose nets are those of Fig. 2. The 7x7 prior is the shipped one.
No shipped prior is chosen by these nets, which are seen on test images.
"""

import itertools

from models.pictures import new_figure, save_figure
from models.prior_folder import is_finished
from models.screen import DRIFT_STEPS, likeness, screen
from myexman import at_least, read_params
from prune_kernels import read_kernels
from utils import load_vae, run_cli, seed_everything

from .densities import fit
from .fig2 import net_options, rows_beside
from .grid import Driver, Job, command_line, work_folder
from .methods import EXACT, last_row, method_job, method_options, shipped
from .rows import interval, markdown, mean_std, paired_differences, select
from .screening import kernels_of

KERNELS, VAES = shipped("conv")[1], shipped("vae")
FIT = read_params(VAES[1] / "params.yaml")  # how the shipped one was fitted
FACTS = {"elbo": "nats per held-out kernel", "likeness_600": "likeness after 600 steps of drift"}


def name_of(epochs, seed):
    """The rows' method."""
    return f"{epochs} epochs, seed {seed}"


SHIPPED = name_of(FIT["num_epochs"], FIT["seed"])


def add_arguments(parser):
    parser.add_argument("--fits", type=at_least(1), nargs="+", default=[100, 200, 400], help="epochs of the VAE's fits")
    parser.add_argument("--seeds", type=at_least(1), default=2, help="of each fit: 0, 1, …")
    parser.add_argument("--num_examples", type=at_least(1), default=50, help="size of the nets' training set")
    parser.add_argument("--splits", type=at_least(1), default=3, help="split seeds 0, 1, …")
    parser.add_argument("--epochs", type=at_least(1), default=600, help="passes over the training set, as in Fig. 2")


def settings(args):
    return {"kernels": "the shipped 5x5 kernels", args.panel: f"reduced: n = {args.num_examples}, {args.epochs} epochs, {EXACT.words}"}


def facts(folder):
    """Rows of what FACTS names."""
    seed_everything(0)
    numbers = screen(load_vae(folder), *kernels_of(KERNELS), held_out=0, schedules=(DRIFT_STEPS,))
    return [dict(metric=name, value=numbers[name], steps="") for name in FACTS]


def with_likeness(run_dir):
    """The last row of a run, and the likeness of its 5x5 kernels."""
    rows, (*_, kernels) = last_row(run_dir), read_kernels(run_dir).values()
    return [*rows, dict(metric="likeness", value=likeness(kernels), steps=rows[0]["steps"])]


def jobs(args):
    """The fits, and the nets under what has been fitted."""
    shape = {option: FIT[option] for option in ("kernel_dim", "z_dim", "hidden_dim", "bs")}
    for epochs, seed in itertools.product(args.fits, range(args.seeds)):
        name, folder = name_of(epochs, seed), work_folder(args, "vae_epochs") / f"{epochs}_seed{seed}"
        argv = command_line(**shape, num_epochs=epochs, seed=seed, no_screen=True, data_dir=KERNELS, out=folder)
        yield Job("kernels", name, "5x5", 0, [str(VAES[1])] if name == SHIPPED else argv, fit, facts)
        if name == SHIPPED or not is_finished(folder):
            continue
        for split in range(args.splits):
            options = net_options(args) | method_options("dwp", [VAES[0], folder])
            options |= dict(num_examples=args.num_examples, data_split_seed=split)
            yield method_job(args.panel, name, str(args.num_examples), split, options)._replace(measure=with_likeness)


def with_the_shipped(rows):
    """These rows, and Fig. 2's of nets under the shipped priors, on the same splits."""
    return rows + [r | dict(method=SHIPPED) for r in rows_beside(rows, ["dwp"])]


def by_length(rows):
    """[(epochs, seed, name)] of the fits among the rows, in order."""
    names = {r["method"] for r in rows}
    return sorted((*(int(word) for word in name.split() if word.isdigit()), name) for name in names)


def table(rows):
    """By fit: FACTS; accuracy, and NLL in nats per image, of the nets; both also less those under the shipped prior on the same splits,
    with 95 % intervals; as Markdown."""
    rows, lines = with_the_shipped(rows), []
    nets = [r for r in rows if r["panel"] != "kernels"]
    for epochs, seed, name in by_length(rows):
        found = [select(rows, panel="kernels", method=name, metric=fact) for fact in FACTS]
        found.append(select(nets, method=name, metric="likeness"))
        cells = [f"{value.mean():.3g}" if len(value) else "–" for value in found]
        for metric in ("acc", "nll"):
            less = interval(paired_differences(nets, name, SHIPPED, metric=metric)) if name != SHIPPED else "–"
            cells += [mean_std(select(nets, method=name, metric=metric)), less]
        lines.append([epochs, seed, *cells, len(select(nets, method=name, metric="acc"))])
    heads = [
        "epochs of the fit",
        "seed",
        *FACTS.values(),
        "in the nets, second layer",
        "accuracy",
        "difference",
        "NLL, nats",
        "difference",
        "splits",
    ]
    return markdown(" | ".join(heads), lines)


def plot(rows, file):
    """Likeness, and accuracy with the range over splits, against the epochs of the fit; seeds side by side."""
    rows = with_the_shipped(rows)
    figure, axes = new_figure(9, 3.4, columns=2)
    for axis, metric, label in zip(axes, ("likeness_600", "acc"), ("likeness after 600 steps of drift", "test accuracy")):
        for epochs, seed, name in by_length(rows):
            values = select(rows, method=name, metric=metric)
            if len(values):
                mean = values.mean()
                spread = [[mean - values.min()], [values.max() - mean]]
                axis.errorbar(epochs + 4 * seed, mean, spread, fmt="o", color=f"C{seed}", capsize=3, label=f"seed {seed}")
        axis.set(xlabel="epochs of the 5x5 VAE's fit", ylabel=label)
        handles = {text: handle for handle, text in zip(*axis.get_legend_handles_labels())}
        axis.legend(handles.values(), handles.keys(), frameon=False, fontsize=8)
    save_figure(figure, file)


SMOKE = dict(panel="glyph-digits", fits=[1], seeds=1, num_examples=20, splits=1, epochs=1)
DRIVER = Driver("vae_epochs", __doc__, add_arguments, SMOKE, settings, jobs, table, plot)

if __name__ == "__main__":
    run_cli(DRIVER.main)
