"""Pruning by the posterior, the files of pruned nets, and the nets that are pruned."""

import copy

import numpy as np
import pytest
import torch
import yaml
from torch import nn

import train_bnn
from models import build_net
from models.bayes import bayes_layers, conv_layers, set_mode
from models.sources import layer_sources
from models.sparsity import check_chain, compression, dense_state, drop_dead, prune, sparse_state
from myexman.checkpoint import save_state
from utils import evaluate, load_run, load_weights, predict

X, Y = torch.rand(20, 1, 28, 28), torch.arange(20) % 10


@pytest.fixture
def net():
    net = build_net("lenet5", "bayes-all", (3, 4, 5), X, Y)
    for layer in bayes_layers(net):
        torch.nn.init.normal_(layer.mean.weight)
        torch.nn.init.uniform_(layer.var.weight, -3, 1)
    return net


@pytest.mark.parametrize("criterion, threshold", [("snr", 2.0), ("mean", 0.5), ("snr", 0.05), ("mean", 0.01)])
def test_what_is_kept_is_above_the_threshold(net, criterion, threshold):
    before = [(layer.mean.weight.clone(), layer.scale().detach()) for layer in bayes_layers(net)]
    counts = prune(net, criterion, threshold)
    for layer, (mean, scale), (kept, total) in zip(bayes_layers(net), before, counts.values()):
        score = (mean / scale).square() if criterion == "snr" else mean.abs()
        assert torch.equal(layer.mean.weight, torch.where(score >= threshold, mean, 0.0))
        assert kept == int((score >= threshold).sum()) and total == mean.numel()


def test_compression_counts_all_layers():
    assert compression({"a": (1, 10), "b": (3, 30)}) == 10
    assert compression({"a": (0, 10)}) == float("inf")


def test_layers_that_are_not_bayesian_count_as_kept():
    net = build_net("fconv", "bayes", (3, 4), X, Y)
    counts = prune(net, "mean", 1e9)
    assert counts == {"features.conv1": (0, 147), "features.conv2": (0, 300), "classifier": (360, 360)}
    assert compression(counts) == 807 / 360


def test_a_pruned_net_predicts_the_same_when_reloaded(net, tmp_path):
    prune(net, "mean", 1.0)
    set_mode(net, "det")
    save_state(sparse_state(net), tmp_path / "pruned.torch")
    plain = build_net("lenet5", "vanilla", (3, 4, 5), X, Y)
    plain.load_state_dict(dense_state(load_weights(tmp_path / "pruned.torch")))
    torch.testing.assert_close(predict(plain, X), predict(net, X))


@pytest.mark.parametrize("model, weights", [("lenet300", 266_200), ("lenet5", 430_500)])
def test_lenets_have_the_literatures_number_of_weights(model, weights):
    net = build_net(model, "bayes-all", None, X, Y)
    assert sum(layer.mean.weight.numel() for layer in bayes_layers(net)) == weights


def test_the_vgg_like_net():
    """Blocks of 2, 2, 3, 3 and 3 convolutions, each normalised and rectified; dropout between convolutions, none before a pooling."""
    net = build_net("vgg", "vanilla-do", None, torch.rand(10, 3, 32, 32), Y[:10])
    assert sum(p.numel() for p in net.parameters()) == 14_991_946
    kinds = [type(m) for m in net.features]
    step = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    assert kinds == [k for depth in (2, 2, 3, 3, 3) for k in [*[*step, nn.Dropout] * (depth - 1), *step, nn.MaxPool2d]]
    rates = [m.p for m in net.modules() if isinstance(m, nn.Dropout)]
    assert rates == pytest.approx([0.3] + [0.4] * 7 + [0.5] * 2)


def test_batch_norm_does_not_look_at_the_test_batch():
    x = torch.rand(6, 3, 32, 32)
    net = build_net("vgg", "bayes-all", (4, 4, 8, 8, 8), x, torch.arange(6))
    assert len(bayes_layers(net)) == 15
    net(x)  # moves the running statistics
    set_mode(net, "det")
    torch.testing.assert_close(predict(net, x)[:2], predict(net, x[:2]))


