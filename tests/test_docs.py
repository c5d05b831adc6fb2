"""What is written: links lead somewhere, names exist, and numbers are those of the results."""

import importlib
import re
import shutil
from pathlib import Path

import pytest

from experiments import report

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*(ROOT / name for name in ("README.md", "data/README.md", "experiments/README.md", "experiments/REPORT.md"))]
PAGES += sorted(ROOT.glob("data/*/vae*/README.md"))


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readmes_python_is_python():
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1 and (ROOT / "README.md").read_text().count("```") == 2
    exec(compile(blocks[0], "README.md", "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not link.startswith("http"):
            file, _, anchor = link.partition("#")
            target = page.parent / file if file else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def test_the_table_of_equations_names_what_there_is():
    rows = re.findall(r"`((?:models/)?\w+\.py)`: (.*) \|$", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    assert len(rows) > 6
    for file, names in rows:
        module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
        for name in re.findall(r"`(\w+)", names):
            assert hasattr(module, name) or name == "VAE", f"{file}: {name}"


def test_the_modules_of_the_experiments_are_those_of_their_readme():
    text = (ROOT / "experiments/README.md").read_text()
    named = set(re.findall(r"^\| `(\w+)", text, flags=re.MULTILINE)) | set(
        re.findall(r"`(features|convergence|deep_ensemble|moved|quickstart)`", text)
    )
    shared = {"__init__", "claims", "comparison", "fig2_tables", "grid", "launchers", "methods", "rows", "textbook"}
    modules = {file.stem for file in (ROOT / "experiments").glob("*.py")} - shared
    assert modules <= named, modules - named


def test_the_report_and_the_results_in_the_readme_are_of_these_csv_files(tmp_path):
    """python -m experiments.report writes them anew."""
    (tmp_path / "experiments").mkdir()
    for name in ("README.md", "experiments/README.md"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    report.main(["--root", str(tmp_path)])
    for name in ("README.md", "experiments/README.md", "experiments/REPORT.md"):
        assert (tmp_path / name).read_text() == (ROOT / name).read_text(), f"{name} is out of date: python -m experiments.report"


def test_every_experiment_has_its_prose_which_has_no_numbers_of_ours():
    """Decimals may be the papers', of which there are few."""
    notes = report.notes()
    assert set(report.drivers()) <= set(notes)
    text = " ".join(word for section in notes.values() for word in section)
    assert len(re.findall(r"(?<![\w.])[+-]?0?\.\d\d+", text)) < 10
