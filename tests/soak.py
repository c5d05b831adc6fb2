"""Kill runs of the three training scripts at random moments, resume them, and compare with runs that were left alone.

    python -m tests.soak --kills 50 --terms 10 --usr1 10

Weights must be equal bit for bit, logs equal but for seconds. tests/test_life.py does a few such rounds.
"""

import importlib
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from data.glyphs import make_glyphs
from myexman import Parser, status
from myexman.logger import read_rows
from utils import load_weights, run_cli

ROOT = Path(__file__).resolve().parents[1]
CONTEXT = multiprocessing.get_context("forkserver")  # which imports once, also what the first optimiser and the first picture import
CONTEXT.set_forkserver_preload(["train_bnn", "train_source", "train_vae_prior", "torch._dynamo", "models.pictures", "matplotlib.figure"])


def commands(folder):
    """{script: (its options, its file of weights)}, of runs of some seconds on data under `folder`."""
    for name in ("glyph-digits", "glyph-letters"):
        make_glyphs(name, folder / f"{name}.npz", {"train": 100, "test": 40})
    rng = np.random.default_rng(0)
    for split, n in (("train", 40), ("test", 8)):
        np.save(folder / f"{split}.npy", rng.normal(size=(n, 1, 7, 7)))
    priors = [str(ROOT / f"data/fconv/vae{k}x{k}") for k in (7, 5)]
    bnn = "--data glyph-digits --hid_dim 3 4 --epochs 12 --eval_freq 6 --ens 2 --bs 50 --prior_list vae --init_list vae"
    source = "--data glyph-letters --hid_dim 8 6 --epochs 12 --eval_freq 6 --bs 25 --drop_dead 0.05 --l2 0.01"
    vae = f"--data_dir {folder} --num_epochs 24 --eval_freq 12 --bs 8 --z_dim 2 --hidden_dim 8 --no_screen"
    data = ["--data_root", str(folder), "--save_every", "0.3"]
    return {
        "train_bnn.py": ([*bnn.split(), "--kl_kernels", "4", *data, "--vae_list", *priors], "model.torch"),
        "train_source.py": ([*source.split(), *data], "model.torch"),
        "train_vae_prior.py": ([*vae.split(), "--save_every", "0.3"], "vae_params.torch"),
    }


def work(script, words, root, err, out=os.devnull):
    """A script in a process of its own; err, out: files that it prints to."""
    os.environ["DWP_PATH"] = str(root)
    torch.set_num_threads(1)
    sys.argv = [script]
    with open(out, "w") as printed, open(err, "w") as said, redirect_stdout(printed), redirect_stderr(said):
        run_cli(partial(importlib.import_module(script.removesuffix(".py")).main, words))


def begin(script, words, root):
    """Start a script; returns the process and the file of what it says."""
    root.mkdir(parents=True, exist_ok=True)
    process = CONTEXT.Process(target=work, args=(script, words, root, root / "stderr"))
    process.start()
    return process, root / "stderr"


def finish(process, err):
    process.join()
    return process.exitcode, err.read_text() if err.exists() else ""


def run_to_the_end(script, words, root):
    """Returns the run's folder and the seconds it took."""
    began = time.time()
    code, err = finish(*begin(script, words, root))
    assert code == 0, err
    return sorted((root / "runs").iterdir())[-1], time.time() - began


def interrupted(script, words, root, signum, delay):
    """Begin a run and send it a signal after a delay, in seconds; returns its folder, None if it had not yet begun, its last words, and
    whether the signal found it alive."""
    process, err = begin(script, words, root)
    time.sleep(delay)
    if hit := process.is_alive():
        os.kill(process.pid, signum)
    _, said = finish(process, err)
    runs = sorted((root / "runs").iterdir()) if (root / "runs").exists() else [None]
    return runs[-1], said, hit


def contents(run, weights):
    """What two equal runs agree in: weights, and the logs without seconds."""
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in read_rows(run / "logs.csv")]
    return load_weights(run / weights), rows


def differences(script, words, weights, whole, root, signum, delay):
    """(what differs, in words, between the run `whole` and one that a signal hit and that was resumed until it ended; "" if nothing;
    whether it was hit)."""
    run, err, hit = interrupted(script, words, root, signum, delay)
    if run is None or not status(run)["state"]:
        return "", hit  # before there was a run, or it had begun
    saved = (run / "checkpoint.torch").exists()
    advice = "go on with --resume" if saved else "there is no checkpoint yet"
    if signum != signal.SIGKILL and advice not in err and status(run)["state"] not in ("finished", "killed"):
        return f"said {err!r}", hit
    if saved:
        if status(run)["state"] != "finished":
            code, err = finish(*begin(script, ["--resume", str(run)], root))
            if code:
                return f"did not resume: {err!r}", hit
    else:
        return "", hit  # before its first checkpoint: nothing to resume
    (state, rows), (other, other_rows) = contents(whole, weights), contents(run, weights)
    found = [f"weights {name}" for name in state if not torch.equal(state[name], other[name])]
    found += ["logs"] if rows != other_rows else []
    found += [f"left {p.name}" for p in run.iterdir() if p.name.startswith(".") and p.name != ".lock"]
    return "; ".join(found), hit


def soak(counts, seed=0):
    """counts: {signal: how often}.  Returns the list of (script, signal, delay, what differs) of all rounds that went wrong.  A signal that
    comes too late, as when the machine has become faster, is sent again to another run, after half the time."""
    rng, failures = random.Random(seed), []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        scripts = commands(folder)
        CONTEXT.Process(target=int).start()  # so that no run's time has the imports in it
        rounds = [signum for signum, n in counts.items() for _ in range(n)]
        whole = {script: run_to_the_end(script, scripts[script][0], folder / f"whole-{script}") for script in [*scripts][: len(rounds)]}
        for i, signum in enumerate(tqdm(rounds, desc="signals", disable=None)):
            script = list(scripts)[i % 3]
            words, weights = scripts[script]
            run, seconds = whole[script]
            delay, hit = rng.uniform(0.05, 1.05) * seconds, False
            while not hit:
                root = Path(tempfile.mkdtemp(prefix=f"round-{i}-", dir=folder))
                wrong, hit = differences(script, words, weights, run, root, signum, delay)
                failures += [(script, signum.name, round(delay, 2), wrong)] * bool(wrong)
                delay /= 2
    return failures


def main(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="SIGKILLs")
    parser.add_argument("--terms", type=int, default=10, help="SIGTERMs")
    parser.add_argument("--usr1", type=int, default=10, help="SIGUSR1s")
    args = parser.parse_args(argv)
    failures = soak({signal.SIGKILL: args.kills, signal.SIGTERM: args.terms, signal.SIGUSR1: args.usr1})
    for failure in failures:
        print(*failure)
    print(f"{args.kills + args.terms + args.usr1} signals to runs that were alive; {len(failures)} runs that differ")
    return sys.exit(bool(failures))


if __name__ == "__main__":
    main()
