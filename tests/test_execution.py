"""Loading, sampling, evaluating and resuming a stranger's run executes nothing that came with it, and writes nowhere
else.

An audit hook hears what Python does for the rest of a process's life, so the commands run in a process of their own.
"""

import ast
import hashlib
import json
import marshal
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import jaxlm
from jaxlm.runs.storage import digest

ROOT = Path(__file__).parents[1]

AUDITED = """
import contextlib, io, os, pickle, subprocess, sys

home, benign, hostile = sys.argv[1:]

# Once everything is imported and compiled, no command needs any of these.
FORBIDDEN = {
    "pickle.find_class", "marshal.load", "marshal.loads", "code.__new__", "function.__new__", "compile", "exec",
    "subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "pty.spawn",
    "socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname",
    "webbrowser.open",
}
WRITING = {
    "os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.setxattr", "os.symlink",
    "os.truncate", "os.utime", "shutil.move", "shutil.rmtree", "tempfile.mkdtemp", "tempfile.mkstemp",
}
WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

listens, heard, may_write = False, [], ()


def below(path, folders):
    path = os.path.realpath(os.fsdecode(path))
    return any(path == folder or path.startswith(folder + os.sep) for folder in folders)


def audit(event, arguments):
    global listens
    if not listens:
        return
    listens = False  # What this function itself does is not of interest.
    # A path that is relative to an open folder is judged by what lies there afterwards.
    paths = [part for part in arguments if isinstance(part, (str, bytes)) and os.path.isabs(part)]
    foreign = event in ("import", "ctypes.dlopen") and any(below(path, [hostile]) for path in paths)
    writes = event in WRITING or (event == "open" and arguments[2] & WRITE)
    if event == "os.mkdir" and os.path.isdir(arguments[0]):
        writes = False  # It fails; the folders of the cache are made if they are missing.
    if event in FORBIDDEN or foreign or (writes and not all(below(path, may_write) for path in paths)):
        heard.append((event, repr(arguments)[:200]))
    listens = True


def answer(command, run, *argv):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = command(["--run", run, *argv])
    return status, out.getvalue(), err.getvalue()


def reading(run):
    yield answer(commands.sample, run, "--seed", "1", "--length", "40")
    yield answer(commands.evaluate, run, "--corpus", home + "/fox.txt")


def listing(folder):
    return {
        os.path.join(place, name): os.lstat(os.path.join(place, name)).st_mtime_ns
        for place, folders, files in os.walk(folder)
        for name in folders + files
    }


from jaxlm.cli import commands

cache = home + "/cache"
os.environ["XDG_CACHE_HOME"] = cache
sys.addaudithook(audit)
for _ in (*reading(benign), answer(commands.train, benign, "--resume", "--epochs", "3")):
    pass
before, may_write, listens = listing(hostile), (cache, os.devnull), True
answers = list(reading(hostile))
listens = False
unchanged = listing(hostile) == before
may_write, listens = (cache, os.devnull, hostile), True
answers.append(answer(commands.train, hostile, "--resume", "--epochs", "3"))
listens = False
betrayed = os.listdir(".")
heard, of_commands, listens = [], heard, True
# Shows that it would have heard them.
pickle.loads(open(hostile + "/config.pkl", "rb").read())
subprocess.run(["true"])
open(home + "/written", "w").close()
sys.path.append(hostile)
with contextlib.suppress(ImportError):
    import evil
listens = False
print((answers, unchanged, betrayed, of_commands, {event for event, _ in heard}))
"""

BETRAYED = "executed"
"""The file that each planted piece of code would create in the current folder."""

CODE = f"open({BETRAYED!r}, 'w').close()\n"


class Betrayal:
    """Unpickling it runs CODE."""

    def __reduce__(self):
        return exec, (CODE,)


MODULES = (
    *("__init__", "__main__", "conftest", "encodings", "evil", "jax", "jaxlm", "json", "ocdbt", "orbax"),
    *("setup", "sitecustomize", "usercustomize"),
)
PICKLES = ("config.pkl", "model.bin", "array.npz", "params.pt", "state.npy", "treedef.pkl")

