"""What makes source nets meet in the same first-layer kernels: groups of nets trained alike, compared by their 7x7 kernels.

    python -m experiments.sources logs/clean/runs/* --published DIR      # writes results/sources.csv

Runs of train_source.py with the same options, seeds aside, are one group; accuracy, NLL and seconds are medians over its nets. DIR
holds the folder conv7x7 of the original release, whose kernels come from a hundred wide nets trained to the end. `rough` is the share of
a kernel's energy in the finer half of its cosine transform: noise that training has not removed; `covered` the share of published
kernels with one of ours at a cosine above 0.9. Only living filters count, those above the cut of prune_kernels.py.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from scipy.fft import dctn

from models.screen import recurrence
from myexman import Parser
from myexman.logger import read_rows
from prune_kernels import PUBLISHED_CUT, read_kernels
from utils import load_kernels, run_cli

from .grid import RESULTS, markdown, write_rows

OPTIONS = ("data", "hid_dim", "start_width", "balance", "l2", "bs", "lr", "epochs", "drop_dead", "bf16")


def parse_args(argv=None):
    parser = Parser(description=__doc__.split("\n\n")[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders of train_source.py")
    parser.add_argument("--published", type=Path, help="folder of the authors' kernels")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the CSV file")
    return parser.parse_args(argv)


def rough(kernels):
    """Share of energy of kernels (n, 1, k, k) in the frequencies u + v >= k of the orthonormal cosine transform; their mean, in [0, 1]."""
    energy = dctn(kernels.squeeze(1).numpy(), axes=(1, 2), norm="ortho") ** 2
    u = np.arange(kernels.shape[-1])
    return float((energy[:, np.add.outer(u, u) >= len(u)].sum(1) / energy.sum((1, 2))).mean())


def nearest(kernels, others):
    """Cosine of each of the kernels (n, 1, k, k) to the nearest of others: (n,), in [-1, 1]."""
    return (F.normalize(kernels.flatten(1)) @ F.normalize(others.flatten(1)).T).amax(1)


def describe(nets, published):
    """Numbers about the living 7x7 kernels of each net of a group, a list of (n, 1, 7, 7)."""
    kernels = torch.cat(nets)
    row = dict(nets=len(nets), living=len(kernels) / len(nets), norm=float(kernels.flatten(1).norm(dim=1).mean()), rough=rough(kernels))
    if len(nets) > 1:  # copies within a net count in the first alone
        row["recurrence"] = recurrence(kernels)
        pairs = [nearest(own, torch.cat(nets[:i] + nets[i + 1 :])) for i, own in enumerate(nets)]
        row["other_nets"] = float(torch.cat(pairs).median())
    if published is not None:
        cosine = nearest(kernels, published)
        row |= dict(published=float(cosine.median()), published_10=float(cosine.quantile(0.1)))
        row["covered"] = float((nearest(published, kernels) > 0.9).float().mean())
    return row


def cell(value):
    return "–" if value is None else f"{value:.3g}" if isinstance(value, float) else value


def main(argv=None):
    args = parse_args(argv)
    published = load_kernels(args.published / "conv7x7" / "train.npy") if args.published else None
    groups = {}
    for run in args.runs:
        params = yaml.safe_load((Path(run) / "params.yaml").read_text())
        first = next(iter(read_kernels(run).values()))
        living = first[first.flatten(1).norm(dim=1) >= PUBLISHED_CUT[7]]
        facts = tuple(" ".join(map(str, v)) if isinstance(v := params.get(name), list) else v for name in OPTIONS)
        groups.setdefault(facts, []).append((living, read_rows(Path(run) / "logs.csv")[-1], params))
    rows = []
    for facts, nets in groups.items():
        if not sum(len(living) for living, _, _ in nets):
            raise ValueError(f"no living 7x7 kernel in the nets with {dict(zip(OPTIONS, facts))}: leave them out")
        row = dict(zip(OPTIONS, facts)) | describe([living for living, _, _ in nets], published)
        row |= {name: float(np.median([log[name] for _, log, _ in nets])) for name in ("mean_acc", "train_nll", "seconds")}
        meta = nets[0][2]["meta"]
        seeds = " ".join(str(params["seed"]) for _, _, params in nets)
        rows.append(row | dict(seeds=seeds, commit=meta["commit"], machine=meta["machine"]))
    columns = list(dict.fromkeys(name for row in rows for name in row))
    write_rows([{name: row.get(name) for name in columns} for row in rows], args.out / "sources.csv")
    shown = [name for name in columns if name not in ("seeds", "commit", "machine")]
    print(markdown(" | ".join(shown), [[cell(row.get(name)) for name in shown] for row in rows]))
    print(f"wrote {args.out / 'sources.csv'}")


if __name__ == "__main__":
    run_cli(main)
