"""What a run leaves when it is stopped, killed, out of disk, or shared: a state that goes on exactly, and a word for how it ended."""

import resource
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml

import train_source
from myexman import Checkpoints, Stopped, load_checkpoint, save_state, status
from myexman.life import alive
from utils import run_cli

from .soak import commands, interrupted, soak

ROOT = Path(__file__).resolve().parents[1]


def test_signals_at_random_moments_change_nothing():
    """One of each, over the three scripts; python -m tests.soak sends more."""
    assert soak({signal.SIGKILL: 1, signal.SIGTERM: 1, signal.SIGUSR1: 1}) == []


def make(tmp_path, every=1e9):
    layer = torch.nn.Linear(2, 1)
    return layer, Checkpoints(tmp_path, every, layer=layer)


@pytest.mark.parametrize("every, expected", [(0, [1, 2, 3, 4]), (1e9, [2, 4])])
def test_checkpoints_come_with_evaluations_and_with_time(tmp_path, every, expected):
    layer, checkpoints = make(tmp_path, every)
    (tmp_path / ".checkpoint.torch.123").write_bytes(b"of a process that was killed")
    seen = []
    with checkpoints:
        for epoch in (1, 2, 3, 4):
            checkpoints.finished(epoch, save=epoch % 2 == 0)
            if (tmp_path / "checkpoint.torch").exists():
                seen.append(load_checkpoint(tmp_path, "cpu", layer=layer))
    assert sorted(set(seen)) == expected and [p.name for p in tmp_path.iterdir()] == ["checkpoint.torch"]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
@pytest.mark.parametrize("patience", [0.0, 1e9])
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
    run, err = interrupted("train_source.py", [*words, "--epochs", "100000", "--eval_freq", "5"], tmp_path / "logs", signal.SIGTERM, 4)
    assert "go on with --resume" in err and status(run)["state"] == "stopped"
    with alive(run), pytest.raises(SystemExit) as e:
        run_cli(lambda: train_source.main(["--resume", str(run)]))
    said = capsys.readouterr().err
    assert e.value.code == 2 and "is in use by another process" in said and said.count("\n") == 1


def test_a_full_disk_leaves_the_former_file(tmp_path):
    """A limit on the size of files stands for it."""
    file = tmp_path / "state.torch"
    save_state({"w": torch.ones(3)}, file)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError, match="the former one is kept"):
            save_state({"w": torch.ones(100_000)}, file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert torch.equal(torch.load(file, weights_only=True)["w"], torch.ones(3)) and len(list(tmp_path.iterdir())) == 1
