"""How far the auxiliary bound is from the KL divergence that it stands for, along a training, and how noisy its gradient is.

    python -m experiments.tightness --data_root DATA_ROOT --workers 2

The bound of eq. 7 is above KL(q || p) by E_q KL(r(z|w) || p(z|w)). With K codes of a w instead of one, importance-weighted, it falls
towards it; with 1000 it stands for it here. The reverse model is learned with the posterior, as in Algorithm 1, or stays the VAE's encoder.

Of the gradient with respect to the means of the last layer under the prior, root mean squares over weights: its expectation, the
standard deviation of an estimate from one draw of w and z and from two, the second the mirror image of the first
(KernelPrior.cross_entropy), and how far its expectation moves in 4 and in 16 steps, by which --kl_memory's gradients are out of date.
"""

from collections import deque

import torch

from models.pictures import new_figure, save_figure
from myexman import Logger, script
from myexman.logger import read_rows
from train_bnn import negative_elbo, parse_args, prepare
from utils import linear_lr, run_cli, train_epoch

from .fig2 import PANELS, net_options
from .grid import Driver, Job, command_line, markdown, method_options, select, shipped

CODES = (10, 100, 1000)
REVERSE = {"learned": 1, "frozen": 0}
LAGS = (4, 16)
FACTS = {
    "signal": "gradient's expectation",
    "noise_1": "noise of one draw",
    "noise_2": "of a pair",
    "stale_4": "moved in 4 steps",
    "stale_16": "in 16",
}
LAYERS = ("first", "last")  # those that are looked at
KERNELS, DRAWS = 512, 12  # kernels of a layer that are looked at; draws of their gradient


