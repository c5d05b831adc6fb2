"""The four scripts in order on a tiny data set, and what they say to a user's mistakes."""

import io
import os
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml

import prune_kernels
import train_bnn
import train_source
import train_vae_prior
from experiments import features
from models import prior_folder
from models.densities import IndependentGaussian
from models.prior_folder import ARTEFACTS
from models.screen import flatness
from myexman import Parser, status
from myexman.logger import read_rows
from utils import load_kernels, load_run, load_vae, load_weights, predict, run_cli

ROOT = Path(__file__).resolve().parents[1]
BNN = ["--num_examples", "30", "--hid_dim", "3", "4", "--epochs", "4", "--eval_freq", "2", "--ens", "2", "--init_list", "vae", "vae"]


def test_the_pipeline(digits, tmp_path):
    source = f"--data {digits} --hid_dim 3 4 --epochs 12 --eval_freq 6 --bs 16 --lr 0.01"
    runs = [train_source.main([*source.split(), "--seed", seed]) for seed in "01"]
    assert read_rows(runs[0] / "logs.csv")[-1]["mean_acc"] > 0.9  # the stripes are easy

    prune_kernels.main([*map(str, runs), "--out", str(tmp_path / "k"), "--keep", "1", "0.5"])
    kernels = {k: [np.load(tmp_path / f"k/conv{k}x{k}/{split}.npy") for split in ("train", "test")] for k in (5, 7)}
    assert [len(a) for a in kernels[7]] == [5, 1] and [len(a) for a in kernels[5]] == [10, 2]
    every = np.concatenate([load_weights(r / "model.torch")["features.conv2.weight"].numpy().reshape(-1, 25) for r in runs])
    kept = np.concatenate(kernels[5]).reshape(-1, 25)
    expected = every[np.argsort(-np.linalg.norm(every, axis=1))[:12]]
    assert np.array_equal(np.sort(kept[:, 0]), np.sort(expected[:, 0]))
    assert (tmp_path / "k/conv5x5/norms.png").exists()

    for k, z in ((7, 2), (5, 3)):
        coders = f"--kernel_dim {k} --z_dim {z} --hidden_dim 4 --num_epochs 4 --eval_freq 2 --bs 4 --no_screen"
        train_vae_prior.main([*coders.split(), "--data_dir", str(tmp_path / f"k/conv{k}x{k}"), "--out", str(tmp_path / f"vae{k}x{k}")])
    vaes = [str(tmp_path / "vae7x7"), str(tmp_path / "vae5x5")]
    assert {p.name for p in (tmp_path / "vae7x7").iterdir()} == set(ARTEFACTS)
    card = (tmp_path / "vae5x5/README.md").read_text()
    assert "nats per held-out kernel" in card and "10 for training and 2 held out" in card and load_vae(vaes[1]).z_dim == 3

    for prior in ("vae", "loguniform", "sn"):
        run = train_bnn.main(["--data", str(digits), *BNN, "--vae_list", *vaes, "--prior_list", prior, prior])
        rows = read_rows(run / "logs.csv")
        assert [row["epoch"] for row in rows] == [2, 4] and {"train_nll", "kl", "mean_acc", "one_nll", "ens_ece", "ens_brier"} <= set(
            rows[0]
        )
        assert {"features.conv1.mean.weight", "features.conv2.var.weight"} <= set(load_weights(run / "model.torch"))
        assert yaml.safe_load((run / "params.yaml").read_text())["prior_list"] == [prior, prior]
    # The Gaussian of the same kernels, one layer; the reading of its folder and the mistakes around it.
    gauss = ["--prior_list", "gauss", "sn", "--filters_list", f"{tmp_path}/k/conv7x7", "none"]
    assert read_rows(train_bnn.main(["--data", str(digits), *BNN, "--vae_list", *vaes, *gauss]) / "logs.csv")[-1]["kl"] > 0
    sources = f"--init_list filters pretrained --filters_list {tmp_path}/k/conv7x7 none --pretrained {run}/model.torch"
    plain = train_bnn.main(["--data", str(digits), *BNN[:-3], "--net_cfg", "vanilla", "--l2", "0.1", *sources.split()])
    assert "ens_acc" not in read_rows(plain / "logs.csv")[0]


