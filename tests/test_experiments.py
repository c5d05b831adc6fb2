"""The drivers of the experiments, in miniature."""

import itertools
import math
import multiprocessing
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from scipy import stats

import train_bnn
import train_vae_prior
from data import Dataset
from data.glyphs import GLYPHS, make_glyphs
from experiments import (
    ablations,
    benchmark,
    claims,
    continual,
    deep_ensemble,
    densities,
    early_stopping,
    features,
    fig2,
    fig2_tables,
    fig3,
    fig4,
    grid,
    methods,
    moved,
    pictures,
    posterior,
    quickstart,
    random_labels,
    report,
    screening,
    sparsification,
    sweep,
    tightness,
    tune,
    uncertainty,
)
from experiments.comparison import Variant, comparison, comparison_table
from experiments.grid import Job, command_line, report_failures, run_grid
from experiments.launchers import Workers
from experiments.methods import last_row, method_options, name_of
from experiments.rows import (
    COLUMNS,
    add_rows,
    holm,
    interval_ends,
    p_value,
    pack,
    paired_differences,
    rows_of_common_splits,
    select,
    sentence,
    tidy_rows,
    unpack,
)
from models.prior_folder import DRIFT, SUMS, card_rows
from models.screen import QUANTITIES
from models.sparsity import compression, prune
from myexman import read_params, status, write_yaml
from myexman.logger import read_rows
from utils import ensemble_average, load_run, load_vae, load_weights, metrics, predict

ROOT = Path(__file__).resolve().parents[1]


def test_the_benchmark_runs_and_agrees_with_its_reference():
    benchmark.main(["--quick"])
    rows = read_rows(Path(os.environ["DWP_PATH"]) / "quick/benchmark.csv")
    assert [row["case"] for row in rows] == list(benchmark.QUICK) and all(row["seconds"] > 0 for row in rows)
    assert rows[0]["peak_mb"] > 0


def test_the_quickstart_in_miniature(tmp_path, capsys):
    for name in GLYPHS:
        make_glyphs(name, tmp_path / f"{name}.npz", {"train": 200, "test": 50})
    tiny = "--nets 1 --source_epochs 1 --source_dim 6 6 --vae_epochs 1 1 --bnn_epochs 2 --bnn_dim 2 3 --splits 1 --workers 1"
    quickstart.main([*tiny.split(), "--data_root", str(tmp_path)])
    out = capsys.readouterr().out
    assert all(name_of(method) in out for method in quickstart.SHOWN)
    assert (tmp_path / "logs/quickstart/quickstart.png").exists()


def test_kernels_of_runs_are_drawn(digits, tmp_path):
    net = ["--data", str(digits), "--hid_dim", "3", "4", "--epochs", "1", "--ens", "0"]
    runs = [train_bnn.main([*net, *words]) for words in ([], ["--net_cfg", "bayes-all"])]
    pictures.main(["--figures", "kernels", "--runs", *map(str, runs), "--out", str(tmp_path)])
    assert (tmp_path / "kernels.png").exists()
    with pytest.raises(ValueError, match="needs --runs"):
        pictures.main(["--figures", "kernels"])


def test_the_cards_say_what_the_priors_do():
    """The bound by itself, and all as results/priors.csv has it."""
    rows = {(r["prior"], r["quantity"]): r["value"] for r in read_rows(ROOT / "experiments/results/priors.csv")}
    for prior, kernels_of in screening.SETS.items():
        card = (ROOT / f"data/{prior}/README.md").read_text().splitlines()
        written = {q: float(line.split("|")[2]) for q, words in QUANTITIES.items() for line in card if line.startswith(f"| {words} |")}
        _, test = screening.kernels_of(ROOT / "data" / kernels_of)
        vae = load_vae(ROOT / "data" / prior)
        assert abs(written["elbo"] - np.mean([train_vae_prior.held_out(vae, test)["elbo"] for _ in range(8)])) < 0.4
        assert written == {quantity: float(f"{rows[prior, quantity]:.4g}") for quantity in QUANTITIES}


def test_the_screen_is_written_and_drawn(tmp_path, monkeypatch):
    """One shipped prior anew, with its card, and another's folder; the published ones' rows as they were."""
    old = [
        dict(prior=prior, quantity=quantity, value=0.5, commit="c")
        for prior in screening.PUBLISHED
        for quantity in (*QUANTITIES, "train_kernels")
    ]
    add_rows(old, tmp_path / "priors.csv", list(old[0]))
    monkeypatch.setattr(screening, "screen", lambda vae, train, test: dict.fromkeys(QUANTITIES, 0.25))
    for folder in ("vae7x7", "conv7x7", "vae5x5", "conv5x5"):
        shutil.copytree(ROOT / "data/fconv" / folder, tmp_path / "fconv" / folder)
    own, trial = tmp_path / "fconv/vae5x5", tmp_path / "own"
    shutil.copytree(own, trial)
    params = read_params(trial / "params.yaml") | dict(data_dir=str(tmp_path / "fconv/conv5x5"))
    (trial / SUMS).unlink()
    write_yaml(trial / "params.yaml", params)
    screening.main(["--out", str(tmp_path), "--data_dir", str(tmp_path), "--priors", "fconv/vae5x5", "--cards", "--trials", str(trial)])
    rows = read_rows(tmp_path / "priors.csv")
    assert {r["prior"] for r in rows} == {"fconv/vae5x5", *screening.PUBLISHED, "trials/own"} and all(r in rows for r in old)
    assert (tmp_path / "priors.png").exists()
    assert card_rows(own) == dict.fromkeys(QUANTITIES, 0.25) and card_rows(trial)["elbo"] != 0.25
    ends = [(folder / "README.md").read_text().partition("\n\nMade ")[2] for folder in (own, trial)]
    assert ends[0] == ends[1] != "" and DRIFT in (own / "README.md").read_text()
    w = torch.randn(2, 1, 5, 5)
    assert torch.equal(load_vae(own).encoder(w)[0], load_vae(trial).encoder(w)[0])  # sealed anew, the same weights
    assert "0.25" in screening.table(rows) and "| – |" in screening.table([r for r in rows if r["quantity"] != "norm_0"])
    with pytest.raises(ValueError, match="folders of the same name"):
        screening.main(["--priors", "--trials", str(trial), str(trial)])
    write_yaml(trial / "params.yaml", params | dict(data_dir=None))
    with pytest.raises(ValueError, match="names no data_dir"):
        screening.main(["--priors", "--trials", str(trial)])


DRIVERS = {  # and the methods of its smoke run
    fig3: {"dwp", "filters", "xavier"},
    fig4: {"dwp", "filters", "xavier"},
    tune: {"det", "de"},
    posterior: {"sn", "dwp"},
    ablations: {"as in Fig. 2", "256 kernels a step"},
    tightness: {"learned", "frozen"},
    sparsification: {"loguniform", "ard", "gamma"},
    random_labels: {"do", "loguniform", "ard"},
    uncertainty: {"dwp", "de", "det"},
    continual: {"posterior", "sn", "det"},
}


