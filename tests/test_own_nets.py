"""Nets and kernels that users bring: a net of a file of their own, nets of several architectures, and what cannot be built."""

import errno
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from filelock import FileLock

import prune_kernels
import train_bnn
import train_source
from experiments.methods import fingerprint, options
from models import build_net
from models.bayes import conv_layers, is_stochastic, set_mode
from models.kernel_folder import load_kernels
from models.prior_folder import trained_weights
from myexman import acquire
from myexman.parser import code_hash
from utils import load_run

from .conftest import write_prior
from .test_pipeline import refuse

NET = """
from torch import nn

class Net(nn.Module):
    in_channels, image_size, default_hid_dim = 1, 28, (4,)

    def __init__(self, hid_dim=default_hid_dim, classes=10, conv=nn.Conv2d, linear=nn.Linear{more}):
        super().__init__()
        self.features = nn.Sequential(conv(1, hid_dim[0], 5{options}), nn.MaxPool2d(4), nn.ReLU(), nn.Flatten())
        self.{name} = linear(hid_dim[0] * 36, classes)

    def forward(self, x):
        return self.{name}(self.features(x))

class Other(nn.Module):
    pass
"""


def write_net(file, more=", dropout=0.0", options="", name="classifier"):
    file.write_text(NET.format(more=more, options=options, name=name))
    return f"{file}:Net"


def test_a_net_of_ones_own_file_is_trained_resumed_and_loaded(digits, priors, tmp_path, monkeypatch):
    """By a path that is relative to where it was begun."""
    write_net(tmp_path / "net.py")
    monkeypatch.chdir(tmp_path)
    words = ["--data", str(digits), "--model", "net.py:Net", "--epochs", "1", "--ens", "0"]
    source = train_source.main([*words[:-2], "--lr", "0.01"])
    prune_kernels.main([str(source), "--out", "kernels", "--keep", "1"])
    assert load_kernels(tmp_path / "kernels/conv5x5/train.npy").shape[1:] == (1, 5, 5)
    argv = [*words, "--prior_list", "vae", "--init_list", "vae", "--vae_list", priors[1]]
    run, former = train_bnn.main(argv), code_hash("train_bnn.py", tuple(argv))
    write_net(tmp_path / "net.py", more=", dropout=0.5")
    assert code_hash("train_bnn.py", (*argv, "another")) != former  # code of another file is other code
    write_net(tmp_path / "net.py")
    monkeypatch.chdir("/")
    assert train_bnn.main(["--resume", str(run), "--epochs", "2"]) == run
    net, _, test = load_run(run)
    assert type(net).__name__ == "Net" and net(test.x).shape == (30, 3)
    assert yaml.safe_load((run / "params.yaml").read_text())["model"] == f"{tmp_path}/net.py:Net"
    shutil.move(tmp_path / "net.py", priors[0])
    assert train_bnn.main(["--resume", str(run), "--epochs", "3", "--model", f"{priors[0]}/net.py:Net"]) == run
    Path(priors[0], "net.py").unlink()
    with pytest.raises(FileNotFoundError, match="which defines the net Net"):
        load_run(run)


