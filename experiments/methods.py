"""What a method is: its name and colour in tables and figures, its options of train_bnn.py, the nets that it trains, and the numbers that
its runs leave."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import yaml

import train_bnn
from models import NETWORKS
from models.priors import DENSITIES, PRIORS
from models.screen import likeness
from myexman import read_params
from myexman.logger import read_rows
from prune_kernels import read_kernels
from utils import BATCH, LR, steps_per_epoch

from . import deep_ensemble, features, moved
from .grid import Job, command_line
from .rows import HERE, ROOT, select

# One name and one colour (Okabe and Ito's and Tol's colour-blind-safe sets) per method, in every table and figure.
METHODS = {
    "dwp": ("deep weight prior", "#0072B2"),
    "dwp-256": ("deep weight prior, 256 kernels a step", "#88CCEE"),
    "loguniform": ("log-uniform", "#E69F00"),
    "vd": ("variational dropout", "#661100"),
    "sn": ("standard normal", "#009E73"),
    "det": ("deterministic", "#CC79A7"),
    "frozen": ("untrained kernels", "#333333"),
    "moved": ("kernels moved by the prior alone", "#CC6677"),
    "det-l2": ("deterministic, L2", "#AA4499"),
    "do": ("MC dropout", "#56B4E9"),
    "de": ("deep ensemble of 5", "#44AA99"),
    "ard": ("ARD", "#332288"),
    "gamma": ("ARD, Gamma hyperprior", "#DDCC77"),
    "student": ("Student t", "#117733"),
    "gauss": ("Gaussian kernels", "#D55E00"),
    "gauss-indep": ("independent Gaussian", "#999933"),
    "filters": ("learned filters", "#882255"),
    "xavier": ("Xavier", "#000000"),
}


def name_of(method):
    """Its name in tables and figures; a method that METHODS does not have is called what it is."""
    return METHODS.get(method, (method,))[0]


def colour_of(method):
    return METHODS[method][1] if method in METHODS else f"C{sum(map(ord, method)) % 10}"


def paper_value(figure, panel, method, x):
    """The number the paper gives for a method of ours, or None."""
    values = select(read_rows(HERE / "paper_results.csv"), figure=figure, panel=panel, method=method, x=x)
    return float(values[0]) if len(values) else None


def paper_cell(row):
    """A number of paper_results.csv as tables show it."""
    return f"{'' if row['exact'] else '≈ '}{row['value']}"


CORE = ("dwp", "loguniform", "vd", "sn", "det")  # those of the paper's Fig. 2, in which `vd` is called log-uniform
DETERMINISTIC = ("det", "det-l2", "do", "de")


# Options for the KL sum of the deep weight prior: over all kernels in every step, as in the paper, or over some drawn anew, as good under a
# good prior (experiments.ablations).
KL_SUMS = {"dwp": {}, "dwp-256": dict(kl_kernels=256)}

# The shipped kernels ("conv") and priors ("vae") for each convolution of a net, from input to output.
FCONV = ("fconv/{}7x7", "fconv/{}5x5")
CIFARNET = ("cifar/{}7x7", "cifar/{}5x5_1", "cifar/{}5x5_2")


def shipped(kind, layers=FCONV):
    """Folders of the shipped kernels ("conv") or priors ("vae") for these layers."""
    return [ROOT / "data" / layer.format(kind) for layer in layers]


class Panel(NamedTuple):
    """A data set's net, the sources of its kernels, and the sizes of its training set that two cores can afford."""

    model: str
    layers: tuple
    hid_dim: tuple
    num_examples: tuple


PANELS = {
    "mnist": Panel("fconv", FCONV, (32, 128), (50, 100, 200)),
    "cifar10": Panel("cifarnet", CIFARNET, (32, 64, 64), (50, 200, 500)),
    "glyph-digits": Panel("fconv", FCONV, (4, 8), (20,)),  # for --quick
}


PAPER = dict(epochs=10000, hid_dim="")  # what its rows would say


def options(panel, epochs, start="vae", seed=0, priors=()):
    """What rows of a panel say of how they were made, beside their method, size and split.  priors: folders, of others than the shipped."""
    net = PANELS[panel]
    narrow = net.hid_dim != NETWORKS[net.model].default_hid_dim
    named = [f"{Path(folder).resolve().name}@{fingerprint(folder)}" for folder in priors]
    return dict(epochs=epochs, hid_dim=net.hid_dim * narrow, init_list=start if start != "vae" else "", seed=seed or "", vae_list=named)


def fingerprint(folder):
    """A few digits that tell a prior from others of its name.  Raises FileNotFoundError."""
    for file in (Path(folder) / "vae_params.torch", Path(folder) / "vae_params.safetensors"):
        if file.exists():
            return hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    raise FileNotFoundError(f"{folder} is no prior folder: it has no vae_params.torch")


def last_step(n, epochs):
    """The step of the last row of a run on n images, with train_bnn's batches."""
    return epochs * steps_per_epoch(n, BATCH)


def net_options(args):
    """train_bnn's options for the panel's net, evaluated when it is trained; experiments with the same nets share them."""
    panel = PANELS[args.panel]
    shared = dict(data=args.panel, data_root=args.data_root, model=panel.model, hid_dim=panel.hid_dim)
    return shared | dict(epochs=args.epochs, eval_freq=args.epochs)


def density_name(folder):
    """The name in DENSITIES of what a prior folder holds."""
    return read_params(Path(folder) / "params.yaml").get("density", "vae")