@pytest.fixture(scope="module")
def glyphs(tmp_path_factory):
    """A data root with small sets of the embedded digits and letters."""
    root = tmp_path_factory.mktemp("glyphs")
    for name in GLYPHS:
        make_glyphs(name, root / f"{name}.npz", {"train": 300, "test": 100})
    return root


@pytest.mark.parametrize("module", DRIVERS, ids=lambda module: module.DRIVER.name)
def test_a_driver_in_miniature(module, glyphs, capsys, monkeypatch):
    """A smoke run gives rows, a table, and a figure if there is one."""
    monkeypatch.setattr(tightness, "KERNELS", 4)  # of 512, with 1000 codes each
    driver, folder = module.DRIVER, Path(os.environ["DWP_PATH"]) / "quick"
    driver.main(["--quick", "--data_root", str(glyphs)])
    rows = read_rows(folder / f"{driver.name}.csv")
    assert {row["method"] for row in rows} == DRIVERS[module]
    assert (folder / f"{driver.name}.png").exists() == bool(driver.plot)
    assert "| --- |" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--num_examples", "--splits", "--epochs"])
def test_nothing_to_train_on_is_a_mistake(option, capsys):
    for module in (fig2, ablations, densities):
        with pytest.raises(SystemExit) as stop:
            module.DRIVER.parse_args([option, "0"])
        assert stop.value.code == 2 and "a number from 1 up" in capsys.readouterr().err


def test_densities_in_miniature(glyphs, capsys):
    """They are fitted first, then the nets trained; on validation images in rows of their own."""
    densities.DRIVER.main(["--quick", "--data_root", str(glyphs)])
    assert "validation" not in capsys.readouterr().out
    densities.DRIVER.main(["--quick", "--validate", "--data_root", str(glyphs)])
    rows = read_rows(Path(os.environ["DWP_PATH"]) / "quick/densities.csv")
    assert {(r["method"], r["x"]) for r in rows if r["metric"] == "elbo" and r["panel"] == "kernels"} == set(
        itertools.product(("gauss-indep", "flow", "gauss"), ("7x7", "5x5"))
    )
    kinds = [(None, None), ("sn", None), ("det", None), (None, True)]
    nets = {(r["method"], tuple(map(unpack(r["options"]).get, ("net", "validate")))) for r in rows if r["metric"] == "acc"}
    assert nets == set(itertools.product(("gauss-indep", "flow", "gauss"), kinds))
    assert all(r["value"] > 0 for r in rows if r["metric"] == "parameters")
    assert "| gauss-indep | " in (shown := capsys.readouterr().out) and shown.count("Nets, on validation images:") == 1
    shutil.rmtree(Path(os.environ["DWP_PATH"]) / "quick/densities/flow_5x5")  # as in a clone, which has rows alone
    for splits, missing in ((1, 0), (2, 1)):
        args = densities.DRIVER.parse_args(["--quick", "--data_root", str(glyphs)])
        args.splits = splits
        list(densities.jobs(args))
        assert capsys.readouterr().err.count("flow was fitted elsewhere; to train nets under it: python train_vae_prior.py") == missing


def test_fits_to_kernels_of_one_name_are_not_mixed_up(tmp_path):
    for place in ("one", "two"):
        for k in densities.SIZES:
            folder = tmp_path / place / f"kernels/conv{k}x{k}"
            folder.mkdir(parents=True)
            for part in ("train", "test"):
                np.save(folder / f"{part}.npy", torch.randn(60, 1, k, k).numpy())
    words = ["--quick", "--fits", "gauss-indep", "--data_dir"]
    densities.DRIVER.main([*words, str(tmp_path / "one/kernels")])
    with pytest.raises(ValueError, match="one/kernels/conv7x7, of the same name"):
        densities.DRIVER.main([*words, str(tmp_path / "two/kernels")])


def test_auroc_of_two_normals():
    inside, outside = torch.randn(20_000).numpy(), torch.randn(20_000).numpy() + 1
    assert abs(uncertainty.auroc(inside, outside) - 0.5 * (1 + math.erf(0.5))) < 0.01  # P(x < y), x - y ~ N(-1, 2)


def test_turned_images():
    images = torch.rand(2, 1, 28, 28)
    for angle, turned in ((0, images), (90, images.rot90(1, (2, 3))), (180, images.flip(2, 3))):  # counter-clockwise
        torch.testing.assert_close(uncertainty.rotate(images, angle), turned, atol=1e-4, rtol=0)


def test_entropy_and_reliability_by_hand():
    log_probs = torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.92, 0.08], [0.96, 0.04]]).clamp_min(1e-30).log()
    torch.testing.assert_close(uncertainty.entropy(log_probs)[:2], torch.tensor([math.log(2), 0.0]))
    bins = list(uncertainty.reliability(log_probs, torch.tensor([0, 0, 1, 0])))
    assert [b[0] for b in bins] == [5, 9] and bins[0][2:] == (1.0, 0.25)
    assert bins[1][1:] == pytest.approx((0.96, 2 / 3, 0.75))


def test_the_report_has_every_number_of_the_paper():
    text = (ROOT / "experiments/REPORT.md").read_text()
    for row in read_rows(ROOT / "experiments/paper_results.csv"):
        cell = f"{'' if row['exact'] else '≈ '}{row['value']}{'' if row['source'] == 'paper' else ' (notebook)'}"
        sparse = {"error": f" {100 * row['value']:.2f}, ", "compression": f", {row['value']}x ("}.get(row["panel"].partition(" ")[2], cell)
        assert re.search(rf" {re.escape(cell)}( \||[,;).])", text) or sparse in text, cell  # of a table, or of the list of what has not run


def test_a_report_sets_ours_beside_the_papers(tmp_path, monkeypatch):
    """Two runs of the usual setting, and a trial that must not count."""
    monkeypatch.setattr(grid, "RESULTS", tmp_path)
    usual = pack(fig3.DRIVER.usual()["mnist"])
    row = dict(figure="fig3", panel="mnist", method="dwp", x="1/4", metric="acc", steps=600, device="cpu", commit="c", seconds=1)
    for seed, (value, options) in enumerate(((0.7, usual), (0.9, usual), (0.1, f"{usual} raw"))):
        add_rows([row | dict(seed=seed, value=value, options=options)], tmp_path / "fig3.csv")
    published = [dict(figure="fig3", panel="mnist", method=method, x="1/4", value=0.8, exact=0) for method in ("dwp", "xavier")]
    table = report.side_by_side(published, fig3.DRIVER.results())
    assert "| mnist | deep weight prior | 1/4 | ≈ 0.8 | 0.800 ± 0.141 | +0.000 |" in table and "Xavier" not in table
    assert report.not_run(published, fig3.DRIVER.results()) == "Not run, and the papers' numbers: mnist: Xavier 1/4 ≈ 0.8."


