"""Trees of arrays on disk, by Orbax.

Shapes and types are compared with the expected ones before any array is read.
"""

import contextlib
import errno
import functools
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore

from jaxlm.errors import first_line
from jaxlm.nn.ambient import KEY_KINDS
from jaxlm.runs.files import Damaged, is_there

Items = dict[str, Any]
"""The pytrees of a checkpoint by name: `params` and `training`."""


_KEYS = [((width,), np.dtype(np.uint32)) for width in KEY_KINDS]
"""The shape and type of a random key, for each of JAX's generators."""


class Unreadable(Exception):
    """A checkpoint could not be read; its files may be good."""


def save(path: Path, items: Items) -> None:
    """Saves trees of NumPy arrays with Orbax, in the new directory `path`.

    Raises:
      OSError: the disk refused it.
    """
    arguments = {name: ocp.args.PyTreeSave(item) for name, item in items.items()}
    # Weights hardly compress: they take a tenth less space then, and a third more time.
    handler = functools.partial(ocp.PyTreeCheckpointHandler, use_compression=False)
    try:
        with _plain(path) as plain, _checkpointer(handler) as checkpointer:
            checkpointer.save(plain, args=ocp.args.Composite(**arguments))
    except ValueError as error:  # As TensorStore reports what the disk refused.
        is_full = re.search("RESOURCE_EXHAUSTED|OUT_OF_RANGE", str(error))
        raise OSError(errno.ENOSPC if is_full else errno.EIO, first_line(error)[:200]) from error
    for file in path.rglob("commit_success.txt"):
        file.unlink()  # It contains nothing but the checkpoint's path on this machine.


def restore(path: Path, like: Items) -> Items:
    """The trees that Orbax saved in `path`, as NumPy arrays.

    Raises:
      Damaged: its trees or shapes differ from those of `like`.
      Unreadable: Orbax failed.
      OSError: the directory cannot be read.
    """
    with (
        _merged(path, like) as merged,
        _plain(merged) as plain,
        _checkpointer(ocp.StandardCheckpointHandler) as checkpointer,
    ):
        for name, target in like.items():
            with _orbax_may_fail():
                stored = {
                    array: (one["shape"], np.dtype(one["dtype"]), one["chunks"]) for array, one in _stored(plain / name)
                }
            shapes, wanted = (
                {array: (tuple(shape), dtype) for array, (shape, dtype, _) in stored.items()},
                _shapes(target),
            )
            if shapes.get("key") in _KEYS:
                wanted["key"] = shapes["key"]  # As wide as that of the generator the run began with.
            # Orbax silently restores shapes that differ from a NumPy target's.
            if shapes != wanted:
                raise Damaged(f"its {name} do not match the model in config.json")
            # TensorStore reads an array by chunks, and allocates whole ones.
            if any(tuple(chunks) != tuple(max(size, 1) for size in shape) for shape, _, chunks in stored.values()):
                raise Damaged(f"its {name} are not stored in one piece each")
        # NumPy targets: with others, Orbax needs the devices that the checkpoint was saved from.
        arguments = {
            name: ocp.args.StandardRestore(jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), target))
            for name, target in like.items()
        }
        with _orbax_may_fail():
            restored = checkpointer.restore(plain, args=ocp.args.Composite(**arguments))
        return {name: restored[name] for name in like}


def weights_digest(params: Any) -> str:
    """The SHA-256 of a tree of arrays: of their names, shapes and values as float32, whatever file holds them."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(f"{jax.tree_util.keystr(path, simple=True, separator='.')} {leaf.shape}\n".encode())
        digest.update(np.ascontiguousarray(leaf, "<f4").tobytes())
    return digest.hexdigest()


def nbytes(items: Items) -> int:
    """The size of some trees' arrays in memory, in bytes."""
    return sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(items))


def are_same(saved: Any, read: Any) -> bool:
    """Whether two trees of arrays have the same structure, types and values."""
    same: bool = jax.tree.structure(saved) == jax.tree.structure(read)  # type: ignore[operator]
    return same and all(
        one.dtype == other.dtype and np.array_equal(one, other)
        for one, other in zip(jax.tree.leaves(saved), jax.tree.leaves(read), strict=True)
    )


def _checkpointer(handler: Callable[[], Any]) -> ocp.Checkpointer:
    handlers = {"params": handler(), "training": handler()}
    # Asynchronously, a directory that cannot be created leaves threads that wait for it, for minutes, at exit.
    at_once = ocp.CompositeOptions(async_options=ocp.AsyncOptions(create_directories_asynchronously=False))
    return ocp.Checkpointer(ocp.CompositeCheckpointHandler(composite_options=at_once, **handlers))


@contextlib.contextmanager
def _plain(path: Path) -> Iterator[Path]:
    """A path to the same place that Orbax and TensorStore can handle.

    Orbax uses the path in a glob pattern, where `[v1]` means one letter; TensorStore accepts only UTF-8. Other paths
    are reached through a link.
    """
    path = path.resolve()
    try:
        plain = os.fsencode(path).decode("utf-8") == str(path)
    except UnicodeDecodeError:
        plain = False
    if plain and not re.search(r"[*?\[\]]" if os.sep == "\\" else r"[*?\[\]\\]", str(path)):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="jaxlm-") as folder:
        (Path(folder) / "run").symlink_to(path.parent, target_is_directory=True)
        yield Path(folder) / "run" / path.name


@contextlib.contextmanager
def _merged(path: Path, names: Iterable[str]) -> Iterator[Path]:
    """A checkpoint whose items of these names Orbax can read: usually the one at `path` itself.

    If the path looked like a glob pattern, jaxlm before 0.1.0 left the data in `ocdbt.process_0`, complete but not
    where Orbax looks. Such a checkpoint is read from a corrected copy.
    """
    unmerged = [path / name / "ocdbt.process_0" for name in names if not is_there(path / name / "manifest.ocdbt")]
    if not unmerged:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="jaxlm-") as folder:
        copy = Path(folder) / path.name
        for name in names:
            shutil.copytree(path / name, copy / name, symlinks=True)
        for data in unmerged:
            for part in (copy / data.relative_to(path)).iterdir():
                part.rename(copy / data.parent.name / part.name)
        yield copy


@contextlib.contextmanager
def _orbax_may_fail() -> Iterator[None]:
    """Turns any exception of an Orbax call, even a bare Exception, into Unreadable; not for our own code."""
    try:
        yield
    except Exception as error:
        lines = str(error).splitlines()
        raise Unreadable(f"{type(error).__name__}{': ' + lines[0][:160] if lines else ''}") from error


def _shapes(tree: Any) -> dict[str, Any]:
    """The shape and type of each array, by the name that Orbax gives it."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): (tuple(leaf.shape), np.dtype(leaf.dtype))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _stored(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The name of each array of an item, and what its Zarr file says of it.

    Orbax would say the same, but of each array that it is asked about, TensorStore keeps 3 kB for ever.
    """
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": {"driver": "file", "path": f"{path}/"}}).result()
    for key in store.list().result():
        if key.endswith(b"/.zarray"):
            yield key.decode().removesuffix("/.zarray"), json.loads(store.read(key).result().value)
