"""Every density of kernels as a prior: how well it models kernels that it has not seen, where it drifts, and the Bayesian CNN under it,
beside the shipped VAE's; the same fitted more closely than is best for held-out kernels, or less so, or from another seed.

    python -m experiments.densities --data_root DATA_ROOT --workers 2
    python -m experiments.densities --fits "vae, 100 epochs" "kde, bandwidth 0.2" --num_examples 50 --data_root DATA_ROOT

First they are fitted to the shipped kernels, into <runs>/densities. Nets start from samples of the density that is their prior; at the
smallest n, those under N(0, 1) and deterministic ones take it as the start alone.
"""

import itertools
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

import train_vae_prior
from models.pictures import new_figure, save_figure
from models.prior_folder import card_rows, is_finished
from models.priors import DENSITIES
from myexman import at_least, go_on, read_params
from myexman.logger import read_rows
from utils import load_density, run_cli

from .comparison import comparison_table
from .fig2 import rows_beside
from .grid import Driver, Job, command_line, folders, work_folder
from .methods import PAPER, method_job, name_of, net_options
from .rows import RESULTS, ROOT, markdown, select, tidy_rows, unpack

SIZES, SHIPPED = (7, 5), ROOT / "data/fconv"


class Fit(NamedTuple):
    """What a density is fitted with, beyond train_vae_prior's defaults, to the kernels of each of SIZES; of which of them the shipped prior
    is taken instead, if the kernels are the shipped ones."""

    density: str
    first: dict = {}
    second: dict = {}
    shipped: tuple = ()


VAE = dict(z_dim=4, hidden_dim=64)  # of 5x5 kernels
FITS = {
    "vae": Fit("vae", dict(z_dim=2, hidden_dim=32, bs=32), VAE | dict(num_epochs=100), SIZES),
    "chain": Fit("chain", dict(z_dim=4, hidden_dim=32, min_std=0.105, num_epochs=500, bs=16), VAE | dict(num_epochs=100, bs=64)),
    "flow": Fit("flow", dict(hidden_dim=64, bs=64), dict(hidden_dim=64, num_epochs=60)),
    "pixelcnn": Fit("pixelcnn", dict(hidden_dim=32, bs=64), dict(hidden_dim=32, num_epochs=30)),
    **{name: Fit(name) for name, density in DENSITIES.items() if hasattr(density, "fit")},  # at once
}


def second(name, **options):
    """FITS[name] with other options of the fit to 5x5 kernels."""
    fit = FITS[name]
    return fit._replace(second=fit.second | options, shipped=fit.shipped[:1])


VARIANTS = {  # the shipped 5x5 VAE is fitted for 400 epochs, from seed 0: more closely than is best for held-out kernels
    "vae, 100 epochs": second("vae", num_epochs=100, bs=64),
    "vae, 100 epochs, seed 1": second("vae", num_epochs=100, bs=64, seed=1),
    "vae, 100 epochs, z 16": second("vae", num_epochs=100, bs=64, z_dim=16),
    "vae, 200 epochs": second("vae", num_epochs=200, bs=64),
    "vae, 400 epochs, seed 1": second("vae", num_epochs=400, bs=64, seed=1),
    "chain, 400 epochs": second("chain", num_epochs=400),
    "flow, 400 epochs": second("flow", num_epochs=400, no_early_stop=True),
    "pixelcnn, 300 epochs": second("pixelcnn", num_epochs=300, no_early_stop=True),
    **{f"kde, bandwidth {b}": Fit("kde", dict(bandwidth=b), dict(bandwidth=b)) for b in (0.4, 0.2, 0.1)},
}
STARTS = {"sn": dict(net_cfg="bayes", prior_list="sn"), "det": dict(net_cfg="vanilla")}  # nets that take a density as their start alone
FACTS = {
    "elbo": "nats per held-out kernel (7x7, 5x5)",
    "importance_bound": "with 1000 codes",
    "likeness_600": "likeness after 600 steps",
    "likeness_3000": "after 3000",
    "parameters": "parameters and buffers",
}