@pytest.mark.parametrize("script", ["bnn", "source", "source, dead filters", "vae"])
def test_a_seed_repeats_a_run_and_an_interrupted_run_resumes_exactly(script, digits, priors, tmp_path, monkeypatch):
    np.save(tmp_path / "train.npy", np.random.default_rng(0).normal(size=(20, 1, 7, 7)))
    np.save(tmp_path / "test.npy", np.ones((2, 1, 7, 7)))
    bnn = [*BNN, "--vae_list", *priors, "--prior_list", "vae", "sn", "--kl_kernels", "2", "--bs", "16"]
    vae = ["--data_dir", tmp_path, "--num_epochs", 4, "--eval_freq", 2, "--bs", 8, "--hidden_dim", 8, "--no_screen", "--min_std", 0.05]
    source = ["--data", digits, "--epochs", 4, "--eval_freq", 2, "--bs", 16, "--hid_dim"]
    module, words, weights = {
        "bnn": (train_bnn, ["--data", digits, *bnn], "model.torch"),
        "source": (train_source, [*source, 3, 4], "model.torch"),
        "source, dead filters": (train_source, [*source, 40, 4, "--drop_dead", 0.2, "--l2", 0.1], "model.torch"),
        "vae": (train_vae_prior, vae, "vae_params.torch"),
    }[script]
    argv = [str(word) for word in words]
    whole, again = (load_weights(module.main(argv) / weights) for _ in range(2))
    assert all(torch.equal(whole[k], again[k]) for k in whole)

    class Killed(BaseException):
        pass

    name = "held_out" if script == "vae" else "evaluate"
    calls, evaluate = [], getattr(module, name)

    def kill_at_the_second_evaluation(*args, **kwargs):
        calls.append(1)
        if len(calls) > 1:
            raise Killed
        return evaluate(*args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(module, name, kill_at_the_second_evaluation)
        module.main(argv)
    run = sorted((Path(os.environ["DWP_PATH"]) / "runs").iterdir())[-1]
    of_second_epoch = {name: (run / name).read_bytes() for name in (weights, "logs.csv")}
    for _ in range(2):
        assert module.main(["--resume", str(run)]) == run
        resumed, rows = load_weights(run / weights), read_rows(run / "logs.csv")
        assert all(torch.equal(whole[k], resumed[k]) for k in whole) and [row["epoch"] for row in rows] == [2, 4]
        for name, content in of_second_epoch.items():  # as of a run that was stopped after its last epoch, before it was evaluated
            (run / name).write_bytes(content)
    if "dead" in script:  # some filters had left before the kill, others leave after it
        assert 40 > rows[0]["conv1_filters"] > rows[1]["conv1_filters"] == len(resumed["features.conv1.weight"])


def refuse(capsys, main, argv):
    """The single line that a script prints for a user's mistake."""
    with pytest.raises(SystemExit) as e:
        run_cli(lambda: main([str(a) for a in argv]))
    lines = capsys.readouterr().err.strip().splitlines()
    assert e.value.code == 2 and len(lines) == 1
    return lines[0]


def test_mistakes_get_one_line_and_status_2(digits, priors, tmp_path, capsys):
    bnn = ["--data", digits, *BNN]
    good = [*bnn, "--vae_list", *priors]
    flat = tmp_path / "flat"
    flat.mkdir()
    for split in ("train", "test"):
        np.save(flat / f"{split}.npy", np.ones((3, 1, 7, 7)))
    (tmp_path / "two").mkdir()
    for seed, split in enumerate(("train", "test")):
        np.save(tmp_path / "two" / f"{split}.npy", np.random.default_rng(seed).normal(size=(3, 1, 7, 7)))
    one = tmp_path / "one"
    one.mkdir()
    np.save(one / "train.npy", np.ones((1, 1, 7, 7)))
    cases = [
        (train_bnn.main, ["--data", "nonsense"], "unknown data set 'nonsense'"),
        (train_source.main, ["--data", "not-mnist"], f"looked for {tmp_path}/data/not-mnist.npz"),
        (train_bnn.main, [*good, "--prior_list", "vae", "vae", "vae"], "--prior_list needs one entry per layer: 2, got 3"),
        (train_bnn.main, [*good, "--prior_list", "vae", "spike"], "'spike'; choose from"),
        (train_bnn.main, [*bnn, "--prior_list", "sn", "sn"], "--vae_list gives nothing"),
        (train_bnn.main, [*bnn[:-3], "--prior_list", "vae", "vae"], "--vae_list gives nothing for it"),
        (train_bnn.main, [*good, "--prior_list", "posterior"], "choose from"),
        (train_bnn.main, [*good, "--prior_list", "posterior:gone"], "no weight file gone/model.torch"),
        (train_bnn.main, [*good, "--prior_list", "gamma", "--gamma_a", "0.5"], "needs a > 0.5"),
        (train_bnn.main, [*good, "--net_cfg", "vanilla", "--prune", "snr"], "--prune needs Bayesian layers"),
        (train_bnn.main, [*good, "--threshold", "1"], "give --prune too"),
        (train_bnn.main, [*good, "--net_cfg", "vanilla", "--alpha", "1"], "--alpha needs Bayesian layers"),
        (train_bnn.main, [*good, "--net_cfg", "vanilla", "--kl_scale", "0"], "--kl_scale needs Bayesian layers"),
        (train_bnn.main, [*good, "--alpha", "0"], "0 is not a number above 0"),
        (train_bnn.main, [*good, "--alpha", "1", "--prune", "snr"], "take mean"),
        (train_bnn.main, [*good, "--alpha", "1", "--logvarinit", "-3"], "--logvarinit is for a free variance; with --alpha"),
        (train_bnn.main, [*good, "--prior_list", "vd", "--max_logsigma", "-4"], "--max_logsigma is for the priors ard, "),
        (train_bnn.main, [*good, "--prior_list", "vd", "--logvarinit", "-3"], "--logvarinit is for the priors ard, "),
        (train_bnn.main, [*good, "--logitinit", "-3"], "--logitinit is for the priors vd, of which"),
        (train_bnn.main, [*good, "--alpha", "1", "--var_lr", "10"], "--var_lr is for a free variance; with --alpha"),
        (train_bnn.main, [*good, "--net_cfg", "vanilla", "--var_lr", "10"], "--var_lr needs Bayesian layers"),
        (train_bnn.main, [*good, "--prior_list", "vd", "--alpha", "1"], "leave one of them out"),
        (train_bnn.main, [*good, "--prior_list", "vd", "--gamma_a", "0.6"], "--gamma_a is for the priors gamma, student, of which"),
        (
            train_bnn.main,
            [*bnn[:-3], "--vae_list", *priors],
            "--vae_list is given, but nothing takes it: --init_list says xavier, --prior_list",
        ),
        (train_bnn.main, [*bnn[:-3], "--filters_list", one, "none"], "--filters_list is given, but nothing takes it"),
        (train_bnn.main, [*good, "--prior_list", "vae", "--bound", "iw"], "with one code equals the other bound"),
        (train_bnn.main, [*good, "--start_from", "run"], "--init_list is for a new net; with --start_from"),
        (train_bnn.main, [*good, "--kl_kernels", "4"], "--kl_kernels is for the priors chain, "),
        (train_bnn.main, [*good, "--prior_list", "gmm", "--train_reverse", "0"], "--train_reverse is for the priors chain, vae, of which"),
        (train_bnn.main, [*good, "--prior_list", "gauss", "--filters_list", one, "none"], "1 kernels, all of them alike, are too few"),
        (train_bnn.main, [*good, "--prior_list", "dropout"], "give --alpha"),
        (train_bnn.main, [*good, "--lr", "nan"], "nan is not a number from 0 up"),
        (train_bnn.main, [*good, "--logvarinit", "nan"], "nan is not a finite number"),
        (train_bnn.main, [*good, "--logvarinit", "relative:0"], "0 is not a number above 0"),
        (
            train_bnn.main,
            [*good, "--net_cfg", "bayes-all", "--prior_list", "vae"],
            "--prior_list says vae for classifier, but it has no kernels",
        ),
        (
            train_bnn.main,
            ["--data", digits, "--model", "lenet300"],
            "lenet300 has no layer of the class conv that it is given: take bayes-all",
        ),
        (features.main, ["--scale", "1/0"], "1/0 is not a fraction such as 1/4, above 0 and at most 16"),
        (features.main, ["--resume", tmp_path], "unrecognized arguments"),
        (train_bnn.main, [*good, "--prior_list", "gauss", "sn"], "--vae_list and --filters_list give a VAE for it"),
        (train_bnn.main, [*bnn, "--vae_list", *priors[::-1]], "has 5x5 kernels, features.conv1 has 7x7"),
        (train_bnn.main, [*bnn, "--vae_list", priors[0], tmp_path / "gone"], f"{tmp_path}/gone is not a prior folder"),
        (train_bnn.main, [*good, "--num_examples", "61"], "larger than the training set (60)"),
        (train_bnn.main, [*good, "--num_examples", "2"], "smaller than the number of classes (3)"),
        (train_bnn.main, [*good, "--net_cfg", "vanilla", "--prior_list", "sn", "sn"], "--prior_list needs Bayesian layers"),
        (train_bnn.main, [*good, "--hid_dim", "3"], "takes 2 widths, got 1"),
        (train_bnn.main, ["--config", tmp_path / "gone.yaml"], "No such file"),
        (train_bnn.main, ["--resume", tmp_path], "params.yaml"),
        (prune_kernels.main, [tmp_path / "gone", "--out", tmp_path / "k"], "no weight file"),
        (prune_kernels.main, [tmp_path / "gone", "--out", tmp_path / "k", "--keep", "1.5"], "1.5 is not a share, above 0 and at most 1"),
        (train_vae_prior.main, ["--data_dir", tmp_path], "no kernel file"),
        (train_vae_prior.main, ["--data_dir", flat, "--density", "gmm", "--z_dim", "3"], "--z_dim is not for --density gmm"),
        (train_vae_prior.main, ["--data_dir", flat, "--density", "gmm", "--lr", "1"], "--lr is not for --density gmm, which is fitted"),
        (prune_kernels.main, [flat, "--out", tmp_path / "k", "--spread", "nan"], "nan is not a ratio of quantiles"),
        (train_vae_prior.main, ["--data_dir", flat], "there is nothing to fit"),
        (train_vae_prior.main, ["--data_dir", tmp_path / "two", "--out", one / "train.npy" / "out"], "Not a directory"),
        (train_bnn.main, [*good, "--kl_kernels", "-1"], "-1 is not a number from 0 up"),
        (train_bnn.main, [*good, "--device", "abacus"], "--device"),
        (train_bnn.main, ["--conf", "params.yaml"], "unrecognized arguments"),
        (train_bnn.main, [*good, "--l2", "1"], "leave it out with --net_cfg bayes"),
    ]
    for main, argv, message in cases:
        assert message in refuse(capsys, main, argv), argv
    run = train_bnn.main([str(a) for a in good])
    capsys.readouterr()
    before = (run / "params.yaml").read_bytes()
    for words, message in (
        (["--hid_dim", 4, 4], "--resume goes on with --hid_dim [3, 4]"),
        (["--epochs", 2], "4 epochs of"),
        (["--threshold", 1], "give --prune too"),
    ):
        assert message in refuse(capsys, train_bnn.main, ["--resume", run, *words])
    assert (run / "params.yaml").read_bytes() == before
    for file, argv, message in (
        (run / "checkpoint.torch", ["--resume", run], "cannot resume"),
        (Path(priors[1]) / "vae_params.torch", good, "is damaged"),
    ):
        file.write_bytes(file.read_bytes()[:1000])
        assert message in refuse(capsys, train_bnn.main, argv)


@pytest.mark.parametrize("eval_freq", ["1", "2"])
@pytest.mark.parametrize("script", ["bnn", "source", "vae"])
def test_a_diverging_run_stops_and_keeps_the_last_good_state(script, eval_freq, digits, priors, tmp_path, capsys):
    bnn = [*BNN, "--vae_list", *priors, "--prior_list", "vae", "vae"]
    np.save(tmp_path / "train.npy", np.random.default_rng(0).normal(size=(20, 1, 7, 7)))
    np.save(tmp_path / "test.npy", np.ones((2, 1, 7, 7)))
    main, argv, weights = {
        "bnn": (train_bnn.main, ["--data", digits, *bnn], "model.torch"),
        "source": (train_source.main, ["--data", digits, "--hid_dim", "3", "4"], "model.torch"),
        "vae": (train_vae_prior.main, ["--data_dir", tmp_path], "vae_params.torch"),
    }[script]
    assert "at step" in refuse(capsys, main, [*argv, "--lr", "1e20", "--eval_freq", eval_freq])
    run = sorted((Path(os.environ["DWP_PATH"]) / "runs").iterdir())[-1]
    assert all(w.isfinite().all() for w in load_weights(run / weights).values())


@pytest.mark.parametrize("script", [train_source, train_bnn, train_vae_prior, prune_kernels])
def test_help_explains_every_flag(script, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(Parser, "format_help", lambda self, shown=Parser.format_help: seen.extend(self._actions) or shown(self))
    with pytest.raises(SystemExit) as e:
        script.parse_args(["--help"])
    assert e.value.code == 0 and len(seen) > 5 and all(action.help for action in seen)
    assert "(default: None)" not in capsys.readouterr().out


def test_a_run_under_variational_dropout_is_resumed_and_loaded(digits, priors):
    """From decoder means, which have no noise; the rates are in the state dict, and the net predicts as it did when it was saved."""
    argv = ["--data", str(digits), *BNN[:-3], "--vae_list", *priors, "--init_list", "vae-mean", "vae-mean", "--prior_list", "vd"]
    run = train_bnn.main(argv)
    train_bnn.main(["--resume", str(run), "--epochs", "6"])
    rates = load_weights(run / "model.torch")["features.conv1.rate"]
    assert rates.shape == (3, 1, 7, 7) and 0 < (rates + 2).abs().max() < 0.1  # from the release's logit
    net, _, test = load_run(int(run.name.split("-")[0]))  # by its number
    accuracy = (predict(net, test.x).argmax(1) == test.y).float().mean()
    assert read_rows(run / "logs.csv")[-1]["mean_acc"] == pytest.approx(float(accuracy))


def test_a_run_from_before_an_option_went_goes_on(digits):
    run = train_bnn.main(["--data", str(digits), "--hid_dim", "3", "4", "--epochs", "1", "--ens", "0"])
    params = (run / "params.yaml").read_text()
    (run / "params.yaml").write_text("kl_memory: false\n" + params)
    train_bnn.main(["--resume", str(run), "--epochs", "2"])
    (run / "params.yaml").write_text("kl_memory: true\n" + params)
    with pytest.raises(SystemExit):
        train_bnn.main(["--resume", str(run), "--epochs", "3"])


def test_a_net_is_pruned_whose_training_stopped_between_evaluations(digits):
    words = ["--data", str(digits), "--hid_dim", "3", "4", "--ens", "0", "--eval_freq", "1"]
    run = train_bnn.main([*words, "--epochs", "2"])
    (run / "logs.csv").write_text("".join((run / "logs.csv").read_text().splitlines(True)[:2]))  # that of the first epoch alone
    train_bnn.main(["--resume", str(run), "--prune", "mean"])
    report = yaml.safe_load((run / "pruning.yaml").read_text())
    net, _, test = load_run(run)
    assert report["error_before"] == pytest.approx(1 - float((predict(net, test.x).argmax(1) == test.y).float().mean()))


def test_options_that_do_not_go_together_leave_no_run(digits, capsys):
    for words in (["--threshold", "1"], ["--net_cfg", "vanilla", "--prune", "snr"], ["--prior_list", "sn:"], ["--kl_kernels", "4"]):
        refuse(capsys, train_bnn.main, ["--data", digits, "--hid_dim", "3", "4", *words])
    assert not Path(os.environ["DWP_PATH"]).exists()


@pytest.mark.parametrize("prior, part, start", [("sn", "var.weight", -10.0), ("vd", "rate", -2.0)])
def test_var_lr_is_a_factor_of_the_variances_rate_alone(prior, part, start, digits, priors):
    """After one step of Adam, which moves every weight by its rate. At 1 nothing changes, bit for bit."""
    argv = ["--data", str(digits), *BNN, "--vae_list", *priors, "--prior_list", prior, "--epochs", "1"]
    plain, one, ten = (load_weights(train_bnn.main([*argv, *more]) / "model.torch") for more in ([], ["--var_lr", "1"], ["--var_lr", "10"]))
    assert all(torch.equal(plain[name], one[name]) for name in plain)
    for name, w in plain.items():
        if name.endswith(part):
            torch.testing.assert_close(ten[name] - start, 10 * (w - start), rtol=1e-3, atol=1e-4)
            assert (w - start).abs().median() == pytest.approx(1e-3, rel=0.01)
        else:
            assert torch.equal(w, ten[name])


def test_a_run_with_var_lr_is_resumed_exactly(digits, priors):
    argv = ["--data", str(digits), *BNN, "--vae_list", *priors, "--prior_list", "vae", "--var_lr", "7", "--decrease_from", "100"]
    whole = train_bnn.main(argv)  # at a constant rate, so that fewer epochs are the beginning of more
    part = train_bnn.main([*argv, "--epochs", "2"])
    train_bnn.main(["--resume", str(part), "--epochs", "4"])
    one, other = (load_weights(run / "model.torch") for run in (whole, part))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_cpu_run_says_what_a_step_costs(digits, priors, capsys):
    train_bnn.main(["--data", str(digits), *BNN, "--vae_list", *priors, "--prior_list", "vae", "vae"])
    assert "--kl_kernels 256 takes" in capsys.readouterr().out


def test_pruning_by_norm(tmp_path, capsys):
    """The published cut by default, a cap on the number, the mean of a Bayesian net, two layers of one size."""
    w = torch.randn(40, 5, 5, 5)
    w *= torch.linspace(0.01, 1, 200).view(40, 5, 1, 1) / w.flatten(2).norm(dim=2)[..., None, None]
    state = {"conv2.mean.weight": w, "conv2.var.weight": w + 9, "conv3.weight": 2 * w, "fc.weight": torch.ones(3, 3)}
    torch.save(state, tmp_path / "net.torch")
    pool = str(tmp_path / "pool.torch")
    prune_kernels.main([str(tmp_path / "net.torch"), "--out", str(tmp_path / "k"), "--max_kernels", "100", "--pool", pool])
    for name, factor in (("conv5x5_1", 1), ("conv5x5_2", 2)):
        facts = yaml.safe_load((tmp_path / "k" / name / "pruning.yaml").read_text())
        assert facts["kept"] == int((factor * w.flatten(2).norm(dim=2) >= 0.13).sum()) and facts["train"] == 80 and facts["test"] == 20
        kernels = np.concatenate([np.load(tmp_path / "k" / name / f"{split}.npy") for split in ("train", "test")])
        norms = np.linalg.norm(kernels.reshape(100, 25), axis=1)
        assert norms.min() >= 0.13 and norms.max() < factor * 1.01 and len(np.unique(norms)) == 100
    prune_kernels.main([pool, "--out", str(tmp_path / "again"), "--max_kernels", "100"])  # the pool stands for the net
    facts = [yaml.safe_load((tmp_path / folder / "conv5x5_2/pruning.yaml").read_text()) for folder in ("k", "again")]
    assert facts[0] == facts[1] and facts[0]["kernels"] == 200  # also what was dropped before the pool was written
    assert "note" not in capsys.readouterr().err
    for cut, kept, note in (
        (["--keep", "0.3"], 60, 0),
        (["--keep", "1"], facts[0]["kept"], 2),
        (["--min_norm", "0.1"], facts[0]["kept"], 2),
    ):
        prune_kernels.main([pool, "--out", str(tmp_path / "other"), *cut])
        other = yaml.safe_load((tmp_path / "other/conv5x5_2/pruning.yaml").read_text())
        assert other["kept"] == kept and other["min_norm"] >= 0.13  # shares are of the net's kernels, cuts are never below the pool's
        assert capsys.readouterr().err.count("a pool holds its kernels of norm >= 0.13 alone") == note
    (tmp_path / "pool.torch.yaml").write_text("nets: 1\nkernels: {conv5x5: 200}\nsource: {}\n")
    with pytest.raises(ValueError, match="does not describe"):
        prune_kernels.main([pool, "--out", str(tmp_path / "other")])
    again = np.load(tmp_path / "again/conv5x5_2/train.npy")
    assert np.allclose(again, np.load(tmp_path / "k/conv5x5_2/train.npy"), rtol=1e-3, atol=1e-4)
    prune_kernels.main([str(tmp_path / "net.torch"), "--out", str(tmp_path / "scaled"), "--mean_norm", "0", "1.5"])  # one layer alone
    assert yaml.safe_load((tmp_path / "scaled/conv5x5_1/pruning.yaml").read_text())["scale"] == 1
    scaled = np.concatenate([np.load(tmp_path / f"scaled/conv5x5_2/{split}.npy") for split in ("train", "test")])
    norms = np.linalg.norm(scaled.reshape(-1, 25), axis=1)
    assert norms.mean() == pytest.approx(1.5, rel=1e-5) and norms.max() / norms.min() < 2 / 0.13


def test_a_cut_that_one_layer_lacks_leaves_the_others_as_they_were(tmp_path):
    torch.save({"a.weight": torch.randn(8, 8, 5, 5), "b.weight": torch.randn(8, 8, 3, 3)}, tmp_path / "net.torch")
    with pytest.raises(ValueError, match="no default cut for 3x3 kernels"):
        prune_kernels.main([str(tmp_path / "net.torch"), "--out", str(tmp_path / "k"), "--pool", str(tmp_path / "pool.torch")])
    for more in (["--min_norm", "0", "9"], ["--min_norm", "0", "--max_kernels", "1"]):
        with pytest.raises(ValueError, match="too few to split"):
            prune_kernels.main([str(tmp_path / "net.torch"), "--out", str(tmp_path / "k"), "--pool", str(tmp_path / "pool.torch"), *more])
    assert [file.name for file in tmp_path.iterdir()] == ["net.torch"]


def test_kernels_of_pools_that_overlap_come_once(tmp_path, capsys):
    """Else they would be in train.npy and test.npy both. Zeros, as of dead filters, may come often, and what one net has twice stays."""
    w = torch.randn(100, 1, 5, 5)
    w[:3], w[3] = 0, w[4]
    torch.save({"a.weight": w}, tmp_path / "all.torch")
    torch.save({"a.weight": torch.cat([w[:3], w[40:].half()])}, tmp_path / "some.torch")
    for names, n in ((["all"], 100), (["all", "some"], 103), (["pool"], 103)):
        files = [str(tmp_path / f"{name}.torch") for name in names]
        prune_kernels.main([*files, "--out", str(tmp_path), "--keep", "1", *(["--pool", str(tmp_path / "pool.torch")] if n > 100 else [])])
        assert sum(len(np.load(tmp_path / f"conv5x5/{split}.npy")) for split in ("train", "test")) == n
    assert capsys.readouterr().err.count("left out 60 kernels that another net has") == 1


def test_kernels_of_one_norm_without_the_flat_ones(tmp_path):
    w = torch.randn(200, 1, 5, 5) * torch.linspace(0.1, 2, 200).view(-1, 1, 1, 1)
    w[:60] = w[:60].mean((1, 2, 3), keepdim=True) + 0.01 * w[:60]  # flat, but for some noise
    torch.save({"conv.weight": w}, tmp_path / "net.torch")
    options = [str(tmp_path / "net.torch"), "--out", str(tmp_path), "--min_norm", "0.5"]
    prune_kernels.main([*options, "--max_flat", "0.8", "--norm", "0.3"])
    kernels = torch.from_numpy(np.concatenate([np.load(tmp_path / f"conv5x5/{split}.npy") for split in ("train", "test")]))
    facts = yaml.safe_load((tmp_path / "conv5x5/pruning.yaml").read_text())
    expected = w[60:][(w[60:].flatten(1).norm(dim=1) >= 0.5) & (flatness(w[60:]) <= 0.8)]
    assert len(kernels) == facts["kept"] == len(expected) and facts["kernels"] == 200
    torch.testing.assert_close(kernels.flatten(1).norm(dim=1), torch.full((len(kernels),), 0.3))
    cosine = F.normalize(kernels.flatten(1)) @ F.normalize(expected.flatten(1)).T
    assert (cosine.amax(0) > 1 - 1e-5).all()  # only their norms have changed
    with pytest.raises(ValueError, match=r"0 of 200 kernels have norm >= 0\.5 and flatness <= 1e-06"):
        prune_kernels.main([*options, "--max_flat", "1e-6"])
    pool = str(tmp_path / "pool.torch")
    prune_kernels.main([*options[:2], str(tmp_path / "again"), *options[3:], "--max_flat", "0.8", "--pool", pool])
    assert len(load_weights(pool)["conv5x5.weight"]) == int((w.flatten(1).norm(dim=1) >= 0.5).sum())  # the flat ones, too
    torch.save({"conv.weight": w * (torch.arange(200) > 0).view(-1, 1, 1, 1)}, tmp_path / "net.torch")
    with pytest.raises(ValueError, match="norm 0 cannot be scaled"):
        prune_kernels.main([*options[:3], "--min_norm", "0", "--norm", "0.3"])
    source = prior_folder.describe_source(facts)
    assert "each scaled to a norm of 0.3" in source and "equal weights is above 0.8" in source


@pytest.mark.parametrize(
    "layer, margin", [("fconv/{}7x7", 5), ("fconv/{}5x5", 2), ("cifar/{}7x7", 5), ("cifar/{}5x5_1", 1), ("cifar/{}5x5_2", 1)]
)
def test_the_shipped_priors_beat_an_independent_gaussian(layer, margin):
    """By at least this many nats per held-out kernel, as their cards say."""
    kernels, prior = (Path(__file__).resolve().parents[1] / "data" / layer.format(kind) for kind in ("conv", "vae"))
    train, test = (load_kernels(kernels / f"{split}.npy") for split in ("train", "test"))
    vae = load_vae(prior)
    elbo = np.mean([train_vae_prior.held_out(vae, test)["elbo"] for _ in range(5)])
    assert elbo > IndependentGaussian.fit(train).log_prob(test).mean() + margin


def test_the_seed_readmes_flags_parse():
    for script, words in {
        "train_source": "--data not-mnist --bs 256 --hid_dim 256 512 --l2 0.001 --model fconv --net_cfg vanilla --seed 3",
        "train_vae_prior": "--hidden_dim 32 --kernel_dim 7 --z_dim 2 --num_epochs 300 --data_dir data/fconv/conv7x7",
        "train_bnn": "--data mnist --data_split_seed 4 --num_examples 50 --epochs 10000 --model fconv --net_cfg bayes --hid_dim 32 128 "
        "--vae_list data/fconv/vae7x7/ data/fconv/vae5x5/ --init_list vae vae --prior_list vae vae --eval_freq 100",
    }.items():
        assert sys.modules[script].parse_args(words.split()).run_dir.exists()


def test_a_net_that_never_trained_is_not_taken_for_one_that_did(digits, tmp_path, monkeypatch, capsys):
    """A run that stopped before its first evaluation, one that failed before it began, one that stopped half-way, one given twice,
    and once more as a file."""
    source = ["--data", str(digits), "--hid_dim", "3", "4", "--bs", "16"]
    done = train_source.main([*source, "--epochs", "2"])
    assert list(prune_kernels.read_nets([done])) == [done]
    begun = tmp_path / "begun"
    shutil.copytree(done, begun)
    (begun / "logs.csv").unlink()
    failed = train_source.parse_args(source).run_dir
    half = tmp_path / "half"
    shutil.copytree(done, half)
    (half / "params.yaml").write_text((done / "params.yaml").read_text().replace("epochs: 2", "epochs: 20"))
    state = torch.load(half / "model.torch")
    torch.save({name: 2 * w for name, w in state.items()}, half / "model.torch")
    capsys.readouterr()
    runs = [done, begun, failed, half, done, done / "model.torch"]
    prune_kernels.main([*map(str, runs), "--out", str(tmp_path / "k"), "--keep", "1"])
    err = capsys.readouterr().err
    assert (
        err.count("stopped before its first evaluation") == 2
        and f"left out {done}: it is given twice" in err
        and "stopped after 2 of 20 epochs" in err
    )
    assert yaml.safe_load((tmp_path / "k/conv7x7/pruning.yaml").read_text())["nets"] == 2
    assert f"left out {done / 'model.torch'}: its kernels are those of {done}" in err  # which would be training and test kernels both
    assert "none of the runs" in refuse(capsys, prune_kernels.main, [begun, "--out", tmp_path / "k"])

    nets = [{f"conv{i}.weight": torch.randn(32, 32, 3, 3, generator=torch.Generator().manual_seed(i)) for i in range(2)} for _ in range(2)]
    nets[1]["conv1.weight"][0, 1] += 1  # one kernel of a thousand: no copy
    for i, net in enumerate(nets):
        torch.save(net, tmp_path / f"{i}.torch")
    words = [str(tmp_path / f"{i}.torch") for i in range(2)]
    prune_kernels.main([*words, "--out", str(tmp_path / "k"), "--keep", "1"])
    err = capsys.readouterr().err
    assert "its kernels are those of" not in err and f"{tmp_path}/k also holds conv5x5, conv7x7, of a former call" in err

    prior = tmp_path / "prior"
    shutil.copytree(ROOT / "data/fconv/vae7x7", prior)
    (prior / "logs.csv").unlink()
    with pytest.raises(ValueError, match="it is untrained"):
        load_vae(prior)
    bnn = train_bnn.main(["--data", str(digits), *BNN[:-3]])
    (bnn / "logs.csv").unlink()
    with pytest.raises(ValueError, match="it is untrained"):
        load_run(bnn)
    for words in (["--start_from", bnn], ["--prior_list", f"posterior:{bnn}"]):
        assert "it is untrained" in refuse(capsys, train_bnn.main, ["--data", digits, *BNN[:-3], *words])


def test_weights_in_other_wrappings_are_read(tmp_path):
    """Sparse, within a checkpoint, with the prefix of a net in parallel; several state dicts in one file, and NaN, are refused."""
    state = {"features.conv1.weight": torch.randn(4, 1, 7, 7)}
    file = tmp_path / "net.torch"
    for saved in (
        {name: w.to_sparse() for name, w in state.items()},
        {f"module.{name}": w for name, w in state.items()},
        dict(epoch=3, state_dict=state, opt=dict(lr=0.1)),
    ):
        torch.save(saved, file)
        assert torch.equal(load_weights(file)["features.conv1.weight"], state["features.conv1.weight"])
        assert list(prune_kernels.read_kernels(file)) == list(state)
    torch.save(dict(net=state, ema=state), file)
    with pytest.raises(ValueError, match="several state dicts, net, ema"):
        load_weights(file)
    torch.save({"w": torch.tensor([1.0, float("nan")])}, file)
    with pytest.raises(ValueError, match="w holds NaN"):
        load_weights(file)


def test_a_prior_is_published_whole_and_no_run_is_overwritten(tmp_path, capsys):
    np.save(tmp_path / "train.npy", np.random.default_rng(0).normal(size=(20, 1, 7, 7)))
    np.save(tmp_path / "test.npy", np.random.default_rng(1).normal(size=(4, 1, 7, 7)))
    fit = ["--data_dir", tmp_path, "--num_epochs", "1", "--hidden_dim", "8", "--no_screen"]
    first = train_vae_prior.main([str(word) for word in fit])
    before = (first / "vae_params.torch").read_bytes()
    (tmp_path / "link").symlink_to(first)
    assert "is the folder of another run" in refuse(capsys, train_vae_prior.main, [*fit, "--out", tmp_path / "link"])
    assert train_vae_prior.main(["--resume", str(first), "--out", str(first)]) == first  # its own folder: nothing to copy
    assert (first / "vae_params.torch").read_bytes() == before
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "README.md").write_text("my notes")
    assert "holds other files" in refuse(capsys, train_vae_prior.main, [*fit, "--out", mine])
    out = tmp_path / "prior"
    for words, files in ((fit, ARTEFACTS), ([*fit, "--z_dim", "3"], set(ARTEFACTS) - {"latent.png"})):
        train_vae_prior.main([str(word) for word in [*words, "--out", out]])
        assert {p.name for p in out.iterdir()} == set(files) and load_vae(out)
    before = {p.name: p.read_bytes() for folder in (out, first) for p in folder.iterdir() if p.is_file()}
    train_vae_prior.main(["--config", str(out / "params.yaml"), "--seed", "1"])  # as `python -m myexman rerun`
    assert before == {p.name: p.read_bytes() for folder in (out, first) for p in folder.iterdir() if p.is_file()}


def test_a_prior_folder_that_is_no_run_is_not_resumed_and_stays_as_it_was(tmp_path, capsys):
    folder = tmp_path / "prior"
    shutil.copytree(ROOT / "data/fconv/vae7x7", folder)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert "nothing to resume" in refuse(capsys, train_vae_prior.main, ["--resume", folder, "--num_epochs", "500"])
    assert before == {p.name: p.read_bytes() for p in folder.iterdir()}


def test_a_refused_resume_leaves_a_finished_run_as_it_was(tmp_path, monkeypatch, capsys):
    np.save(tmp_path / "train.npy", np.random.default_rng(0).normal(size=(20, 1, 7, 7)))
    np.save(tmp_path / "test.npy", np.random.default_rng(1).normal(size=(4, 1, 7, 7)))
    words = ["--data_dir", str(tmp_path), "--num_epochs", "2", "--hidden_dim", "8", "--no_screen"]
    run = train_vae_prior.main(words)
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    assert "2 epochs of" in refuse(capsys, train_vae_prior.main, ["--resume", run, "--num_epochs", "1"])
    (tmp_path / "train.npy").rename(tmp_path / "elsewhere.npy")
    assert "no kernel file" in refuse(capsys, train_vae_prior.main, ["--resume", run, "--num_epochs", "3"])
    assert before == {p.name: p.read_bytes() for p in run.iterdir()}
    (tmp_path / "elsewhere.npy").rename(tmp_path / "train.npy")
    with monkeypatch.context() as broken, pytest.raises(RuntimeError):  # one that is resumed, and then fails, has failed
        broken.setattr(train_vae_prior, "train_epoch", lambda *_: (_ for _ in ()).throw(RuntimeError("a fault")))
        train_vae_prior.main(["--resume", str(run), "--num_epochs", "3"])
    assert status(run)["state"] == "failed"
    train_vae_prior.main(["--resume", str(run), "--num_epochs", "3"])
    card = (run / "README.md").read_text()
    assert "The run was resumed" in card and f"train_vae_prior.py --resume {run} --num_epochs 3" in card


def test_kernels_are_looked_at_before_training_and_a_card_that_fails_loses_nothing(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    good = dict(train=rng.normal(size=(20, 1, 7, 7)), test=rng.normal(size=(4, 1, 7, 7)))
    fit = ["--data_dir", tmp_path, "--num_epochs", "1", "--no_screen", "--out", tmp_path / "prior"]
    nan = good["test"].copy()
    nan[1, 0, 3, 3] = np.nan
    for wrong, message in (
        (dict(train=good["train"][:1]), "there is nothing to fit"),
        (dict(train=np.repeat(good["train"][:1], 5, 0)), "there is nothing to fit"),
        (dict(test=nan), "hold NaN or infinity"),
        (dict(test=rng.normal(size=(4, 1, 5, 5))), "holds 5x5 kernels"),
    ):
        for split, kernels in (good | wrong).items():
            np.save(tmp_path / f"{split}.npy", kernels)
        assert message in refuse(capsys, train_vae_prior.main, fit)
    dead = good["train"].copy()
    dead[:, :, 0, 0] = 0  # a weight that is always 0 is no mistake
    for split, kernels in (good | dict(train=dead)).items():
        np.save(tmp_path / f"{split}.npy", kernels)
    train_vae_prior.main([str(word) for word in fit])
    assert "warning" not in capsys.readouterr().err and "nan" not in (tmp_path / "prior/README.md").read_text()

    def fail(*args):
        raise RuntimeError("no font")

    monkeypatch.setattr(prior_folder, "plot_kernels", fail)
    np.save(tmp_path / "test.npy", np.concatenate([good["test"][:2], dead[:1]]))
    train_vae_prior.main([str(word) for word in fit])
    err = capsys.readouterr().err
    assert "1 of 3 held-out kernels are training kernels" in err
    assert "warning: no pictures: no font" in err and load_vae(tmp_path / "prior")
    assert not (tmp_path / "prior/kernels.png").exists() and (tmp_path / "prior/README.md").exists()


@pytest.mark.parametrize("module", [train_source, prune_kernels, train_vae_prior, train_bnn], ids=lambda module: module.__name__)
def test_scripts_without_docstrings_and_in_a_terminal_without_unicode(module, monkeypatch):
    """python -OO drops docstrings; latin-1 has no dash of this width."""
    monkeypatch.setattr(module, "__doc__", None)
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", terminal)
    with pytest.raises(SystemExit) as e:
        run_cli(lambda: (print("–"), module.main(["--help"])))
    terminal.flush()
    assert not e.value.code and terminal.buffer.getvalue().startswith(b"?\nusage:")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e9, 2.0])
def test_a_density_that_samples_out_of_all_proportion_is_no_prior(value):
    density = SimpleNamespace(sample=lambda n: torch.full((n, 1, 3, 3), value))
    with nullcontext() if value == 2 else pytest.raises(FloatingPointError, match="try a smaller --lr"):
        train_vae_prior.check_samples(density, torch.ones(5, 1, 3, 3))
