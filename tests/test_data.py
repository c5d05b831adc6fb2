"""Data sets: stratified subsets, round trips through .npz, embedded glyphs, and honest errors."""

import gzip

import numpy as np
import pytest
import torch

from data import Dataset, crop_and_mirror, load_dataset, permute_pixels, shuffle_labels, stratified_subset
from data.datasets import clean_notmnist, import_torchvision_datasets
from data.glyphs import FONTS, GLYPHS, draw_glyph, make_glyphs


@pytest.mark.parametrize("n", [7, 20, 50, 103, 400])
@pytest.mark.parametrize("seed", [0, 1])
def test_subsets_are_stratified(n, seed):
    y = torch.randint(7, (400,))
    data = Dataset(torch.arange(400.0).view(400, 1, 1, 1), y)
    subset = stratified_subset(data, n, seed)
    assert len(subset.x.unique()) == n  # without replacement
    assert torch.equal(data.y[subset.x.flatten().long()], subset.y)
    counts, available = torch.bincount(subset.y, minlength=7), torch.bincount(y, minlength=7)
    full = counts == available
    assert (counts[~full].max() - counts[~full].min() <= 1) if (~full).any() else n == 400
    assert torch.equal(subset.x, stratified_subset(data, n, seed).x)
    assert n == 400 or not torch.equal(subset.x.sort(0)[0], stratified_subset(data, n, seed + 5).x.sort(0)[0])


@pytest.mark.parametrize("channels", [1, 3])
def test_images_on_a_cpu_lie_channels_last_and_convolutions_follow(channels):
    x = torch.rand(4, channels, 9, 9)
    data = Dataset(x, torch.arange(4)).to("cpu")
    assert torch.equal(data.x, x)
    h = torch.nn.Conv2d(channels, 2, 3)(data.x[torch.tensor([2, 0])])
    assert h.stride(1) == 1 and h.is_contiguous(memory_format=torch.channels_last)


def test_a_moved_image_is_a_crop_of_the_image_in_black_or_its_mirror_image():
    x = torch.arange(1.0, 2 * 3 * 5 * 6 + 1).view(2, 3, 5, 6).repeat(100, 1, 1, 1)
    framed = torch.nn.functional.pad(x, [2] * 4)
    moved, seen = crop_and_mirror(x, pad=2), set()
    assert moved.shape == x.shape and moved.dtype == x.dtype
    for image, frame in zip(moved, framed):
        ways = [
            (dy, dx, mirrored)
            for dy in range(5)
            for dx in range(5)
            for mirrored in (False, True)
            if torch.equal(image, frame[:, dy : dy + 5, dx : dx + 6].flip([2] if mirrored else []))
        ]
        assert len(ways) == 1
        seen |= set(ways)
    assert len(seen) > 40  # of 50, all alike likely


def test_a_subset_of_classes_of_unequal_size_takes_as_many_of_each_and_says_so(capsys):
    data = Dataset(torch.zeros(100, 1, 1, 1), (torch.arange(100) % 10 == 0).long())
    assert stratified_subset(data, 20, 0).y.bincount().tolist() == [10, 10]
    assert "classes have from 10 to 90 training images; num_examples takes as many of each" in capsys.readouterr().err


def test_subset_size_is_checked(capsys):
    data = Dataset(torch.zeros(20, 1, 1, 1), torch.arange(20) % 5)
    stratified_subset(data, 10, 0)
    assert capsys.readouterr().err == ""
    with pytest.raises(ValueError, match="larger than the training set"):
        stratified_subset(data, 21, 0)
    with pytest.raises(ValueError, match="number of classes"):
        stratified_subset(data, 4, 0)


@pytest.mark.parametrize("shape, expected", [((9, 6, 5), (1, 6, 5)), ((9, 6, 5, 3), (3, 6, 5))])
def test_npz_round_trip(tmp_path, shape, expected):
    x = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    y = np.arange(9) % 4
    names = np.array(["others are left alone"], dtype=object)
    np.savez(tmp_path / "mine.npz", x_train=x, y_train=y, x_test=x[:5], y_test=y[:5], names=names)
    for name in ("mine", str(tmp_path / "mine.npz")):
        train, test = load_dataset(name, tmp_path)
        assert train.x.shape == (9, *expected) and test.x.shape == (5, *expected) and train.x.dtype == torch.float32
        back = train.x.mul(255).round().byte().numpy()
        assert np.array_equal(back[:, 0] if len(shape) == 3 else back.transpose(0, 2, 3, 1), x) and train.y.tolist() == y.tolist()