@pytest.mark.parametrize(
    "model, words, message",
    [
        ("gone.py:Net", [], "neither one of cifarnet, "),
        ("net.py:Other", [], "lacks in_channels, image_size, default_hid_dim"),
        ("net.py:Missing", [], "has no class Missing"),
        (dict(more=""), ["--net_cfg", "vanilla-do"], "got an unexpected keyword argument 'dropout'"),
        (dict(options=", groups=2"), [], "a Bayesian convolution takes no groups"),
        (dict(options=", 1, 0, 2"), [], "a Bayesian convolution takes no dilation"),
        (dict(options=", padding_mode='circular'"), [], "a Bayesian convolution takes no padding_mode"),
        (dict(name="head"), [], "has no classifier: a net is `features` and then a `classifier`"),
    ],
)
def test_a_net_that_cannot_be_built_is_refused_in_a_line(model, words, message, digits, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_net(tmp_path / "net.py")
    if isinstance(model, dict):
        model = write_net(tmp_path / "own.py", **model)
    assert message in refuse(capsys, train_bnn.main, ["--data", digits, "--model", model, *words])


@pytest.mark.parametrize("net_cfg", ["vanilla", "bayes", "bayes-all"])
def test_weights_beyond_the_memory_are_refused_before_they_are_made(net_cfg):
    """The two of a Bayesian layer, too: shapes alone are looked at."""
    with pytest.raises(ValueError, match=r"the weights of fconv for --hid_dim 1000000 1000000: .* GB do not fit"):
        build_net("fconv", net_cfg, (1_000_000, 1_000_000), torch.zeros(2, 1, 28, 28), torch.arange(2))


def test_a_device_without_values_and_a_file_after_a_list_of_numbers_are_refused(digits, tmp_path, capsys):
    assert "--device: meta: " in refuse(capsys, train_bnn.main, ["--data", digits, "--device", "meta"])
    said = refuse(capsys, prune_kernels.main, ["--out", tmp_path / "k", "--keep", "1", digits])
    assert f"'{digits}' is not a number: arguments without a flag must come first" in said


def test_kernels_of_nets_that_differ_are_taken_together_by_size(tmp_path, capsys):
    """As many layers, widths and names as they have; the numbers of what was kept add up."""
    nets = {"one": {"a": (6, 2, 3), "b": (4, 6, 5)}, "two": {"x": (3, 1, 3), "y": (5, 3, 3), "z": (2, 5, 5)}}
    for i, (name, layers) in enumerate(nets.items()):
        torch.save({f"{layer}.weight": torch.full((*n, k, k), i + 1.0) for layer, (*n, k) in layers.items()}, tmp_path / f"{name}.pt")
    files = [str(tmp_path / f"{name}.pt") for name in nets]
    assert "or take all kernels of a size together with --by_size" in refuse(
        capsys, prune_kernels.main, [*files, "--out", tmp_path, "--keep", 1]
    )
    prune_kernels.main([*files, "--out", str(tmp_path / "k"), "--by_size", "--keep", "1"])
    prune_kernels.main(
        [*files, "--out", str(tmp_path / "apart"), "--by_size", "--min_norm", "4", "6", "--pool", str(tmp_path / "pool.torch")]
    )
    assert [len(list((tmp_path / f"apart/conv{k}x{k}").iterdir())) for k in (3, 5)] == [4, 4]  # |w| is 3 or 6, and 5 or 10
    norms = [[load_kernels(tmp_path / f"apart/conv{k}x{k}/train.npy").flatten(1).norm(dim=1).min()] for k in (3, 5)]
    assert norms == [[6.0], [10.0]]
    torch.save({"a.weight": torch.ones(9, 2, 3, 3)}, tmp_path / "small.pt")  # has no 5x5 kernels
    again = [str(tmp_path / "pool.torch"), str(tmp_path / "small.pt"), "--out", str(tmp_path / "again"), "--by_size", "--keep", "1"]
    prune_kernels.main(again)
    said = [yaml.safe_load((tmp_path / f"again/conv{k}x{k}/pruning.yaml").read_text()) for k in (3, 5)]
    assert [(facts["kernels"], facts["kept"], facts["nets"]) for facts in said] == [(48, 36, 3), (34, 10, 3)]
    for k, counts in ((3, (12, 18)), (5, (24, 10))):
        kernels = torch.cat([load_kernels(tmp_path / f"k/conv{k}x{k}/{split}.npy") for split in ("train", "test")])
        assert [int((kernels == i).all((1, 2, 3)).sum()) for i in (1, 2)] == list(counts)
        assert yaml.safe_load((tmp_path / f"k/conv{k}x{k}/pruning.yaml").read_text())["kernels"] == sum(counts)


def test_the_default_prior_is_said_in_params_yaml(digits):
    """So that it can be looked for; a run from before, which did not say it, goes on."""
    words = ["--data", str(digits), "--hid_dim", "3", "4", "--epochs", "1", "--ens", "0"]
    run = train_bnn.main(words)
    file = run / "params.yaml"
    assert yaml.safe_load(file.read_text())["prior_list"] == ["sn"]
    assert yaml.safe_load((train_bnn.main([*words, "--net_cfg", "vanilla"]) / "params.yaml").read_text())["prior_list"] is None
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | dict(prior_list=None)))
    assert train_bnn.main(["--resume", str(run), "--epochs", "2"]) == run
    plain = train_bnn.main(["--config", str(run / "params.yaml"), "--net_cfg", "vanilla"])
    assert yaml.safe_load((plain / "params.yaml").read_text())["prior_list"] is None


