"""Hostile input ends in one line; python -m tests.fuzz tries many more."""

import tracemalloc

import numpy as np
import pytest
import torch

import train_vae_prior
from data import load_dataset
from models.memory import build, check_room
from utils import load_kernels, load_weights, run_cli

from .fuzz import fuzz, huge_npz, npy


@pytest.mark.filterwarnings("ignore")
def test_odd_words_and_damaged_files_end_well_or_in_one_line():
    codes, failures = fuzz(110)
    assert not failures, failures[0]
    assert codes[0] > 10 and codes[2] > 55 and sum(codes.values()) >= 100  # hypothesis leaves out what it has drawn before


@pytest.mark.parametrize("word", ["1e9", "1000000000", "99999999999999999999"])
def test_what_does_not_fit_is_refused_before_memory_is_asked_for(tmp_path, capsys, word):
    for seed, split in enumerate(("train", "test")):
        np.save(tmp_path / f"{split}.npy", np.random.default_rng(seed).normal(size=(9, 1, 7, 7)))
    tracemalloc.start()
    with pytest.raises(SystemExit) as e:
        run_cli(lambda: train_vae_prior.main(["--data_dir", str(tmp_path), "--z_dim", word]))
    said, peak = capsys.readouterr().err, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert e.value.code == 2 and said.count("\n") == 1 and "z_dim" in said and peak < 1e8, said


def test_files_that_promise_more_than_they_hold_are_refused(tmp_path):
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 1, 7, 7), }"
    (tmp_path / "train.npy").write_bytes(npy(header))
    with pytest.raises(ValueError, match="not a readable"):
        load_kernels(tmp_path / "train.npy")
    for content in (npy(header), huge_npz()):
        (tmp_path / "images.npz").write_bytes(content)
        with pytest.raises(ValueError, match="not a readable"):
            load_dataset(str(tmp_path / "images.npz"), tmp_path)
    wide = tmp_path / "wide.torch"
    torch.save({"w": torch.as_strided(torch.ones(1), (2**40,), (0,))}, wide)
    with pytest.raises(ValueError, match="do not fit in the"):
        load_weights(wide)


def test_room_is_counted_with_gradients_and_moments():
    assert build(lambda: torch.nn.Linear(3, 2), "a layer").weight.device.type == "cpu"
    for width in (10**7, 2**40):
        with pytest.raises(ValueError, match=r"a layer: .* GB do not fit"):
            build(lambda width=width: torch.nn.Linear(width, width), "a layer")
    check_room(1000, "a thousand numbers")
