"""Every density of kernels as a prior: how well it models kernels that it has not seen, where it drifts, and the Bayesian CNN under
it. (What its KL term costs: experiments.benchmark.)

    python -m experiments.densities --data_root DATA_ROOT --workers 2

First the densities are fitted to the shipped kernels, into <runs>/densities; the VAE is the shipped one. Nets start from samples of the
density that is their prior; `sn from NAME` and `det from NAME`, at the smallest n, take it as the start alone.
"""

from pathlib import Path

import train_vae_prior
from models.pictures import new_figure, save_figure
from models.prior_folder import card_rows, is_finished
from models.priors import DENSITIES
from myexman import at_least, go_on
from myexman.logger import read_rows
from utils import load_density, run_cli

from .fig2 import net_options, rows_beside
from .grid import Driver, Job, command_line, work_folder
from .methods import method_job
from .rows import RESULTS, ROOT, markdown, mean_std, select

# What each is fitted with, beyond train_vae_prior's defaults: to the 7x7 kernels, to the 5x5 ones. Those not named are fitted at once.
FITS = {
    "vae": (dict(z_dim=2, hidden_dim=32, bs=32), dict(z_dim=4, hidden_dim=64, num_epochs=100)),
    "flow": (dict(hidden_dim=64, bs=64), dict(hidden_dim=64, num_epochs=60)),
    "pixelcnn": (dict(hidden_dim=32, bs=64), dict(hidden_dim=32, num_epochs=30)),
    "chain": (dict(z_dim=4, hidden_dim=32, min_std=0.105, num_epochs=500, bs=16), dict(z_dim=4, hidden_dim=64, num_epochs=100, bs=64)),
}
STARTS = {"sn": dict(net_cfg="bayes", prior_list="sn"), "det": dict(net_cfg="vanilla")}  # nets that take a density as their start alone
SIZES, SHIPPED = (7, 5), ROOT / "data/fconv"
FACTS = {
    "elbo": "nats per held-out kernel (7x7, 5x5)",
    "importance_bound": "with 1000 codes",
    "likeness_600": "likeness after 600 steps",
    "likeness_3000": "after 3000",
    "parameters": "parameters and buffers",
}


def folder_of(args, name, k):
    """The prior folder of a density: the shipped one of the VAE, or among the runs."""
    own = args.data_dir == SHIPPED
    if name == "vae" and own:
        return SHIPPED / f"vae{k}x{k}"
    return work_folder(args, "densities") / ("" if own else args.data_dir.name) / f"{name}{k}x{k}"


def facts(folder):
    """Rows of what a prior folder's card says, and of the density's size."""
    values = card_rows(folder) | dict(parameters=sum(t.numel() for t in load_density(folder).state_dict().values()))
    return [dict(metric=name, value=value, steps="") for name, value in values.items()]


def fit(argv):
    """Fit a density, unless it is shipped.  argv: train_vae_prior's options, of which the last is --out, or the shipped folder alone."""
    if len(argv) > 1:
        go_on(train_vae_prior.main, argv)
    return Path(argv[-1])


def add_arguments(parser):
    parser.add_argument("--densities", nargs="+", choices=sorted(DENSITIES), default=sorted(DENSITIES), help="which")
    where = "folder of kernels, in conv7x7 and conv5x5, told apart by its name; with another one nothing but fits"
    parser.add_argument("--data_dir", type=lambda folder: Path(folder).resolve(), default=SHIPPED, help=where)
    parser.add_argument("--fits_only", action="store_true", help="fit them, and train no nets")
    parser.add_argument("--num_examples", type=at_least(1), nargs="+", default=[50, 100, 200], help="sizes of the training set")
    parser.add_argument("--splits", type=at_least(1), default=3, help="split seeds 0, 1, …")
    parser.add_argument("--epochs", type=at_least(1), default=600, help="passes over the training set, as in Fig. 2")


def settings(args):
    if args.data_dir != SHIPPED:
        return {"kernels": f"the kernels of {args.data_dir.name}"}
    return {"kernels": "the shipped kernels", args.panel: f"reduced: {args.epochs} epochs, full KL sum"}


