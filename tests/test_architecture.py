"""The architecture: imports point one way, torch stays where it is due, code stays small."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import astroclip

PACKAGE = Path(astroclip.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
LEVELS = {
    "exceptions": 0,
    "_validation": 0,
    "_files": 0,
    "_columns": 0,
    "tables": 1,
    "metrics": 1,
    "preparation": 2,
    "similarity": 3,
    "estimation": 3,
    "redshifts": 3,
    "discovery": 3,
    "models": 4,
    "simulation": 4,
    "_model_input": 5,
    "embedding": 5,
    "archives": 5,
    "evaluation": 5,
    "datasets": 5,
    "training": 6,
    "plotting": 7,
    "cli": 7,
}
WITH_TORCH = {"models", "simulation", "training", "embedding", "evaluation"}
TORCH_EXCEPTIONS = {"similarity/devices.py"}  # imported when a device is asked for
WITHOUT_ASTROPY = {"models", "simulation"}
ASTROPY_EXCEPTIONS = {"simulation/basis.py"}  # reads FITS grids once, before any training


def room(path):
    """Return the top-level name of a module: ``preparation`` for preparation/bands.py."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports(path, *, top_level_only=False):
    """Yield the absolute names of everything a module imports."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            if node.module == "astroclip":
                yield from (f"astroclip.{alias.name}" for alias in node.names)
            else:
                yield node.module


def test_every_module_has_a_level():
    assert {room(path) for path in MODULES} - {"__init__"} <= set(LEVELS)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_up_the_list(path):
    if room(path) == "__init__":
        return
    for name in imports(path, top_level_only=room(path) not in {"preparation", "tables"}):
        if name.startswith("astroclip."):
            target = name.split(".")[1]
            if target in LEVELS:
                assert LEVELS[target] <= LEVELS[room(path)], f"{path.name} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_torch_and_astropy_stay_in_their_layers(path):
    names = {name.split(".")[0] for name in imports(path)}
    if room(path) not in WITH_TORCH and str(path.relative_to(PACKAGE)) not in TORCH_EXCEPTIONS:
        assert not names & {"torch", "timm", "lightning", "safetensors"}
    if room(path) in WITHOUT_ASTROPY and str(path.relative_to(PACKAGE)) not in ASTROPY_EXCEPTIONS:
        assert not names & {"astropy", "specutils", "photutils", "astroquery"}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_modules_and_functions_stay_small_and_clean(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 500
    tree = ast.parse(text)
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Assert), f"{path.name}:{node.lineno} asserts"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{path.name}:{node.lineno} prints"
        if isinstance(node, ast.FunctionDef):
            start = node.body[0]
            documented = isinstance(start, ast.Expr) and isinstance(start.value, ast.Constant)
            first = start.end_lineno if documented else node.lineno
            assert node.end_lineno - first <= 80, f"{path.name}: {node.name} is too long"
    for word in ("TODO", "FIXME", "NotImplementedError"):
        assert word not in text


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_public_things_have_docstrings_and_names_exist(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    for node in tree.body:
        public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        if public:
            assert ast.get_docstring(node), f"{path.name}: {node.name} has no docstring"


@pytest.mark.parametrize(
    "module",
    ["astroclip", "astroclip.preparation", "astroclip.models", "astroclip.evaluation"],
)
def test_all_public_names_can_be_imported(module):
    imported = __import__(module, fromlist=["__all__"])
    for name in imported.__all__:
        assert getattr(imported, name) is not None


def run(code):
    """Run code in a fresh interpreter and return what it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_astroclip_imports_neither_torch_nor_astropy():
    code = "import sys, astroclip; print([m for m in ('torch', 'astropy') if m in sys.modules])"
    assert run(code) == "[]"


def test_searching_a_saved_table_and_estimating_import_no_torch(tmp_path):
    code = f"""
import sys, astroclip
table = astroclip.reference_table()[:200]
astroclip.SimilarityIndex(table).save({str(tmp_path / 'index')!r})
index = astroclip.SimilarityIndex.open({str(tmp_path / 'index')!r})
index.query(table[:2], n_neighbors=3)
astroclip.PropertyEstimator(n_neighbors=8).fit(table, ['redshift']).predict(table[:2])
print('torch' in sys.modules)
"""
    assert run(code) == "False"
