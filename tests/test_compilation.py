"""The cache of compiled programs: where it is, who may write to it, and that the next process finds them."""

import concurrent.futures
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import jax
from jaxlm.nn.compilation import keep_compiled

found = []
jax.monitoring.register_event_listener(lambda event, **_: found.append(event.endswith("/cache_hits")))
keep_compiled()
jax.jit(jax.numpy.linalg.qr)(jax.numpy.eye(5))
print(jax.config.jax_compilation_cache_dir, sum(found))
"""


def compiled(code=CODE, errors="", **variables):
    """Where a new process caches compiled programs, and how many were there."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment |= {"TF_CPP_MIN_LOG_LEVEL": "3", **variables}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == errors
    path, hits = done.stdout.split()
    return path, int(hits)


def test_the_next_process_finds_what_was_compiled():
    path, hits = compiled()
    assert hits == 0
    folder = Path(path)
    assert folder.is_relative_to(Path(os.environ["XDG_CACHE_HOME"]) / "jaxlm" / "compiled")
    assert folder.stat().st_mode & 0o777 == 0o700
    before = {file.name: file.read_bytes() for file in folder.glob("*-cache")}
    assert before
    assert compiled()[1] > 0
    assert {file.name: file.read_bytes() for file in folder.glob("*-cache")} == before


def test_a_folder_that_others_can_write_to_is_left_alone():
    path = Path(compiled()[0])
    path.chmod(0o770)
    assert compiled() == ("None", 0)


def chosen(cache):
    """Where a new process would cache compiled programs, with this as the user's cache directory."""
    return compiled(CODE.replace("jax.jit", "# jax.jit"), XDG_CACHE_HOME=str(cache))[0]


@pytest.fixture
def cache(tmp_path):
    """A cache directory in a home in a folder for all."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    for place in ("home", "home/cache", "home/cache/jaxlm", "home/cache/jaxlm/compiled"):
        (tmp_path / "tmp" / place).mkdir(mode=0o755)
    return tmp_path / "tmp" / "home" / "cache"


@pytest.mark.parametrize("mode", [0o770, 0o707], ids=["the group", "all"])
@pytest.mark.parametrize("place", ["jaxlm/compiled", "jaxlm", ".", ".."])
def test_a_folder_below_one_that_others_can_write_to_is_left_alone(cache, place, mode):
    (cache / place).chmod(mode)
    assert chosen(cache) == "None"


def test_a_link_to_a_folder_below_one_that_others_can_write_to_is_left_alone(cache, tmp_path):
    cache.parent.chmod(0o777)
    (tmp_path / "link").symlink_to(cache)
    assert chosen(tmp_path / "link") == "None"


def test_a_link_is_resolved_once_and_for_all(cache, tmp_path):
    (tmp_path / "link").symlink_to(cache)
    assert Path(chosen(tmp_path / "link")).is_relative_to(cache.resolve())


def test_a_sticky_folder_itself_is_left_alone(cache):
    folder = Path(chosen(cache))
    folder.chmod(0o1777)
    assert chosen(cache) == "None"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give folders away")
@pytest.mark.parametrize("place", ["jaxlm/compiled", ".", ".."])
def test_a_folder_below_one_of_another_user_is_left_alone(cache, place):
    os.chown(cache / place, 12345, -1)
    assert chosen(cache) == "None"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give folders away")
def test_a_folder_of_another_user_is_left_alone(cache):
    os.chown(chosen(cache), 12345, -1)
    assert chosen(cache) == "None"


def test_folders_are_made_private_whatever_the_umask(tmp_path):
    before = os.umask(0o002)
    try:
        folder = Path(chosen(tmp_path / "home" / "cache"))
    finally:
        os.umask(before)
    made = (folder, *folder.parents[:4])
    assert [path.name for path in made[1:]] == ["compiled", "jaxlm", "cache", "home"]
    assert {path.stat().st_mode & 0o777 for path in made} == {0o700}


def test_a_folder_that_cannot_be_made_is_done_without(tmp_path):
    (tmp_path / "jaxlm").write_text("a file")
    assert compiled(XDG_CACHE_HOME=str(tmp_path)) == ("None", 0)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to_is_left_alone():
    path = Path(compiled()[0])
    path.chmod(0o500)
    assert compiled() == ("None", 0)


def test_a_user_without_a_home_does_without():
    code = CODE.replace(
        "\nfound",
        "\nimport platformdirs\n\n\ndef fail(*_, **__):\n    raise RuntimeError\n\n\n"
        "platformdirs.user_cache_path = fail\nfound",
        1,
    )
    assert compiled(code) == ("None", 0)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A cache directory with the programs of CODE; not to be changed."""
    cache = tmp_path_factory.mktemp("kept")
    compiled(XDG_CACHE_HOME=str(cache))
    return cache


