"""Whether Bayesian nets know what they do not know: ensembles, calibration, unfamiliar images, rotated digits (slides).

    python -m experiments.uncertainty --data_root DATA_ROOT --workers 2

Every method trains the net of Fig. 2 on 200 digits. Measured on test images: NLL and accuracy against the number of ensemble
members, a reliability diagram, the predictive entropy on digits and on letters (notMNIST) with the AUROC of telling them apart by
it, and the class probabilities of a digit while it is turned, means over all its test images.
"""

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from scipy import stats

from data import load_dataset
from models.bayes import is_stochastic
from models.pictures import new_figure, save_figure
from myexman import at_least
from utils import ensemble_average, load_run, mc_ensemble, metrics, predict, run_cli

from .deep_ensemble import ensemble_file
from .grid import Driver
from .methods import colour_of, curve, last_row, method_job, method_options, name_of, net_options, shipped
from .rows import interval, markdown, mean_std, paired_differences, select

CHOICES = ("dwp", "loguniform", "ard", "gamma", "student", "sn", "do", "de", "det")
MEMBERS = (1, 2, 5, 10, 20)  # of a deep ensemble up to its five, of a deterministic net one
BINS = 10  # of the reliability diagram
SHOWN = 1e-3  # share of the images that a bin must have to be drawn
ENTROPIES = np.linspace(0, np.log(10), 24)  # edges of the histogram's bins, nats
ANGLES = range(0, 181, 15)
DIGIT = 3  # the class whose test images are turned


def add_arguments(parser):
    parser.add_argument("--methods", nargs="+", choices=CHOICES, default=CHOICES, help="what to run")
    parser.add_argument("--num_examples", type=at_least(1), default=200, help="training images")
    parser.add_argument("--splits", type=at_least(1), default=1, help="split seeds 0, 1, …")
    parser.add_argument("--epochs", type=at_least(1), default=600, help="passes over them, as in Fig. 2")


def shared(args):
    return {args.panel: dict(num_examples=args.num_examples, epochs=args.epochs)}


def jobs(args):
    strange = "glyph-letters" if args.quick else "not-mnist"
    load_dataset(strange, args.data_root)  # or its absence would show only after the first run
    shared = net_options(args) | dict(num_examples=args.num_examples)
    for split in range(args.splits):
        for method in args.methods:
            options = shared | method_options(method, shipped("vae")) | dict(data_split_seed=split)
            yield method_job(args.panel, method, "", split, options)._replace(measure=partial(measure, strange=strange))


def members_of(nets, x):
    """Log-probabilities of MEMBERS[-1] nets drawn from the posterior of the one net, or of each of the deterministic nets, as a list."""
    return mc_ensemble(nets[0], x, MEMBERS[-1]) if is_stochastic(nets[0]) else [predict(net, x) for net in nets]


def entropy(log_probs):
    """Predictive entropy, nats: (N, classes) -> (N,)."""
    return -(log_probs.exp() * log_probs).sum(1)


def rotate(images, angle):
    """Images (n, 1, H, W) turned counter-clockwise by an angle, degrees."""
    turn = torch.deg2rad(torch.tensor(float(angle), device=images.device))
    zero = torch.zeros_like(turn)
    theta = torch.stack([turn.cos(), -turn.sin(), zero, turn.sin(), turn.cos(), zero]).view(1, 2, 3).expand(len(images), -1, -1)
    return F.grid_sample(images, F.affine_grid(theta, images.shape, align_corners=False), align_corners=False)


def reliability(log_probs, y):
    """Mean confidence, accuracy and share of the images in each of BINS equal bins of confidence; bins without images are left out."""
    confidence, guess = log_probs.exp().max(1)
    bins = (confidence * BINS).long().clamp_max(BINS - 1)
    for b in bins.unique().tolist():
        yield b, confidence[bins == b].mean().item(), (guess == y)[bins == b].float().mean().item(), (bins == b).float().mean().item()


def auroc(inside, outside):
    """Probability that an image from outside has the higher score of the two (Mann-Whitney)."""
    return stats.mannwhitneyu(outside, inside).statistic / (len(inside) * len(outside))


def measure(run_dir, strange):
    """Tidy rows of everything above; x is the number of members, the bin, the bin's centre, or the angle."""
    runs = [load_run(run_dir.parent / name) for name in ensemble_file(run_dir)["runs"]]
    nets, (*_, test) = [net for net, *_ in runs], runs[-1]
    _, other = load_dataset(strange, yaml.safe_load((run_dir / "params.yaml").read_text())["data_root"])
    rows = last_row(run_dir)
    steps = rows[0]["steps"]

    def add(metric, value, x):
        rows.append(dict(metric=metric, value=float(value), steps=steps, x=x))

    members = members_of(nets, test.x)
    for k in (k for k in MEMBERS if k <= len(members)):
        for metric, value in metrics(ensemble_average(members[:k]), test.y).items():
            add(f"members_{metric}", value, k)
    average = ensemble_average(members)
    for b, confidence, accuracy, share in reliability(average, test.y):
        for metric, value in (("confidence", confidence), ("accuracy", accuracy), ("share", share)):
            add(f"bin_{metric}", value, b)
    inside, outside = entropy(average).cpu().numpy(), entropy(ensemble_average(members_of(nets, other.x.to(test.x.device)))).cpu().numpy()
    add("auroc", auroc(inside, outside), "")
    for metric, values in (("entropy_in", inside), ("entropy_out", outside)):
        for left, right, count in zip(ENTROPIES, ENTROPIES[1:], np.histogram(values, ENTROPIES)[0]):
            add(metric, count / len(values), round((left + right) / 2, 4))
    for angle in ANGLES:
        turned = rotate(test.x[test.y == DIGIT], angle)
        for c, p in enumerate(ensemble_average(members_of(nets, turned)).exp().mean(0).tolist()):
            add(f"turned_p({c})", p, angle)
    return rows


