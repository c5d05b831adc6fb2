"""Time and memory of the project's path against a plain textbook implementation (experiments/textbook.py).

    python -m experiments.benchmark            # results/benchmark.csv
    python -m experiments.benchmark --quick    # smoke check, under a minute, results under logs/

Both must first give the same number from the same random state; then they are timed in turns, in one process. The reference takes one
stochastic forward pass per Monte-Carlo sample.
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Normal
from tqdm import tqdm

from data import Dataset
from models import NETWORKS, tinyconv
from models.autograd import normal_like
from models.bayes import BayesConv2d, bayes_layers, set_mode
from models.cost import FROZEN, LEARNED, count_flops, kl_flops
from models.priors import DENSITIES, PRIORS, KernelPrior
from models.vae import VAE
from myexman import Parser, commit_name
from myexman.logger import read_rows
from train_bnn import negative_elbo
from utils import ensemble_average, mc_ensemble, predict, run_cli, train_epoch, usable_device

from . import textbook
from .densities import FITS
from .grid import device_name, folders
from .rows import RESULTS, markdown, write_rows

COLUMNS = ("case", "seconds", "reference_seconds", "ratio", "gemm_share", "peak_mb", "threads", "device", "commit")
MEMBERS = 10  # of an ensemble


class Case(NamedTuple):
    """One unit of work, ours and the reference's (None if there is none); each returns a number to compare.

    flops: of ours.  tolerance: relative; None where the two cannot draw the same noise."""

    ours: Callable
    reference: Callable | None = None
    flops: float | None = None
    tolerance: float | None = 1e-3


def images(arch, n, device):
    """n of them and their labels, in the memory layout that training gives them."""
    x = torch.rand(n, arch.in_channels, arch.image_size, arch.image_size, generator=torch.Generator().manual_seed(0))
    return Dataset(x, torch.arange(n) % 10).to(device)


def kernel_vae(k, device):
    """Untrained coders of the paper's size: what they compute does not change their cost."""
    torch.manual_seed(k)
    vae = VAE(k, *{7: (2, 32), 5: (4, 64)}[k]).to(device)
    vae.decoder.requires_grad_(False)
    return vae


def bnn_step(model, prior, device, n=50, reference=True, drawn=0):
    """One training step of train_bnn.py on n images.

    drawn: kernels that a KernelPrior draws; 0 takes all.  reference: whether to time the textbook step, always on all kernels."""
    arch = NETWORKS[model]
    x, y = images(arch, n, device)
    vaes = [kernel_vae(k, device) for k in (7, *(5 for _ in arch.default_hid_dim[1:]))]

    def build(conv):
        torch.manual_seed(0)
        return arch(conv=conv).to(device)

    net = build(BayesConv2d)
    layers = bayes_layers(net)
    priors = nn.ModuleList(KernelPrior(vae, kl_kernels=drawn) if prior == "vae" else PRIORS[prior]() for vae in vaes)
    opt = torch.optim.Adam([p for p in [*net.parameters(), *priors.parameters()] if p.requires_grad], fused=True)

    def objective(x, y):
        return negative_elbo(net, layers, priors, n, x, y)

    def ours():
        stats = train_epoch((x, y), n, opt, objective)
        return n * stats["nll"] + stats["kl"]

    def reference_step():
        for batch, labels in textbook.per_item(x, y, bs=n, order=torch.arange(n)):
            nll = n * F.cross_entropy(plain(batch), labels)
            loss = nll + sum(textbook.kl(prior, layer.posterior(), vae) for layer, vae in zip(bayes_layers(plain), plain_vaes))
            plain_opt.zero_grad()
            loss.backward()
            plain_opt.step()
        return loss.item()

    if reference:
        plain, plain_vaes = textbook.order(build(textbook.Conv2d)), [textbook.kernel_vae(vae) for vae in vaes]
        psi = [p for vae in plain_vaes for p in vae.encoder.parameters()] if prior == "vae" else []
        plain_opt = torch.optim.Adam([*plain.parameters(), *psi])
    flops = LEARNED * count_flops(lambda: net(x)) + (FROZEN if prior == "vae" else LEARNED) * kl_flops(layers, priors)
    return Case(ours, reference_step if reference else None, flops, None if drawn else 1e-3)


