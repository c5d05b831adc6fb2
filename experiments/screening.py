"""The screen of the shipped priors: how well they model held-out kernels, and whether they make a net's kernels all alike.

    python -m experiments.screening                     # writes results/priors.csv, draws figures/priors.png
    python -m experiments.screening --published DIR     # with the authors' own priors and kernels as reference rows
    python -m experiments.screening --priors --trials RUN RUN     # other prior folders alone, as rows trials/NAME

DIR holds the folders vae7x7, vae5x5, conv7x7 and conv5x5 of the original release. What is not screened keeps its rows. --cards writes
the numbers of the shipped priors into their cards, too.
"""

from pathlib import Path

import numpy as np
import torch
import yaml

from models.pictures import draw_kernels, new_figure, save_figure
from models.prior_folder import renew_card
from models.screen import DRIFT_STEPS, LONG_DRIFT, QUANTITIES, screen
from myexman import Parser, commit_name, read_params, resolve_paths
from myexman.logger import read_rows
from utils import load_density, load_kernels, load_vae, run_cli, seed_everything

from .rows import FIGURES, RESULTS, ROOT, markdown, write_rows

SETS = {  # prior: its kernels
    "fconv/vae7x7": "fconv/conv7x7",
    "fconv/vae5x5": "fconv/conv5x5",
    "cifar/vae7x7": "cifar/conv7x7",
    "cifar/vae5x5_1": "cifar/conv5x5_1",
    "cifar/vae5x5_2": "cifar/conv5x5_2",
}
TRIALS = "trials/"  # what the names of other priors begin with
PUBLISHED = {"published/vae7x7": "conv7x7", "published/vae5x5": "conv5x5"}


def parse_args(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument("--data_dir", type=Path, default=ROOT / "data", help="where the folders of kernels and priors are")
    parser.add_argument("--priors", nargs="*", choices=list(SETS), default=list(SETS), help="which to screen; the others' rows stay")
    parser.add_argument("--cards", action="store_true", help="write what is found into the cards of --priors, too")
    parser.add_argument(
        "--trials", type=Path, nargs="+", default=[], metavar="RUN", help="prior folders; their kernels are found by params.yaml"
    )
    parser.add_argument("--published", type=Path, help="folder of the authors' priors and kernels")
    parser.add_argument("--out", type=Path, help="folder of the CSV file and the picture (default: results/ and figures/ here)")
    return parser.parse_args(argv)


def kernels_of(folder):
    """Training and held-out kernels of a folder.  The published 5x5 set has no training kernels, and its held-out ones stand for them."""
    test = load_kernels(folder / "test.npy")
    train = load_kernels(folder / "train.npy") if (folder / "train.npy").exists() else test
    return train, test


def draw_norms(axis, groups):
    """Histograms of the norms of groups of kernels, {name: (n, 1, k, k)}."""
    for name, w in groups.items():
        axis.hist(w.flatten(1).norm(dim=1).numpy(), bins=60, histtype="step", density=True, label=name)
    axis.set(xlabel="L2 norm of a kernel", ylabel="density")
    axis.legend(frameon=False, fontsize=8)


def draw_drift(axis, priors):
    """The drift test of priors, {name: {quantity: value}}, the first in black; likeness full, alignment open."""
    steps = (*DRIFT_STEPS, LONG_DRIFT)
    for i, (name, numbers) in enumerate(priors.items()):
        for quantity, style in (("likeness", dict(label=name)), ("alignment", dict(fillstyle="none", linewidth=0.6))):
            values = [numbers.get(f"{quantity}_{step}", np.nan) for step in steps]
            axis.plot(values, "o-", color=f"C{i - 1}" if i else "k", **style)
    axis.set(xlabel="steps of the KL term alone", ylabel="likeness (full), alignment (open)", ylim=(0, 1))
    axis.set_xticks(range(len(steps)), map(str, steps))
    axis.legend(frameon=False, fontsize=8)


def numbers_by_prior(rows):
    """{prior: {quantity: value}} of rows of priors.csv."""
    found = {}
    for row in rows:
        found.setdefault(row["prior"], {})[row["quantity"]] = row["value"]
    return found


TABLE = {  # column: the quantity that it shows
    "training kernels": "train_kernels",
    "norms' spread": "kernel_norm_spread",
    "w = 0 denser": "zero_is_denser",
    "likeness of samples": "likeness_0",
    "after 600 steps": "likeness_600",
    "after 3000 steps": "likeness_3000",
    "flatness of samples": "flatness_0",
    "flatness after 3000": "flatness_3000",
    "norm of samples": "norm_0",
    "norm after 3000": "norm_3000",
    "ELBO, nats": "elbo",
}


def table(rows):
    """What tells good priors from bad ones, a line for each, as Markdown; what is not known is –."""

    def cell(value):
        return "–" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.3g}"

    lines = [[prior, *(cell(numbers.get(name)) for name in TABLE.values())] for prior, numbers in numbers_by_prior(rows).items()]
    return markdown(" | ".join(["prior", *TABLE]), lines)


