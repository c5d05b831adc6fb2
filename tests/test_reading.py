"""What is read from other people's weight files: the layers in their order, and the weights that their nets compute with."""

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

import prune_kernels
from data import load_dataset
from models.kernel_folder import load_kernels, read_kernels
from utils import load_weights


def five_convolutions():
    """A Sequential whose layers are 0, 3, 6, 9, 12, and whose kernels all have the number of their layer."""
    layers = [layer for i in range(5) for layer in (nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2), nn.ReLU())]
    for i in range(5):
        nn.init.constant_(layers[3 * i].weight, i + 1.0)
    return nn.Sequential(*layers)


@pytest.mark.parametrize("end", ["pt", "safetensors"])
def test_layers_come_in_the_order_of_the_numbers_in_their_names(end, tmp_path):
    state, file = five_convolutions().state_dict(), tmp_path / f"net.{end}"
    if end == "pt":
        torch.save(state, file)
    else:
        safetensors.torch.save_file(state, file)
    assert [float(w.mean()) for w in read_kernels(file).values()] == [1, 2, 3, 4, 5]
    assert list(read_kernels(file)) == [f"{3 * i}.weight" for i in range(5)]
    prune_kernels.main([str(file), "--out", str(tmp_path / "apart"), "--keep", "1"])
    assert [float(load_kernels(tmp_path / f"apart/conv3x3_{i + 1}/train.npy").mean()) for i in range(5)] == [1, 2, 3, 4, 5]
    prune_kernels.main([str(file), "--out", str(tmp_path / "two"), "--keep", "1", "--together", "2", "3"])
    assert load_kernels(tmp_path / "two/conv3x3_1/train.npy").max() == 2 and load_kernels(tmp_path / "two/conv3x3_2/train.npy").min() == 3


def test_weights_that_look_like_those_of_keras_are_warned_of(tmp_path, capsys):
    torch.save({"a.weight": torch.randn(3, 3, 16, 16), "b.weight": torch.randn(16, 3, 16, 16)}, tmp_path / "net.pt")
    read_kernels(tmp_path / "net.pt")
    assert capsys.readouterr().err.count("warning") == 1
    torch.save({"a.weight": torch.randn(3, 3, 16, 32)}, tmp_path / "net.pt")
    with pytest.raises(ValueError, match=r"holds no convolution of square kernels; of Keras"):
        read_kernels(tmp_path / "net.pt")
    torch.save({"a.weight": torch.zeros(4, 3, 3, 3)}, tmp_path / "net.pt")
    with pytest.raises(ValueError, match="all kernels of conv3x3 are zero"):
        prune_kernels.main([str(tmp_path / "net.pt"), "--out", str(tmp_path / "k"), "--keep", "1"])


def test_a_pool_keeps_its_order_of_layers(tmp_path):
    """Its names have the kernels' sizes, which are no order."""
    torch.save({f"conv{k}x{k}.weight": torch.ones(4, 1, k, k) for k in (7, 5)}, tmp_path / "pool.torch")
    assert [w.shape[-1] for w in read_kernels(tmp_path / "pool.torch").values()] == [7, 5]


def test_both_formats_of_a_net_are_pruned_together(tmp_path):
    state = five_convolutions().state_dict()
    torch.save(state, tmp_path / "net.pt")
    safetensors.torch.save_file(state, tmp_path / "net.safetensors")
    prune_kernels.main([*(str(tmp_path / f"net.{end}") for end in ("pt", "safetensors")), "--out", str(tmp_path / "k"), "--keep", "1"])
    assert set(load_kernels(tmp_path / "k/conv3x3_5/train.npy").flatten().tolist()) == {5.0}


def test_an_order_that_names_do_not_tell_is_said(tmp_path, capsys):
    state = {"stem.weight": torch.ones(2, 2, 3, 3), "block.weight": torch.ones(2, 2, 3, 3)}
    torch.save(state, tmp_path / "net.pt")
    assert list(read_kernels(tmp_path / "net.pt")) == ["stem.weight", "block.weight"] and capsys.readouterr().err == ""
    safetensors.torch.save_file(state, tmp_path / "net.safetensors")
    read_kernels(tmp_path / "net.safetensors")
    assert "taken: block.weight, stem.weight" in capsys.readouterr().err


