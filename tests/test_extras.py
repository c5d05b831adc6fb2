"""What needs the packages of setup.py's extras; skipped where they are missing."""

import os
from pathlib import Path

import pytest

import train_source
from data.glyphs import make_glyphs
from experiments import peers
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


@pytest.mark.filterwarnings("ignore:By default `link_approx`")
def test_peers_in_miniature(tmp_path):
    """Every library trains a net and predicts."""
    pytest.importorskip("bayesian_torch")
    pytest.importorskip("curvlinops")  # of laplace, which imports torchvision and so cannot be looked for by itself
    make_glyphs("glyph-digits", tmp_path / "glyph-digits.npz", {"train": 100, "test": 40})
    peers.DRIVER.main(["--quick", "--data_root", str(tmp_path)])
    rows = read_rows(Path(os.environ["DWP_PATH"]) / "quick/peers.csv")
    assert {r["method"] for r in rows} == set(peers.PEERS)
    assert all(1 < r["value"] < 5 for r in rows if r["metric"] == "nll")


def test_an_extra_that_is_missing_is_named():
    with pytest.raises(ValueError, match="pip install nothing"):
        peers.import_extra("no_such_package", "nothing")
