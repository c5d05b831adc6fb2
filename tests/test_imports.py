"""Every module imports by itself in a clean process, and imports run one way."""

import ast
import subprocess
import sys
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


def layer(module):
    """Height of a module: it may import project modules of lower layers only, or of its own package."""
    top, _, rest = module.partition(".")
    if top == "models":
        return 1 if rest in ("lenet", "cifarnet", "vgg", "resnet", "image_vae", "") else 0
    return {"myexman": -1, "data": 0, "utils": 2, "experiments": 4}.get(top, 3)


def project_imports(file):
    package = module_name(file).split(".")[:-1] if file.name != "__init__.py" else list(file.parent.parts)
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [
                ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])
                if node.level
                else node.module
            ]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in PACKAGES)


@pytest.mark.parametrize("file", FILES, ids=str)
def test_imports_run_one_way(file):
    own = module_name(file)
    for imported in project_imports(file):
        same_package = imported.split(".")[0] == own.split(".")[0]
        assert layer(imported) < layer(own) or (same_package and layer(imported) == layer(own)), f"{own} imports {imported}"


def test_every_module_imports_in_a_clean_process_and_creates_nothing(tmp_path):
    """One fresh process, no environment variable, an empty working folder; modules are dropped between imports."""
    code = (
        f"import sys, importlib; sys.path.insert(0, {str(ROOT)!r})\n"
        f"for name in {[module_name(f) for f in FILES if f.name != '__main__.py']!r}:\n"
        f"    for m in [m for m in sys.modules if m.split('.')[0] in {PACKAGES!r}]: del sys.modules[m]\n"
        "    importlib.import_module(name)\n"
    )
    result = subprocess.run([sys.executable, "-B", "-c", code], cwd=tmp_path, env={}, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert list(tmp_path.iterdir()) == [] and result.stdout == ""
