"""The cache of compiled programs: where it is, who may write to it, and that the next process finds them."""

import os
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


@pytest.mark.parametrize("left", ["nothing", "an empty file"])
def test_what_a_kill_left_half_written_is_compiled_anew(left):
    folder = Path(compiled()[0])
    programs = {path: path.read_bytes() for path in folder.glob("*-cache")}
    for path in programs:
        path.write_bytes(programs[path][:50])
        used = path.with_name(path.name.removesuffix("-cache") + "-atime")
        used.unlink() if left == "nothing" else used.write_bytes(b"")
    assert compiled()[1] == 0
    assert {path.name for path in folder.glob("*-cache")} == {path.name for path in programs}
    assert compiled()[1] > 0


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