def bare_step(model, device, n=50):
    """What no rearrangement saves in a step under local reparametrisation: its convolutions, forward and backward, and its noise."""
    net = NETWORKS[model](conv=BayesConv2d).to(device)
    x, _ = images(NETWORKS[model], n, device)
    work = []
    hooks = [
        layer.register_forward_hook(lambda layer, inputs, output: work.append((layer, inputs[0].detach(), output.detach())))
        for layer in bayes_layers(net)
    ]
    net(x)
    for hook in hooks:
        hook.remove()

    def ours():
        for layer, inputs, output in work:
            noise = normal_like(output)
            needed = [inputs.requires_grad_()] if layer is not work[0][0] else []
            for weight in (layer.mean.weight, layer.var.weight):
                torch.autograd.grad(layer.apply_weight(inputs, weight, None), [weight, *needed], output)
        return noise.mean().item()

    return Case(ours, flops=LEARNED * count_flops(lambda: net(x)))


def untrained(name, device):
    """Another density of 5x5 kernels, of the size that experiments.densities fits."""
    kind, given = DENSITIES[name], FITS[name].second if name in FITS else {}
    density = kind(5, **{option: given[option] for option in kind.options if option in given})
    if name == "kde":
        density.points = torch.randn(10_522, 25)  # the shipped kernels
    return density.to(device)


def posterior_of(kernels, device):
    """Mean and standard deviation of a layer of 5x5 kernels."""
    mean = torch.zeros(kernels, 1, 5, 5, device=device).normal_(0, 0.1).requires_grad_()
    return mean, torch.full_like(mean, 0.01)


def density_kl(name, device, kernels=4096):
    """The KL term of one layer of 5x5 kernels under another density than the VAE, with its gradient."""
    prior = PRIORS[name](untrained(name, device)).to(device)
    mean, scale = posterior_of(kernels, device)
    return Case(lambda: prior.kl(Normal(mean, scale)).backward())


def kl_term(kernels, device, other=False):
    """The deep weight prior's KL of one layer of 5x5 kernels, with its gradient.

    other: whether its coders take the convolutions that are another device's: direct ones on a CPU, Toom-Cook's products on a GPU."""
    prior = KernelPrior(kernel_vae(5, device)).to(device)
    plain = textbook.kernel_vae(prior.density)
    mean, scale = posterior_of(kernels, device)
    usual = tinyconv.by_images

    def work(kl):
        with mock.patch.object(tinyconv, "by_images", (lambda x: not usual(x)) if other else usual):
            value = kl(Normal(mean, scale))
            value.backward()
        return value.item()

    if other:
        return Case(lambda: work(prior.kl))
    flops = FROZEN * count_flops(lambda: prior.kl(Normal(mean, scale)))
    return Case(lambda: work(prior.kl), lambda: work(lambda q: textbook.kl("vae", q, plain)), flops)


def ensemble(device, n=10000):
    """Ensemble prediction of n images. Ours draws one weight sample per member, the reference one noise per activation."""
    arch = NETWORKS["fconv"]
    x, _ = images(arch, n, device)
    torch.manual_seed(0)
    net, plain = arch(conv=BayesConv2d).to(device), textbook.order(arch(conv=textbook.Conv2d)).to(device)
    plain.load_state_dict(net.state_dict())

    @torch.no_grad()
    def reference():
        batches = textbook.per_item(x, bs=500, order=torch.arange(n))
        probs = [torch.stack([F.softmax(plain(b), 1) for _ in range(MEMBERS)]).mean(0) for (b,) in batches]
        return torch.cat(probs).max(1).values.mean().item()

    def ours():
        return ensemble_average(mc_ensemble(net, x, MEMBERS)).exp().max(1).values.mean().item()

    set_mode(net, "sample")
    return Case(ours, reference, count_flops(lambda: predict(net, x[:10])) / 10 * n * MEMBERS, 0.05)