def test_fig2_shows_both_schedules_both_starts_and_paired_differences(tmp_path, monkeypatch):
    monkeypatch.setattr(fig2_tables, "RESULTS", tmp_path)
    row = dict(figure="fig2", panel="mnist", x="50", steps=600, device="cpu", commit="c", seconds=1)
    for epochs, base in ((10000, "dwp-256"), (600, "dwp")):
        for method, start, shift in ((base, "vae", 0.0), ("sn", "vae", 0.1), ("sn", "xavier", 0.2)):
            for seed in range(5 if method == "sn" else 3):
                options = pack(fig2.options("mnist", epochs, start))
                values = dict(acc=0.8 - shift - 0.01 * seed * bool(shift), nll=1 + shift, ece=0.1)
                rows = [row | dict(method=method, seed=seed, metric=m, value=v, options=options) for m, v in values.items()]
                add_rows(rows, tmp_path / "fig2.csv")
    text = "\n".join(fig2_tables.report())
    assert (
        "| 50 | deep weight prior, 256 kernels a step | 0.8 | 0.800 ± 0.000 | – | – | 1.000 ± 0.000 | – | – | 0.100 ± 0.000 | 3 |" in text
    )
    normal, lines = "| 50 | standard normal, from", text.splitlines()
    for start, end in (
        ("samples of the prior", "0.690 ± 0.010 | -0.110 (-0.135 to -0.085) | 0.003 |"),
        ("Xavier's kernels", "0.590 ± 0.010 | -0.210 (-0.235 to -0.185) |"),
    ):
        assert sum(line.startswith(f"{normal} {start} | 0.717 | {end}") for line in lines) == 1
    assert (
        "| 100 |" not in text
        and "not yet run, and the paper's numbers: deep weight prior, 100: 0.867, 200: 0.915, 500: 0.945, 1000: 0.961; " in text
    )
    usual = fig2.options("mnist", 600)
    assert sum(map(bool, fig2_tables.tables("mnist", 600).values())) == 1
    for method, value, more in (("dwp", 0.9, {}), ("dwp", 0.9, dict(validate=True)), ("det", 0.7, {}), ("det", 0.6, dict(seed=1))):
        other = pack(usual | dict(vae_list=["a@1", "b@2"]) | more)
        add_rows([row | dict(method=method, seed=s, metric="acc", value=value, options=other) for s in (0, 1)], tmp_path / "fig2.csv")
    tables = fig2_tables.tables("mnist", 600)
    assert "| 50 | deep weight prior, under a, b | 0.900 ± 0.000 | – |" in tables["under a, b"]
    assert "| 50 | deep weight prior | 0.800 ± 0.000 | -0.100 (-0.100 to -0.100) |" in tables["under a, b"]
    assert "| 50 | deterministic, from samples of a, b | 0.700 ± 0.000 | -0.200 (-0.200 to -0.200) |" in tables["under a, b"]
    assert "normal" not in tables["under a, b"] and tables["on validation images"] == ""  # where the shipped one has not run
    by_seed = tables["accuracy by seed of the first kernels"]
    assert "| 50 | deterministic, from samples of a, b | 0.700 | 0.600 | 0.650 ± 0.071 | 2 |" in by_seed
    assert "under a, b" not in fig2_tables.tables("mnist", 10000)
    other = pack(fig2.options("mnist", 10000) | dict(vae_list=["a@1", "b@2"]))
    for metric in ("acc", "nll"):
        own = [row | dict(method="dwp-256", seed=s, metric=metric, value=0.9, options=other) for s in range(fig2_tables.ENOUGH)]
        add_rows(own, tmp_path / "fig2.csv")
    assert f"{normal} Xavier's kernels | 0.590 ± 0.010 | -0.320 (-0.340 to -0.300) |" in fig2_tables.tables("mnist", 10000)["under a, b"]
    leads = [fig2_tables.lead("mnist", 10000, 50, "dwp-256", "sn", "acc", start) for start in ("vae", "xavier")]
    assert [(len(lead), lead.mean()) for lead in leads] == [(3, pytest.approx(0.11)), (3, pytest.approx(0.21))]


def test_rates_of_the_log_variances_on_validation_images(glyphs, capsys):
    posterior.DRIVER.main(["--quick", "--validate", "--methods", "sn", "--data_root", str(glyphs)])
    folder = Path(os.environ["DWP_PATH"]) / "quick"
    assert "On validation images:" in capsys.readouterr().out and (folder / "posterior.png").exists()
    options = {r["options"] for r in read_rows(folder / "posterior.csv")}
    assert options == {f"epochs=2 num_examples=20 validate var_lr={factor}" for factor in (1, 10)}


def test_a_long_run_leaves_its_curve_beside(glyphs, capsys):
    """Which early_stopping draws; a figure and a table."""
    words = ["--quick", "--data_root", str(glyphs)]
    fig2.DRIVER.main([*words, "--methods", "det", "dwp-256", "frozen", "--eval_freq", "2"])
    folder = Path(os.environ["DWP_PATH"]) / "quick"
    last, curve = (read_rows(folder / f"{name}.csv") for name in ("fig2", "early_stopping"))
    assert (
        {r["x"] for r in last} == {20}
        and {r["x"] for r in curve} == {2, 3}
        and {r["options"] for r in curve} == {"epochs=3 eval_freq=2 hid_dim=4,8 num_examples=20"}
    )
    kernels = {f"{fact}_{layer}" for fact in ("likeness", "norm") for layer in ("first", "last")}  # of those at the end alone
    assert {r["metric"] for r in last} - {r["metric"] for r in curve} == kernels
    numbers = {(r["method"], r["metric"], r["value"]) for r in last if r["metric"] not in kernels}
    assert numbers == {(r["method"], r["metric"], r["value"]) for r in curve if r["x"] == 3}
    early_stopping.DRIVER.main(["--quick"])
    assert (folder / "early_stopping.png").exists() and "| 3 |" in capsys.readouterr().out


def test_untrained_kernels_begin_as_those_of_a_deterministic_net_and_stay(glyphs):
    """So do the weights of the classifier begin."""
    words = ["--quick", "--data_root", str(glyphs), "--seed", "3", "--methods", "det", "frozen"]
    det, frozen = fig2.jobs(fig2.DRIVER.parse_args(words))
    begun = [load_weights(job.run([*job.argv, "--lr", "0"]) / "model.torch") for job in (det, frozen)]
    assert all(torch.equal(w, begun[1][name]) for name, w in begun[0].items()) and begun[0].keys() == begun[1].keys()
    ended = load_weights(frozen.run(frozen.argv) / "model.torch")
    assert {name for name, w in ended.items() if not torch.equal(w, begun[1][name])} == {"classifier.weight", "classifier.bias"}


