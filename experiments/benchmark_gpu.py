"""Time of a training step on an accelerator, alone and with other processes beside it: python -m experiments.benchmark --gpu.

A small net's step waits for Python more than for the device, so the mean over processes side by side is what counts for a driver with
`--workers`. CUDA's Multi-Process Service (experiments/README.md) has to be started beforehand for that. Under three minutes; a run that was
stopped goes on with what is missing.
"""

import contextlib
import itertools
import multiprocessing
import time
from functools import partial
from queue import Empty

import torch
from torch import nn
from torch.distributions import Normal
from tqdm import tqdm

from models import NETWORKS, tinyconv
from models.bayes import BayesConv2d, bayes_layers, set_rates
from models.priors import PRIORS, KernelPrior
from myexman import commit_name
from myexman.logger import append_rows
from train_bnn import negative_elbo
from utils import BATCH, take_steps

from .benchmark import images, kept_rows, kernel_vae
from .grid import device_name, folders
from .methods import name_of
from .rows import RESULTS, markdown

COLUMNS = ("case", "n", "processes", "ms", "peak_mb", "threads", "device", "commit")
METHODS = ("dwp", "sn", "vd", "det")
WAYS = {"direct": True, "Toom-Cook": False}  # of the coders' convolutions


def training_step(method, n, device, hid_dim=NETWORKS["fconv"].default_hid_dim):
    """A step on n images under a method of experiments.methods, as a function without arguments that does not wait for the device."""
    torch.manual_seed(0)
    arch = NETWORKS["fconv"]
    net = arch(hid_dim, **({} if method == "det" else dict(conv=BayesConv2d)))
    layers = bayes_layers(net)
    set_rates(layers, [method] * len(layers))
    net.to(device)
    kinds = {"dwp": lambda k: KernelPrior(kernel_vae(k, device)), "det": None}
    priors = nn.ModuleList(kinds.get(method, lambda k: PRIORS[method]())(k) for _, k in zip(layers, (7, 5)))
    opt = torch.optim.Adam([p for p in [*net.parameters(), *priors.parameters()] if p.requires_grad], fused=True)
    data = images(arch, n, device)
    return lambda: list(take_steps(data, BATCH, opt, lambda x, y: negative_elbo(net, layers, priors, n, x, y)))


def coders(way, n, device):
    """The KL term of n 5x5 kernels with its gradient, by one of WAYS."""
    prior = KernelPrior(kernel_vae(5, device)).to(device)
    mean = torch.zeros(n, 1, 5, 5, device=device).normal_(0, 0.1).requires_grad_()
    scale = torch.full_like(mean, 0.01)

    def work():
        former, tinyconv.by_images = tinyconv.by_images, lambda x: WAYS[way]
        try:
            prior.kl(Normal(mean, scale, validate_args=False)).backward()
        finally:
            tinyconv.by_images = former

    return work


def wait_for(device):
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def rate(build, device, seconds, barrier=None, queue=None):
    """Calls of build()'s function in so many seconds, at least three, and how long they took; behind the barrier, into the queue."""
    torch.set_num_threads(1 if barrier else torch.get_num_threads())
    work = build()
    for _ in range(3):  # the first calls allocate and choose algorithms
        work()
    wait_for(device)
    if barrier:
        barrier.wait()
    began, calls = time.perf_counter(), 0
    while calls < 3 or time.perf_counter() - began < seconds:
        work()
        calls += 1
        if calls % 20 == 0:
            wait_for(device)  # or the queue of what has been asked for grows
    wait_for(device)
    found = calls, time.perf_counter() - began
    if queue:
        queue.put(found)
    return found


def measure(build, device, processes, seconds):
    """(ms per call over all processes, peak MB of one, None on a CPU)."""
    if processes == 1:
        if device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats()
        calls, took = rate(build, device, seconds)
        return 1000 * took / calls, torch.cuda.max_memory_allocated() / 2**20 if device.startswith("cuda") else None
    context = multiprocessing.get_context("forkserver")  # whose server never touches the device
    barrier, queue = context.Barrier(processes), context.Queue()
    workers = [context.Process(target=rate, args=(build, device, seconds, barrier, queue), daemon=True) for _ in range(processes)]
    for worker in workers:
        worker.start()
    found = []
    while len(found) < processes:
        with contextlib.suppress(Empty):
            found.append(queue.get(timeout=5))
        if any(worker.exitcode for worker in workers):
            for worker in workers:
                worker.kill()  # the others wait for it
            raise ValueError(f"one of {processes} processes has failed, perhaps because memory is too small for so many")
    for worker in workers:
        worker.join()
    return 1000 / sum(calls / took for calls, took in found), None


def main(device, quick):
    """Measure what the file lacks, and print all.  Raises ValueError without an accelerator, but for a smoke check."""
    if not quick and not device.startswith("cuda"):
        raise ValueError("--gpu measures an accelerator: give --device cuda, or --quick for a smoke check on this CPU")
    sizes, side_by_side, kernels, seconds = ((5,), (2,), 16, 0.0) if quick else ((50, 256), (8, 16), 4096, 3.0)
    step = partial(training_step, device=device, **(dict(hid_dim=(3, 4)) if quick else {}))
    cases = {(name_of(m), n, 1): partial(step, m, n) for m, n in itertools.product(METHODS, sizes)}
    cases |= {(f"KL of 5x5 kernels, {way}", kernels, 1): partial(coders, way, kernels, device) for way in WAYS}
    beside = itertools.product(METHODS[: 1 if quick else None], side_by_side)
    cases |= {(name_of(m), sizes[0], k): partial(step, m, sizes[0]) for m, k in beside}
    file = (folders(quick)[0] if quick else RESULTS) / "benchmark_gpu.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    shared = dict(threads=torch.get_num_threads(), device=device_name(device), commit=commit_name())
    rows = kept_rows(file, shared)
    done = {(row["case"], row["n"], row["processes"]) for row in rows}
    for case, build in tqdm(cases.items(), desc="cases", disable=None):
        if case not in done:
            ms, peak = measure(build, device, case[2], seconds)
            rows.append(dict(zip(COLUMNS, (*case, ms, peak))) | shared)
            append_rows(rows[-1:], file, COLUMNS)
            tqdm.write(f"{case[0]}, n = {case[1]}, {case[2]} processes: {ms:.3g} ms")
    cells = [[r["case"], r["n"], r["processes"], f"{r['ms']:.3g}", f"{r['peak_mb']:.0f}" if r["peak_mb"] else "–"] for r in rows]
    print(markdown("step under | n | processes | ms per step, all processes together | peak MB", cells))
