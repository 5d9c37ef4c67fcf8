"""The rooms of the package: who may import whom, what stays out, and what the package names."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import jaxlm

PACKAGE = Path(jaxlm.__file__).parent

GROUND = {"config", "errors", "invocation"}

MAY_IMPORT = {
    "errors": set(),
    "config": {"errors"},
    "invocation": set(),
    "text": GROUND,
    "nn": GROUND,
    "generator": GROUND | {"text", "nn"},
    "runs": GROUND | {"text", "nn", "generator"},
    "cli": GROUND | {"text", "nn", "generator", "runs"},
    "__main__": {"cli"},
}
"""Each wing of the house, and those below it. text and nn do not know each other."""

ORDER = {
    "text": ["encodings", "files", "corpus", "vocab", "batches"],
    "nn": [
        "ambient",
        "sharding",
        "compilation",
        "metrics",
        "lstm",
        "model",
        "training",
        "scoring",
        "dynamic",
        "sampling",
    ],
    "runs": ["stop", "storage", "bundled", "run", "listing", "data", "reporter", "trainer", "evaluation"],
    "cli": ["output", "terminal", "python", "guard", "parser", "options", "commands"],
}
"""The rooms of a wing; each imports only from those before it."""

MODULES = sorted(path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py"))
ROOMS = [path for path in MODULES if path != Path("__init__")]


def parse(module):
    return ast.parse((PACKAGE / module).with_suffix(".py").read_text(encoding="utf-8"))


def imports(module):
    """The dotted names that a module imports, wherever in it; `from a import b` counts as a.b."""
    for node in ast.walk(parse(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}.py, line {node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(module):
    """The paths below jaxlm that a module imports, as tuples: ("nn", "lstm", "scan")."""
    return [tuple(name.split(".")[1:]) for name in imports(module) if name.startswith("jaxlm.")]


def test_every_module_has_its_place():
    wings = {(wing, room) for wing, rooms in ORDER.items() for room in [*rooms, "__init__"]}
    single = {(name,) for name in MAY_IMPORT if name not in ORDER}
    assert {path.parts for path in ROOMS} == wings | single


@pytest.mark.parametrize("module", ROOMS, ids=str)
def test_imports_only_point_down(module):
    wing = module.parts[0]
    assert {path for path in own(module) if path[0] not in MAY_IMPORT[wing] | {wing}} == set()
    rooms = ORDER.get(wing, [])
    below = rooms[: rooms.index(module.name)] if module.name in rooms else rooms
    assert {path for path in own(module) if path[0] == wing and path[1:2] and path[1] not in below} == set()


@pytest.mark.parametrize("module", ROOMS, ids=str)
def test_the_package_itself_is_only_asked_for_its_version(module):
    names = {
        node.attr
        for node in ast.walk(parse(module))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "jaxlm"
    }
    assert names <= {"__version__"}


@pytest.mark.parametrize("module", ROOMS, ids=str)
def test_text_and_settings_know_no_jax(module):
    roots = {name.split(".")[0] for name in imports(module)}
    jax = roots & {"jax", "jaxlib", "flax", "optax", "orbax", "tensorstore"}
    if module.parts[0] in GROUND | {"text", "__main__"}:
        assert jax == set()
    assert "orbax" not in jax or module.parts[0] == "runs"


@pytest.mark.parametrize("module", ROOMS, ids=str)
def test_the_network_knows_no_files(module):
    if module.parts[0] == "nn" and module.name != "compilation":
        roots = {name.split(".")[0] for name in imports(module)}
        assert roots & {"pathlib", "json", "tempfile", "shutil", "io", "urllib"} == set()
        calls = {
            node.func.id
            for node in ast.walk(parse(module))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert calls & {"open", "print"} == set()


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_nothing_is_pickled(module):
    assert {name.split(".")[0] for name in imports(module)} & {"pickle", "cloudpickle", "dill", "joblib"} == set()
    assert [node.lineno for node in ast.walk(parse(module)) if getattr(node, "arg", None) == "allow_pickle"] == []


def test_the_package_alone_does_not_import_jax():
    code = "import sys, jaxlm, jaxlm.config, jaxlm.text.corpus, jaxlm.text.batches, jaxlm.cli; print(*sys.modules)"
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
