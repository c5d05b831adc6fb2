"""How alike the kernels of a layer have become in training: a picture of trained runs' first layers, and two numbers per layer.

    python -m experiments.kernels logs/runs/000000-* logs/runs/000003-*

Likeness is the mean absolute cosine between two kernels of a layer: about 0.1 for random 7x7 kernels, 1 where all are copies of one;
alignment is the length of the mean of w / |w|: near 0 where signs balance. For a layer under the deep weight prior also how certain
the decoder is of its kernels. Writes kernels.csv and kernels.png, under <runs>/kernels or, with --shipped, into results/ and figures/.
"""

from pathlib import Path

import torch

from models.pictures import draw_kernels, new_figure, save_figure
from models.screen import alignment, likeness
from models.sources import one_per_layer
from myexman import Parser, read_params, runs_root
from prune_kernels import read_kernels
from utils import load_vae, run_cli

from .rows import FIGURES, RESULTS, write_rows


def parse_args(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders of train_bnn.py or train_source.py")
    parser.add_argument("--shipped", action="store_true", help="write results/kernels.csv and figures/kernels.png anew")
    return parser.parse_args(argv)


@torch.no_grad()
def decoder_std(vae, kernels):
    """How certain a prior's decoder is of kernels (n, 1, k, k): its standard deviation at their latent means, the median."""
    return float(vae.decoder(vae.encoder(kernels)[0])[1].sqrt().flatten(1).mean(1).median())


def facts_of(params):
    """What tells a run from others, from its params.yaml."""
    priors = " + ".join(params["prior_list"]) if params.get("prior_list") else params["net_cfg"]
    vaes = " ".join(Path(folder).name for folder in params.get("vae_list") or [])
    start = " + ".join(dict.fromkeys(params.get("init_list") or ["xavier"]))
    keys = ("data", "num_examples", "data_split_seed", "seed", "epochs", "kl_kernels")
    return dict(priors=priors, vaes=vaes, start=start, **{k: params.get(k) for k in keys}, commit=params["meta"]["commit"])


def main(argv=None):
    args = parse_args(argv)
    results, figures = (RESULTS, FIGURES) if args.shipped else [runs_root() / "kernels"] * 2
    rows, first_layers = [], {}
    for run in args.runs:
        params = read_params(Path(run) / "params.yaml")
        facts, layers = facts_of(params), read_kernels(run)
        lists = {name: (params.get(name) or [])[: len(layers)] for name in ("prior_list", "vae_list")}  # a classifier has no kernels
        priors, folders = (one_per_layer(values, "", len(layers), f"--{name}") for name, values in lists.items())
        for (name, kernels), prior, folder in zip(layers.items(), priors, folders):
            row = dict(facts, layer=name.split(".")[1], likeness=likeness(kernels), alignment=alignment(kernels))
            row["median_norm"] = float(kernels.flatten(1).norm(dim=1).median())
            row["decoder_std"] = decoder_std(load_vae(folder), kernels) if prior == "vae" else ""
            line = "{priors:12} {epochs:6} {layer}: likeness {likeness:.2f}, alignment {alignment:.2f}, norm {median_norm:.2f}"
            print(line.format(**row))
            rows.append(row)
            title = "{priors}, {epochs} epochs\nfrom {start}, run {run}".format(**facts, run=Path(run).name.split("-")[0])
            first_layers.setdefault(title, kernels)
    figure, axes = new_figure(2.6 * len(first_layers) + 1, 2.6, columns=len(first_layers), squeeze=False)
    draw_kernels(axes[0], {title: kernels[:36] for title, kernels in first_layers.items()}, columns=6)
    save_figure(figure, figures / "kernels.png")
    write_rows(rows, results / "kernels.csv")
    print(f"wrote {results / 'kernels.csv'} and {figures / 'kernels.png'}")


if __name__ == "__main__":
    run_cli(main)
