"""The kernel VAE: Table 1's counts, a true lower bound, and the published files."""

import math
import pickle
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from torch.distributions import Normal

from experiments import textbook
from models.densities import Density
from models.initialization import LearnedKernels, Pretrained, Xavier, fill
from models.prior_folder import seal
from models.priors import DENSITIES
from models.vae import CODERS, VAE
from utils import load_density, load_kernels, load_vae, load_weights

from .conftest import SIZES, write_prior

COUNTS = {3: (4932, 4754), 5: (260040, 304194), 7: (56004, 56674)}  # Table 1, and ours for 3


def keys(encoder, decoder, sigma="fc_var", head=""):
    """Those of a state dict.  encoder, decoder: positions of the layers with weights; sigma, head: names that differ between the sizes."""
    layers = [f"encoder.features.{i}" for i in encoder] + [f"decoder.decoder.{i}" for i in decoder]
    layers += ["encoder.fc_mu", f"encoder.{sigma}", f"decoder.fc_mu{head}", f"decoder.fc_var{head}"]
    return {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}


LEGACY_KEYS = {  # of 5 and 7 the published ones
    3: keys((0, 2), (0, 2)),
    5: keys((0, 2, 4, 6), (0, 2, 4, 6), "fc_sigma", ".0"),
    7: keys((0, 2, 4), (0, 2, 4)),
}


@pytest.mark.parametrize("k", CODERS)
def test_parameter_counts(k):
    vae = VAE(k, **SIZES[k])
    assert tuple(sum(p.numel() for p in coder.parameters()) for coder in (vae.encoder, vae.decoder)) == COUNTS[k]


@pytest.mark.parametrize("k", CODERS)
def test_shapes_and_positive_variances(k):
    vae, w = VAE(k, 3, 4), torch.randn(5, 1, k, k)
    for mean, var in (vae.encoder(w), vae.decoder(torch.randn(5, 3))):
        assert mean.shape == var.shape and (var > 0).all()
    assert vae.log_prob(w).shape == (5,) and vae.sample(6).shape == (6, 1, k, k) and vae.log_prob(100 * w).isfinite().all()


@pytest.mark.parametrize("k", CODERS)
def test_the_elbo_is_the_textbooks(k):
    """The same value and gradients from the same weights and noise, through torch's own convolutions and distributions."""
    vae, w = VAE(k, 3, 4), torch.randn(5, 1, k, k, requires_grad=True)
    plain, found = textbook.kernel_vae(vae), []
    for module, elbo in ((vae, vae.log_prob), (plain, lambda w: textbook.elbo(plain, w))):
        torch.manual_seed(1)
        value = elbo(w)
        parameters = dict(module.named_parameters())
        grads = torch.autograd.grad(value.sum(), [w, *parameters.values()])
        found.append(dict(zip(("elbo", "w", *parameters), (value, *grads))))
    assert found[0].keys() == found[1].keys()
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("k", CODERS)
def test_shared_variance_is_one_number_that_is_learned(k):
    vae, w = VAE(k, 3, 4), 0.5 * torch.randn(50, 1, k, k)  # of variance 0.25
    keys = set(vae.state_dict())
    vae.share_variance(0.04)
    opt = torch.optim.Adam([p for p in vae.parameters() if p.requires_grad], lr=1e-2)
    torch.testing.assert_close(vae.decoder(torch.randn(9, 3))[1], torch.full((9, 1, k, k), 0.04))
    for _ in range(3):
        opt.zero_grad()
        (-vae.log_prob(w).mean()).backward()
        opt.step()
    after = vae.decoder(torch.randn(9, 3))[1]
    torch.testing.assert_close(after, after.max().expand_as(after))
    assert after.max() > 0.04
    assert set(vae.state_dict()) == keys


@pytest.mark.parametrize("k", CODERS)
def test_a_decoder_is_never_surer_than_min_std(k, tmp_path):
    """However small what it has learned; and a saved prior keeps the bound."""
    vae, z = write_prior(tmp_path / "prior", k, min_std=0.07), torch.randn(20, SIZES[k]["z_dim"])
    learned = vae.decoder(z)[1] - 0.07**2
    assert (learned > 0).all()
    torch.nn.init.constant_(list(vae.decoder.fc_var.modules())[-1].bias, -50.0)
    torch.testing.assert_close(vae.decoder(z)[1].sqrt(), torch.full((20, 1, k, k), 0.07))
    torch.testing.assert_close(load_vae(tmp_path / "prior").decoder(z)[1], learned + 0.07**2)