def test_kernels_that_a_prior_moves_do_not_know_the_data(glyphs):
    """They are made once for all training sets, and other digits make the same."""
    words = ["--quick", "--data_root", str(glyphs), "--methods", "frozen", "moved", "--splits", "2"]
    first, one, _, other = [load_weights(job.run(job.argv) / "model.torch") for job in fig2.jobs(fig2.DRIVER.parse_args(words))]
    convs = [name for name, w in one.items() if w.ndim == 4]
    assert all(torch.equal(one[name], other[name]) and not torch.equal(one[name], first[name]) for name in convs)
    assert not torch.equal(one["classifier.weight"], other["classifier.weight"])
    (file,) = (Path(os.environ["DWP_PATH"]) / "moved").glob("*.torch")
    runs = [read_params(run / "params.yaml") for run in (Path(os.environ["DWP_PATH"]) / "runs").iterdir()]
    (argv,) = [params["meta"]["argv"] for params in runs if params["num_examples"] == 10]
    again, known = load_weights(moved.moved_kernels([*argv, "--data_split_seed", "1"])), load_weights(file)
    for name in (f"{name.removesuffix('.weight')}.mean.weight" for name in convs):
        torch.testing.assert_close(again[name], known[name], rtol=0, atol=1e-5)
    assert not torch.allclose(again["classifier.weight"], known["classifier.weight"], rtol=0, atol=1e-5)


def test_two_workers_share_the_kernels_that_a_prior_moves(glyphs):
    """The one that comes second waits for the other's."""
    fig2.DRIVER.main(["--quick", "--data_root", str(glyphs), "--methods", "moved", "--splits", "2", "--workers", "2"])
    rows = read_rows(Path(os.environ["DWP_PATH"]) / "quick/fig2.csv")
    assert {r["seed"] for r in rows} == {0, 1}
    sizes = [read_params(run / "params.yaml")["num_examples"] for run in (Path(os.environ["DWP_PATH"]) / "runs").iterdir()]
    assert sorted(sizes) == [10, 20, 20]


def test_other_priors_in_the_same_folder_and_other_code_move_kernels_anew(glyphs, priors, monkeypatch):
    words = "--data glyph-digits --num_examples 10 --epochs 1 --hid_dim 3 4 --init_list vae --prior_list vae --kl_scale 1e6 --ens 0"
    argv = [*words.split(), "--data_root", str(glyphs), "--vae_list", *priors]
    one, again = moved.moved_kernels(argv, priors), moved.moved_kernels(argv, priors)
    state = load_weights(Path(priors[0]) / "vae_params.torch")
    torch.save({name: 2 * w if w.is_floating_point() else w for name, w in state.items()}, Path(priors[0]) / "vae_params.torch")
    other = moved.moved_kernels(argv, priors)
    monkeypatch.setattr(moved, "code_hash", lambda script, argv: "another")
    assert one == again and len({one, other, moved.moved_kernels(argv, priors)}) == 3


def test_fig2_under_other_priors(glyphs, priors):
    with pytest.raises(ValueError, match="needs as many priors, not 1"):
        list(fig2.jobs(fig2.DRIVER.parse_args(["--quick", "--vae_list", priors[0]])))
    fig2.DRIVER.main(["--quick", "--data_root", str(glyphs), "--methods", "dwp", "--start", "vae-mean", "--vae_list", *priors])
    (options,) = {r["options"] for r in read_rows(Path(os.environ["DWP_PATH"]) / "quick/fig2.csv")}
    assert unpack(options)["init_list"] == "vae-mean" and unpack(options)["vae_list"].split(",")[1].startswith("vae5x5@")


def test_fig2_under_priors_of_other_densities_on_validation_images(glyphs, priors, tmp_path):
    """--prior_list is what a folder holds, and rows on validation images say so."""
    for split, n in (("train", 40), ("test", 10)):
        np.save(tmp_path / f"{split}.npy", torch.randn(n, 1, 5, 5).numpy())
    words = f"--density kde --kernel_dim 5 --no_screen --data_dir {tmp_path} --out {tmp_path}/kde5x5"
    train_vae_prior.main(words.split())
    words = ["--quick", "--data_root", str(glyphs), "--methods", "dwp-256", "--validate", "--vae_list", priors[0], str(tmp_path / "kde5x5")]
    (job,) = fig2.jobs(fig2.DRIVER.parse_args(words))
    assert " --prior_list vae kde" in " ".join(job.argv)
    fig2.DRIVER.main(words)
    (options,) = {r["options"] for r in read_rows(Path(os.environ["DWP_PATH"]) / "quick/fig2.csv")}
    assert unpack(options)["validate"] is True and unpack(options)["vae_list"].split(",")[1].startswith("kde5x5@")
    with pytest.raises(ValueError, match="kde5x5 has no decoder; leave --start out"):
        list(fig2.jobs(fig2.DRIVER.parse_args([*words, "--start", "vae-mean"])))
    train_vae_prior.main(f"--density gauss --kernel_dim 5 --no_screen --data_dir {tmp_path} --out {tmp_path}/gauss5x5".split())
    sums = [method_options("dwp-256", [prior, f"{tmp_path}/gauss5x5"]).get("kl_kernels") for prior in (priors[0], f"{tmp_path}/gauss5x5")]
    assert sums == [256, None]  # a KL term in closed form is not estimated


def test_a_new_comparison_is_a_list_of_variants(glyphs, monkeypatch):
    """It runs, compares on the splits that both have, and its table and figure are in the report."""
    two = {"mnist": {"N(0, 1)": Variant("sn"), "one Gaussian": Variant("gauss", base="N(0, 1)")}}
    driver = comparison("two_priors", "Two priors.", two, {"mnist": 50})
    driver.main(["--quick", "--data_root", str(glyphs), "--splits", "1"])
    folder = Path(os.environ["DWP_PATH"]) / "quick"
    assert {r["method"] for r in read_rows(folder / "two_priors.csv")} == {"N(0, 1)", "one Gaussian"}
    assert (folder / "two_priors.png").exists()
    monkeypatch.setattr(grid, "RESULTS", folder)
    row = dict(figure="two_priors", panel="mnist", x=50, steps=600, device="", commit="", seconds=1, options="epochs=600")
    for label, splits, value in (("N(0, 1)", 5, 0.5), ("one Gaussian", 3, 0.75)):
        rows = [row | dict(method=label, seed=s, metric=m, value=value + s) for s in range(splits) for m in ("acc", "nll", "ece")]
        add_rows(rows, folder / "two_priors.csv")
    text = "\n".join(report.section("two_priors", driver, "Two priors", "", "", []))
    assert "| 50 | one Gaussian | 1.750 ± 1.000 | +0.250 (+0.250 to +0.250) | < 0.001 |" in text
    assert "| 50 | N(0, 1) | 1.500 ± 1.000 | – |" in text  # over the three splits of both


