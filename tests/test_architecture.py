"""The architecture: imports point down the levels, never in circles; torch stays in its layers."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import astroclip

PACKAGE = Path(astroclip.__file__).parent
PATHS = {
    ".".join(("astroclip", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(
        ".__init__"
    ): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
MODULES = [name for name in PATHS if name != "astroclip"]  # its names are imported when used
LEVELS = [
    {"exceptions", "_validation", "_files", "_columns", "_lazy"},
    {"tables", "metrics"},
    {"preparation"},
    {"models", "simulation"},
    {"embedding"},
    {"similarity"},
    {"estimation"},
    {"redshifts", "discovery", "datasets"},
    {"archives", "training", "plotting"},
    {"evaluation"},
    {"cli"},
]
LEVEL_OF = {package: level for level, packages in enumerate(LEVELS) for package in packages}
SAME_LEVEL = {  # imports between packages of one level
    ("_validation", "exceptions"),
}
WITH_TORCH = {"models", "simulation", "embedding", "training", "evaluation"}
TORCH_EXCEPTIONS = {"astroclip.similarity.devices"}  # imported when a device is asked for
WITHOUT_ASTROPY = {"models"}


def package_of(name):
    """Return the part of a module's name below astroclip: preparation for its modules."""
    return name.split(".")[1]


@cache
def tree_of(name):
    return ast.parse(PATHS[name].read_text())


@cache
def imports(name):
    """Return the absolute names of everything a module imports, also inside functions."""
    result = set()
    for node in ast.walk(tree_of(name)):
        if isinstance(node, ast.Import):
            result |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                result.add(full if full in PATHS else node.module)
    return result


def own_imports(name):
    """Return the modules of the package that a module imports, without the lazy top level."""
    return {imported for imported in imports(name) if imported in PATHS} - {"astroclip", name}


def check_no_circle(graph):
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"imports go in a circle: {' <- '.join(error.args[1])}")


def test_every_module_has_a_level():
    assert {package_of(name) for name in MODULES} == set(LEVEL_OF)


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name):
    source = package_of(name)
    for imported in own_imports(name):
        target = package_of(imported)
        if target != source and (source, target) not in SAME_LEVEL:
            assert LEVEL_OF[target] < LEVEL_OF[source], f"{name} imports {imported}"


def test_modules_do_not_import_in_circles():
    check_no_circle({name: own_imports(name) for name in MODULES})


def test_packages_do_not_import_in_circles():
    graph = {package: set() for package in LEVEL_OF}
    for name in MODULES:
        graph[package_of(name)] |= {package_of(imported) for imported in own_imports(name)}
    check_no_circle({package: targets - {package} for package, targets in graph.items()})


def test_allowed_same_level_imports_are_used():
    used = {
        (package_of(name), package_of(imported))
        for name in MODULES
        for imported in own_imports(name)
    }
    assert used >= SAME_LEVEL


@pytest.mark.parametrize("name", MODULES)
def test_torch_and_astropy_stay_in_their_packages(name):
    outside = {imported.split(".")[0] for imported in imports(name)}
    if package_of(name) not in WITH_TORCH and name not in TORCH_EXCEPTIONS:
        assert not outside & {"torch", "timm", "lightning"}
    if package_of(name) in WITHOUT_ASTROPY:
        assert not outside & {"astropy", "specutils", "photutils", "astroquery"}


@pytest.mark.parametrize("name", PATHS)
def test_library_has_no_asserts_prints_or_reminders(name):
    for node in ast.walk(tree_of(name)):
        assert not isinstance(node, ast.Assert), f"{name}:{node.lineno} asserts"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{name}:{node.lineno} prints"
    text = PATHS[name].read_text()
    for word in ("TODO", "FIXME", "NotImplementedError"):
        assert word not in text


@pytest.mark.parametrize("name", PATHS)
def test_public_things_have_docstrings(name):
    tree = tree_of(name)
    assert ast.get_docstring(tree)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{name}: {node.name} has no docstring"


@pytest.mark.parametrize(
    "package", ["astroclip", "astroclip.archives", "astroclip.models", "astroclip.preparation"]
)
def test_all_public_names_can_be_imported(package):
    module = __import__(package, fromlist=["__all__"])
    for name in module.__all__:
        assert getattr(module, name) is not None


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
astroclip.RedshiftEstimator().predict(table[:2])
print('torch' in sys.modules)
"""
    assert run(code) == "False"