def masked(layer):
    prune.l1_unstructured(layer, "weight", 0.5)
    prune.random_unstructured(layer, "bias", 0.5)


@pytest.mark.parametrize("make", [lambda: nn.Conv2d(4, 6, 3), lambda: nn.Conv2d(4, 4, 3), lambda: nn.ConvTranspose2d(4, 4, 3)])
@pytest.mark.parametrize(
    "reparametrise",
    [
        masked,
        weight_norm,
        lambda conv: weight_norm(conv, dim=1),
        lambda conv: weight_norm(conv, dim=None),
        spectral_norm,
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_reparametrised_weights_are_those_that_the_net_computes_with(make, reparametrise, tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(make(), nn.ReLU(), nn.Conv2d(make().out_channels, 2, 5))
    reparametrise(net[0])
    for _ in range(30):
        net(torch.randn(3, 4, 12, 12))  # a spectral norm is found step by step
    net.eval()(torch.randn(1, 4, 12, 12))
    torch.save(net.state_dict(), tmp_path / "net.pt")
    state = load_weights(tmp_path / "net.pt")
    assert set(state) == {"0.bias", "0.weight", "2.weight", "2.bias"}
    torch.testing.assert_close(state["0.weight"], net[0].weight.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state["0.bias"], net[0].bias.detach())
    assert list(read_kernels(tmp_path / "net.pt")) == ["0.weight", "2.weight"]


def test_what_does_not_follow_from_the_file_is_refused_with_the_call_that_helps(tmp_path):
    conv = parametrizations.orthogonal(nn.Conv2d(4, 4, 3))
    torch.save(conv.state_dict(), tmp_path / "net.pt")
    with pytest.raises(ValueError, match=r"net.pt: weight is reparametrised .*remove_parametrizations on its layer before"):
        load_weights(tmp_path / "net.pt")
    parametrize.remove_parametrizations(conv, "weight")
    torch.save(conv.state_dict(), tmp_path / "net.pt")
    assert set(load_weights(tmp_path / "net.pt")) == {"weight", "bias"}
    torch.save({"conv.weight_orig": torch.ones(2, 2, 3, 3)}, tmp_path / "half.pt")
    with pytest.raises(ValueError, match=r"prune\.remove"):
        load_weights(tmp_path / "half.pt")


def test_names_that_merely_look_so_are_left_alone(tmp_path):
    state = {"gate_v": torch.ones(3), "attention_u": torch.ones(2), "W_g": torch.ones(2, 2), "conv.weight": torch.ones(2, 2, 3, 3)}
    torch.save({f"_orig_mod.{name}": value for name, value in state.items()}, tmp_path / "net.pt")
    assert list(load_weights(tmp_path / "net.pt")) == list(state)


def test_kernels_all_of_one_norm_are_all_kept_by_a_cut_at_that_norm(tmp_path):
    w = torch.randn(200, 1, 5, 5)
    torch.save({"conv.weight": w / w.flatten(1).norm(dim=1).view(-1, 1, 1, 1)}, tmp_path / "net.pt")
    prune_kernels.main([str(tmp_path / "net.pt"), "--out", str(tmp_path), "--min_norm", "1"])
    assert sum(len(load_kernels(tmp_path / f"conv5x5/{split}.npy")) for split in ("train", "test")) == 200


@pytest.mark.parametrize(
    "kernels, message",
    [
        (np.ones((3, 1, 5, 5), complex), "real numbers, not complex128"),
        (np.full((3, 1, 5, 5), 1e300), r"a weight of 1.0e\+300 is too large"),
        (np.full((3, 1, 5, 5), 1e20, np.float32), r"a weight of 1.0e\+20 is too large"),
        (np.full((3, 1, 5, 5), "a"), "must be real numbers"),
        (np.zeros((3, 1, 5, 5)), "all kernels are zero"),
    ],
)
def test_kernels_that_are_no_numbers_of_float32_are_refused(kernels, message, tmp_path):
    np.save(tmp_path / "train.npy", kernels)
    with pytest.raises(ValueError, match=message):
        load_kernels(tmp_path / "train.npy")


def test_an_archive_is_no_array_of_kernels(tmp_path):
    np.savez(tmp_path / "train.npz", a=np.ones((3, 1, 5, 5)))
    (tmp_path / "train.npz").rename(tmp_path / "train.npy")
    with pytest.raises(ValueError, match="is an archive of arrays"):
        load_kernels(tmp_path / "train.npy")


def write_set(folder, x=None, y=None):
    x = np.arange(20 * 16, dtype=np.uint8).reshape(20, 4, 4) if x is None else x
    y = np.arange(20) % 4 if y is None else y
    np.savez(folder / "set.npz", x_train=x, y_train=y, x_test=np.swapaxes(x, 1, 2), y_test=y)
    return load_dataset(str(folder / "set.npz"), folder)


def test_odd_images_and_labels_are_warned_of_once(tmp_path, capsys):
    write_set(tmp_path)
    assert capsys.readouterr().err == ""
    write_set(tmp_path, x=np.ones((20, 4, 4), np.uint8))
    *said, last = capsys.readouterr().err.splitlines()
    assert [line.split(", ")[-1] for line in said] == [
        f"{split} images: the brightest pixel is 1 of 255; multiply images of 0 to 1 by 255" for split in ("training", "test")
    ]
    assert last.endswith("20 of 20 test images are training images, too")
    write_set(tmp_path, x=np.zeros((20, 4, 4), np.uint8))
    assert "the brightest pixel is 0 of 255" in capsys.readouterr().err
    with pytest.raises(ValueError, match="all training images have the label 2"):
        write_set(tmp_path, y=np.full(20, 2))
    write_set(tmp_path, y=1 + np.arange(20) % 4)
    assert capsys.readouterr().err.endswith("no training image has the label 0; the net has an output for it nevertheless\n")
    write_set(tmp_path, y=10 * (np.arange(20) % 2))
    assert "the label 1, 2, 3, 4, 5, …; the net" in capsys.readouterr().err


def test_images_with_channels_first_and_negative_labels_are_refused(tmp_path):
    with pytest.raises(ValueError, match="have their channels first; they come last"):
        write_set(tmp_path, x=np.ones((20, 1, 4, 4), np.uint8))
    with pytest.raises(ValueError, match="labels must be integers 0, 1, …, and -1 is negative"):
        write_set(tmp_path, y=np.arange(20) % 4 - 1)


def test_what_else_people_save(tmp_path, capsys):
    """Parameters, nets within others, whole nets; kernels that are not square are left out with a word."""
    w = torch.randn(3, 2, 5, 5)
    state = {
        "model.conv.weight": nn.Parameter(w),
        "model.wide.weight": torch.ones(2, 2, 1, 7),
        "model.volume.weight": torch.ones(1, 1, 3, 3, 3),
    }
    torch.save(state, tmp_path / "net.pt")
    kernels = read_kernels(tmp_path / "net.pt")
    assert (
        list(kernels) == ["conv.weight"]
        and torch.equal(kernels["conv.weight"], w.view(6, 1, 5, 5))
        and not kernels["conv.weight"].requires_grad
    )
    assert capsys.readouterr().err.endswith("left out wide.weight, volume.weight, whose kernels are not square\n")
    prune_kernels.main([str(tmp_path / "net.pt"), "--out", str(tmp_path), "--keep", "1"])
    torch.save(nn.Conv2d(1, 1, 3), tmp_path / "whole.pt")
    with pytest.raises(ValueError, match=r"not a plain state dict, as torch\.save\(net\.state_dict\(\), …\) writes it: Weights") as e:
        load_weights(tmp_path / "whole.pt")
    assert "\x1b" not in str(e.value)