def table(rows):
    """One net against the average of the largest ensemble, calibration and AUROC; differences to the deep weight prior, as Markdown."""
    lines = []
    for method in CHOICES:
        own = [r for r in rows if r["method"] == method]
        if own:
            k = max(r["x"] for r in own if r["metric"] == "members_nll")
            nll, ece = ([select(own, metric=f"mean_{name}"), select(own, metric=f"members_{name}", x=k)] for name in ("nll", "ece"))
            brier, separation = select(own, metric="members_brier", x=k), select(own, metric="auroc")
            cells = map(mean_std, (*nll, *ece, brier, separation))
            gaps = [paired_differences(rows, method, "dwp", metric=m, x=x) for m, x in (("members_nll", k), ("auroc", ""))]
            lines.append([name_of(method), k, *cells, *(interval(gap) if method != "dwp" else "–" for gap in gaps), len(separation)])
    heads = "method | members | NLL: one net (the mean, if Bayesian) | average | ECE: one net | average | Brier of the average | its AUROC"
    return markdown(f"{heads} | NLL less the deep weight prior's of as many members | AUROC less its | splits", lines)


def points(rows, method, metric):
    """x and the mean value over splits of a metric, sorted by x."""
    xs = sorted({float(r["x"]) for r in rows if (r["method"], r["metric"]) == (method, metric)})
    return xs, [select([r for r in rows if r["x"] != "" and float(r["x"]) == x], method=method, metric=metric).mean() for x in xs]


def plot(rows, file):
    figure, axes = new_figure(13, 7.5, columns=3, rows=2)
    (nll, acc, calibration), (strange, *turned) = axes
    shown = [m for m in CHOICES if any(r["method"] == m for r in rows)]
    for method in shown:
        curve(nll, rows, method, "members_nll")
        curve(acc, rows, method, "members_acc")
        confidence, accuracy, share = (np.array(points(rows, method, f"bin_{metric}")[1]) for metric in ("confidence", "accuracy", "share"))
        full = share >= SHOWN
        calibration.plot(confidence[full], accuracy[full], "o-", color=colour_of(method))
    nll.set(xlabel="ensemble members", ylabel="test NLL, nats per image", xscale="log")
    acc.set(xlabel="ensemble members", ylabel="test accuracy", xscale="log")
    for axis in (nll, acc):
        axis.set_xticks(MEMBERS, map(str, MEMBERS))
        axis.minorticks_off()
    figure.legend(*nll.get_legend_handles_labels(), loc="outside lower center", ncols=len(shown), frameon=False, fontsize=8)
    calibration.plot([0, 1], [0, 1], color="0.75", zorder=0)
    calibration.set(xlabel="confidence", ylabel="accuracy", title="reliability of the ensemble")
    pair = [m for m in ("dwp", "det") if m in shown]
    for method in pair:
        for metric, style, where in (("entropy_in", "-", "digits"), ("entropy_out", "--", "letters")):
            label = f"{name_of(method)}, {where}"
            strange.plot(*points(rows, method, metric), style, color=colour_of(method), label=label, drawstyle="steps-mid")
    strange.set(xlabel="predictive entropy, nats", ylabel="share of images", title="digits and letters")
    strange.legend(frameon=False, fontsize=8)
    for axis, method in zip(turned, pair):
        for c in range(10):
            angles, probs = points(rows, method, f"turned_p({c})")
            label = str(c) if max(probs) > 0.2 else None
            axis.plot(angles, probs, marker="osv^D*xP+h"[c], color=f"C{c}" if label else "0.8", label=label, zorder=2 if label else 1)
        axis.set(
            xlabel="rotation, degrees",
            ylabel="probability of the class",
            title=f"turned {DIGIT}s: {name_of(method)}",
            ylim=(-0.02, 1.35),  # the legend is above the lines
            yticks=(0, 0.5, 1),
        )
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False, fontsize=8, title="class", ncols=5, loc="upper center")
    figure.suptitle(f"Uncertainty, {rows[0]['panel']}; {DRIVER.title(rows)}", fontsize=10)
    save_figure(figure, file)


DRIVER = Driver(
    "uncertainty",
    __doc__,
    add_arguments,
    dict(panel="glyph-digits", num_examples=20, epochs=2, methods=["dwp", "de", "det"]),
    shared,
    jobs,
    table,
    plot,
)

if __name__ == "__main__":
    run_cli(DRIVER.main)
