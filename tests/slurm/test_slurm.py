"""Jobs on a real Slurm, which tests/slurm/run.sh starts; elsewhere skipped."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from myexman import Index
from myexman.logger import read_rows

pytest.importorskip("submitit")
pytestmark = pytest.mark.skipif(
    not shutil.which("sinfo") or subprocess.run(["sinfo"], capture_output=True).returncode, reason="no Slurm: tests/slurm/run.sh starts one"
)
ROOT = Path(__file__).resolve().parents[2]
SECONDS = 400
SLURM = ("--launcher", "slurm", "--mem_gb", "0.8")


def sweep(digits, root, *words):
    """The command of a grid of three points that take some seconds, and one that fails."""
    fixed = f"--data {digits} --hid_dim 3 4 --epochs 1000 --eval_freq 500 --bs 50 --ens 2 --save_every 1"
    grid = ["--grid", "num_examples=30,40,50,1", "--fixed", fixed, "--name", "grid"]
    return dict(
        args=[sys.executable, "-m", "experiments.sweep", "train_bnn.py", *grid, *words],
        cwd=ROOT,
        env=os.environ | dict(DWP_PATH=str(root), OMP_NUM_THREADS="1"),  # as many as a job has: sums differ with threads
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def queue():
    """{number: state} of the jobs in the queue."""
    lines = subprocess.run(["squeue", "--noheader", "--array", "--format=%i %T"], capture_output=True, text=True).stdout.splitlines()
    return dict(line.split() for line in lines)


def wait_for(what, driver):
    """What is waited for, once it is there. The driver goes on meanwhile; if it ends, its words are the error."""
    deadline = time.time() + SECONDS
    while not (found := what()):
        assert driver.poll() is None, driver.communicate()[0]
        assert time.time() < deadline, queue()
        time.sleep(0.2)
    return found


def at_work(root):
    """The run folders, by the number of points, of the jobs that run and have left a checkpoint."""
    runs = {row.get("num_examples"): Path(row["path"]) for row in Index(root).info() if row["state"] == "running"}
    return {n: run for n, run in runs.items() if (run / "checkpoint.torch").exists()}


def hurry():
    """Let jobs that were queued again begin at once: by default they wait for two minutes."""
    for number, state in queue().items():
        if state == "PENDING":
            subprocess.run(["scontrol", "update", f"jobid={number}", "starttime=now"], capture_output=True)


def run_driver(digits, root, *words):
    """Run a driver to its end, hurrying the queue; returns what it says."""
    driver = subprocess.Popen(**sweep(digits, root, *SLURM, *words))
    deadline = time.time() + SECONDS
    while driver.poll() is None and time.time() < deadline:
        hurry()
        time.sleep(1)
    said = driver.communicate()[0]
    assert driver.returncode == 2, said
    return said


def test_a_grid_survives_its_driver_a_requeue_a_warning_and_a_cancelled_job(digits, tmp_path):
    """Of four jobs one is queued again by hand, one by a scheduler's warning, one is cancelled, and one fails; their driver is killed and
    started again. What failed is run again when that is asked for, and nothing else is begun twice."""
    root, local = tmp_path / "slurm", tmp_path / "local"
    driver = subprocess.Popen(**sweep(digits, root, *SLURM))
    first = wait_for(lambda: len(at_work(root)) == 2 and at_work(root), driver)
    driver.kill()
    driver.wait()
    running = sorted(number for number, state in queue().items() if state == "RUNNING")
    assert len(running) == 2 and all("_" in number for number in running) and set(first) == {30, 40}
    subprocess.run(["scontrol", "requeue", running[0]], check=True)
    subprocess.run(["timeout", "2", "scancel", "--signal=USR2", running[1]], capture_output=True)  # else it would go on trying
    subprocess.run(["scancel", f"{running[0].partition('_')[0]}_2"], check=True)

    said = run_driver(digits, root)
    assert "2 of the runs have failed" in said and "left the queue without a result; see" in said
    assert "num_examples=1 / seed=0: ValueError: num_examples 1 is smaller than the number of classes" in said
    for run in first.values():
        assert "resumed" in (run / "params.yaml").read_text()
    before = sorted(row["num_examples"] for row in Index(root).info())
    assert "2 of the runs have failed" in run_driver(digits, root) and len(Index(root).info()) == len(before)
    assert "1 of the runs have failed" in run_driver(digits, root, "--retry")
    assert (
        sorted(row["num_examples"] for row in Index(root).info()) == sorted([*before, 1, 50]) and before.count(30) == before.count(40) == 1
    )

    alone = subprocess.run(**sweep(digits, local))
    assert alone.returncode == 2, alone.stdout
    results = []
    for folder in (root, local):
        rows = read_rows(folder / "sweeps/grid.csv")
        results.append(sorted((r["method"], r["metric"], r["value"]) for r in rows if r["metric"] != "seconds"))
    assert results[0] == results[1] and len({r[0] for r in results[0]}) == 3
