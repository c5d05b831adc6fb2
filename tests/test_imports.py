"""Every module can be imported, and imports run one way."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(
    p.relative_to(ROOT)
    for p in [*ROOT.glob("*.py"), *(p for d in ("data", "models", "myexman", "experiments") for p in (ROOT / d).glob("*.py"))]
    if p.name != "setup.py"
)
SCRIPTS = ("train_source", "prune_kernels", "train_vae_prior", "train_bnn")
PACKAGES = ("data", "models", "myexman", "utils", *SCRIPTS, "experiments")


def module_name(file):
    return ".".join(file.with_suffix("").parts).removesuffix(".__init__")


MODULES = [module_name(file) for file in FILES]


def layer(module):
    """Height of a module: it may import project modules of lower layers only, or of its own package."""
    top, _, rest = module.partition(".")
    if top == "models":
        return 1 if rest in ("lenet", "cifarnet", "vgg", "resnet", "image_vae", "") else 0
    return {"myexman": -1, "data": 0, "utils": 2, "experiments": 4}.get(top, 3)


def project_imports(file, nodes=ast.walk):
    """Names of what a file imports of this project.  nodes: all of its tree, or those that are imported at once (at_once)."""
    package = module_name(file).split(".")[:-1] if file.name != "__init__.py" else list(file.parent.parts)
    for node in nodes(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*package[: len(package) - node.level + 1 if node.level else 0], *([node.module] if node.module else [])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names if f"{base}.{alias.name}" in MODULES)]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in PACKAGES)


def at_once(tree):
    return tree.body


@pytest.mark.parametrize("file", FILES, ids=str)
def test_imports_run_one_way(file):
    own = module_name(file)
    for imported in project_imports(file):
        same_package = imported.split(".")[0] == own.split(".")[0]
        assert layer(imported) < layer(own) or (same_package and layer(imported) == layer(own)), f"{own} imports {imported}"


def test_no_module_needs_itself():
    """So that each can be the first to be imported."""
    graph = {module_name(file): {*project_imports(file, at_once)} - {file.parts[0]} for file in FILES if file.name != "__init__.py"}
    assert graph["train_bnn"] >= {"utils", "models.priors", "myexman.quiet"} and graph["experiments.ablations"] >= {
        "experiments.comparison"
    }
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_every_module_imports_in_a_clean_process_and_creates_nothing(tmp_path):
    """No environment variable, an empty working folder."""
    code = (
        f"import sys, importlib; sys.path.insert(0, {str(ROOT)!r})\n"
        f"for name in {[name for name in MODULES if name != 'myexman.__main__']!r}: importlib.import_module(name)\n"
    )
    result = subprocess.run([sys.executable, "-B", "-c", code], cwd=tmp_path, env={}, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert list(tmp_path.iterdir()) == [] and result.stdout == ""
