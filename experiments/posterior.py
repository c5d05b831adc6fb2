"""What the posterior is: the terms of the objective, the posterior's variances and its predictions against the step, for several rates
of the log-variances.

    python -m experiments.posterior --data_root DATA_ROOT --workers 2
    python -m experiments.posterior --validate --data_root DATA_ROOT --workers 2        # which rate to take

Adam moves a weight by its rate in a step. In the paper's schedule the rates sum up to 5, so a log-variance that begins at -10 ends at -5
at most, wherever the objective's optimum is. --var_lr lets it go further.
"""

from functools import partial

import numpy as np

from models.pictures import new_figure, save_figure
from myexman import at_least
from utils import run_cli

from .grid import Driver
from .methods import KL_SUMS, PANELS, every_row, last_step, method_job, method_options, name_of, net_options, shipped
from .rows import interval, markdown, mean_std, select, unpack

FACTORS = (1, 10, 50)
CHOICES = ("sn", *KL_SUMS)
SHOWN = ("kl", "data", "logvar_05", "logvar_50", "logvar_95", "acc", "nll", "ece")  # metrics, against the step
LR, LOGVARINIT = 1e-3, -10.0  # train_bnn's defaults, which the jobs leave as they are
# The KL term alone, minimised, of a layer's kernels: 32 of the first, 64 of the second, beside a layer whose prior q can meet
FLOORS = {"7x7": (["vae", "sn"], 32), "5x5": (["sn", "vae"], 64)}


def both_terms(n, run_dir):
    """every_row(), and the data term of n images, nats."""
    rows = every_row(run_dir)
    return rows + [row | dict(metric="data", value=n * row["value"]) for row in rows if row["metric"] == "train_nll"]


def add_arguments(parser):
    parser.add_argument("--num_examples", type=at_least(1), default=50, help="size of the training set")
    parser.add_argument("--splits", type=at_least(1), default=3, help="split seeds 0, 1, …")
    parser.add_argument("--epochs", type=at_least(1), default=1000, help="passes over the training set")
    parser.add_argument("--eval_freq", type=at_least(1), default=200, help="epochs between evaluations")
    parser.add_argument("--methods", nargs="+", choices=CHOICES, default=["sn", "dwp"], help="priors")
    parser.add_argument("--factors", nargs="+", type=int, default=FACTORS, help="factors on the learning rate of the log-variances")
    parser.add_argument("--validate", action="store_true", help="evaluate on validation images, to choose a factor")


def shared(args):
    return {args.panel: dict(num_examples=args.num_examples, epochs=args.epochs)}


def jobs(args):
    vaes = shipped("vae", PANELS[args.panel].layers)
    net = net_options(args) | dict(num_examples=args.num_examples, eval_freq=args.eval_freq, validate=args.validate)
    for split in range(args.splits):
        for factor in args.factors:
            for method in args.methods:
                options = net | method_options(method, vaes) | dict(data_split_seed=split, var_lr=factor)
                job = method_job(args.panel, method, str(last_step(args.num_examples, args.epochs)), split, options)
                yield job._replace(measure=partial(both_terms, args.num_examples), options=dict(var_lr=factor, validate=args.validate))
    for layer, (priors, n) in FLOORS.items() if not args.validate and {"dwp", "dwp-256"} & {*args.methods} else ():
        steps = args.epochs if args.quick else 3000
        options = net | method_options("dwp", vaes) | dict(prior_list=priors, hid_dim=(32, 2), epochs=steps, eval_freq=steps, ens=0)
        options |= dict(kl_scale=1e6, var_lr=10)  # beside which the data term is nothing
        job = method_job(args.panel, "dwp", str(last_step(args.num_examples, steps)), 0, options)
        yield job._replace(measure=every_row, options=dict(kl_alone=layer, kernels=n))


def floor(rows):
    """The KL term of the deep weight prior, minimised alone, of all kernels of Fig. 2's net in nats, or None if it has not run."""
    last = max((r["x"] for r in rows if "kl_alone" in r["options"]), default=None)
    per_kernel = {layer: select(alone(rows, layer), x=last, metric="kl") / n for layer, (_, n) in FLOORS.items()}
    if not all(map(len, per_kernel.values())):
        return None
    first, second = PANELS["mnist"].hid_dim
    return float(first * per_kernel["7x7"].mean() + first * second * per_kernel["5x5"].mean())


def alone(rows, layer):
    return [r for r in rows if unpack(r["options"]).get("kl_alone") == layer]


def by_factor(rows, method, validate=False):
    """{factor: rows of that method on test images, or on validation images}, in order."""
    found = {}
    for row in (r for r in rows if r["method"] == method):
        options = unpack(row["options"])
        if "var_lr" in options and options.get("validate", False) == validate:
            found.setdefault(int(options["var_lr"]), []).append(row)
    return dict(sorted(found.items()))


