"""What needs the packages of setup.py's extras; skipped where they are missing."""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import train_source
from data.glyphs import make_glyphs
from experiments import peers, prior_page
from myexman.logger import read_rows
from utils import load_vae

ROOT = Path(__file__).resolve().parents[1]


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


NUMBERS = {  # of the tutorial, as its text says, within what other machines may make of them
    r"held-out kernels: (-?\d+) nats": (19, 23),
    r"shuffled: (-?\d+) nats": (-1e9, -100),
    r"nats: ([\d.]+) standard errors apart": (0, 4),
    r"narrow cut: .* ([\d.]+) after 300 steps": (0.2, 0.45),
    r"wide cut: .* ([\d.]+) after 300 steps": (0.8, 1),
    r"deep weight prior: accuracy ([\d.]+)": (0.6, 0.9),
    r"N\(0, 1\): accuracy ([\d.]+)": (0.6, 0.9),
}


def test_the_tutorial_runs_and_says_what_its_text_says(tmp_path):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    shutil.copytree(ROOT, tmp_path / "copy", ignore=shutil.ignore_patterns(".*", "logs", "datasets", "tests", "figures"))
    written = nbformat.read(ROOT / "experiments/tutorial.ipynb", 4)
    notebook = nbformat.read(ROOT / "experiments/tutorial.ipynb", 4)
    nbclient.NotebookClient(notebook, timeout=1200, resources=dict(metadata=dict(path=str(tmp_path / "copy/experiments")))).execute()
    for each in (written, notebook):
        outputs = [output for cell in each.cells if cell.cell_type == "code" for output in cell.outputs]
        said = "".join(output.text for output in outputs if output.output_type == "stream")
        for pattern, (low, high) in NUMBERS.items():
            assert low <= float(re.search(pattern, said)[1]) <= high, pattern
        assert sum("image/png" in output.get("data", {}) for output in outputs) == 5


PROBE = """<script>
const errors = [];
window.addEventListener("error", event => errors.push(event.message));
window.addEventListener("load", () => {
  const pixels = () => document.getElementById("kernel").toDataURL(), plane = document.getElementById("plane"), seen = [pixels()];
  for (const share of [0.2, 0.8]) {
    const box = plane.getBoundingClientRect();
    plane.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + share * box.width, clientY: box.top + share * box.height}));
    seen.push(pixels());
  }
  const slider = document.querySelector("#sliders input");
  if (slider) { slider.value = 2; slider.dispatchEvent(new Event("input")); seen.push(pixels()); }
  const code = document.getElementById("code").textContent, at = [1, -1.5, 0.5, 2].slice(0, data.dims.length);  // points of the grid
  const decoded = [...decode(at)], dims = data.dims;
  document.title = JSON.stringify({errors, kernels: new Set(seen).size, looks: seen.length, code, at, dims, decoded});
});
</script>"""


@pytest.mark.parametrize("prior, looks", [("data/fconv/vae7x7", 4), ("two codes", 3)])
def test_a_priors_page_in_a_browser(prior, looks, priors, tmp_path):
    """No error; the kernel changes as the pointer moves, and by a slider of a third code."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("no Chromium")
    folder, file = ROOT / prior if looks == 4 else priors[0], tmp_path / "prior.html"
    prior_page.main([str(folder), "--out", str(file)])
    assert file.stat().st_size < 3e6
    file.write_text(file.read_text().replace("<script>", PROBE + "<script>", 1))
    words = "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync --no-first-run"
    command = [
        browser,
        *words.split(),
        f"--user-data-dir={tmp_path / 'profile'}",
        "--dump-dom",
        "--virtual-time-budget=5000",
        f"file://{file}",
    ]
    page = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    found = json.loads(html.unescape(re.search(r"<title>(\{.*?\})</title>", page)[1]))
    assert found["errors"] == [] and found["kernels"] == found["looks"] == looks
    vae, z = load_vae(folder), torch.zeros(1, 4 if looks == 4 else 2)
    z[0, found["dims"]] = torch.tensor(found["at"], dtype=torch.float32)
    mean = vae.decoder(z)[0].flatten()
    assert (mean - torch.tensor(found["decoded"])).abs().max() < 0.02 * vae.decoder(2.5 * torch.randn(500, z.shape[1]))[0].abs().max()
    assert found["code"].count("=") == (4 if looks == 4 else 2) and "1.50" in found["code"]