def method_options(method, vaes, kernels=None, start="vae"):
    """train_bnn's options of a method, or experiments.features': its net and priors, and the kernels it starts from.

    vaes: a prior folder per convolution, as a rule of VAEs.  start: one of models.initialization.INITS for all convolutions."""
    if method == "moved":  # whose kernels are the deep weight prior's but for the data
        return method_options("dwp-256", vaes, start=start)
    learned = method in KL_SUMS
    options = dict(init_list=[start] * len(vaes)) | (dict(vae_list=vaes) if learned or start.startswith("vae") else {})
    if method == "frozen":
        return options | dict(raw=True, lr=LR)  # trained as the others are
    if method in DETERMINISTIC:
        return options | dict(net_cfg="vanilla-do" if method == "do" else "vanilla")
    if hasattr(DENSITIES.get(method), "fit"):
        options |= dict(filters_list=kernels)
    priors = [density_name(vae) if learned else method for vae in vaes]
    sums = {key: n for key, n in KL_SUMS.get(method, {}).items() if any(key in PRIORS[name].needs for name in priors)}  # not in closed form
    return options | sums | dict(net_cfg="bayes", prior_list=priors)


def init_options(init, layers):
    """Options that fill these convolutions from the shipped priors ("dwp") or kernels ("filters"), or by Xavier."""
    options = dict(init_list=["vae" if init == "dwp" else init] * len(layers))
    if init == "dwp":
        options["vae_list"] = shipped("vae", layers)
    elif init == "filters":
        options["filters_list"] = shipped("conv", layers)
    return options


# Taken over beside the ensemble's metrics
LOGGED = ("train_nll", "kl", "logvar_05", "logvar_50", "logvar_95", "mean_acc", "mean_nll", "mean_ece", "one_acc", "one_nll")


def logged(row):
    """The numbers of a log's row by metric; those of the ensemble, if there is one, under the metric's bare name."""
    who = "ens" if "ens_acc" in row else "mean"  # a deterministic net is its own ensemble
    values = {name: row[f"{who}_{name}"] for name in ("acc", "nll", "ece", "brier", "elbo") if f"{who}_{name}" in row}
    return values | {k: row[k] for k in LOGGED if k in row}


def last_row(run_dir):
    """The numbers of a run at its end, of its pruning, and of the ensemble whose last member it is: tidy rows without the columns that
    the job's rows share."""
    row = read_rows(run_dir / "logs.csv")[-1]
    values = logged(row)
    if (run_dir / "pruning.yaml").exists():
        report = yaml.safe_load((run_dir / "pruning.yaml").read_text())
        values |= {name: report[name] for name in ("error", "error_before", "compression")}
        values |= {f"kept {layer}": kept / total for layer, (kept, total) in report["kept"].items()}
    values |= deep_ensemble.ensemble_file(run_dir)["metrics"]
    return [dict(metric=k, value=v, steps=row["step"]) for k, v in values.items()]


def with_kernels(run_dir):
    """last_row(), and how alike the kernels of the first and the last convolution are, and how large."""
    rows = last_row(run_dir)
    first, *_, last = read_kernels(run_dir).values()
    for layer, w in dict(first=first, last=last).items():
        facts = {f"likeness_{layer}": likeness(w), f"norm_{layer}": float(w.flatten(1).norm(dim=1).mean())}
        rows += [dict(metric=metric, value=value, steps=rows[0]["steps"]) for metric, value in facts.items()]
    return rows


def every_row(run_dir):
    """The numbers of all evaluations of a run, with the step as x."""
    return [
        dict(metric=k, value=v, steps=row["step"], x=row["step"]) for row in read_rows(run_dir / "logs.csv") for k, v in logged(row).items()
    ]


def method_job(panel, method, x, seed, options):
    """The Job of a method with method_options(), measured when it ends; some take several runs."""
    run = dict(de=deep_ensemble.main, frozen=features.main, moved=moved.main).get(method, train_bnn.main)
    return Job(panel, method, x, seed, command_line(**options), run, with_kernels)


def curve(axis, rows, method, metric, position=float, **style):
    """Mean of a method's metric against x with the range over seeds, in the method's colour; x is drawn at position(x).

    style: of matplotlib's errorbar, in place of the usual."""
    xs = sorted({r["x"] for r in rows if r["method"] == method and r["metric"] == metric}, key=position)
    values = [select(rows, method=method, metric=metric, x=x) for x in xs]
    if values:
        mean = [v.mean() for v in values]
        spread = [[m - v.min() for m, v in zip(mean, values)], [v.max() - m for m, v in zip(mean, values)]]
        style = dict(color=colour_of(method), label=name_of(method), marker="o", capsize=3) | style
        axis.errorbar([position(x) for x in xs], mean, spread, **style)


def paper_curve(axis, figure, panel, method, position=float, label=None):
    """The paper's numbers for a method of ours in grey, behind ours, each method with its marker."""
    where = figure, panel, method
    rows = [r for r in read_rows(HERE / "paper_results.csv") if (r["figure"], r["panel"], r["method"]) == where]
    points = sorted((position(r["x"]), r["value"]) for r in rows)
    if points:
        marker = dict(dwp="s", vd="^", sn="v", det="D", filters="^", xavier="v").get(method, "x")
        axis.plot(*zip(*points), color="0.75", marker=marker, markersize=4, linestyle="--", zorder=0, label=label)
