"""Every method's start, steps, rate and L2, chosen from one small grid on validation images, by accuracy and by NLL, for
experiments.fair.

    python -m experiments.tune --data_root DATA_ROOT --workers 2
"""

from typing import NamedTuple

from myexman import at_least
from utils import run_cli

from .fig2 import PANELS, net_options
from .grid import Driver
from .methods import method_job, method_options, name_of, shipped
from .rows import markdown, mean_std, select

SCHEDULES = ((600, 1e-3), (600, 3e-3), (1500, 1e-3))  # epochs and Adam's rate
L2 = (1e-4, 1e-3, 1e-2)  # for det-l2, in place of the schedules
TUNED = ("dwp", "loguniform", "vd", "sn", "det", "det-l2", "do", "gauss")  # a deep ensemble takes what is best for `det`


class Recipe(NamedTuple):
    """How a method is trained: where its kernels start, for how many epochs, at which rate, with which L2."""

    start: str
    epochs: int
    lr: float
    l2: float = 0.0

    def __str__(self):
        l2 = f", L2 {self.l2:g}" if self.l2 else ""
        return f"{self.start} start, {self.epochs} epochs, rate {self.lr:g}{l2}"

    def options(self, method, panel):
        """train_bnn's options for the net of that panel of Fig. 2."""
        l2 = dict(l2=self.l2) if self.l2 else {}
        layers = PANELS[panel].layers
        own = method_options(method, shipped("vae", layers), shipped("conv", layers), self.start)
        return own | dict(epochs=self.epochs, eval_freq=self.epochs, lr=self.lr) | l2


def recipes(method, quick=False):
    """The candidates; without its start the deep weight prior is another method (see experiments.ablations), so it keeps that.

    quick: two of them, of one epoch, for a smoke run."""
    starts = ("vae",) if method == "dwp" else ("vae", "xavier")
    if method == "det-l2":
        candidates = [Recipe(start, *SCHEDULES[0], l2) for start in starts for l2 in L2]
    else:
        candidates = [Recipe(start, *schedule) for start in starts for schedule in SCHEDULES]
    return [recipe._replace(epochs=1) for recipe in candidates[:2]] if quick else candidates


def add_arguments(parser):
    parser.add_argument("--panel", choices=["mnist", "cifar10"], default="mnist", help="data set")
    parser.add_argument("--num_examples", type=at_least(1), nargs="+", help="sizes of the training set (default: those of Fig. 2)")
    parser.add_argument("--splits", type=at_least(1), default=3, help="split seeds 0, 1, …")
    parser.add_argument("--methods", nargs="+", choices=TUNED, default=list(TUNED), help="what to tune")
    parser.set_defaults(epochs=0)  # the recipes have their own


def settings(args):
    return dict.fromkeys(PANELS, "on validation images")


def jobs(args):
    for n in args.num_examples or PANELS[args.panel].num_examples:
        for split in range(args.splits):
            for method in args.methods:
                for recipe in recipes(method, args.quick):
                    options = net_options(args) | recipe.options(method, args.panel)
                    options |= dict(validate=True, num_examples=n, data_split_seed=split)
                    yield method_job(args.panel, f"{method}, {recipe}", str(n), split, options)


def tried(rows, method, n, metric="acc"):
    """{Recipe: its values on validation images} among tune's rows of one panel; those of a deep ensemble are `det`'s."""
    method = "det" if method == "de" else method
    return {recipe: select(rows, method=f"{method}, {recipe}", x=n, metric=metric) for recipe in recipes(method)}


def best(rows, method, n):
    """{"accuracy": Recipe, "NLL": Recipe}: those of highest mean accuracy and of lowest mean NLL on validation images among tune's rows
    of one panel.

    Raises ValueError unless all recipes ran, on as many splits."""
    found = tried(rows, method, n)
    if len({len(acc) for acc in found.values()}) > 1 or not all(len(acc) for acc in found.values()):
        raise ValueError(f"validation runs of {method} at n = {n} are missing: python -m experiments.tune makes them")
    nll = tried(rows, method, n, "nll")
    return {"accuracy": max(found, key=lambda recipe: found[recipe].mean()), "NLL": min(nll, key=lambda recipe: nll[recipe].mean())}


def table(rows):
    """What was tried, by method, the highest mean accuracy and the lowest mean NLL in bold, as Markdown."""

    def bold(values, others, choose):
        mark = "**" if values.mean() == choose(other.mean() for other in others) else ""
        return f"{mark}{mean_std(values)}{mark}"

    lines = []
    for n in sorted({r["x"] for r in rows}):
        for method in TUNED:
            words = dict.fromkeys(r["method"] for r in rows if r["x"] == n and r["method"].startswith(f"{method}, "))
            accuracy, nll = ({word: select(rows, x=n, method=word, metric=metric) for word in words} for metric in ("acc", "nll"))
            for word in words:
                cells = bold(accuracy[word], accuracy.values(), max), bold(nll[word], nll.values(), min)
                lines.append([n, name_of(method), word.partition(", ")[2], *cells, len(accuracy[word])])
    return markdown("n | method | how | validation accuracy | NLL, nats | splits", lines)


DRIVER = Driver("tune", __doc__, add_arguments, dict(panel="glyph-digits", splits=1, methods=["det"]), settings, jobs, table, by_panel=True)

if __name__ == "__main__":
    run_cli(DRIVER.main)