@torch.no_grad()
def gaps(prior, layer):
    """{K: by how much the bound falls, in nats per kernel, with K codes}, and the bound itself as `kl`, means over KERNELS kernels."""
    q = layer.posterior()
    w = prior.kernels(q.sample())[:KERNELS]
    elbo = torch.stack([prior.density.log_prob(w) for _ in range(20)]).mean()
    entropy = q.entropy().sum() * w[0].numel() / q.loc.numel()
    found = dict(kl=float(-entropy - elbo))
    for codes in CODES:
        bounds = [prior.density.importance_bound(part, codes) for part in w.split(max(2000 // codes, 1))]
        found[f"gap_{codes}"] = float(torch.cat(bounds).mean() - elbo)
    return found


def draws_of_gradient(prior, mean, scale, samples=1):
    """DRAWS gradients of the cross-entropy with respect to the means of kernels, each an average over `samples` draws of w:
    (n, 1, k, k) -> (DRAWS, n, 1, k, k)."""
    mean, former, prior.samples = mean.clone().requires_grad_(), prior.samples, samples
    gradients = [torch.autograd.grad(prior.cross_entropy(mean, scale), mean)[0] for _ in range(DRAWS)]
    prior.samples = former
    return torch.stack(gradients)


def noise(gradients):
    """Standard deviation of draws, root mean square over weights."""
    return float(gradients.var(0).mean().sqrt())


def rms(gradients, others=None):
    """Root mean square over weights of the expectation of draws, or of its distance from that of others, less what noise adds to it."""
    mean, excess = gradients.mean(0), gradients.var(0).mean() / DRAWS
    if others is not None:
        mean, excess = mean - others.mean(0), excess + others.var(0).mean() / DRAWS
    return float((mean.square().mean() - excess).clamp_min(0).sqrt())


def gradient_facts(prior, history):
    """What the module's docstring names of the gradient.  history: means and scales of kernels after the last steps, the present last."""
    draws = draws_of_gradient(prior, *history[-1])
    facts = dict(signal=rms(draws), noise_1=noise(draws), noise_2=noise(draws_of_gradient(prior, *history[-1], samples=2)))
    return facts | {f"stale_{lag}": rms(draws, draws_of_gradient(prior, *history[-1 - lag])) for lag in LAGS}


@script(parse_args)
def main(args):
    """One training by train_bnn.py's options; the log has what was measured before it and every --eval_freq epochs."""
    train, _, net, layers, priors, opt = prepare(args)
    watched = dict(zip(LAYERS, ((priors[0], layers[0]), (priors[-1], layers[-1]))))
    log = Logger(args.run_dir, echo=("step", *(f"{name}_{what}" for name in LAYERS for what in ("kl", "gap_1000"))))
    history = deque(maxlen=max(LAGS) + 1)

    def objective(x, y):
        return negative_elbo(net, layers, priors, len(train.y), x, y)

    for epoch in range(args.epochs + 1):
        q = layers[-1].posterior()
        now = [priors[-1].kernels(t)[:KERNELS].detach().clone() for t in (q.loc, q.scale)]
        history.extend([now] * (1 if history else max(LAGS) + 1))  # before the first step nothing had moved
        if epoch % args.eval_freq == 0:
            row = {f"{name}_{fact}": value for name, pair in watched.items() for fact, value in gaps(*pair).items()}
            log.row(step=epoch * -(-len(train.y) // args.bs), **row, **gradient_facts(priors[-1], history))
        if epoch < args.epochs:
            linear_lr(opt, epoch, args.epochs, args.lr)
            train_epoch(train, args.bs, opt, objective, epoch)
    return args.run_dir


def measured(run_dir):
    """All that a training's log holds, with the step as x."""
    rows = [(row.pop("step"), row) for row in read_rows(run_dir / "logs.csv")]
    return [dict(metric=name, value=value, x=step, steps=step) for step, row in rows for name, value in row.items()]


def add_arguments(parser):
    parser.add_argument("--num_examples", type=int, default=50, help="size of the training set")
    parser.add_argument("--splits", type=int, default=1, help="split seeds 0, 1, …")
    parser.add_argument("--epochs", type=int, default=600, help="passes over the training set, as in Fig. 2")
    parser.add_argument("--eval_freq", type=int, default=100, help="epochs between measurements")


def settings(args):
    return {args.panel: f"reduced: n = {args.num_examples}, {args.epochs} epochs, full KL sum"}


def jobs(args):
    shared = net_options(args) | method_options("dwp", shipped("vae", PANELS[args.panel].layers))
    shared |= dict(num_examples=args.num_examples, eval_freq=args.eval_freq)
    for split in range(args.splits):
        for name, learned in REVERSE.items():
            argv = command_line(**shared, data_split_seed=split, train_reverse=learned)
            yield Job(args.panel, name, str(args.epochs), split, argv, main, measured)


def table(rows):
    """By layer, reverse model and step: the bound and how far it falls, in nats per kernel; then the gradient's facts, as Markdown."""
    bounds, gradients = [], []
    for name in REVERSE:
        for step in sorted({r["x"] for r in rows}):
            found = {metric: select(rows, method=name, x=step, metric=metric) for metric in {r["metric"] for r in rows}}
            values = {metric: value.mean() for metric, value in found.items() if len(value)}
            if values:
                facts = ("kl", *(f"gap_{codes}" for codes in CODES))
                bounds += [[name, step, *(f"{values[f'{layer}_{fact}']:.2f}" for layer in LAYERS for fact in facts)]]
                gradients += [[name, step, *(f"{values[fact]:.1f}" for fact in FACTS)]]
    heads = [f"{layer}: {what}" for layer in LAYERS for what in ("bound", *(f"less with {codes} codes" for codes in CODES))]
    first = markdown(" | ".join(["reverse model", "step", *heads]), bounds)
    return f"{first}\n\n{markdown(' | '.join(['reverse model', 'step', *FACTS.values()]), gradients)}"


def plot(rows, file):
    """The gap by reverse model and number of codes for the first and the last layer, and the gradient's noise and age."""
    figure, axes = new_figure(13, 3.8, columns=3)

    def line(axis, name, metric, **style):
        steps = sorted({r["x"] for r in rows if r["method"] == name})
        axis.plot(steps, [select(rows, method=name, x=step, metric=metric).mean() for step in steps], marker="o", markersize=3, **style)

    for axis, layer in zip(axes, LAYERS):
        for colour, codes in enumerate(CODES):
            for name, dash in zip(REVERSE, ("-", "--")):
                line(axis, name, f"{layer}_gap_{codes}", color=f"C{colour}", linestyle=dash, label=f"{codes} codes, r {name}")
        axis.set(title=f"{layer} layer", xlabel="step", ylabel="nats per kernel below the bound", ylim=(0, None))
    for colour, (fact, label) in enumerate(FACTS.items()):
        line(axes[2], "learned", fact, color=f"C{colour}", label=label)
    axes[2].set(title="gradient of the last layer's means", xlabel="step", ylabel="root mean square, nats per unit", yscale="log")
    for axis in axes:
        axis.legend(frameon=False, fontsize=7)
    save_figure(figure, file)


SMOKE = dict(panel="glyph-digits", num_examples=20, splits=1, epochs=1, eval_freq=2)
DRIVER = Driver("tightness", __doc__, add_arguments, SMOKE, settings, jobs, table, plot)

if __name__ == "__main__":
    run_cli(DRIVER.main)
