"""What a run leaves when it is stopped, killed, out of disk, or shared: a state that goes on exactly, and a word for how it ended."""

import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import train_bnn
import train_source
from experiments.rows import add_rows
from models.densities import IndependentGaussian
from models.prior_folder import publish
from myexman import Checkpoints, Logger, Stopped, go_on, load_checkpoint, read_params, save_state, status, write_yaml
from myexman.life import alive
from myexman.logger import read_log
from utils import load_run, run_cli

from .soak import CONTEXT, begin, commands, finish, soak, work

ROOT = Path(__file__).resolve().parents[1]


def test_signals_at_random_moments_change_nothing():
    """One of each of two; python -m tests.soak sends more, to all scripts."""
    assert soak({signal.SIGKILL: 1, signal.SIGTERM: 1}) == []


def make(tmp_path, every=1e9):
    layer = torch.nn.Linear(2, 1)
    return layer, Checkpoints(tmp_path, every, layer=layer)


@pytest.mark.parametrize("every, expected", [(0, [1, 2, 3, 4]), (1e9, [2, 4])])
def test_checkpoints_come_with_evaluations_and_with_time(tmp_path, every, expected):
    layer, checkpoints = make(tmp_path, every)
    (tmp_path / ".123.checkpoint.torch").write_bytes(b"of a process that was killed")
    seen = []
    with checkpoints:
        for epoch in (1, 2, 3, 4):
            checkpoints.finished(epoch, save=epoch % 2 == 0)
            if (tmp_path / "checkpoint.torch").exists():
                seen.append(load_checkpoint(tmp_path, "cpu", layer=layer))
    assert sorted(set(seen)) == expected and [p.name for p in tmp_path.iterdir()] == ["checkpoint.torch"]


@pytest.fixture
def heeded(signum):
    """The signal is not ignored, as it is where the tests were started by nohup."""
    former = signal.signal(signum, signal.SIG_DFL)
    yield
    signal.signal(signum, former)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
@pytest.mark.parametrize("patience", [0.0, 1e9])
@pytest.mark.usefixtures("heeded")
def test_a_signal_leaves_the_last_finished_epoch(tmp_path, monkeypatch, signum, patience):
    """In a slow epoch at once, with the state before it; in a quick one when it ends."""
    monkeypatch.setattr("myexman.checkpoint.PATIENCE", patience)
    layer, checkpoints = make(tmp_path)
    weights, handler = [], signal.getsignal(signum)
    with pytest.raises(Stopped) as e, checkpoints:
        for epoch in (1, 2, 3):
            with torch.no_grad():
                layer.weight += 1
            if epoch == 2:
                signal.raise_signal(signum)
            weights.append(layer.weight.detach().clone())
            checkpoints.finished(epoch)
    last = 1 if patience == 0 else 2
    assert load_checkpoint(tmp_path, "cpu", layer=layer) == last and torch.equal(layer.weight, weights[last - 1])
    assert f"after epoch {last}; go on with --resume {tmp_path}" in str(e.value) and signum.name in str(e.value)
    assert signal.getsignal(signum) == handler


def test_a_signal_in_the_first_epoch_ends_it_at_once(tmp_path):
    _, checkpoints = make(tmp_path)
    with pytest.raises(Stopped, match="before it had finished another epoch"), checkpoints:
        signal.raise_signal(signal.SIGTERM)
        checkpoints.finished(1)
    assert list(tmp_path.iterdir()) == []


def test_a_signal_while_a_checkpoint_is_written_waits_for_it(tmp_path, monkeypatch):
    monkeypatch.setattr("myexman.checkpoint.PATIENCE", 0.0)
    layer, checkpoints = make(tmp_path)
    write = torch.save
    with pytest.raises(Stopped), checkpoints:
        checkpoints.finished(1)
        monkeypatch.setattr(torch, "save", lambda *args: (signal.raise_signal(signal.SIGTERM), write(*args)))
        checkpoints.finished(2, save=True)
    assert load_checkpoint(tmp_path, "cpu", layer=layer) == 2


def test_a_run_knows_how_it_ended(tmp_path):
    states = []
    for error in (None, ValueError("wrong"), Stopped(signal.SIGTERM, "run", 3)):
        try:
            with alive(tmp_path):
                states.append(status(tmp_path)["state"])
                if error:
                    raise error
        except (ValueError, Stopped):
            pass
        states.append(status(tmp_path)["state"])
    assert states == ["running", "finished", "running", "failed", "running", "stopped"]
    assert "ValueError: wrong" in (tmp_path / "traceback.txt").read_text() and status(tmp_path)["seconds"] >= 0
    (tmp_path / "status.yaml").write_text(yaml.safe_dump(status(tmp_path) | dict(state="running")))
    assert status(tmp_path)["state"] == "killed"  # nobody holds the lock
    assert status(tmp_path / "gone") == dict(state="")
    for damage in (b"", b"[1, 2", b"\xff\xfe", b"- 1"):
        (tmp_path / "status.yaml").write_bytes(damage)
        assert status(tmp_path) == dict(state="")