def test_holms_correction_and_the_verdict_of_a_claim():
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    rng = np.random.default_rng(0)
    x = rng.normal(size=6)
    assert p_value(x) == pytest.approx(stats.ttest_1samp(x, 0).pvalue) and p_value(np.zeros(3)) == 1
    low, high = interval_ends(x)
    assert (p_value(x - low), p_value(x - high)) == pytest.approx((0.05, 0.05))
    around = np.array([-0.01, 0.0, 0.01])  # an interval of .025 to both sides
    of_differences = {"yes": [(0.05, 0.06)], "smaller": [(0.05, 0.08)], "larger": [(0.05, 0.02)], "open": [(0.01, 0.03)]}
    of_differences["no"] = [(0.01, 0.06), (-0.05, 0.01)]
    for said, mean, paper in ((said, *pair) for said, pairs in of_differences.items() for pair in pairs):
        assert claims.verdict(mean + around, paper) == f"**{said}**"
    assert claims.verdict(np.array([0.05]), 0.05) == "**open**"
    assert [claims.verdict(mean + around, None) for mean in (0.05, -0.05, 0.01)] == ["**yes**", "**no**", "**open**"]
    assert claims.verdict(62 + 100 * around, 64, difference=False) == "**yes**"
    assert claims.verdict(62 + 100 * around, 68, difference=False) == "**smaller**"


def test_the_claims_take_their_numbers_from_the_papers_rows():
    assert [claim.published() for claim in claims.CLAIMS[:6]] == pytest.approx([0.083, 0.083, 0.034, 0.034, 0.051, 0.028])
    assert [claim.published() for claim in claims.CLAIMS[6:8]] == [None] * 2  # of kernels that are never trained
    assert claims.CLAIMS[-1].published() == 68


def test_rows_of_another_draw_of_first_kernels_are_its_own():
    first, second = (fig2_tables.rows_of("mnist", 10000, seed=seed) for seed in (0, 1))
    assert not any("seed" in r["options"] for r in first) and all("seed=1" in r["options"].split() for r in second)
    assert len(second) and not np.array_equal(claims.OTHER_DRAW(), claims.OTHER_DRAW(seed=0))


def test_a_comparison_corrects_for_the_variants_with_the_same_base_and_size():
    rng, labels = np.random.default_rng(0), {"a": None, "b": "a", "c": "a", "d": "c"}
    rows = [
        dict(method=label, x=n, seed=seed, metric=metric, value=rng.normal())
        for label, n, seed, metric in itertools.product(labels, (50, 100), range(4), ("acc", "nll", "ece"))
    ]
    lines = [line.split(" | ") for line in comparison_table(rows, labels).splitlines()[2:]]
    assert [line[:3] for line in lines] == [[f"| {n}", label, base or "–"] for n in (50, 100) for label, base in labels.items()]
    for n in (50, 100):
        own = {line[1]: line for line in lines if line[0] == f"| {n}"}
        raw = {b: p_value(paired_differences(rows, b, labels[b], x=n, metric="acc")) for b in "bcd"}
        assert [float(own[b][5]) for b in "bc"] == pytest.approx(holm([raw["b"], raw["c"]]), abs=6e-4)
        assert float(own["d"][5]) == pytest.approx(raw["d"], abs=6e-4) and own["a"][5] == "–"
        assert own["b"][3].startswith(f"{select(rows, method='b', x=n, metric='acc').mean():.3f} ±")


def test_means_are_compared_over_the_splits_that_all_of_a_size_have():
    rows = [dict(method=method, x=50, seed=seed) for method, splits in (("dwp", 2), ("sn", 5)) for seed in range(splits)]
    assert rows_of_common_splits(rows) == [rows[i] for i in (0, 1, 2, 3)]
    others = [dict(method="sn", x=100, seed=seed) for seed in range(3)]  # the only ones of this size
    single = dict(method="det", x=50, seed=4)  # which would leave a single split to all
    assert rows_of_common_splits([*rows, *others, single]) == rows[:4] + others and rows_of_common_splits([single]) == [single]


def test_a_torn_line_is_cut_off_by_the_next_append(tmp_path):
    file = tmp_path / "rows.csv"
    add_rows([dict(a=1, b=2), dict(a=3, b=4)], file, ("a", "b"))
    file.write_bytes(file.read_bytes()[:-2])
    add_rows([dict(a=5, b=6)], file, ("a", "b"))
    assert read_rows(file) == [dict(a=1, b=2), dict(a=5, b=6)]


def append_alone(file, n, seed):
    for i in range(n):
        add_rows([dict(a=seed, b=i)], file, ("a", "b"))


def test_two_drivers_lose_no_rows(tmp_path):
    file = tmp_path / "rows.csv"
    with multiprocessing.get_context("fork").Pool(4) as pool:
        pool.starmap(append_alone, [(file, 25, seed) for seed in range(4)])
    assert sorted((r["a"], r["b"]) for r in read_rows(file)) == [(seed, i) for seed in range(4) for i in range(25)]