def vae_epoch(kernel_dim, device, n=2000, bs=128):
    """One epoch of train_vae_prior.py on n kernels."""
    kernels = 0.1 * torch.randn(n, 1, kernel_dim, kernel_dim, device=device)
    vae = kernel_vae(kernel_dim, device).requires_grad_()
    plain = textbook.kernel_vae(vae)
    opt, plain_opt = torch.optim.Adam(vae.parameters(), fused=True), torch.optim.Adam(plain.parameters())

    def reference():
        total = 0.0
        for (w,) in textbook.per_item(kernels, bs=bs, order=torch.randperm(n)):
            elbo = textbook.elbo(plain, w).mean()
            plain_opt.zero_grad()
            (-elbo).backward()
            plain_opt.step()
            total += elbo.item() * len(w) / n
        return total

    def ours():
        return train_epoch((kernels,), bs, opt, vae.loss)["elbo"]

    return Case(ours, reference, LEARNED * count_flops(lambda: vae.loss(kernels)))


QUICK = {
    "step, fconv, sn": (bnn_step, dict(model="fconv", prior="sn", n=5)),
    "its convolutions and noise alone": (bare_step, dict(model="fconv", n=5)),
    "KL, 16 5x5 kernels": (kl_term, dict(kernels=16)),
    "KL, 16 5x5 kernels, coders as on the other device": (kl_term, dict(kernels=16, other=True)),
    "ensemble of 10, 10 images": (ensemble, dict(n=10)),
    "epoch, 7x7 VAE, 64 kernels": (vae_epoch, dict(kernel_dim=7, n=64)),
    **{f"KL, 16 5x5 kernels, {name}": (density_kl, dict(name=name, kernels=16)) for name in DENSITIES if name not in ("vae", "kde")},
}

# name: (builder, its arguments)
FULL = {
    "step, fconv, sn": (bnn_step, dict(model="fconv", prior="sn")),
    "step, fconv, loguniform": (bnn_step, dict(model="fconv", prior="loguniform")),
    "its convolutions and noise alone": (bare_step, dict(model="fconv")),
    "step, fconv, vae": (bnn_step, dict(model="fconv", prior="vae")),
    "step, fconv, vae, 256 kernels": (bnn_step, dict(model="fconv", prior="vae", drawn=256)),
    "step, cifarnet, sn": (bnn_step, dict(model="cifarnet", prior="sn")),
    "step, cifarnet, loguniform": (bnn_step, dict(model="cifarnet", prior="loguniform")),
    "step, cifarnet, vae, 256 kernels": (bnn_step, dict(model="cifarnet", prior="vae", drawn=256, reference=False)),
    "step, cifarnet, vae": (bnn_step, dict(model="cifarnet", prior="vae", reference=False)),
    "ensemble of 10, 10000 images": (ensemble, {}),
    "epoch, 7x7 VAE, 2000 kernels": (vae_epoch, dict(kernel_dim=7)),
    "epoch, 5x5 VAE, 2000 kernels": (vae_epoch, dict(kernel_dim=5)),
    "KL, 4096 5x5 kernels": (kl_term, dict(kernels=4096)),
    "KL, 4096 5x5 kernels, coders as on the other device": (kl_term, dict(kernels=4096, other=True)),
    **{f"KL, 4096 5x5 kernels, {name}": (density_kl, dict(name=name)) for name in DENSITIES if name != "vae"},
}


def seconds(work, device):
    began = time.perf_counter()
    work()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - began


def check(name, case):
    """Both paths give the same number from the same random state.  Raises ValueError."""
    if case.reference is None or case.tolerance is None:
        return
    values = []
    for work in (case.ours, case.reference):
        torch.manual_seed(1)
        values.append(work())
    if abs(values[0] - values[1]) > case.tolerance * max(abs(values[1]), 1e-3):
        raise ValueError(f"{name}: ours gives {values[0]}, the reference {values[1]}")