def add_arguments(parser):
    parser.add_argument("--fits", nargs="+", choices=[*FITS, *VARIANTS], default=list(FITS), help="fits to make, and to train nets under")
    where = "folder holding conv7x7 and conv5x5, whose name marks the results; if not the shipped one, no nets are trained"
    parser.add_argument("--data_dir", type=lambda folder: Path(folder).resolve(), default=SHIPPED, help=where)
    parser.add_argument("--fits_only", action="store_true", help="fit them, and train no nets")
    parser.add_argument("--num_examples", type=at_least(1), nargs="+", default=[50, 100, 200], help="sizes of the training set")
    parser.add_argument("--splits", type=at_least(1), default=3, help="split seeds 0, 1, …")
    parser.add_argument("--epochs", type=at_least(1), default=600, help="passes over the training set, as in Fig. 2")
    parser.add_argument("--validate", action="store_true", help="evaluate the nets on validation images, to choose among fits")


def shared(args):
    if args.data_dir != SHIPPED:
        return {"kernels": dict(data_dir=args.data_dir.name)}
    return {"kernels": {}, args.panel: dict(epochs=args.epochs)}


def folder_of(args, name, k):
    """The prior folder of a fit: the shipped one, or among the runs."""
    own = args.data_dir == SHIPPED
    if own and k in (FITS | VARIANTS)[name].shipped:
        return SHIPPED / f"vae{k}x{k}"
    return work_folder(args, "densities") / ("" if own else args.data_dir.name) / f"{name.replace(', ', '_').replace(' ', '_')}_{k}x{k}"


def facts(folder):
    """Rows of what a prior folder's card says, and of the density's size."""
    values = card_rows(folder) | dict(parameters=sum(t.numel() for t in load_density(folder).state_dict().values()))
    return [dict(metric=name, value=value, steps="") for name, value in values.items()]


def fit(argv):
    """Fit a density, unless it is shipped.  argv: train_vae_prior's options, of which the last is --out, or the shipped folder alone."""
    if len(argv) > 1:
        go_on(train_vae_prior.main, argv)
    return Path(argv[-1])


def jobs(args):
    """The fits, and the nets under what has been fitted."""
    rows = DRIVER.among(tidy_rows(folders(args.quick)[0] / "densities.csv"), shared(args))
    for name in args.fits:
        density, *options, _ = (FITS | VARIANTS)[name]
        priors, made_elsewhere = [folder_of(args, name, k) for k in SIZES], []
        for k, folder, own in zip(SIZES, priors, options):
            own = dict(density=density, kernel_dim=k, data_dir=args.data_dir / f"conv{k}x{k}") | own
            if args.quick:
                own |= dict(no_screen=True) | ({} if hasattr(DENSITIES[density], "fit") else dict(num_epochs=1))
            if args.data_dir != SHIPPED and is_finished(folder):
                there = read_params(folder / "params.yaml")["data_dir"]
                if Path(there) != own["data_dir"]:
                    raise ValueError(f"--data_dir: {folder} has been fitted to {there}, of the same name: rename one of the two")
            argv = [str(folder)] if folder.is_relative_to(SHIPPED) else command_line(**own, out=folder)
            yield Job("kernels", name, f"{k}x{k}", 0, argv, fit, facts)
            if not is_finished(folder) and select(rows, method=name, x=f"{k}x{k}", metric="elbo").size:
                made_elsewhere.append(f"python train_vae_prior.py {shlex.join(argv)}")
        if args.fits_only or args.data_dir != SHIPPED or (name == "vae" and not args.validate):  # whose nets are those of Fig. 2
            continue
        if not all(map(is_finished, priors)):
            own = [r for r in rows if r["metric"] == "acc" and (r["method"], unpack(r["options"]).get("net")) == (name, None)]
            own = [r for r in own if r["x"] in args.num_examples]
            if made_elsewhere and len([r for r in own if validated(r) == args.validate]) < len(args.num_examples) * args.splits:
                print(f"note: {name} was fitted elsewhere; to train nets under it: {'; '.join(made_elsewhere)}", file=sys.stderr)
            continue
        net = net_options(args) | dict(vae_list=priors, init_list="vae", validate=args.validate)
        for n, split in itertools.product(args.num_examples, range(args.splits)):
            own = net | dict(num_examples=n, data_split_seed=split)
            under = own | dict(net_cfg="bayes", prior_list=density)
            yield method_job(args.panel, name, str(n), split, under)._replace(options=dict(validate=args.validate))
            for method, start in STARTS.items() if n == min(args.num_examples) and name in FITS and not args.validate else ():
                yield method_job(args.panel, name, str(n), split, own | start)._replace(options=dict(net=method))


