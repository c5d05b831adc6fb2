"""What needs the packages of setup.py's extras; skipped where they are missing."""

import pytest

import train_source
from myexman.logger import read_rows


def test_tensorboard_gets_the_numbers_of_the_log(digits):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    words = ["--data", str(digits), "--hid_dim", "2", "2", "--epochs", "4", "--eval_freq", "2"]
    run = train_source.main([*words, "--tensorboard"])
    train_source.main(["--resume", str(run), "--epochs", "6"])
    events = EventAccumulator(str(run)).Reload()
    for name in ("mean_acc", "train_nll"):
        found = [(e.step, e.value) for e in events.Scalars(name)]
        assert found == [(row["epoch"], pytest.approx(row[name], rel=1e-6)) for row in read_rows(run / "logs.csv")]
    assert len(found) == 3