def measure(case, device, budget):
    """Median seconds of ours and of the reference (None without one), in turns: at least 3 rounds, at most 25 or `budget` seconds; without
    a budget one."""
    paths = [work for work in (case.ours, case.reference) if work]
    times = [[] for _ in paths]
    for work in paths:
        work()  # the first call allocates and chooses algorithms
    began = time.perf_counter()
    least = 3 if budget else 1
    while len(times[0]) < least or (len(times[0]) < 25 and time.perf_counter() - began < budget):
        for work, taken in zip(paths, times):
            taken.append(seconds(work, device))
    medians = [statistics.median(t) for t in times]
    return medians if case.reference else [*medians, None]


def gemm_rate(device, n=2048):
    """FLOP/s of an n x n matrix product in float32: the ceiling that the cases are held against."""
    a = torch.randn(n, n, device=device)
    return 2 * n**3 / min(seconds(lambda: a @ a, device) for _ in range(8))


def peak_memory(builder, options, device):
    """Peak memory of ours over a process that has only imported torch, bytes; on a CPU from Linux's /proc, else None."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        builder(**options, device=device).ours()
        return torch.cuda.max_memory_allocated()
    if not Path("/proc/self/status").exists():
        return None
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch"])
    with ProcessPoolExecutor(1, context) as process:
        return process.submit(grown_memory, builder, options, device).result()


def grown_memory(builder, options, device):
    def high_water():
        return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

    before = high_water()
    builder(**options, device=device).ours()
    return high_water() - before


def run_case(name, builder, options, device, gemm, budget):
    """Check and time one case; returns its row."""
    case = builder(**options, device=device)
    check(name, case)
    ours, reference = measure(case, device, budget)
    memory = peak_memory(builder, options, device) if builder is bnn_step else None
    return dict(
        case=name,
        seconds=ours,
        reference_seconds=reference,
        ratio=reference / ours if reference else None,
        gemm_share=case.flops / ours / gemm if case.flops else None,
        peak_mb=memory / 2**20 if memory is not None else None,
    )


def kept_rows(file, shared):
    """Rows that a stopped run left in the file, if it ran the same code on the same device."""
    rows = read_rows(file) if file.exists() else []
    clean = not shared["commit"].endswith("+")
    return [row for row in rows if clean and all(str(row[c]) == str(shared[c]) for c in ("threads", "device", "commit"))]


def table(rows):
    """Markdown; the share is that of a large matrix product's rate."""

    def cell(value, scale=1, digits=2):
        return "–" if value in (None, "") else f"{scale * value:.{digits if abs(scale * value) < 1000 else 0}f}"

    lines = []
    for r in rows:
        times = [cell(r[column], 1000, 1) for column in ("seconds", "reference_seconds")]
        lines.append([r["case"], *times, cell(r["ratio"]), cell(r["gemm_share"]), cell(r["peak_mb"], digits=0)])
    return markdown("case | ours, ms | textbook, ms | ratio | of the GEMM rate | peak MB", lines)


def parse_args(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument("--device", type=usable_device, default="cpu", help="cpu, cuda, …")
    parser.add_argument("--only", help="cases whose name contains this; nothing is written then")
    parser.add_argument("--seconds", type=float, default=20.0, help="time for one case, beyond its first three rounds")
    parser.add_argument("--quick", action="store_true", help="smoke check on tiny cases, results under logs/")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    results, cases, budget = (folders(quick=True)[0], QUICK, 0.0) if args.quick else (RESULTS, FULL, args.seconds)
    cases = {name: case for name, case in cases.items() if (args.only or "") in name}
    shared = dict(threads=torch.get_num_threads(), device=device_name(args.device), commit=commit_name())
    gemm = gemm_rate(args.device)
    print(f"{shared['device']}, {shared['threads']} threads; a float32 matrix product runs at {gemm / 1e9:.0f} GFLOP/s")
    file = results / "benchmark.csv"
    rows = {} if args.only else {row["case"]: row for row in kept_rows(file, shared)}
    for name, (builder, options) in tqdm(cases.items(), desc="cases", disable=None):
        if name not in rows:
            rows[name] = run_case(name, builder, options, args.device, gemm, budget) | shared
            if not args.only:
                write_rows([{c: row[c] for c in COLUMNS} for row in rows.values()], file)
    print(table(rows.values()))
    if not args.only:
        print(f"wrote {file}")


if __name__ == "__main__":
    run_cli(main)
