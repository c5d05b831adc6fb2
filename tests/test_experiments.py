"""The drivers of the experiments, in miniature."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from data.glyphs import GLYPHS, make_glyphs
from experiments import benchmark, quickstart
from experiments.grid import METHODS
from myexman.logger import read_rows

ROOT = Path(__file__).resolve().parents[1]


def test_the_benchmark_runs_and_agrees_with_its_reference():
    benchmark.main(["--quick"])
    rows = read_rows(Path(os.environ["DWP_PATH"]) / "quick/benchmark.csv")
    assert [row["case"] for row in rows] == list(benchmark.QUICK) and all(row["seconds"] > 0 for row in rows)
    assert rows[0]["peak_mb"] > 0


def test_the_quickstart_in_miniature(tmp_path, capsys):
    for name in GLYPHS:
        make_glyphs(name, tmp_path / f"{name}.npz", {"train": 200, "test": 50})
    tiny = "--nets 1 --source_epochs 1 --source_dim 6 6 --vae_epochs 1 1 --bnn_epochs 2 --bnn_dim 2 3 --splits 1"
    quickstart.main([*tiny.split(), "--root", str(tmp_path / "logs"), "--data_root", str(tmp_path)])
    out = capsys.readouterr().out
    assert all(METHODS[method][0] in out for method in quickstart.COMPARED)
    assert (tmp_path / "logs/quickstart/quickstart.png").exists()


def test_a_driver_killed_in_the_middle_goes_on_where_it_was(tmp_path):
    """SIGKILL after the first finished run; the second call repeats none."""
    command = [sys.executable, "-m", "experiments.fig2", "--quick", "--data_root", str(tmp_path)]
    results = Path(os.environ["DWP_PATH"]) / "quick/fig2.csv"
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 120
    while not (results.exists() and read_rows(results)) and process.poll() is None and time.time() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = read_rows(results)
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    rows = read_rows(results)
    assert rows[: len(before)] == before and sum(r["metric"] == "acc" for r in rows) == len(METHODS)  # once each
    assert (results.parent / "fig2.png").exists()
