"""Fig. 2's methods, each at its own best: start, steps, rate and L2 from one small grid, chosen on validation images, over the splits, by
accuracy and by NLL; then the nets of both choices on test images.

    python -m experiments.tune --data_root DATA_ROOT --workers 2
    python -m experiments.tune --panel cifar10 --num_examples 200 --methods dwp-256 sn det --splits 1 --test_splits 3 --workers 2

Beside the paper's methods stand L2, kernels that are never trained, MC dropout, a deep ensemble, which takes what is best for a single net,
and a Gaussian over kernels as a prior. The deep weight prior keeps its start: without it, it is another method (experiments.ablations). On
CIFAR-10, where every method is overconfident after 600 steps, the grid is of 25 to 600 steps, at one rate.
"""

import itertools
from typing import NamedTuple

from myexman import at_least
from utils import run_cli

from .comparison import comparison_table
from .grid import Driver, folders
from .methods import KL_SUMS, PANELS, method_job, method_options, name_of, net_options, shipped
from .rows import markdown, mean_std, pack, select, sentence, tidy_rows, unpack

USUAL = (600, 1e-3)  # epochs and Adam's rate
GRIDS = {"mnist": (USUAL, (600, 3e-3), (1500, 1e-3)), "cifar10": (*((epochs, 1e-3) for epochs in (25, 50, 100, 200)), USUAL)}
L2 = (1e-4, 1e-3, 1e-2)  # for det-l2, in place of the schedules
TUNED = (*KL_SUMS, "loguniform", "vd", "sn", "det", "det-l2", "frozen", "do", "gauss")
CHOICES = (*TUNED, "de")


class Recipe(NamedTuple):
    """How a method is trained, by train_bnn's flags: the first kernels of all convolutions, passes, rate, L2."""

    init_list: str
    epochs: int
    lr: float
    l2: float = 0.0

    def options(self, validate=False):
        """What rows say of it."""
        return self._asdict() | dict(l2=self.l2 or "", validate=validate)

    def words(self, validate=False):
        return pack(self.options(validate))


def recipes(method, panel, quick=False):
    """The candidates.  quick: two of them, of one epoch, for a smoke run."""
    starts = ("vae",) if method in KL_SUMS else ("vae", "xavier")
    grid = [(*USUAL, l2) for l2 in L2] if method == "det-l2" else GRIDS.get(panel, GRIDS["mnist"])
    candidates = [Recipe(start, *point) for start in starts for point in grid]
    return [recipe._replace(epochs=1) for recipe in candidates[:2]] if quick else candidates


def add_arguments(parser):
    parser.add_argument("--panel", choices=["mnist", "cifar10"], default="mnist", help="data set")
    parser.add_argument("--num_examples", type=at_least(1), nargs="+", default=[50], help="sizes of the training set")
    parser.add_argument("--splits", type=at_least(1), default=3, help="split seeds 0, 1, … to choose on")
    parser.add_argument("--test_splits", type=at_least(1), default=5, help="split seeds 0, 1, … to test the choices on")
    parser.add_argument("--methods", nargs="+", choices=CHOICES, default=[m for m in CHOICES if m != "dwp-256"], help="what to tune")
    parser.set_defaults(epochs=0)  # the recipes have their own


def shared(args):
    return {panel: {} for panel in PANELS}


def tried(rows, method, n, metric="acc"):
    """{Recipe: its values on validation images} among tune's rows of one panel; those of a deep ensemble are `det`'s."""
    method = "det" if method == "de" else method
    own = [unpack(r["options"]) for r in rows if r["method"] == method and r["x"] == n]
    found = dict.fromkeys(Recipe(o["init_list"], int(o["epochs"]), float(o["lr"]), float(o.get("l2", 0))) for o in own if "validate" in o)
    values = {r: select(rows, method=method, x=n, options=r.words(validate=True), metric=metric) for r in found}
    return {r: of for r, of in values.items() if len(of)}  # rows may say more, as of another logit to start from