@pytest.mark.parametrize("k, min_std", [(3, 0), (5, 0), (7, 0), (7, 0.1)])
def test_a_rescaled_vae_is_the_density_of_the_scaled_kernels(k, min_std):
    """log p(cw) changes by -k^2 log c, the code of a kernel not at all."""
    vae, w, c = VAE(k, 2, 4, min_std), 0.1 * torch.randn(30, 1, k, k), 0.3
    torch.nn.init.constant_(list(vae.decoder.fc_var.modules())[-1].bias, -5.0)
    torch.manual_seed(1)
    log_lik, kl = vae.elbo_terms(w)
    vae.rescale(c)
    torch.manual_seed(1)
    scaled_log_lik, scaled_kl = vae.elbo_terms(c * w)
    torch.testing.assert_close(scaled_kl, kl)
    torch.testing.assert_close(scaled_log_lik, log_lik - k**2 * math.log(c), rtol=0.02, atol=0.3)


def test_log_prob_is_a_lower_bound():
    vae, w, n = VAE(5, 2, 4), 0.3 * torch.randn(1, 1, 5, 5), 20000
    with torch.no_grad():
        elbo = vae.log_prob(w.expand(n, 1, 5, 5)).mean()
        mean, var = vae.decoder(torch.randn(n, 2))  # p(w) = E_{p(z)} p(w|z)
        log_p = Normal(mean, var.sqrt()).log_prob(w).sum((1, 2, 3)).logsumexp(0) - math.log(n)
    assert elbo < log_p + 0.01


@pytest.mark.parametrize("k", CODERS)
@pytest.mark.parametrize("legacy", [False, True])
def test_prior_folder_round_trip(tmp_path, k, legacy):
    saved = write_prior(tmp_path / "prior", k, legacy)
    assert set(saved.state_dict()) == LEGACY_KEYS[k]
    if legacy:
        with open(tmp_path / "prior/vae_params.torch", "rb") as f:
            assert f.read(2) != b"PK"  # not a zip
    loaded, w = load_vae(tmp_path / "prior"), torch.randn(3, 1, k, k)
    assert torch.equal(loaded.encoder(w)[0], saved.encoder(w)[0]) and loaded.sample(2).shape == (2, 1, k, k)


def test_heads_stored_in_another_orientation_load(tmp_path):
    saved = write_prior(tmp_path / "prior", 7, legacy=True)
    state = saved.state_dict()
    for name in ("decoder.fc_mu.weight", "decoder.fc_var.weight"):
        state[name] = state[name].transpose(0, 1)
    torch.save(state, tmp_path / "prior/vae_params.torch", _use_new_zipfile_serialization=False)
    z = torch.randn(3, 2)
    assert torch.equal(load_vae(tmp_path / "prior").decoder(z)[0], saved.decoder(z)[0])


class Malicious:
    def __reduce__(self):
        return (open, (f"{self.target}", "w"))


def test_bad_prior_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a prior folder"):
        load_vae(tmp_path)
    folder = tmp_path / "prior"
    write_prior(folder, 5)
    weights = folder / "vae_params.torch"
    whole = weights.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"not a weight file"):
        weights.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged"):
            load_vae(folder)
    evil = Malicious()
    evil.target = tmp_path / "executed"
    for bad in (dict(weight=evil), evil):
        weights.write_bytes(pickle.dumps(bad))
        with pytest.raises(ValueError, match="plain state dict"):
            load_vae(folder)
    assert not evil.target.exists()
    torch.save([torch.zeros(1)], weights)
    with pytest.raises(ValueError, match="not a state dict"):
        load_vae(folder)
    torch.save(VAE(7, 2, 32).state_dict(), weights)
    with pytest.raises(ValueError, match="does not fit VAE"):
        load_vae(folder)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="no weight file"):
        load_vae(folder)
    for params in (
        "kernel_dim: 5",
        "[1",
        "kernel_dim: x\nz_dim: 1\nhidden_dim: 2",
        yaml.safe_dump(dict(kernel_dim=4, z_dim=1, hidden_dim=2)),
    ):
        (folder / "params.yaml").write_text(params)
        with pytest.raises(ValueError):
            load_vae(folder)