def test_a_sparse_run_from_the_command_line(digits, capsys):
    """Every option of the companion papers at once; the run leaves a pruned net that an ordinary net can load."""
    options = (
        "--model lenet300 --net_cfg bayes-all --hid_dim 6 5 --bs 20 --epochs 4 --eval_freq 4 --ens 2 --prior_list gamma loguniform ard"
    )
    more = "--logvarinit -7 --logvarinit_std 0.2 --max_logsigma -4 --kl_scale 0.5 --kl_anneal_epochs 2 --decrease_from 2 --prune mean"
    run = train_bnn.main(["--data", str(digits), *options.split(), *more.split()])
    assert "never counts whole" not in capsys.readouterr().err
    train_bnn.parse_args(["--epochs", "4", "--kl_anneal_epochs", "4"])
    assert "in --epochs 4 the KL term never counts whole" in capsys.readouterr().err
    state = load_weights(run / "model.torch")
    assert max(w.max() for name, w in state.items() if name.endswith("var.weight")) == -8
    adam = torch.load(run / "checkpoint.torch", weights_only=True)["opt"]["param_groups"][0]
    assert adam["lr"] == 0.5e-3  # one of two falling epochs is left
    report = yaml.safe_load((run / "pruning.yaml").read_text())
    net, _, test = load_run(run)
    assert abs(1 - evaluate(net, test)["mean_acc"] - report["error_before"]) < 1e-6
    plain = load_run(run, pruned=True)[0]
    assert abs(1 - evaluate(plain, test)["mean_acc"] - report["error"]) < 1e-6
    nonzero = {name: int((w != 0).sum()) for name, w in plain.state_dict().items() if name.endswith("weight")}
    assert nonzero == {f"{layer}.weight": kept for layer, (kept, _) in report["kept"].items()}


def test_a_run_of_a_fixed_rate_and_its_pruned_net(digits):
    """Gaussian dropout; resumed to be pruned, so hard that nothing is left."""
    words = "--model lenet300 --net_cfg bayes-all --hid_dim 20 20 --bs 10 --lr 0.01 --epochs 8 --ens 0 --prior_list dropout --alpha 0.1"
    run = train_bnn.main(["--data", str(digits), *words.split()])
    net, train, test = load_run(run)
    for layer in bayes_layers(net):
        torch.testing.assert_close(layer.scale(), 0.1**0.5 * layer.mean.weight.abs())
    train_bnn.main(["--resume", str(run), "--prune", "mean", "--threshold", "9"])
    plain = load_run(run, pruned=True)[0]
    assert predict(plain, train.x).std(0).max() < 1e-6  # the biases alone are left
    report = yaml.safe_load((run / "pruning.yaml").read_text())
    assert report["error_before"] == 1 - evaluate(net, test)["mean_acc"] < 0.3
    assert report["error"] == 1 - evaluate(plain, test)["mean_acc"] > 0.6
    for words, threshold in ((["--epochs", "9"], 9), (["--prune", "mean"], 0.01)):  # a threshold is of its criterion
        train_bnn.main(["--resume", str(run), *words])
        assert yaml.safe_load((run / "pruning.yaml").read_text())["threshold"] == threshold
    (run / "params.yaml").write_text("data: elsewhere")
    with pytest.raises(ValueError, match=r"not of a run of train_bnn\.py"):
        load_run(run)