def best(rows, method, n):
    """{"accuracy": Recipe, "NLL": Recipe}: those of highest mean accuracy and of lowest mean NLL on validation images among tune's rows
    of one panel; nothing unless all that were tried ran on the same splits."""
    acc, nll = (tried(rows, method, n, metric) for metric in ("acc", "nll"))
    ran = {recipe.words(validate=True): set() for recipe in acc}
    for r in rows:
        if (r["method"], r["x"]) == ("det" if method == "de" else method, n) and r["options"] in ran:
            ran[r["options"]].add(r["seed"])
    if len(set(map(frozenset, ran.values()))) != 1:
        return {}
    return {"accuracy": max(acc, key=lambda recipe: acc[recipe].mean()), "NLL": min(nll, key=lambda recipe: nll[recipe].mean())}


def job(args, method, n, split, recipe, validate=False):
    layers = PANELS[args.panel].layers
    options = net_options(args) | method_options(method, shipped("vae", layers), shipped("conv", layers), recipe.init_list)
    options |= dict(num_examples=n, data_split_seed=split, epochs=recipe.epochs, eval_freq=recipe.epochs, lr=recipe.lr)
    options |= dict(validate=validate) | (dict(l2=recipe.l2) if recipe.l2 else {})
    return method_job(args.panel, method, str(n), split, options)._replace(options=recipe.options(validate))


def jobs(args):
    """Those on validation images, and of what these have chosen so far those on test images."""
    tuned = [method for method in TUNED if method in args.methods or (method == "det" and "de" in args.methods)]
    for n, split, method in itertools.product(args.num_examples, range(args.splits), tuned):
        for recipe in recipes(method, args.panel, args.quick):
            yield job(args, method, n, split, recipe, validate=True)
    rows = [r for r in tidy_rows(folders(args.quick)[0] / "tune.csv") if r["panel"] == args.panel]
    for n, split, method in itertools.product(args.num_examples, range(args.test_splits), args.methods):
        if set(tried(rows, method, n)) >= set(recipes("det" if method == "de" else method, args.panel, args.quick)):
            for recipe in dict.fromkeys(best(rows, method, n).values()):
                yield job(args, method, n, split, recipe)


def chosen(rows, n):
    """{label: (method, Recipe)} of what has been chosen, in the order of CHOICES."""
    found = {}
    for method in CHOICES:
        choices = best(rows, method, n)
        for recipe in dict.fromkeys(choices.values()):
            why = " and ".join(metric for metric, choice in choices.items() if choice == recipe)
            found[f"{name_of(method)}, by {why}: {sentence(recipe.words())}"] = method, recipe
    return found


def table(rows):
    """By n: the choices on test images, each beside the deep weight prior's; and what was tried, the best in bold; as Markdown."""

    def bold(values, others, choose):
        mark = "**" if values.mean() == choose(other.mean() for other in others) else ""
        return f"{mark}{mean_std(values)}{mark}"

    parts, lines = [], []
    for n in sorted({r["x"] for r in rows}):
        labels = chosen(rows, n)
        named = [
            r | dict(method=label)
            for label, (method, recipe) in labels.items()
            for r in rows
            if (r["method"], r["options"], r["x"]) == (method, recipe.words(), n)
        ]
        dwp = next((label for label, (method, _) in labels.items() if method in KL_SUMS), None)
        have = {r["method"] for r in named}
        if named:
            parts += [f"n = {n}, test images:", comparison_table(named, {label: dwp if label != dwp else None for label in labels})]
        if lacking := [label for label in labels if label not in have]:
            parts += [f"Chosen, too, but not yet run on test images: {'; '.join(lacking)}."]
        for method in TUNED:
            acc, nll = (tried(rows, method, n, metric) for metric in ("acc", "nll"))
            for recipe in acc:
                cells = bold(acc[recipe], acc.values(), max), bold(nll[recipe], nll.values(), min)
                lines.append([n, name_of(method), sentence(recipe.words()), *cells, len(acc[recipe])])
    heads = "n | method | how | accuracy | NLL, nats | splits"
    tried_so_far = ["<details><summary>Tried on validation images, the best in bold</summary>", markdown(heads, lines), "</details>"]
    return "\n\n".join([*parts, *(tried_so_far if lines else [])])


DRIVER = Driver(
    *("tune", __doc__, add_arguments),
    dict(panel="glyph-digits", num_examples=[20], splits=1, test_splits=1, methods=["det", "de"]),
    *(shared, jobs, table),
    by_panel=True,
    varied=(*Recipe._fields, "validate"),
)

if __name__ == "__main__":
    run_cli(DRIVER.main)