def draw(rows, data_dir, file):
    """For each of fconv's priors: kernels, samples, norms, and the drift test beside the published prior's."""
    figure, axes = new_figure(13, 6.4, columns=4, rows=2, width_ratios=[1, 1, 1.1, 1.1])
    numbers = numbers_by_prior(rows)
    for (prior, name), axis in zip(list(SETS.items())[:2], axes):
        (kernels, _), vae = kernels_of(data_dir / name), load_vae(data_dir / prior)
        shown = kernels[torch.randperm(len(kernels))[:100]]
        draw_kernels(axis[:2], {f"kernels, {len(kernels)}": shown, "samples of the prior": vae.sample(100)})
        with torch.no_grad():
            draw_norms(
                axis[2], {"kernels": kernels, "samples": vae.sample(4096), "decoder means": vae.decoder(torch.randn(4096, vae.z_dim))[0]}
            )
        draw_drift(axis[3], {name: numbers[name] for name in (prior, f"published/{Path(prior).name}") if name in numbers})
    save_figure(figure, file)


def fitted_to(folder):
    """The folder of the kernels that a prior was fitted to, by its params.yaml.  Raises ValueError if that names none."""
    params = resolve_paths(read_params(folder / "params.yaml"), ("data_dir",))
    if not params.get("data_dir"):
        raise ValueError(f"{folder}/params.yaml names no data_dir, the kernels that the prior was fitted to")
    return Path(params["data_dir"])


def chosen(args):
    """{name in the rows: (prior folder, its kernels')} of what is to be screened.  Raises ValueError if two have one name."""
    found = {prior: (args.data_dir / prior, args.data_dir / SETS[prior]) for prior in args.priors}
    if args.published:
        found |= {prior: (args.published / Path(prior).name, args.published / data) for prior, data in PUBLISHED.items()}
    trials = {f"{TRIALS}{folder.resolve().name}": (folder, fitted_to(folder)) for folder in args.trials}
    if len(trials) < len(args.trials):
        raise ValueError("--trials: folders of the same name, by which their rows are told apart; rename one")
    return found | trials


def numbers_of(density, kernels):
    """screen() of a density and the folder of its kernels, and how many these are."""
    train, test = kernels_of(kernels)
    numbers = screen(density, train, test) | {"train_kernels": len(train), "test_kernels": len(test)}
    if (kernels / "pruning.yaml").exists():
        pruning = yaml.safe_load((kernels / "pruning.yaml").read_text())
        numbers |= {"nets": pruning["nets"], "source_kernels": pruning["kernels"], "kept_kernels": pruning["kept"]}
    return numbers


def main(argv=None):
    args = parse_args(argv)
    seed_everything(0)
    results, figures = (args.out, args.out) if args.out else (RESULTS, FIGURES)
    file, order = results / "priors.csv", [*SETS, *PUBLISHED]
    todo = {prior: (folder, load_density(folder), kernels) for prior, (folder, kernels) in chosen(args).items()}
    for *_, kernels in todo.values():
        kernels_of(kernels)  # what is missing is found before the first minutes are spent
    rows = [r for r in (read_rows(file) if file.exists() else []) if r["prior"] in order or r["prior"].startswith(TRIALS)]
    for prior, (folder, density, kernels) in todo.items():
        numbers = numbers_of(density, kernels)
        rows = [r for r in rows if r["prior"] != prior]
        rows += [dict(prior=prior, quantity=k, value=v, commit=commit_name()) for k, v in numbers.items()]
        rows.sort(key=lambda r: order.index(r["prior"]) if r["prior"] in order else len(order))
        write_rows(rows, file)
        if args.cards and prior in SETS:
            renew_card(folder, numbers)
        print(prior)
        print("\n".join(f"{numbers[name]:12.3f}  {words}" for name, words in QUANTITIES.items() if name in numbers), flush=True)
    draw(rows, args.data_dir, figures / "priors.png")
    print(f"wrote {file} and {figures / 'priors.png'}")


if __name__ == "__main__":
    run_cli(main)
