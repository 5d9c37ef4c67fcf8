"""The rooms of the package: who may import whom, what stays out, and what the package names."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import jaxlm

PACKAGE = Path(jaxlm.__file__).parent

FLOORS = {
    "config": 0,
    "text": 1,
    "data": 1,
    "metrics": 1,
    "compilation": 1,
    "sharding": 1,
    "lstm": 2,
    "model": 3,
    "scoring": 4,
    "training": 4,
    "sampling": 5,
    "checkpoint": 6,
    "run": 7,
    "reporting": 8,
    "cli": 9,
    "evaluate": 10,
}


def parse(module):
    return ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))


def imports(module):
    """The dotted names that a module imports, wherever in it; `from a import b` counts as a.b."""
    for node in ast.walk(parse(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}.py, line {node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms(module):
    """The modules of jaxlm that a module imports."""
    return {name.split(".")[1] for name in imports(module) if name.startswith("jaxlm.")}


def test_every_module_has_a_floor():
    assert {path.stem for path in PACKAGE.rglob("*.py")} == {*FLOORS, "__init__"}


@pytest.mark.parametrize("module", FLOORS)
def test_imports_only_point_lower(module):
    assert {room: FLOORS[room] for room in rooms(module) if FLOORS[room] >= FLOORS[module]} == {}


@pytest.mark.parametrize("module", FLOORS)
def test_the_package_itself_is_only_asked_for_its_version(module):
    names = {
        node.attr
        for node in ast.walk(parse(module))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "jaxlm"
    }
    assert names <= {"__version__"}


@pytest.mark.parametrize("module", ["config", "text", "data"])
def test_the_lowest_rooms_know_no_jax(module):
    seen, left = set(), {module}
    while left:
        seen |= left
        left = set().union(*map(rooms, left)) - seen
    roots = {name.split(".")[0] for room in seen for name in imports(room)}
    assert roots & {"jax", "jaxlib", "flax", "optax", "orbax", "tensorstore"} == set()


@pytest.mark.parametrize("module", [*FLOORS, "__init__"])
def test_nothing_is_pickled(module):
    assert {name.split(".")[0] for name in imports(module)} & {"pickle", "cloudpickle", "dill", "joblib"} == set()
    assert [node.lineno for node in ast.walk(parse(module)) if getattr(node, "arg", None) == "allow_pickle"] == []


def test_the_package_alone_does_not_import_jax():
    code = "import sys, jaxlm, jaxlm.config, jaxlm.text, jaxlm.data, jaxlm.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "jaxlm.cli" in loaded
    assert {name.split(".")[0] for name in loaded} & {"jax", "jaxlib", "flax", "optax", "orbax"} == set()


@pytest.mark.parametrize("name", jaxlm.__all__)
def test_every_name_of_the_package_resolves(name):
    assert getattr(jaxlm, name) is not None
    assert name in dir(jaxlm)


def test_other_names_do_not_resolve():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = jaxlm.trian