def role(density, net=""):
    """What tables call a net under a density, or another method's, `net`, that has its samples as the start."""
    return f"{density}, as the start of {name_of(net)}" if net else density


def validated(row):
    """Whether it is of a net on validation images."""
    return unpack(row["options"]).get("validate", False)


def nets(rows, validate=False):
    """(rows, bases) of the nets, for comparison_table(), with those of Fig. 2 under the shipped VAE unless on validation images."""
    trained = [r for r in rows if r["panel"] != "kernels" and validated(r) == validate]
    bases = {role(name, net): role("vae", net) if name != "vae" else None for net in ("", *STARTS) for name in FITS}
    bases |= {name: fit.density for name, fit in VARIANTS.items()}
    own = [r | dict(method=role(r["method"], unpack(r["options"]).get("net"))) for r in trained]
    compared = {(r["x"], bases.get(r["method"])) for r in own}
    beside = [] if validate else rows_beside(trained, ("dwp", *STARTS))
    beside = [r | dict(method=role("vae", r["method"] if r["method"] in STARTS else "")) for r in beside]
    return own + [r for r in beside if (r["x"], r["method"]) in compared], bases


def table(rows):
    """By density and size of kernels what FACTS names, and the cost of its KL term by experiments.benchmark; then the nets under each; as
    Markdown."""
    cost = {r["case"]: r["seconds"] for r in read_rows(RESULTS / "benchmark.csv")}
    lines = []
    for name in (name for name in [*FITS, *VARIANTS] if any(r["method"] == name and r["panel"] == "kernels" for r in rows)):
        cells = []
        for metric in FACTS:
            values = [select(rows, panel="kernels", method=name, x=f"{k}x{k}", metric=metric) for k in SIZES]
            cells.append(", ".join(f"{v[0]:.3g}" if len(v) else "–" for v in values))
        case = "KL, 4096 5x5 kernels" + (f", {name}" if name != "vae" else "")
        lines.append([name, *cells, f"{1000 * cost[case]:.0f}" if case in cost else "–"])
    fits = markdown(" | ".join(["density", *FACTS.values(), "KL of 4096 5x5 kernels, ms"]), lines)
    parts = [fits]
    for words, validate in (("Nets:", False), ("Nets, on validation images:", True)):
        own, bases = nets(rows, validate)
        parts += [words, comparison_table(own, bases)] if own else []
    return "\n\n".join(parts)


def plot(rows, file):
    """Accuracy of the nets under a density, of the smallest n, against its nats per held-out 5x5 kernel, and against the likeness of its
    drift test; a colour per density, a marker per fit of it."""
    own = nets(rows)[0]
    least = min((r["x"] for r in own), default="")
    figure, axes = new_figure(10, 4.2, columns=2, sharey=True)
    for axis, (metric, label) in zip(
        axes, (("elbo", "nats per held-out 5x5 kernel"), ("likeness_600", "likeness of 5x5 kernels after 600 steps"))
    ):
        for name, fit in (FITS | VARIANTS).items():
            x = select(rows, panel="kernels", method=name, x="5x5", metric=metric)
            y = select(own, method=name, x=least, metric="acc")
            if len(x) and len(y):
                spread = [[y.mean() - y.min()], [y.max() - y.mean()]]
                marker = "o" if name in FITS else "s^vDP"[list(VARIANTS).index(name) % 5]
                color = f"C{list(FITS).index(fit.density)}"
                axis.errorbar(x[0], y.mean(), spread, fmt=marker, capsize=3, color=color, label=name)
        axis.set(xlabel=label)
        axis.margins(x=0.15)
    axes[0].set(ylabel=f"accuracy under it as the prior, n = {least}")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", frameon=False, fontsize=8, ncols=5)
    save_figure(figure, file)


DRIVER = Driver(
    *("densities", __doc__, add_arguments),
    dict(panel="glyph-digits", num_examples=[20], splits=1, epochs=1, fits=["gauss-indep", "flow", "gauss"]),
    *(shared, jobs, table, plot),
    varied=("net", "validate"),
    full=PAPER,
)

if __name__ == "__main__":
    run_cli(DRIVER.main)