@pytest.mark.parametrize("error", [OSError(errno.ENOLCK, "No locks available"), NotImplementedError("flock")])
def test_a_file_system_without_locks_is_named(error, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise error

    lock = FileLock(tmp_path / "lock")
    monkeypatch.setattr(lock, "_acquire", fail)
    with pytest.raises(OSError, match=f"the file system of {tmp_path} has no locks"):
        acquire(lock)


def test_a_run_that_is_not_there_is_a_value_error():
    with pytest.raises(ValueError, match="no run 99999 under"):
        load_run(99999)


def test_priors_of_one_name_are_told_apart_in_rows(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_prior(tmp_path / name / "vae7x7", 7)
    shutil.copytree(tmp_path / "a/vae7x7", tmp_path / "copy/vae7x7")
    rows = [options("mnist", 600, priors=[tmp_path / name / "vae7x7"])["vae_list"] for name in ("a", "b", "copy")]
    assert rows[0] == rows[2] != rows[1] and rows[0] == [f"vae7x7@{fingerprint(tmp_path / 'a/vae7x7')}"]


OTHERS = """
import torch
from net import Net

class Drop2d(Net):
    def __init__(self, dropout=0.0, **options):
        super().__init__(**options)
        self.features.insert(1, torch.nn.Dropout2d(dropout))

class Functional(Net):
    def forward(self, x):
        return self.classifier(torch.nn.functional.dropout(self.features(x), 0.5, self.training))

class Deaf(Net):
    def __init__(self, hid_dim=(4,), classes=10, conv=None, linear=None, dropout=0.0):
        super().__init__(hid_dim, classes)

class Idle(Net):
    def __init__(self, conv=torch.nn.Conv2d, **options):
        super().__init__(conv=conv, **options)
        self.features.spare = conv(1, 2, 3)

    def forward(self, x):
        return self.classifier(self.features[:4](x))

class View(Net):
    def forward(self, x):
        h = self.features[:-1](x)
        return self.classifier(h.view(len(h), -1))

class Softmax(Net):
    def forward(self, x):
        return super().forward(x).softmax(1)

class Ten(Net):
    def __init__(self, classes=10, **options):
        super().__init__(**options)

class Width(Net):
    default_hid_dim = 4

class Stages(Net):
    stages = (2,)

class Steps(Net):
    def __init__(self, dropout=0.0, **options):
        self.rates = [rate.item() for rate in torch.linspace(0, dropout, 2)]
        self.table = torch.ones(2).numpy()
        super().__init__(**options)

class Blurred(Net):
    def __init__(self, **options):
        super().__init__(**options)
        blur = torch.nn.Conv2d(1, 1, 3, padding=1, bias=False).requires_grad_(False)
        blur.weight.fill_(1 / 9)
        self.features.insert(0, blur)

class Normed(Net):
    def __init__(self, **options):
        super().__init__(**options)
        torch.nn.utils.parametrizations.weight_norm(self.features[0])

class Stem(Net):
    def __init__(self, **options):
        super().__init__(**options)
        self.stem = torch.nn.Conv2d(1, 1, 1)

    def forward(self, x):
        return super().forward(self.stem(x))

class Var(Net):
    def __init__(self, conv=torch.nn.Conv2d, **options):
        super().__init__(conv=conv, **options)
        self.features = torch.nn.Sequential()
        for name in ("mean", "var"):
            self.features.add_module(name, conv(1, 1, 5, padding=2))
        self.features.add_module("end", torch.nn.Sequential(torch.nn.Conv2d(1, 4, 5), torch.nn.MaxPool2d(4), torch.nn.Flatten()))
"""


@pytest.fixture
def others(tmp_path, monkeypatch):
    """The file of OTHERS, beside net.py."""
    write_net(tmp_path / "net.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "net", raising=False)
    (tmp_path / "others.py").write_text(OTHERS)
    return tmp_path / "others.py"


@pytest.mark.parametrize("name, net_cfg", [("Drop2d", "vanilla-do"), ("Functional", "bayes")])
def test_dropout_of_any_kind_is_off_where_a_net_is_deterministic(name, net_cfg, others):
    x, y = torch.rand(6, 1, 28, 28), torch.arange(6)
    net = build_net(f"{others}:{name}", net_cfg, None, x, y)
    assert is_stochastic(net)
    for word, same in (("stoch", False), ("sample", False), ("det", True)):
        set_mode(net, word)
        assert torch.equal(net(x), net(x)) == same


@pytest.mark.parametrize("net_cfg, on", [("vanilla", False), ("vanilla-do", True)])
def test_dropout_is_of_net_cfg_and_not_a_class_default(net_cfg, on, tmp_path, capsys):
    model = write_net(tmp_path / "net.py", more=", dropout=0.3", options="), nn.Dropout(dropout")
    assert is_stochastic(build_net(model, net_cfg, None, torch.rand(2, 1, 28, 28), torch.arange(2))) == on
    assert f"dropout at rate {0.5 if on else 0:g}, as --net_cfg {net_cfg} says, not at its own 0.3" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, words, message",
    [
        ("Deaf", [], "--net_cfg bayes would change nothing: .*:Deaf has no layer of the class conv that it is given: take bayes-all"),
        ("Deaf", ["--net_cfg", "bayes-all"], "has no layer of the class conv or linear that it is given"),
        ("Deaf", ["--net_cfg", "vanilla-do"], "has no torch.nn.Dropout with the rate `dropout`"),
        ("Idle", [], r"forward\(\) never calls features.spare: its kernels would learn from the KL term alone"),
        ("View", [], r"images lie channels last, so flatten\(1\) has to take the place of view\(\)"),
        ("Softmax", [], "gives probabilities, and should give logits"),
        ("Ten", [], r"must give 3 numbers for an image, one per class \(`classes`\): for 2 it gives \(2, 10\)"),
        ("Width", [], "default_hid_dim of Width must be a tuple of widths, not 4"),
        ("Normed", ["--net_cfg", "vanilla"], r"computed from other tensors \(weight_norm, spectral_norm\), and cannot be set"),
        ("Stem", [], "stem is in neither `features` nor `classifier`"),
        ("Stages", [], "the net's `stages` add up to 2 convolutions, and it has 1 of them"),
    ],
)
def test_a_net_that_would_be_wrong_without_a_word_is_refused_in_a_line(name, words, message, others, digits, capsys):
    said = refuse(capsys, train_bnn.main, ["--data", digits, "--model", f"{others}:{name}", *words])
    assert re.search(message, said), said


def test_frozen_filters_stay_as_their_class_made_them(others, digits, capsys):
    words = ["--data", str(digits), "--model", f"{others}:Blurred", "--epochs", "1"]
    for script, more in ((train_source, []), (train_bnn, ["--ens", "0"])):
        run = script.main([*words, *more])
        assert torch.equal(trained_weights(run)["features.0.weight"], torch.full((1, 1, 3, 3), 1 / 9))
        assert "features.0 is frozen" in capsys.readouterr().err


@pytest.mark.parametrize("net_cfg", ["vanilla", "bayes"])
def test_a_layer_may_be_called_as_a_part_of_a_bayesian_one(net_cfg, others):
    net = build_net(f"{others}:Var", net_cfg, None, torch.rand(2, 1, 28, 28), torch.arange(2))
    assert list(conv_layers(net)) == ["features.mean", "features.var", "features.end.0"]


def test_a_run_whose_net_has_another_file_now_is_not_resumed(others, digits, capsys):
    run = train_bnn.main(["--data", str(digits), "--model", f"{others}:Functional", "--epochs", "1", "--ens", "0"])
    load_run(run)
    assert "warning" not in capsys.readouterr().err
    others.write_text(OTHERS.replace("0.5", "0.25"))
    assert "other code of its net (FILE.py) than it finds now" in refuse(capsys, train_bnn.main, ["--resume", run, "--epochs", "2"])
    load_run(run)
    assert "had other code of its net" in capsys.readouterr().err


def test_a_net_of_a_former_run_is_loaded_as_it_is(others, digits):
    """Though a new one of that class would be refused."""
    others.write_text(OTHERS.replace(".softmax(1)", ""))
    run = train_bnn.main(["--data", str(digits), "--model", f"{others}:Softmax", "--epochs", "1", "--ens", "0"])
    others.write_text(OTHERS)
    net, _, test = load_run(run)
    assert torch.allclose(net(test.x).sum(1), torch.ones(30))


def test_a_net_that_computes_while_it_is_made_is_made(others):
    """It cannot be looked at without its weights."""
    net = build_net(f"{others}:Steps", "bayes", None, torch.rand(2, 1, 28, 28), torch.arange(2))
    assert net.rates == [0, 0] and is_stochastic(net)


def test_filters_without_a_bias_are_dropped(digits, tmp_path):
    model = write_net(tmp_path / "net.py", options=", bias=False")
    run = train_source.main(["--data", str(digits), "--model", model, "--epochs", "1", "--drop_dead", "0.6"])
    state = trained_weights(run)
    assert len(state["features.0.weight"]) < 4 and "features.0.bias" not in state


def test_what_neither_the_prior_nor_the_start_of_a_layer_takes_is_refused(digits, priors, tmp_path):
    """Though another layer, or the net's options as a whole, may have a use for it."""
    for k in (7, 5):
        (tmp_path / f"k{k}").mkdir()
        np.save(tmp_path / f"k{k}/train.npy", torch.randn(60, 1, k, k).numpy())
    kernels = ["--filters_list", str(tmp_path / "k7"), str(tmp_path / "k5")]
    words = ["--data", str(digits), "--hid_dim", "2", "3", "--epochs", "1", "--ens", "0", "--vae_list", *priors]
    with pytest.raises(ValueError, match=r"--vae_list gives something for features\.conv1 that neither"):
        train_bnn.main([*words, *kernels, "--init_list", "filters", "--prior_list", "gauss"])
    with pytest.raises(ValueError, match=r"--filters_list gives something for features\.conv1 that neither"):
        train_bnn.main([*words, *kernels, "--init_list", "vae", "filters", "--prior_list", "vae"])
    with pytest.raises(ValueError, match=r"--vae_list gives something for features\.conv2 that neither"):
        train_bnn.main([*words, "--init_list", "vae", "xavier", "--prior_list", "vae", "sn"])
    train_bnn.main([*words, *kernels, "--init_list", "vae", "--prior_list", "gauss"])  # each has its use
