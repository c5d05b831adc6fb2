"""Shared fixtures: small data sets, kernel VAEs and prior folders, in ours and in the 2018 format."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a test process per core; read when torch is imported, here and in what tests start

import numpy as np
import pytest
import torch
import yaml

from models.vae import VAE

SIZES = {3: dict(z_dim=2, hidden_dim=16), 5: dict(z_dim=4, hidden_dim=64), 7: dict(z_dim=2, hidden_dim=32)}


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    """Every test starts from one seed, writes under its own folder, and sees no user's environment."""
    monkeypatch.setenv("DWP_PATH", str(tmp_path / "logs"))
    monkeypatch.setenv("DATA_ROOT", str(tmp_path / "data"))
    monkeypatch.delenv("DWP_TRACEBACK", raising=False)
    torch.manual_seed(0)


@pytest.fixture
def digits(tmp_path):
    """An .npz set of 3 easily told classes of 28 x 28 noise with a bright stripe: 60 training and 30 test images."""
    rng = np.random.default_rng(0)

    def split(n):
        y = np.arange(n) % 3
        x = rng.integers(0, 60, (n, 28, 28), dtype=np.uint8)
        for i, c in enumerate(y):
            x[i, 8 * c + 2 : 8 * c + 8] += 180
        return x, y

    (x_train, y_train), (x_test, y_test) = split(60), split(30)
    file = tmp_path / "digits.npz"
    np.savez(file, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return file


def write_prior(folder, kernel_dim, legacy=False, **options):
    """A prior folder with random weights; legacy: the non-zip pickle that torch wrote in 2018."""
    folder.mkdir()
    vae = VAE(kernel_dim, **SIZES[kernel_dim], **options)
    torch.save(vae.state_dict(), folder / "vae_params.torch", _use_new_zipfile_serialization=not legacy)
    (folder / "params.yaml").write_text(yaml.safe_dump(dict(kernel_dim=kernel_dim, var="train", **SIZES[kernel_dim], **options)))
    return vae


@pytest.fixture
def priors(tmp_path):
    """Two prior folders, for a 7x7 and a 5x5 convolution."""
    for k in (7, 5):
        write_prior(tmp_path / f"vae{k}x{k}", k)
    return [str(tmp_path / "vae7x7"), str(tmp_path / "vae5x5")]