def in_another_process(function, *args):
    """A process, begun, that calls function(*args) in this one's environment."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["experiments.methods", "torch._dynamo"])
    process = context.Process(target=with_environment, args=(dict(os.environ), function, *args))
    process.start()
    return process


def with_environment(environment, function, *args):
    os.environ.update(environment)
    torch.set_num_threads(1)
    function(*args)


def some_jobs(digits, *words):
    """Jobs of a second, with further words for each."""
    options = command_line(data=digits, hid_dim=(2, 2), epochs=1, eval_freq=1, ens=0)
    return [Job("p", "m", "x", seed, [*options, *more.split()], train_bnn.main, last_row) for seed, more in enumerate(words)]


def test_a_failed_job_stops_no_other_and_is_run_again_when_asked(digits, tmp_path, capsys):
    """Three jobs in two workers: one is a mistake, one is killed as by a full memory."""
    file = tmp_path / "f.csv"
    jobs = some_jobs(digits, "", "--num_examples 1", "", "--nonsense")
    jobs[2] = jobs[2]._replace(run=killed)
    rows, failed = run_grid(jobs, file, launcher=Workers(2))
    assert {row["seed"] for row in rows} == {0}
    mistake, death, word = (why for _, why in sorted(failed.items()))
    assert mistake.startswith("ValueError: ") and "exit code -9" in death and word.startswith("exit status 2")
    again = run_grid(jobs, file)  # they are not run again
    assert (again[0], again[1]) == (rows, failed)
    jobs[1:] = some_jobs(digits, "", "", "", "")[1:]
    rows, failed = run_grid(jobs, file, time_limit=0)
    assert len(failed) == 3 and {row["seed"] for row in rows} == {0}
    rows, failed = run_grid(jobs, file, retry=True)
    assert not failed and {row["seed"] for row in rows} == {0, 1, 2, 3}
    file.unlink()  # to start over
    assert run_grid(jobs, file, time_limit=0) == ([], {})
    with pytest.raises(ValueError, match="1 of the runs have failed, as said above; --retry"):
        report_failures({"a / b": "why"})
    assert "failed: a / b: why" in capsys.readouterr().out


def killed(argv):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_job_goes_on_from_the_checkpoint_of_a_driver_that_was_killed(digits, tmp_path):
    """With its driver its workers are told to end; the second driver resumes their runs, to the same numbers."""
    jobs = some_jobs(digits, "--epochs 40 --save_every 0 --ens 2")
    whole, _ = run_grid(jobs, tmp_path / "whole.csv", launcher=Workers(1))  # of one thread, as those below: sums differ with threads
    runs = Path(os.environ["DWP_PATH"]) / "runs"
    process = in_another_process(run_grid, jobs, tmp_path / "f.csv", None, Workers(1))
    deadline = time.time() + 60
    while len(list(runs.glob("*/checkpoint.torch"))) < 2 and time.time() < deadline:
        time.sleep(0.01)
    process.kill()
    process.join()
    while status(sorted(runs.iterdir())[-1])["state"] == "running" and time.time() < deadline:
        time.sleep(0.01)
    assert status(sorted(runs.iterdir())[-1])["state"] == "stopped"
    rows, failed = run_grid(jobs, tmp_path / "f.csv", launcher=Workers(1))
    assert not failed and len(list(runs.iterdir())) == 2
    values = [[(r["metric"], r["value"]) for r in found] for found in (whole, rows)]
    assert values[0] == values[1] and len(values[0]) > 3


def test_a_sweep_in_miniature(digits, capsys):
    """Two widths, two seeds, of which one is asked for later; the points that are not asked for again stay out of the table."""
    fixed = f"--data {digits} --epochs 2 --eval_freq 2 --bs 50"
    words = ["train_source.py", "--fixed", fixed, "--name", "widths", "--grid", "hid_dim=2 3,4 4", "lr=0.01,0.02"]
    sweep.main([*words, "seed=0"])
    sweep.main([*words, "seed=0..1"])
    rows = read_rows(Path(os.environ["DWP_PATH"]) / "sweeps/widths.csv")
    assert len({(r["method"], r["seed"]) for r in rows}) == 8 and len(list((Path(os.environ["DWP_PATH"]) / "runs").iterdir())) == 8
    value = {(r["method"], r["seed"]): r["value"] for r in rows if r["metric"] == "conv2_filters"}
    assert value["hid_dim=4 4, lr=0.01", "seed=1"] == 4 and value["hid_dim=2 3, lr=0.02", "seed=0"] == 3
    said = capsys.readouterr().out
    assert said.count("| hid_dim=2 3, lr=0.02 | 2 |") == 1 and (Path(os.environ["DWP_PATH"]) / "sweeps/widths.png").exists()


def test_a_seed_that_is_fixed_is_that_of_the_rows(digits):
    words = ["train_source.py", "--fixed", f"--data {digits} --epochs 1 --bs 50 --hid_dim 2 2 --seed 7", "--grid", "lr=0.01"]
    sweep.main(words)
    sweep.main([*words, "seed=3"])
    assert {r["seed"] for r in read_rows(Path(os.environ["DWP_PATH"]) / "sweeps/sweep.csv")} == {"seed=7", "seed=3"}


def test_a_sweep_over_nets_whose_logs_differ(digits, priors, capsys):
    """A deterministic and a Bayesian one, which alone has an ensemble; and whose prior is fitted anew in its place."""
    words = ["train_bnn.py", "--fixed", f"--data {digits} --hid_dim 2 3 --epochs 1 --ens 2", "--grid", "net_cfg=vanilla,bayes"]
    sweep.main([*words, "num_examples=10,20"])
    said = capsys.readouterr().out
    assert "| net_cfg=vanilla, num_examples=10 | 1 | " in said and " – |" in said and "drew" in said
    with pytest.raises(ValueError, match="--metric none: the runs have ens_acc, "):
        sweep.main([*words, "num_examples=10,20", "--metric", "none"])
    folder = Path(priors[0])
    words = ["train_bnn.py", "--fixed", f"--data {digits} --hid_dim 2 3 --epochs 1 --ens 0 --init_list vae --vae_list {' '.join(priors)}"]
    ran = []
    for _ in range(2):
        sweep.main([*words, "--grid", "lr=0.1"])
        ran.append(len({r["options"] for r in read_rows(Path(os.environ["DWP_PATH"]) / "sweeps/sweep.csv")}))
    state = torch.load(folder / "vae_params.torch")
    torch.save({name: 2 * w for name, w in state.items()}, folder / "vae_params.torch")
    (folder / "vae_params.safetensors").unlink(missing_ok=True)
    sweep.main([*words, "--grid", "lr=0.1"])
    ran.append(len({r["options"] for r in read_rows(Path(os.environ["DWP_PATH"]) / "sweeps/sweep.csv")}))
    assert ran[0] == ran[1] == ran[2] - 1


def test_quotes_protect_spaces_and_commas_in_the_values_of_a_sweep(digits, tmp_path):
    """Of a path, say; the order of the fixed options is none of the rows' identity."""
    assert sweep.axis("vae_list='a b' c,\"d,e\" f") == ("vae_list", ["'a b' c", '"d,e" f'])
    odd = tmp_path / "a b, c.npz"
    odd.write_bytes(digits.read_bytes())
    words = ["train_source.py", "--grid", f"data='{odd}'", "lr=0.01,0.02", "--fixed"]
    for fixed in ("--epochs 1 --eval_freq 1 --hid_dim 2 3", "--hid_dim 2 3 --eval_freq=1 --epochs 1"):
        sweep.main([*words, fixed])
    rows = read_rows(Path(os.environ["DWP_PATH"]) / "sweeps/sweep.csv")
    assert len({r["method"] for r in rows}) == 2 and len(list((Path(os.environ["DWP_PATH"]) / "runs").iterdir())) == 2