def test_a_run_on_another_machine_is_judged_by_its_signs_of_life(tmp_path, monkeypatch):
    (tmp_path / "status.yaml").write_text(yaml.safe_dump(dict(state="running", host="elsewhere")))
    assert status(tmp_path)["state"] == "running"
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600)
    assert status(tmp_path)["state"] == "killed"


def test_of_two_processes_that_resume_one_run_the_second_is_refused(tmp_path, capsys):
    words, _ = commands(tmp_path)["train_source.py"]
    process, said = begin("train_source.py", [*words, "--epochs", "100000", "--eval_freq", "5"], tmp_path / "logs")
    while not (begun := list(tmp_path.glob("logs/runs/*/checkpoint.torch"))) and process.is_alive():
        time.sleep(0.02)
    process.terminate()
    _, err = finish(process, said)
    run = begun[0].parent
    assert "go on with --resume" in err and status(run)["state"] == "stopped"
    with alive(run), pytest.raises(SystemExit) as e:
        run_cli(lambda: train_source.main(["--resume", str(run)]))
    said = capsys.readouterr().err
    assert e.value.code == 2 and "is in use by another process" in said and said.count("\n") == 1


@contextmanager
def full_disk(room=0):
    """No file may grow beyond `room` bytes: what a full disk does to writers."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def write_a_checkpoint(file):
    save_state({"w": torch.ones(10_000)}, file)


def write_a_log_row(file):
    Logger(file.parent, resume_at=1).row(epoch=2, loss=0.25)


def write_params(file):
    write_yaml(file, {"epochs": 5, "name": "x" * 1000})


def write_a_prior(file):
    publish(file.parent / "run", file.parent)


def write_results(file):
    add_rows([dict(a=3, b=4)] * 1000, file, ("a", "b"))


FORMER = {
    "checkpoint.torch": (write_a_checkpoint, b"former"),
    "logs.csv": (write_a_log_row, b"epoch,loss\r\n1,0.5\r\n"),
    "params.yaml": (write_params, b"epochs: 3\n"),
    "vae_params.torch": (write_a_prior, b"former"),
    "fig2.csv": (write_results, b"a,b\r\n1,2\r\n"),
}


@pytest.mark.parametrize("room", [0, 20])
@pytest.mark.parametrize("name", FORMER)
def test_a_full_disk_leaves_the_former_file(tmp_path, capsys, name, room):
    write, former = FORMER[name]
    file = tmp_path / name
    file.write_bytes(former)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_bytes(bytes(10_000))
    with full_disk(room), pytest.raises(SystemExit) as e:
        run_cli(lambda: write(file))
    said = capsys.readouterr().err
    assert e.value.code == 2 and said.count("\n") == 1 and "cannot write" in said and "File too large" in said, said
    assert file.read_bytes() == former
    assert {p.name for p in tmp_path.iterdir()} <= {name, "run", f".{name}.lock"}
    write(file)
    assert file.read_bytes() != former


def test_a_run_on_a_full_disk_says_so_in_one_line(tmp_path, digits, capsys):
    words = ["--data", str(digits), "--hid_dim", "2", "2", "--epochs", "2", "--eval_freq", "1"]
    for room in (0, 100, 2000, 4000):  # what of a run's files does not fit differs
        with full_disk(room), pytest.raises(SystemExit) as e:
            run_cli(lambda: train_source.main(words))
        said = capsys.readouterr().err
        assert e.value.code == 2 and said.count("\n") == 1 and "cannot write" in said, said


def test_under_nohup_a_closed_terminal_is_ignored(tmp_path):
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        _, checkpoints = make(tmp_path)
        with checkpoints:
            checkpoints.finished(1)
            signal.raise_signal(signal.SIGHUP)
            checkpoints.finished(2)
    finally:
        signal.signal(signal.SIGHUP, former)


def test_a_lost_terminal_ends_no_run(digits, tmp_path, monkeypatch):
    """A full disk; streams that were closed before; a reader that has read enough."""
    words = f"--data {digits} --hid_dim 2 3 --epochs 30 --eval_freq 1 --root {tmp_path}/logs".split()
    with open("/dev/full", "w") as full:
        for stream in (full, None):
            monkeypatch.setattr(sys, "stdout", stream)
            monkeypatch.setattr(sys, "stderr", stream)
            run_cli(lambda: train_source.main(words))
    os.mkfifo(tmp_path / "pipe")
    pipe = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    process = CONTEXT.Process(target=work, args=("train_source.py", words, tmp_path, os.devnull, tmp_path / "pipe"))
    process.start()
    said, deadline = b"", time.time() + 60
    while b"epoch" not in said and time.time() < deadline:
        with suppress(BlockingIOError):
            said += os.read(pipe, 100)
        time.sleep(0.001)
    os.close(pipe)
    process.join(timeout=60)
    runs = list((tmp_path / "logs/runs").iterdir())
    assert b"epoch" in said and process.exitcode == 0 and len(runs) == 3
    for run in runs:
        assert status(run)["state"] == "finished" and read_log(run / "logs.csv")[-1]["epoch"] == 30


def test_a_run_goes_on_with_the_data_that_it_began_with_alone(digits, tmp_path, capsys):
    words = ["--data", str(digits), "--hid_dim", "2", "3", "--eval_freq", "1", "--ens", "0"]
    run = train_bnn.main([*words, "--epochs", "1"])
    train_bnn.main(["--resume", str(run), "--epochs", "2"])
    arrays = dict(np.load(digits))
    for part, what in (("train", "training"), ("test", "test")):
        for name in (f"x_{part}", f"y_{part}"):  # one image, or one label, is another
            other = {k: v.copy() for k, v in arrays.items()}
            other[name][-1] = (other[name][-1] + 1) % 3
            np.savez(digits, **other)
            with pytest.raises(ValueError, match=f"began with other {what} data"):
                train_bnn.main(["--resume", str(run), "--epochs", "3"])
            capsys.readouterr()
            load_run(run)
            assert f"had other {what} data than are found now" in capsys.readouterr().err
    np.savez(digits, **arrays)
    load_run(run)
    assert capsys.readouterr().err == ""
    known = read_params(run / "data.yaml")["train"]
    (run / "data.yaml").unlink()  # of a run of a former version, of which nothing is known, nor made up
    train_bnn.main(["--resume", str(run), "--epochs", "3"])
    assert read_log(run / "logs.csv")[-1]["epoch"] == 3 and not (run / "data.yaml").exists()
    write_yaml(run / "data.yaml", known)  # as a former version wrote it
    train_bnn.main(["--resume", str(run), "--epochs", "4"])
    arrays["x_train"][-1] += 1
    np.savez(digits, **arrays)
    with pytest.raises(ValueError, match="began with other training data"):
        train_bnn.main(["--resume", str(run), "--epochs", "5"])


@pytest.mark.parametrize("prior, flag", [("gauss-indep", "--vae_list"), ("gauss", "--filters_list"), ("posterior", None)])
def test_a_run_goes_on_under_the_priors_that_it_began_with_alone(prior, flag, digits, tmp_path, capsys):
    """A driver begins anew where they have changed."""

    def make(scale):
        """Other kernels, density and posterior in the same places."""
        kernels = [torch.randn(30, 1, k, k, generator=torch.Generator().manual_seed(k)) for k in (7, 5)]
        for w in kernels:
            folder = tmp_path / f"{w.shape[-1]}"
            folder.mkdir(exist_ok=True)
            np.save(folder / "train.npy", scale * w)
            write_yaml(folder / "params.yaml", dict(density="gauss-indep", kernel_dim=w.shape[-1]))
            torch.save(IndependentGaussian.fit(scale * w).state_dict(), folder / "vae_params.torch")
        if former:
            state = torch.load(former / "model.torch")
            torch.save({name: scale * w for name, w in state.items()}, former / "model.torch")

    words = ["--data", str(digits), "--hid_dim", "2", "3", "--eval_freq", "1", "--ens", "0", "--epochs", "2"]
    former = None if flag else train_bnn.main(words)
    make(1)
    words += [flag, str(tmp_path / "7"), str(tmp_path / "5"), "--prior_list", prior] if flag else ["--prior_list", f"{prior}:{former}"]
    run = train_bnn.main(words)
    train_bnn.main(["--resume", str(run), "--epochs", "3"])
    make(2)
    with pytest.raises(ValueError, match="began with other kernels and priors"):
        train_bnn.main(["--resume", str(run), "--epochs", "4"])
    assert status(run)["state"] == "finished"  # as it was
    write_yaml(run / "status.yaml", dict(state="stopped"))
    capsys.readouterr()
    assert go_on(train_bnn.main, words) != run and "note: " in capsys.readouterr().err


def test_a_damaged_checkpoint_is_left_behind_and_its_run_keeps_its_last_sign_of_life(digits, capsys):
    words = ["--data", str(digits), "--hid_dim", "2", "3", "--eval_freq", "1", "--ens", "0", "--epochs", "1"]
    run = train_bnn.main(words)
    write_yaml(run / "status.yaml", dict(state="running", host="elsewhere"))
    os.utime(run / "status.yaml", (0, 0))
    (run / "checkpoint.torch").write_bytes(b"half")
    with pytest.raises(ValueError, match="cannot resume"):
        train_bnn.main(["--resume", str(run)])
    assert status(run)["state"] == "killed"
    assert go_on(train_bnn.main, words) != run and "note: cannot resume" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", [0, 0.5])
def test_an_interrupt_during_the_imports_leaves_no_traceback(seconds):
    """So long after the module that heeds it has been imported, which -X importtime tells."""
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # also where these tests run in the background
    command = [sys.executable, "-X", "importtime", "train_bnn.py", "--help"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    while "myexman.quiet" not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert all(line.startswith("import time:") for line in said.splitlines()) and process.returncode == -signal.SIGINT
