"""Sparse nets from Sparse variational dropout, ARD and the Gamma hyperprior: error and compression on MNIST.

    python -m experiments.sparsification --data_root DATA_ROOT --workers 2

The slides' table (LeNet-300-100, LeNet-5-Caffe), Table 1 of Kharitonov et al. 2018 and, with several --gamma_a, a sweep like that of
its Table 2. The setting is its appendix A's: all layers Bayesian, biases point estimates, log sigma from N(-5, 0.1^2), clipped at -4
for the Gamma hyperprior; Adam at 1e-3, batch 100; at the end weights with |mean| < 0.01 go. The 200 epochs there, the first 20
annealed and the learning rate falling from epoch 100 on, are fewer for LeNet-5 here, in the same proportions. The slides prune by
mean^2 / sigma^2 instead, at a threshold that they do not give: the rows `error_snr` and `compression_snr` are of the same nets at
0.05, which is log alpha = 3 (Molchanov et al. 2017).
"""

import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

import train_bnn
from models import LeNet5
from models.bayes import conv_layers
from models.initialization import Xavier, fill
from models.pictures import new_figure, save_figure
from models.sparsity import CRITERIA, compression, dense_state, prune
from myexman import at_least
from myexman.logger import read_rows
from utils import evaluate, load_run, load_weights, run_cli, seed_everything

from .grid import Driver, Job, command_line, folders
from .methods import colour_of, last_row, name_of
from .rows import HERE, markdown, mean_std, select


class Net(NamedTuple):
    """A net by the name that papers use, its data, the epochs that two cores can afford, and the papers' factor of the KL term."""

    title: str
    data: str
    epochs: int
    kl_scale: float = 1.0


NETS = {
    "lenet300": Net("LeNet-300-100", "mnist", 200),
    "lenet5": Net("LeNet-5-Caffe", "mnist", 40),
    "vgg": Net("VGG-like", "cifar10", 200, 0.05),  # for an accelerator
}
LENETS = ("lenet300", "lenet5")
PRIORS = ("loguniform", "ard", "gamma")
RULES = (("", "full", "by the mean"), ("_snr", "none", "by mean²/σ²"))  # of pruning: the metrics' ending, marker, words


def add_arguments(parser):
    parser.add_argument("--nets", nargs="+", choices=list(NETS), default=LENETS, help="what to make sparse")
    parser.add_argument("--priors", nargs="+", choices=PRIORS, default=PRIORS, help="priors of the weights")
    parser.add_argument("--gamma_a", type=float, nargs="+", default=[0.51], help="shapes of the Gamma hyperprior")
    parser.add_argument("--epochs", type=at_least(1), help="passes over the training set (default: 40 for LeNet-5; else the paper's, 200)")
    parser.add_argument("--splits", type=at_least(1), default=1, help="seeds 0, 1, … (paper: 5)")
    parser.add_argument("--draw", type=Path, metavar="RUN", help="only draw the weights of a LeNet-5 run, before and after training")


def shared(args):
    return {name: dict(epochs=args.epochs or net.epochs) for name, net in NETS.items()}