def test_a_sweep_runs_again_where_what_its_options_name_is_another(digits, tmp_path, monkeypatch):
    """A data set, by its name in the root, too, kernels, and a net's own file."""
    (tmp_path / "net.py").write_text("from models import FConvMNIST as Net")
    np.save(tmp_path / "train.npy", np.random.default_rng(0).normal(size=(9, 1, 7, 7)))
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    fixed = (
        f"--data digits --model {tmp_path}/net.py:Net --init_list filters xavier --filters_list {tmp_path} none --epochs 1 --hid_dim 2 2"
    )
    arrays, ran = dict(np.load(digits)), []

    def run():
        sweep.main(["train_bnn.py", "--grid", "lr=0.01", f"--fixed={fixed} --net_cfg vanilla"])
        ran.append(len(list((Path(os.environ["DWP_PATH"]) / "runs").iterdir())))

    run()
    run()
    np.savez(digits, **arrays | dict(x_train=arrays["x_train"] // 2))
    run()
    np.save(tmp_path / "train.npy", np.random.default_rng(1).normal(size=(9, 1, 7, 7)))
    run()
    (tmp_path / "net.py").write_text("from models import FConvMNIST as Net  # another")
    run()
    assert ran == [1, 1, 2, 3, 4]


def test_a_sweep_whose_runs_would_not_be_found_again_or_lost_is_refused():
    for words in (["lr=1", "--fixed=--root elsewhere"], ["lr=1", "--fixed=--root=elsewhere"], ["root=a,b"]):
        with pytest.raises(ValueError, match=r"set \$DWP_PATH"):
            sweep.main(["train_bnn.py", "--grid", *words])
    with pytest.raises(ValueError, match="a sweep takes no --out"):
        sweep.main(["train_vae_prior.py", "--grid", "bandwidth=1,2", "--fixed=--out x"])


@pytest.mark.parametrize(
    "words, message",
    [
        (["--grid", "lr"], "not of the form"),
        (["--grid", "lr=1,1"], "not of the form"),
        (["--grid", "lr=1", "lr=2"], "an option comes twice"),
        (["--grid", "lr=1", "--name", "a/b"], "letters, digits"),
    ],
)
def test_mistakes_in_a_grid(capsys, words, message):
    with pytest.raises(SystemExit) as e:
        sweep.main(["train_bnn.py", *words])
    assert e.value.code == 2 and message in capsys.readouterr().err


def test_submitit_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ValueError, match="pip install submitit"):
        sweep.main(["train_bnn.py", "--grid", "lr=1", "--launcher", "slurm"])


def test_the_best_recipe_is_that_of_the_highest_accuracy_or_the_lowest_nll():
    """On validation images, over splits on average; of its own n; a deep ensemble's is the deterministic net's."""
    candidates, row = tune.recipes("det", "mnist"), dict(figure="tune", panel="mnist", method="det")
    accuracy = {n: dict.fromkeys(candidates, (0.5, 0.5)) for n in (50, 100)}
    accuracy[50] |= {candidates[0]: (0.9, 0.6), candidates[1]: (0.8, 0.8)}
    accuracy[100] |= {candidates[0]: (0.9, 0.6)}

    def tried(n, recipe, metric, value, seed=0):
        return row | dict(options=recipe.words(validate=True), x=n, seed=seed, metric=metric, value=value)

    rows = [tried(n, recipe, "acc", v, i) for n in accuracy for recipe in candidates for i, v in enumerate(accuracy[n][recipe])]
    rows += [tried(n, recipe, "nll", i) for n in accuracy for i, recipe in enumerate(reversed(candidates))]
    best = dict(accuracy=candidates[1], NLL=candidates[-1])
    assert tune.best(rows, "det", 50) == tune.best(rows, "de", 50) == best and tune.best(rows, "det", 100)["accuracy"] == candidates[0]
    assert tune.best([r for r in rows if r is not rows[1]], "det", 50) == {}  # one has run on fewer splits
    assert tune.best([rows[0], rows[1] | dict(seed=2), *rows[2:]], "det", 50) == {}  # on others
    others = [r | dict(options=f"{r['options']} other") for r in rows]  # trials, not of a recipe
    assert tune.tried(others, "det", 50) == tune.best(others, "det", 50) == {}
    labels = tune.chosen(rows, 50)
    assert list(labels.values()) == [(method, recipe) for method in ("det", "de") for recipe in best.values()]
    test = [row | dict(options=best["NLL"].words(), x=50, seed=0, metric=m, value=0.25) for m in ("acc", "nll", "ece")]
    assert "Chosen, too, but not yet run on test images: deterministic, by accuracy" in tune.table(rows + test)
    assert f"| 50 | {list(labels)[1]} | 0.250 | – | – | 0.250 | – | – | 0.250 | 1 |" in tune.table(rows + test)


def test_published_numbers_are_of_methods_of_ours():
    """The paper's log-uniform prior is variational dropout in its release."""
    paper = fig2_tables.published("mnist")
    assert paper[50, "vd"] == "0.766" and paper[50, "det"] == "0.751 (notebook)" and paper[50, "dwp"] == "0.8"
    assert {method for _, method in paper} <= set(methods.METHODS)


def test_fits_are_compared_with_the_shipped_prior_of_fig2(tmp_path, monkeypatch):
    """On the same splits, after as many steps."""
    monkeypatch.setattr(fig2, "RESULTS", tmp_path)
    row = dict(figure="fig2", panel="mnist", x=50, metric="acc", steps=600, device="cpu", commit="c", seconds=1)
    shipped = row | dict(method="dwp", options=pack(fig2.DRIVER.usual()["mnist"]))
    add_rows([shipped | dict(seed=i, value=value) for i, value in enumerate((0.75, 0.75, 0.5))], tmp_path / "fig2.csv")
    short = [row | dict(method="vae, 100 epochs", seed=i, value=0.625, options="epochs=600") for i in (0, 1)]
    assert "| 50 | vae, 100 epochs | vae | 0.625 ± 0.000 | -0.125 (-0.125 to -0.125) |" in densities.table(short)
    assert "| 50 | vae | – | 0.750 ± 0.000 | – |" in densities.table(short)
    assert "| 50 | vae |" not in densities.table([r | dict(steps=3000) for r in short])


def test_features_are_standardised_by_the_training_images():
    train, test = (Dataset(3 + 2 * torch.randn(n, 5) * torch.tensor([1, 1, 1, 1, 0]), torch.zeros(n)) for n in (500, 20))
    (x, _), (new, _) = features.standardize(train, test)
    assert torch.allclose(x.mean(0), torch.zeros(5), atol=1e-5) and torch.allclose(x.std(0)[:4], torch.ones(4), atol=1e-5)
    assert torch.allclose(new[:, :4], (test.x - train.x.mean(0))[:, :4] / train.x.std(0)[:4], atol=1e-5) and (new[:, 4] == 0).all()


def test_a_deep_ensemble_averages_nets_of_other_seeds(digits, monkeypatch):
    monkeypatch.setattr(deep_ensemble, "MEMBERS", 2)
    run = deep_ensemble.main(["--data", str(digits), "--hid_dim", "3", "4", "--epochs", "2", "--lr", "0.01"])
    runs = sorted(run.parent.iterdir())
    nets = [load_run(folder) for folder in runs]
    probs = sum(predict(net, test.x).exp() for net, _, test in nets) / 2
    expected = -probs.gather(1, nets[0][2].y[:, None]).log().mean()
    values = {r["metric"]: r["value"] for r in last_row(run)}
    assert len(runs) == 2 and abs(values["nll"] - expected) < 1e-5
    assert values["mean_nll"] == read_rows(run / "logs.csv")[-1]["mean_nll"] != values["nll"]
    assert deep_ensemble.ensemble_file(run)["runs"] == [folder.name for folder in runs]
    assert deep_ensemble.ensemble_file(runs[0]) == dict(metrics={}, runs=[runs[0].name])
    members = uncertainty.members_of([net for net, *_ in nets], nets[0][2].x)
    assert len(members) == 2 and metrics(ensemble_average(members), nets[0][2].y)["nll"] == pytest.approx(values["nll"])


def test_a_net_pruned_by_both_rules(digits):
    """The run's own numbers are by the mean; the other rule begins from the net before it was pruned."""
    words = "--net_cfg bayes-all --prior_list loguniform --logvarinit -3 --hid_dim 3 4 --epochs 3 --prune mean --threshold 0.1 --ens 0"
    run = train_bnn.main(["--data", str(digits), *words.split()])
    values = {r["metric"]: r["value"] for r in sparsification.by_both_rules(run)}
    net, _, test = load_run(run)
    kept = prune(net, "snr", 0.05)
    assert values["compression_snr"] == compression(kept) != values["compression"]
    assert values["error_snr"] == pytest.approx(float((predict(net, test.x).argmax(1) != test.y).float().mean()), abs=1e-6)
    assert values["compression"] == yaml.safe_load((run / "pruning.yaml").read_text())["compression"]
    rows = [dict(panel="lenet5", method="loguniform", x="", metric=name, value=value) for name, value in values.items()]
    published = [
        dict(figure=figure, panel="lenet5 compression", method="loguniform", x="") for figure in ("ard_table1", "slides_sparse_vd")
    ]
    assert [report.ours(row, rows)[0]["metric"] for row in published] == ["compression", "compression_snr"]


def test_pictures_of_the_priors(tmp_path):
    pictures.main(["--out", str(tmp_path)])
    assert {"fig1.png", "fig5.png", "overview.png"} == {p.name for p in tmp_path.iterdir()}


def test_a_driver_killed_in_the_middle_goes_on_where_it_was(glyphs):
    """SIGKILL after the first finished run; the second call repeats none."""
    words = ["--quick", "--data_root", str(glyphs), "--methods", "sn", "vd", "det"]
    results = Path(os.environ["DWP_PATH"]) / "quick/fig2.csv"
    process = in_another_process(fig2.DRIVER.main, words)
    deadline = time.time() + 120
    while not (results.exists() and read_rows(results)) and process.is_alive() and time.time() < deadline:
        time.sleep(0.02)
    process.kill()
    process.join()
    before = read_rows(results)
    fig2.DRIVER.main(words)
    rows = read_rows(results)
    assert rows[: len(before)] == before and sum(r["metric"] == "acc" for r in rows) == 3  # once each
    assert (results.parent / "fig2.png").exists()


def test_a_file_of_a_former_version_is_refused(tmp_path):
    (tmp_path / "rows.csv").write_text(
        "figure,panel,method,x,seed,metric,value,steps,device,commit,seconds,setting\nf,p,m,1,0,acc,1,1,,,,how\n"
    )
    for use in (lambda file: tidy_rows(file), lambda file: add_rows([dict.fromkeys(COLUMNS, "")], file), lambda file: run_grid([], file)):
        with pytest.raises(ValueError, match="written by a former version"):
            use(tmp_path / "rows.csv")


def test_jobs_that_others_bring_are_run_though_as_many_go(tmp_path, monkeypatch):
    """As where the choice of a driver changes with what has run."""
    monkeypatch.setattr(grid, "RESULTS", tmp_path)
    done = []

    def run(argv):
        done.append(argv[0])
        (tmp_path / argv[0]).mkdir()
        (tmp_path / argv[0] / "params.yaml").write_text("device: cpu")
        return tmp_path / argv[0]

    def jobs(args):
        names = ["one", "two"] if "one" not in done else ["one", "three"]
        return [Job("mnist", name, "", 0, [name], run, lambda folder: [dict(metric="acc", value=1, steps=1)]) for name in names]

    driver = grid.Driver("d", "", lambda parser: None, {}, lambda args: {"mnist": {}}, jobs, lambda rows: str(len(rows)))
    driver.main([])
    assert done == ["one", "two", "three"] and len(tidy_rows(tmp_path / "d.csv")) == 3


def begin_once(argv):
    """A run that says, whenever it begins, that it did."""
    folder = Path(argv[0])
    folder.mkdir(exist_ok=True)
    (folder / "params.yaml").write_text("device: cpu")
    with open(folder / "begun", "a") as begun:
        begun.write("x")
    time.sleep(0.3)
    return folder


def all_of(jobs, file):
    rows, failed = run_grid(jobs, file)
    assert len(rows) == 2 * len(jobs) and not failed


def two_numbers(run_dir):
    return [dict(metric=m, value=1, steps=1) for m in ("acc", "nll")]


def test_two_processes_on_one_grid_share_its_runs(tmp_path):
    """Each run is begun once, each row written once, and both processes end with all of them."""
    file = tmp_path / "rows.csv"
    jobs = [Job("p", "m", "x", seed, [str(tmp_path / str(seed))], begin_once, two_numbers) for seed in range(8)]
    processes = [in_another_process(all_of, jobs, file) for _ in range(2)]
    for process in processes:
        process.join(timeout=120)
        assert process.exitcode == 0
    rows = read_rows(file)
    assert len(rows) == 16 and len({(r["seed"], r["metric"]) for r in rows}) == 16
    assert [(tmp_path / str(seed) / "begun").read_text() for seed in range(8)] == ["x"] * 8


def test_options_are_packed_in_one_way_and_read_back():
    options = dict(hid_dim=(32, 64), epochs=600, raw=True, vae_list=["a b/c", "d"], lr=0, start="", validate=False, bs=None)
    text = pack(options)
    assert text == "epochs=600 hid_dim=32,64 lr=0 raw 'vae_list=a b/c,d'" == pack(unpack(text)) == pack(dict(reversed(options.items())))
    assert unpack(text) == dict(epochs="600", hid_dim="32,64", lr="0", raw=True, vae_list="a b/c,d") and unpack("") == {}
    assert sentence("epochs=600 hid_dim=32,64 raw", dict(epochs=10000)) == "reduced: 600 epochs, 32,64 filters, raw features"
    assert sentence("epochs=10000 var_lr=10", dict(epochs=10000, hid_dim="")) == "10000 epochs, var_lr 10"


def test_a_row_is_written_once_and_read_once(tmp_path):
    file = tmp_path / "rows.csv"
    row = dict.fromkeys(COLUMNS, "") | dict(figure="f", panel="p", method="m", x="50", seed=0, metric="acc", value=0.5)
    add_rows([row], file)
    add_rows([row | dict(value=0.7), row | dict(metric="nll")], file)
    assert [(r["metric"], r["value"]) for r in read_rows(file)] == [("acc", 0.5), ("nll", 0.5)]
    file.write_text(file.read_text() + "\n".join(file.read_text().splitlines()[1:]) + "\n")  # as former versions did
    assert len(read_rows(file)) == 4 and tidy_rows(file) == read_rows(file)[:2]