def test_bad_kernels_and_weights(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_kernels(tmp_path / "train.npy")
    (tmp_path / "train.npy").write_bytes(b"no array")
    with pytest.raises(ValueError, match="readable"):
        load_kernels(tmp_path / "train.npy")
    with pytest.raises(FileNotFoundError):
        load_weights(tmp_path / "model.torch")


@pytest.mark.parametrize("layer", [torch.nn.Conv2d(3, 4, 5), torch.nn.ConvTranspose2d(3, 4, 5)])
def test_fill(layer):
    kernels = torch.randn(50, 1, 5, 5)
    fill(layer.weight, LearnedKernels(kernels))
    known = {tuple(w.flatten().tolist()) for w in kernels}
    assert all(tuple(w.flatten().tolist()) in known for w in layer.weight.detach().reshape(-1, 25))
    stored = torch.randn(layer.weight.shape)
    fill(layer.weight, Pretrained(stored))
    assert torch.equal(layer.weight, stored)
    fill(layer.weight, Xavier(layer.weight.shape))
    assert abs(layer.weight.var() - 2 / ((3 + 4) * 25)) < 0.002  # Glorot: variance 2 / (fan in + fan out)
    with pytest.raises(ValueError, match="5x5"):
        fill(layer.weight, VAE(7, 2, 4))
    with pytest.raises(ValueError, match="differ in width"):
        fill(layer.weight, Pretrained(torch.randn(*layer.weight.shape[1::-1], 5, 5)))
    with pytest.raises(ValueError, match="kernels of 1x5, and only square ones"):
        fill(torch.zeros(3, 4, 1, 5), LearnedKernels(kernels))


@pytest.mark.parametrize("name", ["gauss", "gauss-indep"])
def test_a_folder_may_hold_another_density(name, tmp_path):
    kernels = torch.randn(50, 1, 5, 5)
    density = DENSITIES[name].fit(kernels)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(dict(density=name, kernel_dim=5)))
    torch.save(density.state_dict(), tmp_path / "vae_params.torch")
    torch.testing.assert_close(load_density(tmp_path).log_prob(kernels), density.log_prob(kernels))
    with pytest.raises(ValueError, match="not a kernel VAE"):
        load_vae(tmp_path)
    (tmp_path / "params.yaml").write_text("density: spline\nkernel_dim: 5")
    with pytest.raises(ValueError, match="choose from chain"):
        load_density(tmp_path)


def test_weights_are_taken_from_safetensors_and_a_file_that_was_altered_is_named(tmp_path):
    vae, folder = write_prior(tmp_path / "prior", 5), tmp_path / "prior"
    seal(folder, vae.state_dict())
    with safe_open(folder / "vae_params.safetensors", "pt") as f:
        assert f.metadata()["kernel_dim"] == "5"
    w = torch.randn(3, 1, 5, 5)
    torch.manual_seed(1)
    expected = vae.log_prob(w)
    for _ in range(2):  # once of each file
        loaded = load_vae(folder)
        torch.manual_seed(1)
        assert torch.equal(loaded.log_prob(w), expected)
        (folder / "vae_params.safetensors").unlink(missing_ok=True)
    seal(folder, vae.state_dict())
    for name, change in (
        ("vae_params.safetensors", lambda data: data[:-4]),
        ("vae_params.safetensors", lambda data: data[:-4] + bytes(4)),
        ("params.yaml", lambda data: data + b"min_std: 0.1\n"),
    ):
        good = (folder / name).read_bytes()
        (folder / name).write_bytes(change(good))
        with pytest.raises(ValueError, match=f"{name} was altered or cut off"):
            load_vae(folder)
        (folder / name).write_bytes(good)
    assert load_vae(folder)
    other = VAE(5, **SIZES[5])  # of a user who fitted on: not to be left aside for the former one in vae_params.safetensors
    torch.save(other.state_dict(), folder / "vae_params.torch")
    with pytest.raises(ValueError, match=r"if you meant to change it, delete SHA256SUMS and vae_params\.safetensors"):
        load_vae(folder)
    for name in ("SHA256SUMS", "vae_params.safetensors"):
        (folder / name).unlink()
    assert torch.equal(load_vae(folder).encoder.fc_mu.weight, other.encoder.fc_mu.weight)


def test_a_density_whose_one_part_is_called_model_is_saved_and_loaded(tmp_path, monkeypatch):
    """Though a file whose names all begin so is taken for that of a net within another module."""

    class Mine(Density):
        def __init__(self, kernel_dim):
            super().__init__(kernel_dim)
            self.model = torch.nn.Linear(kernel_dim**2, 1)

    monkeypatch.setitem(DENSITIES, "mine", Mine)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(dict(density="mine", kernel_dim=3)))
    torch.save((saved := Mine(3)).state_dict(), tmp_path / "vae_params.torch")
    assert torch.equal(load_density(tmp_path).model.weight, saved.model.weight)


def test_a_variance_far_from_the_usual_may_be_shared():
    vae = VAE(3, 2, 16)
    for variance in (1e-6, 5e3):
        vae.share_variance(variance)
        assert math.isclose(vae.decoder(torch.zeros(1, 2))[1].max().item(), variance, rel_tol=1e-3)


@pytest.mark.parametrize("folder", sorted((Path(__file__).resolve().parents[1] / "data").glob("*/vae*")), ids=lambda path: path.name)
def test_the_shipped_priors_are_sealed(folder):
    """Both files hold the same weights, and the sums are theirs."""
    states = [load_weights(folder / f"vae_params.{kind}") for kind in ("torch", "safetensors")]
    assert states[0].keys() == states[1].keys() and all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    with safe_open(folder / "vae_params.safetensors", "pt") as f:
        assert f.metadata()["kernel_dim"] == str(load_vae(folder).kernel_dim)