def test_bad_npz(tmp_path):
    file = tmp_path / "bad.npz"
    file.write_bytes(b"PK not really")
    with pytest.raises(ValueError, match="readable"):
        load_dataset("bad", tmp_path)
    np.savez(file, x_train=np.zeros((2, 4, 4), np.uint8))
    with pytest.raises(ValueError, match="lacks y_train, x_test, y_test"):
        load_dataset("bad", tmp_path)
    np.savez(file, x_train=np.zeros((2, 4, 4)), y_train=[0, 1], x_test=np.zeros((2, 4, 4)), y_test=[0, 1])
    with pytest.raises(ValueError, match="uint8"):
        load_dataset("bad", tmp_path)
    for labels in ([[0], [1]], [0.0, 1.0], [-1, 0]):
        np.savez(file, x_train=np.zeros((2, 4, 4), np.uint8), y_train=labels, x_test=np.zeros((2, 4, 4), np.uint8), y_test=[0, 1])
        with pytest.raises(ValueError, match="labels must be integers"):
            load_dataset("bad", tmp_path)
    np.savez(file, x_train=np.zeros((2, 4, 4), np.uint8), y_train=[0, 1], x_test=np.zeros((2, 4, 4), np.uint8), y_test=[0, 2])
    with pytest.raises(ValueError, match="test label 2"):
        load_dataset("bad", tmp_path)
    np.savez(file, x_train=np.zeros((2, 4, 4), np.uint8), y_train=[0, 1], x_test=np.zeros((2, 5, 4), np.uint8), y_test=[0, 1])
    with pytest.raises(ValueError, match="training images are 1 x 4 x 4, test images 1 x 5 x 4"):
        load_dataset("bad", tmp_path)
    np.savez(file, **{k: np.array([{}], dtype=object) for k in ("x_train", "y_train", "x_test", "y_test")})
    with pytest.raises(ValueError):  # a pickle inside is not run
        load_dataset("bad", tmp_path)


@pytest.mark.parametrize("name, message", [("nonsense", "unknown data set"), ("not-mnist", "not found"), ("gone.npz", "no data file")])
def test_missing_sets_say_where_they_were_looked_for(tmp_path, name, message):
    with pytest.raises(FileNotFoundError, match=message) as e:
        load_dataset(name, tmp_path)
    assert "npz" in str(e.value)


def test_every_font_draws_glyphs_of_its_own():
    """None is missing, with another drawn in its place."""
    drawn = torch.stack([draw_glyph("R", font) for font in FONTS]).flatten(1)
    assert torch.cdist(drawn, drawn).fill_diagonal_(torch.inf).min() > 1


def test_glyphs_are_deterministic_and_balanced(tmp_path):
    counts = {"train": 50, "test": 20}
    for i, name in enumerate(GLYPHS):
        for copy in "ab":
            make_glyphs(name, tmp_path / f"{copy}{i}.npz", counts)
        (a, test), (b, _) = (load_dataset(str(tmp_path / f"{copy}{i}.npz"), tmp_path) for copy in "ab")
        assert torch.equal(a.x, b.x) and torch.equal(a.y, b.y)
        assert a.x.shape == (50, 1, 28, 28) and a.y.bincount().tolist() == [5] * 10 and test.y.bincount().tolist() == [2] * 10
        ink = a.x.mean((1, 2, 3))
        assert ink.min() > 0.02 and ink.max() < 0.6  # something is drawn, on an empty background
        assert len(torch.unique(a.x.flatten(1), dim=0)) == 50


def test_notmnist_is_cleaned(capsys):
    x = np.random.default_rng(0).integers(0, 256, (8, 4, 4), dtype=np.uint8)
    x[2], x[3], x[5] = 255, 255, x[1]
    cleaned = clean_notmnist([x, np.arange(8), x[:2], np.arange(2)])
    assert cleaned[1].tolist() == [0, 1, 4, 6, 7] and np.array_equal(cleaned[0], x[cleaned[1]]) and len(cleaned[2]) == 2
    assert "dropped 2 solid images and 1 duplicates, 5 left" in capsys.readouterr().out