PLANTED = {
    **{f"{name}.py": CODE.encode() for name in MODULES},
    **{name: pickle.dumps(Betrayal()) for name in PICKLES},
    "evil.pth": f"import os; {CODE}".encode(),
    "jax.pyc": b"\0" * 16 + marshal.dumps(compile(CODE, "jax.py", "exec")),
    **dict.fromkeys(["evil.so", "libtensorstore.so", "zstandard.so"], b"\x7fELF" + b"\0" * 60),
    "entry_points.txt": b"[orbax.checkpoint]\nevil = evil\n[jax_plugins]\nevil = evil\n",
    "evil.yaml": f"!!python/object/apply:os.system ['touch {BETRAYED}']\n".encode(),
    "evil.json": json.dumps({"py/reduce": [{"py/function": "os.system"}, [f"touch {BETRAYED}"]]}).encode(),
    "pyproject.toml": b"[tool.pytest.ini_options]\naddopts = '-p evil'\n",
}
"""What some program or other would execute, if it were asked to read it."""


def plant(folder):
    """Strews these files in a folder and in all that are below it."""
    for place in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        for name, data in PLANTED.items():
            (place / name).write_bytes(data)
        for name in ("__pycache__", "evil-1.dist-info", "jaxlib", "orbax"):
            (place / name).mkdir()
            for inner in ("__init__.py", "entry_points.txt"):
                (place / name / inner).write_bytes(PLANTED[inner])


def name_foreign_types(step):
    """Makes Orbax's descriptions of what it saved name code that came with it."""
    for path in step.rglob("*_METADATA"):
        text = path.read_text()
        for name in ("np.ndarray", "jax.Array", "orbax.checkpoint._src.handlers.standard_checkpoint_handler"):
            text = text.replace(name, "evil.Betrayal")
        custom = {"__reduce__": ["exec", CODE], "py/object": "evil.Betrayal"}
        path.write_text(json.dumps({**json.loads(text), "custom_metadata": custom}))
        (path.parent / "checkpoint").write_bytes(PLANTED["config.pkl"])  # A name that Orbax knows.


def seal(step):
    """Writes a checkpoint's digests anew, as a stranger can; names that no checkpoint has would be refused."""
    path = step / "progress.json"
    values = json.loads(path.read_text())
    del values["sha256"]
    inside = [*step.glob("*"), *(file for item in ("params", "training") for file in (step / item).rglob("*"))]
    files = [file for file in sorted(inside) if file.is_file() and file != path]
    digests = {file.relative_to(step).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    values["files"] = digests
    path.write_text(json.dumps({**values, "sha256": digest(values)}))


@pytest.mark.parametrize("kind", ["strewn", "named"])
def test_nothing_that_came_with_a_run_is_executed(kind, trained, tmp_path):
    benign, hostile, work = (tmp_path / name for name in ("benign", "hostile", "work"))
    for path in (benign, hostile):
        shutil.copytree(trained, path)
    shutil.copy(trained.parent / "fox.txt", tmp_path)
    work.mkdir()
    plant(hostile)
    for step in hostile.glob("[0-9]*"):
        if kind == "named":
            name_foreign_types(step)
        seal(step)
    process = subprocess.run(
        [sys.executable, "-c", AUDITED, tmp_path, benign, hostile],
        cwd=work,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    answers, unchanged, betrayed, heard, would_hear = ast.literal_eval(process.stdout)
    assert heard == []
    assert unchanged
    assert betrayed == []
    assert would_hear >= {"pickle.find_class", "subprocess.Popen", "open", "import", "exec"}
    assert {path.name for path in tmp_path.iterdir()} == {"benign", "cache", "fox.txt", "hostile", "work", "written"}
    if kind == "strewn":
        assert [(status, err.count("\n")) for status, _, err in answers] == [(0, 1), (0, 0), (0, 0)], answers
        assert answers[0][1] == jaxlm.load(trained).generate(length=40, seed=1) + "\n"
    else:
        assert [(status in (1, 2), out, err.count("\n")) for status, out, err in answers] == [(True, "", 1)] * 3, (
            answers
        )
