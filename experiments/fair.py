"""Fig. 2's methods, each at its own best: start, steps, rate and L2 as experiments.tune chose them on validation images, by accuracy and by
NLL.

    python -m experiments.fair --data_root DATA_ROOT --workers 2

Beside the paper's methods stand MC dropout, a deep ensemble, and a Gaussian over kernels as a prior.
"""

from myexman import at_least
from utils import run_cli

from . import tune
from .fig2 import PANELS, net_options
from .grid import Driver, folders
from .methods import method_job, name_of
from .rows import RESULTS, markdown, mean_std, select, tidy_rows

CHOICES = (*tune.TUNED, "de")


def add_arguments(parser):
    parser.add_argument("--panel", choices=["mnist", "cifar10"], default="mnist", help="data set")
    parser.add_argument("--num_examples", type=at_least(1), nargs="+", help="sizes of the training set (default: those tuned for)")
    parser.add_argument("--splits", type=at_least(1), default=5, help="split seeds 0, 1, …")
    parser.add_argument("--methods", nargs="+", choices=CHOICES, help="what to run (default: what has been tuned)")
    parser.set_defaults(epochs=0)  # the recipes have their own


def settings(args):
    return dict.fromkeys(PANELS, "each method's best on validation images")


def tuned_rows(panel, file):
    """The rows of experiments.tune in its usual setting, of a panel."""
    words = tune.DRIVER.usual()[panel]
    return [r for r in tidy_rows(file) if (r["panel"], r["setting"]) == (panel, words)]


def why_chosen(tuned, method, recipe, n):
    """'accuracy', 'NLL', or both: by what tune's rows choose that recipe, a word, now."""
    if not all(map(len, tune.tried(tuned, method, n).values())):
        return "–"
    return ", ".join(metric for metric, choice in tune.best(tuned, method, n).items() if str(choice) == recipe) or "–"


def jobs(args):
    tuned = tuned_rows(args.panel, folders(args.quick)[0] / "tune.csv")
    for n in args.num_examples or sorted({r["x"] for r in tuned}) or PANELS[args.panel].num_examples:
        methods = args.methods or [method for method in CHOICES if all(map(len, tune.tried(tuned, method, n).values()))]
        if not methods:
            raise ValueError(f"nothing is tuned at n = {n}: python -m experiments.tune --num_examples {n}")
        for split in range(args.splits):
            for method in methods:
                chosen = tune.recipes(method, quick=True)[:1] if args.quick else tune.best(tuned, method, n).values()
                for recipe in dict.fromkeys(chosen):
                    options = net_options(args) | recipe.options(method, args.panel) | dict(num_examples=n, data_split_seed=split)
                    job = method_job(args.panel, method, str(n), split, options)
                    yield job._replace(method=f"{method}, {recipe}")


def table(rows):
    """The methods by accuracy, best first, with mean ± standard deviation over splits, as Markdown."""
    lines, tuned = [], tuned_rows(rows[0]["panel"], RESULTS / "tune.csv")
    for n in sorted({r["x"] for r in rows}):
        found = {word: select(rows, x=n, method=word, metric="acc") for word in {r["method"] for r in rows if r["x"] == n}}
        for word in sorted(found, key=lambda word: -found[word].mean()):
            method, _, recipe = word.partition(", ")
            others = [mean_std(select(rows, x=n, method=word, metric=metric)) for metric in ("nll", "ece", "brier")]
            by = why_chosen(tuned, method, recipe, n)
            lines.append([n, name_of(method), recipe, by, mean_std(found[word]), *others, len(found[word])])
    return markdown("n | method | how | chosen by | accuracy | NLL, nats | ECE | Brier | splits", lines)


DRIVER = Driver(
    "fair", __doc__, add_arguments, dict(panel="glyph-digits", splits=1, methods=["det", "de"]), settings, jobs, table, by_panel=True
)

if __name__ == "__main__":
    run_cli(DRIVER.main)