def test_torchvision_datasets_import():
    assert import_torchvision_datasets().MNIST


def test_torchvision_files_are_read(tmp_path):
    """MNIST in torchvision's own layout: the idx files that its download leaves."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (4, 28, 28), dtype=np.uint8)
    for split in ("train", "t10k"):
        (folder / f"{split}-images-idx3-ubyte").write_bytes(
            bytes([0, 0, 8, 3]) + b"".join(int(n).to_bytes(4, "big") for n in (4, 28, 28)) + images.tobytes()
        )
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1]) + (4).to_bytes(4, "big") + bytes(range(4)))
    train, test = load_dataset("mnist", tmp_path)
    assert np.array_equal(train.x[:, 0].mul(255).round().byte().numpy(), images) and test.y.tolist() == [0, 1, 2, 3]


def test_validation_images_are_a_sixth_of_each_class_whatever_their_order(tmp_path):
    """Of labels that come in turn, too; always the same; a class keeps one image at least on either side, if it has two."""
    counts = (12, 30, 7, 2, 1)
    y = np.repeat(np.arange(len(counts)), counts)
    x = np.arange(len(y), dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8)
    np.savez(tmp_path / "in-turn.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    splits = [load_dataset("in-turn", tmp_path, 8, seed, validate=True) for seed in (0, 1)]
    assert torch.equal(splits[0][1].x, splits[1][1].x) and not torch.equal(splits[0][0].x, splits[1][0].x)
    train, held_out = load_dataset("in-turn", tmp_path, validate=True)
    assert torch.bincount(held_out.y).tolist() == [2, 5, 2, 1] and torch.bincount(train.y).tolist() == [10, 25, 5, 1, 1]
    assert not set(train.x[:, 0, 0, 0].tolist()) & set(held_out.x[:, 0, 0, 0].tolist())
    np.savez(tmp_path / "one.npz", x_train=x[[0, 12]], y_train=[0, 1], x_test=x, y_test=y)
    with pytest.raises(ValueError, match="no validation images"):
        load_dataset("one", tmp_path, validate=True)


def test_names_of_sets_have_no_case_and_bad_files_get_one_line(tmp_path):
    x, y = np.zeros((3, 4, 4), np.uint8), np.arange(3)
    good = dict(x_train=x, y_train=y, x_test=x, y_test=y)
    np.savez(tmp_path / "mnist.npz", **good)
    assert len(load_dataset("MNIST", tmp_path)[0].y) == 3
    for wrong in (
        dict(x_train=np.uint8(1)),
        dict(x_test=np.zeros((3, 0, 0), np.uint8)),
        dict(y_test=np.int64(1)),
        dict(y_train=np.arange(2)),
        dict(y_train=np.array([0, 1, 4_000_000_000])),
    ):
        for name in ("not-mnist", "mine"):
            np.savez(tmp_path / f"{name}.npz", **good | wrong)
            with pytest.raises(ValueError, match=f"{name}.npz: (images|label)"):
                load_dataset(name, tmp_path)
    (tmp_path / "mnist.npz").unlink()
    raw = tmp_path / "MNIST/raw"
    raw.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (raw / f"{name}-ubyte").write_bytes(gzip.compress(b"not unpacked"))
    with pytest.raises(ValueError, match=r"files of mnist in .* are damaged"):
        load_dataset("mnist", tmp_path)


def test_random_labels_and_permuted_pixels(digits):
    train, _ = load_dataset(digits, "")
    labels = [shuffle_labels(train, seed).y for seed in (0, 0, 1)]
    assert (
        torch.equal(labels[0], labels[1])
        and not torch.equal(labels[0], labels[2])
        and all(torch.equal(y.sort()[0], train.y.sort()[0]) for y in labels)
    )
    once = permute_pixels(train, 3)
    assert torch.equal(once.x.flatten(1).sort(1)[0], train.x.flatten(1).sort(1)[0]) and not torch.equal(once.x, train.x)
    differences = (once.x[0] - once.x[1]).abs().sum(), (train.x[0] - train.x[1]).abs().sum()
    torch.testing.assert_close(*differences)  # the same permutation for both