def test_a_batch_of_one_image_is_refused(tmp_path):
    x, y = np.zeros((9, 32, 32, 3), np.uint8), np.arange(9) % 3
    np.savez(tmp_path / "tiny.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    with pytest.raises(ValueError, match="--bs 8 makes a minibatch of one of 9 images"):
        train_bnn.main(["--data", str(tmp_path / "tiny.npz"), "--model", "vgg", "--hid_dim", *"22222", "--bs", "8"])


def test_a_run_can_begin_where_another_ended(digits):
    """The former posterior is the prior: before the first step the KL term is zero."""
    words = "--model lenet300 --net_cfg bayes-all --hid_dim 6 5 --epochs 1 --ens 0"
    options = ["--data", str(digits), *words.split()]
    first = train_bnn.main(options)
    args = train_bnn.parse_args([*options, "--prior_list", f"posterior:{first}"])
    net = build_net("lenet300", "bayes-all", (6, 5), X, torch.arange(3))
    net.load_state_dict(load_weights(first / "model.torch"))
    layers = bayes_layers(net)
    priors = train_bnn.build_priors(args, layer_sources(net))
    assert all(prior.kl(layer.posterior()).abs() < 1e-4 for prior, layer in zip(priors, layers))
    second = train_bnn.main([*options, "--prior_list", f"posterior:{first}", "--start_from", str(first), "--lr", "0", "--permute", "1"])
    old, new = (load_weights(run / "model.torch") for run in (first, second))
    assert all(torch.equal(old[k], new[k]) for k in old)


@pytest.mark.parametrize("model, shape, widths", [("fconv", (1, 28, 28), (6, 9)), ("cifarnet", (3, 32, 32), (5, 6, 7))])
def test_filters_of_zeros_leave_a_net_and_its_optimiser_without_a_trace(model, shape, widths):
    x, y = torch.rand(8, *shape), torch.arange(8)
    net = build_net(model, "vanilla", widths, x, y).to(memory_format=torch.channels_last)
    opt = torch.optim.Adam(net.parameters(), lr=0.01, fused=True)

    def step(net, opt):
        opt.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        opt.step()

    step(net, opt)
    with torch.no_grad():
        for conv in conv_layers(net).values():
            for p in (conv.weight, conv.bias):
                p[[0, 3]] = 0
        opt.state[net.features.conv2.weight]["exp_avg"][1] += 1  # a filter that stays has a state of its own
    twin = copy.deepcopy(net)
    other = torch.optim.Adam(twin.parameters(), lr=0.01, fused=True)
    other.load_state_dict(copy.deepcopy(opt.state_dict()))
    with torch.no_grad():
        before = net(x)
        drop_dead(net, opt, 1e-6)
        torch.testing.assert_close(net(x), before, rtol=1e-4, atol=1e-5)
    assert [conv.out_channels for conv in conv_layers(net).values()] == [w - 2 for w in widths]
    for a, b in ((net, opt), (twin, other)):
        step(a, b)
    alive = [i for i in range(widths[1]) if i not in (0, 3)]
    inputs = [i for i in range(widths[0]) if i not in (0, 3)]
    torch.testing.assert_close(net.features.conv2.weight, twin.features.conv2.weight[alive][:, inputs], rtol=1e-3, atol=1e-4)


def test_a_net_without_a_living_filter_and_one_with_batch_normalisation_are_refused():
    net = build_net("fconv", "vanilla", (3, 4), torch.zeros(1, 1, 28, 28), torch.tensor([9]))
    with pytest.raises(ValueError, match="all filters of a layer have died"):
        drop_dead(net, None, 1e6)
    with pytest.raises(ValueError, match="batch normalisation"):
        drop_dead(build_net("vgg", "vanilla", (2, 2, 2, 2, 2), torch.zeros(1, 3, 32, 32), torch.tensor([9])), None, 0.1)


class Ways(nn.Module):
    """Two convolutions, the second of which sees more, or other, than the first's channels."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.first = nn.Conv2d(2, 4, 3, padding=1, groups=2 if way == "groups" else 1)
        self.second = nn.Conv2d(8 if way == "concatenated" else 4, 3, 3, groups=1)
        self.last = nn.Linear(3 * 36 + (4 if way == "past the next" else 0), 5)

    def forward(self, x):
        h = self.first(x)
        seen = {
            "skip": lambda: torch.relu(h) + x.repeat(1, 2, 1, 1),
            "concatenated": lambda: torch.cat([torch.relu(h), x, x], 1),
            "sigmoid": lambda: h.sigmoid(),
            "shuffled": lambda: torch.relu(h).roll(1, 1),
        }.get(self.way, lambda: torch.relu(h))()
        out = torch.relu(self.second(seen)).flatten(1)
        return self.last(torch.cat([out, h.mean((2, 3))], 1) if self.way == "past the next" else out)


@pytest.mark.parametrize("way", ["skip", "concatenated", "sigmoid", "shuffled", "groups", "past the next"])
def test_filters_leave_a_plain_chain_alone(way):
    x = torch.rand(2, 2, 8, 8)
    check_chain(Ways("plain"), x)
    with pytest.raises(ValueError, match="what first makes also reaches other layers, or is changed on the way"):
        check_chain(Ways(way), x)


@pytest.mark.parametrize("model, shape", [("fconv", (1, 28, 28)), ("cifarnet", (3, 32, 32)), ("lenet5", (1, 28, 28))])
def test_the_nets_here_are_plain_chains(model, shape):
    x = torch.rand(2, *shape)
    check_chain(build_net(model, "vanilla-do", None, x, torch.tensor([9])), x)
