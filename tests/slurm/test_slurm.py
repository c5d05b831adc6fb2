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
        env=os.environ | dict(DWP_PATH=str(root)),
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


def test_a_grid_survives_its_driver_a_requeue_and_a_warning(digits, tmp_path):
    """A driver is killed and started again, a job is queued again by hand and another by a scheduler's warning, and one job fails."""
    root, local = tmp_path / "slurm", tmp_path / "local"
    driver = subprocess.Popen(**sweep(digits, root, *SLURM))
    first = wait_for(lambda: len(at_work(root)) == 2 and at_work(root), driver)
    driver.kill()
    driver.wait()
    running = sorted(number for number, state in queue().items() if state == "RUNNING")
    assert len(running) == 2 and all("_" in number for number in running)
    subprocess.run(["scontrol", "requeue", running[0]], check=True)
    subprocess.run(["timeout", "2", "scancel", "--signal=USR2", running[1]], capture_output=True)  # else it would go on trying

    driver = subprocess.Popen(**sweep(digits, root, *SLURM))
    deadline = time.time() + SECONDS
    while driver.poll() is None and time.time() < deadline:
        hurry()
        time.sleep(1)
    said = driver.communicate()[0]
    assert driver.returncode == 2 and "1 of the runs have failed" in said, said
    assert "num_examples=1 / seed=0: ValueError: num_examples 1 is smaller than the number of classes" in said

    alone = subprocess.run(**sweep(digits, local))
    assert alone.returncode == 2, alone.stdout
    rows = [read_rows(folder / "sweeps/grid.csv") for folder in (root, local)]
    results = [sorted((r["method"], r["metric"], r["value"]) for r in found if r["metric"] != "seconds") for found in rows]
    assert results[0] == results[1] and len({r[0] for r in results[0]}) == 3

    runs = Index(root).info()
    assert sorted(row["num_examples"] for row in runs) == [1, 30, 40, 50]  # nothing was begun anew
    for run in first.values():
        assert "resumed" in (run / "params.yaml").read_text()

    for words, state, n in (
        ([], "1 of the runs have failed", 4),
        (["--retry"], "(3 done, 0 running, 1 failed, 0 to go)", 5),
    ):  # run again if that is asked for
        again = subprocess.run(**sweep(digits, root, *SLURM, *words))
        assert again.returncode == 2 and state in again.stdout and len(Index(root).info()) == n, again.stdout
    assert read_rows(root / "sweeps/grid.csv") == rows[0]


def test_a_job_that_is_cancelled_is_a_failed_one(digits, tmp_path):
    driver = subprocess.Popen(**sweep(digits, tmp_path / "slurm", *SLURM))
    wait_for(lambda: at_work(tmp_path / "slurm"), driver)
    subprocess.run(["scancel", "--user", str(os.getuid())], check=True)
    said = driver.communicate(timeout=SECONDS)[0]
    assert driver.returncode == 2 and "left the queue without a result; its words are in" in said, said
    assert "4 of the runs have failed" in said