def jobs(args):
    """The fits, and the nets under what has been fitted."""
    for name in args.densities:
        folders = [folder_of(args, name, k) for k in SIZES]
        for k, folder, more in zip(SIZES, folders, FITS.get(name, ({}, {}))):
            options = dict(density=name, kernel_dim=k, data_dir=args.data_dir / f"conv{k}x{k}") | more
            if args.quick:
                options |= dict(no_screen=True) | ({} if hasattr(DENSITIES[name], "fit") else dict(num_epochs=1))
            argv = [str(folder)] if folder.is_relative_to(SHIPPED) else command_line(**options, out=folder)
            yield Job("kernels", name, f"{k}x{k}", 0, argv, fit, facts)
        fitted = all(map(is_finished, folders))
        if args.fits_only or args.data_dir != SHIPPED or not fitted or name == "vae":  # whose nets are those of Fig. 2
            continue
        shared = net_options(args) | dict(vae_list=folders, init_list="vae")
        for n in args.num_examples:
            for split in range(args.splits):
                data = dict(num_examples=n, data_split_seed=split)
                yield method_job(args.panel, name, str(n), split, shared | data | dict(net_cfg="bayes", prior_list=name))
                if n == min(args.num_examples):
                    for method, own in STARTS.items():
                        yield method_job(args.panel, f"{method} from {name}", str(n), split, shared | data | own)


def with_the_vae(rows):
    """These rows, and those of Fig. 2 of nets under the VAE and from its samples, on the same splits."""
    names = {"dwp": "vae"} | {method: f"{method} from vae" for method in STARTS}
    return rows + [r | dict(method=names[r["method"]]) for r in rows_beside(rows, names)]


def table(rows):
    """By density: of both sizes of kernels what FACTS names, the cost of its KL term by experiments.benchmark, and accuracy, NLL and ECE of
    the nets; as Markdown."""
    rows, cost = with_the_vae(rows), {r["case"]: r["seconds"] for r in read_rows(RESULTS / "benchmark.csv")}
    lines, sizes = [], sorted({r["x"] for r in rows if r["panel"] != "kernels"})
    for name in sorted({r["method"] for r in rows if r["panel"] == "kernels"}):
        cells = []
        for metric in FACTS:
            values = [select(rows, panel="kernels", method=name, x=f"{k}x{k}", metric=metric) for k in SIZES]
            cells.append(", ".join(f"{v[0]:.3g}" if len(v) else "–" for v in values))
        for n in sizes:
            found = [r for r in rows if r["panel"] != "kernels" and r["x"] == n]
            cells += [mean_std(select(found, method=name, metric=metric)) for metric in ("acc", "nll", "ece")]
        case = "KL, 4096 5x5 kernels" + (f", {name}" if name != "vae" else "")
        cells.insert(len(FACTS), f"{1000 * cost[case]:.0f}" if case in cost else "–")
        starts = [select(rows, method=f"{method} from {name}", x=sizes[0], metric="acc") for method in STARTS] if sizes else []
        lines.append([name, *cells, *map(mean_std, starts)])
    heads = [f"n = {n}: {what}" for n in sizes for what in ("accuracy", "NLL", "ECE")]
    heads += [f"n = {sizes[0]}, as a start of {method}" for method in STARTS] if sizes else []
    return markdown(" | ".join(["density", *FACTS.values(), "KL of 4096 5x5 kernels, ms", *heads]), lines)


def plot(rows, file):
    """Accuracy of the nets under a density, of the smallest n, against its nats per held-out 7x7 kernel, and against the likeness of its
    drift test."""
    rows = with_the_vae(rows)
    smallest = min((r["x"] for r in rows if r["panel"] != "kernels"), default=None)
    figure, axes = new_figure(9, 3.6, columns=2, sharey=True)
    for axis, (metric, label) in zip(
        axes, (("elbo", "nats per held-out 7x7 kernel"), ("likeness_600", "likeness of 7x7 kernels after 600 steps"))
    ):
        for i, name in enumerate(sorted({r["method"] for r in rows if r["panel"] == "kernels"})):
            x = select(rows, panel="kernels", method=name, x="7x7", metric=metric)
            y = select([r for r in rows if r["x"] == smallest], method=name, metric="acc")
            if len(x) and len(y):
                axis.errorbar(x[0], y.mean(), [[y.mean() - y.min()], [y.max() - y.mean()]], fmt="o", capsize=3, color=f"C{i}", label=name)
        axis.set(xlabel=label)
        axis.margins(x=0.15)
    axes[0].set(ylabel=f"accuracy under it as the prior, n = {smallest}")
    if axes[0].get_legend_handles_labels()[0]:
        axes[0].legend(frameon=False, fontsize=8)
    save_figure(figure, file)


DRIVER = Driver(
    "densities",
    __doc__,
    add_arguments,
    dict(panel="glyph-digits", num_examples=[20], splits=1, epochs=1, densities=["gmm", "flow", "gauss"]),
    settings,
    jobs,
    table,
    plot,
)


if __name__ == "__main__":
    run_cli(DRIVER.main)
