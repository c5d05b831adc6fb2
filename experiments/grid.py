"""What the drivers share: run a list of jobs once each, whatever interrupts, and keep their results as tidy rows.

A row is one number: figure, panel, method, x, seed, metric, value, steps, device, commit, seconds, setting. A job whose rows stand in
the CSV file is not run again, so a driver that was stopped or killed goes on where it was.
"""

import csv
import importlib
import multiprocessing
import os
import platform
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import yaml
from tqdm import tqdm

from myexman import commit_name
from myexman.logger import read_rows

HERE = Path(__file__).resolve().parent
RESULTS, FIGURES = HERE / "results", HERE / "figures"
KEY = ("figure", "panel", "method", "x", "seed", "setting")  # what tells one job's rows from another's
COLUMNS = ("figure", "panel", "method", "x", "seed", "metric", "value", "steps", "device", "commit", "seconds", "setting")

# One name and one colour (Okabe and Ito's colour-blind-safe set) per method, in every table and figure.
METHODS = {
    "dwp": ("deep weight prior", "#0072B2"),
    "loguniform": ("log-uniform", "#E69F00"),
    "sn": ("standard normal", "#009E73"),
    "det": ("deterministic", "#CC79A7"),
}


class Job(NamedTuple):
    """One run of a script: where its numbers belong, and the command line that makes them."""

    figure: str
    panel: str
    method: str
    x: str
    seed: int
    script: str
    argv: list
    setting: str = ""

    @property
    def key(self):
        return tuple(str(getattr(self, c)) for c in KEY)


def command_line(**options):
    """Options as command-line words: hid_dim=(32, 128) -> --hid_dim 32 128; True is a switch."""
    words = []
    for name, value in options.items():
        values = [] if value is True else value if isinstance(value, (list, tuple)) else [value]
        words += [f"--{name}", *map(str, values)]
    return words


def method_options(method, vaes):
    """train_bnn's options of a method: its net and priors, and the kernels it starts from, the VAE prior's for all (as in the paper)."""
    options = dict(vae_list=vaes, init_list=["vae"] * len(vaes))
    if method == "det":
        return options | dict(net_cfg="vanilla")
    return options | dict(net_cfg="bayes", prior_list=["vae" if method == "dwp" else method] * len(vaes))


def device_name(device):
    return torch.cuda.get_device_name(device) if str(device).startswith("cuda") else f"cpu ({platform.machine()}, {os.cpu_count()} cores)"


def run_job(job):
    """Run one job; returns its tidy rows."""
    commit = commit_name()
    began = time.time()
    run_dir = importlib.import_module(job.script).main(job.argv)
    seconds = round(time.time() - began, 1)
    last = read_rows(run_dir / "logs.csv")[-1]
    device = yaml.safe_load((run_dir / "params.yaml").read_text())["device"]
    who = "ens" if "ens_acc" in last else "mean"  # a deterministic net is its own ensemble
    values = {name: last[f"{who}_{name}"] for name in ("acc", "nll", "ece", "brier")}
    values |= {k: v for k, v in last.items() if k in ("train_nll", "kl", "mean_acc", "mean_nll", "mean_ece", "one_acc", "one_nll")}
    shared = {c: getattr(job, c) for c in KEY}
    shared |= dict(steps=last["step"], device=device_name(device), commit=commit, seconds=seconds)
    return [dict(shared, metric=k, value=v) for k, v in values.items()]


def one_thread():
    torch.set_num_threads(1)


def run_grid(jobs, file, workers=1, time_limit=None):
    """Run the jobs that have no rows in `file` yet and append their rows, each job's at once; returns all rows of the file.

    workers: processes side by side, one thread each; 1 runs in this process with all threads.
    time_limit: seconds after which no further job is started."""
    file = Path(file)
    done = finished_keys(file)
    todo = [job for job in jobs if job.key not in done]
    deadline = time.time() + (time_limit or float("inf"))
    bar = tqdm(total=len(jobs), initial=len(jobs) - len(todo), desc=f"{file.stem}: runs", disable=None)

    def finished(rows):
        append_rows(rows, file)
        bar.update()

    if workers == 1:
        for job in todo:
            if time.time() < deadline:
                tqdm.write(f"run {job.key}")
                finished(run_job(job))
    elif todo:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context, initializer=one_thread) as pool:
            queue, running = iter(todo), set()
            while True:
                while len(running) < workers and time.time() < deadline and (job := next(queue, None)):
                    running.add(pool.submit(run_job, job))
                if not running:
                    break
                ready = next(as_completed(running))
                running.remove(ready)
                finished(ready.result())
    bar.close()
    missing = len({job.key for job in jobs} - finished_keys(file))
    if missing:
        print(f"stopped at the time limit with {missing} of {len(jobs)} runs to go; the same command goes on from here")
    return read_rows(file) if file.exists() else []


def finished_keys(file):
    return {tuple(str(row[c]) for c in KEY) for row in (read_rows(file) if file.exists() else [])}


def append_rows(rows, file, columns=COLUMNS):
    """Append rows, dicts by column, to a CSV file; they are on the disk when this returns."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = not file.exists() or file.stat().st_size == 0
    with file.open("a", newline="") as f:
        writer = csv.DictWriter(f, columns)
        if new:
            writer.writeheader()
        writer.writerows(rows)
        f.flush()
        os.fsync(f.fileno())


def write_rows(rows, file):
    """Write a CSV file anew, whole or not at all."""
    new = file.with_suffix(".new")
    new.unlink(missing_ok=True)
    append_rows(rows, new, list(rows[0]))
    new.replace(file)


def select(rows, **where):
    """Values of the rows that agree with `where`, as an array."""
    return np.array([row["value"] for row in rows if all(str(row[k]) == str(v) for k, v in where.items())], dtype=float)


def paper_value(figure, panel, method, x):
    """The number the paper gives, or None."""
    values = select(read_rows(HERE / "paper_results.csv"), figure=figure, panel=panel, method=method, x=x)
    return float(values[0]) if len(values) else None
