"""How far the auxiliary bound is from the KL divergence that it stands for, along a training, and how noisy its gradient is.

    python -m experiments.tightness --data_root DATA_ROOT --workers 2

The bound of eq. 7 lies above KL(q || p) by E_q KL(r(z|w) || p(z|w)). The importance-weighted bound, with K codes of a w instead of one,
falls towards KL(q || p) as K grows; its fall at K = 1000 is the estimate of the gap here. The reverse model is learned with the posterior,
as in Algorithm 1, or stays the VAE's encoder.

Of the gradient with respect to the means of the last layer's kernels: its expectation; the standard deviation of an estimate from one
draw of w and z, and from a mirrored pair of draws (KernelPrior.cross_entropy); and how far its expectation moves in 16 steps of the means,
under one reverse model, which is how old a memory of gradients would be. Each is a root mean square over the weights of a kernel; the
median over kernels is shown, for a few kernels have nearly all of the noise.
"""

from collections import deque
from functools import partial

import torch

import train_bnn
from models.pictures import new_figure, save_figure
from models.screen import importance_bound
from myexman import Logger, at_least, save_state, script
from myexman.logger import read_rows
from utils import linear_lr, run_cli, steps_per_epoch, train_epoch

from .fig2 import PANELS, last_step, net_options
from .grid import Driver, Job, command_line
from .methods import method_options, shipped
from .rows import markdown, select

CODES = (10, 100, 1000)
REVERSE = {"learned": 1, "frozen": 0}
LAG = 16  # steps
FACTS = {
    "signal": "gradient's expectation",
    "noise_1": "noise of one draw",
    "noise_2": "of a mirrored pair",
    f"moved_{LAG}": f"moved in {LAG} steps",
}
LAYERS = ("first", "last")  # those that are looked at
KERNELS, DRAWS = 512, 16  # kernels of a layer that are looked at; draws of their gradient


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


def draws_of_gradient(prior, mean, scale, pair=False):
    """DRAWS gradients of the cross-entropy with respect to the means of kernels, from one draw of w each, or from a mirrored pair:
    (n, 1, k, k) -> (DRAWS, n, k^2)."""
    mean, former, prior.samples = mean.clone().requires_grad_(), prior.samples, 1 + pair
    gradients = [torch.autograd.grad(prior.cross_entropy(mean, scale), mean)[0].flatten(1) for _ in range(DRAWS)]
    prior.samples = former
    return torch.stack(gradients)


def over_kernels(squares):
    """Squares by kernel and weight, (n, k^2), as one number: the root of a kernel's mean, the median over kernels."""
    return float(squares.mean(1).median().clamp_min(0).sqrt())


def noise(draws):
    """Standard deviation of draws (D, n, k^2)."""
    return over_kernels(draws.var(0))


def size(draws, others=None):
    """Size of the expectation of draws, or of its distance from that of others; what their noise adds to its square is taken off."""
    mean, excess = draws.mean(0), draws.var(0) / len(draws)
    if others is not None:
        mean, excess = mean - others.mean(0), excess + others.var(0) / len(others)
    return over_kernels(mean.square() - excess)


def gradient_facts(prior, history):
    """What FACTS names.  history: means and scales of kernels after each of the last LAG steps, and before."""
    now, moved = draws_of_gradient(prior, *history[-1]), draws_of_gradient(prior, *history[0])
    pairs = draws_of_gradient(prior, *history[-1], pair=True)
    return dict(signal=size(now), noise_1=noise(now), noise_2=noise(pairs), **{f"moved_{LAG}": size(now, moved)})


@script(partial(train_bnn.parse_args, prog="watched_bnn.py"))
def main(args):
    """One training by train_bnn.py's options; the log has what was measured before it, every --eval_freq epochs, and after it."""
    train, _, net, layers, priors, opt = train_bnn.prepare(args)
    log = Logger(args.run_dir, echo=("epoch", *(f"{layer}_{what}" for layer in LAYERS for what in ("kl", "gap_1000"))))
    history = deque(maxlen=LAG + 1)

    def remember():
        q = layers[-1].posterior()
        history.append([priors[-1].kernels(t)[:KERNELS].detach().clone() for t in (q.loc, q.scale)])

    def objective(x, y):
        remember()
        return train_bnn.negative_elbo(net, layers, priors, len(train.y), x, y)

    for epoch in range(args.epochs + 1):
        if epoch % args.eval_freq == 0 or epoch == args.epochs:
            with torch.random.fork_rng():  # the training's own draws stay what they would be
                remember()
                while len(history) < history.maxlen:  # before the first step nothing had moved
                    history.appendleft(history[0])
                row = {f"first_{fact}": value for fact, value in gaps(priors[0], layers[0]).items()}
                row |= {f"last_{fact}": value for fact, value in gaps(priors[-1], layers[-1]).items()}
                log.row(epoch=epoch, step=epoch * steps_per_epoch(len(train.y), args.bs), **row, **gradient_facts(priors[-1], history))
                history.pop()
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
    axes[2].set(title="gradient of the last layer's means", xlabel="step", ylabel="median over kernels, nats per unit of w")
    for axis in axes:
        axis.legend(frameon=False, fontsize=7)
    save_figure(figure, file)


SMOKE = dict(panel="glyph-digits", num_examples=20, splits=1, epochs=1, eval_freq=1)
DRIVER = Driver("tightness", __doc__, add_arguments, SMOKE, shared, jobs, table, plot)

if __name__ == "__main__":
    run_cli(DRIVER.main)
