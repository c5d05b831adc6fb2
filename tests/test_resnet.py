"""3x3 kernels: the residual net, its stages, and the pipeline on it."""

import numpy as np
import pytest
import torch
from torch import nn

import prune_kernels
import train_bnn
import train_source
import train_vae_prior
from models import build_net
from models.bayes import BayesConv2d, bayes_layers, conv_layers
from models.sources import layer_sources, one_per_layer
from myexman.logger import read_rows
from utils import load_kernels, load_run

from .conftest import write_prior

X, Y = torch.rand(10, 3, 32, 32), torch.arange(10)
IMAGES = (255 * X.permute(0, 2, 3, 1)).byte()
NARROW = (2, 3, 4)
CONVS = 19  # of 3x3 kernels


def test_resnet20_is_the_literatures():
    """Its number of parameters, with 1x1 shortcuts (He et al. 2016: 0.27 million)."""
    net = build_net("resnet", "vanilla", None, X, Y)
    assert sum(p.numel() for p in net.parameters()) == 272_474
    assert net.features[:-2](X).shape == (10, 64, 8, 8) and net(X).shape == (10, 10)


def test_a_block_without_its_convolutions_is_its_shortcut():
    net = build_net("resnet", "vanilla", NARROW, X, Y).eval()
    block, x = net.features[3], torch.rand(2, 2, 8, 8)
    nn.init.zeros_(block.conv2.weight)
    torch.testing.assert_close(block(x), x)


@pytest.mark.parametrize("cfg, bayesian", [("vanilla", 0), ("bayes", CONVS), ("bayes-all", CONVS + 2 + 1)])
def test_shortcuts_are_bayesian_where_linear_layers_are(cfg, bayesian):
    net = build_net("resnet", cfg, NARROW, X, Y)
    assert len(bayes_layers(net)) == bayesian
    shortcuts = [m for name, m in net.named_modules() if name.endswith("shortcut.1")]
    assert [isinstance(m, BayesConv2d) for m in shortcuts] == [cfg == "bayes-all"] * 2


def test_lists_may_have_an_entry_per_stage(tmp_path):
    """7, 6 and 6 convolutions, shortcuts aside."""
    for name in "abc":
        write_prior(tmp_path / name, 3)
    net = build_net("resnet", "vanilla", NARROW, X, Y)
    layers = layer_sources(net, ["vae", "xavier", "vae"], [tmp_path / name for name in "abc"])
    assert len(layers) == len(conv_layers(net)) == CONVS + 2
    kernels = [layer for layer in layers if layer.density]
    assert [layer.init for layer in kernels] == ["vae"] * 7 + ["xavier"] * 6 + ["vae"] * 6
    widths = [layer.weight.shape[0] for layer in kernels]
    assert widths == [2] * 7 + [3] * 6 + [4] * 6
    assert all(layer.weight.shape[-1] == 1 and layer.init == "xavier" for layer in layers if not layer.density)
    assert one_per_layer(["a"], None, CONVS, "--x", net.stages) == ["a"] * CONVS
    with pytest.raises(ValueError, match="--x needs one entry per layer: 19"):
        one_per_layer(["a", "b"], None, CONVS, "--x", net.stages)


def test_its_batch_normalisation_has_seen_nothing_before_the_first_step(tmp_path):
    """Not even where the cost of a step under a kernel prior is counted."""
    write_prior(tmp_path / "vae", 3)
    np.savez(tmp_path / "x.npz", **{f"{name}_{part}": t.numpy() for part in ("train", "test") for name, t in (("x", IMAGES), ("y", Y))})
    words = f"--data {tmp_path}/x.npz --model resnet --hid_dim 2 3 4 --prior_list vae --vae_list {tmp_path}/vae"
    _, _, net, *_ = train_bnn.prepare(train_bnn.parse_args(words.split()))
    means = [m.running_mean for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert means and all((mean == 0).all() for mean in means)


def test_the_pipeline_on_a_residual_net(tmp_path):
    """Source net, kernels of all stages together, VAE, Bayesian net; a fit to three classes of plain colours."""
    y = np.arange(30) % 3
    x = np.random.default_rng(0).integers(0, 60, (30, 32, 32, 3)).astype(np.uint8)
    x[np.arange(30), :, :, y] += 150
    np.savez(tmp_path / "colours.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    shared = f"--data {tmp_path}/colours.npz --model resnet --hid_dim 4 4 4 --epochs 20 --eval_freq 20 --bs 10 --lr 0.003".split()
    source = train_source.main(shared)
    assert read_rows(source / "logs.csv")[-1]["mean_acc"] > 0.9
    with pytest.raises(ValueError, match="20 convolutions, the nets have 19"):
        prune_kernels.main([str(source), "--out", str(tmp_path), "--together", "20", "--keep", "1"])
    prune_kernels.main([str(source), "--out", str(tmp_path / "stages"), "--together", "7", "6", "6", "--keep", "1"])
    assert sorted(p.name for p in (tmp_path / "stages").iterdir()) == ["conv3x3_1", "conv3x3_2", "conv3x3_3"]
    assert sum(len(load_kernels(tmp_path / f"stages/conv3x3_2/{part}.npy")) for part in ("train", "test")) == 6 * 16
    prune_kernels.main([str(source), "--out", str(tmp_path), "--together", "19", "--keep", "0.5"])
    coders = ["--kernel_dim", "3", "--hidden_dim", "4", "--num_epochs", "2", "--no_screen"]
    train_vae_prior.main([*coders, "--data_dir", str(tmp_path / "conv3x3"), "--out", str(tmp_path / "vae3x3")])
    words = ["--prior_list", "vae", "--vae_list", str(tmp_path / "vae3x3"), "--init_list", "vae", "--ens", "2", "--bs", "15"]
    run = train_bnn.main([*shared, *words, "--kl_kernels", "4"])
    assert read_rows(run / "logs.csv")[-1]["mean_acc"] > 0.5
    assert len(bayes_layers(load_run(run)[0])) == CONVS
