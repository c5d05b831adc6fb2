"""How far the auxiliary bound is from the KL divergence that it stands for, along a training.

    python -m experiments.tightness --data_root DATA_ROOT --workers 2

The bound of eq. 7 lies above KL(q || p) by E_q KL(r(z|w) || p(z|w)). The importance-weighted bound, with K codes of a w instead of one,
falls towards KL(q || p) as K grows; its fall at K = 1000 is the estimate of the gap here. The reverse model is learned with the posterior,
as in Algorithm 1, or stays the VAE's encoder.
"""

import itertools
from functools import partial

import torch

import train_bnn
from models.pictures import new_figure, save_figure
from models.screen import importance_bound
from myexman import Logger, at_least, save_state, script
from myexman.logger import read_rows
from utils import linear_lr, run_cli, steps_per_epoch, train_epoch

from .grid import Driver, Job, command_line
from .methods import PANELS, last_step, method_options, net_options, shipped
from .rows import markdown, select

CODES = (10, 100, 1000)
REVERSE = {"learned": 1, "frozen": 0}
LAYERS = {"first": 0, "last": -1}  # those that are looked at
KERNELS = 512  # of a layer that are looked at


@torch.no_grad()
def gaps(prior, layer):
    """{gap_K: by how much the bound falls with K codes}, and the bound itself as `kl`: nats, means over the layer's first kernels."""
    q = layer.posterior()
    w, entropy = (prior.kernels(t)[:KERNELS] for t in (q.sample(), q.entropy()))
    elbo = torch.stack([prior.density.log_prob(w) for _ in range(20)]).mean()
    found = dict(kl=float(-entropy.flatten(1).sum(1).mean() - elbo))
    for codes in CODES:
        found[f"gap_{codes}"] = float(importance_bound(prior.density, w, codes).mean() - elbo)
    return found


@script(partial(train_bnn.parse_args, prog="watched_bnn.py"))
def main(args):
    """One training by train_bnn.py's options; the log has what was measured before it, every --eval_freq epochs, and after it."""
    train, _, net, layers, priors, opt = train_bnn.prepare(args)
    log = Logger(args.run_dir, echo=("epoch", *(f"{layer}_{what}" for layer in LAYERS for what in ("kl", "gap_1000"))))

    def objective(x, y):
        return train_bnn.negative_elbo(net, layers, priors, len(train.y), x, y)

    for epoch in range(args.epochs + 1):
        if epoch % args.eval_freq == 0 or epoch == args.epochs:
            with torch.random.fork_rng():  # the training's own draws stay what they would be
                found = {layer: gaps(priors[i], layers[i]) for layer, i in LAYERS.items()}
            row = {f"{layer}_{fact}": value for layer, facts in found.items() for fact, value in facts.items()}
            log.row(epoch=epoch, step=epoch * steps_per_epoch(len(train.y), args.bs), **row)
        if epoch < args.epochs:
            linear_lr(opt, epoch, args.epochs, args.lr)
            train_epoch(train, args.bs, opt, objective, epoch)
    save_state(net.state_dict(), args.run_dir / "model.torch")
    return args.run_dir


def measured(run_dir):
    """All that a training's log holds, with the step as x."""
    rows = read_rows(run_dir / "logs.csv")
    return [
        dict(metric=name, value=row[name], x=row["step"], steps=row["step"])
        for row in rows
        for name in row
        if name not in ("epoch", "step")
    ]


def add_arguments(parser):
    parser.add_argument("--num_examples", type=at_least(1), default=50, help="size of the training set")
    parser.add_argument("--splits", type=at_least(1), default=1, help="split seeds 0, 1, …")
    parser.add_argument("--epochs", type=at_least(1), default=600, help="passes over the training set, as in Fig. 2")
    parser.add_argument("--eval_freq", type=at_least(1), default=150, help="epochs between measurements")


def shared(args):
    return {args.panel: dict(num_examples=args.num_examples, epochs=args.epochs)}


def jobs(args):
    shared = net_options(args) | method_options("dwp", shipped("vae", PANELS[args.panel].layers))
    shared |= dict(num_examples=args.num_examples, eval_freq=args.eval_freq)
    for split in range(args.splits):
        for name, learned in REVERSE.items():
            argv = command_line(**shared, data_split_seed=split, train_reverse=learned)
            last = last_step(args.num_examples, args.epochs)
            yield Job(args.panel, name, str(last), split, argv, main, measured)


def table(rows):
    """By layer, reverse model and step: the bound and how far it falls, in nats per kernel, as Markdown."""
    lines, facts = [], ("kl", *(f"gap_{codes}" for codes in CODES))
    for name in REVERSE:
        for step in sorted({r["x"] for r in rows if r["method"] == name}):
            values = [select(rows, method=name, x=step, metric=f"{layer}_{fact}").mean() for layer in LAYERS for fact in facts]
            lines.append([name, step, *(f"{value:.2f}" for value in values)])
    heads = [f"{layer}: {what}" for layer in LAYERS for what in ("bound", *(f"less with {codes} codes" for codes in CODES))]
    return markdown(" | ".join(["reverse model", "step", *heads]), lines)


def plot(rows, file):
    """The gap by reverse model and number of codes, for the first and the last layer."""
    figure, axes = new_figure(9, 3.8, columns=2)
    for axis, layer in zip(axes, LAYERS):
        for (name, dash), (colour, codes) in itertools.product(zip(REVERSE, ("-", "--")), enumerate(CODES)):
            steps = sorted({r["x"] for r in rows if r["method"] == name})
            gap = [select(rows, method=name, x=step, metric=f"{layer}_gap_{codes}").mean() for step in steps]
            axis.plot(steps, gap, dash, color=f"C{colour}", marker="o", markersize=3, label=f"{codes} codes, r {name}")
        axis.set(title=f"{layer} layer", xlabel="step", ylabel="nats per kernel below the bound", ylim=(0, None))
        axis.legend(frameon=False, fontsize=7)
    save_figure(figure, file)


SMOKE = dict(panel="glyph-digits", num_examples=20, splits=1, epochs=1, eval_freq=1)
DRIVER = Driver("tightness", __doc__, add_arguments, SMOKE, shared, jobs, table, plot)

if __name__ == "__main__":
    run_cli(DRIVER.main)