@pytest.fixture
def entries(kept, tmp_path, monkeypatch):
    """The programs in a copy of it, which is the user's cache directory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(shutil.copytree(kept, tmp_path / "copy", symlinks=True)))
    return sorted((tmp_path / "copy").glob("jaxlm/compiled/*/*-cache"))


def beside(program, kind):
    return program.with_name(f"{program.name.removesuffix('-cache')}-{kind}")


def flip(path, place=-20):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def replace(path, make, *arguments):
    path.unlink()
    make(path, *arguments)


def fill(path):
    path.mkdir()
    (path / "file").touch()


DAMAGE = {
    "a bit of the program": flip,
    "a bit of the digest": lambda program: flip(beside(program, "sha256")),
    "half of the program": lambda program: program.write_bytes(program.read_bytes()[: program.stat().st_size // 2]),
    "an empty program": lambda program: program.write_bytes(b""),
    "an empty digest": lambda program: beside(program, "sha256").write_bytes(b""),
    "an empty time of use": lambda program: beside(program, "atime").write_bytes(b""),
    "no digest": lambda program: beside(program, "sha256").unlink(),
    "no time of use": lambda program: beside(program, "atime").unlink(),
    "no program": lambda program: program.unlink(),
    "only a digest": lambda program: (program.unlink(), beside(program, "atime").unlink()),
    "a link to the program": lambda program: program.symlink_to(program.rename(program.with_name("moved"))),
    "a link to nothing": lambda program: replace(program, Path.symlink_to, "nothing"),
    "a directory for the program": lambda program: replace(program, fill),
    "a directory for the digest": lambda program: replace(beside(program, "sha256"), fill),
    "a pipe for the program": lambda program: replace(program, os.mkfifo),
    "a pipe for the time of use": lambda program: replace(beside(program, "atime"), os.mkfifo),
    "a pipe for the digest": lambda program: replace(beside(program, "sha256"), os.mkfifo),
    "a digest of nearly 64 GB": lambda program: os.truncate(beside(program, "sha256"), 2**36),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_program_is_compiled_anew_and_replaced(entries, damage):
    before = [program.read_bytes() for program in entries]
    damage(entries[0])
    assert compiled()[1] == len(entries) - 1
    for program, content in zip(entries, before, strict=True):
        assert program.is_file()
        assert not program.is_symlink()
        assert program == entries[0] or program.read_bytes() == content
    assert compiled()[1] == len(entries)


def test_no_program_passes_for_another_not_even_with_its_digest(entries):
    for kind in ("cache", "atime", "sha256"):
        shutil.copy(beside(entries[0], kind), beside(entries[1], kind))
    assert compiled()[1] == len(entries) - 1


def test_what_a_killed_process_compiled_is_kept(tmp_path):
    code = CODE + "sys.stdout.flush()\nimport os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    killed = subprocess.run([sys.executable, "-c", "import sys\n" + code], env=environment, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert compiled()[1] == compiled()[1] > 0


def test_processes_that_start_while_another_compiles_take_nothing_from_it():
    code = CODE + "import time\ntime.sleep(1)\n"
    with concurrent.futures.ThreadPoolExecutor() as threads:
        found = list(threads.map(lambda _: compiled(code), range(3)))
    assert len({path for path, _ in found}) == 1
    programs = list(Path(found[0][0]).glob("*-cache"))
    assert compiled()[1] == len(programs) > 0


def test_where_the_event_is_called_something_else_digests_are_written_at_exit():
    compiled(
        CODE.replace(
            "keep_compiled()", "import jaxlm.nn.compilation as room\nroom._COMPILED = 'x'\nroom.keep_compiled()"
        )
    )
    assert compiled()[1] > 0


def test_digests_that_cannot_be_written_cost_only_time(entries):
    """As on a full disk."""
    for program in entries:
        beside(program, "sha256").unlink()
    code = CODE.replace(
        "keep_compiled()",
        "keep_compiled()\nimport resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))",
    )
    assert compiled(code)[1] == 0
    assert compiled()[1] == 0
    assert compiled()[1] == len(entries)


LOCKED = """
import filelock, jaxlm.nn.compilation as room

def lock(folder):
    raise filelock.Timeout(str(folder))

room._lock = lock
"""


def test_a_cache_that_stays_locked_costs_only_time():
    assert compiled(CODE.replace("keep_compiled()", f"{LOCKED}keep_compiled()")) == ("None", 0)
    assert compiled(CODE.replace("keep_compiled()", f"keep_compiled(){LOCKED}"))[1] == 0
    assert compiled()[1] == 0  # What another process may be writing gets no digest.


def test_another_place_is_kept(tmp_path):
    path, _ = compiled(JAX_COMPILATION_CACHE_DIR=str(tmp_path))
    assert path == str(tmp_path)


def test_another_place_that_cannot_be_written_to_is_one_warning_for_all_programs(tmp_path):
    (tmp_path / "file").touch()
    chosen = str(tmp_path / "file" / "cache")
    warning = f"JAX_COMPILATION_CACHE_DIR={chosen} cannot be written to: compiled programs are not cached\n"
    assert compiled(JAX_COMPILATION_CACHE_DIR=chosen, errors=warning) == (chosen, 0)


def test_without_user_numbers_the_user_s_own_folder_is_private():
    assert compiled("import os\nimport platformdirs\ndel os.getuid" + CODE)[0] != "None"