def jobs(args):
    for net in args.nets:
        epochs = args.epochs or NETS[net].epochs
        shared = dict(data="glyph-digits" if args.quick else NETS[net].data, data_root=args.data_root)
        shared |= dict(model=net, net_cfg="bayes-all", bs=100, epochs=epochs, eval_freq=max(epochs // 10, 1))
        shared |= dict(kl_anneal_epochs=max(round(epochs / 10), 1), decrease_from=epochs // 2)
        shared |= dict(ens=0, logvarinit_std=0.2, prune="mean", num_examples=200 if args.quick else 0)
        for seed in range(args.splits):
            for prior in args.priors:
                for a in args.gamma_a if prior == "gamma" else [None]:
                    argv = command_line(**shared, prior_list=prior, seed=seed)
                    # appendix A: the Gamma hyperprior's regulariser is not scaled, its variances are clipped
                    argv += command_line(gamma_a=a, max_logsigma=-4) if a else command_line(kl_scale=NETS[net].kl_scale)
                    yield Job(net, prior, str(a or ""), seed, argv, train_bnn.main, by_both_rules)


def by_both_rules(run_dir):
    """The numbers of a run, which prunes by the mean, and those of pruning by the signal-to-noise ratio instead."""
    rows, (net, _, test) = last_row(run_dir), load_run(run_dir)
    times = compression(prune(net, "snr", CRITERIA["snr"][1]))
    found = dict(error_snr=1 - evaluate(net, test, ens=0)["mean_acc"], compression_snr=times)
    return rows + [dict(metric=metric, value=value, steps=rows[0]["steps"]) for metric, value in found.items()]


def published(net, method, quantity, x=""):
    """The papers' numbers for a net and method, as (slides or paper, value)."""
    wanted = f"{'vgg-cifar10' if net == 'vgg' else net} {quantity}", method, x
    rows = read_rows(HERE / "paper_results.csv")
    found = [r for r in rows if (r["panel"], r["method"], str(r["x"])) == wanted]
    return [("slides" if r["figure"].startswith("slides") else "paper", r["value"]) for r in found]


def table(rows):
    """Error and compression by both rules beside the papers', and the share of zeros in each layer, as Markdown."""
    lines = []
    for net in NETS:
        own = [r for r in rows if r["panel"] == net]
        for method in PRIORS:
            for x in sorted({str(r["x"]) for r in own if r["method"] == method}):
                of = dict(method=method, x=x)
                results = []
                for rule, _, _ in RULES:
                    error, times = (select(own, metric=f"{metric}{rule}", **of) for metric in ("error", "compression"))
                    results.append(f"{mean_std(100 * error, 2)}, {mean_std(times, 0)}x" if len(error) else "–")
                layers = dict.fromkeys(r["metric"] for r in own if r["method"] == method and r["metric"].startswith("kept"))
                zeros = " – ".join(f"{100 - 100 * select(own, metric=layer, **of).mean():.1f}" for layer in layers)
                pairs = zip(published(net, method, "error", x), published(net, method, "compression", x))
                paper = "; ".join(f"{100 * e:.2f}, {c:g}x ({source})" for (source, e), (_, c) in pairs) or "–"
                label = name_of(method) + (f", a = {x}" if x else "")
                before = mean_std(100 * select(own, metric="error_before", **of), 2)
                seeds = len(select(own, metric="error", **of))
                lines.append([NETS[net].title, DRIVER.title(own), label, before, *results, paper, zeros, seeds])
    heads = "net | how | prior | error before pruning, % | " + " | ".join(f"error, % and compression {words}" for *_, words in RULES)
    return markdown(f"{heads} | papers | zeros per layer by the mean, % | seeds", lines)


def plot(rows, file):
    """Error against compression, hollow where pruned by the signal-to-noise ratio, as in the slides; the papers' points in grey."""
    nets = [net for net in NETS if any(r["panel"] == net for r in rows)]
    figure, axes = new_figure(5 * len(nets), 3.8, columns=len(nets), squeeze=False)
    for axis, net in zip(axes[0], nets):
        own = [r for r in rows if r["panel"] == net]
        for method, (rule, style, words) in itertools.product(PRIORS, RULES):
            points = [select(own, method=method, metric=metric + rule) for metric in ("compression", "error")]
            if len(points[0]):
                label = f"{name_of(method)}, {words}"
                axis.plot(points[0], 100 * points[1], "o", color=colour_of(method), fillstyle=style, label=label)
        for row in (r for r in own if r["metric"] == "compression" and r["x"] != ""):
            (error,) = select(own, metric="error", **{c: row[c] for c in ("method", "x", "seed")})
            axis.annotate(f"  a = {row['x']}", (row["value"], 100 * error), fontsize=7, rotation=-40, rotation_mode="anchor", va="center")
        for method, marker in (("original", "*"), ("pruning", "x"), ("dns", "d"), ("sws", "s"), ("loguniform", "^"), ("ard", "v")):
            for (source, error), (_, times) in zip(published(net, method, "error"), published(net, method, "compression")):
                axis.plot(times, 100 * error, marker, color="0.6", zorder=0, label=f"{name_of(method)}, {source}")
        axis.margins(y=0.15)
        axis.set(xscale="log", xlabel="compression: weights by weights kept", ylabel="test error, %")
        axis.set_title(f"{NETS[net].title}; {DRIVER.title(own)}", fontsize=9)
        axis.legend(frameon=False, fontsize=7)
    save_figure(figure, file)


def plot_weights(run, file):
    """The slides' picture: filters of LeNet-5's second convolution and a patch of its first linear layer, before and after training."""
    params = yaml.safe_load((run / "params.yaml").read_text())
    if params["model"] != "lenet5":
        raise ValueError(f"--draw shows runs of lenet5; {run} is one of {params['model']}")
    seed_everything(params["seed"])
    net = LeNet5(params["hid_dim"] or LeNet5.default_hid_dim)
    for conv in conv_layers(net).values():
        fill(conv.weight, Xavier(conv.weight.shape))
    before, after = net.state_dict(), dense_state(load_weights(run / "pruned.torch"))
    figure, axes = new_figure(8, 8, columns=2, rows=2)
    for column, (when, state) in enumerate((("at the start", before), ("after training and pruning", after))):
        filters = state["features.conv2.weight"][:10, :10]  # (10, 10, 5, 5)
        sheet = np.block([[np.pad(w.numpy(), 1, constant_values=np.nan) for w in row] for row in filters])
        for axis, picture, what in zip(
            axes[:, column], (sheet, state["classifier.fc1.weight"][:100, :100].numpy()), ("conv2", "fc1, 100 x 100")
        ):
            limit = np.nanquantile(np.abs(picture), 0.99) or 1.0
            axis.imshow(picture, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.set_title(f"{what}, {when}", fontsize=9)
    save_figure(figure, file)


DRIVER = Driver(
    "sparsification",
    __doc__,
    add_arguments,
    dict(nets=["lenet5"], epochs=2),
    shared,
    jobs,
    table,
    plot,
    paper=("slides_sparse_vd", "ard_table1", "ard_table2"),
    full=dict(epochs=200),
)


def main(argv=None):
    args = DRIVER.parse_args(argv)
    if not args.draw:
        return DRIVER.main(argv)
    file = folders(args.quick)[1] / "sparsification_weights.png"
    plot_weights(args.draw, file)
    print(f"drew {file}")


if __name__ == "__main__":
    run_cli(main)
