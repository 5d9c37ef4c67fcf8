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
    "config": {"errors", "invocation"},
    "invocation": set(),
    "notations": {"errors"},
    "text": GROUND | {"notations"},
    "nn": GROUND,
    "generator": GROUND | {"text", "nn"},
    "page": GROUND | {"notations", "text", "nn", "generator"},
    "runs": GROUND | {"notations", "text", "nn", "generator", "page"},
    "cli": GROUND | {"notations", "text", "nn", "generator", "page", "runs"},
    "__main__": {"cli"},
}
"""Each wing of the house, and those below it. text and nn do not know each other."""

ORDER = {
    "notations": ["notation", "abc_keys", "abc", "midi", "strokes", "registry"],
    "text": [
        "visible",
        "encodings",
        "documents",
        "files",
        "corpus",
        "vocab",
        "batches",
        "suffixes",
        "ngram",
        "growing",
        "copying",
        "stops",
        "scores",
    ],
    "nn": [
        "ambient",
        "sharding",
        "compilation",
        "metrics",
        "products",
        "lstm",
        "counts",
        "model",
        "training",
        "scoring",
        "dynamic",
        "sampling",
    ],
    "page": ["assemble"],
    "runs": [
        "stop",
        "target",
        "files",
        "arrays",
        "storage",
        "bundled",
        "command",
        "layouts",
        "hdf5",
        "keras",
        "run",
        "listing",
        "data",
        "exchange",
        "mixing",
        "teaching",
        "copies",
        "reporter",
        "samples",
        "plots",
        "trainer",
        "evaluation",
    ],
    "cli": [
        "output",
        "words",
        "terminal",
        "curve",
        "notebook",
        "tensorboard",
        "python",
        "guard",
        "tints",
        "parser",
        "options",
        "generate",
        "write",
        "page",
        "commands",
        "programs",
    ],
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


def roots(module):
    """The top-level packages that a module imports."""
    return {name.split(".")[0] for name in imports(module)}


def calls(module):
    """The names of all functions and methods that a module calls."""
    for node in ast.walk(parse(module)):
        if isinstance(node, ast.Call):
            function = node.func
            yield function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


@pytest.mark.parametrize("module", ROOMS, ids=str)
def test_only_nn_and_what_is_above_it_knows_jax(module):
    found = roots(module) & {"jax", "jaxlib", "flax", "optax", "orbax", "tensorstore"}
    assert found <= {"nn": {"jax", "flax", "optax"}, "generator": {"jax"}, "runs": {"jax", "orbax", "tensorstore"}}.get(
        module.parts[0], set()
    )
    assert not found & {"orbax", "tensorstore"} or module.name == "arrays"


@pytest.mark.parametrize("module", ROOMS, ids=str)
def test_the_network_knows_no_strings_and_no_files_and_the_generator_no_files(module):
    if module.parts[0] not in ("nn", "generator") or module.name == "compilation":  # That one keeps JAX's cache.
        return
    files = {"pathlib", "json", "tempfile", "shutil", "io", "urllib", "os"}
    strings = {"unicodedata", "codecs", "re"} if module.parts[0] == "nn" else set()
    allowed = {"os", "re"} if module.name == "sharding" else set()  # It reads the environment.
    assert roots(module) & (files | strings) - allowed == set()
    assert set(calls(module)) & {"open", "print", "fdopen", "read_text", "write_text", "save", "load", "loads"} == set()
    if module.parts[0] == "nn":
        assert {path[0] for path in own(module)} <= {"nn", "config", "errors"}


@pytest.mark.parametrize("module", ROOMS, ids=str)
def test_only_runs_knows_what_lies_in_a_run_s_directory(module):
    names = {"config.json", "vocab.json", "metrics.jsonl", "samples.jsonl", "progress.json"}
    constants = {node.value for node in ast.walk(parse(module)) if isinstance(node, ast.Constant)}
    if module.parts[0] != "runs":
        assert constants & names == set()


@pytest.mark.parametrize("module", ROOMS, ids=str)
def test_the_commands_leave_mathematics_to_the_rooms_below(module):
    if module.parts[0] == "cli":
        assert {path for path in own(module) if path[0] in ("nn", "text")} <= {
            ("nn", "compilation"),
            ("text", "batches", "Windows"),
            ("text", "visible", "as_html"),
            ("text", "visible", "visible"),
            ("text", "visible", "whole"),
        }


@pytest.mark.parametrize("module", ROOMS, ids=str)
def test_nothing_is_imported_unseen(module):
    assert "importlib" not in roots(module)
    assert set(calls(module)) & {"__import__", "import_module"} == set()


def test_no_two_constants_have_one_name():
    found = {}
    for module in ROOMS:
        for node in parse(module).body:
            targets = (
                node.targets
                if isinstance(node, ast.Assign)
                else [node.target]
                if isinstance(node, ast.AnnAssign)
                else []
            )
            for target in targets:
                for name in target.elts if isinstance(target, ast.Tuple) else [target]:
                    if isinstance(name, ast.Name) and name.id[0].isupper() and len(name.id) > 1:
                        found.setdefault(name.id, []).append(str(module))
    assert {name: modules for name, modules in found.items() if len(modules) > 1} == {}


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_nothing_is_pickled(module):
    assert {name.split(".")[0] for name in imports(module)} & {"pickle", "cloudpickle", "dill", "joblib"} == set()
    assert [node.lineno for node in ast.walk(parse(module)) if getattr(node, "arg", None) == "allow_pickle"] == []


def test_programs_import_nothing_of_jaxlm_before_ctrl_c_is_quiet():
    code = "import sys, jaxlm.cli.programs; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    own = {name for name in loaded if name.split(".")[0] == "jaxlm"}
    assert own == {"jaxlm", "jaxlm.cli", "jaxlm.cli.programs", "jaxlm.invocation"}


def test_the_package_alone_does_not_import_jax():
    code = "import sys, jaxlm, jaxlm.config, jaxlm.text.batches, jaxlm.cli.commands; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "jaxlm.cli.commands" in loaded
    assert {name.split(".")[0] for name in loaded} & {"jax", "jaxlib", "flax", "optax", "orbax"} == set()


@pytest.mark.parametrize("name", jaxlm.__all__)
def test_every_name_of_the_package_resolves(name):
    assert getattr(jaxlm, name) is not None
    assert name in dir(jaxlm)


def test_other_names_do_not_resolve():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = jaxlm.trian