def table_line(method, factor, own):
    last = max(r["x"] for r in own)
    values = {metric: select(own, x=last, metric=metric) for metric in {r["metric"] for r in own}}
    variances = " to ".join(f"{values[f'logvar_{share}'].mean():.1f}" for share in ("05", "95"))
    terms = [mean_std(values["data"], 1), mean_std(values["kl"], 0), variances]
    found = [interval(values[metric], sign="") for metric in ("acc", "nll", "ece")]
    return [name_of(method), factor, last, *terms, *found, len(values["acc"])]


def table(rows):
    """By prior and factor, at the last step: the objective's terms in nats, quantiles of log sigma^2, and predictions on test images, then
    on validation images, as Markdown."""
    heads = "prior | factor | steps | data term | KL term | log σ², 5 % to 95 % | accuracy | NLL, nats | ECE | splits"
    lowest = floor(rows)
    lines = [
        [table_line(method, factor, own) for method in CHOICES for factor, own in by_factor(rows, method, validate).items()]
        for validate in (False, True)
    ]
    parts = [markdown(heads, lines[0])] if lines[0] else []
    parts += ["On validation images:", markdown(heads, lines[1])] if lines[1] else []
    parts += [f"The deep weight prior's KL term alone, minimised: {lowest:.0f} nats; that of N(0, 1): 0."] if lowest else []
    return "\n\n".join(parts)


def walk(step, epochs, factor):
    """log sigma^2 after so many of `epochs` steps if each goes up by its whole rate, which falls linearly to 0; at most the prior's 0."""
    return np.minimum(LOGVARINIT + factor * LR * step * (1 - step / (2 * epochs)), 0)


def plot(rows, file):
    """A row of panels per prior: the objective's terms, log sigma^2, accuracy, NLL and ECE on test images, a colour per factor."""
    validate = not any(by_factor(rows, method) for method in CHOICES)  # if there is nothing else
    found = {method: factors for method in CHOICES if (factors := by_factor(rows, method, validate))}
    figure, axes = new_figure(17, 3.4 * len(found), columns=5, rows=len(found), squeeze=False)
    colours = {factor: f"C{i}" for i, factor in enumerate(sorted({factor for factors in found.values() for factor in factors}))}
    for line, (method, factors) in zip(axes, found.items()):
        for factor, own in factors.items():
            steps = np.array(sorted({r["x"] for r in own}))
            mean = {metric: np.array([select(own, x=x, metric=metric).mean() for x in steps]) for metric in SHOWN}
            label, style = f"rate times {factor}", dict(color=colours[factor])
            line[0].plot(steps, mean["kl"], label=f"KL, {label}", **style)
            line[0].plot(steps, mean["data"], linestyle=":", label=f"data, {label}", **style)
            line[1].fill_between(steps, mean["logvar_05"], mean["logvar_95"], alpha=0.25, linewidth=0, **style)
            line[1].plot(steps, mean["logvar_50"], label=f"median, {label}", **style)
            every = np.linspace(0, steps[-1])
            line[1].plot(every, walk(every, steps[-1], factor), color="0.4", linestyle="--", linewidth=0.8)
            for axis, metric in zip(line[2:], ("acc", "nll", "ece")):
                axis.plot(steps, mean[metric], label=label, marker="o", markersize=3, **style)
        lowest = floor(rows) if method in KL_SUMS else None
        if lowest:
            line[0].axhline(lowest, color="0.4", linestyle="--", linewidth=0.8, label="KL alone, minimised")
        line[0].set(yscale="symlog", ylim=(0, None), ylabel=f"{name_of(method)}\nnats", title="terms of the objective")
        line[1].set(title="log σ²: 5 to 95 % of the weights; dashed: the sum of the rates", ylim=(-10.5, 1))
        line[1].title.set_fontsize(9)
        for axis, title in zip(line[2:], ("accuracy", "NLL, nats", "ECE")):
            axis.set(title=title)
        for axis in line:
            axis.set(xlabel="step")
        line[0].legend(frameon=False, fontsize=6)
        line[2].legend(frameon=False, fontsize=7)
    save_figure(figure, file)


SMOKE = dict(panel="glyph-digits", num_examples=20, splits=1, epochs=2, eval_freq=1, factors=[1, 10])
DRIVER = Driver("posterior", __doc__, add_arguments, SMOKE, shared, jobs, table, plot, varied=("var_lr", "validate", "kl_alone", "kernels"))

if __name__ == "__main__":
    run_cli(DRIVER.main)
